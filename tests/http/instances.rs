//! Instances of templates: how their text becomes a unit, and how many there may be.

use crate::bridge::{Bridge, Setup};
use crate::systemd1::Unit;

#[tokio::test(flavor = "multi_thread")]
async fn the_text_of_an_instance_is_escaped_as_systemd_does() {
    let bridge = Bridge::new(vec![Unit::template("ci-test-build@")]).await;
    for (text, unit) in [
        ("main", "ci-test-build@main.service"),
        ("feature/login-form", "ci-test-build@feature-login\\x2dform.service"),
        ("feature%2Flogin-form%20x", "ci-test-build@feature-login\\x2dform\\x20x.service"),
        (".hidden", "ci-test-build@\\x2ehidden.service"),
        ("a%3bid", "ci-test-build@a\\x3bid.service"),
        ("a%5Cx3bid", "ci-test-build@a\\x5cx3bid.service"),
        ("a@b", "ci-test-build@a\\x40b.service"),
        ("%C3%A9", "ci-test-build@\\xc3\\xa9.service"),
        ("-x", "ci-test-build@\\x2dx.service"),
        ("a*", "ci-test-build@a\\x2a.service"),
    ] {
        let answer = bridge.call(&format!("POST /api/job/ci-test-build@?instance={text}")).await;
        assert_eq!(answer.status, 202, "{text}: {answer:?}");
        bridge.systemd.called(&format!("StartUnit {unit}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_location_of_a_run_leads_to_its_state() {
    let bridge = Bridge::new(vec![Unit::template("ci-test-build@"), Unit::job("ci-test-a")]).await;
    for request in [
        "ci-test-a",
        "ci-test-build@main",
        "ci-test-build@?instance=feature/login-form",
        "ci-test-build@?instance=a%26b%3dc",
    ] {
        let answer = bridge.call(&format!("POST /api/job/{request}")).await;
        let location = answer.header("location").unwrap();
        let state = bridge.call(&format!("GET {location}")).await;
        assert_eq!(state.status, 200, "{request}: {location}");
        assert_eq!(state.json()["run"], answer.json()["run"]["id"]);
        assert_eq!(state.json()["job"], answer.json()["job"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_breaks_a_rule_is_refused_without_a_call() {
    let bridge = Bridge::new(vec![Unit::template("ci-test-build@"), Unit::job("ci-test-a")]).await;
    let long = format!("ci-test-build@?instance={}", "x".repeat(250));
    for (request, rule) in [
        ("ci-test-build@", "add ?instance="),
        ("ci-test-build@?instance=", "must not be empty"),
        ("ci-test-build@?instance=..", "`..`"),
        ("ci-test-build@?instance=../../etc/passwd", "`..`"),
        ("ci-test-build@?instance=a/%2e%2e/b", "`..`"),
        ("ci-test-build@?instance=a%0ab", "control characters"),
        ("ci-test-build@?instance=%00", "control characters"),
        ("ci-test-build@?instance=%1b%5b31m", "control characters"),
        ("ci-test-build@?instance=%7f", "control characters"),
        ("ci-test-build@?instance=%c2%85", "control characters"),
        ("ci-test-a?instance=x", "goes with a template"),
        ("ci-test-build@x?instance=y", "goes with a template"),
        (long.as_str(), "255 bytes"),
    ] {
        let (name, query) = request.split_once('?').map_or((request, ""), |(name, query)| (name, query));
        for path in ["POST /api/job/{}", "POST /api/job/{}/stop", "GET /api/job/{}/state", "GET /api/job/{}/logs"] {
            let answer = bridge.call(&format!("{}?{query}", path.replace("{}", name))).await;
            assert_eq!(answer.problem(), (400, "invalid_job_name".to_owned()), "{path} {request}");
            assert!(answer.json()["detail"].as_str().unwrap().contains(rule), "{request}: {answer:?}");
        }
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_no_utf_8_is_refused_and_not_repaired() {
    let bridge = Bridge::new(vec![Unit::template("ci-test-build@")]).await;
    for text in ["%ff", "a%c3", "%ed%a0%80"] {
        let answer = bridge.call(&format!("POST /api/job/ci-test-build@?instance={text}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".to_owned()), "{text}");
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_make_systemd_load_any_number_of_instances() {
    let setup = Setup { instances_per_hour: 20, ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::template("ci-test-build@"), Unit::job("ci-test-a")], setup).await;
    for number in 0..1000 {
        if number == 20 {
            bridge.systemd.take_calls();
        }
        let answer = bridge.call(&format!("POST /api/job/ci-test-build@?instance=branch{number}")).await;
        if number < 20 {
            assert_eq!(answer.status, 202, "{number}: {answer:?}");
        } else {
            assert_eq!(answer.problem(), (429, "too_many_instances".to_owned()), "{number}");
            let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((3000..=3600).contains(&pause), "{pause}");
        }
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
    // What came up before and what is no instance can still be started.
    assert_eq!(bridge.call("POST /api/job/ci-test-build@branch7").await.code(), "busy");
    bridge.start("ci-test-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_looking_at_instances_nor_stopping_them_makes_systemd_load_them() {
    let bridge = Bridge::new(vec![Unit::template("ci-test-build@")]).await;
    for path in ["GET /api/job/{}/state", "GET /api/job/{}/tail", "GET /api/job/{}/logs", "POST /api/job/{}/stop"] {
        let answer = bridge.call(&path.replace("{}", "ci-test-build@never")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let calls = bridge.systemd.take_calls();
    assert!(calls.iter().all(|call| call == "ListUnitFilesByPatterns"), "{calls:?}");
}
