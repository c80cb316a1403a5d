//! The entries of a run as they arrive.

use super::{Entry, Error, From, Journal, Position, Run};

/// So many entries are handed out at once, or so many bytes of messages.
const ENTRIES_MOST: usize = 1000;
const BYTES_MOST: usize = 128 << 10;

/// A place at the growing end of a run's log.
#[derive(Debug)]
pub struct Tail {
    journal: Journal,
    run: Run,
    last: Option<Position>,
}

impl Tail {
    /// The place behind all entries of the run that there are now.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn at_end(journal: Journal, run: Run) -> Result<Self, Error> {
        let newest = journal.run(&run, From::Last(1))?.last().transpose()?;
        Ok(Self { journal, run, last: newest.map(|entry| entry.position) })
    }

    /// Moves over entries that have arrived, a bounded number of them; none if there are none.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn advance(&mut self) -> Result<Vec<Entry>, Error> {
        let from = self.last.map_or(From::Start, From::After);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.journal.run(&self.run, from)? {
            let entry = entry?;
            bytes += entry.message.len();
            self.last = Some(entry.position);
            entries.push(entry);
            if entries.len() >= ENTRIES_MOST || bytes >= BYTES_MOST {
                break;
            }
        }
        Ok(entries)
    }
}
