//! A log that is being written, under a name that nobody reads.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use super::file::LogFile;
use super::{DIRECTORY_MODE, Error, Label, Stored, block, footer, sync_directory};
use crate::journal::{Entry, Losses};

const FILE_MODE: u32 = 0o600;

/// A file that is deleted unless it is kept.
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to tell; what is left is deleted at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A log that is being written, in memory that does not grow with it. Unless it is finished, nothing is left of it.
pub struct Draft {
    temporary: Temporary,
    path: PathBuf,
    label: Label,
    keep_free: u64,
    block: block::Builder,
    footer: footer::Builder,
    entries: u64,
    bytes: u64,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("label", &self.label).field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Draft {
    pub(super) fn create(unfinished: PathBuf, path: PathBuf, label: Label, keep_free: u64) -> Result<Self, Error> {
        let create = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&unfinished)?;
            Ok((file, block::Builder::new()?))
        };
        let (file, block) = create().map_err(|error| Error::io(&unfinished, error))?;
        let temporary = Temporary { path: unfinished, file, kept: false };
        let footer = footer::Builder::new();
        let mut draft = Self { temporary, path, label, keep_free, block, footer, entries: 0, bytes: 0 };
        draft.append(&footer::HEAD)?;
        Ok(draft)
    }

    /// Adds the next entry, in the order in which the journal gives them.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`]; the draft is of no more use then.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        self.block.push(entry);
        if self.block.is_full() { self.end_block() } else { Ok(()) }
    }

    /// Ends the log, of which so much is missing. When this returns, it is on the disk and can be read.
    ///
    /// A log that is there already, and of which not more is missing, stays; then this tells of that one.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`]; nothing is left then.
    pub fn finish(mut self, losses: &Losses) -> Result<Stored, Error> {
        self.end_block()?;
        let footer = self.footer.finish(&self.label, losses);
        let footer = footer.ok_or_else(|| self.refused(ErrorKind::FileTooLarge.into()))?;
        self.append(&footer)?;
        self.temporary.file.sync_all().map_err(|error| self.refused(error))?;
        let is_final = self.label.settled && !losses.may_be_made_good();
        if !is_final && let Ok(Some(there)) = LogFile::open(&self.path, self.label.invocation) {
            return Ok(there.stored());
        }
        self.rename()?;
        let Self { label, entries, bytes, .. } = self;
        Ok(Stored { label, entries, bytes, losses: losses.clone() })
    }

    fn rename(&mut self) -> Result<(), Error> {
        let Some(directory) = self.path.parent() else { return Err(self.refused(ErrorKind::InvalidInput.into())) };
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::io(directory, error)),
            // Who made it may not have come to the next line.
            _ => directory.parent().map_or(Ok(()), sync_directory)?,
        }
        fs::rename(&self.temporary.path, &self.path).map_err(|error| Error::io(&self.path, error))?;
        self.temporary.kept = true;
        sync_directory(directory)
    }

    fn end_block(&mut self) -> Result<(), Error> {
        let taken = self.block.take().and_then(|block| {
            let Some((summary, stored)) = block else { return Ok(()) };
            write(&mut self.temporary.file, stored, self.keep_free)?;
            self.footer.push(&summary);
            self.entries += summary.entries as u64;
            self.bytes += summary.stored;
            Ok(())
        });
        taken.map_err(|error| self.refused(error))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        write(&mut self.temporary.file, bytes, self.keep_free).map_err(|error| self.refused(error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn refused(&self, error: io::Error) -> Error {
        Error::io(&self.temporary.path, error)
    }
}

/// Writes to a file whose file system keeps so many bytes free.
fn write(file: &mut File, bytes: &[u8], keep_free: u64) -> io::Result<()> {
    if keep_free > 0 {
        let system = rustix::fs::fstatvfs(&*file)?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if free.saturating_sub(bytes.len() as u64) < keep_free {
            return Err(io::Error::new(ErrorKind::StorageFull, "what is left is to be kept free"));
        }
    }
    file.write_all(bytes)
}
