use ci_bridge::store::{AuditEntry, AuditFilter};

use crate::support::{Home, at, entry, job};

#[tokio::test]
async fn the_audit_is_paged_from_the_newest_entry_on() {
    let home = Home::new();
    let store = home.open().await;
    let mut entries: Vec<_> = (0..25).map(|number| entry(100 - number)).collect();
    store.append_audit(entries[..20].to_vec()).await.unwrap();
    store.append_audit(entries[20..].to_vec()).await.unwrap();
    let (all, mut before, mut read) = (AuditFilter::default(), None, Vec::new());
    loop {
        let page = store.audit(before, 10, &all).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        read.extend(page.into_iter().map(|record| record.entry));
    }
    entries.reverse();
    assert_eq!(read, entries);
}

#[tokio::test]
async fn an_entry_of_somebody_unknown_is_kept() {
    let home = Home::new();
    let store = home.open().await;
    let nobody = AuditEntry { who: None, address: None, request: None, job: None, run: None, detail: None, ..entry(0) };
    store.append_audit(vec![nobody.clone()]).await.unwrap();
    let read = store.audit(None, 10, &AuditFilter::default()).await.unwrap();
    let read: Vec<_> = read.into_iter().map(|record| record.entry).collect();
    assert_eq!(read, [nobody]);
}

#[tokio::test]
async fn a_filter_leaves_what_it_names() {
    let home = Home::new();
    let store = home.open().await;
    let stop = AuditEntry { kind: "stop".to_owned(), ..entry(1) };
    let other = AuditEntry { job: Some(job("ci-test-other")), ..entry(2) };
    let reader = AuditEntry { who: Some("reader".parse().unwrap()), ..entry(3) };
    let entries = [stop.clone(), other.clone(), reader.clone()];
    store.append_audit(entries.to_vec()).await.unwrap();
    let none = AuditFilter::default;
    let cases = [
        (AuditFilter { kind: stop.kind.into(), ..none() }, 0),
        (AuditFilter { job: other.job, ..none() }, 1),
        (AuditFilter { who: reader.who, kind: Some("start".to_owned()), ..none() }, 2),
        (AuditFilter { run: other.run, ..none() }, 1),
    ];
    for (filter, number) in cases {
        let read = store.audit(None, 10, &filter).await.unwrap();
        assert_eq!(read.len(), 1, "{filter:?}");
        assert_eq!(read[0].entry, entries[number], "{filter:?}");
        assert!(store.audit(Some(read[0].id), 10, &filter).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn old_entries_are_forgotten_and_their_ids_not_used_again() {
    let home = Home::new();
    let store = home.open().await;
    store.append_audit((0..10).map(entry).collect()).await.unwrap();
    let newest = async || store.audit(None, 1, &AuditFilter::default()).await.unwrap()[0].id;
    let last = newest().await;
    assert_eq!(store.forget_audit(at(4)).await.unwrap(), 4);
    let left = store.audit(None, 100, &AuditFilter::default()).await.unwrap();
    let seconds: Vec<_> = left.iter().map(|record| record.entry.at.as_second()).collect();
    assert_eq!(seconds, [9, 8, 7, 6, 5, 4]);
    assert_eq!(store.forget_audit(at(100)).await.unwrap(), 6);
    store.append_audit(vec![entry(0)]).await.unwrap();
    assert!(newest().await > last);
}
