//! Changing runners of GitLab over the API: who may, what is asked of GitLab, and what the caller is told of it.

use std::time::Duration;

use ci_bridge::runners::{ExternalId, RunnerId};
use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::fleet::Fault;
use crate::logged;
use crate::runners::{BUILD, Lists, PATIENCE, get, until};
use crate::wire::Answer;

/// The id of the runner of this number at `lab`.
pub(crate) fn id(number: u64) -> String {
    RunnerId::of(&"lab".parse().unwrap(), &ExternalId::new(number.to_string())).to_string()
}

/// A bridge whose list `lab` has the runner 7 with the token `glrt-7`, and no requests so far.
pub(crate) async fn lab() -> (Lists, Bridge) {
    let lists = Lists::new().await;
    lists.fleet.world().gitlab.runner_tokens.insert(7, "glrt-7".to_owned());
    let bridge = lists.bridge().await;
    lists.fleet.requests();
    (lists, bridge)
}

/// Sends a request with a body as somebody who may change runners.
pub(crate) async fn ask(bridge: &Bridge, request: &str, body: &str) -> Answer {
    bridge.call_with_body_as(&bridge.tokens.keeper, request, &[], body).await
}

/// The same, of a request that is carried out.
pub(crate) async fn done(bridge: &Bridge, request: &str, body: &str) -> Value {
    let answer = ask(bridge, request, body).await;
    assert!((200..300).contains(&answer.status), "{request}: {answer:?}");
    answer.json()
}

/// Every request that changes something at GitLab, with its body.
fn changes() -> Vec<(String, &'static str)> {
    let one = format!("/api/runners/{}", id(7));
    vec![
        (format!("PATCH {one}"), r#"{"description": "new"}"#),
        (format!("POST {one}/pause"), ""),
        (format!("POST {one}/resume"), ""),
        (format!("DELETE {one}"), ""),
        (format!("POST {one}/reset-token"), ""),
        (format!("PUT {one}/projects/acme%2Fsite"), ""),
        (format!("DELETE {one}/projects/acme%2Fsite"), ""),
        ("POST /api/sources/lab/runners".to_owned(), r#"{"runner_type": "instance_type"}"#),
        ("DELETE /api/sources/lab/runners".to_owned(), r#"{"token": "glrt-7"}"#),
        ("POST /api/sources/lab/runners/verify".to_owned(), r#"{"token": "glrt-7"}"#),
        ("POST /api/sources/lab/runners/reset-token".to_owned(), r#"{"token": "glrt-7"}"#),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_change_runners_has_gitlab_asked_nothing() {
    let (lists, bridge) = lab().await;
    let before = lists.fleet.world().gitlab.runners.clone();
    for (request, body) in changes() {
        let (tokens, length) = (&bridge.tokens, body.len().to_string());
        let none = bridge.call_with(&request, &[("Content-Length", "0")]).await;
        assert_eq!(none.problem(), (401, "token_missing".to_owned()), "{request}");
        for (token, code) in
            [(&tokens.reader, "read_only_token"), (&tokens.writer, "scope_missing"), (&tokens.auditor, "scope_missing")]
        {
            let denied = bridge.call_with_body_as(token, &request, &[], body).await;
            assert_eq!(denied.problem(), (403, code.to_owned()), "{request} with {length} bytes");
        }
    }
    for path in ["details", "jobs", "managers"] {
        let answer = bridge.call_with(&format!("GET /api/runners/{}/{path}", id(7)), &[]).await;
        assert_eq!(answer.problem(), (401, "token_missing".to_owned()), "{path}");
    }
    assert!(lists.fleet.requests().is_empty());
    let world = lists.fleet.world();
    assert_eq!((&world.gitlab.runners, world.gitlab.runner_tokens[&7].as_str()), (&before, "glrt-7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_and_is_in_the_list_at_once() {
    let (lists, bridge) = lab().await;
    let one = format!("/api/runners/{}", id(7));
    let body = json!({
        "description": "builder", "tag_list": ["arm", "big"], "run_untagged": false, "locked": true, "paused": true,
        "access_level": "ref_protected", "maximum_timeout": 7200, "maintenance_note": "rack 3",
    });
    let told = done(&bridge, &format!("PATCH {one}"), &body.to_string()).await;
    for (key, value) in body.as_object().unwrap() {
        assert_eq!((&told[key], &lists.fleet.world().gitlab.runners[&7][key]), (value, value), "{key}");
    }
    let named = ["id", "source", "external_id", "runner_type", "online"].map(|key| told[key].clone());
    assert_eq!(named, [json!(id(7)), json!("lab"), json!("7"), json!("instance_type"), json!(true)]);
    // The list is polled at an interval of a minute.
    let listed = until(&bridge, &one, |runner| runner["paused"] == true).await;
    let seen = ["name", "labels", "locked"].map(|key| listed[key].clone());
    assert_eq!(seen, [json!("builder"), json!(["arm", "big"]), json!(true)]);
    assert_eq!(get(&bridge, &format!("{one}/details")).await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_was_deleted_is_removed_and_one_that_was_created_is_there() {
    let (_lists, bridge) = lab().await;
    let created =
        done(&bridge, "POST /api/sources/lab/runners", r#"{"runner_type": "group_type", "group_id": 9}"#).await;
    assert_eq!(
        (&created["id"], &created["external_id"], &created["token"]),
        (&json!(id(8)), &json!("8"), &json!("glrt-8-0"))
    );
    let listed = until(&bridge, "/api/runners?kind=group", |list| !list["runners"][0].is_null()).await;
    assert_eq!(listed["runners"][0]["id"], created["id"]);
    done(&bridge, &format!("DELETE /api/runners/{}", id(8)), "").await;
    let gone = until(&bridge, "/api/runners?state=removed", |list| !list["runners"][0].is_null()).await;
    assert_eq!(gone["runners"][0]["id"], created["id"]);
    // GitLab knows nothing of it any more.
    let again = ask(&bridge, &format!("DELETE /api/runners/{}", id(8)), "").await;
    assert_eq!(again.problem(), (404, "gitlab_not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_an_entry_of_the_audit_that_says_of_which_runner() {
    let (lists, bridge) = lab().await;
    lists.fleet.world().gitlab.runners.get_mut(&7).unwrap()["projects"] = json!([{ "id": 1 }]);
    let (one, another) = (format!("runner {}", id(7)), format!("runner {} of list lab", id(7)));
    let refused = ask(&bridge, &format!("PATCH /api/runners/{}", id(7)), r#"{"maximum_timeout": 1}"#).await;
    assert_eq!(refused.problem(), (422, "gitlab_refused".to_owned()));
    let mut expected = vec![("gitlab_refused", one.clone())];
    // What deletes it comes last, and a new token voids the old one.
    let mut requests = changes();
    let own_token = requests.pop().unwrap();
    let verify = requests.pop().unwrap();
    let delete_by_token = requests.pop().unwrap();
    let delete = requests.remove(3);
    requests.extend([delete]);
    requests.splice(0..0, [verify, own_token]);
    for (request, body) in &requests {
        done(&bridge, request, body).await;
    }
    let loan = format!("{one}, project acme/site");
    expected.extend([
        ("verified", another),
        ("token_reset", "list lab".to_owned()),
        ("changed", one.clone()),
        ("paused", one.clone()),
        ("resumed", one.clone()),
        ("token_reset", one.clone()),
        ("enabled", loan.clone()),
        ("disabled", loan),
        ("created", format!("runner {} of list lab", id(8))),
        ("deleted", one),
    ]);
    let unknown = ask(&bridge, &delete_by_token.0, delete_by_token.1).await;
    assert_eq!(unknown.problem(), (422, "runner_token_unknown".to_owned()));
    expected.push(("runner_token_unknown", "list lab".to_owned()));
    done(&bridge, &delete_by_token.0, r#"{"token": "glrt-8-0"}"#).await;
    expected.push(("deleted", "a runner of list lab".to_owned()));

    let audit = "GET /api/audit?kind=write&who=keeper";
    let entries = async {
        loop {
            let page = bridge.call_as(&bridge.tokens.auditor, audit).await.json();
            let entries = page["entries"].as_array().unwrap().clone();
            if entries.len() >= expected.len() {
                return entries;
            }
        }
    };
    let entries = tokio::time::timeout(PATIENCE, entries).await.expect("it was never noted");
    let told: Vec<_> = entries.iter().rev().map(|entry| (entry["outcome"].clone(), entry["detail"].clone())).collect();
    let expected: Vec<_> = expected.into_iter().map(|(outcome, detail)| (json!(outcome), json!(detail))).collect();
    assert_eq!(told, expected);
    let said = json!(entries).to_string() + &logged::lines().concat();
    assert!(!said.contains("glrt-") && !said.contains("glpat-"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_told_once_and_kept_by_no_cache() {
    let (_lists, bridge) = lab().await;
    let reset = ask(&bridge, &format!("POST /api/runners/{}/reset-token", id(7)), "").await;
    assert_eq!(reset.header("cache-control"), Some("no-store"));
    let expected = json!({ "id": id(7), "external_id": "7", "token": "glrt-7-6", "token_expires_at": null });
    assert_eq!(reset.json(), expected);
    let verified = ask(&bridge, "POST /api/sources/lab/runners/verify", r#"{"token": "glrt-7-6"}"#).await;
    assert_eq!(verified.json(), json!({ "id": id(7), "external_id": "7", "token_expires_at": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_of_github_and_of_nobody_are_refused_and_nobody_is_asked() {
    let (lists, bridge) = lab().await;
    for (request, body) in changes() {
        let github = request.replace(&id(7), BUILD).replace("/lab/", "/acme/");
        assert_eq!(ask(&bridge, &github, body).await.problem(), (409, "not_gitlab".to_owned()), "{github}");
        let nobody = request.replace(&id(7), &id(70)).replace("/lab/", "/other/");
        let code = if nobody.contains("/other/") { "no_such_source" } else { "no_such_runner" };
        assert_eq!(ask(&bridge, &nobody, body).await.problem(), (404, code.to_owned()), "{nobody}");
    }
    for path in ["details", "jobs", "managers"] {
        let answer = bridge.call(&format!("GET /api/runners/{BUILD}/{path}")).await;
        assert_eq!(answer.problem(), (409, "not_gitlab".to_owned()), "{path}");
    }
    let nothing = ask(&bridge, "POST /api/sources/%20/runners", r#"{"runner_type": "instance_type"}"#).await;
    assert_eq!(nothing.problem(), (404, "no_such_source".to_owned()));
    assert!(lists.fleet.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_change_is_refused_without_a_word_of_what_was_sent() {
    let (lists, bridge) = lab().await;
    let patch = format!("PATCH /api/runners/{}", id(7));
    let create = "POST /api/sources/lab/runners";
    let verify = "POST /api/sources/lab/runners/verify";
    for (request, body) in [
        (patch.as_str(), ""),
        (&patch, "{}"),
        (&patch, "glrt-hidden"),
        (&patch, r#"["glrt-hidden"]"#),
        (&patch, r#"{"description": "glrt-hidden"#),
        (&patch, r#"{"paused": "glrt-hidden"}"#),
        (&patch, r#"{"tag_list": "glrt-hidden"}"#),
        (&patch, r#"{"tag_list": ["a", {"glrt-hidden": 1}]}"#),
        (&patch, r#"{"maximum_timeout": -1}"#),
        (&patch, r#"{"maximum_timeout": null}"#),
        (&patch, r#"{"access_level": "glrt-hidden"}"#),
        (&patch, r#"{"description": "a", "active": true}"#),
        (create, "{}"),
        (create, r#"{"runner_type": "group_type"}"#),
        (create, r#"{"runner_type": "group_type", "group_id": 1, "project_id": 1}"#),
        (create, r#"{"runner_type": "instance_type", "token": "glrt-hidden"}"#),
        (create, r#"{"token": ""}"#),
        (verify, "{}"),
        (verify, r#"{"token": ["glrt-hidden"]}"#),
        (verify, r#"{"token": "glrt-hidden", "token_file": "x"}"#),
        ("DELETE /api/sources/lab/runners", "{}"),
    ] {
        let refused = ask(&bridge, request, body).await;
        assert_eq!(refused.problem(), (400, "invalid_body".to_owned()), "{request} {body}");
        assert!(!refused.body.contains("hidden"), "{refused:?}");
    }
    let one = format!("/api/runners/{}", id(7));
    for request in [
        format!("POST {one}/pause?now=1"),
        format!("GET {one}/jobs?status=done"),
        format!("GET {one}/jobs?limit=501"),
        format!("PUT {one}/projects/.."),
        format!("PUT {one}/projects/%2E%2E%2F7"),
        format!("PUT {one}/projects/acme%2F%2Fsite"),
        format!("DELETE {one}/projects/a%20b"),
    ] {
        let refused = ask(&bridge, &request, "").await;
        assert_eq!(refused.problem(), (400, "invalid_parameter".to_owned()), "{request}");
    }
    assert!(lists.fleet.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gitlab_refuses_is_told_apart_from_what_the_bridge_refuses() {
    let (lists, bridge) = lab().await;
    let pause = format!("POST /api/runners/{}/pause", id(7));
    let says = |status, text: &str| Fault::Answer(status, vec![], json!({ "message": text }).to_string());
    for (fault, expected, member) in [
        (says(403, "403 Forbidden"), (422, "gitlab_refused"), ("gitlab_status", json!(403))),
        (says(404, "404 Not found"), (404, "gitlab_not_found"), ("gitlab_status", json!(null))),
        (says(401, "401 Unauthorized"), (502, "gitlab_failed"), ("reason", json!("unauthorized"))),
        (says(302, "elsewhere"), (502, "gitlab_failed"), ("reason", json!("unexpected-status"))),
    ] {
        lists.fleet.next([fault]);
        let answer = ask(&bridge, &pause, "").await;
        assert_eq!(answer.problem(), (expected.0, expected.1.to_owned()));
        assert_eq!(answer.json()[member.0], member.1, "{answer:?}");
    }
    // What only reads has changed nothing.
    let jobs = format!("GET /api/runners/{}/jobs", id(7));
    lists.fleet.next([says(500, "oh")]);
    assert_eq!(bridge.call(&jobs).await.problem(), (502, "gitlab_failed".to_owned()));
    // Where the token is kept is nobody's business.
    let token = lists.token_file("gitlab");
    std::fs::rename(&token, format!("{token}.gone")).unwrap();
    let failed = ask(&bridge, &pause, "").await;
    assert_eq!((failed.problem(), &failed.json()["reason"]), ((502, "gitlab_failed".to_owned()), &json!("credential")));
    assert!(!failed.body.contains(&token) && logged::lines().iter().any(|line| line.contains(&token)), "{failed:?}");
    std::fs::rename(format!("{token}.gone"), &token).unwrap();

    lists.fleet.next([Fault::Answer(429, vec![("retry-after", "600".to_owned())], "Retry later".to_owned())]);
    for _ in 0..2 {
        let answer = ask(&bridge, &pause, "").await;
        assert_eq!(answer.problem(), (503, "gitlab_rate_limited".to_owned()));
        let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((590..=600).contains(&pause), "{pause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_may_have_been_made_and_the_list_tells() {
    let (lists, bridge) = lab().await;
    let one = format!("/api/runners/{}", id(7));
    lists.fleet.next([Fault::Cut]);
    let lost = ask(&bridge, &format!("PATCH {one}"), r#"{"tag_list": ["arm"]}"#).await;
    assert_eq!(lost.problem(), (502, "gitlab_uncertain".to_owned()));
    let problem = lost.json();
    assert_eq!(problem["reason"], "unreachable");
    assert!(problem["detail"].as_str().unwrap().starts_with("the change may have been made all the same"), "{problem}");
    let listed = until(&bridge, &one, |runner| runner["labels"] != json!(["linux", "docker"])).await;
    assert_eq!(listed["labels"], json!(["arm"]));
    let changes = lists.fleet.requests().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(changes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_go_on_while_gitlab_does_not_answer_a_change_and_callers_do_not_wait_for_ever() {
    let lists = Lists::new().await;
    let mut sources = lists.sources();
    for source in &mut sources {
        source.timeout = Duration::from_secs(1);
    }
    let bridge = lists.bridge_of(sources).await;
    lists.fleet.requests();
    lists.fleet.next([Fault::Hang]);
    let pause = format!("POST /api/runners/{}/pause", id(7));
    let polled = async {
        until(&bridge, "/api/sources", |_| !lists.fleet.requests().is_empty()).await;
        // What comes now is answered.
        lists.fleet.world().gitlab.runners.get_mut(&7).unwrap()["description"] = json!("renamed");
        bridge.call("POST /api/runners/poll").await;
        until(&bridge, &format!("/api/runners/{}", id(7)), |runner| runner["name"] == "renamed").await;
    };
    let (hung, ()) = tokio::join!(ask(&bridge, &pause, ""), polled);
    assert_eq!(hung.problem(), (502, "gitlab_uncertain".to_owned()));
    assert_eq!(hung.json()["reason"], "timeout");

    // Of those who come together one has its turn, and at the end of it the others have waited long enough or have it too.
    let waiting = async || {
        lists.fleet.next((0..8).map(|_| Fault::Hang));
        futures_util::future::join_all((0..4).map(|_| ask(&bridge, &pause, ""))).await
    };
    let mut codes: Vec<_> = waiting().await.iter().map(Answer::code).collect();
    codes.sort();
    assert_eq!((codes[0].as_str(), codes[3].as_str()), ("gitlab_busy", "gitlab_uncertain"), "{codes:?}");
}
