//! Answers that go on: what followers of a log are sent, and when and how that ends.
//!
//! A task of its own reads for each follower, at the most one piece ahead of what its client takes. It ends when the
//! client has gone, also while there is nothing to say. Only an answer that was told to its end is ended as HTTP has it;
//! any other is cut, so that nobody takes a part for the whole.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::{Body, Bytes};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Interval, interval_at};
use tokio_util::sync::CancellationToken;

use super::format::{Format, Writer};
use super::problem::Problem;
use super::shape;
use crate::auth::{Caller, Denial, Keyring};
use crate::jobs::{Cursor, End, Event, Filter, Follower};

/// What bounds the answers that go on.
#[derive(Debug, Clone, Copy)]
pub struct Following {
    /// Followers at once.
    pub most: usize,
    /// After so long without a line, events get a comment, so that nobody on the way takes the silence for a dead
    /// connection. The token of a follower is looked at again as often, too, and before any line.
    pub heartbeat: Duration,
}

/// There is no place for one more follower.
pub(super) struct TooManyStreams;

/// The places of followers, and what ends their answers early.
#[derive(Clone)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    most: usize,
    heartbeat: Duration,
    keyring: Arc<ArcSwap<Keyring>>,
    stop: CancellationToken,
}

impl Streams {
    pub(super) fn new(bounds: Following, keyring: Arc<ArcSwap<Keyring>>, stop: CancellationToken) -> Self {
        let Following { most, heartbeat } = bounds;
        Self { places: Arc::new(Semaphore::new(most)), most, heartbeat, keyring, stop }
    }

    /// How many logs are being followed.
    pub(super) fn followed(&self) -> usize {
        self.most.saturating_sub(self.places.available_permits())
    }

    /// A place, which is free again when the result is dropped.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, TooManyStreams> {
        self.places.clone().try_acquire_owned().map_err(|_| TooManyStreams)
    }

    /// The body of an answer that tells a follower everything.
    pub(super) fn body(
        &self,
        follower: Follower,
        writer: Writer,
        filter: Filter,
        caller: Arc<Caller>,
        place: OwnedSemaphorePermit,
    ) -> Body {
        let (pieces, taken) = mpsc::channel(1);
        let teller = Teller {
            pieces,
            writer,
            filter,
            caller,
            keyring: self.keyring.clone(),
            beat: interval_at(Instant::now() + self.heartbeat, self.heartbeat),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            // Whatever ended it early, the client is gone or is cut off.
            let _ = teller.follow(follower, stop).await;
            drop(place);
        });
        body(taken)
    }
}

enum Piece {
    Bytes(Bytes),
    /// The last one: nothing is missing.
    End,
}

/// A body of the pieces; cut off if the last one is not [`Piece::End`].
fn body(pieces: mpsc::Receiver<Piece>) -> Body {
    Body::from_stream(futures_util::stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), None)),
        }
    }))
}

/// Why there is nothing more to tell.
enum Over {
    Gone,
    Denied(Denial),
}

/// Tells one client what its follower hears.
struct Teller {
    pieces: mpsc::Sender<Piece>,
    writer: Writer,
    filter: Filter,
    caller: Arc<Caller>,
    keyring: Arc<ArcSwap<Keyring>>,
    beat: Interval,
}

impl Teller {
    async fn follow(mut self, follower: Follower, stop: CancellationToken) -> Result<(), Over> {
        match self.tell(follower, stop).await {
            Err(Over::Denied(denial)) => {
                let (job, token) = (self.writer.job().name(), self.caller.name());
                log::info!(token = token.as_str(), job = job.as_str(); "{token} no longer follows {job}: {denial}");
                self.fail(&denial.into()).await
            }
            told => told,
        }
    }

    async fn tell(&mut self, mut follower: Follower, stop: CancellationToken) -> Result<(), Over> {
        let mut out = Vec::new();
        self.writer.begin(&mut out);
        self.send(out).await?;
        // How far the client is, for one that has to come again.
        let mut cursor = follower.cursor();
        loop {
            let event = {
                // What was read must not get lost with a future that is dropped.
                let mut next = pin!(follower.next());
                loop {
                    tokio::select! {
                        biased;
                        () = self.pieces.closed() => return Err(Over::Gone),
                        () = stop.cancelled() => return self.restart(cursor).await,
                        _ = self.beat.tick() => self.beat()?,
                        event = &mut next => break event,
                    }
                }
            };
            cursor = follower.cursor();
            match (event, &cursor) {
                (Some(Ok(Event::Lines(batch))), Some(Cursor { invocation, .. })) => {
                    let lines = batch.rendering(self.writer.form(), &self.filter, |entries| {
                        let mut out = Vec::new();
                        for entry in entries {
                            self.writer.line(&mut out, *invocation, entry);
                        }
                        out.into()
                    });
                    self.send(lines).await?;
                }
                // There is no line without a run.
                (Some(Ok(Event::Lines(_))), None) => {}
                (Some(Ok(Event::Gap(gap))), _) => {
                    let mut out = Vec::new();
                    self.writer.gap(&mut out, gap);
                    self.send(out).await?;
                }
                (Some(Ok(Event::End(end))), _) => return self.end(&end, cursor).await,
                (Some(Err(error)), _) => return self.fail(&error.into()).await,
                (None, _) => return Err(Over::Gone),
            }
        }
    }

    /// Sends a piece when the client has taken the one before the last, if the token is still good then.
    async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Over> {
        let place = self.pieces.reserve().await.map_err(|_| Over::Gone)?;
        self.keyring.load().confirm(&self.caller, Timestamp::now()).map_err(Over::Denied)?;
        place.send(Piece::Bytes(bytes.into()));
        self.beat.reset();
        Ok(())
    }

    /// Nothing was sent for a while.
    fn beat(&mut self) -> Result<(), Over> {
        self.keyring.load().confirm(&self.caller, Timestamp::now()).map_err(Over::Denied)?;
        if self.writer.format == Format::Events {
            // A client that has not taken the last piece needs no sign of life.
            let _ = self.pieces.try_send(Piece::Bytes(Bytes::from_static(b": \n\n")));
        }
        Ok(())
    }

    async fn end(&mut self, end: &End, cursor: Option<Cursor>) -> Result<(), Over> {
        let cursor = self.text(cursor);
        let mut verdict = shape::verdict(&end.unit, end.run.as_deref(), end.is_complete, end.has_gap);
        verdict["cursor"] = json!(cursor);
        let mut out = Vec::new();
        // A gap was told where it is.
        if end.run.is_some() && !end.is_complete && !end.has_gap {
            self.writer.doubt(&mut out);
        }
        self.writer.end(&mut out, &verdict, cursor.as_deref());
        self.send(out).await?;
        self.pieces.send(Piece::End).await.map_err(|_| Over::Gone)
    }

    /// Has the client come again, since the bridge is being stopped.
    async fn restart(&mut self, cursor: Option<Cursor>) -> Result<(), Over> {
        let cursor = self.text(cursor);
        self.part("restart", &json!({ "cursor": cursor }), cursor.as_deref()).await
    }

    async fn fail(&mut self, problem: &Problem) -> Result<(), Over> {
        match self.writer.format {
            Format::Events => self.part("error", &problem.summary(), None).await,
            _ => Err(Over::Gone),
        }
    }

    /// Says why the answer ends before its time, where the format has a way to say it.
    async fn part(&mut self, name: &str, members: &Value, cursor: Option<&str>) -> Result<(), Over> {
        let mut out = Vec::new();
        self.writer.note(&mut out, name, members, cursor);
        if out.is_empty() {
            return Err(Over::Gone);
        }
        for piece in [Piece::Bytes(out.into()), Piece::End] {
            self.pieces.send(piece).await.map_err(|_| Over::Gone)?;
        }
        Ok(())
    }

    fn text(&self, cursor: Option<Cursor>) -> Option<String> {
        cursor.map(|cursor| cursor.encode(self.writer.job()))
    }
}
