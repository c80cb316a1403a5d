//! Methods, paths, and what stands on every answer.

use std::collections::BTreeSet;

use crate::bridge::Bridge;
use crate::systemd1::Unit;

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_a_path_does_not_take_is_told_those_that_it_takes() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let (get, post) = ("GET,HEAD", "POST");
    for (path, allow) in [
        ("/api/job/ci-test-a", post),
        ("/api/job/ci-test-a/stop", post),
        ("/api/job/ci-test-a/state", get),
        ("/api/job/ci-test-a/tail", get),
        ("/api/job/ci-test-a/logs", get),
        ("/api/jobs", get),
        ("/", get),
        ("/healthz", get),
        ("/readyz", get),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"] {
            if allow.split(',').any(|allowed| allowed == method) {
                continue;
            }
            let answer = bridge.call(&format!("{method} {path}")).await;
            assert_eq!(answer.problem(), (405, "method_not_allowed".to_owned()), "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_get_without_a_body_and_starts_nothing() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for path in ["/", "/healthz", "/readyz", "/api/jobs", "/api/job/ci-test-a/state", "/api/job/ci-test-a/logs"] {
        let answer = bridge.call(&format!("HEAD {path}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
    for path in ["/api/job/ci-test-a", "/api/job/ci-test-a/stop"] {
        let answer = bridge.call(&format!("HEAD {path}")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{path}");
    }
    let answer = bridge.call_with("HEAD /api/jobs", &[]).await;
    assert_eq!((answer.status, answer.body.as_str()), (401, ""));
    assert_eq!(bridge.systemd.count("StartUnit") + bridge.systemd.count("StopUnit"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_not_found_and_below_api_only_with_a_token() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for path in [
        "/api",
        "/api/nothing",
        "/api/jobs/",
        "/api/job",
        "/api/job/ci-test-a/",
        "/api/job/ci-test-a/nothing",
        "/api/job/ci-test-a/state/more",
        "/api/job/ci-test-a/../ci-test-a/state",
        "/api/./jobs",
        "/api//jobs",
    ] {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            let answer = bridge.call_with(&format!("{method} {path}"), &[]).await;
            assert_eq!(answer.problem(), (401, "token_missing".to_owned()), "{method} {path}");
            let answer = bridge.call(&format!("{method} {path}")).await;
            assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{method} {path}");
        }
    }
    for path in ["/nothing", "/api/", "/healthz/", "//", "//api/jobs", "/API/jobs", "/apix", "/metrics/../api/jobs"] {
        let answer = bridge.call_with(&format!("GET {path}"), &[]).await;
        assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_kept_from_caches_and_has_an_id_of_its_own() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a"), Unit::job("ci-test-b")]).await;
    let bearer = format!("Bearer {}", bridge.tokens.writer);
    let token = ("Authorization", bearer.as_str());
    let sent = ("X-Request-Id", "018f0000-0000-7000-8000-000000000000");
    let mut ids = BTreeSet::new();
    for (request, headers) in [
        ("GET /", vec![]),
        ("GET /healthz", vec![]),
        ("GET /readyz", vec![]),
        ("GET /nothing", vec![]),
        ("POST /healthz", vec![]),
        ("GET /api/jobs", vec![]),
        ("GET /api/jobs", vec![token]),
        ("GET /api/nothing", vec![token]),
        ("POST /api/job/ci-test-a", vec![token]),
        ("POST /api/job/ci-test-a", vec![token]),
        ("GET /api/job/ci-test-a/state", vec![token]),
        ("GET /api/job/ci-test-a/tail", vec![token]),
        ("GET /api/job/ci-test-b/logs?format=text", vec![token]),
        ("GET /api/job/%ff/state", vec![token]),
        ("POST /api/job/ci-test-b", vec![token, ("Content-Length", "1000000")]),
    ] {
        for extra in [vec![], vec![sent], vec![sent, sent]] {
            let answer = bridge.call_with(request, &[headers.clone(), extra].concat()).await;
            for (name, value) in [
                ("cache-control", "no-store"),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("x-robots-tag", "noindex"),
            ] {
                assert_eq!(answer.header(name), Some(value), "{request}");
            }
            assert!(answer.header("content-type").is_some(), "{request}");
            let id = answer.header("x-request-id").unwrap().to_owned();
            assert_ne!(id, sent.1);
            assert!(ids.insert(id), "{request}: an id came twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_names_only_what_there_is() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a"), Unit::job("ci-test-b")]).await;
    let run = bridge.start("ci-test-b").await;
    let index = bridge.call_with("GET /", &[]).await.json();
    let endpoints = index["endpoints"].as_array().unwrap();
    assert!(!endpoints.is_empty());
    for endpoint in endpoints {
        let path = endpoint["path"].as_str().unwrap().replace("{job}", "ci-test-a").replace("{run}", &run);
        let path = path.replace("{project}", "7");
        let request = format!("{} {path}", endpoint["method"].as_str().unwrap());
        let answer = bridge.call_with(&request, &[]).await;
        let expected = if endpoint["access"] == "none" { 200 } else { 401 };
        assert_eq!(answer.status, expected, "{request}");
        let of_runners = endpoint["access"] == "rw, scope runners";
        let all_rights = if of_runners { &bridge.tokens.keeper } else { &bridge.tokens.auditor };
        let answer = bridge.call_as(all_rights, &request).await;
        // Of these there are none here, which is another answer than that of a path that is none.
        if request.starts_with("PATCH ") {
            assert_eq!(answer.problem(), (400, "invalid_body".to_owned()), "{request}");
        } else if ["{runner}", "{source}", "{id}"].iter().any(|part| path.contains(part)) {
            assert!(answer.status == 404 && answer.code() != "not_found", "{request}: {answer:?}");
        } else {
            assert!(answer.status < 300, "{request}: {answer:?}");
        }
        // A parameter that is named there is known there.
        for parameter in endpoint["parameters"].as_array().unwrap() {
            let name = parameter.as_str().unwrap().split('=').next().unwrap();
            let answer = bridge.call_as(all_rights, &format!("{request}?{name}=%21")).await;
            assert!(!answer.body.contains("unknown parameter"), "{request} {name}: {answer:?}");
        }
    }
}
