//! What can go wrong between the bridge and systemd, split by what the caller can do about it.

/// A call to systemd did not give an answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The bus or systemd does not answer; the bridge reconnects by itself.
    #[error("systemd cannot be reached over D-Bus; try again in a moment")]
    Unreachable(#[source] Option<zbus::Error>),
    /// polkit or the bus policy refused the service user.
    #[error(
        "systemd refused the bridge's user; run `ci-bridge init` again and look at polkit (`journalctl -u polkit`) on the \
         machine"
    )]
    NotAuthorized(#[source] zbus::Error),
    /// There is no such unit.
    #[error("no such unit")]
    NoSuchUnit,
    /// The unit is masked.
    #[error("the unit is masked; `systemctl unmask` it on the machine")]
    Masked,
    /// The unit may not be started or stopped by hand.
    #[error("systemd does not start this unit by hand: {0}")]
    NotByHand(String),
    /// The unit file has an error.
    #[error("the unit cannot be loaded: {0}")]
    Broken(String),
    /// Another job of systemd is in the way.
    #[error("another systemd job is in the way; try again in a moment")]
    Conflict(#[source] zbus::Error),
    /// systemd is going down.
    #[error("the machine is shutting down")]
    ShuttingDown,
    /// systemd gave an answer nobody expects.
    #[error("systemd gave an unexpected answer")]
    Protocol(#[source] zbus::Error),
}

impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Self {
        use zbus::fdo;
        match &error {
            zbus::Error::MethodError(name, message, _) => {
                Self::from_name(name.as_str(), message.clone().unwrap_or_default(), error.clone())
            }
            zbus::Error::FDO(fdo) => match fdo.as_ref() {
                fdo::Error::AccessDenied(_)
                | fdo::Error::AuthFailed(_)
                | fdo::Error::InteractiveAuthorizationRequired(_) => Self::NotAuthorized(error),
                fdo::Error::ServiceUnknown(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::NoReply(_)
                | fdo::Error::NoServer(_)
                | fdo::Error::Timeout(_)
                | fdo::Error::TimedOut(_)
                | fdo::Error::Disconnected(_)
                | fdo::Error::LimitsExceeded(_)
                // While systemd is away the bus tries to start it, and there is nothing to start.
                | fdo::Error::SpawnChildExited(_)
                | fdo::Error::IOError(_)
                | fdo::Error::ZBus(_) => Self::Unreachable(Some(error)),
                _ => Self::Protocol(error),
            },
            zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => {
                Self::Unreachable(Some(error))
            }
            _ => Self::Protocol(error),
        }
    }
}

impl Error {
    /// Sorts systemd's own error names.
    ///
    /// Source: `src/libsystemd/sd-bus/bus-common-errors.h` of systemd.
    fn from_name(name: &str, message: String, error: zbus::Error) -> Self {
        match name.strip_prefix("org.freedesktop.systemd1.") {
            Some("NoSuchUnit") => Self::NoSuchUnit,
            // systemd hands on why polkit could not be started. No unit of a job has a name that begins so.
            Some("UnitMasked") if message.starts_with("Unit polkit") => Self::NotAuthorized(error),
            Some("UnitMasked") => Self::Masked,
            Some("OnlyByDependency" | "NoIsolation" | "JobTypeNotApplicable") => Self::NotByHand(message),
            Some("BadUnitSetting" | "LoadFailed" | "TransactionOrderIsCyclic") => Self::Broken(message),
            Some("TransactionIsDestructive" | "TransactionJobsConflicting") => Self::Conflict(error),
            Some("ShuttingDown") => Self::ShuttingDown,
            _ => Self::Protocol(error),
        }
    }
}

/// Whether systemd may have done what it was asked with a call that ended so.
pub(super) fn may_be_done(error: &zbus::Error) -> bool {
    use zbus::fdo;
    match error {
        zbus::Error::FDO(fdo) => !matches!(
            fdo.as_ref(),
            fdo::Error::ServiceUnknown(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::NoServer(_)
                | fdo::Error::LimitsExceeded(_)
        ),
        _ => true,
    }
}
