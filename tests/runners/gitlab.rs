//! GitLab: scopes, states, pages, limits, and the details that the list lacks.

use std::time::Duration;

use ci_bridge::config::{GitLabAuth, GitLabScope, RunnerList};
use ci_bridge::runners::{PollError, Provider, Source};
use serde_json::json;

use crate::fleet::gitlab::{GitLab, runner};
use crate::fleet::{Fault, Fleet};
use crate::support::{SecretFile, Watched, names, sent, source};

async fn fleet_of(number: u64) -> Fleet {
    let fleet = Fleet::start().await;
    fleet.world().gitlab = GitLab::lab((1..=number).map(|id| runner(id, &format!("r{id}"), Some(true))));
    fleet
}

fn targets(fleet: &Fleet) -> Vec<String> {
    fleet.requests().into_iter().map(|request| request.target.trim_start_matches("/api/v4").to_owned()).collect()
}

#[tokio::test]
async fn each_scope_has_its_place_and_each_token_its_header() {
    let fleet = fleet_of(1).await;
    let token = SecretFile::with("glpat-good");
    for (scope, auth, target) in [
        (GitLabScope::Instance, GitLabAuth::PrivateToken, "/runners/all?per_page=100"),
        (GitLabScope::Owned, GitLabAuth::Bearer, "/runners?per_page=100"),
        (GitLabScope::Group("9".to_owned()), GitLabAuth::PrivateToken, "/groups/9/runners?per_page=100"),
        (
            GitLabScope::Project("acme/tools/site".to_owned()),
            GitLabAuth::Bearer,
            "/projects/acme%2Ftools%2Fsite/runners?per_page=100",
        ),
    ] {
        let list = RunnerList::GitLab { scope, token: token.place(), auth, details: 0 };
        let mut source = Source::open(&source(&fleet.gitlab_api(), list), None).unwrap();
        assert_eq!(source.provider(), Provider::GitLab);
        assert_eq!(source.poll().await.result.unwrap().len(), 1);
        let requests = fleet.requests();
        assert_eq!(requests[0].target, format!("/api/v4{target}"));
        let sent = (requests[0].header("private-token"), requests[0].header("authorization"));
        match auth {
            GitLabAuth::PrivateToken => assert_eq!(sent, (Some("glpat-good"), None)),
            GitLabAuth::Bearer => assert_eq!(sent, (None, Some("Bearer glpat-good"))),
        }
    }
}

#[tokio::test]
async fn a_paused_runner_is_connected_or_not_whatever_its_status_says() {
    let fleet = Fleet::start().await;
    let mut paused = runner(1, "paused", Some(true));
    paused["status"] = "paused".into();
    paused["paused"] = true.into();
    let mut gone = runner(2, "paused and gone", Some(false));
    gone["status"] = "paused".into();
    gone["paused"] = true.into();
    let mut stale = runner(3, "stale", Some(false));
    stale["status"] = "stale".into();
    fleet.world().gitlab = GitLab::lab([paused, gone, stale, runner(4, "never", None)]);
    let seen = Watched::lab(&fleet, 0).seen().await;
    assert_eq!(
        names(&seen),
        [("never", None), ("stale", Some(false)), ("paused and gone", Some(false)), ("paused", Some(true))]
    );
    assert_eq!(seen.iter().map(|runner| runner.paused).collect::<Vec<_>>(), [false, false, true, true].map(Some));
    assert_eq!(seen[3].status, "paused");
}

#[tokio::test]
async fn what_older_and_newer_gitlabs_send_is_understood() {
    let fleet = Fleet::start().await;
    let text = r#"[{"id": 1, "description": "old", "active": false, "online": null, "status": "offline", "is_shared": true},
                   {"id": 2, "description": "", "name": "gitlab-runner", "paused": false, "online": true,
                    "job_execution_status": "active", "runner_type": "planet_type", "novelty": [1]},
                   {"id": 3, "description": null, "name": null, "online": null, "status": "not_connected",
                    "job_execution_status": "idle"},
                   {"id": 4, "description": "new", "online": false, "status": "never_contacted"}]"#;
    fleet.next([Fault::Answer(200, vec![], text.to_owned())]);
    let seen = Watched::lab(&fleet, 0).seen().await;
    assert_eq!(names(&seen), [("old", Some(false)), ("gitlab-runner", Some(true)), ("#3", None), ("new", None)]);
    assert_eq!(seen.iter().map(|runner| runner.paused).collect::<Vec<_>>(), [Some(true), Some(false), None, None]);
    assert_eq!(seen.iter().map(|runner| runner.busy).collect::<Vec<_>>(), [None, Some(true), Some(false), None]);
    assert_eq!(seen[1].kind, None);
}

#[tokio::test]
async fn all_pages_are_read_by_their_links() {
    let fleet = fleet_of(230).await;
    let poll = Watched::lab(&fleet, 0).poll().await;
    assert_eq!((sent(&poll), poll.result.unwrap().len()), (3, 230));
}

#[tokio::test]
async fn pages_by_a_cursor_are_read_too() {
    let fleet = Fleet::start().await;
    let page = |ids: std::ops::Range<u64>, next: Option<&str>| {
        let runners: Vec<_> = ids.map(|id| json!({ "id": id, "status": "online", "online": true })).collect();
        let link = next.map(|next| ("link", format!("<{next}>; rel=\"next\"")));
        Fault::Answer(200, link.into_iter().collect(), json!(runners).to_string())
    };
    let next = format!("{}/runners/all?pagination=keyset&cursor=eyJpZCI6IjIifQ", fleet.gitlab_api());
    fleet.next([page(0..2, Some(&next)), page(2..3, None)]);
    assert_eq!(Watched::lab(&fleet, 0).seen().await.len(), 3);
    assert_eq!(targets(&fleet), ["/runners/all?per_page=100", "/runners/all?pagination=keyset&cursor=eyJpZCI6IjIifQ"]);
}

#[tokio::test]
async fn a_list_that_shifts_between_two_pages_is_read_again() {
    let fleet = fleet_of(150).await;
    // GitLab lists the newest first: number 50 is now on the page that was read before it was there.
    fleet.next([Fault::Then(Box::new(|world| drop(world.gitlab.runners.remove(&150))))]);
    let poll = Watched::lab(&fleet, 0).poll().await;
    assert_eq!(sent(&poll), 4);
    assert!(poll.result.unwrap().iter().any(|runner| runner.name == "r50"));
}

#[tokio::test]
async fn a_poll_never_verifies_a_runner() {
    let fleet = fleet_of(3).await;
    let mut lab = Watched::lab(&fleet, 10);
    lab.seen().await;
    lab.seen().await;
    assert!(fleet.world().gitlab.heartbeats.is_empty());
    assert!(fleet.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn too_many_requests_are_waited_for_as_long_as_gitlab_says() {
    let fleet = fleet_of(1).await;
    let mut lab = Watched::lab(&fleet, 0);
    let headers = vec![
        ("retry-after", "37".to_owned()),
        ("ratelimit-limit", "60".to_owned()),
        ("ratelimit-remaining", "0".to_owned()),
        ("ratelimit-reset", "1795262430".to_owned()),
    ];
    fleet.next([Fault::Answer(429, headers, "Retry later".to_owned())]);
    let poll = lab.poll().await;
    assert_eq!(poll.result.unwrap_err().code(), "rate-limited");
    assert_eq!(poll.not_before.unwrap().duration_since(poll.at).as_secs(), 37);
    assert_eq!((poll.quota.unwrap().limit, poll.quota.unwrap().left), (60, 0));
    assert_eq!(sent(&lab.poll().await), 0);
}

#[tokio::test]
async fn what_a_token_lacks_is_told() {
    let fleet = fleet_of(1).await;
    let mut lab = Watched::lab(&fleet, 0);
    for (status, body, code, message) in [
        (401, r#"{"message":"401 Unauthorized"}"#, "unauthorized", "write a new one into its file"),
        (
            403,
            r#"{"error":"insufficient_scope","scope":"api"}"#,
            "forbidden",
            "the scope `read_api`, and to be of an admin",
        ),
        (404, r#"{"error":"404 Not Found"}"#, "not-found", "no such list of all runners"),
        (
            302,
            "",
            "redirected",
            "the service redirects to https://gitlab.example.com; if that is right, set `api` to it",
        ),
    ] {
        let headers = vec![("location", "https://gitlab.example.com/users/sign_in".to_owned())];
        fleet.next([Fault::Answer(status, headers, body.to_owned())]);
        let error = lab.error().await;
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[tokio::test]
async fn details_are_asked_once_and_remembered() {
    let fleet = fleet_of(1).await;
    fleet.world().gitlab.managers.insert(
        1,
        vec![
            json!({ "system_id": "s_1", "version": "17.0.0", "platform": "linux", "contacted_at": "2026-11-20T12:00:00Z" }),
            json!({ "system_id": "s_2", "version": "18.5.0", "platform": "windows", "contacted_at": "2026-11-21T12:00:00Z" }),
            json!({ "system_id": "s_3", "version": null, "platform": null, "contacted_at": null }),
        ],
    );
    let mut lab = Watched::lab(&fleet, 10);
    for requests in [3, 1] {
        let poll = lab.poll().await;
        assert_eq!(sent(&poll), requests);
        let seen = &poll.result.unwrap()[0];
        assert_eq!(seen.labels, ["linux", "docker"]);
        // The newest manager speaks for the runner.
        assert_eq!((seen.version.as_deref(), seen.os.as_deref()), (Some("18.5.0"), Some("windows")));
        assert_eq!((seen.locked, seen.contacted_at), (Some(false), Some("2026-11-21T12:00:00Z".parse().unwrap())));
    }
}

#[tokio::test]
async fn a_few_runners_are_asked_about_in_each_poll_until_all_are_known() {
    let fleet = fleet_of(5).await;
    for runner in fleet.world().gitlab.runners.values_mut() {
        runner["version"] = "15.0.0".into();
    }
    let mut lab = Watched::lab(&fleet, 2);
    for known in [2, 4, 5, 5] {
        let seen = lab.seen().await;
        assert_eq!(seen.iter().filter(|runner| runner.version.is_some()).count(), known);
    }
    let asked = targets(&fleet);
    let details: Vec<_> = asked.iter().filter(|target| !target.contains("all")).map(String::as_str).collect();
    assert_eq!(details, ["/runners/5", "/runners/4", "/runners/3", "/runners/2", "/runners/1"]);

    // Who went is asked about again, and everybody after an hour, but those who went first.
    let goes = |id| fleet.world().gitlab.runners.get_mut(&id).unwrap()["online"] = false.into();
    goes(2);
    lab.seen().await;
    assert_eq!(targets(&fleet), ["/runners/all?per_page=100", "/runners/2"]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    goes(1);
    lab.seen().await;
    assert_eq!(targets(&fleet), ["/runners/all?per_page=100", "/runners/1", "/runners/5"]);
}

#[tokio::test]
async fn a_list_is_told_also_without_its_details() {
    let fleet = fleet_of(3).await;
    fleet.world().gitlab.hidden = vec![3];
    let mut lab = Watched::lab(&fleet, 10);
    // One may not be seen, at the next the service fails, and nobody asks further.
    fleet.next([Fault::None, Fault::None, Fault::Answer(500, vec![], String::new())]);
    let poll = lab.poll().await;
    assert_eq!((sent(&poll), poll.not_before), (3, None));
    assert_eq!(poll.result.unwrap().len(), 3);
    assert_eq!(targets(&fleet), ["/runners/all?per_page=100", "/runners/3", "/runners/2"]);

    fleet.next([Fault::None, Fault::Answer(429, vec![("retry-after", "9".to_owned())], String::new())]);
    let poll = lab.poll().await;
    assert_eq!(poll.not_before.unwrap().duration_since(poll.at).as_secs(), 9);
    assert_eq!(poll.result.unwrap().len(), 3);
    assert_eq!(lab.error().await.code(), "rate-limited");
}

#[tokio::test]
async fn a_group_without_its_own_interface_is_told() {
    let fleet = fleet_of(1).await;
    fleet.next([Fault::Html]);
    let expected = PollError::NotUnderstood("it is text/html".to_owned());
    assert_eq!(Watched::lab(&fleet, 0).error().await, expected);
}
