//! Whose an entry is.
//!
//! Of most entries their fields tell. Lines on standard output take more: systemd opens one stream to journald for each
//! process that it starts, and journald numbers the streams. A line may lack its invocation (its unit was gone when
//! journald looked), and after a second journald looks again: the rest of a long log that is read late then carries the
//! invocation of the *next* run. The number of the stream stays, so the first line of a stream decides for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Source;
use super::cursor::Span;
use super::damage::Damage;
use super::facts::{COMPARED, Facts, Known, Wanted};
use super::file::JournalFile;
use super::position::Position;

/// All files that have something of the unit: a stream may go on in another one than it began in.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<Arc<JournalFile>>,
    /// Whether a stream is of the run, by its number: asking all files anew for each file would take the square of their
    /// count.
    known: Mutex<HashMap<Vec<u8>, bool>>,
}

impl Files {
    pub(super) fn new(files: Vec<Arc<JournalFile>>) -> Self {
        Self { files, known: Mutex::default() }
    }
}

/// The streams met in one file.
#[derive(Debug)]
pub(super) struct Streams {
    wanted: Wanted,
    span: Span,
    files: Arc<Files>,
    /// By the place of the stream's DATA object.
    known: HashMap<u64, bool>,
    last: Option<(u64, bool)>,
}

impl Streams {
    /// The streams of one of `files`; all that share these must be asked for the same run.
    pub(super) fn new(wanted: Wanted, span: Span, files: Arc<Files>) -> Self {
        Self { wanted, span, files, known: HashMap::new(), last: None }
    }

    /// Whose entry this is; `None` if it is not of the run.
    pub(super) fn source(
        &mut self,
        file: &JournalFile,
        position: &Position,
        known: &Known,
    ) -> Result<Option<Source>, Damage> {
        const OBJECT: Facts = Facts::OBJECT_UNIT.and(Facts::ROOT);
        const CORE: Facts = Facts::CORE_UNIT.and(Facts::CORE_MESSAGE).and(Facts::ROOT);
        let facts = known.facts;
        if facts.has(Facts::UNIT) {
            let own = match known.stream {
                Some(stream) => self.is_own(file, stream.get())?,
                None => self.is_of_run(position, facts, Facts::INVOCATION, Facts::OTHER_INVOCATION),
            };
            if own {
                return Ok(Some(Source::Job));
            }
        }
        if facts.is_of_manager() && facts.has(Facts::ABOUT_INVOCATION) {
            return Ok(Some(Source::Systemd));
        }
        let object = facts.has(OBJECT)
            && self.is_of_run(position, facts, Facts::OBJECT_INVOCATION, Facts::OBJECT_OTHER_INVOCATION);
        let core = facts.has(CORE) && self.span.holds(position);
        Ok((object || core).then_some(Source::Other))
    }

    /// The entry names the run, or no run at all and lies in its time.
    fn is_of_run(&self, position: &Position, facts: Facts, named: Facts, other: Facts) -> bool {
        facts.has(named) || (!facts.has(other) && self.span.holds(position))
    }

    /// Whether the stream whose DATA object lies at `offset` of `file` is of the run.
    fn is_own(&mut self, file: &JournalFile, offset: u64) -> Result<bool, Damage> {
        if let Some((last, own)) = self.last
            && last == offset
        {
            return Ok(own);
        }
        let own = if let Some(own) = self.known.get(&offset) {
            *own
        } else {
            let field = file.field(offset, COMPARED)?;
            let value = field.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default();
            let mut known = self.files.known.lock().unwrap_or_else(PoisonError::into_inner);
            let own = *known.entry(value.to_owned()).or_insert_with(|| self.find(value));
            drop(known);
            self.known.insert(offset, own);
            own
        };
        self.last = Some((offset, own));
        Ok(own)
    }

    fn find(&self, stream: &[u8]) -> bool {
        // A file that can't answer is as good as one that was deleted.
        let firsts = self.files.files.iter().filter_map(|file| {
            let data = file.find(b"_STREAM_ID", stream).ok().flatten()?;
            let position = file.position(data.first_entry).ok()?;
            Some((position, file, data.first_entry))
        });
        let first = firsts.reduce(|a, b| if b.0.order(&a.0).is_lt() { b } else { a });
        first.is_some_and(|(position, file, offset)| self.begins_own(&position, file, offset).unwrap_or(false))
    }

    fn begins_own(&self, position: &Position, file: &JournalFile, offset: u64) -> Result<bool, Damage> {
        let facts = self.wanted.facts(&file.fields(offset, COMPARED)?);
        let untold = !facts.has(Facts::OTHER_INVOCATION) && self.span.holds(position);
        Ok(facts.has(Facts::UNIT) && (facts.has(Facts::INVOCATION) || untold))
    }
}
