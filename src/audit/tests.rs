use super::*;

fn by(who: Option<&str>, outcome: &'static str) -> Note {
    Note { who: who.map(|who| who.parse().unwrap()), ..Note::new(Kind::Start, outcome) }
}

fn words(entries: &[Entry]) -> Vec<String> {
    entries.iter().rev().map(|entry| entry.entry.outcome.clone()).collect()
}

/// What is in the history of `directory` when `audit` has ended.
async fn read(directory: &tempfile::TempDir, audit: &Audit, recorder: Recorder) -> Vec<Entry> {
    let store = Store::open(directory.path()).await.unwrap().store;
    audit.take_up(store.clone());
    let stop = CancellationToken::new();
    stop.cancel();
    recorder.run(stop).await;
    let mut entries = Vec::new();
    loop {
        let page = audit.page(entries.last().map(|entry: &Entry| entry.id), 1000, &Filter::default()).await.unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

#[tokio::test]
async fn without_a_history_nothing_is_read_and_entries_wait_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, recorder) = Audit::new();
    for outcome in ["accepted", "busy", "joined"] {
        audit.note(by(Some("ci"), outcome), format_args!("{outcome}"));
    }
    let unread = audit.page(None, 10, &Filter::default()).await;
    assert!(matches!(unread, Err(Error::NotOpen)), "{unread:?}");
    assert_eq!(words(&read(&directory, &audit, recorder).await), ["accepted", "busy", "joined"]);
}

#[tokio::test]
async fn an_entry_is_written_as_soon_as_there_is_a_history() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, recorder) = Audit::new();
    let stop = CancellationToken::new();
    let recording = tokio::spawn(recorder.run(stop.clone()));
    audit.note(by(Some("ci"), "early"), format_args!("early"));
    audit.take_up(Store::open(directory.path()).await.unwrap().store);
    audit.note(by(Some("ci"), "late"), format_args!("late"));
    let written = async {
        loop {
            let entries = audit.page(None, 10, &Filter::default()).await.unwrap();
            if entries.len() == 2 {
                return words(&entries);
            }
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
    assert_eq!(written, ["early", "late"]);
    stop.cancel();
    recording.await.unwrap();
}

#[tokio::test]
async fn what_finds_no_place_is_counted_and_said_behind_what_waited() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, recorder) = Audit::new();
    for _ in 0..WAITING + 5 {
        audit.note(by(Some("ci"), "accepted"), format_args!("started"));
    }
    let entries = read(&directory, &audit, recorder).await;
    assert_eq!(entries.len(), WAITING + 1);
    let last = &entries[0].entry;
    assert_eq!((last.kind.as_str(), last.outcome.as_str()), ("audit", "lost"));
    assert_eq!(last.detail.as_deref(), Some("5 entries are missing here; the journal has them"));
}

#[tokio::test]
async fn a_flood_of_refusals_is_a_few_entries_and_hides_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, recorder) = Audit::new();
    let refuse = |who, outcome| audit.note_refusal(by(who, outcome), log::Level::Info, format_args!("{outcome}"));
    for _ in 0..REFUSALS_OF_STRANGERS + 1000 {
        refuse(None, "token_unknown");
    }
    for _ in 0..REFUSALS {
        refuse(Some("ci"), "busy");
    }
    for _ in 0..2 * REFUSALS {
        audit.note(by(Some("ci"), "accepted"), format_args!("started"));
    }
    let entries = read(&directory, &audit, recorder).await;
    let count = |outcome: &str| entries.iter().filter(|entry| entry.entry.outcome == outcome).count();
    assert_eq!((count("token_unknown"), count("busy"), count("accepted")), (10, 60, 120));
    let rest: Vec<_> = entries.iter().filter(|entry| entry.entry.kind == "audit").collect();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].entry.detail.as_deref(), Some("1000 more refusals in a minute"));
}

#[tokio::test]
async fn refusals_of_the_next_minute_are_entries_again() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, recorder) = Audit::new();
    let refuse = |outcome| audit.note_refusal(by(None, outcome), log::Level::Info, format_args!("{outcome}"));
    for _ in 0..=REFUSALS_OF_STRANGERS {
        refuse("first");
    }
    audit.sum_up();
    refuse("second");
    let entries = words(&read(&directory, &audit, recorder).await);
    assert_eq!(entries.len(), 12);
    assert_eq!(entries[9..], ["first", "suppressed", "second"]);
}
