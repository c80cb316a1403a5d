//! Starts: exactly one run for each, and the reason if there is none.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bridge::Bridge;
use crate::logged;
use crate::systemd1::{Exit, Start, Unit};

const JOB: &str = "/api/job/ci-test-a";

#[tokio::test(flavor = "multi_thread")]
async fn a_start_names_its_run() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let answer = bridge.call(&format!("POST {JOB}")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["job"], "ci-test-a");
    assert_eq!(body["run"]["state"], "running");
    assert_eq!(body["run"]["invocation_id"], "01".repeat(16));
    let run = body["run"]["id"].as_str().unwrap();
    assert_eq!(answer.header("x-ci-run-id"), Some(run));
    assert_eq!(answer.header("location"), Some(format!("{JOB}/state?run={run}").as_str()));
    let calls = bridge.systemd.take_calls();
    assert_eq!(calls, ["GetAll", "RefUnit", "StartUnit"].map(|call| format!("{call} ci-test-a.service")));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_starts_at_once_one_runs_and_the_others_are_told_of_it() {
    let bridge = std::sync::Arc::new(Bridge::new(vec![Unit::job("ci-test-a")]).await);
    let starts: Vec<_> = (0..100)
        .map(|_| {
            let bridge = bridge.clone();
            tokio::spawn(async move { bridge.call(&format!("POST {JOB}")).await })
        })
        .collect();
    let mut answers = Vec::new();
    for start in starts {
        answers.push(start.await.unwrap());
    }
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
    let (started, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
    assert_eq!((started.len(), refused.len()), (1, 99));
    let run = started[0].header("x-ci-run-id").unwrap();
    for answer in refused {
        assert_eq!(answer.problem(), (409, "busy".to_owned()));
        assert_eq!(answer.json()["run"]["id"], run);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_join_the_run_that_is_there() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let run = bridge.start("ci-test-a").await;
    let joined = bridge.call(&format!("POST {JOB}?if_busy=join")).await;
    assert_eq!((joined.status, joined.header("x-ci-run-id")), (200, Some(run.as_str())));
    assert_eq!(bridge.call(&format!("POST {JOB}?if_busy=reject")).await.code(), "busy");
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_somebody_else_started_is_in_the_way_too() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    bridge.systemd.begin("ci-test-a").await;
    let answer = bridge.call(&format!("POST {JOB}")).await;
    assert_eq!(answer.problem(), (409, "busy".to_owned()));
    let run = answer.json()["run"]["id"].as_str().unwrap().to_owned();
    assert_eq!(bridge.call(&format!("POST {JOB}?if_busy=join")).await.header("x-ci-run-id"), Some(run.as_str()));
    assert_eq!(bridge.systemd.count("StartUnit"), 0);
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    assert_eq!(bridge.ended("ci-test-a", &run).await["result"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_began_elsewhere_in_the_same_moment_is_not_lost() {
    for query in ["", "?if_busy=join"] {
        let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
        bridge.systemd.act(|machine| machine.begin_unseen("ci-test-a.service")).await;
        let answer = bridge.call(&format!("POST {JOB}{query}")).await;
        let run = if query.is_empty() {
            assert_eq!(answer.problem(), (409, "busy".to_owned()));
            answer.json()["run"]["id"].as_str().map(str::to_owned)
        } else {
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.header("x-ci-run-id").map(str::to_owned)
        };
        let run = run.expect("the run that is in the way is not named");
        let state = bridge.call(&format!("GET {JOB}/state?run={run}")).await.json();
        assert_eq!(state["run_state"], "running", "{state}");
        assert_eq!(bridge.systemd.count("StartUnit"), 0);
        bridge.systemd.end("ci-test-a", Exit::Code(4)).await;
        let state = bridge.ended("ci-test-a", &run).await;
        assert_eq!((&state["result"], &state["exit_code"]), (&"exit-code".into(), &4.into()));
        // And the way is free again.
        bridge.start("ci-test-a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_elsewhere_is_no_run_that_has_ended() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(0)))]).await;
    bridge.start("ci-test-a").await;
    // Somebody else's start is in systemd's queue.
    bridge.systemd.change("ci-test-a", |unit| unit.job = 99).await;
    let answer = bridge.call(&format!("POST {JOB}")).await;
    assert_eq!(answer.problem(), (409, "busy".to_owned()));
    let run = &answer.json()["run"];
    assert!(run.is_null() || run["state"] != "ended", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_before_its_start_is_answered_has_its_own_verdict() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let mut runs = Vec::new();
    for (number, exit) in [0, 3, 0, 0, 4, 4, 0].into_iter().cycle().take(28).enumerate() {
        bridge.systemd.change("ci-test-a", move |unit| unit.start = Start::EndsBeforeReply(Exit::Code(exit))).await;
        let answer = bridge.call(&format!("POST {JOB}")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let run = answer.json()["run"]["id"].as_str().unwrap().to_owned();
        let state = bridge.ended("ci-test-a", &run).await;
        assert_eq!(state["exit_code"], exit, "{number}: {state}");
        assert_eq!(state["result"], if exit == 0 { "success" } else { "exit-code" }, "{number}: {state}");
        assert_eq!(state["state"], if exit == 0 { "inactive" } else { "failed" }, "{number}: {state}");
        runs.push((run, exit));
    }
    // No run took over the end of another.
    for (run, exit) in runs {
        assert_eq!(bridge.ended("ci-test-a", &run).await["exit_code"], exit);
    }
    assert_eq!(bridge.systemd.count("StartUnit"), 28);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_comes_to_no_run_says_why() {
    let systemd = |name: &'static str| -> Start {
        Start::Refused(Box::leak(format!("org.freedesktop.systemd1.{name}").into_boxed_str()))
    };
    let dbus = |name: &'static str| -> Start {
        Start::Refused(Box::leak(format!("org.freedesktop.DBus.Error.{name}").into_boxed_str()))
    };
    for (start, status, code, retry) in [
        (Start::ConditionFails, 409, "condition_failed", None),
        (Start::Fails("assert"), 409, "assertion_failed", None),
        (Start::Fails("dependency"), 409, "dependency_failed", None),
        (Start::Fails("canceled"), 409, "start_canceled", None),
        (Start::Fails("failed"), 422, "start_failed", None),
        (Start::Fails("timeout"), 422, "start_failed", None),
        (Start::HitsLimit, 429, "start_limit_hit", Some("10")),
        (dbus("AccessDenied"), 503, "not_authorized", None),
        (dbus("InteractiveAuthorizationRequired"), 503, "not_authorized", None),
        (dbus("LimitsExceeded"), 503, "systemd_unreachable", Some("1")),
        (dbus("UnknownMethod"), 500, "internal", None),
        (systemd("NoSuchUnit"), 404, "no_such_job", None),
        (systemd("UnitMasked"), 409, "unit_masked", None),
        (systemd("OnlyByDependency"), 409, "start_refused", None),
        (systemd("LoadFailed"), 422, "unit_broken", None),
        (systemd("BadUnitSetting"), 422, "unit_broken", None),
        (systemd("TransactionIsDestructive"), 409, "systemd_job_conflict", Some("1")),
        (systemd("ShuttingDown"), 503, "shutting_down", Some("1")),
    ] {
        let bridge = Bridge::new(vec![Unit::starting("ci-test-a", start)]).await;
        let answer = bridge.call(&format!("POST {JOB}")).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{start:?}");
        assert_eq!(answer.header("retry-after"), retry, "{start:?}");
        // What got no reply and has left no trace is tried once more.
        let calls = if matches!(start, Start::Refused(error) if error.ends_with("NoReply")) { 2 } else { 1 };
        assert_eq!(bridge.systemd.count("StartUnit"), calls, "{start:?}");
        let state = bridge.call(&format!("GET {JOB}/state")).await.json();
        assert_eq!(
            (&state["run"], &state["result"]),
            (&serde_json::Value::Null, &serde_json::Value::Null),
            "{start:?}"
        );
        // Nothing is in the way of the next start.
        bridge.systemd.change("ci-test-a", |unit| unit.start = Start::Runs).await;
        bridge.start("ci-test-a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_came_to_nothing_leaves_the_run_before_in_its_place() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(3)))]).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.change("ci-test-a", |unit| unit.start = Start::ConditionFails).await;
    assert_eq!(bridge.call(&format!("POST {JOB}")).await.code(), "condition_failed");
    let state = bridge.call(&format!("GET {JOB}/state")).await.json();
    assert_eq!((&state["run"], &state["exit_code"]), (&run.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pin_starts_nothing() {
    let bridge = Bridge::new(vec![Unit { pin_refused: true, ..Unit::job("ci-test-a") }]).await;
    assert_eq!(bridge.call(&format!("POST {JOB}")).await.problem(), (503, "not_authorized".to_owned()));
    assert_eq!(bridge.systemd.count("StartUnit"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_leaves_a_run_behind_and_no_half() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits)]).await;
    let request = format!("POST {JOB} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", bridge.tokens.writer);
    let mut caller = TcpStream::connect(bridge.address).await.unwrap();
    caller.write_all(request.as_bytes()).await.unwrap();
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    drop(caller);
    let queued = bridge.call(&format!("POST {JOB}?if_busy=join")).await;
    assert_eq!(queued.json()["run"]["state"], "queued");
    let run = queued.header("x-ci-run-id").unwrap();

    bridge.systemd.begin("ci-test-a").await;
    bridge.systemd.end("ci-test-a", Exit::Code(7)).await;
    let state = bridge.ended("ci-test-a", run).await;
    assert_eq!((&state["run"], &state["exit_code"]), (&run.into(), &7.into()));
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
    // Hanging up keeps nobody out of the log.
    let started = |line: &String| line.contains("ci-test-a was started by writer") && line.contains(run);
    bridge.until("GET /healthz", |_| logged::lines().iter().any(started)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_queued_for_long_and_failed_is_no_run_of_the_past() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits), Unit::lingering("ci-test-b")]).await;
    let stopped = async {
        bridge.start("ci-test-b").await;
        bridge.call("POST /api/job/ci-test-b/stop").await
    };
    let (started, stopped) = tokio::join!(async { bridge.call(&format!("POST {JOB}")).await }, stopped);
    // Both took ten seconds, which is as long as a caller has to wait.
    assert_eq!((started.status, started.json()["run"]["state"].as_str()), (202, Some("queued")));
    assert_eq!(stopped.status, 202);
    let run = started.header("x-ci-run-id").unwrap();
    bridge.systemd.act(|machine| machine.finish_job("ci-test-a.service", "dependency")).await;
    assert_eq!(bridge.ended("ci-test-a", run).await["result"], "dependency");
    bridge.systemd.end("ci-test-b", Exit::Signal(9)).await;
    let state = bridge.call("GET /api/job/ci-test-b/state?wait=10").await.json();
    assert_eq!((&state["result"], &state["signal"]), (&"stopped".into(), &"SIGKILL".into()));
}
