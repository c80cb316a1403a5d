//! The fleet: how the sources do, which runners there are, and the history of each.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row as _, Sqlite, SqliteConnection};

use super::outbox::{self, Delivery};
use super::values::{foreign, id, micros, micros_of, optional_time, span, time};
use super::{Error, PAGE, Store};
use crate::runners::transitions::{Changes, Fleet, Known};
use crate::runners::uptime::{Entry, State, Uptime};
use crate::runners::{ExternalId, Kind, Provider, RunnerId, Seen, SourceName};

/// How a source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRecord {
    /// Its name.
    pub name: SourceName,
    /// Its service.
    pub provider: Provider,
    /// When it was last polled.
    pub polled: Timestamp,
    /// When it last told of all its runners; `None` if it never did.
    pub heard: Option<Heard>,
    /// How many polls since then did not.
    pub failures: u32,
    /// What the last one of these came to.
    pub error: Option<String>,
    /// Whether somebody was told that it can't be reached.
    pub unreachable: bool,
    /// Before this time another poll makes no sense.
    pub not_before: Option<Timestamp>,
}

/// When a source told of its runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The time of the poll.
    pub at: Timestamp,
    /// Until when that counts, if nothing is heard after it.
    pub until: Timestamp,
}

/// What one poll of a source came to. It is recorded as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// How the source does now.
    pub source: SourceRecord,
    /// Its runners that have changed; the same one more than once if it did so more than once, in order.
    pub changed: Vec<Known>,
    /// What is to be told of it.
    pub deliveries: Vec<Delivery>,
}

/// A runner that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerRecord {
    /// Its id.
    pub id: RunnerId,
    /// The source that lists it, or did.
    pub source: SourceName,
    /// The service of that source.
    pub provider: Provider,
    /// What is known of it.
    pub known: Known,
}

/// Which runners are asked for: those of which all that is given holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunnerFilter {
    /// The service.
    pub provider: Option<Provider>,
    /// The source.
    pub source: Option<SourceName>,
    /// Whose they are: any of these, or anybody's if there is none.
    pub kinds: Vec<Kind>,
    /// What is known of them; removed ones are listed only if they are asked for.
    pub state: Option<State>,
    /// Whether they run a job.
    pub busy: Option<bool>,
    /// Whether they take no new jobs.
    pub paused: Option<bool>,
    /// Labels that they have, all of them, as they are written.
    pub labels: Vec<String>,
    /// A part of their name; the case of ASCII letters does not matter.
    pub name: Option<String>,
}

/// Rows of one statement; it is the same text for all of a large poll but the last.
const ROWS: usize = 64;

const SOURCE: &str = "INSERT INTO runner_sources (\
        name, provider, polled_at, succeeded_at, heard_until, failures, error, unreachable, not_before\
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET \
    provider = excluded.provider, polled_at = excluded.polled_at, succeeded_at = excluded.succeeded_at, \
    heard_until = excluded.heard_until, failures = excluded.failures, error = excluded.error, \
    unreachable = excluded.unreachable, not_before = excluded.not_before";

const RUNNERS: &str = "INSERT INTO runners (\
        id, source, external_id, name, os, labels, online, status, busy, paused, ephemeral, version, kind, \
        contacted_at, locked, first_seen, confirmed, differing, differing_since, missing, changes, flapping, state, \
        since, online_before, known_before\
    ) ";

const RUNNERS_UPDATE: &str = " ON CONFLICT (id) DO UPDATE SET \
    name = excluded.name, os = excluded.os, labels = excluded.labels, online = excluded.online, \
    status = excluded.status, busy = excluded.busy, paused = excluded.paused, ephemeral = excluded.ephemeral, \
    version = excluded.version, kind = excluded.kind, contacted_at = excluded.contacted_at, \
    locked = excluded.locked, first_seen = excluded.first_seen, confirmed = excluded.confirmed, \
    differing = excluded.differing, differing_since = excluded.differing_since, missing = excluded.missing, \
    changes = excluded.changes, flapping = excluded.flapping, state = excluded.state, since = excluded.since, \
    online_before = excluded.online_before, known_before = excluded.known_before";

const HISTORY: &str = "INSERT INTO runner_history (runner, at, state, online_before, known_before) ";

/// Reads runners with the service of their source.
const LIST: &str = "SELECT runners.*, runner_sources.provider FROM runners \
    JOIN runner_sources ON runner_sources.name = runners.source WHERE ";

/// The same, with `listed` for the index of those that are present: a name is looked at there, before any row is read.
const LIST_BY_NAME: &str = "SELECT runners.*, runner_sources.provider FROM runners AS listed \
    CROSS JOIN runners ON runners.id = listed.id JOIN runner_sources ON runner_sources.name = runners.source WHERE ";

const NOT_AFTER: &str = "SELECT * FROM runner_history WHERE runner = ? AND at <= ? ORDER BY at DESC LIMIT 1";

const BEFORE: &str = "SELECT * FROM runner_history WHERE runner = ? AND at < ? ORDER BY at DESC LIMIT ?";

const FORGET_REMOVED: &str = "DELETE FROM runners WHERE id IN \
    (SELECT id FROM runners WHERE state = 'removed' AND since < ? ORDER BY since, id LIMIT ?)";

/// The newest entry that is older stays: it says what the state was at that time.
const FORGET_HISTORY: &str = "DELETE FROM runner_history WHERE (runner, at) IN (\
        SELECT old.runner, old.at FROM runners CROSS JOIN runner_history AS old ON old.runner = runners.id \
        WHERE old.at < (SELECT max(at) FROM runner_history WHERE runner = runners.id AND at <= ?) LIMIT ?\
    )";

impl Store {
    /// Records what a poll came to, in one transaction. What is recorded already stays as it is.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; nothing of it is recorded then.
    pub async fn record_poll(&self, recorded: Recorded) -> Result<(), Error> {
        self.writer.write(move |connection| Box::pin(record(connection, recorded))).await
    }

    /// How all sources do that were ever polled, by their names.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn sources(&self) -> Result<Vec<SourceRecord>, Error> {
        let sources = sqlx::query_as("SELECT * FROM runner_sources ORDER BY name").fetch_all(&self.readers).await;
        sources.map_err(|error| self.sort(error))
    }

    /// How a source does; `None` if it was never polled.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn source(&self, name: &SourceName) -> Result<Option<SourceRecord>, Error> {
        let source = sqlx::query_as("SELECT * FROM runner_sources WHERE name = ?").bind(name.as_str());
        source.fetch_optional(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// The runners that a source lists.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn fleet(&self, source: &SourceName) -> Result<Fleet, Error> {
        let known = sqlx::query_as("SELECT * FROM runners WHERE source = ? AND state <> 'removed'");
        let known = known.bind(source.as_str()).fetch_all(&self.readers).await;
        Ok(by_id(known.map_err(|error| self.sort(error))?))
    }

    /// Those of the runners of a source that it once listed and no longer does.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn former(&self, source: &SourceName, runners: &[&ExternalId]) -> Result<Fleet, Error> {
        let mut former = Fleet::new();
        for runners in runners.chunks(ROWS) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM runners WHERE state = 'removed' AND source = ");
            query.push_bind(source.as_str()).push(" AND external_id IN (");
            let mut ids = query.separated(", ");
            for runner in runners {
                ids.push_bind(runner.as_str());
            }
            query.push(")");
            let known = query.build_query_as().fetch_all(&self.readers).await;
            former.extend(by_id(known.map_err(|error| self.sort(error))?));
        }
        Ok(former)
    }

    /// The runners that `filter` asks for, by name, at most `limit` and at most [`PAGE`]; with `after` those after that
    /// one.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn runners(
        &self,
        filter: &RunnerFilter,
        after: Option<RunnerId>,
        limit: u32,
    ) -> Result<Vec<RunnerRecord>, Error> {
        let mut query = list(filter, after, limit);
        query.build_query_as().fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// The runner of that id.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn runner(&self, runner: RunnerId) -> Result<Option<RunnerRecord>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(LIST);
        query.push("runners.id = ").push_bind(runner.as_bytes().to_vec());
        query.build_query_as().fetch_optional(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// What became of a runner, newest first, at most `limit` and at most [`PAGE`]; with `before` what was before that.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn runner_history(
        &self,
        runner: RunnerId,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Entry>, Error> {
        let page = sqlx::query_as(BEFORE)
            .bind(runner.as_bytes().to_vec())
            .bind(before.map_or(i64::MAX, micros))
            .bind(limit.min(PAGE));
        page.fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// How a runner did from `from` on and before `to`; `None` if there is no such runner.
    ///
    /// Costs the same whatever the window, and however much happened in it.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn uptime(&self, runner: RunnerId, from: Timestamp, to: Timestamp) -> Result<Option<Uptime>, Error> {
        let Some(record) = self.runner(runner).await? else { return Ok(None) };
        let heard = self.source(&record.source).await?.and_then(|source| source.heard);
        let until = heard.map_or(Timestamp::MIN, |heard| heard.until);
        let (first, last) = (self.entry(runner, from.min(until)).await?, self.entry(runner, to.min(until)).await?);
        Ok(Some(Uptime::between((from, first), (to, last), until)))
    }

    /// The last entry of a runner's history that is not after `at`.
    async fn entry(&self, runner: RunnerId, at: Timestamp) -> Result<Option<Entry>, Error> {
        let entry = sqlx::query_as(NOT_AFTER).bind(runner.as_bytes().to_vec()).bind(micros(at));
        entry.fetch_optional(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// Forgets runners that were removed before `oldest`, and what became of others before it; returns how many runners
    /// and entries those were. What the state was at that time is still known.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; some may be forgotten then.
    pub async fn forget_runners(&self, oldest: Timestamp) -> Result<u64, Error> {
        let removed = self.forget_before(FORGET_REMOVED, oldest).await?;
        Ok(removed + self.forget_before(FORGET_HISTORY, oldest).await?)
    }
}

fn by_id(known: Vec<Known>) -> Fleet {
    known.into_iter().map(|known| (known.seen.external_id.clone(), known)).collect()
}

/// A page.
fn list(filter: &RunnerFilter, after: Option<RunnerId>, limit: u32) -> QueryBuilder<Sqlite> {
    let by_name = filter.name.is_some() && filter.state != Some(State::Removed);
    let (list, listed) = if by_name { (LIST_BY_NAME, "listed") } else { (LIST, "runners") };
    let mut query = QueryBuilder::<Sqlite>::new(list);
    match filter.state {
        // As the index has it.
        None => query.push(format!("{listed}.state <> 'removed'")),
        Some(State::Removed) => query.push("runners.state = 'removed'"),
        Some(state) => {
            query.push(format!("{listed}.state <> 'removed' AND {listed}.state = ")).push_bind(state.as_str())
        }
    };
    if let Some(name) = &filter.name {
        let name = name.to_ascii_lowercase();
        query.push(format!(" AND instr(lower({listed}.name), ")).push_bind(name).push(") > 0");
    }
    if let Some(provider) = filter.provider {
        query.push(" AND runner_sources.provider = ").push_bind(provider.as_str());
    }
    if let Some(source) = &filter.source {
        query.push(" AND runners.source = ").push_bind(source.as_str().to_owned());
    }
    if !filter.kinds.is_empty() {
        query.push(" AND runners.kind IN (");
        let mut kinds = query.separated(", ");
        for kind in &filter.kinds {
            kinds.push_bind(kind.as_str());
        }
        query.push(")");
    }
    if let Some(busy) = filter.busy {
        query.push(" AND runners.busy = ").push_bind(busy);
    }
    if let Some(paused) = filter.paused {
        query.push(" AND runners.paused = ").push_bind(paused);
    }
    for label in &filter.labels {
        // The first of these is quick and passes nearly no others.
        let text = serde_json::Value::from(label.as_str()).to_string();
        query.push(" AND instr(runners.labels, ").push_bind(text).push(") > 0");
        query.push(" AND EXISTS (SELECT 1 FROM json_each(runners.labels) WHERE value = ").push_bind(label.clone());
        query.push(")");
    }
    if let Some(after) = after {
        let after = after.as_bytes().to_vec();
        query.push(format!(" AND ({listed}.name, {listed}.id) > (SELECT name, id FROM runners WHERE id = "));
        query.push_bind(after).push(")");
    }
    query.push(format!(" ORDER BY {listed}.name, {listed}.id LIMIT ")).push_bind(limit.min(PAGE));
    query
}

async fn record(connection: &mut SqliteConnection, recorded: Recorded) -> Result<(), Error> {
    let Recorded { source, changed, deliveries } = recorded;
    sqlx::query(SOURCE)
        .bind(source.name.as_str())
        .bind(source.provider.as_str())
        .bind(micros(source.polled))
        .bind(source.heard.map(|heard| micros(heard.at)))
        .bind(source.heard.map(|heard| micros(heard.until)))
        .bind(source.failures)
        .bind(&source.error)
        .bind(source.unreachable)
        .bind(source.not_before.map(micros))
        .execute(&mut *connection)
        .await?;
    let mut runners: Vec<_> =
        changed.iter().map(|known| (RunnerId::of(&source.name, &known.seen.external_id), known)).collect();
    // As the tables have them, so that neighbours are written together. Changes of the same one stay in their order.
    runners.sort_by_key(|(runner, _)| *runner);
    for runners in runners.chunks(ROWS) {
        update_runners(connection, &source.name, runners).await?;
        add_entries(connection, runners).await?;
    }
    outbox::insert(connection, deliveries).await
}

async fn update_runners(
    connection: &mut SqliteConnection,
    source: &SourceName,
    runners: &[(RunnerId, &Known)],
) -> Result<(), Error> {
    let mut labels = Vec::with_capacity(runners.len());
    for (_, known) in runners {
        labels.push(serde_json::to_string(&known.seen.labels).map_err(foreign)?);
    }
    let mut query = QueryBuilder::<Sqlite>::new(RUNNERS);
    query.push_values(runners.iter().zip(labels), |mut row, ((runner, known), labels)| {
        let Known { seen, entry, .. } = known;
        row.push_bind(runner.as_bytes().to_vec())
            .push_bind(source.as_str().to_owned())
            .push_bind(seen.external_id.as_str().to_owned())
            .push_bind(seen.name.clone())
            .push_bind(seen.os.clone())
            .push_bind(labels)
            .push_bind(seen.online)
            .push_bind(seen.status.clone())
            .push_bind(seen.busy)
            .push_bind(seen.paused)
            .push_bind(seen.ephemeral)
            .push_bind(seen.version.clone())
            .push_bind(seen.kind.map(Kind::as_str))
            .push_bind(seen.contacted_at.map(micros))
            .push_bind(seen.locked)
            .push_bind(micros(known.first_seen))
            .push_bind(known.confirmed)
            .push_bind(known.differing)
            .push_bind(known.differing_since.map(micros))
            .push_bind(known.missing)
            .push_bind(known.changes.bits)
            .push_bind(known.changes.flapping)
            .push_bind(entry.state.as_str())
            .push_bind(micros(entry.at))
            .push_bind(micros_of(entry.online_before))
            .push_bind(micros_of(entry.known_before));
    });
    query.push(RUNNERS_UPDATE);
    query.build().persistent(runners.len() == ROWS).execute(connection).await?;
    Ok(())
}

async fn add_entries(connection: &mut SqliteConnection, runners: &[(RunnerId, &Known)]) -> Result<(), Error> {
    let mut query = QueryBuilder::<Sqlite>::new(HISTORY);
    query.push_values(runners, |mut row, (runner, Known { entry, .. })| {
        row.push_bind(runner.as_bytes().to_vec())
            .push_bind(micros(entry.at))
            .push_bind(entry.state.as_str())
            .push_bind(micros_of(entry.online_before))
            .push_bind(micros_of(entry.known_before));
    });
    // A runner of which something else has changed comes with the entry that is there.
    query.push(" ON CONFLICT (runner, at) DO NOTHING");
    query.build().persistent(runners.len() == ROWS).execute(connection).await?;
    Ok(())
}

fn state(row: &SqliteRow) -> sqlx::Result<State> {
    State::from_word(row.try_get("state")?).ok_or_else(|| foreign("a state that is none"))
}

fn provider(row: &SqliteRow) -> sqlx::Result<Provider> {
    Provider::from_word(row.try_get("provider")?).ok_or_else(|| foreign("a provider that is none"))
}

fn source_name(row: &SqliteRow, column: &str) -> sqlx::Result<SourceName> {
    row.try_get::<&str, _>(column)?.parse().map_err(foreign)
}

/// The entry of a row whose time is in the column `at`.
fn entry(row: &SqliteRow, at: &str) -> sqlx::Result<Entry> {
    Ok(Entry {
        at: time(row, at)?,
        state: state(row)?,
        online_before: span(row, "online_before")?,
        known_before: span(row, "known_before")?,
    })
}

impl FromRow<'_, SqliteRow> for Entry {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        entry(row, "at")
    }
}

impl FromRow<'_, SqliteRow> for Known {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let seen = Seen {
            external_id: ExternalId::new(row.try_get::<&str, _>("external_id")?),
            name: row.try_get("name")?,
            os: row.try_get("os")?,
            labels: serde_json::from_str(row.try_get("labels")?).map_err(foreign)?,
            online: row.try_get("online")?,
            status: row.try_get("status")?,
            busy: row.try_get("busy")?,
            paused: row.try_get("paused")?,
            ephemeral: row.try_get("ephemeral")?,
            version: row.try_get("version")?,
            kind: row.try_get::<Option<&str>, _>("kind")?.and_then(Kind::from_word),
            contacted_at: optional_time(row, "contacted_at")?,
            locked: row.try_get("locked")?,
        };
        Ok(Self {
            seen,
            first_seen: time(row, "first_seen")?,
            confirmed: row.try_get("confirmed")?,
            differing: row.try_get("differing")?,
            differing_since: optional_time(row, "differing_since")?,
            missing: row.try_get("missing")?,
            changes: Changes { bits: row.try_get("changes")?, flapping: row.try_get("flapping")? },
            entry: entry(row, "since")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for RunnerRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: RunnerId::from_bytes(id(row, "id")?),
            source: source_name(row, "source")?,
            provider: provider(row)?,
            known: Known::from_row(row)?,
        })
    }
}

impl FromRow<'_, SqliteRow> for SourceRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let (at, until) = (optional_time(row, "succeeded_at")?, optional_time(row, "heard_until")?);
        Ok(Self {
            name: source_name(row, "name")?,
            provider: provider(row)?,
            polled: time(row, "polled_at")?,
            heard: at.zip(until).map(|(at, until)| Heard { at, until }),
            failures: row.try_get("failures")?,
            error: row.try_get("error")?,
            unreachable: row.try_get("unreachable")?,
            not_before: optional_time(row, "not_before")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_question_looks_at_all_of_the_history_and_no_page_is_sorted() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let page = |filter: RunnerFilter, after: Option<RunnerId>| list(&filter, after, 50).into_string();
        let runner = RunnerId::from_bytes([1; 16]);
        let online = RunnerFilter { state: Some(State::Online), ..RunnerFilter::default() };
        let named = RunnerFilter { name: Some("build".to_owned()), ..online.clone() };
        let cases = [
            (NOT_AFTER.to_owned(), "PRIMARY KEY (runner=? AND at<?)"),
            (BEFORE.to_owned(), "PRIMARY KEY (runner=? AND at<?)"),
            (page(RunnerFilter::default(), None), "runners_present"),
            (page(online, Some(runner)), "runners_present ((name,id)>(?,?))"),
            (page(named.clone(), None), "SCAN listed USING COVERING INDEX runners_present"),
            (page(named, Some(runner)), "listed USING COVERING INDEX runners_present ((name,id)>(?,?))"),
            (FORGET_REMOVED.to_owned(), "runners_removed (since<?)"),
        ];
        for (statement, index) in cases {
            let steps = store.plan(&statement).await;
            assert!(steps.iter().any(|step| step.contains(index)), "{statement}: {steps:?}");
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{statement}: {steps:?}");
        }
    }
}
