//! One watcher of the journal for all who follow.
//!
//! journald tells by inotify that it has written something, but a quarter to half a second late by design. So a thread
//! looks at the files every few milliseconds, as long as anybody follows a run, and hands what has arrived to all
//! followers of that run at once. What it hands out waits in a ring of fixed size: who is too slow for it reads the files
//! instead, and slows nobody down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::journal::{self, Arrived, Entry, Filter, Journal, Pulse, Tail};
use crate::telemetry::Chain;

/// How often the watcher looks.
const POLL: Duration = Duration::from_millis(10);
/// Batches that wait for slow followers, of each run.
const WAITING_MOST: usize = 32;

/// What followers share whose answers are the same: a number of the caller's for its way to write, and what is written.
type Form = (u8, Filter);

/// Entries that followers of a run share.
#[derive(Debug)]
pub struct Batch {
    entries: Vec<Entry>,
    renderings: Mutex<Vec<(Form, Bytes)>>,
}

impl Batch {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self { entries, renderings: Mutex::default() }
    }

    /// The entries in their order, at least one.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The wanted entries in the form `form` of the caller's, made by `render` if nobody has done so before: a thousand
    /// followers cost one rendering.
    pub fn rendering(&self, form: u8, filter: &Filter, render: impl FnOnce(Vec<&Entry>) -> Bytes) -> Bytes {
        let form = (form, *filter);
        let mut renderings = lock(&self.renderings);
        if let Some((_, bytes)) = renderings.iter().find(|(known, _)| *known == form) {
            return bytes.clone();
        }
        let bytes = render(self.entries.iter().filter(|entry| filter.wants(entry)).collect());
        renderings.push((form, bytes.clone()));
        bytes
    }
}

/// What is handed to followers.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The next entries; `None` if a file can't be read, and nothing else is to be told.
    pub(super) lines: Option<Arc<Batch>>,
    /// Whether a file that may hold more can't be read.
    pub(super) is_damaged: bool,
}

/// The growing end of one run's log, and those who wait there.
#[derive(Debug)]
pub(super) struct Live {
    /// `None` when the run has ended and everything has been handed out.
    tail: Mutex<Option<Tail>>,
    pieces: broadcast::Sender<Piece>,
}

impl Live {
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Piece> {
        self.pieces.subscribe()
    }

    /// Hands out all that there is of a run whose log is whole.
    pub(super) fn finish(&self) -> Result<(), journal::Error> {
        let mut tail = lock(&self.tail);
        while self.hand_out(&mut tail)? {}
        *tail = None;
        Ok(())
    }

    /// Hands out one batch; false if nothing had arrived. The tail stays locked meanwhile, so batches keep their order.
    fn hand_out(&self, tail: &mut Option<Tail>) -> Result<bool, journal::Error> {
        let Some(tail) = tail else { return Ok(false) };
        let Arrived { entries, is_damaged } = tail.advance()?;
        let lines = (!entries.is_empty()).then(|| Arc::new(Batch::new(entries)));
        let arrived = lines.is_some();
        if arrived || is_damaged {
            // There may be nobody left; the watcher finds out.
            let _ = self.pieces.send(Piece { lines, is_damaged });
        }
        Ok(arrived)
    }
}

#[derive(Debug, Default)]
struct Watched {
    runs: HashMap<journal::Run, Weak<Live>>,
    is_watching: bool,
}

/// All runs that are followed.
#[derive(Debug)]
pub(super) struct Watcher {
    journal: Journal,
    watched: Mutex<Watched>,
}

impl Watcher {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, watched: Mutex::default() }
    }

    /// The live end of a run; from here on what arrives is handed out, as long as the result is kept. Blocks for one look
    /// at the journal if nobody else follows the run.
    pub(super) fn live(self: &Arc<Self>, run: &journal::Run) -> Result<Arc<Live>, journal::Error> {
        let known = |watched: &Watched| watched.runs.get(run).and_then(Weak::upgrade);
        if let Some(live) = known(&lock(&self.watched)) {
            return Ok(live);
        }
        let tail = Tail::at_end(&self.journal, run.clone())?;
        let mut watched = lock(&self.watched);
        // Somebody else may have come first.
        if let Some(live) = known(&watched) {
            return Ok(live);
        }
        let live = Arc::new(Live { tail: Mutex::new(Some(tail)), pieces: broadcast::Sender::new(WAITING_MOST) });
        watched.runs.insert(run.clone(), Arc::downgrade(&live));
        if !watched.is_watching {
            watched.is_watching = true;
            let this = Arc::clone(self);
            thread::spawn(move || this.watch());
        }
        Ok(live)
    }

    /// Looks at the journal until nobody follows any more.
    fn watch(&self) {
        let mut pulse = Pulse::of(&self.journal);
        while let Some(runs) = self.followed() {
            let told = pulse.beats().and_then(|beats| {
                let mut more = false;
                for live in runs.iter().filter(|_| beats) {
                    more |= live.hand_out(&mut lock(&live.tail))?;
                }
                Ok(more)
            });
            drop(runs);
            // Followers meet the same error when they read, and tell it.
            let more = told.inspect_err(|error| log::debug!("the journal cannot be watched: {}", Chain(error)));
            if !more.unwrap_or(false) {
                thread::sleep(POLL);
            }
        }
    }

    /// The runs that somebody follows; `None`, for whoever watches to end, if there are none.
    fn followed(&self) -> Option<Vec<Arc<Live>>> {
        let mut watched = lock(&self.watched);
        watched.runs.retain(|_, live| live.strong_count() > 0);
        watched.is_watching = !watched.runs.is_empty();
        watched.is_watching.then(|| watched.runs.values().filter_map(Weak::upgrade).collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks, so what they hold is sound even if a thread died.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
