//! What this user may do to systemd and with the journal, found out by trying.
//!
//! polkit decides before systemd looks whether the unit exists. So a start of a unit that does not exist tells which of
//! the two refused, and starts nothing. A transient unit would run if it were allowed; this one runs `true`.

use std::io;
use std::path::Path;
use std::time::Duration;

use zbus::{Connection, Variant};

use super::finding::Finding;
use super::journald::persistent;
use crate::journal::{Damage, Error, Journal, Problem};
use crate::policy::Policy;
use crate::setup::SERVICE_USER;
use crate::telemetry::Chain;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const REFUSED: &str = "look at the polkit rule and at `journalctl -u polkit`; `ci-bridge init` writes the rule anew";

/// Tries everything once.
pub(super) fn run(policy: &Policy) -> Vec<Finding> {
    let mut findings = vec![journal()];
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => findings.extend(runtime.block_on(systemd(policy))),
        Err(error) => findings.push(Finding::failure("D-Bus", error.to_string(), "try again")),
    }
    findings
}

fn journal() -> Finding {
    let journal = Journal::of_host();
    match journal.and_then(|journal| journal.readable().map(|()| journal.problems())) {
        Ok(problems) => {
            let closed = problems.iter().filter(|problem| is_refused(problem.damage())).map(Problem::path);
            match closed.clone().next() {
                None => Finding::ok("journal", "can be read".to_owned()),
                Some(file) => {
                    let what = format!("{} of its files can't be read, such as {}", closed.count(), file.display());
                    Finding::warning("journal", what, &opened(directory(file)))
                }
            }
        }
        Err(error) => {
            let remedy = match &error {
                Error::MachineId(_) => "systemd-machine-id-setup && systemctl restart systemd-journald".to_owned(),
                Error::NoJournal { .. } => persistent(),
                Error::Directory { path, .. } => opened(path),
                Error::Unreadable(problem) if is_refused(problem.damage()) => opened(directory(problem.path())),
                // journald begins a new file.
                Error::Unreadable(_) | Error::Damaged(_) | Error::Send { .. } => "journalctl --rotate".to_owned(),
            };
            Finding::failure("journal", Chain(&error).to_string(), &remedy)
        }
    }
}

/// Whether a file is sound but closed to this user.
fn is_refused(damage: &Damage) -> bool {
    matches!(damage, Damage::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

/// The directory that a file of the journal is in.
fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

/// A command that opens a directory of the journal, and what is in it, to the service.
///
/// It does whether the group, the membership of the user or the permissions were lost. The service takes a new group
/// only when it is started.
fn opened(directory: &Path) -> String {
    let all = directory.parent().unwrap_or(directory).display();
    let directory = directory.display();
    format!(
        "systemd-sysusers; systemd-tmpfiles --create --prefix {all}; chgrp -R systemd-journal {directory} && \
         chmod -R g+rX {directory} && systemctl restart {SERVICE_USER}"
    )
}

/// Who decided on a call.
enum Decision {
    /// polkit or the bus: the call is not allowed.
    Refused,
    /// systemd itself: the call is allowed.
    Allowed,
    /// Neither answered.
    Unknown(zbus::Error),
}

async fn systemd(policy: &Policy) -> Vec<Finding> {
    let builder = zbus::connection::Builder::system().method_timeout(CALL_TIMEOUT);
    let connection = match builder.build().await {
        Ok(connection) => connection,
        Err(error) => {
            return vec![Finding::failure("D-Bus", Chain(&error).to_string(), "systemctl status dbus.socket")];
        }
    };
    let mut findings = vec![Finding::ok("D-Bus", "can be reached".to_owned())];
    let mark = std::process::id();
    let stranger = format!("stranger-to-the-bridge-{mark}.service");
    findings.push(denied("another unit", start(&connection, &stranger).await));
    for prefix in policy.prefixes() {
        let prefix = prefix.as_str();
        let unit = format!("{prefix}probe{mark}.service");
        findings.push(permitted(prefix, start(&connection, &unit).await));
        findings.push(denied("a transient unit", start_transient(&connection, &unit).await));
    }
    findings
}

fn permitted(prefix: &str, decision: Decision) -> Finding {
    let subject = "start of an allowed unit";
    match decision {
        Decision::Allowed => Finding::ok(subject, format!("{prefix}* is permitted")),
        Decision::Refused => Finding::failure(subject, format!("{prefix}* is refused"), REFUSED),
        Decision::Unknown(error) => Finding::failure(subject, Chain(&error).to_string(), REFUSED),
    }
}

fn denied(what: &str, decision: Decision) -> Finding {
    let subject = format!("start of {what}");
    match decision {
        Decision::Refused => Finding::ok(&subject, "is refused".to_owned()),
        Decision::Allowed => {
            let remedy = "stop the service at once and find the polkit rule that allows it: \
                          grep -rl manage-units /etc/polkit-1 /usr/share/polkit-1";
            Finding::failure(&subject, format!("is permitted to the user {SERVICE_USER}"), remedy)
        }
        Decision::Unknown(error) => Finding::failure(&subject, Chain(&error).to_string(), REFUSED),
    }
}

async fn start(connection: &Connection, unit: &str) -> Decision {
    decision(connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), "StartUnit", &(unit, "fail")).await)
}

async fn start_transient(connection: &Connection, unit: &str) -> Decision {
    let command = vec![("/bin/true", vec!["/bin/true"], false)];
    let properties = vec![("ExecStart", Variant::from(command))];
    let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
    let body = (unit, "fail", properties, auxiliary);
    decision(connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), "StartTransientUnit", &body).await)
}

fn decision(answer: zbus::Result<zbus::Message>) -> Decision {
    use zbus::fdo;
    match answer {
        Ok(_) => Decision::Allowed,
        Err(zbus::Error::MethodError(name, ..)) if name.as_str().starts_with(SYSTEMD) => Decision::Allowed,
        Err(zbus::Error::FDO(error)) => match *error {
            fdo::Error::AccessDenied(_)
            | fdo::Error::AuthFailed(_)
            | fdo::Error::InteractiveAuthorizationRequired(_) => Decision::Refused,
            error => Decision::Unknown(error.into()),
        },
        Err(error) => Decision::Unknown(error),
    }
}
