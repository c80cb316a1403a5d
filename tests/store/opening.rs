use std::fs;
use std::os::unix::fs::MetadataExt as _;

use ci_bridge::store::{Error, Store};
use sqlx::{Connection as _, SqliteConnection};

use crate::support::{Home, ended, queued, stranger};

async fn pragma<T>(connection: &mut SqliteConnection, statement: &'static str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Send + Unpin,
{
    sqlx::query_scalar(statement).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn the_files_are_for_the_service_and_its_group() {
    let home = Home::new();
    let store = home.open().await;
    assert_eq!(home.files(), ["ci-bridge.db", "ci-bridge.db-shm", "ci-bridge.db-wal"]);
    for name in home.files() {
        assert_eq!(fs::metadata(home.path().join(&name)).unwrap().mode() & 0o7777, 0o640, "{name}");
    }
    store.close().await.unwrap();
    // The log is put away: all is in the one file.
    assert_eq!(home.files(), ["ci-bridge.db"]);
    let mut connection = stranger(&home.database()).await;
    assert_eq!(pragma::<String>(&mut connection, "PRAGMA journal_mode").await, "wal");
}

#[tokio::test]
async fn a_second_bridge_is_refused() {
    let home = Home::new();
    let store = home.open().await;
    let second = Store::open(home.path()).await;
    assert!(matches!(second.err(), Some(Error::InUse { directory }) if directory == home.path()));
    store.close().await.unwrap();
    home.open().await.close().await.unwrap();
}

#[tokio::test]
async fn a_store_that_nobody_closes_keeps_what_it_has() {
    let home = Home::new();
    let store = home.open().await;
    let run = queued(0);
    store.insert_run(run.clone()).await.unwrap();
    assert_eq!(home.killed().open().await.run(run.id).await.unwrap(), Some(run));
}

#[tokio::test]
async fn there_is_no_store_without_a_directory() {
    let home = Home::new();
    let missing = home.path().join("missing");
    let refused = Store::open(&missing).await;
    assert!(matches!(refused.err(), Some(Error::Open { path, .. }) if path == missing));
    fs::create_dir(home.database()).unwrap();
    let refused = Store::open(home.path()).await;
    assert!(matches!(refused.err(), Some(Error::Open { path, .. }) if path == home.database()));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let home = Home::new();
    let store = home.open().await;
    store.insert_run(ended(0)).await.unwrap();
    store.close().await.unwrap();
    let mut connection = stranger(&home.database()).await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
        VALUES (9999, 'later', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let before = fs::read(home.database()).unwrap();

    let Err(refused) = Store::open(home.path()).await else { panic!("opened a database that it does not know") };
    assert!(matches!(refused, Error::UnknownSchema { migration: 9999, .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("install that version again, or move the file away"), "{text}");
    assert_eq!(home.files(), ["ci-bridge.db"]);
    assert!(fs::read(home.database()).unwrap() == before, "the file was changed");
}

#[tokio::test]
async fn a_database_whose_migration_was_another_one_is_refused() {
    let home = Home::new();
    home.open().await.close().await.unwrap();
    let mut connection = stranger(&home.database()).await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let refused = Store::open(home.path()).await.err();
    assert!(matches!(refused, Some(Error::UnknownSchema { migration: 1, .. })), "{refused:?}");
}
