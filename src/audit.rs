//! The audit: what was done and refused, by whom, from where, and how it came out.
//!
//! Each entry is a record in the journal at once, and a row of the history as soon as that can be written, in the same
//! order. Nobody waits for a row: as long as the history can't be written rows wait, up to a bound, and what goes beyond
//! it is counted. So are refusals, of which one caller can cause any number.
//!
//! Absent on purpose: what is worth an entry. Whoever meets it decides that.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::auth::TokenName;
use crate::policy::JobName;
use crate::run::RunId;
use crate::store::{self, AuditEntry, Store};
use crate::telemetry::Chain;

pub use crate::store::{AuditFilter as Filter, AuditId as EntryId, AuditRecord as Entry};

/// Rows that may wait for the history; a few megabytes.
const WAITING: usize = 10_000;
/// Rows that are written at once.
const BATCH: usize = 256;
/// Refusals of one token in a minute that get an entry each.
const REFUSALS: u32 = 60;
/// The same for all callers without a valid token together; ten a minute are two megabytes a day.
const REFUSALS_OF_STRANGERS: u32 = 10;
const MINUTE: Duration = Duration::from_mins(1);
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(2);
/// How long what has not been written may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A job was to be started.
    Start,
    /// A job was to be stopped.
    Stop,
    /// Something else was to be changed.
    Write,
    /// Something was to be read.
    Read,
    /// A token was registered, revoked, changed or removed.
    Token,
    /// The audit itself: entries that it lacks.
    Audit,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Start, Self::Stop, Self::Write, Self::Read, Self::Token, Self::Audit];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Write => "write",
            Self::Read => "read",
            Self::Token => "token",
            Self::Audit => "audit",
        }
    }
}

/// Something that has just been done or refused.
#[derive(Debug, Clone)]
pub struct Note {
    /// What it is about.
    pub kind: Kind,
    /// The name of the token; `None` if nobody was recognised.
    pub who: Option<TokenName>,
    /// Where from; `None` over a unix socket, and for what nobody asked for over the network.
    pub address: Option<IpAddr>,
    /// The request that asked for it.
    pub request: Option<Uuid>,
    /// The HTTP status of its answer.
    pub status: Option<u16>,
    /// The job.
    pub job: Option<JobName>,
    /// The run.
    pub run: Option<RunId>,
    /// How it came out, a word such as `accepted` or the code of the error.
    pub outcome: &'static str,
    /// What else there is to say, for people.
    pub detail: Option<String>,
}

impl Note {
    /// A note that says no more than this.
    #[must_use]
    pub fn new(kind: Kind, outcome: &'static str) -> Self {
        Self {
            kind,
            who: None,
            address: None,
            request: None,
            status: None,
            job: None,
            run: None,
            outcome,
            detail: None,
        }
    }

    /// Writes a record, without an entry.
    pub fn log(&self, level: log::Level, said: fmt::Arguments<'_>) {
        fn text<T: fmt::Display>(value: Option<&T>) -> String {
            value.map(T::to_string).unwrap_or_default()
        }
        // A request without an address came over a unix socket.
        let socket = if self.request.is_some() { "unix" } else { "" };
        let peer = self.address.map_or_else(|| socket.to_owned(), |address| address.to_string());
        log::log!(
            level,
            kind = self.kind.as_str(),
            outcome = self.outcome,
            token = text(self.who.as_ref()).as_str(),
            job = text(self.job.as_ref()).as_str(),
            run = text(self.run.as_ref()).as_str(),
            request = text(self.request.as_ref()).as_str(),
            status = text(self.status.as_ref()).as_str(),
            peer = peer.as_str();
            "{said}"
        );
    }

    fn into_row(self) -> AuditEntry {
        AuditEntry {
            at: Timestamp::now(),
            kind: self.kind.as_str().to_owned(),
            who: self.who,
            address: self.address,
            request: self.request,
            job: self.job,
            run: self.run,
            outcome: self.outcome.to_owned(),
            detail: self.detail,
        }
    }
}

/// Why the audit can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The history has not been opened.
    #[error("the history is not open; the log of ci-bridge says why")]
    NotOpen,
    /// The history can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The audit of this machine; cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

struct Shared {
    rows: mpsc::Sender<AuditEntry>,
    /// Rows for which there was no place.
    lost: AtomicU64,
    /// How many refusals each caller has caused in this minute.
    refusals: Mutex<HashMap<Option<TokenName>, u32>>,
    store: watch::Sender<Option<Store>>,
}

impl Audit {
    /// An audit whose rows wait until there is a store. Without a running [`Recorder`] there are none.
    #[must_use]
    pub fn new() -> (Self, Recorder) {
        let (rows, waiting) = mpsc::channel(WAITING);
        let (store, _) = watch::channel(None);
        let audit = Self(Arc::new(Shared { rows, lost: AtomicU64::new(0), refusals: Mutex::default(), store }));
        (audit.clone(), Recorder { audit, waiting, unwritten: Vec::new(), failed: false })
    }

    /// Has rows go to `store` from now on.
    pub fn take_up(&self, store: Store) {
        self.0.store.send_replace(Some(store));
    }

    /// Makes an entry of something that was done; `said` is for people.
    pub fn note(&self, note: Note, said: fmt::Arguments<'_>) {
        note.log(log::Level::Info, said);
        self.keep(note);
    }

    /// Makes an entry of something that was refused or failed, unless the caller has had too many of these in this minute.
    pub fn note_refusal(&self, note: Note, level: log::Level, said: fmt::Arguments<'_>) {
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refusals.entry(note.who.clone()).or_default();
        *count = count.saturating_add(1);
        let is_one_too_many = *count > most_refusals(note.who.as_ref());
        drop(refusals);
        if is_one_too_many {
            note.log(log::Level::Debug, said);
        } else {
            note.log(level, said);
            self.keep(note);
        }
    }

    /// The entries that `filter` asks for, newest first, at most `limit` and at most 1000; with `before` those before
    /// that one. An entry is there shortly after it was made.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn page(&self, before: Option<EntryId>, limit: u32, filter: &Filter) -> Result<Vec<Entry>, Error> {
        let store = self.store().ok_or(Error::NotOpen)?;
        Ok(store.audit(before, limit, filter).await?)
    }

    fn store(&self) -> Option<Store> {
        self.0.store.borrow().clone()
    }

    fn keep(&self, note: Note) {
        if self.0.rows.try_send(note.into_row()).is_err() && self.0.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            log::error!("the history cannot be written; from now on, entries of the audit are only in this log");
        }
    }

    /// Ends the minute of all callers: one entry for the refusals that got none.
    fn sum_up(&self) {
        let refusals = std::mem::take(&mut *self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        for (who, count) in refusals {
            let more = count.saturating_sub(most_refusals(who.as_ref()));
            if more == 0 {
                continue;
            }
            let name = who.as_ref().map_or("callers without a valid token", TokenName::as_str).to_owned();
            let detail = Some(format!("{more} more refusals in a minute"));
            let note = Note { who, detail, ..Note::new(Kind::Audit, "suppressed") };
            self.note(note, format_args!("{more} more requests of {name} were refused within a minute"));
        }
    }
}

fn most_refusals(who: Option<&TokenName>) -> u32 {
    if who.is_some() { REFUSALS } else { REFUSALS_OF_STRANGERS }
}

/// Writes the rows of an [`Audit`], in the order in which they came.
pub struct Recorder {
    audit: Audit,
    waiting: mpsc::Receiver<AuditEntry>,
    unwritten: Vec<AuditEntry>,
    /// Whether the last write failed.
    failed: bool,
}

impl Recorder {
    /// Works until `stop` is cancelled, and then writes what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut store = self.audit.0.store.subscribe();
        let mut minutes = interval_at(Instant::now() + MINUTE, MINUTE);
        loop {
            let is_open = self.audit.store().is_some();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = minutes.tick() => self.audit.sum_up(),
                // The other end is in `self`.
                _ = store.changed(), if !is_open => {}
                () = tokio::time::sleep(RETRY), if self.failed => self.write().await,
                _ = self.waiting.recv_many(&mut self.unwritten, BATCH), if is_open && !self.failed => self.write().await,
            }
        }
        self.audit.sum_up();
        // The disk may be the reason why the bridge is to end.
        let _ = tokio::time::timeout(FAREWELL, self.write_the_rest()).await;
        let left = self.unwritten.len() + self.waiting.len();
        if left > 0 {
            log::error!("{left} entries of the audit are only in this log: the history cannot be written");
        }
    }

    async fn write_the_rest(&mut self) {
        loop {
            self.write().await;
            while self.unwritten.len() < BATCH
                && let Ok(row) = self.waiting.try_recv()
            {
                self.unwritten.push(row);
            }
            if self.unwritten.is_empty() || self.failed || self.audit.store().is_none() {
                return;
            }
        }
    }

    /// Writes what was taken out of the queue, or keeps all of it for the next time.
    async fn write(&mut self) {
        let Some(store) = self.audit.store() else { return };
        while !self.unwritten.is_empty() {
            let written = store.append_audit(self.unwritten.clone()).await;
            if let Err(error) = written {
                if !self.failed {
                    log::error!("the audit cannot be written yet: {}", Chain(&error));
                }
                self.failed = true;
                return;
            }
            self.failed = false;
            self.unwritten.clear();
            // Their place is behind those that waited.
            if self.waiting.is_empty() {
                self.unwritten.extend(self.lost());
            }
        }
    }

    /// The row that stands for those that are missing.
    fn lost(&self) -> Option<AuditEntry> {
        let lost = Some(self.audit.0.lost.swap(0, Ordering::Relaxed)).filter(|lost| *lost > 0)?;
        let note = Note {
            detail: Some(format!("{lost} entries are missing here; the journal has them")),
            ..Note::new(Kind::Audit, "lost")
        };
        note.log(log::Level::Error, format_args!("{lost} entries of the audit were not written to the history"));
        Some(note.into_row())
    }
}

#[cfg(test)]
mod tests;
