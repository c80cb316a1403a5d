//! The audit: what is noted of starts, stops and refusals, and who may read it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bridge::{Bridge, Setup};
use crate::logged;
use crate::systemd1::{Exit, Start, Unit};
use crate::wire::Answer;

const JOB: &str = "/api/job/ci-test-a";

/// A page of the audit.
async fn page(bridge: &Bridge, query: &str) -> Value {
    let answer = bridge.call_as(&bridge.tokens.auditor, &format!("GET /api/audit{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The entries, oldest first, as soon as there are so many.
async fn entries(bridge: &Bridge, count: usize) -> Vec<Value> {
    let ask = async {
        loop {
            let page = page(bridge, "?limit=500").await;
            let entries = page["entries"].as_array().unwrap();
            if entries.len() >= count {
                return entries.iter().rev().cloned().collect::<Vec<_>>();
            }
        }
    };
    let entries = tokio::time::timeout(Duration::from_secs(20), ask).await.expect("there never were so many entries");
    assert_eq!(entries.len(), count, "{entries:#?}");
    entries
}

fn members<'a, const N: usize>(entry: &'a Value, names: [&str; N]) -> [&'a Value; N] {
    names.map(|name| &entry[name])
}

/// What an entry says besides when it was and what its place is.
fn assert_is(entry: &Value, kind: &str, who: &Value, outcome: &str, answer: &Answer) {
    let said = members(entry, ["kind", "who", "outcome", "request_id", "address"]);
    let request = answer.header("x-request-id").unwrap();
    let expected = [&json!(kind), who, &json!(outcome), &json!(request), &json!("127.0.0.1")];
    assert_eq!(said, expected, "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_with_the_scope_reads_the_audit() {
    let bridge = Bridge::new(vec![]).await;
    for (token, status, code) in [
        (bridge.tokens.reader.as_str(), 403, "read_only_token"),
        (&bridge.tokens.narrow, 403, "scope_missing"),
        (&bridge.tokens.writer, 403, "scope_missing"),
        (&bridge.tokens.revoked, 401, "token_revoked"),
        ("nobody", 401, "token_unknown"),
    ] {
        let answer = bridge.call_as(token, "GET /api/audit").await;
        assert_eq!(answer.problem(), (status, code.to_owned()));
    }
    assert_eq!(bridge.call_with("GET /api/audit", &[]).await.problem(), (401, "token_missing".to_owned()));
    page(&bridge, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_and_stop_is_one_entry_with_its_run() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let (writer, narrow) = (json!("writer"), json!("auditor"));
    let started = bridge.call(&format!("POST {JOB}")).await;
    let busy = bridge.call_as(&bridge.tokens.auditor, &format!("POST {JOB}")).await;
    let joined = bridge.call_as(&bridge.tokens.auditor, &format!("POST {JOB}?if_busy=join")).await;
    let stopped = bridge.call(&format!("POST {JOB}/stop")).await;
    let run = started.header("x-ci-run-id").unwrap();
    bridge.ended("ci-test-a", run).await;
    let again = bridge.call(&format!("POST {JOB}/stop")).await;

    let entries = entries(&bridge, 5).await;
    assert_is(&entries[0], "start", &writer, "accepted", &started);
    assert_is(&entries[1], "start", &narrow, "busy", &busy);
    assert_is(&entries[2], "start", &narrow, "joined", &joined);
    assert_is(&entries[3], "stop", &writer, "stopped", &stopped);
    assert_is(&entries[4], "stop", &writer, "inactive", &again);
    for entry in &entries {
        assert_eq!(entry["job"], "ci-test-a", "{entry}");
    }
    let runs: Vec<_> = entries.iter().map(|entry| &entry["run"]).collect();
    assert_eq!(runs, [&json!(run), &json!(run), &json!(run), &json!(run), &Value::Null]);
    let ids: BTreeSet<_> = entries.iter().map(|entry| entry["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), 5);
    assert!(entries.iter().all(|entry| entry["time"].as_str().unwrap().ends_with('Z')));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_write_is_an_entry_with_its_code() {
    let masked = Unit { load_state: "masked", ..Unit::job("ci-test-masked") };
    let setup = Setup { instances_per_hour: 1, ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::job("ci-test-a"), masked, Unit::template("ci-test-build@")], setup).await;
    bridge.call("POST /api/job/ci-test-build@?instance=feature/a").await;
    let tokens = &bridge.tokens;
    let none = Value::Null;
    let cases = [
        (&tokens.reader, format!("POST {JOB}"), "start", "reader", "read_only_token", "ci-test-a"),
        (&tokens.reader, format!("POST {JOB}/stop"), "stop", "reader", "read_only_token", "ci-test-a"),
        (&tokens.narrow, format!("POST {JOB}"), "start", "narrow", "no_such_job", "ci-test-a"),
        (&tokens.writer, "POST /api/job/sshd".to_owned(), "start", "writer", "no_such_job", ""),
        (&tokens.writer, "POST /api/job/..".to_owned(), "start", "writer", "invalid_job_name", ""),
        (&tokens.writer, "POST /api/job/ci-test-masked".to_owned(), "start", "writer", "unit_masked", "ci-test-masked"),
        (
            &tokens.writer,
            "POST /api/job/ci-test-build@?instance=b%20b".to_owned(),
            "start",
            "writer",
            "too_many_instances",
            "ci-test-build@b\\x20b",
        ),
        (&tokens.writer, format!("POST {JOB}?if_busy=no"), "start", "writer", "invalid_parameter", "ci-test-a"),
        (&tokens.writer, format!("DELETE {JOB}"), "write", "writer", "method_not_allowed", "ci-test-a"),
        (&tokens.writer, "POST /api/nothing".to_owned(), "write", "writer", "not_found", ""),
        (&tokens.expired, format!("POST {JOB}"), "start", "", "token_expired", "ci-test-a"),
        (&"nobody".to_owned(), format!("POST {JOB}/stop"), "stop", "", "token_unknown", "ci-test-a"),
    ];
    let mut answers = Vec::new();
    for (token, request, ..) in &cases {
        answers.push(bridge.call_as(token, request).await);
    }
    let entries = entries(&bridge, cases.len() + 1).await;
    assert_eq!(entries[0]["job"], "ci-test-build@feature-a");
    for (entry, ((_, request, kind, who, code, job), answer)) in entries[1..].iter().zip(cases.iter().zip(&answers)) {
        assert_eq!(answer.code(), *code, "{request}");
        let named = |name: &str| if name.is_empty() { none.clone() } else { json!(name) };
        assert_is(entry, kind, &named(who), code, answer);
        assert_eq!(members(entry, ["job", "run"]), [&named(job), &none], "{request}");
    }
    let lines = logged::lines();
    for answer in &answers {
        let request = answer.header("x-request-id").unwrap();
        let records = lines.iter().filter(|line| line.contains(request) && line.contains(&answer.code()));
        assert_eq!(records.count(), 1, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_by_the_bridge_or_systemd_is_an_entry() {
    let mut bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    bridge.systemd.kill_bus().await;
    let failed = bridge.until(&format!("POST {JOB}"), |answer| answer.status == 503).await;
    let entries = entries(&bridge, 1).await;
    assert_is(&entries[0], "start", &json!("writer"), "systemd_unreachable", &failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reads_only_those_without_the_right_to_are_entries() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let tokens = &bridge.tokens;
    for (token, request, status) in [
        (&tokens.reader, format!("GET {JOB}/state"), 200),
        (&tokens.reader, format!("GET {JOB}/state?wait=x"), 400),
        (&tokens.reader, "GET /api/job/ci-test-none/state".to_owned(), 404),
        (&tokens.narrow, format!("GET {JOB}/logs"), 404),
        (&tokens.reader, "GET /nothing".to_owned(), 404),
    ] {
        assert_eq!(bridge.call_as(token, &request).await.status, status, "{request}");
    }
    let unknown = bridge.call_as("nobody", &format!("GET {JOB}/state")).await;
    let forbidden = bridge.call("GET /api/audit").await;
    let entries = entries(&bridge, 2).await;
    assert_is(&entries[0], "read", &Value::Null, "token_unknown", &unknown);
    assert_is(&entries[1], "read", &json!("writer"), "scope_missing", &forbidden);
    assert_eq!(members(&entries[0], ["job", "run"]), [&json!("ci-test-a"), &Value::Null]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_have_been_recorded_on_its_way_is_an_entry_and_never_in_it() {
    let setup = Setup { query_tokens: ci_bridge::config::QueryTokens::Deny, ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], setup).await;
    let (writer, reader) = (bridge.tokens.writer.clone(), bridge.tokens.reader.clone());
    bridge.call_with(&format!("GET {JOB}/state?token={reader}"), &[]).await;
    bridge.call_with(&format!("POST {JOB}?token={writer}&instance={writer}"), &[]).await;
    bridge.call_with(&format!("POST /api/job/{writer}?instance={writer}"), &[]).await;
    bridge.call_as(&format!("{writer}0"), &format!("POST /api/job/ci-test-build@?instance={writer}")).await;
    let entries = entries(&bridge, 4).await;
    let outcomes: Vec<_> = entries.iter().map(|entry| entry["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["token_in_query", "token_in_query", "token_missing", "token_malformed"]);
    let owners: Vec<_> = entries.iter().map(|entry| &entry["who"]).collect();
    assert_eq!(owners, [&json!("reader"), &json!("writer"), &Value::Null, &Value::Null]);
    let said = json!(entries).to_string();
    for secret in [&writer, &reader] {
        assert!(!said.contains(&secret[7..]), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_parallel_starts_one_is_accepted_and_the_others_are_counted() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let start = format!("POST {JOB}");
    let answers = futures_util::future::join_all((0..100).map(|_| bridge.call(&start))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    let run = answers[0].header("x-ci-run-id").unwrap();
    let entries = entries(&bridge, 61).await;
    let count = |outcome: &str| entries.iter().filter(|entry| entry["outcome"] == outcome).count();
    assert_eq!((count("accepted"), count("busy")), (1, 60));
    assert!(entries.iter().all(|entry| entry["run"] == run));
    // What stands for the others comes at the end of the minute, or of the bridge.
    let bridge = bridge.restart().await;
    let last = &page(&bridge, "?limit=1").await["entries"][0];
    let expected = [&json!("audit"), &json!("writer"), &json!("suppressed"), &json!("39 more refusals in a minute")];
    assert_eq!(members(last, ["kind", "who", "outcome", "detail"]), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_paged_and_filtered_also_after_a_restart() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a"), Unit::template("ci-test-build@")]).await;
    let run = bridge.start("ci-test-a").await;
    bridge.call_as(&bridge.tokens.narrow, "POST /api/job/ci-test-build@?instance=feature/b").await;
    bridge.call_as(&bridge.tokens.reader, &format!("POST {JOB}")).await;
    bridge.call("POST /api/job/ci-test-build@/stop?instance=feature/b").await;
    let all = entries(&bridge, 4).await;
    let bridge = bridge.restart().await;
    assert_eq!(entries(&bridge, 4).await, all);

    let first = page(&bridge, "?limit=3").await;
    assert_eq!((first["entries"].as_array().unwrap().len(), &first["more"]), (3, &json!(true)));
    assert_eq!(first["before"], all[1]["id"]);
    let rest = page(&bridge, &format!("?limit=3&before={}", first["before"])).await;
    assert_eq!(rest, json!({ "entries": [all[0]], "more": false, "before": null }));

    for (query, expected) in [
        ("kind=stop".to_owned(), vec![3]),
        ("kind=start".to_owned(), vec![2, 1, 0]),
        ("who=narrow".to_owned(), vec![1]),
        ("job=ci-test-a".to_owned(), vec![2, 0]),
        ("job=ci-test-build@&instance=feature/b".to_owned(), vec![3, 1]),
        ("job=ci-test-a&who=reader&kind=start".to_owned(), vec![2]),
        (format!("run={run}"), vec![0]),
        ("who=somebody-else".to_owned(), vec![]),
    ] {
        let found = page(&bridge, &format!("?{query}")).await;
        let expected: Vec<_> = expected.into_iter().map(|number: usize| &all[number]).collect();
        assert_eq!(found["entries"], json!(expected), "{query}");
    }
    for query in
        ["limit=0", "limit=501", "before=0", "before=x", "kind=starts", "who=a%20b", "run=1", "page=2", "instance=a"]
    {
        let answer = bridge.call_as(&bridge.tokens.auditor, &format!("GET /api/audit?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".to_owned()), "{query}");
    }
    let answer = bridge.call_as(&bridge.tokens.auditor, "GET /api/audit?job=..").await;
    assert_eq!(answer.problem(), (400, "invalid_job_name".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_written_delays_no_answer_for_the_audit_and_loses_no_entry() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let mut other = SqliteConnectOptions::new().filename(bridge.database()).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = bridge.call_as(&bridge.tokens.reader, &format!("POST {JOB}")).await;
    let stopped = bridge.call(&format!("POST {JOB}/stop")).await;
    // Until the first attempt to write has failed, and the next one is on its way.
    let said = |line: &String| line.contains("the audit cannot be written yet");
    bridge.until("GET /healthz", |_| logged::lines().iter().any(said)).await;
    assert_eq!(page(&bridge, "").await["entries"], json!([]));
    other.close().await.unwrap();
    let entries = entries(&bridge, 2).await;
    assert_is(&entries[0], "start", &json!("reader"), "read_only_token", &refused);
    assert_is(&entries[1], "stop", &json!("writer"), "inactive", &stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_is_noted_all_the_same() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits)]).await;
    let request = format!("POST {JOB} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", bridge.tokens.writer);
    let mut caller = TcpStream::connect(bridge.address).await.unwrap();
    caller.write_all(request.as_bytes()).await.unwrap();
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    drop(caller);
    bridge.systemd.begin("ci-test-a").await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let entries = entries(&bridge, 1).await;
    assert_eq!(members(&entries[0], ["kind", "outcome", "who"]), ["start", "accepted", "writer"]);
}
