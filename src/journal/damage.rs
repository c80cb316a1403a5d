//! What can be wrong with a journal file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a journal file, or a part of it, can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The system refused: most often a missing permission.
    #[error("the system refused to read it; is this user in the group systemd-journal?")]
    Io(#[from] io::Error),
    /// Nothing has been written to it, so nothing is lost with it.
    #[error("it is empty: journald is just making it, or was cut off when it did")]
    Empty,
    /// Something else lies in the journal's directory.
    #[error("it is not a journal file")]
    NotAJournal,
    /// A newer journald wrote it; holds the unknown flags.
    #[error("it uses features that this version does not know (incompatible flags {0:#x}); update ci-bridge")]
    Unsupported(u32),
    /// The content contradicts itself: a crash, a bad disk, or an attack.
    #[error("it is damaged at byte {at}: {what}; `journalctl --verify` tells more")]
    Corrupt {
        /// Offset in the file, in bytes.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// A file that could not be read, or not wholly, or a directory of such files.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot read all of {}", path.display())]
pub struct Problem {
    path: PathBuf,
    #[source]
    damage: Arc<Damage>,
}

impl Problem {
    pub(super) fn new(path: &Path, damage: Damage) -> Self {
        Self { path: path.to_owned(), damage: Arc::new(damage) }
    }

    /// The file or directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    #[must_use]
    pub fn damage(&self) -> &Damage {
        &self.damage
    }
}
