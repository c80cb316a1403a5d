//! The life of the daemon: signals, the service manager, and tokens that change while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use std::os::unix::fs::MetadataExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Kind, Note};
use crate::auth::Keyring;
use crate::fleet::Runners;
use crate::telemetry::Chain;

/// How often the tokens file is looked at for a change.
const TOKENS_LOOK: Duration = Duration::from_secs(1);

/// Tells the service manager, if there is one.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told: {error}");
    }
}

/// Returns on SIGTERM or SIGINT; until then reloads the tokens and polls the runners on SIGHUP, and pings the watchdog of
/// the service manager.
///
/// # Errors
/// When the signals cannot be waited for.
pub async fn until_asked_to_stop(tokens: &Tokens, runners: &Runners) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Twice in the time after which systemd would restart the service; a day stands for no watchdog.
    let watchdog = sd_notify::watchdog_enabled().map_or(Duration::from_hours(24), |timeout| timeout / 2);
    let mut ping = tokio::time::interval(watchdog);
    let mut look = tokio::time::interval(TOKENS_LOOK);
    for interval in [&mut ping, &mut look] {
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => {
                tokens.reload();
                runners.poll_now();
            }
            _ = look.tick() => tokens.reload_if_changed(),
            _ = ping.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// Cancels `stop` when dropped, so that no way out leaves a task behind.
pub struct StopOnDrop(pub CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Tells one version of a file from the next.
type Stamp = (u64, u64, SystemTime);

/// The tokens of the bridge: a file, and what was last read of it without a mistake.
pub struct Tokens {
    path: PathBuf,
    keyring: Arc<ArcSwap<Keyring>>,
    seen: std::sync::Mutex<Option<Stamp>>,
    audit: Audit,
}

impl Tokens {
    /// The tokens of the file at `path`, from which `keyring` was read. What changes in it is noted in `audit`.
    #[must_use]
    pub fn new(path: &Path, keyring: Keyring, audit: Audit) -> Self {
        let seen = std::sync::Mutex::new(stamp(path));
        Self { path: path.to_owned(), keyring: Arc::new(ArcSwap::from_pointee(keyring)), seen, audit }
    }

    /// The tokens that count at any moment.
    #[must_use]
    pub fn keyring(&self) -> Arc<ArcSwap<Keyring>> {
        self.keyring.clone()
    }

    fn reload_if_changed(&self) {
        let now = stamp(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen != now {
            *seen = now;
            drop(seen);
            self.reload();
        }
    }

    /// Reads the file anew. A broken file, or one without a token, changes nothing and says so.
    pub fn reload(&self) {
        match Keyring::load(&self.path) {
            Ok(keyring) if keyring.is_empty() => {
                log::error!("{} holds no token any more; the tokens read before stay valid", self.path.display());
            }
            Ok(keyring) => {
                let tokens = keyring.entries().len();
                let before = self.keyring.swap(Arc::new(keyring));
                log::info!("{tokens} tokens were read from {}", self.path.display());
                self.note_changes(&before);
            }
            Err(error) => log::error!("the tokens read before stay valid: {}", Chain(&error)),
        }
    }

    /// Who changed the file nobody knows: it is not done through the bridge.
    fn note_changes(&self, before: &Keyring) {
        for change in before.changes(&self.keyring.load()) {
            let (name, what, rights) = (change.name(), change.what.as_str(), change.rights());
            let note = Note { who: Some(name.clone()), detail: Some(rights.clone()), ..Note::new(Kind::Token, what) };
            self.audit.note(note, format_args!("the token {name} was {what}: {rights}"));
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[[token]]\nname = \"a\"\naccess = \"ro\"\ncreated = 2026-01-01T00:00:00Z\nsha256 = \
                       \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\n";

    #[test]
    fn a_broken_file_keeps_the_tokens_read_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        std::fs::write(&path, ONE).unwrap();
        let tokens = Tokens::new(&path, Keyring::load(&path).unwrap(), Audit::new().0);
        for broken in ["[[token", "", "[[tokens]]\n"] {
            std::fs::write(&path, broken).unwrap();
            tokens.reload();
            assert_eq!(tokens.keyring().load().entries().len(), 1, "{broken:?}");
        }
    }

    #[test]
    fn a_changed_file_is_read_without_a_signal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        std::fs::write(&path, ONE).unwrap();
        let tokens = Tokens::new(&path, Keyring::load(&path).unwrap(), Audit::new().0);
        let two = format!("{ONE}{}", ONE.replace("\"a\"", "\"b\"").replace("9f86", "0f86"));
        std::fs::write(&path, two).unwrap();
        tokens.reload_if_changed();
        assert_eq!(tokens.keyring().load().entries().len(), 2);
    }
}
