//! What alerts have told, over the API.

use std::time::Duration;

use ci_bridge::config::Settings;
use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::fleet::Fleet;
use crate::fleet::github::{GitHub, runner};
use crate::hook::Hook;

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
