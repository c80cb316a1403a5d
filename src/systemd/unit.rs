//! The state of a unit, as systemd's properties tell it.

use std::collections::HashMap;

use jiff::Timestamp;
use zbus::Variant;

use crate::invocation::{InvocationId, MainExit};

/// Defines an enum whose values are systemd's own words, and what to do with a word that it does not know.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? } else $other:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Reads systemd's word.
            #[must_use]
            pub fn from_word(word: &str) -> Self {
                match word { $($word => Self::$variant,)+ _ => Self::$other }
            }

            /// systemd's word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// `ActiveState` of `org.freedesktop.systemd1(5)`.
    ActiveState {
        /// Running, or done and kept by `RemainAfterExit=`.
        Active = "active",
        /// Running and reloading its configuration.
        Reloading = "reloading",
        /// Not running; the last run, if any, succeeded.
        Inactive = "inactive",
        /// Not running; the last run failed.
        Failed = "failed",
        /// Starting; a `Type=oneshot` job is here while it runs.
        Activating = "activating",
        /// Stopping.
        Deactivating = "deactivating",
        /// In maintenance: no run is under way.
        Maintenance = "maintenance",
        /// Running and refreshing its mounts (systemd 257 and newer).
        Refreshing = "refreshing",
    } else Inactive
}

words! {
    /// `LoadState` of `org.freedesktop.systemd1(5)`.
    LoadState {
        /// The configuration is loaded.
        Loaded = "loaded",
        /// There is no unit file.
        NotFound = "not-found",
        /// The unit file has a setting that systemd refuses.
        BadSetting = "bad-setting",
        /// The unit file could not be read.
        Error = "error",
        /// The unit is masked.
        Masked = "masked",
        /// Merged into another unit, of which it is an alias.
        Merged = "merged",
        /// Known by name only.
        Stub = "stub",
    } else Error
}

impl ActiveState {
    /// Whether a run is under way.
    #[must_use]
    pub fn is_running(self) -> bool {
        !matches!(self, Self::Inactive | Self::Failed | Self::Maintenance)
    }
}

/// What systemd says of one unit; a value of its own, not a view.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own in systemd's interface")]
pub struct UnitState {
    /// Whether systemd has the unit in memory.
    pub in_memory: bool,
    /// The canonical name; differs from the name asked for if that is an alias.
    pub id: String,
    /// `Description=`.
    pub description: String,
    /// Whether the configuration could be loaded.
    pub load: LoadState,
    /// systemd's message about a configuration that it could not load.
    pub load_error: String,
    /// The high-level state.
    pub active: ActiveState,
    /// The state in the words of the unit's type, such as `start`, `running`, `dead`.
    pub sub: String,
    /// The id of the newest run that systemd remembers.
    pub invocation: Option<InvocationId>,
    /// `Result` of a service: `success`, `exit-code`, `signal`, `timeout`, …
    pub result: String,
    /// How the main process of the newest run ended: `ExecMainCode` and `ExecMainStatus`.
    pub main_exit: Option<MainExit>,
    /// When the newest run left `inactive`.
    pub started: Option<Timestamp>,
    /// When the unit last became `inactive` or `failed`.
    pub ended: Option<Timestamp>,
    /// Path of the unit file.
    pub fragment: String,
    /// Whether the unit was made at run time, without a unit file.
    pub transient: bool,
    /// Whether it may be started by hand: false with `RefuseManualStart=yes`.
    pub can_start: bool,
    /// The outcome of `Condition…=` at the last start.
    pub condition: bool,
    /// The outcome of `Assert…=` at the last start.
    pub assertion: bool,
    /// Whether a job of systemd waits or works on the unit.
    pub has_job: bool,
}

impl UnitState {
    /// The state of a unit of which nothing is known yet.
    #[must_use]
    pub fn unknown(unit: &str) -> Self {
        Self {
            in_memory: false,
            id: unit.to_owned(),
            description: String::new(),
            load: LoadState::Stub,
            load_error: String::new(),
            active: ActiveState::Inactive,
            sub: "dead".to_owned(),
            invocation: None,
            result: "success".to_owned(),
            main_exit: None,
            started: None,
            ended: None,
            fragment: String::new(),
            transient: false,
            can_start: true,
            condition: true,
            assertion: true,
            has_job: false,
        }
    }

    /// Takes over the properties of a `GetAll` reply or a `PropertiesChanged` signal; those that are not there stay.
    ///
    /// Source: `org.freedesktop.systemd1(5)`, interfaces `Unit` and `Service`.
    pub(super) fn apply(&mut self, properties: &HashMap<&str, Variant<'_>>) {
        for (name, value) in properties {
            match (*name, value) {
                ("Id", Variant::Str(text)) => self.id = text.to_string(),
                ("Description", Variant::Str(text)) => self.description = text.to_string(),
                ("LoadState", Variant::Str(text)) => self.load = LoadState::from_word(text),
                ("LoadError", Variant::Structure(error)) => {
                    self.load_error = match error.fields() {
                        [_, Variant::Str(message)] => message.to_string(),
                        _ => String::new(),
                    };
                }
                ("ActiveState", Variant::Str(text)) => self.active = ActiveState::from_word(text),
                ("SubState", Variant::Str(text)) => self.sub = text.to_string(),
                ("Result", Variant::Str(text)) => self.result = text.to_string(),
                ("FragmentPath", Variant::Str(text)) => self.fragment = text.to_string(),
                ("InvocationID", Variant::Array(array)) => {
                    let bytes: Vec<u8> = array.inner().iter().filter_map(byte).collect();
                    self.invocation = InvocationId::from_bytes(&bytes);
                }
                ("InactiveExitTimestamp", Variant::U64(usec)) => self.started = timestamp(*usec),
                ("InactiveEnterTimestamp", Variant::U64(usec)) => self.ended = timestamp(*usec),
                ("Transient", Variant::Bool(flag)) => self.transient = *flag,
                ("CanStart", Variant::Bool(flag)) => self.can_start = *flag,
                ("ConditionResult", Variant::Bool(flag)) => self.condition = *flag,
                ("AssertResult", Variant::Bool(flag)) => self.assertion = *flag,
                ("Job", Variant::Structure(job)) => {
                    self.has_job = !matches!(job.fields(), [Variant::U32(0), _]);
                }
                _ => {}
            }
        }
        // The two always come together: systemd tells all properties of an interface that can change.
        if let (Some(Variant::I32(code)), Some(Variant::I32(status))) =
            (properties.get("ExecMainCode"), properties.get("ExecMainStatus"))
        {
            self.main_exit = main_exit(*code, *status);
        }
    }
}

fn byte(value: &Variant<'_>) -> Option<u8> {
    match value {
        Variant::U8(byte) => Some(*byte),
        _ => None,
    }
}

/// A time in microseconds since 1970; systemd's zero means never.
fn timestamp(usec: u64) -> Option<Timestamp> {
    let usec = i64::try_from(usec).ok().filter(|usec| *usec > 0)?;
    Timestamp::from_microsecond(usec).ok()
}

/// Reads `si_code` and `si_status` of `sigaction(2)`: `CLD_EXITED` is 1, `CLD_KILLED` 2, `CLD_DUMPED` 3.
fn main_exit(code: i32, status: i32) -> Option<MainExit> {
    match code {
        1 => u8::try_from(status).ok().map(MainExit::Code),
        2 | 3 => Some(MainExit::Signal(status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_systemd_is_read_and_written_alike() {
        for word in ["active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance"] {
            assert_eq!(ActiveState::from_word(word).as_str(), word);
        }
        for word in ["loaded", "not-found", "bad-setting", "error", "masked", "merged", "stub"] {
            assert_eq!(LoadState::from_word(word).as_str(), word);
        }
        assert_eq!(ActiveState::from_word("dreaming"), ActiveState::Inactive);
    }

    #[test]
    fn a_change_leaves_the_other_properties_alone() {
        let mut state = UnitState::unknown("ci-test-a.service");
        state.apply(&HashMap::from([("ActiveState", Variant::from("failed")), ("Result", Variant::from("exit-code"))]));
        state.apply(&HashMap::from([("ExecMainCode", Variant::from(1)), ("ExecMainStatus", Variant::from(3))]));
        assert_eq!(state.active, ActiveState::Failed);
        assert_eq!(state.result, "exit-code");
        assert_eq!(state.main_exit, Some(MainExit::Code(3)));
        assert_eq!(state.sub, "dead");
    }

    #[test]
    fn a_signal_and_an_exit_code_are_told_apart() {
        assert_eq!(main_exit(1, 0), Some(MainExit::Code(0)));
        assert_eq!(main_exit(2, 15), Some(MainExit::Signal(15)));
        assert_eq!(main_exit(3, 6), Some(MainExit::Signal(6)));
        assert_eq!(main_exit(0, 0), None);
    }
}
