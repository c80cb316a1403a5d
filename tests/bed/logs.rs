//! The log of a run is what journald has of it: all of that, and nothing else.

use ci_bridge::invocation::InvocationId;
use ci_bridge::jobs::Cursor;
use ci_bridge::policy::{AllowedJob, JobName, Policy, Prefix};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::bridge::{Bridge, lines, lines_of_job};
use crate::machine::{Bed, Plan};

/// Every job of the bed that prints something and ends by itself.
const PRINTERS: [&str; 16] = [
    "ci-test-assert",
    "ci-test-badexec",
    "ci-test-bigline",
    "ci-test-binary",
    "ci-test-build@main",
    "ci-test-burst",
    "ci-test-condition",
    "ci-test-fail",
    "ci-test-forger",
    "ci-test-hello",
    "ci-test-login",
    "ci-test-namespace",
    "ci-test-noeol",
    "ci-test-signal",
    "ci-test-silent",
    "ci-test-timeout",
];

/// What the API and journalctl both tell of an entry: time, priority, message.
type Line = (i64, u64, Vec<u8>);

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn every_log_is_line_by_line_what_journalctl_prints() {
    let bridge = Bridge::up();
    for job in PRINTERS {
        let start = bridge.post(&format!("/api/job/{job}")).await;
        if start.status == 409 {
            // Its unit was never run, so there is no run to have a log.
            assert_eq!(bridge.logs(job).await["logs"], json!([]), "{job}");
            continue;
        }
        bridge.end_of(job, start.header("x-ci-run-id")).await;
        let log = bridge.logs(job).await;
        assert_eq!((&log["complete"], &log["gap"]), (&json!(true), &json!(false)), "{job}");
        let log = from_api(&log["logs"]);
        let expected = from_journalctl(&bridge.bed, job);
        assert!(!expected.is_empty(), "{job}");
        assert_same(&log, &expected, job);

        let path = format!("/api/job/{job}/logs?format=text&raw=true");
        let cat = bridge.bed.enter(["journalctl", "--namespace=*", "--output=cat", "--all", "--unit", job]).stdout;
        assert!(bridge.get(&path).await.body == cat, "{job}: the text is not that of journalctl --output=cat");
        let ndjson = bridge.get(&format!("/api/job/{job}/logs?format=ndjson")).await.text();
        let mut records: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.pop().unwrap()["end"]["complete"], true, "{job}");
        assert_same(&from_api(&Value::Array(records)), &expected, job);

        for count in [1, 5, expected.len(), expected.len() + 1] {
            let last = &expected[expected.len().saturating_sub(count)..];
            let answer = bridge.get(&format!("/api/job/{job}/logs?lines={count}")).await.ok();
            assert_same(&from_api(&answer["logs"]), last, job);
            let answer = bridge.get(&format!("/api/job/{job}/logs?order=desc&lines={count}")).await.ok();
            let mut newest_first = from_api(&answer["logs"]);
            newest_first.reverse();
            assert_same(&newest_first, last, job);
            let tail = bridge.get(&format!("/api/job/{job}/tail?lines={}", count.min(10_000))).await.ok();
            assert_same(&from_api(&tail["logs"]), &expected[expected.len().saturating_sub(count.min(10_000))..], job);
        }
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_journal_in_memory_is_read_as_well() {
    let bridge = Bridge::up_in(Plan::default().package().journald("Storage=volatile").boot());
    bridge.run("ci-test-burst").await;
    let log = bridge.logs("ci-test-burst").await;
    assert_eq!((lines_of_job(&log).len(), &log["complete"]), (20_000, &json!(true)));
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    assert_eq!(bridge.logs("ci-test-burst").await["logs"], log["logs"]);
    assert_eq!(bridge.bed.sh("ls /var/log/journal"), "");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn pages_after_a_cursor_leave_no_gap_and_repeat_nothing() {
    let bridge = Bridge::up();
    for (job, lines) in [("ci-test-hello", 1), ("ci-test-binary", 7), ("ci-test-burst", 3001)] {
        let start = bridge.post(&format!("/api/job/{job}")).await.json();
        bridge.end_of(job, start["run"]["id"].as_str().unwrap()).await;
        let mut cursor = start["cursor"].as_str().unwrap().to_owned();
        let mut pages = Vec::new();
        loop {
            let page = bridge.get(&format!("/api/job/{job}/tail?lines={lines}&cursor={cursor}")).await.ok();
            let got = page["logs"].as_array().unwrap();
            assert_eq!(page["gap"], false, "{job}");
            assert!(got.last().is_none_or(|entry| entry["cursor"] == page["cursor"]), "{job}");
            pages.extend(got.iter().cloned());
            cursor = page["cursor"].as_str().unwrap().to_owned();
            if page["more"] == false {
                assert_eq!(page["complete"], true, "{job}");
                break;
            }
            assert_eq!((got.len(), &page["complete"]), (lines, &json!(false)), "{job}");
        }
        assert_same(&from_api(&Value::Array(pages)), &from_journalctl(&bridge.bed, job), job);
        // At its end a cursor stays where it is.
        let end = bridge.get(&format!("/api/job/{job}/tail?cursor={cursor}")).await.ok();
        assert_eq!((&end["logs"], &end["cursor"]), (&json!([]), &json!(cursor)), "{job}");
        let other = bridge.get(&format!("/api/job/ci-test-fail/tail?cursor={cursor}")).await;
        assert_eq!(other.refusal(), (400, "invalid_cursor".to_owned()), "{job}");
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_log_of_a_burst_is_whole_right_after_its_end() {
    let bridge = Bridge::up();
    let numbers = || (1..=20_000).map(|number| format!("line {number}"));
    bridge.run("ci-test-burst").await;
    let log = bridge.logs("ci-test-burst").await;
    assert_eq!(log["complete"], true);
    assert!(lines_of_job(&log).into_iter().eq(numbers()));
    for round in 0..10 {
        bridge.run("ci-test-burst").await;
        let log = bridge.get("/api/job/ci-test-burst/logs?format=text").await;
        assert_eq!(log.header("x-ci-complete"), "true");
        let text = log.text();
        let lines = text.lines().filter(|line| line.starts_with("line "));
        assert!(lines.eq(numbers()), "in round {round} are {} lines", text.lines().count());
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn systemd_252_keeps_its_limit_of_lines_if_a_unit_sets_none() {
    let bed = Bed::plain();
    // The unit outlives its lines, so that journald learns of its setting in any case.
    let kept = |interval: &str| -> usize {
        let unit = format!("flood-{interval}");
        let setting = format!("--property=LogRateLimitIntervalSec={interval}");
        bed.ok(["systemd-run", "--quiet", "--wait", "--unit", &unit, &setting, "sh", "-c", "seq 60000; sleep 2"]);
        bed.ok(["journalctl", "--sync"]);
        let kept = bed.ok(["journalctl", "--output=cat", &format!("_SYSTEMD_UNIT={unit}.service")]);
        kept.lines().count()
    };
    assert_eq!(kept("1us"), 60_000);
    let version = bed.ok(["systemctl", "--version"]);
    if version.starts_with("systemd 252 ") {
        assert!(kept("0") < 60_000);
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_million_lines_of_others_change_nothing_in_a_log() {
    let bridge = Bridge::up();
    let foreign = |unit: &str| {
        let unit = format!("--unit={unit}");
        let limit = "--property=LogRateLimitIntervalSec=1us";
        let print = ["seq", "-f", "a line that is of no interest to this job, number %.0f", "500000"];
        bridge.bed.ok([["systemd-run", "--quiet", "--wait", &unit, limit].as_slice(), &print].concat());
    };
    foreign("foreign-before");
    bridge.run("ci-test-burst").await;
    foreign("foreign-after");
    bridge.bed.ok(["journalctl", "--sync"]);
    let printed = bridge.bed.ok(["journalctl", "--unit=ci-test-burst", "--lines=1000", "--output=cat"]);
    assert_eq!(printed.lines().count(), 1000);
    for _ in 0..2 {
        let log = bridge.get("/api/job/ci-test-burst/logs?lines=1000&format=text&raw=true").await;
        assert!(log.text() == printed);
        assert_eq!(log.header("x-ci-complete"), "true");
        // The second time as a bridge that has seen nothing.
        bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn what_another_job_claims_never_shows() {
    let bridge = Bridge::up();
    let victim = bridge.run("ci-test-hello").await;
    let before = bridge.logs("ci-test-hello").await;
    assert_eq!(lines_of_job(&before), ["hello", "this is the second line", "done"]);
    let id = victim["invocation_id"].as_str().unwrap();
    // A run that there is, and one that there is not.
    for claimed in [id, "0123456789abcdef0123456789abcdef"] {
        bridge.bed.write("/var/lib/ci-test/victim", claimed);
        bridge.run("ci-test-forger").await;
        let own = lines_of_job(&bridge.logs("ci-test-forger").await);
        assert!(own.contains(&format!("forged five messages for run {claimed}")), "{own:?}");
    }
    bridge.bed.ok(["journalctl", "--sync"]);
    assert_eq!(bridge.bed.sh("journalctl -o cat UNIT=ci-test-hello.service | grep -c forged"), "2\n");
    for restarted in [false, true] {
        let state = bridge.state("ci-test-hello").await;
        assert_eq!((&state["result"], &state["invocation_id"]), (&json!("success"), &json!(id)), "{state}");
        for path in ["logs", "logs?lines=1000", "logs?order=desc", "tail", "logs?format=text", "logs?format=ndjson"] {
            let text = bridge.get(&format!("/api/job/ci-test-hello/{path}")).await.text();
            assert!(!text.contains("forged") && text.contains("second line"), "{path}, {restarted}: {text}");
        }
        assert_eq!(bridge.logs("ci-test-hello").await["logs"], before["logs"]);
        let invented = "/api/job/ci-test-hello/logs?run=01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(bridge.get(invented).await.refusal(), (404, "no_such_run".to_owned()));
        bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn no_way_leads_to_a_line_of_another_unit() {
    const LINE: &str = "a line nobody may read";
    let bridge = Bridge::up();
    assert!(bridge.bed.ok(["journalctl", "--output=cat", "--unit=bystander"]).contains(LINE));
    bridge.run("ci-test-hello").await;
    let id = bridge.bed.ok(["systemctl", "show", "--value", "--property=InvocationID", "bystander"]);
    let id: InvocationId = id.trim().parse().unwrap();
    let run = uuid::Uuid::from_bytes(*id.as_bytes());
    // A cursor that a caller has made for a run of another unit.
    let cursor = Cursor { invocation: id, after: None }.encode(&allowed("ci-test-hello"));
    for path in [
        "/api/job/bystander/logs".to_owned(),
        "/api/job/bystander/tail".to_owned(),
        "/api/job/bystander/state".to_owned(),
        "/api/job/bystander.service/logs".to_owned(),
        "/api/job/ci-test-alias/logs".to_owned(),
        "/api/job/ci-test-../bystander/logs".to_owned(),
        "/api/job/ci-test-%2e%2e%2fbystander/logs".to_owned(),
        "/api/job/ci-test-*/logs".to_owned(),
        "/api/job/*/logs".to_owned(),
        format!("/api/job/ci-test-hello/logs?run={run}"),
        format!("/api/job/ci-test-hello/state?run={run}"),
        format!("/api/job/ci-test-hello/tail?run={run}"),
        format!("/api/job/ci-test-hello/tail?cursor={cursor}"),
        "/api/job/ci-test-build@/logs?instance=/../bystander".to_owned(),
        "/api/jobs".to_owned(),
    ] {
        let answer = bridge.get(&path).await;
        assert!(!answer.text().contains(LINE) && !answer.text().contains(&id.to_string()), "{path}: {}", answer.text());
        let expected = match path.as_str() {
            "/api/jobs" => 200,
            path if path.contains('*') || path.contains('%') || path.contains(".service") || path.contains("=/..") => {
                400
            }
            _ => 404,
        };
        assert_eq!(answer.status, expected, "{path}: {}", answer.text());
    }
    assert!(!lines(&bridge.logs("ci-test-hello").await).iter().any(|line| line.contains(LINE)));
}

fn allowed(job: &str) -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    policy.admit(&JobName::parse(job).unwrap()).unwrap()
}

fn from_api(entries: &Value) -> Vec<Line> {
    use base64::Engine;
    let line = |entry: &Value| {
        let time: Timestamp = entry["time"].as_str().unwrap().parse().unwrap();
        let message = match entry["message_base64"].as_str() {
            Some(bytes) => base64::prelude::BASE64_STANDARD.decode(bytes).unwrap(),
            None => entry["message"].as_str().unwrap().as_bytes().to_vec(),
        };
        (time.as_microsecond(), entry["priority"].as_u64().unwrap(), message)
    };
    entries.as_array().unwrap().iter().map(line).collect()
}

/// All that journalctl has of a job, which has run once.
fn from_journalctl(bed: &Bed, job: &str) -> Vec<Line> {
    bed.ok(["journalctl", "--sync"]);
    let fields = "--output-fields=MESSAGE,PRIORITY";
    let printed = bed.ok(["journalctl", "--namespace=*", "--output=json", "--all", fields, "--unit", job]);
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let line = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap();
        let message = match &entry["MESSAGE"] {
            Value::String(text) => text.as_bytes().to_vec(),
            bytes => serde_json::from_value(bytes.clone()).unwrap(),
        };
        let time = i64::try_from(number(&entry["__REALTIME_TIMESTAMP"])).unwrap();
        (time, number(&entry["PRIORITY"]), message)
    };
    printed.lines().map(line).collect()
}

fn assert_same(log: &[Line], expected: &[Line], job: &str) {
    let at = log.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(log.len().min(expected.len()));
    let show =
        |lines: &[Line]| lines.get(at).map(|(time, _, text)| (*time, String::from_utf8_lossy(text).into_owned()));
    let lengths = (log.len(), expected.len());
    assert!(log == expected, "{job}: lines {lengths:?}; at {at}: {:?} and {:?}", show(log), show(expected));
}
