//! A log that is followed over the API's event stream, across lost connections.

use anyhow::bail;
use reqwest::{Method, Response};
use serde_json::Value;

use super::bridge::{Bridge, CallError, Target};
use super::outage::Outage;
use super::sse::Stream;

/// What a bridge tells of a log.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// The next line, as JSON.
    Line(Value),
    /// Lines are missing here; why, as JSON.
    Gap(Value),
    /// The verdict, as JSON; nothing comes after it.
    End(Value),
}

/// A log that is followed.
pub(super) struct Following<'a> {
    bridge: &'a Bridge,
    target: &'a Target,
    /// Which lines and in which form, as parameters of the API.
    wanted: Vec<(&'static str, String)>,
    /// Where to begin, in the same way.
    place: Vec<(&'static str, String)>,
    stream: Option<Stream>,
    outage: Outage<'a>,
}

impl<'a> Following<'a> {
    /// Follows a job from a place on, which `run`, `lines` or `cursor` name; `wanted` may have `raw` and `priority`.
    pub(super) fn new(
        bridge: &'a Bridge,
        target: &'a Target,
        wanted: impl IntoIterator<Item = (&'static str, String)>,
        place: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let (wanted, place) = (wanted.into_iter().collect(), place.into_iter().collect());
        Self { bridge, target, wanted, place, stream: None, outage: Outage::of(target) }
    }

    /// What comes next. May be dropped at any moment; nothing is lost with it.
    pub(super) async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                // The bridge is being started anew.
                Ok(None) => self.stream = None,
                Err(error) => self.after(error).await?,
            }
        }
    }

    /// What the bridge tells next; `None` if it has nothing to tell any more although the log has not ended.
    async fn step(&mut self) -> Result<Option<Event>, CallError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(Stream::new(self.connect().await?)),
        };
        let message = stream.next().await.map_err(|_| CallError::CutOff)?.ok_or(CallError::CutOff)?;
        self.outage.end();
        if let Some(id) = message.id {
            self.place = vec![("cursor", id)];
        }
        let data = serde_json::from_str(&message.data).unwrap_or(Value::Null);
        match message.kind.as_str() {
            "message" => Ok(Some(Event::Line(data))),
            "gap" => Ok(Some(Event::Gap(data))),
            "end" => Ok(Some(Event::End(data))),
            "error" => Err(CallError::from_problem(&data)),
            _ => Ok(None),
        }
    }

    async fn connect(&self) -> Result<Response, CallError> {
        let mut query = vec![("follow", "true"), ("format", "sse")];
        query.extend(self.wanted.iter().chain(&self.place).map(|(name, value)| (*name, value.as_str())));
        self.bridge.of_job(Method::GET, self.target, Some("tail"), &query).await
    }

    /// Waits for a better moment after an error that may pass.
    async fn after(&mut self, error: CallError) -> anyhow::Result<()> {
        self.stream = None;
        if !error.may_pass() {
            bail!(error);
        }
        Ok(self.outage.after(error).await?)
    }
}
