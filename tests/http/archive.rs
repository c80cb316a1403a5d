//! Logs that journald has deleted: they are read from the archive as if nothing had happened.

use std::fs;
use std::num::NonZeroUsize;
use std::time::Duration;

use ci_bridge::config::History;
use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::follow::{cursors, running, said};
use crate::journal::line;
use crate::systemd1::{Exit, Start, Unit};

const JOB: &str = "ci-test-a";

/// A bridge that archives so many logs of a job.
fn archiving(logs: usize) -> Setup {
    Setup { archived: NonZeroUsize::new(logs), ..Setup::default() }
}

/// A bridge that archives, with the log of a run that has ended, and the id of the run.
async fn ended(lines: &[&str], setup: Setup) -> (Bridge, String) {
    let (bridge, run) = running(lines, setup).await;
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    bridge.ended(JOB, &run).await;
    (bridge, run)
}

/// The run when what became of its log is known.
async fn complete(bridge: &Bridge, run: &str, complete: bool) -> Value {
    let is_it = |run: &Value| run["complete"] == json!(complete);
    bridge.until(&format!("GET /api/runs/{run}"), |answer| is_it(&answer.json())).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_the_same_byte_by_byte_after_journald_has_deleted_it() {
    let lines: Vec<_> = (0..3000).map(|number| format!("line {number} \u{1b}[31mred ::error::{number}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let (bridge, run) = ended(&lines, Setup::default()).await;
    let paths = [
        "logs?format=json",
        "logs?format=text",
        "logs?format=text&raw=true",
        "logs?format=ndjson",
        "logs?format=sse",
        "logs?order=desc",
        "logs?lines=7&format=ndjson",
        "logs?lines=7&order=desc",
        "logs?priority=err",
        "logs?priority=info&lines=2",
        "logs?since=2999-01-01T00:00:00Z",
        "tail?format=text",
        "tail?lines=2000",
        "tail?follow=true",
        "tail?follow=true&format=sse",
        "tail?follow=true&format=ndjson&lines=10000",
    ];
    let read = async |bridge: &Bridge, what: &str| {
        let mut answers = Vec::new();
        for path in paths {
            let answer = bridge.call(&format!("GET /api/runs/{run}/{path}")).await;
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            answers.push((path, answer.body));
        }
        answers
    };
    let of_journal = read(&bridge, "in the journal").await;
    assert!(of_journal[0].1.contains("line 2999") && of_journal[0].1.contains("\"complete\":true"));
    let bridge = bridge.restart_as(archiving(10), async |_| {}).await;
    bridge.archived(1).await;
    bridge.vacuum_all();
    for (known, archived) in of_journal.into_iter().zip(read(&bridge, "in the archive").await) {
        assert!(known == archived, "{}: {:.2000} became {:.2000}", known.0, known.1, archived.1);
    }
    // Also for a bridge that archives nothing any more.
    let bridge = bridge.restart().await;
    let answer = bridge.call(&format!("GET /api/job/{JOB}/logs")).await.json();
    assert_eq!((answer["logs"].as_array().unwrap().len(), &answer["complete"]), (3000, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_leads_on_from_the_journal_into_the_archive() {
    let (bridge, _) = ended(&["one", "two", "three"], archiving(10)).await;
    let known = cursors(&bridge).await;
    bridge.archived(1).await;
    bridge.vacuum_all();
    assert_eq!(cursors(&bridge).await, known);
    for (cursor, expected) in known.iter().zip([vec!["two", "three"], vec!["three"], vec![]]) {
        let page = bridge.call(&format!("GET /api/job/{JOB}/tail?cursor={cursor}")).await.json();
        let messages: Vec<_> =
            page["logs"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!((messages, &page["gap"]), (expected.clone(), &json!(false)), "{page}");
        let followed = bridge.call(&format!("GET /api/job/{JOB}/tail?follow=true&cursor={cursor}")).await;
        assert_eq!(followed.body.lines().collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_run_whose_journal_is_gone_gets_all_of_it_and_its_end() {
    let (bridge, run) = ended(&["one", "two"], archiving(10)).await;
    bridge.archived(1).await;
    bridge.vacuum_all();
    // The run is known from the history, and nothing else knows it.
    let bridge = bridge.restart_as(archiving(10), async |_| {}).await;
    let followed = bridge.call(&format!("GET /api/runs/{run}/tail?follow=true&format=ndjson")).await;
    let told: Vec<Value> = followed.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [one, two, end] = told.as_slice() else { panic!("{followed:?}") };
    assert_eq!((&one["message"], &two["message"]), (&json!("one"), &json!("two")));
    let end = &end["end"];
    assert_eq!(
        (&end["run"], &end["result"], &end["complete"], &end["gap"]),
        (&json!(run), &json!("success"), &json!(true), &json!(false)),
        "{followed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_who_began_before_the_end_misses_nothing_when_the_log_moves() {
    let (bridge, run) = running(&["one"], archiving(10)).await;
    let mut stream = bridge.open(&format!("/api/runs/{run}/tail?follow=true"), &[]).await;
    stream.until("one\n").await;
    bridge.log(&said("two"));
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    bridge.archived(1).await;
    bridge.vacuum_all();
    stream.until("two\n").await;
    let log = bridge.call(&format!("GET /api/runs/{run}/logs?format=text")).await;
    assert_eq!(log.body, "one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_nowhere_is_told_as_gone_and_not_as_empty() {
    let (bridge, run) = ended(&["one"], archiving(10)).await;
    let path = bridge.archived(1).await.remove(0);
    complete(&bridge, &run, true).await;
    // As after a crash between the deletion of the file and the note of it.
    fs::remove_file(&path).unwrap();
    let log = async |bridge: &Bridge| {
        let log = bridge.call(&format!("GET /api/runs/{run}/logs")).await.json();
        (log["logs"].as_array().unwrap().len(), log["gap"].clone(), log["complete"].clone())
    };
    // As long as journald has it, nothing is lost.
    assert_eq!(log(&bridge).await, (1, json!(false), json!(true)));
    bridge.vacuum_all();
    assert_eq!(log(&bridge).await, (0, json!(true), json!(false)));
    let bridge = bridge.restart_as(archiving(10), async |_| {}).await;
    assert_eq!(log(&bridge).await, (0, json!(true), json!(false)));
    let followed = bridge.call(&format!("GET /api/runs/{run}/tail?follow=true&format=ndjson")).await;
    let end: Value = serde_json::from_str(followed.body.lines().last().unwrap()).unwrap();
    assert_eq!((&end["end"]["gap"], &end["end"]["complete"]), (&json!(true), &json!(false)), "{followed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_never_archived_and_is_gone_is_told_so_too() {
    let (bridge, run) = ended(&["one"], Setup::default()).await;
    bridge.vacuum_all();
    let log = bridge.call(&format!("GET /api/runs/{run}/logs")).await.json();
    assert_eq!((&log["logs"], &log["gap"], &log["complete"]), (&json!([]), &json!(true), &json!(false)));
    // What is to be archived now is not taken for a log without lines.
    let bridge = bridge.restart_as(archiving(10), async |_| {}).await;
    complete(&bridge, &run, false).await;
    bridge.archived(0).await;
    let log = bridge.call(&format!("GET /api/runs/{run}/logs")).await.json();
    assert_eq!((&log["logs"], &log["gap"], &log["complete"]), (&json!([]), &json!(true), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_says_nothing_has_a_whole_log_without_lines() {
    let (bridge, run) = ended(&[], archiving(10)).await;
    bridge.archived(1).await;
    complete(&bridge, &run, true).await;
    bridge.vacuum_all();
    let log = bridge.call(&format!("GET /api/runs/{run}/logs")).await.json();
    assert_eq!((&log["logs"], &log["gap"], &log["complete"]), (&json!([]), &json!(false), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_read_from_the_journal_or_told_as_unreadable() {
    let (bridge, run) = ended(&["one", "two"], archiving(10)).await;
    let path = bridge.archived(1).await.remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let log = async || {
        let log = bridge.call(&format!("GET /api/runs/{run}/logs")).await.json();
        (log["logs"].as_array().unwrap().len(), log["gap"].clone(), log["complete"].clone())
    };
    assert_eq!(log().await, (2, json!(false), json!(true)));
    bridge.vacuum_all();
    assert_eq!(log().await, (0, json!(true), json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_logs_the_oldest_go_and_the_last_of_each_job_stays() {
    let journal = crate::journal::FOREIGN_ENTRY.to_owned() + &said("first") + &line(JOB, &"02".repeat(16), "second");
    let ends = |name| Unit::starting(name, Start::EndsBeforeReply(Exit::Code(0)));
    let setup = Setup { journal, ..archiving(10) };
    let bridge = Bridge::with(vec![ends(JOB), ends("ci-test-b")], setup).await;
    bridge.play_journald();
    let first = bridge.start(JOB).await;
    complete(&bridge, &first, true).await;
    let second = bridge.start(JOB).await;
    let other = bridge.start("ci-test-b").await;
    for run in [&second, &other] {
        complete(&bridge, run, true).await;
    }
    bridge.archived(3).await;
    bridge.vacuum_all();
    // Whoever sets the limits lower has them kept from the next start on.
    let bridge = bridge.restart_as(archiving(1), async |_| {}).await;
    bridge.archived(2).await;
    complete(&bridge, &first, false).await;
    for (run, lines, gap) in [(&first, 0, true), (&second, 1, false), (&other, 0, false)] {
        let log = bridge.call(&format!("GET /api/runs/{run}/logs")).await.json();
        assert_eq!((log["logs"].as_array().unwrap().len(), &log["gap"]), (lines, &json!(gap)), "{log}");
        assert_eq!(log["complete"], json!(!gap), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_run_that_is_forgotten_goes_with_it() {
    let journal = crate::journal::FOREIGN_ENTRY.to_owned() + &said("first") + &line(JOB, &"02".repeat(16), "second");
    let unit = Unit::starting(JOB, Start::EndsBeforeReply(Exit::Code(0)));
    let bridge = Bridge::with(vec![unit], Setup { journal, ..archiving(10) }).await;
    bridge.play_journald();
    for _ in 0..2 {
        let run = bridge.start(JOB).await;
        complete(&bridge, &run, true).await;
    }
    let both = bridge.archived(2).await;
    let year = Duration::from_hours(365 * 24);
    let kept = History { max_age: year, max_runs_per_job: 1, audit_max_age: year };
    let bridge = bridge.restart_as(Setup { kept: Some(kept), ..archiving(10) }, async |_| {}).await;
    let left = bridge.archived(1).await;
    assert!(both.contains(&left[0]), "{left:?}");
    assert_eq!(bridge.call(&format!("GET /api/job/{JOB}/logs")).await.json()["logs"][0]["message"], json!("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_offered_to_the_archive_once() {
    let journal = crate::journal::FOREIGN_ENTRY.to_owned() + &said("first");
    let unit = Unit::starting(JOB, Start::EndsBeforeReply(Exit::Code(0)));
    let bridge = Bridge::with(vec![unit], Setup { journal, ..Setup::default() }).await;
    bridge.play_journald();
    let run = bridge.start(JOB).await;
    complete(&bridge, &run, true).await;
    bridge.vacuum_all();
    let bridge = bridge.restart_as(archiving(10), async |_| {}).await;
    complete(&bridge, &run, false).await;
    let bridge = bridge.restart_as(archiving(10), async |_| {}).await;
    // Its log has its turn after those of before.
    bridge.start(JOB).await;
    bridge.archived(1).await;
    let refused = crate::logged::lines().into_iter().filter(|line| line.contains("is not archived"));
    assert_eq!(refused.collect::<Vec<_>>().len(), 1);
}
