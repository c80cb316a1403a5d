//! Names of jobs: what is refused, and what is not told apart.

use std::os::unix::fs::PermissionsExt;

use crate::bridge::Bridge;
use crate::systemd1::{FRAGMENT, Unit};
use crate::wire::Answer;

/// What is left of an answer that must be the same for all that a caller may not know.
fn without_id(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let id = answer.header("x-request-id").unwrap();
    let headers = answer.headers.iter().filter(|(name, _)| name != "x-request-id" && name != "date").cloned();
    (answer.status, headers.collect(), answer.body.replace(id, ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_name_is_refused_with_the_rule_and_without_a_call() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let long = format!("ci-test-{}", "a".repeat(300));
    let rules = [
        ("..%2f..%2fetc", "[A-Za-z0-9:_.-]"),
        ("%2e%2e%2f", "[A-Za-z0-9:_.-]"),
        ("ci-test-a%00", "[A-Za-z0-9:_.-]"),
        ("%00", "[A-Za-z0-9:_.-]"),
        ("ci-test-a%0a", "[A-Za-z0-9:_.-]"),
        ("ci-test-a%0d%0aX:%20y", "[A-Za-z0-9:_.-]"),
        ("ci-test-build@a%5cx3bid", "[A-Za-z0-9:_.-]"),
        ("%5c", "[A-Za-z0-9:_.-]"),
        ("ci-test-a*", "[A-Za-z0-9:_.-]"),
        ("ci-test-*", "[A-Za-z0-9:_.-]"),
        ("[", "[A-Za-z0-9:_.-]"),
        ("ci-test-%5b", "[A-Za-z0-9:_.-]"),
        ("ci-test-%c3%a9", "[A-Za-z0-9:_.-]"),
        ("ci-test-%e2%80%ae", "[A-Za-z0-9:_.-]"),
        ("ci-test-%ff", "[A-Za-z0-9:_.-]"),
        ("ci-test-a%20b", "[A-Za-z0-9:_.-]"),
        ("ci-test-a;id", "[A-Za-z0-9:_.-]"),
        ("ci-test-a%252f", "[A-Za-z0-9:_.-]"),
        ("", "must not be empty"),
        ("-x", "starts with a letter or a digit"),
        (".hidden", "starts with a letter or a digit"),
        ("ci@.service", "without its unit suffix"),
        ("ci-test-a.service", "without its unit suffix"),
        ("ci-test-a.socket", "without its unit suffix"),
        ("ci-test-build@..-..-etc", "`..`"),
        ("@a", "at most one `@`"),
        ("ci-test-a@b@c", "at most one `@`"),
        (long.as_str(), "255 bytes"),
    ];
    for (name, rule) in rules {
        let paths = ["POST /api/job/{}", "POST /api/job/{}/stop", "GET /api/job/{}/state"];
        for path in paths.iter().chain(&["GET /api/job/{}/tail", "GET /api/job/{}/logs"]) {
            let request = path.replace("{}", name);
            let answer = bridge.call(&request).await;
            assert_eq!(answer.problem(), (400, "invalid_job_name".to_owned()), "{request}");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(rule), "{request}: {detail}");
        }
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_may_not_know_looks_like_what_does_not_exist() {
    let units = ["ci-test-a", "ci-test-narrow", "sshd"].map(Unit::job).to_vec();
    let bridge = Bridge::new(units).await;
    let (writer, narrow) = (bridge.tokens.writer.clone(), bridge.tokens.narrow.clone());
    let cases = [
        ("no unit file", &writer, "ci-test-nope"),
        ("no unit file, and not of the token", &narrow, "ci-test-nope"),
        ("outside of the prefix", &writer, "sshd"),
        ("the prefix alone", &writer, "ci-test-"),
        ("of another token", &narrow, "ci-test-a"),
        ("an instance without a template", &writer, "ci-test-none@x"),
    ];
    for path in ["POST {}", "POST {}/stop", "GET {}/state", "GET {}/state?wait=1", "GET {}/tail", "GET {}/logs"] {
        let mut answers = Vec::new();
        for (case, token, name) in &cases {
            let answer = bridge.call_as(token, &path.replace("{}", &format!("/api/job/{name}"))).await;
            assert_eq!(answer.problem(), (404, "no_such_job".to_owned()), "{path}: {case}");
            answers.push((case, without_id(&answer)));
        }
        for (case, answer) in &answers {
            assert_eq!(answer, &answers[0].1, "{path}: {case}");
        }
    }
    assert_eq!(bridge.systemd.count("StartUnit") + bridge.systemd.count("StopUnit"), 0);
    // The same names are there for those who may know them.
    bridge.start("ci-test-a").await;
    assert_eq!(bridge.call_as(&narrow, "POST /api/job/ci-test-narrow").await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_of_the_prefix_is_not_even_asked_for() {
    let bridge = Bridge::new(vec![Unit::job("sshd"), Unit::job("ci-test-a")]).await;
    let narrow = bridge.tokens.narrow.clone();
    for path in ["POST {}", "POST {}/stop", "GET {}/state", "GET {}/tail", "GET {}/logs"] {
        for name in ["sshd", "ci-tes", "ci-test-", "ci-test-.a", "ci-test-@a", "CI-TEST-a", "ci-bridge"] {
            assert_eq!(bridge.call(&path.replace("{}", &format!("/api/job/{name}"))).await.status, 404, "{name}");
        }
        let answer = bridge.call_as(&narrow, &path.replace("{}", "/api/job/ci-test-a")).await;
        assert_eq!(answer.status, 404);
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_must_not_be_started_is_not_started_and_says_why() {
    let alias = |id: &str| Unit { id: format!("{id}.service"), file: Some("alias"), ..Unit::job("ci-test-a") };
    let broken = |load_state| Unit { load_state, load_error: "Bad line 7", ..Unit::job("ci-test-a") };
    let lies_at = |fragment: &str| Unit { fragment: fragment.to_owned(), ..Unit::job("ci-test-a") };
    let cases = [
        ("an alias of a unit outside", alias("sshd"), 409, "unit_alias"),
        ("an alias of another job", alias("ci-test-b"), 409, "unit_alias"),
        ("merged", broken("merged"), 409, "unit_alias"),
        ("masked", broken("masked"), 409, "unit_masked"),
        ("a file that is gone", broken("not-found"), 404, "no_such_job"),
        ("a bad setting", broken("bad-setting"), 422, "unit_broken"),
        ("unreadable", broken("error"), 422, "unit_broken"),
        ("RefuseManualStart=", Unit { can_start: false, ..Unit::job("ci-test-a") }, 409, "start_refused"),
        ("transient", Unit { transient: true, ..Unit::job("ci-test-a") }, 409, "unit_unsafe"),
        ("without a file", lies_at(""), 409, "unit_unsafe"),
        ("in a directory of others", lies_at("/tmp/ci-test-a.service"), 409, "unit_unsafe"),
        ("a link that leads away", lies_at("/usr/lib/systemd/system/../../../../etc/passwd"), 409, "unit_unsafe"),
        ("in a directory with a similar name", lies_at("/etc/systemd/system.conf"), 409, "unit_unsafe"),
    ];
    for (case, unit, status, code) in cases {
        let bridge = Bridge::new(vec![unit, Unit::job("ci-test-b"), Unit::job("sshd")]).await;
        let answer = bridge.call("POST /api/job/ci-test-a").await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{case}");
        if code == "unit_broken" {
            assert!(answer.body.contains("Bad line 7"), "{answer:?}");
        }
        let calls = bridge.systemd.take_calls();
        assert_eq!(calls, ["GetAll ci-test-a.service"], "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_no_job_that_can_be_seen_or_stopped() {
    let alias = Unit { id: "sshd.service".to_owned(), file: Some("alias"), ..Unit::job("ci-test-alias") };
    let bridge = Bridge::new(vec![alias, Unit::job("sshd"), Unit::job("ci-test-a")]).await;
    for asked_before in [false, true] {
        for path in ["POST {}/stop", "GET {}/state", "GET {}/tail", "GET {}/logs"] {
            let answer = bridge.call(&path.replace("{}", "/api/job/ci-test-alias")).await;
            assert_eq!(answer.problem(), (404, "no_such_job".to_owned()), "{path} {asked_before}");
        }
        let jobs = bridge.call("GET /api/jobs").await.json();
        let names: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["job"].clone()).collect();
        assert_eq!(names, ["ci-test-a"]);
        // From now on the bridge has seen what the alias stands for.
        assert_eq!(bridge.call("POST /api/job/ci-test-alias").await.code(), "unit_alias");
    }
    assert_eq!(bridge.systemd.count("StartUnit") + bridge.systemd.count("StopUnit"), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a file below /etc/systemd/system"]
async fn a_unit_file_that_others_may_write_to_is_not_run() {
    // systemd takes no file of that name for a unit.
    let file = tempfile::Builder::new().prefix("ci-bridge-test-").suffix(".tmp").tempfile_in("/etc/systemd/system");
    let file = file.unwrap();
    let fragment = file.path().to_str().unwrap().to_owned();
    for (mode, owner, status) in [(0o664, 0, 409), (0o646, 0, 409), (0o644, 65534, 409), (0o644, 0, 202)] {
        std::os::unix::fs::chown(file.path(), Some(owner), None).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let bridge = Bridge::new(vec![Unit { fragment: fragment.clone(), ..Unit::job("ci-test-a") }]).await;
        assert_eq!(bridge.call("POST /api/job/ci-test-a").await.status, status, "{mode:o} {owner}");
        assert_eq!(bridge.systemd.count("StartUnit"), usize::from(status == 202));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_safe_unit_file_is_as_good_as_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("ci-test-a.service");
    std::os::unix::fs::symlink(FRAGMENT, &link).unwrap();
    let unit = Unit { fragment: link.to_str().unwrap().to_owned(), ..Unit::job("ci-test-a") };
    Bridge::new(vec![unit]).await.start("ci-test-a").await;
}
