//! The metrics, as Prometheus reads them.

use std::time::Duration;

use ci_bridge::config::{RunnerSource, Settings};
use serde_json::json;
use tempfile::TempDir;

use crate::bridge::{Bridge, Setup};
use crate::fleet::github::{GitHub, runner};
use crate::fleet::gitlab::{self, GitLab};
use crate::fleet::{Fault, Fleet};
use crate::hook::Hook;
use crate::prometheus::Metrics;
use crate::systemd1::{Exit, Unit};

const PATIENCE: Duration = Duration::from_secs(20);
/// What somebody may call a runner to make it say something else.
const HOSTILE: &str = "a\",source=\"lab\"} 1\nci_runner_online{id=\"\\\\n\u{e4}\u{2028}";

async fn metrics_of(bridge: &Bridge, token: &str) -> Metrics {
    let answer = bridge.call_as(token, "GET /metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Metrics::parse(&answer.body)
}

async fn metrics(bridge: &Bridge) -> Metrics {
    metrics_of(bridge, &bridge.tokens.reader).await
}

/// Asks until the metrics are what is wanted.
async fn until(bridge: &Bridge, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    let asking = async {
        loop {
            let metrics = metrics(bridge).await;
            if wanted(&metrics) {
                return metrics;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("they never were so")
}

/// Sources of `fleet`: the runners of `acme` twice, and those of a GitLab.
fn sources(fleet: &Fleet, directory: &TempDir) -> Vec<RunnerSource> {
    for (name, token) in [("github", "ghp-good"), ("gitlab", "glpat-good")] {
        std::fs::write(directory.path().join(name), token).unwrap();
    }
    let (directory, github, gitlab) = (directory.path().display(), fleet.github_api(), fleet.gitlab_api());
    let mut text = "jobs.prefixes = [\"ci-test-\"]\n".to_owned();
    for name in ["acme", "again"] {
        text.push_str(&format!(
            "[[runners.github]]\nname = \"{name}\"\napi = \"{github}\"\norganization = \"acme\"\n\
             token_file = \"{directory}/github\"\ngrace = 0\n"
        ));
    }
    text.push_str(&format!(
        "[[runners.gitlab]]\nname = \"lab\"\napi = \"{gitlab}\"\nscope = \"instance\"\ntoken_file = \"{directory}/gitlab\"\n"
    ));
    Settings::parse(&text).unwrap().runners
}

async fn fleet() -> Fleet {
    let fleet = Fleet::start().await;
    let mut busy = runner(70, HOSTILE, "online");
    busy["busy"] = json!(true);
    fleet.world().github = GitHub::acme([runner(69, "build-1", "online"), busy, runner(71, "other", "offline")]);
    fleet.world().gitlab = GitLab::lab([gitlab::runner(7, "lab-1", Some(true))]);
    fleet
}

/// A bridge that has read all lists.
async fn watching(fleet: &Fleet, exporter_names: bool) -> (Bridge, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { runners: sources(fleet, &directory), exporter_names, ..Setup::default() };
    let bridge = Bridge::with(vec![], setup).await;
    until(&bridge, |metrics| metrics.of("ci_runner_online").len() == 7).await;
    (bridge, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_there_are_no_metrics_and_a_read_token_has_them() {
    let bridge = Bridge::new(vec![]).await;
    for token in [&bridge.tokens.expired, &bridge.tokens.revoked] {
        let answer = bridge.call_as(token, "GET /metrics").await;
        assert_eq!(answer.status, 401);
        assert!(!answer.body.contains("ci_bridge_"), "{answer:?}");
    }
    let answer = bridge.call_with("GET /metrics", &[]).await;
    assert_eq!(answer.problem(), (401, "token_missing".to_owned()));
    let metrics = metrics(&bridge).await;
    assert_eq!(metrics.value("ci_bridge_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    assert_eq!(metrics.value("ci_bridge_history_up", &[]), Some(1.0));
    assert!(!metrics.names().iter().any(|name| name.starts_with("github_")));
    let refused = bridge.call("GET /metrics?name=x").await;
    assert_eq!(refused.problem(), (400, "invalid_parameter".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_runner_has_its_series_whatever_it_is_called() {
    let fleet = fleet().await;
    let (bridge, _directory) = watching(&fleet, false).await;
    let metrics = metrics(&bridge).await;
    let acme = |name: &'static str| [("source", "acme"), ("name", name)];
    for (metric, name, value) in [
        ("ci_runner_online", "build-1", Some(1.0)),
        ("ci_runner_online", "other", Some(0.0)),
        ("ci_runner_online", HOSTILE, Some(1.0)),
        ("ci_runner_busy", "build-1", Some(0.0)),
        ("ci_runner_busy", HOSTILE, Some(1.0)),
        // GitHub does not know that.
        ("ci_runner_paused", "build-1", None),
        ("ci_runner_state_unknown", "build-1", Some(0.0)),
        ("ci_runner_info", HOSTILE, Some(1.0)),
    ] {
        assert_eq!(metrics.value(metric, &acme(name)), value, "{metric} {name}");
    }
    let one = metrics.of("ci_runner_online").keys().find(|labels| labels["name"] == "lab-1").unwrap();
    let id = bridge.call("GET /api/runners?name=lab-1").await.json()["runners"][0]["id"].clone();
    let names: Vec<_> = one.keys().map(String::as_str).collect();
    assert_eq!(names, ["id", "name", "os", "provider", "scope", "source"]);
    assert_eq!((&json!(one["id"]), one["provider"].as_str(), one["scope"].as_str()), (&id, "gitlab", "instance"));
    assert_eq!(metrics.value("ci_runner_paused", &[("name", "lab-1")]), Some(0.0));
    for window in ["24h", "7d", "30d"] {
        let uptime = |name: &'static str| [("source", "acme"), ("name", name), ("window", window)];
        assert_eq!(metrics.value("ci_runner_uptime_ratio", &uptime("build-1")), Some(1.0));
        assert_eq!(metrics.value("ci_runner_uptime_ratio", &uptime("other")), Some(0.0));
    }
    let since = metrics.value("ci_runner_state_change_timestamp_seconds", &acme("build-1")).unwrap();
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    assert!((now - 60.0..=now).contains(&since), "{since}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_runner_is_counted_and_the_series_of_one_that_is_gone_are_gone() {
    let fleet = fleet().await;
    let (bridge, _directory) = watching(&fleet, true).await;
    let turns = |metrics: &Metrics, to| {
        metrics.value("ci_runner_transitions_total", &[("source", "acme"), ("name", "build-1"), ("to", to)])
    };
    assert_eq!(turns(&metrics(&bridge).await, "offline"), Some(0.0));
    for (status, value) in [("offline", 0.0), ("online", 1.0), ("offline", 0.0)] {
        fleet.world().github.runners[0]["status"] = json!(status);
        bridge.call("POST /api/runners/poll").await;
        let is = |source| {
            move |metrics: &Metrics| metrics.value("ci_runner_online", &[("source", source), ("name", "build-1")])
        };
        until(&bridge, |metrics| [is("acme")(metrics), is("again")(metrics)] == [Some(value); 2]).await;
    }
    let before = metrics(&bridge).await;
    assert_eq!((turns(&before, "offline"), turns(&before, "online")), (Some(2.0), Some(1.0)));

    fleet.world().github.runners.remove(0);
    bridge.call("POST /api/runners/poll").await;
    let gone = until(&bridge, |metrics| metrics.of("ci_runner_online").len() == 5).await;
    for name in gone.names() {
        assert!(gone.of(name).keys().all(|labels| labels.get("name").is_none_or(|name| name != "build-1")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_other_exporters_are_there_if_they_are_wanted_and_each_runner_once() {
    let fleet = fleet().await;
    let (bridge, _directory) = watching(&fleet, true).await;
    let metrics = metrics(&bridge).await;
    // Two lists have them.
    for (name, series) in
        [("github_runner_org_online", 3), ("github_runner_org_busy", 3), ("github_runner_organization_status", 3)]
    {
        assert_eq!(metrics.of(name).len(), series, "{name}");
    }
    let own = [("owner", "acme"), ("id", "70"), ("name", HOSTILE), ("os", "linux"), ("status", "online")];
    assert_eq!(metrics.value("github_runner_org_online", &own), Some(1.0));
    assert_eq!(metrics.value("github_runner_org_busy", &own), Some(1.0));
    let other = [("organization", "acme"), ("id", "71"), ("name", "other"), ("os", "linux"), ("busy", "false")];
    assert_eq!(metrics.value("github_runner_organization_status", &other), Some(0.0));
    assert!(!metrics.names().contains("github_runner_repo_online"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_tells_how_it_does() {
    let fleet = fleet().await;
    let (bridge, _directory) = watching(&fleet, false).await;
    let acme = [("source", "acme")];
    let good = metrics(&bridge).await;
    assert_eq!(good.value("ci_runner_source_up", &acme), Some(1.0));
    assert_eq!(good.value("ci_runner_source_requests_total", &[("source", "acme"), ("code", "200")]), Some(1.0));
    assert_eq!(good.value("ci_runner_source_polls_total", &[("source", "acme"), ("result", "ok")]), Some(1.0));
    let reset = jiff::Timestamp::now().as_second() + 3600;
    let quota = || {
        let headers = [("x-ratelimit-limit", 5000), ("x-ratelimit-remaining", 4999), ("x-ratelimit-reset", reset)];
        Fault::With(headers.map(|(name, value)| (name, value.to_string())).to_vec())
    };
    assert_eq!(good.value("ci_runner_source_ratelimit_limit", &acme), None);
    fleet.next((0..5).map(|_| quota()));
    bridge.call("POST /api/runners/poll").await;
    let success = "ci_runner_source_last_success_timestamp_seconds";
    let told = until(&bridge, |metrics| {
        metrics.value("ci_runner_source_ratelimit_remaining", &acme) == Some(4999.0)
            && metrics.value(success, &acme) > good.value(success, &acme)
    });
    let told = told.await;
    assert_eq!(told.value("ci_runner_source_ratelimit_limit", &acme), Some(5000.0));
    let until_reset = told.value("ci_runner_source_ratelimit_reset_timestamp_seconds", &acme).unwrap();
    assert!((until_reset - f64::from(u32::try_from(reset).unwrap())).abs() < 5.0, "{until_reset}");
    let read = told.value(success, &acme);

    fleet.world().github.tokens.clear();
    bridge.call("POST /api/runners/poll").await;
    let bad = until(&bridge, |metrics| metrics.value("ci_runner_source_up", &acme) == Some(0.0)).await;
    assert_eq!(bad.value("ci_runner_source_polls_total", &[("source", "acme"), ("result", "unauthorized")]), Some(1.0));
    assert_eq!(bad.value(success, &acme), read);
    // What was known of its runners stays.
    assert_eq!(bad.value("ci_runner_online", &[("source", "acme"), ("name", "build-1")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_counted_by_job_and_result_for_those_who_may_see_the_job() {
    let names = ["ci-test-a", "ci-test-narrow", "ci-test-build@one", "ci-test-build@two"];
    let bridge = Bridge::new(names.map(Unit::job).to_vec()).await;
    for (job, code) in [("ci-test-a", 3), ("ci-test-a", 0), ("ci-test-build@one", 1), ("ci-test-build@two", 1)] {
        let run = bridge.start(job).await;
        bridge.systemd.end(job, Exit::Code(code)).await;
        bridge.ended(job, &run).await;
    }
    bridge.start("ci-test-a").await;
    assert_eq!(bridge.call("POST /api/job/ci-test-a?if_busy=queue").await.status, 202);
    let stream = bridge.open("/api/job/ci-test-a/tail?follow=true", &[]).await;
    let build = [("job", "ci-test-build@"), ("result", "exit-code")];
    let metrics = until(&bridge, |metrics| metrics.value("ci_job_runs_total", &build) == Some(2.0)).await;
    for (job, result) in [("ci-test-a", "exit-code"), ("ci-test-a", "success")] {
        assert_eq!(metrics.value("ci_job_runs_total", &[("job", job), ("result", result)]), Some(1.0), "{result}");
    }
    assert_eq!(metrics.value("ci_job_running", &[("job", "ci-test-a")]), Some(1.0));
    assert_eq!(metrics.value("ci_job_queued", &[("job", "ci-test-a")]), Some(1.0));
    assert_eq!(metrics.value("ci_job_running", &[("job", "ci-test-build@")]), Some(0.0));
    assert_eq!(metrics.value("ci_bridge_followers", &[]), Some(1.0));
    drop(stream);
    until(&bridge, |metrics| metrics.value("ci_bridge_followers", &[]) == Some(0.0)).await;

    let narrow = metrics_of(&bridge, &bridge.tokens.narrow).await;
    let jobs = |metrics: &Metrics| {
        let jobs = ["ci_job_runs_total", "ci_job_running", "ci_job_queued"].map(|name| metrics.of(name));
        let jobs = jobs.iter().flat_map(|series| series.keys().map(|labels| labels["job"].clone()));
        jobs.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(jobs(&metrics), ["ci-test-a", "ci-test-build@"].map(str::to_owned).into());
    assert_eq!(jobs(&narrow), ["ci-test-build@".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_counted_by_route_and_class_and_no_path_of_a_stranger_becomes_a_label() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for path in ["/api/job/ci-test-a/state", "/api/job/ci-test-nope/state", "/nowhere/1", "/nowhere/2", "/api/no"] {
        bridge.call(&format!("GET {path}")).await;
    }
    let metrics = metrics(&bridge).await;
    let name = "ci_bridge_http_requests_total";
    let state = "/api/job/{job}/state";
    assert_eq!(metrics.value(name, &[("route", state), ("status", "2xx")]), Some(1.0));
    assert_eq!(metrics.value(name, &[("route", state), ("status", "4xx")]), Some(1.0));
    assert!(
        metrics.of(name).keys().all(|labels| !labels["route"].contains("no") || labels["route"] == "none"),
        "{metrics:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_alerts_are_counted_by_what_came_of_them() {
    let (hook, address) = Hook::start().await;
    let text = format!(
        "jobs.prefixes = [\"ci-test-\"]\n[[alerts]]\nname = \"ops\"\nurl = \"http://{address}/hook\"\nallow_private = true\n\
         events = [\"job.failed\"]\n"
    );
    let alerts = Settings::parse(&text).unwrap().alerts;
    let setup = Setup { alerts, ..Setup::default() };
    let bridge = Bridge::with(["ci-test-a", "ci-test-b"].map(Unit::job).to_vec(), setup).await;
    // The second one waits for a while.
    hook.answer(204, None, 0);
    hook.answer(500, None, 0);
    for job in ["ci-test-a", "ci-test-b"] {
        let run = bridge.start(job).await;
        bridge.systemd.end(job, Exit::Code(1)).await;
        bridge.ended(job, &run).await;
        let sent = |metrics: &Metrics, result| metrics.value("ci_webhook_deliveries_total", &[("result", result)]);
        let (taken, failed) = if job == "ci-test-a" { (1.0, 0.0) } else { (1.0, 1.0) };
        let wanted =
            |metrics: &Metrics| (sent(metrics, "taken"), sent(metrics, "failed")) == (Some(taken), Some(failed));
        let metrics = until(&bridge, wanted).await;
        assert_eq!(sent(&metrics, "dead"), Some(0.0));
        until(&bridge, |metrics| metrics.value("ci_webhook_outbox_pending", &[]) == Some(failed)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_history_the_rest_is_told() {
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], Setup { history: false, ..Setup::default() }).await;
    bridge.start("ci-test-a").await;
    let metrics = metrics(&bridge).await;
    assert_eq!(metrics.value("ci_bridge_history_up", &[]), Some(0.0));
    assert_eq!(metrics.value("ci_job_running", &[("job", "ci-test-a")]), Some(1.0));
    assert_eq!(metrics.of("ci_runner_online").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_large_fleet_has_comes_whole_and_to_four_at_once() {
    let fleet = Fleet::start().await;
    fleet.world().github = GitHub::acme((0..2500).map(|id| runner(id, &format!("build-{id}"), "online")));
    let directory = tempfile::tempdir().unwrap();
    let mut runners = sources(&fleet, &directory);
    runners.truncate(1);
    let bridge = Bridge::with(vec![], Setup { runners, ..Setup::default() }).await;
    let metrics = until(&bridge, |metrics| !metrics.of("ci_runner_online").is_empty()).await;
    for (name, series) in [("ci_runner_online", 2500), ("ci_runner_uptime_ratio", 7500), ("ci_runner_info", 2500)] {
        assert_eq!(metrics.of(name).len(), series, "{name}");
    }
    // They take no more than the beginning of some megabytes.
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(bridge.open("/metrics", &[]).await);
    }
    let refused = bridge.call("GET /metrics").await;
    assert_eq!(refused.problem(), (503, "too_many_scrapes".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(slow);
    bridge.until("GET /metrics", |answer| answer.status == 200).await;
}
