//! What alerts have told, over the API.

use std::net::SocketAddr;
use std::time::Duration;

use ci_bridge::config::Settings;
use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::fleet::Fleet;
use crate::fleet::github::{GitHub, runner};
use crate::hook::{Got, Hook};
use crate::systemd1::{Exit, Unit};

const PATIENCE: Duration = Duration::from_secs(20);

async fn get(bridge: &Bridge, target: &str) -> Value {
    let answer = bridge.call(&format!("GET {target}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Asks until the list has something at its beginning that is what is wanted.
async fn until(bridge: &Bridge, target: &str, list: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let first = get(bridge, target).await[list].get(0).cloned().unwrap_or_default();
            if wanted(&first) {
                return first;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it never was so")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_listed_and_sent_again_on_request_and_only_a_writer_may() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "ghp-good").unwrap();
    let (fleet, (hook, address)) = (Fleet::start().await, Hook::start().await);
    fleet.world().github = GitHub::acme([runner(1, "build-1", "online")]);
    let text = format!(
        "jobs.prefixes = [\"ci-test-\"]\n[[runners.github]]\nname = \"acme\"\napi = \"{}\"\norganization = \"acme\"\n\
         token_file = \"{}\"\ngrace = 0\n[[alerts]]\nname = \"ops\"\nurl = \"http://{address}/hook\"\nallow_private = true\n",
        fleet.github_api(),
        token.display(),
    );
    let Settings { runners, alerts, .. } = Settings::parse(&text).unwrap();
    let bridge = Bridge::with(vec![], Setup { runners, alerts, ..Setup::default() }).await;
    until(&bridge, "/api/runners", "runners", |runner| runner["state"] == "online").await;
    assert_eq!(get(&bridge, "/api/alerts").await, json!({ "alerts": [], "more": false, "before": null }));

    // The target wants none of it, ever.
    hook.answer(410, None, 0);
    fleet.world().github.runners = vec![runner(1, "build-1", "offline")];
    bridge.call("POST /api/runners/poll").await;
    let dead = until(&bridge, "/api/alerts?state=dead", "alerts", |alert| !alert.is_null()).await;
    let said = ["alert", "type", "state", "attempts", "status", "error", "next_at"].map(|name| dead[name].clone());
    let error = "the answer has status 410";
    let expected =
        [json!("ops"), json!("runner.offline"), json!("dead"), json!(1), json!(410), json!(error), json!(null)];
    assert_eq!(said, expected, "{dead}");

    let replay = format!("POST /api/alerts/{}/replay", dead["id"]);
    for request in ["GET /api/alerts", &replay] {
        let denied = bridge.call_as(&bridge.tokens.reader, request).await;
        assert_eq!(denied.problem(), (403, "read_only_token".to_owned()), "{request}");
    }
    for id in ["0", "x", "9223372036854775808"] {
        let unknown = bridge.call(&format!("POST /api/alerts/{id}/replay")).await;
        assert_eq!(unknown.problem(), (404, "no_such_alert".to_owned()), "{id}");
    }
    assert_eq!(hook.got().len(), 1);

    assert_eq!(bridge.call(&replay).await.status, 202);
    let done = until(&bridge, "/api/alerts", "alerts", |alert| alert["state"] == "done").await;
    assert_eq!((&done["id"], &done["event"], &done["status"]), (&dead["id"], &dead["event"], &json!(204)));
    let got = hook.got();
    assert_eq!((got.len(), &got[0].body), (2, &got[1].body));
    // It was taken: there is nothing to be repeated.
    assert_eq!(bridge.call(&replay).await.problem(), (404, "no_such_alert".to_owned()));
    assert_eq!(get(&bridge, "/api/alerts?state=dead").await["alerts"], json!([]));
}

/// One alert for each of these paths of a target, with these keys.
fn told_of_jobs(address: SocketAddr, alerts: &[(&str, &str)]) -> Setup {
    let mut text = "jobs.prefixes = [\"ci-test-\"]\n".to_owned();
    for (name, keys) in alerts {
        text.push_str(&format!(
            "[[alerts]]\nname = \"{name}\"\nurl = \"http://{address}/{name}\"\nallow_private = true\n{keys}\n"
        ));
    }
    Setup { alerts: Settings::parse(&text).unwrap().alerts, ..Setup::default() }
}

/// The messages that the target got, when there are so many: where each was sent, its id, and what it says.
async fn messages(hook: &Hook, count: usize) -> Vec<(String, String, Value)> {
    let waiting = async {
        while hook.got().len() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it was never told");
    let said =
        |got: Got| (got.path.clone(), got.header("webhook-id").to_owned(), serde_json::from_slice(&got.body).unwrap());
    hook.got().into_iter().map(said).collect()
}

const ANY_END: &str = "events = [\"job.failed\", \"job.lost\"]";

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_is_told_of_once_and_only_to_those_who_asked_for_its_job() {
    let (hook, address) = Hook::start().await;
    let chosen = format!("{ANY_END}\njobs = [\"ci-test-a\", \"ci-test-build@*\"]");
    let alerts = [("asked", chosen.as_str()), ("silent", ""), ("lost", "events = [\"job.lost\"]")];
    let units = ["ci-test-a", "ci-test-b", "ci-test-build@main"].map(Unit::job).to_vec();
    let bridge = Bridge::with(units, told_of_jobs(address, &alerts)).await;
    let run = async |job: &str, exit| {
        let run = bridge.start(job).await;
        bridge.systemd.end(job, exit).await;
        bridge.ended(job, &run).await;
        run
    };
    // Somebody else's job, a success, and one that was stopped.
    run("ci-test-b", Exit::Code(3)).await;
    run("ci-test-a", Exit::Code(0)).await;
    bridge.start("ci-test-a").await;
    bridge.call("POST /api/job/ci-test-a/stop").await;
    bridge.until("GET /api/job/ci-test-a/state", |answer| answer.json()["result"] == "stopped").await;
    let failed = run("ci-test-a", Exit::Code(3)).await;
    let killed = run("ci-test-build@main", Exit::Signal(9)).await;

    let mut told = messages(&hook, 2).await;
    told.sort_by_key(|(_, id, _)| *id == killed);
    for ((path, id, body), (job, run, result, code)) in told
        .iter()
        .zip([("ci-test-a", &failed, "exit-code", json!(3)), ("ci-test-build@main", &killed, "signal", json!(null))])
    {
        assert_eq!((path.as_str(), id), ("/asked", run));
        assert_eq!((&body["id"], &body["type"], &body["job"]), (&json!(run), &json!("job.failed"), &json!(job)));
        assert_eq!(body["run"], json!({ "id": run, "result": result, "exit_code": code }));
    }
    // What comes to be known of a run later is no news.
    let log = bridge.call(&format!("GET /api/runs/{killed}/logs")).await;
    assert_eq!(log.status, 200);
    assert_eq!(get(&bridge, "/api/alerts").await["alerts"].as_array().unwrap().len(), 2);
    assert_eq!(hook.got().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_runs_while_there_was_no_bridge_is_told_by_the_next_one_and_by_no_other() {
    let (hook, address) = Hook::start().await;
    let setup = || told_of_jobs(address, &[("ops", ANY_END)]);
    let jobs = ["ci-test-a", "ci-test-b", "ci-test-c"];
    let bridge = Bridge::with(jobs.map(Unit::job).to_vec(), setup()).await;
    let failed = bridge.start("ci-test-a").await;
    let lost = bridge.start("ci-test-b").await;
    let meanwhile = async |systemd: &mut crate::systemd1::Systemd1| {
        systemd.end("ci-test-a", Exit::Code(7)).await;
        systemd.end("ci-test-b", Exit::Code(0)).await;
        systemd.act(|machine| machine.unload("ci-test-b.service")).await;
        // One that a timer started.
        systemd.begin("ci-test-c").await;
        systemd.end("ci-test-c", Exit::Code(1)).await;
    };
    let bridge = bridge.restart_as(setup(), meanwhile).await;
    let mut told = messages(&hook, 3).await;
    told.sort_by_key(|(_, _, body)| body["job"].to_string());
    let said: Vec<_> =
        told.iter().map(|(_, _, body)| (&body["type"], &body["run"]["result"], &body["run"]["exit_code"])).collect();
    assert_eq!(said[0], (&json!("job.failed"), &json!("exit-code"), &json!(7)));
    assert_eq!(said[1], (&json!("job.lost"), &json!("lost"), &json!(null)));
    assert_eq!(said[2], (&json!("job.failed"), &json!("exit-code"), &json!(1)));
    assert_eq!([&told[0].1, &told[1].1], [&failed, &lost]);
    assert!(told[1].2["run"]["reason"].as_str().unwrap().contains("the bridge was not there"), "{told:?}");

    // The next one finds the same ends in systemd, and has something of its own to tell, behind which nothing comes.
    let bridge = bridge.restart_as(setup(), async |_| {}).await;
    for job in jobs {
        let run = bridge.start(job).await;
        bridge.systemd.end(job, Exit::Code(2)).await;
        bridge.ended(job, &run).await;
    }
    let told = messages(&hook, 6).await;
    let codes: Vec<_> = told[3..].iter().map(|(_, _, body)| body["run"]["exit_code"].clone()).collect();
    assert_eq!(codes, [json!(2), json!(2), json!(2)]);
    assert_eq!(get(&bridge, "/api/alerts").await["alerts"].as_array().unwrap().len(), 6);
}
