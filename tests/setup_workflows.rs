//! The ready workflows: the shell script against a bridge that plays a part, and the YAML files.
//!
//! Real `sh` and `curl`, real HTTP on a port of the loopback; only the bridge behind it is played.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its ground is missing")]

use std::collections::HashMap;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use saphyr::{LoadableYamlNode as _, Yaml};

const TOKEN: &str = "cib_rw_0123456789abcdefghijklmnopqrstuvwxyz";
const RUN: &str = "0198c0de-0000-7000-8000-000000000001";

/// The part that the bridge plays.
#[derive(Clone)]
struct Part {
    /// The answers to starts before the last; the key of each comes again in the next.
    refusals: Vec<(u16, &'static str)>,
    start: (u16, &'static str),
    /// All that the job will have printed.
    lines: Vec<String>,
    /// How many lines an answer to a cursor holds at the most.
    page: usize,
    /// How many of the lines the journal shows only after the job's end.
    late: usize,
    /// Whether systemd has the job wait for another unit when it is started.
    queued: bool,
    /// How many long polls it takes until the job has ended.
    polls: usize,
    /// How many reads are answered 503 before the first good answer.
    hiccups: usize,
    verdict: &'static str,
}

impl Part {
    fn successful(lines: usize) -> Self {
        Self {
            refusals: Vec::new(),
            start: (202, r#"{"msg":"started"}"#),
            lines: (0..lines).map(|number| format!("line {number}")).collect(),
            page: 150,
            late: 0,
            queued: false,
            polls: 2,
            hiccups: 0,
            verdict: r#""result":"success","exit_code":0,"signal":null"#,
        }
    }

    fn log(&self) -> String {
        joined(&self.lines)
    }
}

fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

struct Bridge {
    part: Mutex<Part>,
    requests: Mutex<Vec<String>>,
    /// What the starts brought: the instance and the body.
    starts: Mutex<Vec<(String, String)>>,
    /// The keys of the starts.
    keys: Mutex<Vec<Option<String>>>,
}

impl Bridge {
    /// Answers as the API is written down: text pages with `X-CI-*` headers, a flat object for the state.
    fn answer(&self, request: &Request, query: &HashMap<String, String>) -> Response {
        let path = request.uri().path().to_owned();
        let token = request.headers()["authorization"].to_str().unwrap();
        assert_eq!(token, format!("Bearer {TOKEN}"));
        self.requests.lock().unwrap().push(format!("{} {path}", request.method()));
        let mut part = self.part.lock().unwrap();
        let respond = |status: u16, body: String| {
            Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body)).unwrap()
        };
        if request.method() == Method::POST {
            let key = request.headers().get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
            self.keys.lock().unwrap().push(key);
            if !part.refusals.is_empty() {
                let (status, body) = part.refusals.remove(0);
                return respond(status, body.to_owned());
            }
            let mut response = respond(part.start.0, part.start.1.to_owned());
            response.headers_mut().insert("x-ci-run-id", RUN.parse().unwrap());
            if !part.queued {
                response.headers_mut().insert("x-ci-cursor", "0".parse().unwrap());
            }
            return response;
        }
        assert_eq!(query["run"], RUN);
        if part.hiccups > 0 {
            part.hiccups -= 1;
            return respond(503, r#"{"code":"unavailable","detail":"come back"}"#.to_owned());
        }
        let ended = part.polls == 0;
        // Of the unit: somebody else may have started it again.
        let state = "activating";
        let run_state = if ended { "ended" } else { "running" };
        match path.rsplit('/').next().unwrap() {
            "state" => {
                if query.contains_key("wait") {
                    part.polls = part.polls.saturating_sub(1);
                }
                let verdict = part.verdict;
                let run = format!(r#""run_state":"{run_state}","run":"{RUN}","cursor":"0""#);
                respond(200, format!(r#"{{"job":"ci-test-a","state":"{state}",{verdict},{run}}}"#))
            }
            "tail" => {
                assert_eq!(query["format"], "text");
                let visible = part.lines.len() - part.late;
                let from: usize = query["cursor"].parse().unwrap();
                let to = visible.min(from + part.page);
                let complete = ended && part.late == 0 && to == visible;
                if ended && from == visible {
                    part.late = 0;
                }
                let mut response = respond(200, joined(&part.lines[from..to]));
                let headers = response.headers_mut();
                headers.insert("x-ci-state", state.parse().unwrap());
                headers.insert("x-ci-run-state", run_state.parse().unwrap());
                headers.insert("x-ci-complete", complete.to_string().parse().unwrap());
                headers.insert("x-ci-cursor", to.to_string().parse().unwrap());
                response
            }
            other => panic!("no such path: {other}"),
        }
    }
}

/// A bridge on a port of its own; it ends with the runtime.
struct Played {
    bridge: Arc<Bridge>,
    url: String,
    _runtime: tokio::runtime::Runtime,
}

impl Played {
    fn start(part: Part) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), part)
    }

    fn on(listener: TcpListener, part: Part) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bridge = Arc::new(Bridge {
            part: Mutex::new(part),
            requests: Mutex::default(),
            starts: Mutex::default(),
            keys: Mutex::default(),
        });
        let answer = |State(bridge): State<Arc<Bridge>>,
                      Query(query): Query<HashMap<String, String>>,
                      request: Request| async move {
            let answer = bridge.answer(&request, &query);
            if request.method() == Method::POST {
                let body = axum::body::to_bytes(request.into_body(), 4096).await.unwrap();
                let instance = query.get("instance").cloned().unwrap_or_default();
                bridge.starts.lock().unwrap().push((instance, text(&body)));
            }
            answer
        };
        let router = Router::new().fallback(answer).with_state(Arc::clone(&bridge));
        let url = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await });
        Self { bridge, url, _runtime: runtime }
    }

    fn starts(&self) -> usize {
        self.bridge.requests.lock().unwrap().iter().filter(|request| request.starts_with("POST")).count()
    }
}

fn workflows() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows")
}

fn script(shell: &str, url: &str) -> Command {
    let mut command = Command::new(shell);
    command.arg(workflows().join("execute-and-follow-job.sh")).arg("ci-test-a");
    command.env("CI_BRIDGE_URL", url).env("CI_TOKEN_RW", TOKEN).env_remove("GITHUB_ACTIONS").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the script against `part`: its exit status, standard output and standard error.
fn follow(part: Part) -> (i32, String, String) {
    let played = Played::start(part);
    let Output { status, stdout, stderr } = script("sh", &played.url).output().unwrap();
    (status.code().unwrap(), text(&stdout), text(&stderr))
}

#[test]
fn a_busy_job_fails_and_names_the_run() {
    let busy = r#"{"code":"busy","status":409,"detail":"the job is running","run":"r-7"}"#;
    let (status, stdout, stderr) = follow(Part { start: (409, busy), ..Part::successful(3) });
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("the job is running") && stderr.contains(RUN), "{stderr}");
}

#[test]
fn a_refused_start_says_why() {
    let refusal = r#"{"code":"not-found","status":404,"detail":"no such job, or it is not allowed"}"#;
    let (status, _, stderr) = follow(Part { start: (404, refusal), ..Part::successful(3) });
    assert_eq!(status, 1);
    assert!(stderr.contains("no such job, or it is not allowed"), "{stderr}");
}

#[test]
fn the_instance_and_the_inputs_arrive_as_they_were_written() {
    let played = Played::start(Part::successful(3));
    let (instance, inputs) = ("feature/a b&c=\u{e9}?%41", r#"{"version": "v1.2", "note": "a \"b\" c & d"}"#);
    let done = script("sh", &played.url).arg(instance).env("CI_BRIDGE_INPUTS", inputs).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let starts = played.bridge.starts.lock().unwrap();
    assert_eq!(*starts, [(instance.to_owned(), format!(r#"{{"inputs": {inputs}}}"#))]);
}

#[test]
fn a_failed_job_fails_after_its_whole_log() {
    let part = Part { verdict: r#""result":"exit-code","exit_code":3,"signal":null"#, ..Part::successful(400) };
    let log = part.log();
    let (status, stdout, stderr) = follow(part);
    assert_eq!((status, stdout), (1, log));
    assert!(stderr.contains("exit-code, exit code 3"), "{stderr}");
}

#[test]
fn a_job_that_somebody_stopped_fails() {
    let verdicts = [
        r#""result":"stopped","exit_code":null,"signal":"SIGTERM""#,
        r#""result":"stopped","exit_code":0,"signal":null"#,
        r#""result":"success","exit_code":null,"signal":"SIGTERM""#,
    ];
    for verdict in verdicts {
        let (status, stdout, _) = follow(Part { verdict, ..Part::successful(2) });
        assert_eq!((status, stdout.as_str()), (1, "line 0\nline 1\n"), "{verdict}");
    }
}

#[test]
fn a_successful_job_succeeds_after_its_whole_log() {
    for shell in ["sh", "bash"] {
        let part = Part::successful(1000);
        let log = part.log();
        let played = Played::start(part);
        let Output { status, stdout, stderr } = script(shell, &played.url).output().unwrap();
        assert_eq!(text(&stdout), log);
        assert!(status.success(), "{}", text(&stderr));
        assert_eq!(played.starts(), 1);
    }
}

#[test]
fn lines_that_come_after_the_end_are_not_dropped() {
    let part = Part { late: 130, ..Part::successful(200) };
    let log = part.log();
    assert_eq!(follow(part).1, log);
}

#[test]
fn a_burst_before_the_first_look_is_printed_whole() {
    let part = Part { late: 1234, ..Part::successful(25_000) };
    let log = part.log();
    let (status, stdout, stderr) = follow(part);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout == log, "{} of {} bytes", stdout.len(), log.len());
}

#[test]
fn a_job_that_has_to_wait_for_others_is_followed_from_its_beginning() {
    let part = Part { queued: true, ..Part::successful(400) };
    let log = part.log();
    let (status, stdout, _) = follow(part);
    assert_eq!((status, stdout), (0, log));
}

#[test]
fn a_silent_job_prints_nothing() {
    let (status, stdout, _) = follow(Part::successful(0));
    assert_eq!((status, stdout.as_str()), (0, ""));
}

#[test]
fn reads_are_repeated_while_the_bridge_is_away() {
    let part = Part { hiccups: 2, ..Part::successful(3) };
    let log = part.log();
    let (status, stdout, stderr) = follow(part);
    assert_eq!((status, stdout), (0, log));
    assert!(stderr.contains("come back"), "{stderr}");
}

/// Hears a request and hangs up.
fn hang_up(listener: &TcpListener) -> String {
    let mut request = [0; 4096];
    let length = listener.accept().unwrap().0.read(&mut request).unwrap();
    text(&request[..length]).to_lowercase()
}

#[test]
fn a_start_without_an_answer_is_sent_again_with_its_key() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let played = std::thread::spawn(move || {
        let first = hang_up(&listener);
        let refusals = vec![(502, "<html>Bad Gateway</html>"), (409, r#"{"code":"request_in_progress"}"#)];
        (first, Played::on(listener, Part { refusals, ..Part::successful(3) }))
    });
    let output = script("sh", &url).output().unwrap();
    let (first, played) = played.join().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), joined(&Part::successful(3).lines)));
    let keys = played.bridge.keys.lock().unwrap();
    let key = keys[0].clone().unwrap();
    assert_eq!(*keys, vec![Some(key.clone()); 3]);
    assert!(key.len() == 32 && first.contains(&format!("idempotency-key: {key}\r\n")), "{first}");
}

#[test]
fn without_its_history_the_bridge_is_asked_once_more() {
    let unavailable = (503, r#"{"code":"history_unavailable","detail":"no history"}"#);
    let played = Played::start(Part { refusals: vec![unavailable], ..Part::successful(3) });
    let output = script("sh", &played.url).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(matches!(played.bridge.keys.lock().unwrap()[..], [Some(_), None]));

    // Such a start is never sent twice.
    let played = Played::start(Part { refusals: vec![unavailable, (502, "")], ..Part::successful(3) });
    let output = script("sh", &played.url).output().unwrap();
    assert_eq!((output.status.code(), played.starts()), (Some(1), 2));
    assert!(text(&output.stderr).contains("it is unknown whether the job was started"));
}

#[test]
fn a_start_that_is_never_answered_is_told_as_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let deaf = std::thread::spawn(move || [(), ()].map(|()| hang_up(&listener)));
    let output = script("sh", &url).env("CI_BRIDGE_PATIENCE", "1").output().unwrap();
    let [first, second] = deaf.join().unwrap().map(|request| request.contains("idempotency-key: "));
    assert!(first && second);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("it is unknown whether the job was started"));
}

#[test]
fn a_start_that_reached_nobody_is_told_as_not_started() {
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let output = script("sh", &url).env("CI_BRIDGE_PATIENCE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not started"));
}

#[test]
fn the_token_is_in_no_argument_of_a_process() {
    let played = Played::start(Part::successful(3));
    let scratch = tempfile::tempdir().unwrap();
    let spy = scratch.path().join("curl");
    let record = scratch.path().join("arguments");
    let real = text(&Command::new("sh").args(["-c", "command -v curl"]).output().unwrap().stdout);
    let real = real.trim();
    std::fs::write(&spy, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >>{}\nexec {real} \"$@\"\n", record.display()))
        .unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&spy).status().unwrap().success());
    let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap());
    assert!(script("sh", &played.url).env("PATH", path).output().unwrap().status.success());
    let arguments = std::fs::read_to_string(record).unwrap();
    assert!(arguments.contains("/api/job/ci-test-a") && !arguments.contains(TOKEN), "{arguments}");
}

#[test]
fn on_github_the_log_commands_nothing() {
    let part = Part { lines: vec!["::error::forged".to_owned()], ..Part::successful(1) };
    let played = Played::start(part);
    let output = script("sh", &played.url).env("GITHUB_ACTIONS", "true").output().unwrap();
    let stdout = text(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    let resume = lines[0].strip_prefix("::stop-commands::").unwrap();
    assert_eq!(resume.len(), 32);
    assert_eq!(lines[1..], ["::error::forged".to_owned(), format!("::{resume}::")]);
}

#[test]
fn a_wrong_call_starts_nothing() {
    let played = Played::start(Part::successful(1));
    for job in ["", "../x", "a b", "ci-test-a?x=y"] {
        let mut command = Command::new("sh");
        command.arg(workflows().join("execute-and-follow-job.sh")).arg(job);
        let status = command.env("CI_BRIDGE_URL", &played.url).env("CI_TOKEN_RW", TOKEN).status().unwrap();
        assert_eq!(status.code(), Some(2), "{job:?}");
    }
    for (name, value) in [("CI_TOKEN_RW", ""), ("CI_TOKEN_RW", "a\nX-Other: b"), ("CI_BRIDGE_URL", "")] {
        let status = script("sh", &played.url).env(name, value).status().unwrap();
        assert_eq!(status.code(), Some(2), "{name}={value:?}");
    }
    assert_eq!(played.starts(), 0);
}

#[test]
fn workflows_are_yaml_and_put_no_expression_into_a_script() {
    let mut seen = 0;
    for entry in std::fs::read_dir(workflows()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let documents = Yaml::load_from_str(&text).unwrap();
        let [workflow] = documents.as_slice() else { panic!("{}: one document is expected", path.display()) };
        assert!(workflow["on"].contains_mapping_key("workflow_dispatch"), "{}", path.display());
        for (_, job) in workflow["jobs"].as_mapping().unwrap() {
            assert!(job["timeout-minutes"].as_integer().is_some(), "{}", path.display());
            for step in job["steps"].as_sequence().unwrap() {
                let script = step.as_mapping_get("run").and_then(Yaml::as_str).unwrap_or_default();
                assert!(!script.contains("${{"), "{}", path.display());
            }
        }
    }
    assert_eq!(seen, 3);
}
