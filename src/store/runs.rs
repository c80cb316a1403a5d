//! The runs: each is recorded when it is asked for or noticed, and again whenever it gets further.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _, SqliteConnection};
use uuid::Uuid;

use super::outbox::{self, Delivery};
use super::values::{foreign, id, micros, micros_of, optional_id, optional_job, optional_number, optional_time, time};
use super::writer::Statement;
use super::{Error, PAGE, Store};
use crate::auth::TokenName;
use crate::invocation::{InvocationId, MainExit};
use crate::policy::JobName;
use crate::run::{RunId, RunResult};

/// Who started a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The owner of a token.
    Token {
        /// The name of the token.
        name: TokenName,
        /// The request that asked for it.
        request: Uuid,
    },
    /// systemd by itself, for a timer, another unit or an administrator.
    Systemd,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// When; `None` if that is not known.
    pub at: Option<Timestamp>,
    /// The verdict.
    pub result: RunResult,
    /// How its main process ended, if there was one and it is known.
    pub exit: Option<MainExit>,
    /// The time of processors that it took, to a microsecond.
    pub cpu: Option<Duration>,
    /// The most memory that it held at once, in bytes.
    pub memory_peak: Option<u64>,
    /// Why the verdict is [`RunResult::Lost`]; nothing is kept with another verdict.
    pub lost: Option<String>,
}

/// Where a run is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It waits.
    Queued,
    /// It runs.
    Running,
    /// It is over.
    Ended(End),
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// systemd's id of it.
    pub invocation: Option<InvocationId>,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// Where the log of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPlace {
    /// In the journal, as long as journald keeps it.
    Journal,
    /// In the bridge's archive, or nowhere any more.
    Archive,
}

/// What is known of the log of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Where it is.
    pub place: LogPlace,
    /// Whether it is known to be whole.
    pub complete: bool,
}

/// A run as it is recorded. Times are kept to a microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What it is a run of.
    pub job: JobName,
    /// Who started it.
    pub origin: Origin,
    /// When it was asked for. If the bridge was not asked: when it began, or else when it was noticed.
    ///
    /// This orders the history.
    pub requested: Timestamp,
    /// How far it has come.
    pub progress: Progress,
    /// Its log.
    pub log: Log,
    /// What it was given; empty if nothing was. It never changes.
    pub inputs: Map<String, Value>,
}

impl Progress {
    /// What is known after `news`, which may be old, or told before.
    ///
    /// A run never goes back to an earlier phase, its invocation stays, and what is known is not replaced by what is
    /// not.
    fn with(self, news: Self) -> Self {
        Self {
            invocation: self.invocation.or(news.invocation),
            started: news.started.or(self.started),
            phase: match (self.phase, news.phase) {
                (Phase::Ended(known), Phase::Ended(news)) => Phase::Ended(known.with(news)),
                (known @ Phase::Ended(_), _) | (known @ Phase::Running, Phase::Queued) => known,
                (_, news) => news,
            },
        }
    }
}

impl End {
    /// An end of which no more is known.
    #[must_use]
    pub fn new(at: Option<Timestamp>, result: RunResult, exit: Option<MainExit>) -> Self {
        Self { at, result, exit, cpu: None, memory_peak: None, lost: None }
    }

    fn with(self, news: Self) -> Self {
        let result = if news.result == RunResult::Lost { self.result } else { news.result };
        let lost = news.lost.or(self.lost).filter(|_| result == RunResult::Lost);
        Self {
            at: news.at.or(self.at),
            exit: news.exit.or(self.exit),
            cpu: news.cpu.or(self.cpu),
            memory_peak: news.memory_peak.or(self.memory_peak),
            result,
            lost,
        }
    }
}

impl LogPlace {
    fn word(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Archive => "archive",
        }
    }
}

impl Store {
    /// Records a run. One that is recorded already stays as it is.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another run has its invocation.
    pub async fn insert_run(&self, run: Run) -> Result<(), Error> {
        self.writer.write(move |connection| Box::pin(async { insert(connection, run).await.map(drop) })).await
    }

    /// Records how far a run has come; `false` if there is no such run.
    ///
    /// May be told twice or late: a run that has ended never runs again, and what is known is not replaced by what is
    /// not. A run that is no longer queued leaves the queue.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another run has its invocation.
    pub async fn update_run(&self, run: RunId, progress: Progress) -> Result<bool, Error> {
        let known = self.writer.write(move |connection| Box::pin(update(connection, run, progress))).await?;
        Ok(known.is_some())
    }

    /// Records a run that has ended, whether or not it is recorded already, and in the same transaction what is to be told
    /// of its end. If that was recorded before, nobody is told again.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another run has its invocation; nothing is recorded then.
    pub async fn end_run(&self, run: Run, told: Vec<Delivery>) -> Result<(), Error> {
        self.writer.write(move |connection| Box::pin(end(connection, run, told))).await
    }

    /// Forgets a run that was recorded and then did not begin; `false` if it is no longer queued.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; the run is then still recorded.
    pub async fn withdraw_run(&self, run: RunId) -> Result<bool, Error> {
        let statement = sqlx::query("DELETE FROM runs WHERE id = ? AND phase = 'queued'");
        Ok(self.writer.execute(statement.bind(run.as_bytes().to_vec())).await?.rows_affected() > 0)
    }

    /// Records where the log of a run is; `false` if there is no such run.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn update_log(&self, run: RunId, log: Log) -> Result<bool, Error> {
        let statement = sqlx::query("UPDATE runs SET log = ?2, log_complete = ?3 WHERE id = ?1");
        let statement = statement.bind(run.as_bytes().to_vec()).bind(log.place.word()).bind(log.complete);
        Ok(self.writer.execute(statement).await?.rows_affected() > 0)
    }

    /// The run of that id.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn run(&self, run: RunId) -> Result<Option<Run>, Error> {
        self.one("SELECT * FROM runs WHERE id = ?", run.as_bytes()).await
    }

    /// The run of that invocation.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn run_of_invocation(&self, invocation: InvocationId) -> Result<Option<Run>, Error> {
        self.one("SELECT * FROM runs WHERE invocation = ?", invocation.as_bytes()).await
    }

    /// The run that a request asked for, the newest if there are several.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn run_of_request(&self, request: Uuid) -> Result<Option<Run>, Error> {
        self.one(NEWEST_OF_REQUEST, request.as_bytes()).await
    }

    /// The runs of a job, newest first, at most `limit` and at most [`PAGE`]; with `before` those before that run.
    ///
    /// Nothing is before a run that is not recorded: what was older has been forgotten earlier.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn history(&self, job: &JobName, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, Error> {
        let page = match before {
            None => sqlx::query_as(HISTORY).bind(job.as_str()),
            Some(before) => sqlx::query_as(HISTORY_BEFORE).bind(job.as_str()).bind(before.as_bytes().to_vec()),
        };
        page.bind(limit.min(PAGE)).fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// The newest runs of all jobs, at most `limit`, oldest first.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn newest(&self, limit: u32) -> Result<Vec<Run>, Error> {
        let newest = sqlx::query_as(NEWEST).bind(limit).fetch_all(&self.readers).await;
        newest.map_err(|error| self.sort(error))
    }

    /// All runs that have not ended, as far as is known, oldest first.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn unended(&self) -> Result<Vec<Run>, Error> {
        sqlx::query_as(UNENDED).fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    async fn one(&self, statement: &'static str, id: &[u8; 16]) -> Result<Option<Run>, Error> {
        let row = sqlx::query_as(statement).bind(id.to_vec()).fetch_optional(&self.readers).await;
        row.map_err(|error| self.sort(error))
    }
}

const NEWEST_OF_REQUEST: &str = "SELECT * FROM runs WHERE request = ? ORDER BY requested_at DESC, id DESC LIMIT 1";

const HISTORY: &str = "SELECT * FROM runs WHERE job = ?1 ORDER BY requested_at DESC, id DESC LIMIT ?2";

const HISTORY_BEFORE: &str = "SELECT * FROM runs \
    WHERE job = ?1 AND (requested_at, id) < (SELECT requested_at, id FROM runs WHERE job = ?1 AND id = ?2) \
    ORDER BY requested_at DESC, id DESC LIMIT ?3";

const NEWEST: &str = "SELECT * FROM (SELECT * FROM runs ORDER BY requested_at DESC, id DESC LIMIT ?) \
    ORDER BY requested_at, id";

const UNENDED: &str = "SELECT * FROM runs WHERE phase <> 'ended' ORDER BY requested_at, id";

const INSERT: &str = "INSERT INTO runs (\
        id, invocation, started_at, phase, ended_at, result, exit_code, signal, cpu_usec, memory_peak, lost, \
        job, started_by, request, requested_at, log, log_complete, inputs\
    ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18) ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE runs SET \
    invocation = ?2, started_at = ?3, phase = ?4, ended_at = ?5, result = ?6, exit_code = ?7, signal = ?8, \
    cpu_usec = ?9, memory_peak = ?10, lost = ?11 \
    WHERE id = ?1";

/// Binds the first eleven parameters of [`INSERT`] and [`UPDATE`].
fn bind_progress(statement: &'static str, run: RunId, progress: &Progress) -> Statement {
    let end = match &progress.phase {
        Phase::Ended(end) => Some(end),
        Phase::Queued | Phase::Running => None,
    };
    let phase = match progress.phase {
        Phase::Queued => "queued",
        Phase::Running => "running",
        Phase::Ended(_) => "ended",
    };
    let (code, signal) = match end.and_then(|end| end.exit) {
        Some(MainExit::Code(code)) => (Some(code), None),
        Some(MainExit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    let lost = end.filter(|end| end.result == RunResult::Lost).and_then(|end| end.lost.clone());
    sqlx::query(statement)
        .bind(run.as_bytes().to_vec())
        .bind(progress.invocation.map(|id| id.as_bytes().to_vec()))
        .bind(progress.started.map(micros))
        .bind(phase)
        .bind(end.and_then(|end| end.at).map(micros))
        .bind(end.map(|end| end.result.as_str().to_owned()))
        .bind(code)
        .bind(signal)
        .bind(end.and_then(|end| end.cpu).map(micros_of))
        .bind(end.and_then(|end| end.memory_peak).map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)))
        .bind(lost)
}

/// Records a run; false if it is recorded already.
async fn insert(connection: &mut SqliteConnection, run: Run) -> Result<bool, Error> {
    let (name, request) = match run.origin {
        Origin::Token { name, request } => (Some(name.to_string()), Some(request.as_bytes().to_vec())),
        Origin::Systemd => (None, None),
    };
    let inserted = bind_progress(INSERT, run.id, &run.progress)
        .bind(run.job.to_string())
        .bind(name)
        .bind(request)
        .bind(micros(run.requested))
        .bind(run.log.place.word())
        .bind(run.log.complete)
        .bind((!run.inputs.is_empty()).then(|| Value::Object(run.inputs).to_string()))
        .execute(connection)
        .await?;
    Ok(inserted.rows_affected() > 0)
}

async fn end(connection: &mut SqliteConnection, run: Run, told: Vec<Delivery>) -> Result<(), Error> {
    let (id, progress) = (run.id, run.progress.clone());
    let known = if insert(connection, run).await? { None } else { update(connection, id, progress).await? };
    match known {
        Some(Progress { phase: Phase::Ended(_), .. }) => Ok(()),
        Some(_) | None => outbox::insert(connection, told).await,
    }
}

/// Returns what was known before; `None` if there is no such run.
async fn update(connection: &mut SqliteConnection, run: RunId, news: Progress) -> Result<Option<Progress>, Error> {
    let statement = sqlx::query_as("SELECT * FROM runs WHERE id = ?").bind(run.as_bytes().to_vec());
    let Some(Run { progress: known, .. }) = statement.fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let progress = known.clone().with(news);
    if progress == known {
        return Ok(Some(known));
    }
    bind_progress(UPDATE, run, &progress).execute(&mut *connection).await?;
    if progress.phase != Phase::Queued {
        sqlx::query("DELETE FROM queue WHERE run = ?").bind(run.as_bytes().to_vec()).execute(connection).await?;
    }
    Ok(Some(known))
}

impl FromRow<'_, SqliteRow> for Run {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let origin = match (row.try_get::<Option<&str>, _>("started_by")?, optional_id(row, "request")?) {
            (Some(name), Some(request)) => {
                Origin::Token { name: name.parse().map_err(foreign)?, request: Uuid::from_bytes(request) }
            }
            _ => Origin::Systemd,
        };
        let phase = match row.try_get("phase")? {
            "queued" => Phase::Queued,
            "running" => Phase::Running,
            _ => Phase::Ended(End::from_row(row)?),
        };
        let place = match row.try_get("log")? {
            "archive" => LogPlace::Archive,
            _ => LogPlace::Journal,
        };
        Ok(Self {
            id: RunId::from_bytes(id(row, "id")?),
            job: optional_job(row, "job")?.ok_or_else(|| foreign("a run without a job"))?,
            origin,
            requested: time(row, "requested_at")?,
            progress: Progress {
                invocation: optional_id(row, "invocation")?.and_then(|id| InvocationId::from_bytes(&id)),
                started: optional_time(row, "started_at")?,
                phase,
            },
            log: Log { place, complete: row.try_get("log_complete")? },
            inputs: match row.try_get::<Option<&str>, _>("inputs")? {
                Some(text) => serde_json::from_str(text).map_err(foreign)?,
                None => Map::new(),
            },
        })
    }
}

impl FromRow<'_, SqliteRow> for End {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let code: Option<u8> = row.try_get("exit_code")?;
        let signal: Option<i32> = row.try_get("signal")?;
        Ok(Self {
            at: optional_time(row, "ended_at")?,
            result: RunResult::from_word(row.try_get("result")?),
            exit: code.map(MainExit::Code).or(signal.map(MainExit::Signal)),
            cpu: optional_number(row, "cpu_usec")?.map(Duration::from_micros),
            memory_peak: optional_number(row, "memory_peak")?,
            lost: row.try_get("lost")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test]
    async fn no_question_looks_at_all_runs() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let cases = [
            (HISTORY, "runs_of_job (job=?)"),
            (HISTORY_BEFORE, "runs_of_job (job=? AND (requested_at,id)<(?,?))"),
            (UNENDED, "runs_not_ended"),
            ("SELECT * FROM runs WHERE id = ?", "PRIMARY KEY (id=?)"),
            ("SELECT * FROM runs WHERE invocation = ?", "runs_by_invocation (invocation=?)"),
            (NEWEST_OF_REQUEST, "runs_by_request (request=?)"),
        ];
        for (statement, index) in cases {
            let steps = store.plan(statement).await;
            assert!(steps[0].contains(index), "{statement}: {steps:?}");
            let sorts = steps.iter().any(|step| step.contains("TEMP B-TREE"));
            assert!(!sorts || statement == NEWEST_OF_REQUEST, "{statement}: {steps:?}");
        }
    }

    fn results() -> impl Strategy<Value = RunResult> {
        prop::sample::select(vec!["success", "stopped", "exit-code", "lost"]).prop_map(RunResult::from_word)
    }

    fn ends() -> impl Strategy<Value = End> {
        let at = prop::option::of((0..3_i64).prop_map(|second| Timestamp::from_second(second).unwrap()));
        let exit = prop::option::of((0..3_u8).prop_map(MainExit::Code));
        let lost = prop::option::of(Just("lost".to_owned()));
        let numbers = (prop::option::of(0..3_u64), prop::option::of(0..3_u64));
        (at, results(), exit, numbers, lost).prop_map(|(at, result, exit, (cpu, memory_peak), lost)| End {
            at,
            lost: lost.filter(|_| result == RunResult::Lost),
            result,
            exit,
            cpu: cpu.map(Duration::from_micros),
            memory_peak,
        })
    }

    fn stages() -> impl Strategy<Value = Progress> {
        let phase = prop_oneof![Just(Phase::Queued), Just(Phase::Running), ends().prop_map(Phase::Ended)];
        let invocation = prop::option::of((1..3_u8).prop_map(|byte| InvocationId::from_bytes(&[byte; 16]).unwrap()));
        let started = prop::option::of((0..3_i64).prop_map(|second| Timestamp::from_second(second).unwrap()));
        (invocation, started, phase).prop_map(|(invocation, started, phase)| Progress { invocation, started, phase })
    }

    fn stage(phase: &Phase) -> u8 {
        match phase {
            Phase::Queued => 0,
            Phase::Running => 1,
            Phase::Ended(_) => 2,
        }
    }

    proptest! {
        #[test]
        fn a_run_never_goes_back(known in stages(), news in stages()) {
            let after = known.clone().with(news.clone());
            prop_assert_eq!(stage(&after.phase), stage(&known.phase).max(stage(&news.phase)));
            prop_assert!(known.invocation.is_none() || after.invocation == known.invocation);
            prop_assert!(known.started.is_none() || after.started.is_some());
            if let (Phase::Ended(known), Phase::Ended(after)) = (&known.phase, &after.phase) {
                prop_assert!(known.result == RunResult::Lost || after.result != RunResult::Lost);
                prop_assert!(known.at.is_none() || after.at.is_some());
                prop_assert!(known.exit.is_none() || after.exit.is_some());
                prop_assert!(after.lost.is_none() || after.result == RunResult::Lost);
            }
        }

        #[test]
        fn news_told_twice_are_news_once(known in stages(), news in stages()) {
            let once = known.with(news.clone());
            prop_assert_eq!(once.clone().with(news), once);
        }
    }
}
