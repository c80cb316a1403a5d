//! A log that is being written, under a name that nobody reads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DIRECTORY_MODE, Error, Label, Stored, block, footer, sync_directory};
use crate::journal::Entry;

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

/// The file of a log up to its footer.
pub(super) struct Unfinished {
    temporary: Temporary,
    block: block::Builder,
    footer: footer::Builder,
    entries: u64,
    bytes: u64,
}

impl Unfinished {
    pub(super) fn create(path: PathBuf) -> Result<Self, Error> {
        let create = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
            Ok((file, block::Builder::new()?))
        };
        let (file, block) = create().map_err(|error| Error::io(&path, error))?;
        let temporary = Temporary { path, file, kept: false };
        let mut unfinished = Self { temporary, block, footer: footer::Builder::new(), entries: 0, bytes: 0 };
        unfinished.append(&footer::HEAD)?;
        Ok(unfinished)
    }

    pub(super) fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        self.block.push(entry);
        if self.block.is_full() { self.end_block() } else { Ok(()) }
    }

    /// Ends the file, and gives it the name by which it is found.
    pub(super) fn finish(mut self, label: &Label, path: &Path) -> Result<Stored, Error> {
        self.end_block()?;
        let footer = self.footer.finish(label).ok_or_else(|| self.refused(ErrorKind::FileTooLarge.into()))?;
        self.append(&footer)?;
        self.temporary.file.sync_all().map_err(|error| self.refused(error))?;
        self.rename(path)?;
        Ok(Stored { label: label.clone(), entries: self.entries, bytes: self.bytes })
    }

    fn rename(&mut self, path: &Path) -> Result<(), Error> {
        let Some(directory) = path.parent() else { return Err(self.refused(ErrorKind::InvalidInput.into())) };
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::io(directory, error)),
            // Who made it may not have come to the next line.
            _ => directory.parent().map_or(Ok(()), sync_directory)?,
        }
        fs::rename(&self.temporary.path, path).map_err(|error| Error::io(path, error))?;
        self.temporary.kept = true;
        sync_directory(directory)
    }

    fn end_block(&mut self) -> Result<(), Error> {
        let taken = self.block.take().and_then(|block| {
            let Some((summary, stored)) = block else { return Ok(()) };
            self.temporary.file.write_all(stored)?;
            self.footer.push(&summary);
            self.entries += summary.entries as u64;
            self.bytes += summary.stored;
            Ok(())
        });
        taken.map_err(|error| self.refused(error))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.temporary.file.write_all(bytes).map_err(|error| self.refused(error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn refused(&self, error: io::Error) -> Error {
        Error::io(&self.temporary.path, error)
    }
}
