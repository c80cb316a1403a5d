//! What the system manager says about a run, and what follows from it.

use std::collections::VecDeque;

use crate::invocation::MainExit;

use super::damage::Damage;
use super::facts::Facts;
use super::lists::Lists;
use super::position::Position;

/// The manager's messages, by their ids in the catalog (`sd-messages.h`).
pub(super) const STARTING: &[u8] = b"7d4958e842da4a758f6c1cdc7b36dcc5";
/// Also "Finished", of a unit that does its work while it starts.
pub(super) const STARTED: &[u8] = b"39f53479d3a045ac8e11786248231fbf";
const DEACTIVATED: &[u8] = b"7ad2d189f7e94e70a38c781354912448";
const FAILED: &[u8] = b"d9b373ed55a64feb8242e02dbe79a49c";
const SKIPPED: &[u8] = b"0e4284a0caca4bfc81c0bb6786972673";
const STOPPING: &[u8] = b"de5b426a63be47a7b6ac3eaac82e2f6f";
const STOPPED: &[u8] = b"9d1aaa27d60140bd96365438aad20286";
const PROCESS_EXITED: &[u8] = b"98e322203f7a4ed290d09fe03c09fe15";

/// Of each field of a message only so much is read: the manager's own are short.
const FIELD_MOST: usize = 256;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// When the system manager said so: microseconds since 1970.
    pub at_usec: u64,
    /// The unit's result, such as `success`, `exit-code`, `signal`, `timeout`: see `Result` in
    /// org.freedesktop.systemd1(5).
    pub result: String,
    /// How the main process ended, or the command that failed before it; `None` after success, of which the manager
    /// does not tell by default.
    pub exit: Option<MainExit>,
    /// Whether the manager was asked to stop it before it had done what it was to do.
    pub stopped: bool,
}

/// One message of the manager.
#[derive(Debug)]
struct Word {
    position: Position,
    fields: Vec<Vec<u8>>,
}

impl Word {
    fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix(b"="))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    fn is(&self, id: &[u8]) -> bool {
        self.value(b"MESSAGE_ID") == Some(id)
    }

    /// The unit has done its work while it started; only the text says so.
    fn is_finished(&self) -> bool {
        self.is(STARTED) && self.value(b"MESSAGE").is_some_and(|message| message.starts_with(b"Finished "))
    }
}

/// The manager's messages about a run, in their order.
#[derive(Debug)]
pub(super) struct Words(VecDeque<Word>);

impl Words {
    /// Those in one file.
    pub(super) fn of_file(lists: &mut Lists) -> Result<Self, Damage> {
        let mut words = VecDeque::new();
        for index in 0..lists.about_invocation.len() {
            let offset = lists.about_invocation.at(&lists.file, index)?;
            let (position, known) = lists.read(offset)?;
            if known.facts.is_of_manager() && known.facts.has(Facts::ABOUT_INVOCATION) {
                words.push_back(Word { position, fields: lists.file.fields(offset, FIELD_MOST)? });
            }
        }
        Ok(Self(words))
    }

    /// Those of several files.
    pub(super) fn merge(mut files: Vec<Self>) -> Self {
        let mut merged = VecDeque::new();
        loop {
            let heads = files.iter_mut().filter(|words| !words.0.is_empty());
            let next = heads.reduce(|a, b| {
                if b.position().zip(a.position()).is_some_and(|(b, a)| b.order(&a).is_lt()) { b } else { a }
            });
            let Some(word) = next.and_then(|words| words.0.pop_front()) else { return Self(merged) };
            merged.push_back(word);
        }
    }

    /// Where the first one stands.
    fn position(&self) -> Option<Position> {
        self.0.front().map(|word| word.position)
    }

    /// Where the last one stands.
    pub(super) fn last(&self) -> Option<Position> {
        self.0.back().map(|word| word.position)
    }

    /// Whether the first one is that the run begins.
    pub(super) fn begin(&self) -> bool {
        self.0.front().is_some_and(|word| word.is(STARTING) || (word.is(STARTED) && !word.is_finished()))
    }

    /// How the run ended.
    pub(super) fn end(&self) -> Option<RunEnd> {
        let mut exit = None;
        let mut finished = false;
        let mut stopping = false;
        for (index, word) in self.0.iter().enumerate() {
            finished |= word.is_finished();
            stopping |= word.is(STOPPING);
            // A later word of that kind is about a start that failed before it became a run of its own.
            let result = if word.is(DEACTIVATED) {
                Some("success".to_owned())
            } else if word.is(FAILED) || word.is(SKIPPED) {
                word.text("UNIT_RESULT")
            } else {
                None
            };
            if let Some(result) = result {
                let sent = word.text("_SOURCE_REALTIME_TIMESTAMP").and_then(|sent| sent.parse().ok());
                // A unit that is stopped while it starts has no word of it before the one that it has been stopped. That
                // of an automatic restart looks the same, but for the type of the job.
                let mut later = self.0.iter().skip(index);
                stopping |= later.any(|word| word.is(STOPPED) && word.value(b"JOB_TYPE") == Some(b"stop"));
                let stopped = stopping && !finished;
                return Some(RunEnd { at_usec: sent.unwrap_or(word.position.realtime), result, exit, stopped });
            }
            let is_main = word.value(b"COMMAND") == Some(b"ExecStart");
            if word.is(PROCESS_EXITED) && (exit.is_none() || is_main) {
                let (code, status) = (word.text("EXIT_CODE"), word.text("EXIT_STATUS"));
                exit = code.zip(status).and_then(|(code, status)| main_exit(&code, &status));
            }
        }
        None
    }
}

/// From the fields `EXIT_CODE` and `EXIT_STATUS` of the manager's message.
fn main_exit(code: &str, status: &str) -> Option<MainExit> {
    match code {
        "exited" => status.parse().ok().map(MainExit::Code),
        "killed" | "dumped" => status.parse().ok().map(MainExit::Signal),
        _ => None,
    }
}
