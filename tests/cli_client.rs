//! The commands that talk to a bridge, against one that is played from a script.
#![expect(clippy::unwrap_used, reason = "what a test can't prepare ends it")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const TOKEN: &str = "cib_rw_not_a_real_one";
const RUN: &str = "0190b5a0-0000-7000-8000-000000000001";

/// One answer of the played bridge.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Answer {
    fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: vec![("content-type", "application/json".into())], body: body.to_string() }
    }

    fn problem(status: u16, code: &str, detail: &str) -> Self {
        Self::json(status, &json!({ "status": status, "code": code, "detail": detail }))
    }

    fn started() -> Self {
        Self::json(202, &json!({ "msg": "Job started", "run": { "id": RUN } }))
    }

    /// A part of an event stream: these lines, each with its cursor.
    fn lines<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let event = |(message, cursor)| format!("id: {cursor}\ndata: {}\n\n", json!({ "message": message }));
        let body = std::iter::once("retry: 1000\n\n: \n\n".to_owned()).chain(lines.into_iter().map(event)).collect();
        Self { status: 200, headers: vec![("content-type", "text/event-stream".into())], body }
    }

    /// The stream with one more event.
    fn then(mut self, event: &str, data: &Value) -> Self {
        self.body.push_str(&format!("event: {event}\ndata: {data}\n\n"));
        self
    }

    /// The stream with its end.
    fn end(self, result: &str, exit_code: Option<u8>) -> Self {
        self.then("end", &json!({ "result": result, "exit_code": exit_code, "signal": null, "complete": true }))
    }

    fn text(body: &str) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.to_owned() }
    }

    fn verdict(result: &str, exit_code: Option<u8>) -> Self {
        Self::json(200, &json!({ "result": result, "exit_code": exit_code, "state": "inactive", "sub_state": "dead" }))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::from_u16(self.status).unwrap(), self.body).into_response();
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }
}

#[derive(Default)]
struct Script {
    /// What is asked for, such as `GET /tail`, and the answer. In this order; what is asked twice needs two lines.
    expected: VecDeque<(&'static str, Answer)>,
    /// What was asked: method, path and query, and the body if there is one.
    asked: Vec<String>,
    /// The keys of the starts.
    keys: Vec<Option<String>>,
    /// Whether the first answer is given again and again.
    repeats: bool,
}

/// A bridge that plays a script and fails the test if it is asked for anything else.
struct Played {
    script: Arc<Mutex<Script>>,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Played {
    fn new(expected: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        let runtime = Runtime::new().unwrap();
        let script = Arc::new(Mutex::new(Script { expected: expected.into_iter().collect(), ..Script::default() }));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async { axum::serve(listener, app).await });
        Self { script, address, _runtime: runtime }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ci-bridge"));
        command.args(args).env("CI_BRIDGE_URL", format!("http://{}", self.address)).env("CI_TOKEN", TOKEN);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end; the whole script must have been played.
    fn run(&self, args: &[&str]) -> Done {
        let done = Done::from(self.command(args).output().unwrap());
        self.finished();
        done
    }

    fn finished(&self) {
        let left: Vec<_> = self.script.lock().unwrap().expected.iter().map(|(what, _)| *what).collect();
        assert_eq!(left, [""; 0], "not asked for; asked: {:?}", self.asked());
    }

    fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return Answer::problem(401, "token_unknown", "who are you").into_response();
    }
    let mut script = script.lock().unwrap();
    script.asked.push(format!("{method} {uri} {body}").trim_end().to_owned());
    let what = format!("{method} {}", uri.path());
    if what == START {
        script.keys.push(headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned()));
    }
    if script.repeats
        && let [(_, answer)] = script.expected.make_contiguous()
    {
        return answer.clone().into_response();
    }
    // What stands before a stop is answered again and again until the stop comes.
    let before_stop = script.expected.get(1).is_some_and(|(next, _)| *next == STOP);
    if before_stop && what == STOP {
        script.expected.pop_front();
    } else if before_stop && let Some((_, answer)) = script.expected.front().filter(|(first, _)| *first == what) {
        return answer.clone().into_response();
    }
    match script.expected.pop_front() {
        Some((expected, answer)) if expected == what => answer.into_response(),
        other => {
            let expected = other.map(|(expected, _)| expected);
            Answer::problem(400, "off_script", &format!("{what} instead of {expected:?}")).into_response()
        }
    }
}

struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let done =
            Self { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!done.stdout.contains(TOKEN) && !done.stderr.contains(TOKEN));
        done
    }
}

const START: &str = "POST /api/job/ci-test-a";
const TAIL: &str = "GET /api/job/ci-test-a/tail";
const STATE: &str = "GET /api/job/ci-test-a/state";
const STOP: &str = "POST /api/job/ci-test-a/stop";

#[test]
fn run_prints_the_whole_log_and_exits_as_the_job_does() {
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::lines([("one", "c1"), ("two", "c2")])),
        (TAIL, Answer::lines([])),
        (TAIL, Answer::lines([("three", "c3")]).end("exit-code", Some(3))),
    ]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!((done.status, done.stdout.as_str()), (3, "one\ntwo\nthree\n"), "{}", done.stderr);
    assert!(done.stderr.ends_with("ci-test-a: exit-code, exit code 3\n"), "{}", done.stderr);
    // A cut is worth no word as long as the stream can be had again.
    assert!(!done.stderr.contains("again"), "{}", done.stderr);
    let places: Vec<_> =
        bridge.asked().iter().filter_map(|asked| Some(asked.split_once("format=sse&")?.1.to_owned())).collect();
    assert_eq!(places, [&format!("run={RUN}&lines=10000"), "cursor=c2", "cursor=c2"]);
}

#[test]
fn the_log_is_read_from_where_the_start_says() {
    let started = Answer::json(202, &json!({ "run": { "id": RUN }, "cursor": "c0" }));
    let bridge = Played::new([(START, started), (TAIL, Answer::lines([("one", "c1")]).end("success", Some(0)))]);
    assert_eq!(bridge.run(&["run", "ci-test-a"]).status, 0);
    assert!(bridge.asked()[1].ends_with("&cursor=c0"), "{:?}", bridge.asked());
}

#[test]
fn run_succeeds_with_the_job_and_tells_a_script_so() {
    let bridge =
        Played::new([(START, Answer::started()), (TAIL, Answer::lines([("hello", "c1")]).end("success", Some(0)))]);
    let done = bridge.run(&["run", "ci-test-a", "--json"]);
    let verdict: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.status, &verdict["result"]), (0, &"success".into()));
    assert!(done.stderr.contains("\nhello\n"), "{}", done.stderr);
}

#[test]
fn inputs_go_with_the_start_and_a_wrong_one_starts_nothing() {
    let bridge = Played::new([(START, Answer::started()), (TAIL, Answer::lines([]).end("success", Some(0)))]);
    let inputs = ["--input", "version=v1.2", "--input", "note=a=b \"c\""];
    assert_eq!(bridge.run(&[&["run", "ci-test-a"], inputs.as_slice()].concat()).status, 0);
    let expected = json!({ "inputs": { "version": "v1.2", "note": "a=b \"c\"" } });
    assert_eq!(bridge.asked()[0], format!("{START} {expected}"));

    let detail = "the input `version` must match `v[0-9.]+` as a whole";
    let bridge = Played::new([(START, Answer::problem(422, "input_invalid", detail))]);
    let done = bridge.run(&["run", "ci-test-a", "--input", "version=latest"]);
    assert_eq!((done.status, done.stderr), (125, format!("error: {detail} (input_invalid)\n")));
    for (args, status) in [(&["--input", "version"][..], 2), (&["--input", "a=1", "--input", "a=2"], 125)] {
        let bridge = Played::new([]);
        assert_eq!(bridge.run(&[&["run", "ci-test-a"], args].concat()).status, status);
        assert_eq!(bridge.asked(), [] as [&str; 0]);
    }
}

#[test]
fn a_log_that_lacks_lines_is_said_to() {
    let suppressed = json!({ "reason": "suppressed", "count": 123 });
    let end = json!({ "result": "success", "exit_code": 0, "complete": false });
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::lines([("one", "c1")]).then("gap", &suppressed).then("end", &end)),
    ]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\n"));
    assert!(done.stderr.contains("ci-test-a: 123 messages are missing here"), "{}", done.stderr);
    assert!(done.stderr.contains("ci-test-a: the log may lack lines"), "{}", done.stderr);
}

#[test]
fn a_bridge_that_is_away_for_a_moment_costs_no_line() {
    let away = Answer { status: 502, headers: Vec::new(), body: "<html>Bad Gateway</html>".into() };
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::lines([("one", "c1")]).then("restart", &json!({}))),
        (TAIL, away),
        (TAIL, Answer::problem(503, "systemd_unreachable", "systemd is away")),
        (TAIL, Answer::lines([("two", "c2")]).end("success", Some(0))),
    ]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\ntwo\n"), "{}", done.stderr);
    assert_eq!(done.stderr.matches("trying again").count(), 1, "{}", done.stderr);
}

#[test]
fn a_job_is_followed_without_being_started() {
    let bridge = Played::new([
        (TAIL, Answer::lines([("one", "c1")])),
        (TAIL, Answer::lines([("two", "c2")]).then("gap", &json!({ "reason": "vacuumed" })).end("exit-code", Some(3))),
    ]);
    let done = bridge.run(&["tail", "ci-test-a", "--follow", "--lines", "5", "--raw", "--priority", "err"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\ntwo\n"), "{}", done.stderr);
    assert!(done.stderr.ends_with("journald has deleted them\nci-test-a: exit-code, exit code 3\n"), "{}", done.stderr);
    let wanted = "follow=true&format=sse&raw=true&priority=err";
    assert_eq!(bridge.asked(), ["lines=5", "cursor=c1"].map(|place| format!("{TAIL}?{wanted}&{place}")));

    let bridge = Played::new([(TAIL, Answer::lines([("one", "c1")]).end("success", Some(0)))]);
    let done = bridge.run(&["tail", "ci-test-a", "-f", "--json"]);
    let objects: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&objects[0]["message"], &objects[1]["end"]["result"]), (&"one".into(), &"success".into()));
}

#[test]
fn bytes_that_are_no_text_are_passed_on_if_asked_for() {
    let entry = json!({ "message": "\u{fffd}", "message_base64": "/w==" });
    let body = Answer::lines([]).then("message", &entry).end("success", Some(0));
    let bridge = Played::new([(TAIL, body)]);
    let output = bridge.command(&["tail", "ci-test-a", "--follow", "--raw"]).output().unwrap();
    assert_eq!(output.stdout, b"\xff\n");
}

#[test]
fn a_job_that_was_not_started_is_no_failed_job() {
    let busy = Answer::problem(409, "busy", "the job is active already; join it with ?if_busy=join");
    let bridge = Played::new([(START, busy)]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!(done.status, 125);
    assert_eq!(done.stderr, "error: the job is active already; join it with ?if_busy=join (busy)\n");
}

#[test]
fn a_start_whose_answer_was_lost_is_sent_again_with_its_key() {
    let away = Answer { status: 502, headers: Vec::new(), body: "<html>Bad Gateway</html>".into() };
    let in_progress = Answer::problem(409, "request_in_progress", "still being carried out");
    let unreachable = Answer::problem(503, "systemd_unreachable", "systemd is away");
    let log = Answer::lines([("one", "c1")]).end("success", Some(0));
    let bridge = Played::new([
        (START, away),
        (START, in_progress),
        (START, unreachable),
        (START, Answer::started()),
        (TAIL, log.clone()),
    ]);
    let done = bridge.run(&["run", "ci-test-a", "--input", "a=1"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\n"), "{}", done.stderr);
    let keys = bridge.script.lock().unwrap().keys.clone();
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");

    // Each start is one of its own.
    let bridge = Played::new([(START, Answer::started()), (TAIL, log)]);
    assert_eq!(bridge.run(&["run", "ci-test-a"]).status, 0);
    assert_ne!(bridge.script.lock().unwrap().keys[0], keys[0]);
}

#[test]
fn a_bridge_without_its_history_is_asked_once_more_without_a_key() {
    let no_history = || Answer::problem(503, "history_unavailable", "the history can't be written");
    let away = Answer { status: 502, headers: Vec::new(), body: String::new() };
    let log = Answer::lines([]).end("success", Some(0));
    let bridge = Played::new([(START, no_history()), (START, Answer::started()), (TAIL, log)]);
    assert_eq!(bridge.run(&["run", "ci-test-a"]).status, 0);
    assert!(matches!(bridge.script.lock().unwrap().keys[..], [Some(_), None]));

    let bridge = Played::new([(START, no_history()), (START, away)]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!(done.status, 125);
    assert!(done.stderr.starts_with("error: it is unknown whether the job was started: "), "{}", done.stderr);
}

#[test]
fn a_job_that_is_unwanted_before_it_is_started_is_stopped() {
    let bridge = Played::new([(START, Answer::problem(503, "systemd_unreachable", "systemd is away"))]);
    bridge.script.lock().unwrap().repeats = true;
    let mut command = bridge.command(&["run", "ci-test-a"]).spawn().unwrap();
    let mut said = BufReader::new(command.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.next().unwrap().contains("trying again"));
    interrupt(&command);
    assert!(said.next().unwrap().contains("stopping it once it is started"));
    {
        let mut script = bridge.script.lock().unwrap();
        script.repeats = false;
        script.expected = VecDeque::from([
            (START, Answer::started()),
            (STOP, Answer::json(200, &json!({ "msg": "Job stopped" }))),
            (TAIL, Answer::lines([]).end("stopped", None)),
        ]);
    }
    assert_eq!(command.wait().unwrap().code(), Some(130), "{:?}", said.collect::<Vec<_>>());
    bridge.finished();
}

#[test]
fn a_refusal_while_following_ends_it() {
    let problem = json!({ "status": 401, "code": "token_revoked", "detail": "the token was revoked" });
    for answer in [
        Answer::problem(401, "token_revoked", "the token was revoked"),
        Answer::lines([("one", "c1")]).then("error", &problem),
    ] {
        let bridge = Played::new([(START, Answer::started()), (TAIL, answer)]);
        let done = bridge.run(&["run", "ci-test-a"]);
        assert_eq!(done.status, 125);
        assert!(done.stderr.ends_with("error: the token was revoked (token_revoked)\n"), "{}", done.stderr);
    }
}

/// Starts a command, waits for its first line on standard output, and interrupts it.
fn interrupt_after_first_line(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    interrupt(&child);
    (child, stdout)
}

fn interrupt(child: &Child) {
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
}

#[test]
fn ctrl_c_stops_the_job_and_shows_how_it_ended() {
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::lines([("one", "c1")])),
        (TAIL, Answer::lines([])),
        (STOP, Answer::json(200, &json!({ "msg": "Job stopped" }))),
        (TAIL, Answer::lines([("bye", "c2")]).end("stopped", None)),
    ]);
    let (mut child, mut stdout) = interrupt_after_first_line(bridge.command(&["run", "ci-test-a"]));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(130), "bye\n"));
    bridge.finished();
}

#[test]
fn ctrl_c_leaves_a_job_running_that_somebody_else_started() {
    let joined = Answer { status: 200, ..Answer::started() };
    let bridge = Played::new([
        (START, joined),
        (TAIL, Answer::lines([("one", "c1")])),
        (TAIL, Answer::lines([])),
        (STOP, Answer::json(200, &json!({ "msg": "Job stopped" }))),
    ]);
    let (mut child, _stdout) = interrupt_after_first_line(bridge.command(&["run", "ci-test-a", "--join"]));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(bridge.asked()[0].ends_with("?if_busy=join"));
    assert!(!bridge.asked().iter().any(|asked| asked.starts_with(STOP)), "{:?}", bridge.asked());
}

#[test]
fn a_log_is_passed_on_as_it_is() {
    let logs = "GET /api/job/ci-test-a@/logs";
    let bridge = Played::new([(logs, Answer::text("one\ntwo\n"))]);
    let done = bridge.run(&["logs", "ci-test-a@", "--instance", "feature/x&y", "--lines", "2", "--raw"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\ntwo\n"), "{}", done.stderr);
    assert_eq!(bridge.asked(), ["GET /api/job/ci-test-a@/logs?instance=feature%2Fx%26y&format=text&lines=2&raw=true"]);
}

#[test]
fn lines_are_chosen_by_the_bridge() {
    let (logs, tail) = ("GET /api/job/ci-test-a/logs", "GET /api/job/ci-test-a/tail");
    let page = || Answer::text("one\n");
    let bridge = Played::new([(logs, page()), (tail, page())]);
    let chosen = ["--priority", "err", "--since", "2026-11-21T10:40:02+01:00", "--until", "2026-11-21T11:00:00Z"];
    assert_eq!(bridge.command(&[["logs", "ci-test-a"].as_slice(), &chosen].concat()).status().unwrap().code(), Some(0));
    assert_eq!(bridge.run(&["tail", "ci-test-a", "--priority", "3"]).status, 0);
    let times = "since=2026-11-21T10%3A40%3A02%2B01%3A00&until=2026-11-21T11%3A00%3A00Z";
    assert_eq!(
        bridge.asked(),
        [format!("{logs}?format=text&priority=err&{times}"), format!("{tail}?format=text&priority=3")]
    );
}

#[test]
fn what_is_no_name_is_refused_before_anything_is_asked() {
    let bridge = Played::new([]);
    for name in ["..", "../jobs", "a/b", "a?token=x", "a#b", "a b", "a.service"] {
        let done = bridge.run(&["state", name]);
        assert_eq!(done.status, 2, "{name}");
        assert!(done.stderr.contains("a job "), "{}", done.stderr);
    }
    assert_eq!(bridge.asked(), [""; 0]);
}

#[test]
fn state_and_stop_and_jobs_are_for_people_and_for_scripts() {
    let verdict = Answer::verdict("exit-code", Some(3));
    let done = Played::new([(STATE, verdict.clone())]).run(&["state", "ci-test-a"]);
    assert_eq!(done.stdout, "ci-test-a: inactive (dead)\n  result     exit-code\n  exit code  3\n");
    let done = Played::new([(STATE, verdict)]).run(&["state", "ci-test-a", "--json", "--wait", "50"]);
    assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["exit_code"], 3);

    let stopped = Answer::json(200, &json!({ "msg": "Job was not active", "job": "ci-test-a" }));
    assert_eq!(Played::new([(STOP, stopped)]).run(&["stop", "ci-test-a"]).stdout, "ci-test-a: Job was not active\n");

    let jobs = Answer::json(
        200,
        &json!({ "jobs": [
            { "job": "ci-test-a", "state": "inactive", "description": "Say hello" },
            { "job": "ci-test-b@", "state": null, "template": true, "description": null },
        ] }),
    );
    let runs = Answer::json(
        200,
        &json!({ "more": false, "runs": [
            { "id": "r2", "requested_at": "2026-11-21T10:40:02Z", "state": "running", "result": null, "duration_seconds": null, "started_by": "ci" },
            { "id": "r1", "requested_at": "2026-11-20T10:40:02Z", "state": "ended", "result": "exit-code", "duration_seconds": 61.04, "started_by": "systemd" },
        ] }),
    );
    let done = Played::new([("GET /api/job/ci-test-a/runs", runs)]).run(&["runs", "ci-test-a", "--limit", "2"]);
    assert_eq!(
        done.stdout,
        "RUN  REQUESTED             RESULT     TOOK    BY\n\
         r2   2026-11-21T10:40:02Z  running            ci\n\
         r1   2026-11-20T10:40:02Z  exit-code  61.0 s  systemd\n"
    );
    let done = Played::new([("GET /api/jobs", jobs)]).run(&["jobs"]);
    let expected = "JOB         STATE     DESCRIPTION\nci-test-a   inactive  Say hello\nci-test-b@  template\n";
    assert_eq!(done.stdout, expected);
}

#[test]
fn the_audit_is_a_table_and_asks_for_what_is_wanted() {
    let page = Answer::json(
        200,
        &json!({ "more": false, "before": null, "entries": [
            { "id": 12, "time": "2026-11-21T10:40:02Z", "kind": "start", "who": "ci", "address": "192.0.2.1", "job": "ci-test-a", "outcome": "accepted", "detail": null },
            { "id": 9, "time": "2026-11-20T10:40:02Z", "kind": "token", "who": "ci", "address": null, "job": null, "outcome": "added", "detail": "rw" },
        ] }),
    );
    let bridge = Played::new([("GET /api/audit", page.clone()), ("GET /api/audit", page)]);
    let command = bridge.command(&["audit"]).output().unwrap();
    assert_eq!(
        Done::from(command).stdout,
        "ID  TIME                  KIND   WHO  FROM       JOB        OUTCOME   DETAIL\n\
         12  2026-11-21T10:40:02Z  start  ci   192.0.2.1  ci-test-a  accepted\n\
         9   2026-11-20T10:40:02Z  token  ci                         added     rw\n"
    );
    let options = [
        ["--limit", "2"],
        ["--before", "13"],
        ["--kind", "start"],
        ["--who", "ci"],
        ["--job", "ci-test-a@"],
        ["--instance", "b c"],
        ["--run", RUN],
    ];
    let done = bridge.run(&[&["audit", "--json"], options.concat().as_slice()].concat());
    assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["entries"][0]["id"], 12);
    let query = "limit=2&before=13&kind=start&who=ci&job=ci-test-a%40&instance=b+c";
    assert_eq!(bridge.asked(), ["GET /api/audit", &format!("GET /api/audit?{query}&run={RUN}")]);

    let refused = Answer::problem(403, "scope_missing", "the token has not the scope `audit`");
    let done = Played::new([("GET /api/audit", refused)]).run(&["audit"]);
    assert_eq!((done.status, done.stdout.as_str()), (1, ""));
    assert_eq!(done.stderr, "error: the token has not the scope `audit` (scope_missing)\n");
}

#[test]
fn runners_are_a_table_without_what_a_terminal_obeys_and_are_asked_for_as_is_wanted() {
    let page = Answer::json(
        200,
        &json!({ "more": false, "after": null, "runners": [
            { "id": RUN, "name": "::error::\u{1b}[2Jbuild", "source": "acme", "state": "offline", "busy": false, "since": "2026-11-21T10:40:02Z", "labels": ["gpu", "a\nb"] },
            { "id": RUN, "name": "lab-1", "source": "lab", "state": "online", "busy": null, "since": "2026-11-21T10:40:02Z", "labels": [] },
        ] }),
    );
    let bridge = Played::new([("GET /api/runners", page.clone()), ("GET /api/runners", page)]);
    let done = Done::from(bridge.command(&["runners"]).output().unwrap());
    assert_eq!(
        done.stdout,
        format!(
            "STATE    NAME                SOURCE  JOB   SINCE                 ID                                    LABELS\n\
             offline  ::error::\u{fffd}[2Jbuild  acme    idle  2026-11-21T10:40:02Z  {RUN}  gpu,a\u{fffd}b\n\
             online   lab-1               lab           2026-11-21T10:40:02Z  {RUN}\n"
        )
    );
    let options = [
        ["--provider", "github"],
        ["--source", "acme"],
        ["--kind", "organization"],
        ["--state", "offline"],
        ["--busy", "true"],
        ["--paused", "false"],
        ["--label", "gpu"],
        ["--tag-list", "a,b"],
        ["--name", "build"],
        ["--scope", "shared"],
        ["--limit", "2"],
        ["--after", RUN],
    ];
    let done = bridge.run(&[&["runners", "--json"], options.concat().as_slice()].concat());
    assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["runners"][1]["name"], "lab-1");
    let query = "provider=github&source=acme&kind=organization&state=offline&busy=true&paused=false&label=gpu\
                 &tag_list=a%2Cb&name=build&scope=shared";
    assert_eq!(bridge.asked(), ["GET /api/runners", &format!("GET /api/runners?{query}&limit=2&after={RUN}")]);
}

#[test]
fn alerts_are_a_table_and_one_is_sent_again_by_its_id() {
    let page = Answer::json(
        200,
        &json!({ "more": false, "before": null, "alerts": [
            { "id": 12, "at": "2026-11-21T10:40:02Z", "alert": "ops", "type": "runner.offline", "state": "dead", "attempts": 10, "error": "the answer has status 500" },
        ] }),
    );
    let replayed = Answer::json(202, &json!({ "msg": "Alert is sent again", "id": 12 }));
    let bridge = Played::new([
        ("GET /api/alerts", page.clone()),
        ("GET /api/alerts", page),
        ("POST /api/alerts/12/replay", replayed),
    ]);
    let done = Done::from(bridge.command(&["alerts", "list"]).output().unwrap());
    assert_eq!(
        done.stdout,
        "ID  AT                    ALERT  TYPE            STATE  TRIED  ERROR\n\
         12  2026-11-21T10:40:02Z  ops    runner.offline  dead   10     the answer has status 500\n"
    );
    let list = ["alerts", "list", "--dead", "--limit", "2", "--before", "13", "--json"];
    let done = Done::from(bridge.command(&list).output().unwrap());
    assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["alerts"][0]["id"], 12);
    let done = bridge.run(&["alerts", "replay", "12"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "message 12 is sent again\n"));
    let query = "state=dead&limit=2&before=13";
    let asked = ["GET /api/alerts", &format!("GET /api/alerts?{query}"), "POST /api/alerts/12/replay"];
    assert_eq!(bridge.asked(), asked);

    let refused = Answer::problem(404, "no_such_alert", "no message of this id was given up");
    let done = Played::new([("POST /api/alerts/1/replay", refused)]).run(&["alerts", "replay", "1"]);
    assert_eq!((done.status, done.stderr.as_str()), (1, "error: no message of this id was given up (no_such_alert)\n"));
}

#[test]
fn an_error_is_one_line_that_says_what_to_do() {
    let run = |url: &str, token: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ci-bridge"));
        command.args(["jobs", "--url", url]).env_remove("CI_TOKEN");
        let done = Done::from(command.envs(token.map(|token| ("CI_TOKEN", token))).output().unwrap());
        assert_eq!((done.status, done.stderr.lines().count()), (1, 1), "{}", done.stderr);
        done.stderr
    };
    assert!(run("http://127.0.0.1:1", None).contains("CI_TOKEN is not set"));
    assert!(run("http://127.0.0.1:1", Some(TOKEN)).starts_with("error: failed to reach http://127.0.0.1:1/: "));
    for url in ["ci.example.com", "ftp://ci.example.com", "http://"] {
        assert!(run(url, Some(TOKEN)).contains("is no address of a bridge; write http://HOST:PORT"), "{url}");
    }
}

#[test]
fn a_redirect_does_not_carry_the_token_away() {
    let elsewhere = Played::new([("GET /api/jobs", Answer::json(200, &json!({ "jobs": [] })))]);
    let location = vec![("location", format!("http://{}/api/jobs", elsewhere.address))];
    let redirect = Answer { status: 307, headers: location, body: String::new() };
    let done = Played::new([("GET /api/jobs", redirect)]).run(&["jobs"]);
    assert_eq!(done.status, 1, "{}", done.stdout);
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn a_bridge_is_reached_over_its_socket() {
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let expected = [("GET /api/jobs", Answer::json(200, &json!({ "jobs": [] })))];
    let script = Arc::new(Mutex::new(Script { expected: expected.into(), ..Script::default() }));
    let app = Router::new().fallback(answer).with_state(script);
    let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path) }).unwrap();
    runtime.spawn(async { axum::serve(listener, app).await });
    let mut command = Command::new(env!("CARGO_BIN_EXE_ci-bridge"));
    command.args(["jobs", "--json"]).env("CI_TOKEN", TOKEN).env("CI_BRIDGE_URL", format!("unix:{}", path.display()));
    let done = Done::from(command.output().unwrap());
    assert_eq!((done.status, done.stdout.as_str()), (0, "{\"jobs\":[]}\n"), "{}", done.stderr);
}
