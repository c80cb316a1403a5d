//! The schema: the migrations that are part of the binary, and whether a database can be trusted.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::Error;
use super::files::Files;

/// The files in `migrations/`, in order: version, name, text. A published one never changes.
const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "history", include_str!("../../migrations/0001_history.sql")),
    (2, "runners", include_str!("../../migrations/0002_runners.sql")),
];

/// The oldest SQLite in which a reset of the write-ahead log can't damage the database.
///
/// Source: <https://www.sqlite.org/wal.html#walresetbug>.
const OLDEST_SQLITE: [u32; 3] = [3, 51, 3];

pub(super) fn migrator() -> Migrator {
    let migration = |(version, name, text): (i64, &'static str, &'static str)| {
        let text = sqlx::SqlSafeStr::into_sql_str(text);
        Migration::new(version, name.into(), MigrationType::Simple, text, false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).into())
}

/// Brings the schema up to date.
pub(super) async fn migrate(connection: &mut SqliteConnection, files: &Files) -> Result<(), Error> {
    // Not `run`, whose future the compiler does not see to be `Send`.
    let migrated = migrator().run_direct(None, connection, false).await;
    migrated.map_err(|error| Error::of_migration(error, files.database().to_owned()))
}

/// Refuses a linked SQLite that is known to damage databases.
///
/// # Errors
/// [`Error::OldSqlite`]: nothing may be kept by this build.
pub async fn check_sqlite() -> Result<(), Error> {
    let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
    connection.close().await?;
    if is_safe(&version) { Ok(()) } else { Err(Error::OldSqlite(version)) }
}

fn is_safe(version: &str) -> bool {
    let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    numbers.is_ok_and(|numbers| numbers.as_slice() >= OLDEST_SQLITE.as_slice())
}

/// Chooses a write-ahead log, of which at most 16 MiB stay when something has made it large, and that each transaction
/// waits for the disk. What a large poll of runners changes has room in memory (16 MiB at most, and only as far as it is
/// needed): what has none is written twice.
///
/// Unlike the other settings these look into the file, and so may be the first to meet damage.
pub(super) async fn set_up(connection: &mut SqliteConnection) -> Result<(), Error> {
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 16777216; \
        PRAGMA cache_size = -16384";
    sqlx::raw_sql(settings).execute(connection).await?;
    Ok(())
}

/// Whether the database was not closed properly the last time.
pub(super) async fn was_in_use(connection: &mut SqliteConnection) -> Result<bool, Error> {
    let mark: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await?;
    Ok(mark != 0)
}

/// Notes in the database that it is in use, or no longer.
pub(super) async fn mark_in_use(connection: &mut SqliteConnection, in_use: bool) -> Result<(), Error> {
    let mark = if in_use { "PRAGMA user_version = 1" } else { "PRAGMA user_version = 0" };
    sqlx::query(mark).execute(connection).await?;
    Ok(())
}

/// Looks for contradictions in all of the database.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), Error> {
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(connection).await?;
    if found == "ok" { Ok(()) } else { Err(Error::Corrupt(std::sync::Arc::new(sqlx::Error::Protocol(found)))) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::store::{AuditFilter, DeliveryFilter, RunnerFilter, Store};

    /// A folder of the project.
    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn a_sqlite_that_can_damage_a_database_is_refused() {
        for version in ["3.50.4", "3.51.2", "3.7.0", "2.99.99", "", "3.51", "three"] {
            assert!(!is_safe(version), "{version}");
        }
        for version in ["3.51.3", "3.51.10", "3.53.0", "4.0.0"] {
            assert!(is_safe(version), "{version}");
        }
    }

    #[tokio::test]
    async fn the_linked_sqlite_is_safe() {
        check_sqlite().await.unwrap();
    }

    #[test]
    fn every_migration_is_in_the_binary() {
        let files = fs::read_dir(folder("migrations")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let known = MIGRATIONS.map(|(version, name, _)| format!("{version:04}_{name}.sql"));
        assert_eq!(files, known);
    }

    /// Each migration has a file of what its version could have recorded; all of that is still there after the last one.
    #[tokio::test]
    async fn what_an_older_version_recorded_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let database = home.path().join("ci-bridge.db");
        let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        for (version, name, _) in MIGRATIONS {
            migrator().run_to(version, &mut connection).await.unwrap();
            let sample = folder("tests/store/samples").join(format!("{version:04}_{name}.sql"));
            let sample = fs::read_to_string(sample).unwrap();
            sqlx::raw_sql(AssertSqlSafe(sample)).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();

        let store = Store::open(home.path()).await.unwrap().store;
        let job = crate::policy::JobName::parse("ci-test-build").unwrap();
        let runs = store.history(&job, None, 100).await.unwrap();
        let phases: Vec<_> = runs.iter().map(|run| format!("{:?}", run.progress.phase)).collect();
        assert_eq!(phases.len(), 5);
        assert_eq!(phases[..2], ["Queued", "Running"]);
        let verdicts = ["Success, exit: Some(Code(0))", "Failed(\"oom-kill\"), exit: Some(Signal(9))", "Lost"];
        for (phase, verdict) in phases[2..].iter().zip(verdicts) {
            assert!(phase.contains(verdict), "{phase}");
        }
        let waiting = store.waiting().await.unwrap();
        assert_eq!(waiting.iter().map(|waiting| &waiting.run).collect::<Vec<_>>(), [&runs[0]]);
        assert_eq!(store.audit(None, 100, &AuditFilter::default()).await.unwrap().len(), 2);
        let now = jiff::Timestamp::from_second(1_767_225_600).unwrap();
        assert_eq!(store.forget_expired(now + std::time::Duration::from_hours(48)).await.unwrap(), 2);
        assert_eq!(store.sources().await.unwrap().len(), 2);
        let runners = store.runners(&RunnerFilter::default(), None, 100).await.unwrap();
        assert_eq!(runners.len(), 1);
        assert_eq!(store.runner_history(runners[0].id, None, 100).await.unwrap().len(), 2);
        assert_eq!(store.deliveries(DeliveryFilter::All, None, 100).await.unwrap().len(), 4);
        assert_eq!(store.due("ops", jiff::Timestamp::MAX, 100).await.unwrap().len(), 1);
    }
}
