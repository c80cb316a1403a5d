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

    /// A page of a log; the cursor behind it is its text's length or what is named.
    fn page(text: &str, cursor: &str, run_state: &str, complete: bool, more: bool) -> Self {
        let headers = vec![
            ("x-ci-cursor", cursor.to_owned()),
            ("x-ci-run-state", run_state.to_owned()),
            ("x-ci-complete", complete.to_string()),
            ("x-ci-more", more.to_string()),
        ];
        Self { status: 200, headers, body: text.to_owned() }
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
    /// What was asked: method, path and query.
    asked: Vec<String>,
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
        let script = Arc::new(Mutex::new(Script { expected: expected.into_iter().collect(), asked: Vec::new() }));
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

async fn answer(State(script): State<Arc<Mutex<Script>>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return Answer::problem(401, "token_unknown", "who are you").into_response();
    }
    let mut script = script.lock().unwrap();
    script.asked.push(format!("{method} {uri}"));
    let what = format!("{method} {}", uri.path());
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
        (TAIL, Answer::page("", "c0", "running", false, false)),
        (TAIL, Answer::page("one\ntwo\n", "c2", "running", false, true)),
        (TAIL, Answer::page("three\n", "c3", "running", false, false)),
        // It has ended, but its last line is still on its way.
        (TAIL, Answer::page("", "c3", "ended", false, false)),
        (TAIL, Answer::page("four\n", "c4", "ended", true, false)),
        (STATE, Answer::verdict("exit-code", Some(3))),
    ]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!((done.status, done.stdout.as_str()), (3, "one\ntwo\nthree\nfour\n"), "{}", done.stderr);
    assert!(done.stderr.ends_with("ci-test-a: exit-code, exit code 3\n"), "{}", done.stderr);

    let cursors: Vec<_> = bridge
        .asked()
        .iter()
        .filter(|asked| asked.contains("/tail?"))
        .map(|asked| asked.split_once("&cursor=").map(|(_, cursor)| cursor.to_owned()))
        .collect();
    assert_eq!(cursors, [None, Some("c0"), Some("c2"), Some("c3"), Some("c3")].map(|at| at.map(str::to_owned)));
    assert!(bridge.asked()[1..].iter().all(|asked| asked.contains(&format!("run={RUN}"))), "{:?}", bridge.asked());
}

#[test]
fn run_succeeds_with_the_job_and_tells_a_script_so() {
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::page("hello\n", "c1", "ended", true, false)),
        (STATE, Answer::verdict("success", Some(0))),
    ]);
    let done = bridge.run(&["run", "ci-test-a", "--json"]);
    let verdict: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.status, &verdict["result"]), (0, &"success".into()));
    assert!(done.stderr.contains("\nhello\n"), "{}", done.stderr);
}

#[test]
fn a_bridge_that_is_away_for_a_moment_costs_no_line() {
    let away = Answer { status: 502, headers: Vec::new(), body: "<html>Bad Gateway</html>".into() };
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::page("one\n", "c1", "running", false, false)),
        (TAIL, away),
        (TAIL, Answer::problem(503, "systemd_unreachable", "systemd is away")),
        (TAIL, Answer::page("two\n", "c2", "ended", true, false)),
        (STATE, Answer::verdict("success", Some(0))),
    ]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\ntwo\n"), "{}", done.stderr);
    assert_eq!(done.stderr.matches("trying again").count(), 1, "{}", done.stderr);
}

#[test]
fn a_bridge_that_was_started_anew_still_tells_the_verdict() {
    let run = |last: &str| {
        let bridge = Played::new([
            (START, Answer::json(202, &json!({ "run": { "id": RUN, "invocation_id": "00aa" } }))),
            (TAIL, Answer::page("one\n", "c1", "ended", true, false)),
            (STATE, Answer::problem(404, "no_such_run", "the job has no such run")),
            (STATE, Answer::json(200, &json!({ "result": "exit-code", "exit_code": 3, "invocation_id": last }))),
        ]);
        bridge.run(&["run", "ci-test-a"])
    };
    assert_eq!(run("00aa").status, 3);
    // Somebody has started the job again in the meantime: that verdict is not ours.
    let other = run("00bb");
    assert_eq!(other.status, 125);
    assert!(other.stderr.ends_with("error: the job has no such run\n"), "{}", other.stderr);
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
fn a_refusal_while_following_ends_it() {
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::problem(401, "token_revoked", "the token was revoked")),
    ]);
    let done = bridge.run(&["run", "ci-test-a"]);
    assert_eq!(done.status, 125);
    assert!(done.stderr.ends_with("error: the token was revoked (token_revoked)\n"), "{}", done.stderr);
}

/// Starts a command, waits for its first line on standard output, and interrupts it.
fn interrupt_after_first_line(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
    (child, stdout)
}

#[test]
fn ctrl_c_stops_the_job_and_shows_how_it_ended() {
    let bridge = Played::new([
        (START, Answer::started()),
        (TAIL, Answer::page("one\n", "c1", "running", false, false)),
        (TAIL, Answer::page("", "c1", "running", false, false)),
        (STOP, Answer::json(200, &json!({ "msg": "Job stopped" }))),
        (TAIL, Answer::page("bye\n", "c2", "ended", true, false)),
        (STATE, Answer::verdict("stopped", None)),
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
        (TAIL, Answer::page("one\n", "c1", "running", false, false)),
        (TAIL, Answer::page("", "c1", "running", false, false)),
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
    let bridge = Played::new([(logs, Answer::page("one\ntwo\n", "c", "ended", true, false))]);
    let done = bridge.run(&["logs", "ci-test-a@", "--instance", "feature/x&y", "--lines", "2", "--raw"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "one\ntwo\n"), "{}", done.stderr);
    assert_eq!(bridge.asked(), ["GET /api/job/ci-test-a@/logs?instance=feature%2Fx%26y&format=text&lines=2&raw=true"]);
}

#[test]
fn lines_are_chosen_by_the_bridge() {
    let (logs, tail) = ("GET /api/job/ci-test-a/logs", "GET /api/job/ci-test-a/tail");
    let page = || Answer::page("one\n", "c", "ended", true, false);
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
    let done = Played::new([("GET /api/jobs", jobs)]).run(&["jobs"]);
    let expected = "JOB         STATE     DESCRIPTION\nci-test-a   inactive  Say hello\nci-test-b@  template\n";
    assert_eq!(done.stdout, expected);
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
    let script = Arc::new(Mutex::new(Script { expected: expected.into(), asked: Vec::new() }));
    let app = Router::new().fallback(answer).with_state(script);
    let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path) }).unwrap();
    runtime.spawn(async { axum::serve(listener, app).await });
    let mut command = Command::new(env!("CARGO_BIN_EXE_ci-bridge"));
    command.args(["jobs", "--json"]).env("CI_TOKEN", TOKEN).env("CI_BRIDGE_URL", format!("unix:{}", path.display()));
    let done = Done::from(command.output().unwrap());
    assert_eq!((done.status, done.stdout.as_str()), (0, "{\"jobs\":[]}\n"), "{}", done.stderr);
}
