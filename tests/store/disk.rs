//! Disks that are full, read-only or somebody else's, and databases that somebody else has locked.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use ci_bridge::alerts::{Alerts, Teller};
use ci_bridge::config::Settings;
use ci_bridge::outages;
use ci_bridge::store::{AuditEntry, AuditFilter, DeliveryFilter, DeliveryRecord, Error, Store};
use sqlx::Connection as _;

use crate::support::{DIRECTORY, Disk, Home, ended, entry, queued, same_test, stranger};

/// A user who owns nothing: `nobody` on most systems.
const NOBODY: u32 = 65534;

/// Adds an entry that takes some pages.
async fn write(store: &Store) -> Result<(), Error> {
    let large = AuditEntry { outcome: "x".repeat(20_000), ..entry(0) };
    store.append_audit(vec![large]).await
}

async fn audited(store: &Store) -> usize {
    store.audit(None, 1000, &AuditFilter::default()).await.unwrap().len()
}

#[tokio::test]
#[ignore = "mounts file systems, as root: make test"]
async fn a_full_disk_is_told_and_room_is_used_again() {
    let disk = Disk::in_memory("8m");
    let store = disk.home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    let mut written = 0;
    for _ in 0..3 {
        disk.fill();
        // Some may find room in what the log has taken before.
        let refused = loop {
            match write(&store).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::Full(_)), "{refused:?}");
        // What is there can be read, and the process goes on.
        assert_eq!(store.run(run.id).await.unwrap(), Some(run.clone()));
        assert_eq!(audited(&store).await, written);
        disk.make_room();
        for _ in 0..20 {
            write(&store).await.unwrap();
            written += 1;
        }
    }
    disk.fill();
    // It cannot be put away cleanly, and is whole all the same.
    let _ = store.close().await;
    disk.make_room();
    let store = disk.home.open().await;
    assert_eq!(audited(&store).await, written);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts file systems, as root: make test"]
async fn who_wants_to_know_of_a_full_disk_is_told_once_that_it_is_and_once_that_it_is_over() {
    let disk = Disk::in_memory("8m");
    let store = disk.home.open().await;
    let text = "jobs.prefixes = [\"ci-test-\"]\n[[alerts]]\nname = \"ops\"\nurl = \"https://hooks.example.com/x\"\n\
                events = [\"storage.failed\", \"storage.recovered\"]\n";
    let teller = Teller::new(Alerts::load(&Settings::parse(text).unwrap().alerts).unwrap());
    let quiet = Duration::from_millis(300);
    let watching = tokio::spawn(outages::watch_history(store.clone(), None, teller, quiet));
    let told = async || {
        let deliveries = store.deliveries(DeliveryFilter::All, None, 10).await.unwrap();
        let said = |record: &DeliveryRecord| (record.delivery.kind.clone(), record.delivery.body.clone());
        deliveries.iter().rev().map(said).collect::<Vec<_>>()
    };
    disk.fill();
    for _ in 0..10 {
        while write(&store).await.is_ok() {}
    }
    assert!(told().await.iter().all(|(kind, _)| kind == "storage.failed"));
    disk.make_room();
    let over = async {
        while told().await.last().is_none_or(|(kind, _)| kind != "storage.recovered") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), over).await.expect("it was never over");
    let told = told().await;
    let kinds: Vec<_> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["storage.failed", "storage.recovered"]);
    let body: serde_json::Value = serde_json::from_slice(&told[0].1).unwrap();
    assert_eq!(body["storage"]["part"], "history");
    assert!(body["storage"]["error"].as_str().unwrap().contains("disk is full"), "{body}");
    watching.abort();
    store.close().await.unwrap();
}

#[tokio::test]
#[ignore = "mounts file systems, as root: make test"]
async fn a_full_disk_at_the_first_start_is_told() {
    let disk = Disk::in_memory("1m");
    disk.fill();
    let refused = Store::open(disk.home.path()).await.err();
    assert!(matches!(refused, Some(Error::Full(_))), "{refused:?}");
    disk.make_room();
    let store = disk.home.open().await;
    store.insert_run(ended(0)).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
#[ignore = "mounts file systems, as root: make test"]
async fn a_disk_that_cannot_be_written_is_told_and_used_again_when_it_can() {
    let disk = Disk::in_memory("8m");
    let store = disk.home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    store.close().await.unwrap();
    disk.remount("ro");
    let refused = Store::open(disk.home.path()).await.err();
    assert!(matches!(refused, Some(Error::Open { .. })), "{refused:?}");
    disk.remount("rw");
    let store = disk.home.open().await;
    assert_eq!(store.run(run.id).await.unwrap(), Some(run));
    store.close().await.unwrap();
}

#[tokio::test]
#[ignore = "becomes another user, as root: make test"]
async fn a_database_of_another_user_is_refused() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        let refused = Store::open(Path::new(&directory)).await.err().expect("a refusal");
        assert!(matches!(refused, Error::Open { .. }), "{refused:?}");
        assert!(refused.to_string().contains("must belong to the user"), "{refused}");
        return;
    }
    let home = Home::new();
    home.open().await.close().await.unwrap();
    fs::set_permissions(home.database(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // Where the other user can reach it.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("test");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    let name = "disk::a_database_of_another_user_is_refused";
    let mut command = same_test(&program, name, home.path());
    assert!(command.uid(NOBODY).gid(NOBODY).status().unwrap().success());
}

#[tokio::test]
async fn a_lock_of_somebody_else_is_told_and_waited_for() {
    let home = Home::new();
    let store = home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    let mut other = stranger(&home.database()).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let locked = store.insert_run(queued(1)).await;
    assert!(matches!(locked, Err(Error::Busy(_))), "{locked:?}");
    assert_eq!(store.run(run.id).await.unwrap(), Some(run));
    // The next one begins to wait before the lock is gone.
    let mut waits = Box::pin(store.insert_run(queued(2)));
    assert!(futures_util::poll!(&mut waits).is_pending());
    other.close().await.unwrap();
    waits.await.unwrap();
    assert_eq!(store.unended().await.unwrap().len(), 1);
}
