//! Requests that have a key, so that sending one twice does nothing twice.
//!
//! Source: the IETF draft "The Idempotency-Key HTTP Header Field".

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use uuid::Uuid;

use super::run::{Phase, Run};
use super::{Error, Jobs};
use crate::store::{self, Answer, Attempt, Begun, Store};
use crate::telemetry::Chain;

/// What is to be done with a request that has a key.
pub enum Attempted {
    /// It is to be carried out.
    New(UnderWay),
    /// It was carried out; this was the answer.
    Replay(Answer),
    /// It was begun by a bridge that ended before it could answer, and came to this run.
    Began(UnderWay, Arc<Run>),
    /// It is being carried out.
    Busy,
    /// The key stands for another request.
    Mismatch,
}

/// A request that is being carried out, to be answered or released. If it is only dropped, the next attempt finds out what
/// became of it.
pub struct UnderWay {
    store: Store,
    attempt: Option<Attempt>,
    attempts: Arc<Mutex<HashSet<Uuid>>>,
}

impl UnderWay {
    /// Keeps the answer for further attempts.
    pub async fn answer(mut self, answer: Answer) {
        let Some(attempt) = self.attempt.take() else { return };
        let request = attempt.request;
        // Without it, a further attempt finds the run by the request.
        if let Err(error) = self.store.answer(attempt, answer).await {
            log::error!("the answer to request {request} is not kept: {}", Chain(&error));
        }
        self.end(request);
    }

    /// Forgets the request, which came to nothing.
    pub async fn release(mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let request = attempt.request;
        if let Err(error) = self.store.release(attempt).await {
            log::error!("the key of request {request} stays taken: {}", Chain(&error));
        }
        self.end(request);
    }

    fn end(&self, request: Uuid) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Whoever carried it out has panicked; what became of it is found out at the next attempt.
        if let Some(attempt) = self.attempt.take() {
            self.end(attempt.request);
        }
    }
}

/// What an attempt that was never answered came to.
enum Left {
    Run(Arc<Run>),
    /// Whether its run has begun is being found out.
    Undecided,
    Nothing,
}

impl Jobs {
    /// Begins a request with a key; `payload` is the SHA-256 hash of what is asked for.
    ///
    /// # Errors
    /// [`Error::History`] if that could not be recorded: nothing is to be carried out then.
    pub async fn attempt(&self, attempt: Attempt, payload: [u8; 32]) -> Result<Attempted, Error> {
        let store = self.history.store().ok_or(store::Error::Closed)?;
        loop {
            // Before anybody else can see it.
            self.lock_attempts().insert(attempt.request);
            let begun = store.begin(attempt.clone(), payload, Timestamp::now()).await;
            if !matches!(begun, Ok(Begun::New)) {
                self.lock_attempts().remove(&attempt.request);
            }
            let earlier = match begun? {
                Begun::New => return Ok(Attempted::New(self.under_way(store, attempt))),
                Begun::Replay(answer) => return Ok(Attempted::Replay(answer)),
                Begun::Mismatch => return Ok(Attempted::Mismatch),
                Begun::UnderWay { request, since: _ } => Attempt { request, ..attempt.clone() },
            };
            // Of two that find it left behind, one goes on.
            if !self.lock_attempts().insert(earlier.request) {
                return Ok(Attempted::Busy);
            }
            let left = self.under_way(store, earlier);
            match self.run_of(&left).await? {
                Left::Run(run) => return Ok(Attempted::Began(left, run)),
                Left::Undecided => return Ok(Attempted::Busy),
                Left::Nothing => left.release().await,
            }
        }
    }

    /// What an earlier attempt came to.
    async fn run_of(&self, left: &UnderWay) -> Result<Left, Error> {
        let Some(request) = left.attempt.as_ref().map(|attempt| attempt.request) else { return Ok(Left::Nothing) };
        let record = self.registry.of_request(request);
        let run = match &record {
            Some(record) => Some(record.run()),
            None => left.store.run_of_request(request).await?.and_then(|row| self.admit(row)).map(Arc::new),
        };
        Ok(match run {
            Some(run) if run.invocation.is_some() => Left::Run(run),
            Some(run) if run.phase == Phase::Queued && record.is_some_and(|record| record.is_undecided()) => {
                Left::Undecided
            }
            Some(run) if run.phase == Phase::Queued => Left::Run(run),
            // One that systemd was never asked for is no reason not to begin it now.
            Some(_) | None => Left::Nothing,
        })
    }

    fn under_way(&self, store: &Store, attempt: Attempt) -> UnderWay {
        UnderWay { store: store.clone(), attempt: Some(attempt), attempts: self.attempts.clone() }
    }

    fn lock_attempts(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
