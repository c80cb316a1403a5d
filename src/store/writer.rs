//! The one connection that writes.
//!
//! All writes go through one task, in the order in which they came. What waits when a transaction begins is written in
//! it and shares its `fsync`, each write in a savepoint of its own; none is acknowledged before it is on the disk. A
//! caller who goes away takes nothing back.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteQueryResult};
use sqlx::{Connection as _, Sqlite, SqliteConnection};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::files::{Files, Identity};
use super::{Error, schema};

/// Writes that share a transaction.
const BATCH: usize = 256;
/// Writes that may wait; further callers wait for a place.
const WAITING: usize = 1024;

/// A statement with its parameters.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// A write that waits, and whoever waits for it.
trait Waiting: Send {
    /// Does the write, in a transaction that is not committed yet.
    fn carry_out<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Result<(), Error>>;

    /// Tells what became of it.
    fn settle(self: Box<Self>, committed: Result<(), Error>);
}

struct Write<W, T> {
    work: Option<W>,
    outcome: Result<T, Error>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<W, T> Waiting for Write<W, T>
where
    W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Error>> + Send,
    T: Send,
{
    fn carry_out<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Result<(), Error>> {
        Box::pin(async {
            if let Some(work) = self.work.take() {
                self.outcome = work(connection).await;
            }
            self.outcome.as_ref().map(|_| ()).map_err(Error::clone)
        })
    }

    fn settle(self: Box<Self>, committed: Result<(), Error>) {
        // Whoever asked may have gone away.
        let _ = self.reply.send(committed.and(self.outcome));
    }
}

/// The task that writes, and how closing the connection came out.
type Task = JoinHandle<Result<(), Error>>;

/// The way to the task that writes; clones lead to the same.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Waiting>>,
    stop: CancellationToken,
    task: Arc<Mutex<Option<Task>>>,
}

/// What the task that writes has to itself.
pub(super) struct Desk {
    pub(super) connection: SqliteConnection,
    pub(super) files: Files,
    pub(super) identity: Identity,
    /// Whether anybody has met damage. Such a database is checked when it is opened again.
    pub(super) damaged: Arc<AtomicBool>,
    /// Where the last failure is announced that was no single write's.
    pub(super) failures: watch::Sender<Option<Error>>,
    /// Keeps other processes away as long as the connection is open.
    pub(super) lock: File,
}

impl Writer {
    pub(super) fn start(desk: Desk) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(desk, waiting, stop.clone()));
        Self { queue, stop, task: Arc::new(Mutex::new(Some(task))) }
    }

    /// Carries out `work` and returns when it is on the disk. If it fails, nothing of it is.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let write = Box::new(Write { work: Some(work), outcome: Err(Error::Closed), reply });
        self.queue.send(write).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Executes one statement as [`Writer::write`] does.
    pub(super) async fn execute(&self, statement: Statement) -> Result<SqliteQueryResult, Error> {
        self.write(|connection| Box::pin(async { Ok(statement.execute(connection).await?) })).await
    }

    /// Finishes what waits and closes the connection.
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.stop.cancel();
        match self.task.lock().await.take() {
            Some(task) => task.await.map_err(|_| Error::Closed)?,
            None => Ok(()),
        }
    }
}

async fn run(
    mut desk: Desk,
    mut queue: mpsc::Receiver<Box<dyn Waiting>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled(), if !queue.is_closed() => queue.close(),
            count = queue.recv_many(&mut batch, BATCH) => match count {
                0 => return desk.close().await,
                _ => desk.write(std::mem::take(&mut batch)).await,
            },
        }
    }
}

impl Desk {
    async fn write(&mut self, mut batch: Vec<Box<dyn Waiting>>) {
        let mut committed = self.transaction(&mut batch).await;
        if let Err(error) = &committed {
            if matches!(error, Error::Corrupt(_)) {
                self.damaged.store(true, Ordering::Relaxed);
            }
            // SQLite has done so by itself after some errors, and then says that there is no transaction.
            let _ = self.say("ROLLBACK").await;
        } else if self.files.identity().ok().as_ref() != Some(&self.identity) {
            committed = Err(Error::Gone);
        }
        match &committed {
            // Others have locked it, and will unlock it.
            Ok(()) | Err(Error::Busy(_)) => {}
            Err(error) => drop(self.failures.send_replace(Some(error.clone()))),
        }
        for write in batch {
            write.settle(committed.clone());
        }
    }

    async fn transaction(&mut self, batch: &mut [Box<dyn Waiting>]) -> Result<(), Error> {
        self.say("BEGIN IMMEDIATE").await?;
        for write in batch {
            self.say("SAVEPOINT one").await?;
            match write.carry_out(&mut self.connection).await {
                Ok(()) => {}
                Err(error) if error.spares_others() => self.say("ROLLBACK TO one").await?,
                Err(error) => return Err(error),
            }
            self.say("RELEASE one").await?;
        }
        self.say("COMMIT").await
    }

    /// The transactions of sqlx count on a rollback being theirs alone, so they are not used.
    async fn say(&mut self, statement: &'static str) -> Result<(), Error> {
        sqlx::query(statement).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn close(mut self) -> Result<(), Error> {
        let marked = if self.damaged.load(Ordering::Relaxed) {
            Ok(())
        } else {
            schema::mark_in_use(&mut self.connection, false).await
        };
        let put_away = self.say("PRAGMA wal_checkpoint(TRUNCATE)").await;
        let closed = self.connection.close().await.map_err(Error::from);
        drop(self.lock);
        marked.and(put_away).and(closed)
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{Error, Store};

    #[tokio::test]
    async fn a_write_without_room_undoes_all_of_its_transaction_and_the_next_with_room_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let bound = |pages: &'static str| store.writer.execute(sqlx::query(pages));
        let add = |size: i64| {
            let row = "INSERT INTO audit (at, kind, outcome) VALUES (0, 'start', hex(zeroblob(?)))";
            store.writer.execute(sqlx::query(row).bind(size))
        };
        let count = || async {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM audit").fetch_one(&store.readers).await.unwrap();
            count
        };
        add(10).await.unwrap();
        bound("PRAGMA max_page_count = 40").await.unwrap();
        // All three wait when the transaction begins.
        let (first, second, third) = tokio::join!(add(10), add(1_000_000), add(10));
        for refused in [first, second, third] {
            assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
        }
        assert_eq!(count().await, 1);
        add(10).await.unwrap();
        bound("PRAGMA max_page_count = 4000").await.unwrap();
        add(1_000_000).await.unwrap();
        assert_eq!(count().await, 3);
    }

    #[tokio::test]
    async fn a_write_that_is_refused_leaves_the_others_of_its_transaction() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let add = |id: i64| {
            store.writer.write(move |connection| {
                Box::pin(async move {
                    // The first statement of a write is undone with it.
                    sqlx::query("INSERT INTO audit (at, kind, outcome) VALUES (0, 'x', 'x')")
                        .execute(&mut *connection)
                        .await?;
                    let row = sqlx::query("INSERT INTO audit (id, at, kind, outcome) VALUES (?, 0, 'y', 'y')");
                    row.bind(id).execute(connection).await?;
                    Ok(())
                })
            })
        };
        let (first, again, other) = tokio::join!(add(100), add(100), add(200));
        assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
        first.unwrap();
        other.unwrap();
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, kind FROM audit ORDER BY id").fetch_all(&store.readers).await.unwrap();
        let rows: Vec<_> = rows.iter().map(|(id, kind)| (*id, kind.as_str())).collect();
        assert_eq!(rows, [(1, "x"), (100, "y"), (101, "x"), (200, "y")]);
    }

    #[tokio::test]
    async fn the_settings_are_what_keeps_the_promise() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let settings = store.writer.write(|connection| {
            Box::pin(async move {
                let mut found = Vec::new();
                for setting in [
                    "SELECT journal_mode FROM pragma_journal_mode",
                    "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous",
                    "SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys",
                    "SELECT CAST(trusted_schema AS TEXT) FROM pragma_trusted_schema",
                ] {
                    let value: String = sqlx::query_scalar(setting).fetch_one(&mut *connection).await?;
                    found.push(value);
                }
                Ok(found)
            })
        });
        assert_eq!(settings.await.unwrap(), ["wal", "2", "1", "0"]);
        let written = sqlx::query("DELETE FROM audit").execute(&store.readers).await.unwrap_err();
        assert!(written.to_string().contains("readonly database"), "{written}");
    }
}
