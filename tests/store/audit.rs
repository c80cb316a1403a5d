use ci_bridge::store::{AuditEntry, AuditFilter, AuditId};

use crate::support::{Home, at, entry, job};

#[tokio::test]
async fn the_audit_is_paged_from_the_newest_entry_on() {
    let home = Home::new();
    let store = home.open().await;
    let mut entries = Vec::new();
    for number in 0..25 {
        let entry = entry(100 - number);
        store.append_audit(entry.clone()).await.unwrap();
        entries.push(entry);
    }
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
    let nobody = AuditEntry { who: None, address: None, request: None, job: None, run: None, ..entry(0) };
    let id = store.append_audit(nobody.clone()).await.unwrap();
    let read = store.audit(None, 10, &AuditFilter::default()).await.unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].id, &read[0].entry), (id, &nobody));
}

#[tokio::test]
async fn a_filter_leaves_what_it_names() {
    let home = Home::new();
    let store = home.open().await;
    let stop = AuditEntry { kind: "stop".to_owned(), ..entry(1) };
    let other = AuditEntry { job: Some(job("ci-test-other")), ..entry(2) };
    let reader = AuditEntry { who: Some("reader".parse().unwrap()), ..entry(3) };
    let entries = [stop.clone(), other.clone(), reader.clone()];
    for entry in &entries {
        store.append_audit(entry.clone()).await.unwrap();
    }
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
    let mut last = AuditId::from(0);
    for number in 0..10 {
        last = store.append_audit(entry(number)).await.unwrap();
    }
    assert_eq!(store.forget_audit(at(4)).await.unwrap(), 4);
    let left = store.audit(None, 100, &AuditFilter::default()).await.unwrap();
    let seconds: Vec<_> = left.iter().map(|record| record.entry.at.as_second()).collect();
    assert_eq!(seconds, [9, 8, 7, 6, 5, 4]);
    assert_eq!(store.forget_audit(at(100)).await.unwrap(), 6);
    assert!(store.append_audit(entry(0)).await.unwrap() > last);
}
