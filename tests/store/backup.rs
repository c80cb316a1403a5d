use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ci_bridge::store::{BackupError, backup};

use crate::support::{DIRECTORY, Home, ended, open, queued, same_test};

#[tokio::test]
async fn a_backup_overwrites_nothing() {
    let home = Home::new();
    home.open().await.close().await.unwrap();
    let copies = tempfile::tempdir().unwrap();
    let taken = copies.path().join("taken");
    fs::write(&taken, "precious").unwrap();
    let dangling = copies.path().join("dangling");
    std::os::unix::fs::symlink(copies.path().join("nowhere"), &dangling).unwrap();
    for path in [&taken, &dangling] {
        let refused = backup(home.path(), path).await;
        assert!(matches!(&refused, Err(BackupError::Exists(there)) if there == path), "{refused:?}");
    }
    assert_eq!(fs::read_to_string(taken).unwrap(), "precious");
    assert_eq!(fs::read_dir(copies.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing() {
    let (home, copies) = (Home::new(), tempfile::tempdir().unwrap());
    let missing = backup(home.path(), &copies.path().join("copy")).await;
    assert!(matches!(missing, Err(BackupError::Read { .. })), "{missing:?}");
    assert_eq!(fs::read_dir(copies.path()).unwrap().count(), 0);
    assert_eq!(home.files(), [""; 0]);
}

#[tokio::test]
async fn a_backup_by_another_process_of_a_store_in_use_is_a_store() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return backup(Path::new(&directory), &Path::new(&directory).join("copy")).await.unwrap();
    }
    let home = Home::new();
    let store = home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    let test = "backup::a_backup_by_another_process_of_a_store_in_use_is_a_store";
    assert!(same_test(&env::current_exe().unwrap(), test, home.path()).status().unwrap().success());
    let copy = Home::new();
    fs::copy(home.path().join("copy"), copy.database()).unwrap();
    assert_eq!(copy.files(), ["ci-bridge.db"]);
    assert_eq!(fs::metadata(copy.database()).unwrap().mode() & 0o7777, 0o600);
    // The original goes on, and the copy does not follow it.
    store.insert_run(queued(1)).await.unwrap();
    let copy = open(copy.path()).await;
    assert_eq!(copy.run(run.id).await.unwrap(), Some(run));
    assert_eq!(copy.unended().await.unwrap(), []);
}

#[tokio::test]
async fn a_store_that_nobody_uses_is_copied_too() {
    let home = Home::new();
    let store = home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    store.close().await.unwrap();
    let copy = Home::new();
    backup(home.path(), &copy.database()).await.unwrap();
    assert_eq!(copy.open().await.run(run.id).await.unwrap(), Some(run.clone()));
    assert_eq!(home.open().await.run(run.id).await.unwrap(), Some(run));
}
