//! The file of a log that is whole.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::block;
use super::footer::{self, Block, Footer, HEAD, NotReadable, TRAILER, Trailer};
use super::{Error, Label, Stored};
use crate::invocation::InvocationId;
use crate::journal::{Entry, Losses};

/// So much of the end is read at once: all of a short log, and the footer of most others.
const END: u64 = 4 << 10;

/// An open log, of which only the footer has been read.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    footer: Footer,
    bytes: u64,
}

impl LogFile {
    /// Opens the log of `invocation` at `path`; `None` if there is none.
    pub(super) fn open(path: &Path, invocation: InvocationId) -> Result<Option<Self>, Error> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| Error::io(path, error))?,
        };
        let footer = read_footer(path, &file, bytes)?;
        if footer.label.invocation != invocation {
            return Err(damaged(path, 0, "it is the log of another run"));
        }
        Ok(Some(Self { path: path.to_owned(), file, footer, bytes }))
    }

    pub(super) fn label(&self) -> &Label {
        &self.footer.label
    }

    pub(super) fn losses(&self) -> &Losses {
        &self.footer.losses
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.footer.blocks
    }

    pub(super) fn stored(&self) -> Stored {
        let Footer { label, losses, .. } = self.footer.clone();
        Stored { label, entries: self.footer.entries(), bytes: self.bytes, losses }
    }

    /// Whether no later attempt could come to more.
    pub(super) fn is_final(&self) -> bool {
        self.footer.label.settled && !self.footer.losses.may_be_made_good()
    }

    /// The entries of a block.
    pub(super) fn read(&self, block: &Block) -> Result<VecDeque<Entry>, Error> {
        let stored = read(&self.path, &self.file, block.at, block.summary.stored)?;
        block::decode(&block.summary, &stored).map_err(|what| damaged(&self.path, block.at, what))
    }
}

fn read_footer(path: &Path, file: &File, bytes: u64) -> Result<Footer, Error> {
    let refuse = |at: u64| {
        move |not| match not {
            NotReadable::Version(version) => Error::Unsupported { path: path.to_owned(), version },
            NotReadable::Because(what) => damaged(path, at, what),
        }
    };
    let end_at = bytes.saturating_sub(END);
    let end = read(path, file, end_at, bytes - end_at)?;
    let head = if end_at == 0 { None } else { Some(read(path, file, 0, HEAD.len() as u64)?) };
    footer::check_head(head.as_deref().unwrap_or(&end)).map_err(refuse(0))?;
    let trailer = Trailer::parse(&end).map_err(refuse(end_at))?;
    let len = trailer.footer as u64;
    let blocks_end = bytes.checked_sub(TRAILER as u64 + len).filter(|end| *end >= HEAD.len() as u64);
    let blocks_end = blocks_end.ok_or_else(|| damaged(path, end_at, "it is shorter than its footer"))?;
    let footer = match blocks_end.checked_sub(end_at).and_then(|start| usize::try_from(start).ok()) {
        Some(start) => end.get(start..start + trailer.footer).unwrap_or_default().to_vec(),
        None => read(path, file, blocks_end, len)?,
    };
    Footer::parse(&footer, trailer, blocks_end).map_err(refuse(blocks_end))
}

/// `len` bytes at `at`, which the file was found to have.
fn read(path: &Path, file: &File, at: u64, len: u64) -> Result<Vec<u8>, Error> {
    let len = usize::try_from(len).map_err(|_| damaged(path, at, "a block is too large"))?;
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(damaged(path, at, "it ends here")),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn damaged(path: &Path, at: u64, what: &'static str) -> Error {
    Error::Damaged { path: path.to_owned(), at, what }
}
