//! Managing runners of GitLab.

use std::time::Duration;

use ci_bridge::config::{GitHubScope, GitLabAuth, GitLabScope, RunnerList};
use ci_bridge::runners::gitlab::manage::{
    AccessLevel, Change, JobStatus, ManageError, Management, NewRunner, Order, Owner,
};
use ci_bridge::runners::{Kind, PollError, Source};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::fleet::gitlab::{GitLab, runner};
use crate::fleet::{Fault, Fleet};
use crate::support::{SecretFile, github_list, source};

struct Managed {
    source: Source,
    gitlab: Management,
    token: SecretFile,
}

impl Managed {
    fn by(fleet: &Fleet) -> Self {
        Self::at(&fleet.gitlab_api())
    }

    fn at(api: &str) -> Self {
        let token = SecretFile::with("glpat-good");
        let (place, auth) = (token.place(), GitLabAuth::PrivateToken);
        let list = RunnerList::GitLab { scope: GitLabScope::Instance, token: place, auth, details: 1 };
        let source = Source::open(&source(api, list), None).unwrap();
        Self { gitlab: source.management().unwrap(), source, token }
    }
}

async fn fleet_of(number: u64) -> Fleet {
    let fleet = Fleet::start().await;
    fleet.world().gitlab = GitLab::lab((1..=number).map(|id| runner(id, &format!("r{id}"), Some(true))));
    for id in 1..=number {
        fleet.world().gitlab.runner_tokens.insert(id, format!("glrt-{id}"));
    }
    fleet
}

fn new_runner(owner: Owner) -> NewRunner {
    NewRunner {
        owner,
        description: "builder".to_owned(),
        tags: vec!["linux".to_owned(), "big".to_owned()],
        run_untagged: false,
        paused: true,
        locked: true,
        access_level: Some(AccessLevel::RefProtected),
        maximum_timeout: Some(Duration::from_hours(1)),
        maintenance_note: Some("rack 3".to_owned()),
    }
}

fn token(text: &str) -> SecretString {
    text.into()
}

#[tokio::test]
async fn a_list_of_github_has_no_management() {
    let list = github_list(GitHubScope::Organization("acme".to_owned()), &SecretFile::with("ghp"));
    assert!(Source::open(&source("https://api.github.com", list), None).unwrap().management().is_none());
}

#[tokio::test]
async fn a_runner_is_created_as_it_was_described_and_its_token_is_in_no_debug_text() {
    let fleet = fleet_of(0).await;
    let mut managed = Managed::by(&fleet);
    for (id, owner, kind, place) in [
        (1, Owner::Instance, "instance_type", None),
        (2, Owner::Group(9), "group_type", Some("group_id")),
        (3, Owner::Project(9), "project_type", Some("project_id")),
    ] {
        let created = managed.gitlab.create(&new_runner(owner)).await.unwrap();
        assert_eq!((created.id, created.token.expires_at), (id, None));
        assert_eq!(created.token.token.expose_secret(), format!("glrt-{id}-0"));
        assert!(!format!("{created:?}").contains("glrt-"));
        let runner = fleet.world().gitlab.runners[&id].clone();
        assert_eq!(runner["runner_type"], kind);
        for (key, value) in [
            ("description", json!("builder")),
            ("tag_list", json!(["linux", "big"])),
            ("run_untagged", json!(false)),
            ("paused", json!(true)),
            ("locked", json!(true)),
            ("access_level", json!("ref_protected")),
            ("maximum_timeout", json!(3600)),
            ("maintenance_note", json!("rack 3")),
        ] {
            assert_eq!(runner[key], value, "{key}");
        }
        for key in ["group_id", "project_id"] {
            assert_eq!(runner[key], if place == Some(key) { json!(9) } else { Value::Null }, "{key}");
        }
        assert_eq!(fleet.requests()[0].header("private-token"), Some("glpat-good"));
    }
}

#[tokio::test]
async fn a_retired_registration_token_says_what_to_do_instead() {
    let fleet = fleet_of(0).await;
    let mut managed = Managed::by(&fleet);
    let error = managed.gitlab.register(&token("GR1348941"), &new_runner(Owner::Instance)).await.unwrap_err();
    assert_eq!(error, ManageError::Retired);
    assert!(error.to_string().ends_with("with an access token that has the scope `create_runner`"), "{error}");
    // Where it is not retired yet, the token says whose runner it becomes.
    let answer =
        r#"{"id": 12345, "token": "6337ff461c94fd3fa32ba3b1ff4125", "token_expires_at": "2021-09-27T21:05:03.203Z"}"#;
    fleet.next([Fault::Answer(201, vec![], answer.to_owned())]);
    let created = managed.gitlab.register(&token("GR1348941"), &new_runner(Owner::Instance)).await.unwrap();
    assert_eq!((created.id, created.token.token.expose_secret()), (12345, "6337ff461c94fd3fa32ba3b1ff4125"));
    assert_eq!(created.token.expires_at, Some("2021-09-27T21:05:03.203Z".parse().unwrap()));
    // Nobody's access token goes with it.
    assert!(fleet.requests().iter().all(|request| request.header("private-token").is_none()));
}

#[tokio::test]
async fn only_what_is_named_changes() {
    let fleet = fleet_of(2).await;
    let mut managed = Managed::by(&fleet);
    let change = Change {
        description: Some("new".to_owned()),
        tags: Some(vec!["arm".to_owned()]),
        maximum_timeout: Some(Duration::from_mins(10)),
        ..Change::default()
    };
    let runner = managed.gitlab.update(2, &change).await.unwrap();
    assert_eq!((runner.id, runner.description.as_deref(), runner.kind), (2, Some("new"), Some(Kind::Instance)));
    assert_eq!((runner.tags, runner.maximum_timeout), (vec!["arm".to_owned()], Some(600)));
    assert_eq!((runner.paused, runner.run_untagged, runner.locked), (Some(false), Some(true), Some(false)));
    assert_eq!(managed.gitlab.update(2, &Change::default()).await, Err(ManageError::NoChange));
    assert_eq!(fleet.requests().len(), 1);
    assert_eq!(managed.gitlab.runner(1).await.unwrap().description.as_deref(), Some("r1"));
}

#[tokio::test]
async fn a_runner_is_paused_and_resumed() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    assert_eq!(managed.gitlab.pause(1).await.unwrap().paused, Some(true));
    assert_eq!(fleet.world().gitlab.runners[&1]["paused"], true);
    assert_eq!(managed.gitlab.resume(1).await.unwrap().paused, Some(false));
    assert_eq!(fleet.world().gitlab.runners[&1]["paused"], false);
}

#[tokio::test]
async fn a_runner_is_deleted_by_its_number_or_by_its_token() {
    let fleet = fleet_of(3).await;
    let mut managed = Managed::by(&fleet);
    assert_eq!(managed.gitlab.delete(9).await, Err(ManageError::NotFound));
    assert_eq!(managed.gitlab.delete_by_token(&token("glrt-9")).await, Err(ManageError::RunnerToken));
    assert_eq!(fleet.world().gitlab.runners.len(), 3);
    managed.gitlab.delete(1).await.unwrap();
    managed.gitlab.delete_by_token(&token("glrt-2")).await.unwrap();
    assert_eq!(fleet.world().gitlab.runners.keys().collect::<Vec<_>>(), [&3]);
    // The runner's token was enough.
    assert_eq!(fleet.requests()[3].header("private-token"), None);
}

#[tokio::test]
async fn a_token_is_verified_only_on_request() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    let wrong = managed.gitlab.verify(&token("glrt-9"), None).await;
    assert_eq!(wrong.unwrap_err(), ManageError::RunnerToken);
    assert!(fleet.world().gitlab.heartbeats.is_empty());
    assert_eq!(managed.gitlab.verify(&token("glrt-1"), Some("s_0123456789ab")).await.unwrap().id, 1);
    assert_eq!(fleet.world().gitlab.heartbeats[&1], 1);
}

#[tokio::test]
async fn a_new_token_makes_the_old_one_void() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    let new = managed.gitlab.reset_token(1).await.unwrap();
    assert_eq!(new.token.expose_secret(), "glrt-1-6");
    assert_eq!(managed.gitlab.reset_own_token(&token("glrt-1")).await.unwrap_err(), ManageError::RunnerToken);
    let newer = managed.gitlab.reset_own_token(&new.token).await.unwrap();
    assert_eq!(newer.token.expose_secret(), "glrt-1-8");
}

#[tokio::test]
async fn a_runner_is_lent_to_a_project_and_taken_back() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    managed.gitlab.enable(1, "acme/site").await.unwrap();
    managed.gitlab.enable(1, "acme/tools").await.unwrap();
    assert_eq!(fleet.world().gitlab.runners[&1]["projects"][1]["path_with_namespace"], "acme/tools");
    managed.gitlab.disable(1, "acme/tools").await.unwrap();
    let words = "403 Forbidden - You cannot unassign a runner from the owner project".to_owned();
    assert_eq!(managed.gitlab.disable(1, "acme/site").await, Err(ManageError::Refused { status: 403, words }));
    assert_eq!(managed.gitlab.enable(9, "acme/site").await, Err(ManageError::NotFound));
}

#[tokio::test]
async fn the_managers_and_details_in_gitlabs_documentation_are_understood() {
    let fleet = fleet_of(0).await;
    let mut managed = Managed::by(&fleet);
    fleet.next([
        Fault::Answer(200, vec![], include_str!("data/gitlab-runner-managers.json").to_owned()),
        Fault::Answer(200, vec![], include_str!("data/gitlab-runner-details.json").to_owned()),
    ]);
    let managers = managed.gitlab.managers(1).await.unwrap();
    assert_eq!(managers.len(), 2);
    assert_eq!((managers[0].system_id.as_str(), managers[0].version.as_deref()), ("s_89e5e9956577", Some("16.11.1")));
    assert_eq!((managers[1].architecture.as_deref(), managers[1].status.as_deref()), (Some("amd64"), Some("offline")));
    let runner = managed.gitlab.runner(6).await.unwrap();
    assert_eq!((runner.kind, runner.maximum_timeout), (Some(Kind::Project), Some(3600)));
    assert_eq!(runner.projects[0].path_with_namespace.as_deref(), Some("gitlab-org/gitlab-foss"));
    assert_eq!(runner.access_level.as_deref(), Some("ref_protected"));
}

#[tokio::test]
async fn jobs_are_listed_by_their_status_over_all_pages() {
    let fleet = fleet_of(1).await;
    let job = |id: u64| {
        let status = if id.is_multiple_of(2) { "failed" } else { "running" };
        json!({ "id": id, "name": "test", "status": status })
    };
    fleet.world().gitlab.jobs.insert(1, (1..=500).rev().map(job).collect());
    let mut managed = Managed::by(&fleet);
    let failed = managed.gitlab.jobs(1, Some(JobStatus::Failed), Order::NewestFirst, 1000).await.unwrap();
    assert_eq!(failed.len(), 250);
    assert!(failed.iter().all(|job| job.status == "failed"));
    let requests = fleet.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(
        requests[0].target,
        "/api/v4/runners/1/jobs?pagination=keyset&order_by=id&sort=desc&per_page=100&status=failed"
    );
    let oldest = managed.gitlab.jobs(1, None, Order::OldestFirst, 120).await.unwrap();
    assert_eq!(oldest.iter().map(|job| job.id).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
    fleet.requests();
    let newest = managed.gitlab.jobs(1, None, Order::NewestFirst, 3).await.unwrap();
    assert_eq!(newest.iter().map(|job| job.id).collect::<Vec<_>>(), [500, 499, 498]);
    assert_eq!(fleet.requests().len(), 1);
    assert_eq!(managed.gitlab.jobs(1, None, Order::NewestFirst, 120).await.unwrap().len(), 120);
}

#[tokio::test]
async fn the_jobs_in_gitlabs_documentation_are_understood() {
    let fleet = fleet_of(0).await;
    fleet.next([Fault::Answer(200, vec![], include_str!("data/gitlab-runner-jobs.json").to_owned())]);
    let jobs = Managed::by(&fleet).gitlab.jobs(1, Some(JobStatus::Running), Order::NewestFirst, 10).await.unwrap();
    let [job] = &jobs[..] else { panic!("{jobs:?}") };
    assert_eq!((job.id, job.status.as_str(), job.reference.as_deref()), (2, "running", Some("main")));
    assert_eq!((job.duration, job.queued_duration), (Some(120.0), Some(2.0)));
    assert_eq!(job.started_at, Some("2017-11-16T08:51:29Z".parse().unwrap()));
    assert_eq!(job.project.as_ref().unwrap().path_with_namespace.as_deref(), Some("namespace1/project1"));
}

#[tokio::test]
async fn a_refusal_is_told_in_gitlabs_words_but_never_with_a_secret() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    let change = Change { maximum_timeout: Some(Duration::from_mins(5)), ..Change::default() };
    let words = "maximum_timeout needs to be at least 10 minutes".to_owned();
    assert_eq!(managed.gitlab.update(1, &change).await, Err(ManageError::Refused { status: 400, words }));
    for (body, expected) in [
        (r#"{"error":"a\r\nb"}"#.to_owned(), "a  b"),
        ("<html>".to_owned(), "it does not say why"),
        (r#"{"message":"no glpat-good here"}"#.to_owned(), "it does not say why"),
        (json!({ "message": "x".repeat(10_000) }).to_string(), &"x".repeat(300)),
    ] {
        fleet.next([Fault::Answer(422, vec![], body)]);
        let words = expected.to_owned();
        assert_eq!(managed.gitlab.pause(1).await, Err(ManageError::Refused { status: 422, words }));
    }
    fleet.next([Fault::Answer(422, vec![], r#"{"message":"no 6337ff here"}"#.to_owned())]);
    let words = "it does not say why".to_owned();
    let refused = managed.gitlab.delete_by_token(&token("6337ff")).await;
    assert_eq!(refused, Err(ManageError::Refused { status: 422, words }));
}

#[tokio::test]
async fn a_call_is_sent_once_and_to_no_other_place() {
    let (fleet, elsewhere) = (fleet_of(1).await, fleet_of(1).await);
    let mut managed = Managed::by(&fleet);
    let location = format!("{}/runners/1", elsewhere.gitlab_api());
    for (fault, code) in [
        (Fault::Answer(307, vec![("location", location.clone())], String::new()), "unexpected-status"),
        (Fault::Answer(302, vec![("location", location)], String::new()), "unexpected-status"),
        (Fault::Answer(401, vec![], String::new()), "unauthorized"),
    ] {
        fleet.next([fault]);
        let Err(ManageError::Failed(error)) = managed.gitlab.pause(1).await else { panic!("{code}") };
        assert_eq!(error.code(), code);
        assert_eq!(fleet.requests().len(), 1, "{code}");
    }
    assert!(elsewhere.requests().is_empty());
    std::fs::remove_file(managed.token.path()).unwrap();
    let gone = managed.gitlab.pause(1).await;
    assert!(matches!(gone, Err(ManageError::Failed(PollError::Credential(_)))), "{gone:?}");
}

#[tokio::test]
async fn of_a_change_without_an_answer_of_use_nobody_knows_whether_it_was_made() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    for (fault, code) in [
        (Fault::Answer(500, vec![], String::new()), "service-error"),
        (Fault::Cut, "unreachable"),
        (Fault::Html, "not-understood"),
        (Fault::Huge(9 << 20), "too-large"),
    ] {
        fleet.next([fault]);
        let Err(ManageError::Uncertain(error)) = managed.gitlab.pause(1).await else { panic!("{code}") };
        assert_eq!(error.code(), code);
        assert_eq!(fleet.requests().len(), 1, "{code}");
    }
    // What only reads has changed nothing.
    fleet.next([Fault::Cut]);
    let read = managed.gitlab.runner(1).await;
    assert!(matches!(read, Err(ManageError::Failed(PollError::Unreachable(_)))), "{read:?}");
}

#[tokio::test]
async fn a_change_that_could_not_be_sent_was_not_made() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut managed = Managed::at(&format!("http://{nobody}/api/v4"));
    let refused = managed.gitlab.pause(1).await;
    let Err(ManageError::Failed(error @ PollError::NotConnected(_))) = refused else { panic!("{refused:?}") };
    assert_eq!(error.code(), "unreachable");
}

#[tokio::test]
async fn a_limit_that_either_is_told_holds_for_polls_and_changes() {
    let fleet = fleet_of(1).await;
    let mut managed = Managed::by(&fleet);
    let limit = || Fault::Answer(429, vec![("retry-after", "600".to_owned())], "Retry later".to_owned());
    fleet.next([limit()]);
    assert!(matches!(managed.gitlab.pause(1).await, Err(ManageError::Failed(PollError::RateLimited { .. }))));
    assert!(matches!(managed.source.poll().await.result, Err(PollError::RateLimited { .. })));
    assert_eq!(fleet.requests().len(), 1);

    let mut managed = Managed::by(&fleet);
    fleet.next([limit()]);
    assert!(matches!(managed.source.poll().await.result, Err(PollError::RateLimited { .. })));
    assert!(matches!(managed.gitlab.pause(1).await, Err(ManageError::Failed(PollError::RateLimited { .. }))));
    assert_eq!(fleet.requests().len(), 1);
}

#[tokio::test]
async fn the_poll_after_a_change_knows_the_new_tags() {
    let fleet = fleet_of(3).await;
    let mut managed = Managed::by(&fleet);
    let labels = async |managed: &mut Managed| {
        let seen = managed.source.poll().await.result.unwrap();
        seen.into_iter().find(|runner| runner.external_id.as_str() == "2").unwrap().labels
    };
    // One runner is asked about in each poll.
    for _ in 0..3 {
        labels(&mut managed).await;
    }
    assert_eq!(labels(&mut managed).await, ["linux", "docker"]);
    let change = Change { tags: Some(vec!["arm".to_owned()]), ..Change::default() };
    managed.gitlab.update(2, &change).await.unwrap();
    assert_eq!(labels(&mut managed).await, ["arm"]);
    // Also if nobody knows whether the change was made.
    let change = Change { tags: Some(vec!["riscv".to_owned()]), ..Change::default() };
    fleet.next([Fault::Cut]);
    assert!(matches!(managed.gitlab.update(2, &change).await, Err(ManageError::Uncertain(_))));
    assert_eq!(labels(&mut managed).await, ["riscv"]);
    // And it is asked about no more often than the others from then on.
    fleet.requests();
    labels(&mut managed).await;
    assert_eq!(fleet.requests().len(), 1);
}
