//! What a run of a unit has used.

use std::collections::HashMap;
use std::time::Duration;

use zbus::Variant;

/// What a run has used of processors and memory, as far as systemd counts it.
///
/// Source: `systemd.resource-control(5)`, `CPUAccounting=` and `MemoryAccounting=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The time of processors.
    pub cpu: Option<Duration>,
    /// The most memory that it held at once, in bytes (systemd 254 and newer).
    pub memory_peak: Option<u64>,
}

impl Usage {
    /// Reads the properties of a `GetAll` reply.
    ///
    /// Source: `org.freedesktop.systemd1(5)`, interface `Service`; the largest number stands for one that is not known.
    pub(super) fn from_properties(properties: &HashMap<&str, Variant<'_>>) -> Self {
        let number = |name: &str| match properties.get(name) {
            Some(Variant::U64(number)) if *number != u64::MAX => Some(*number),
            _ => None,
        };
        Self { cpu: number("CPUUsageNSec").map(Duration::from_nanos), memory_peak: number("MemoryPeak") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_does_not_count_is_not_known() {
        let properties = |cpu, memory| {
            Usage::from_properties(&HashMap::from([
                ("CPUUsageNSec", Variant::U64(cpu)),
                ("MemoryPeak", Variant::U64(memory)),
            ]))
        };
        assert_eq!(properties(u64::MAX, u64::MAX), Usage::default());
        let usage = properties(1_500_000_000, 4096);
        assert_eq!((usage.cpu, usage.memory_peak), (Some(Duration::from_millis(1500)), Some(4096)));
        assert_eq!(Usage::from_properties(&HashMap::new()), Usage::default());
    }
}
