//! Runs of a unit: finding them, their entries and how they ended.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use crate::invocation::{InvocationId, MainExit};
use crate::policy::AllowedJob;

use super::chain::Chain;
use super::cursor::{FileCursor, Span};
use super::damage::{Damage, Problem};
use super::directory::Directories;
use super::entries::Entries;
use super::facts::{Facts, Known, Wanted};
use super::file::JournalFile;
use super::lists::{Begin, Lists, invocation};
use super::position::Position;
use super::streams::Files;
use super::{Error, From, Run};

/// What the system manager says, as message ids of the catalog (`sd-messages.h`).
const STARTING: &[u8] = b"7d4958e842da4a758f6c1cdc7b36dcc5";
/// Also "Finished", of a unit that does its work while it starts.
const STARTED: &[u8] = b"39f53479d3a045ac8e11786248231fbf";
const DEACTIVATED: &[u8] = b"7ad2d189f7e94e70a38c781354912448";
const FAILED: &[u8] = b"d9b373ed55a64feb8242e02dbe79a49c";
const SKIPPED: &[u8] = b"0e4284a0caca4bfc81c0bb6786972673";
const STOPPING: &[u8] = b"de5b426a63be47a7b6ac3eaac82e2f6f";
const STOPPED: &[u8] = b"9d1aaa27d60140bd96365438aad20286";
const PROCESS_EXITED: &[u8] = b"98e322203f7a4ed290d09fe03c09fe15";

/// Of each field of the manager's messages only so much is read: its own are short.
const FIELD_MOST: usize = 256;
/// journald reads what a run printed within this time of its end.
const LATE_USEC: u64 = 30_000_000;
/// How many archived files are looked through for a value that may just have arrived.
const ARCHIVED_LOOKED_AT: usize = 4;

/// A run that the journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    /// Its id.
    pub invocation: InvocationId,
    /// When it began, by the system manager: microseconds since 1970; `None` if the journal has not, or no longer, got
    /// that word.
    pub started_usec: Option<u64>,
    /// How it ended; `None` if the journal has no word of it.
    pub ended: Option<RunEnd>,
}

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

/// The files that have something of the unit, and the problems met on the way.
struct Search<'a> {
    directories: &'a Arc<Directories>,
    unit: &'a str,
    run: Option<InvocationId>,
    lists: Vec<Lists>,
    problems: Vec<Problem>,
}

impl<'a> Search<'a> {
    fn new(directories: &'a Arc<Directories>, unit: &'a str, run: Option<InvocationId>) -> Result<Self, Error> {
        let wanted = &Wanted::new(unit, run);
        let mut search = Self { directories, unit, run, lists: Vec::new(), problems: Vec::new() };
        let mut readable = false;
        for listed in directories.files()?.iter() {
            match listed.open().and_then(|file| Lists::find(&listed.path, &file, wanted)) {
                Ok(lists) => {
                    readable = true;
                    search.lists.extend(lists);
                }
                Err(damage) => search.problems.push(Problem::new(&listed.path, damage)),
            }
        }
        match search.problems.pop() {
            Some(problem) if !readable => {
                search.problems.push(problem.clone());
                search.finish();
                Err(Error::Unreadable(Box::new(problem)))
            }
            problem => {
                search.problems.extend(problem);
                Ok(search)
            }
        }
    }

    /// The newest entry that is in any of the lists.
    ///
    /// journald writes one entry after the other. So when an entry can be found in the list of one field, every entry
    /// before it can be found in all lists and files.
    fn horizon(&mut self) -> Option<Position> {
        self.each(Lists::newest).into_iter().flatten().reduce(|a, b| if b.order(&a).is_gt() { b } else { a })
    }

    /// Looks the lists up once more that may have grown meanwhile, also in files that are new.
    fn look_again(&mut self) -> Result<(), Error> {
        let wanted = &Wanted::new(self.unit, self.run);
        for listed in self.directories.files()?.iter() {
            // What can't be read was a problem at the first look, or is one of the next query.
            let Ok(file) = listed.open() else { continue };
            let known = self.lists.iter().position(|lists| lists.path == listed.path);
            if file.archived() && known.is_some() {
                continue;
            }
            if let Ok(Some(found)) = Lists::find(&listed.path, &file, wanted) {
                match known.and_then(|known| self.lists.get_mut(known)) {
                    Some(lists) => *lists = found,
                    None => self.lists.push(found),
                }
            }
        }
        Ok(())
    }

    /// The problems met, which the journal remembers too.
    fn finish(self) -> Vec<Problem> {
        self.problems.iter().for_each(|problem| self.directories.report(problem));
        self.problems
    }

    fn each<T>(&mut self, ask: impl FnMut(&mut Lists) -> Result<T, Damage>) -> Vec<T> {
        each(&mut self.lists, &mut self.problems, ask)
    }

    /// How the run that was asked for begins.
    fn begin(&mut self) -> Option<Begin> {
        self.each(Lists::first_of_run).into_iter().flatten().reduce(Begin::earlier)
    }

    /// The first position of a run, those of its words counted that were received before the manager's.
    fn with_early_words(&mut self, begin: &Begin) -> Position {
        let early = self.each(|lists| lists.first_since_sent(begin));
        early.into_iter().flatten().fold(begin.position, |a, b| if b.order(&a).is_lt() { b } else { a })
    }

    fn span(&mut self) -> Option<Span> {
        let begin = self.begin()?;
        let files = self.files();
        let mut known = HashMap::new();
        let mut later = |other: InvocationId| {
            *known.entry(other).or_insert_with(|| {
                let other = Wanted::new(self.unit, Some(other));
                let firsts = files.iter().filter_map(|(path, file)| {
                    Lists::find(path, file, &other).ok().flatten()?.first_of_run().ok().flatten()
                });
                firsts.reduce(Begin::earlier).is_none_or(|first| first.position.order(&begin.position).is_ge())
            })
        };
        let mut next: Option<Begin> = None;
        each(&mut self.lists, &mut self.problems, |lists| {
            let end = next.map(|next| next.position);
            let found = lists.first_of_next_run(&begin.position, end.as_ref(), &mut later)?;
            next = next.into_iter().chain(found).reduce(Begin::earlier);
            Ok(())
        });
        let start = self.with_early_words(&begin);
        Some(Span { start, end: next.map(|next| self.with_early_words(&next)) })
    }

    fn files(&self) -> Vec<(PathBuf, Arc<JournalFile>)> {
        self.lists.iter().map(|lists| (lists.path.clone(), Arc::clone(&lists.file))).collect()
    }

    /// Whether the next run began so soon that the last words of this one may have come after.
    fn is_followed_closely(&mut self, span: &Span) -> bool {
        let Some(end) = span.end else { return false };
        let lasts = self.each(|lists| {
            let last = |chain: &Chain| match chain.len().checked_sub(1) {
                Some(last) => lists.file.position(chain.at(&lists.file, last)?).map(Some),
                None => Ok(None),
            };
            Ok([last(&lists.invocation)?, last(&lists.about_invocation)?])
        });
        let last = lasts.into_iter().flatten().flatten().map(|position| position.realtime).max();
        last.is_some_and(|last| last.saturating_add(LATE_USEC) > end.realtime)
    }
}

/// Asks every file; one that fails is left out from here on.
fn each<T>(
    lists: &mut Vec<Lists>,
    problems: &mut Vec<Problem>,
    mut ask: impl FnMut(&mut Lists) -> Result<T, Damage>,
) -> Vec<T> {
    let mut answers = Vec::new();
    lists.retain_mut(|lists| match ask(lists) {
        Ok(answer) => {
            answers.push(answer);
            true
        }
        Err(damage) => {
            problems.push(Problem::new(&lists.path, damage));
            false
        }
    });
    answers
}

/// The entries of a run.
pub(super) fn entries(directories: &Arc<Directories>, run: &Run, from: &From) -> Result<Entries, Error> {
    let mut search = Search::new(directories, run.job.unit(), Some(run.invocation))?;
    let mut cursors = Vec::new();
    // Files are looked into one after the other. Without a bound, an entry written meanwhile to a later file could be told,
    // and one written before it to an earlier file not, which who goes on behind the former would never see.
    let horizon = search.horizon();
    search.look_again()?;
    if let (Some(span), Some(horizon)) = (search.span(), horizon) {
        let late = search.is_followed_closely(&span);
        let files = Arc::new(Files::new(search.files().into_iter().map(|(_, file)| file).collect()));
        for lists in std::mem::take(&mut search.lists) {
            let path = lists.path.clone();
            match FileCursor::new(lists, span, &horizon, late, Arc::clone(&files)) {
                Ok(cursor) => cursors.push(cursor),
                Err(damage) => search.problems.push(Problem::new(&path, damage)),
            }
        }
    }
    let problems = search.finish();
    Ok(Entries::new(cursors, problems, Arc::clone(directories), from))
}

/// What is known of one run.
pub(super) fn find(directories: &Arc<Directories>, run: &Run) -> Result<Option<FoundRun>, Error> {
    let mut search = Search::new(directories, run.job.unit(), Some(run.invocation))?;
    let begin = search.begin();
    let mut words: Vec<_> = search.each(words_of_manager).into_iter().flatten().collect();
    search.finish();
    words.sort_by(|(a, _), (b, _)| a.order(b));
    let is_told = words.first().is_some_and(|(_, fields)| is(fields, STARTING) || is(fields, STARTED));
    let ended = end(&words);
    Ok(begin.map(|begin| FoundRun {
        invocation: run.invocation,
        started_usec: is_told.then_some(begin.started_usec()),
        ended,
    }))
}

/// The newest run of a unit.
pub(super) fn last(directories: &Arc<Directories>, job: &AllowedJob) -> Result<Option<FoundRun>, Error> {
    let mut search = Search::new(directories, job.unit(), None)?;
    let told = search.each(|lists| {
        let is_of_manager = |facts: Facts| facts.is_of_manager() && facts.has(Facts::ABOUT_OTHER_INVOCATION);
        newest(lists, |lists| &lists.about_unit, is_of_manager, |known| known.about_other)
    });
    let own = search.each(|lists| {
        let is_own = |facts: Facts| facts.has(Facts::UNIT.and(Facts::OTHER_INVOCATION));
        newest(lists, |lists| &lists.unit, is_own, |known| known.other)
    });
    search.finish();
    let latest = |found: Vec<Option<(Position, InvocationId)>>| {
        found.into_iter().flatten().reduce(|a, b| if a.0.order(&b.0).is_lt() { b } else { a }).map(|(_, id)| id)
    };
    let found = |invocation| find(directories, &Run { job: job.clone(), invocation });
    match (latest(told), latest(own)) {
        (Some(told), Some(own)) if told != own => {
            // The last words of one run may be read after the first ones of the next.
            let (told, own) = (found(told)?, found(own)?);
            let newer = |run: &Option<FoundRun>| run.as_ref().and_then(|run| run.started_usec);
            Ok(if newer(&own) > newer(&told) { own } else { told })
        }
        (Some(invocation), _) | (None, Some(invocation)) => found(invocation),
        (None, None) => Ok(None),
    }
}

/// The newest entry of a list whose facts are `right`, and the invocation it names.
fn newest(
    lists: &mut Lists,
    list: impl Fn(&Lists) -> &Chain,
    right: impl Fn(Facts) -> bool,
    other: impl Fn(&Known) -> Option<NonZeroU64>,
) -> Result<Option<(Position, InvocationId)>, Damage> {
    for index in (0..list(lists).len()).rev() {
        let offset = list(lists).at(&lists.file, index)?;
        let (position, known) = lists.read(offset)?;
        if right(known.facts)
            && let Some(other) = other(&known)
            && let Some(id) = invocation(&lists.file.field(other.get(), FIELD_MOST)?)
        {
            return Ok(Some((position, id)));
        }
    }
    Ok(None)
}

type Fields = Vec<Vec<u8>>;

fn value_of<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    field.strip_prefix(name)?.strip_prefix(b"=")
}

/// Whether this is the manager's message with that id.
fn is(fields: &Fields, id: &[u8]) -> bool {
    fields.iter().any(|field| value_of(field, b"MESSAGE_ID") == Some(id))
}

/// What the system manager wrote about the run, in this file.
fn words_of_manager(lists: &mut Lists) -> Result<Vec<(Position, Fields)>, Damage> {
    let mut words = Vec::new();
    for index in 0..lists.about_invocation.len() {
        let offset = lists.about_invocation.at(&lists.file, index)?;
        let (position, known) = lists.read(offset)?;
        if known.facts.is_of_manager() && known.facts.has(Facts::ABOUT_INVOCATION) {
            words.push((position, lists.file.fields(offset, FIELD_MOST)?));
        }
    }
    Ok(words)
}

/// How the run ended, from the manager's words in their order.
fn end(words: &[(Position, Fields)]) -> Option<RunEnd> {
    let text = |fields: &Fields, name: &str| {
        let value = fields.iter().find_map(|field| value_of(field, name.as_bytes()))?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let mut exit = None;
    let mut finished = false;
    let mut stopping = false;
    for (index, (position, fields)) in words.iter().enumerate() {
        // The message of a unit that does its work while it starts differs in its words only.
        finished |=
            is(fields, STARTED) && text(fields, "MESSAGE").is_some_and(|message| message.starts_with("Finished "));
        stopping |= is(fields, STOPPING);
        // A later word of that kind is about a start that failed before it became a run of its own.
        let result = if is(fields, DEACTIVATED) {
            Some("success".to_owned())
        } else if is(fields, FAILED) || is(fields, SKIPPED) {
            text(fields, "UNIT_RESULT")
        } else {
            None
        };
        if let Some(result) = result {
            let sent = text(fields, "_SOURCE_REALTIME_TIMESTAMP").and_then(|sent| sent.parse().ok());
            // A unit that is stopped while it starts has no word of it before the one that it has been stopped. That of an
            // automatic restart looks the same, but for the type of the job.
            let mut later = words.iter().skip(index).map(|(_, fields)| fields);
            stopping |= later.any(|fields| is(fields, STOPPED) && text(fields, "JOB_TYPE").as_deref() == Some("stop"));
            let stopped = stopping && !finished;
            return Some(RunEnd { at_usec: sent.unwrap_or(position.realtime), result, exit, stopped });
        }
        let is_main = || text(fields, "COMMAND").is_some_and(|command| command == "ExecStart");
        if is(fields, PROCESS_EXITED) && (exit.is_none() || is_main()) {
            let (code, status) = (text(fields, "EXIT_CODE"), text(fields, "EXIT_STATUS"));
            exit = code.zip(status).and_then(|(code, status)| main_exit(&code, &status));
        }
    }
    None
}

/// From the fields `EXIT_CODE` and `EXIT_STATUS` of the manager's message.
fn main_exit(code: &str, status: &str) -> Option<MainExit> {
    match code {
        "exited" => status.parse().ok().map(MainExit::Code),
        "killed" | "dumped" => status.parse().ok().map(MainExit::Signal),
        _ => None,
    }
}

/// Whether an entry with that field has arrived.
pub(super) fn holds(directories: &Arc<Directories>, field: &[u8], value: &[u8]) -> Result<bool, Error> {
    let mut archived = 0;
    for listed in directories.files()?.iter() {
        let file = match listed.open() {
            Ok(file) => file,
            Err(damage) => {
                directories.report(&Problem::new(&listed.path, damage));
                continue;
            }
        };
        if file.archived() {
            archived += 1;
            if archived > ARCHIVED_LOOKED_AT {
                continue;
            }
        }
        match file.find(field, value) {
            // The value is written before the entry that has it.
            Ok(data) if data.is_some_and(|data| data.entries > 0) => return Ok(true),
            Ok(_) => {}
            Err(damage) => directories.report(&Problem::new(&listed.path, damage)),
        }
    }
    Ok(false)
}
