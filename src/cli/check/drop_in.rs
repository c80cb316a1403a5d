//! The shell command that changes settings of systemd and its programs without touching a file that is there.

/// Where an administrator's drop-ins for units are, each unit's in a directory with its name and `.d`.
///
/// Source: `systemd.unit(5)`.
const UNITS: &str = "/etc/systemd/system";

/// Gives `units` these settings in `[Service]`; systemd knows them when the command ends.
///
/// A unit is the full name of a service or a template, or a prefix that ends in `-`, with `.service`. Drop-ins count in the
/// order of their names, so `name` is to come behind `override.conf`, which `systemctl edit` makes.
pub(super) fn of_units(units: &[String], name: &str, settings: &[String]) -> String {
    let directories: Vec<_> = units.iter().map(|unit| format!("{UNITS}/{unit}.d")).collect();
    let written = match directories.as_slice() {
        [directory] => write(directory, name, "Service", settings),
        many => {
            let each = write("$directory", name, "Service", settings);
            format!("for directory in {}; do {each}; done", many.join(" "))
        }
    };
    format!("{written} && systemctl daemon-reload")
}

/// Gives journald these settings; they hold when it is started anew.
///
/// Source: `journald.conf(5)`.
pub(super) fn of_journald(name: &str, settings: &[String]) -> String {
    write("/etc/systemd/journald.conf.d", name, "Journal", settings)
}

fn write(directory: &str, name: &str, section: &str, settings: &[String]) -> String {
    let settings = settings.join("\\n");
    format!("mkdir -p {directory} && printf '[{section}]\\n{settings}\\n' >{directory}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unit_and_several_get_the_same_settings() {
        let command = |units: &[&str]| {
            let units: Vec<_> = units.iter().map(|unit| (*unit).to_owned()).collect();
            of_units(&units, "zz.conf", &["A=1".to_owned(), "B=2".to_owned()])
        };
        assert_eq!(
            command(&["ci-a.service"]),
            r"mkdir -p /etc/systemd/system/ci-a.service.d && printf '[Service]\nA=1\nB=2\n' >/etc/systemd/system/ci-a.service.d/zz.conf && systemctl daemon-reload"
        );
        assert_eq!(
            command(&["ci-a.service", "ci-b@.service"]),
            r"for directory in /etc/systemd/system/ci-a.service.d /etc/systemd/system/ci-b@.service.d; do mkdir -p $directory && printf '[Service]\nA=1\nB=2\n' >$directory/zz.conf; done && systemctl daemon-reload"
        );
    }
}
