//! Files that are not what they should be. A damaged history must not keep the bridge from starting.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use ci_bridge::store::{Error, Store};
use sqlx::Connection as _;

use crate::support::{Home, ended, entry, ids, job, queued, stranger};

const SQLITE_PAGE: u64 = 4096;

/// Runs enough to fill some hundred pages.
async fn fill(store: &Store) {
    let inserts = (0..600).map(|number| store.insert_run(ended(number)));
    for inserted in futures_util::future::join_all(inserts).await {
        inserted.unwrap();
    }
}

/// Overwrites all pages of the database but the first with something else.
fn damage(home: &Home) {
    let file = OpenOptions::new().write(true).open(home.database()).unwrap();
    let pages = file.metadata().unwrap().len() / SQLITE_PAGE;
    for page in 1..pages {
        file.write_all_at(&[0xa5; 4096], page * SQLITE_PAGE).unwrap();
    }
}

/// Overwrites the root of the table of runs alone.
async fn damage_runs(home: &Home) {
    let mut connection = stranger(&home.database()).await;
    let root: i64 = sqlx::query_scalar("SELECT rootpage FROM sqlite_schema WHERE name = 'runs' AND type = 'table'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let file = OpenOptions::new().write(true).open(home.database()).unwrap();
    file.write_all_at(&[0xa5; 4096], (u64::try_from(root).unwrap() - 1) * SQLITE_PAGE).unwrap();
}

#[tokio::test]
async fn what_is_no_database_is_moved_aside() {
    let home = Home::new();
    let garbage = b"This is no database. ".repeat(1000);
    fs::write(home.database(), &garbage).unwrap();
    fs::write(home.path().join("ci-bridge.db-wal"), "nor is this a log").unwrap();
    let opened = Store::open(home.path()).await.unwrap();
    let aside = opened.set_aside.unwrap();
    assert!(aside.to_str().unwrap().starts_with(home.path().join("ci-bridge.db.corrupt-2").to_str().unwrap()));
    assert_eq!(fs::read(&aside).unwrap(), garbage);
    // The new one is no less a store.
    let run = queued(0);
    opened.store.insert_run(run.clone()).await.unwrap();
    opened.store.close().await.unwrap();
    assert_eq!(home.open().await.run(run.id).await.unwrap(), Some(run));
}

#[tokio::test]
async fn damage_is_found_after_an_unclean_end() {
    let home = Home::new();
    let store = home.open().await;
    fill(&store).await;
    store.close().await.unwrap();
    let store = home.open().await;
    let killed = home.killed();
    store.close().await.unwrap();
    damage(&killed);
    let opened = Store::open(killed.path()).await.unwrap();
    let aside = opened.set_aside.unwrap();
    assert!(aside.exists());
    let log = format!("{}-wal", aside.display());
    assert!(fs::exists(log).unwrap(), "the log was not moved with the database");
    assert_eq!(opened.store.history(&job("ci-test-build"), None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn damage_that_is_met_later_is_told_and_moved_aside_at_the_next_start() {
    let home = Home::new();
    let store = home.open().await;
    fill(&store).await;
    store.close().await.unwrap();
    damage_runs(&home).await;
    // It was closed cleanly, so nobody looks.
    let store = home.open().await;
    let met = store.history(&job("ci-test-build"), None, 10).await;
    assert!(matches!(met, Err(Error::Corrupt(_))), "{met:?}");
    // What is not damaged goes on.
    store.append_audit(vec![entry(0)]).await.unwrap();
    store.close().await.unwrap();
    let opened = Store::open(home.path()).await.unwrap();
    assert!(opened.set_aside.is_some());
    assert_eq!(opened.store.history(&job("ci-test-build"), None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_log_that_was_cut_off_loses_what_was_cut_off() {
    let home = Home::new();
    let store = home.open().await;
    let mut runs = Vec::new();
    for number in 0..20 {
        let run = ended(number);
        store.insert_run(run.clone()).await.unwrap();
        runs.push(run);
    }
    let killed = home.killed();
    let log = OpenOptions::new().write(true).open(killed.path().join("ci-bridge.db-wal")).unwrap();
    log.set_len(log.metadata().unwrap().len() - 10_000).unwrap();
    let store = killed.open().await;
    let left = store.history(&job("ci-test-build"), None, 100).await.unwrap();
    assert!((1..20).contains(&left.len()), "{} left", left.len());
    runs.truncate(left.len());
    runs.reverse();
    assert_eq!(ids(&left), ids(&runs));
}

#[tokio::test]
async fn a_database_that_was_deleted_is_not_written_on() {
    for name in ["ci-bridge.db", "ci-bridge.db-wal", "ci-bridge.db-shm"] {
        let home = Home::new();
        let store = home.open().await;
        store.insert_run(queued(0)).await.unwrap();
        fs::remove_file(home.path().join(name)).unwrap();
        let lost = store.insert_run(queued(1)).await;
        assert!(matches!(lost, Err(Error::Gone)), "{name}: {lost:?}");
        let _ = store.close().await;
        let store = home.open().await;
        let run = queued(2);
        store.insert_run(run.clone()).await.unwrap();
        assert_eq!(store.run(run.id).await.unwrap(), Some(run), "{name}");
    }
}

#[tokio::test]
async fn a_database_that_was_replaced_is_not_written_on() {
    let (home, other) = (Home::new(), Home::new());
    other.open().await.close().await.unwrap();
    let store = home.open().await;
    fs::rename(other.database(), home.database()).unwrap();
    let lost = store.insert_run(queued(1)).await;
    assert!(matches!(lost, Err(Error::Gone)), "{lost:?}");
}
