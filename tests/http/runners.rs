//! The fleet over the API: what a GitHub and a GitLab on the wire say, as a token may read it.

use std::time::Duration;

use ci_bridge::config::{RunnerSource, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bridge::{Bridge, Setup};
use crate::fleet::github::{self, GitHub};
use crate::fleet::gitlab::{self, GitLab};
use crate::fleet::{Fault, Fleet};
use crate::wire::Answer;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The id of runner 69 of `acme`.
pub(crate) const BUILD: &str = "38252ee3-075f-86bc-b001-1f39f71a36c2";

/// Two lists of a fleet.
pub(crate) struct Lists {
    pub(crate) fleet: Fleet,
    directory: TempDir,
}

impl Lists {
    pub(crate) async fn new() -> Self {
        let lists = Self { fleet: Fleet::start().await, directory: tempfile::tempdir().unwrap() };
        let busy = |mut runner: Value| {
            runner["busy"] = json!(true);
            runner["labels"].as_array_mut().unwrap().push(json!({ "id": 6, "name": "gpu", "type": "custom" }));
            runner
        };
        lists.fleet.world().github = GitHub::acme([
            github::runner(69, "build-1", "online"),
            busy(github::runner(70, "Build-2", "online")),
            github::runner(71, "other", "offline"),
        ]);
        lists.fleet.world().gitlab = GitLab::lab([gitlab::runner(7, "lab-1", Some(true))]);
        lists
    }

    pub(crate) fn sources(&self) -> Vec<RunnerSource> {
        for (name, token) in [("github", "ghp-good"), ("gitlab", "glpat-good")] {
            std::fs::write(self.directory.path().join(name), token).unwrap();
        }
        let directory = self.directory.path().display();
        let (github, gitlab) = (self.fleet.github_api(), self.fleet.gitlab_api());
        let text = format!(
            "jobs.prefixes = [\"ci-test-\"]\n[[runners.github]]\nname = \"acme\"\napi = \"{github}\"\norganization = \"acme\"\n\
             token_file = \"{directory}/github\"\n[[runners.gitlab]]\nname = \"lab\"\napi = \"{gitlab}\"\nscope = \"instance\"\n\
             token_file = \"{directory}/gitlab\"\n"
        );
        Settings::parse(&text).unwrap().runners
    }

    /// The file with the token of a service.
    pub(crate) fn token_file(&self, service: &str) -> String {
        self.directory.path().join(service).display().to_string()
    }

    /// A bridge that has read both lists.
    pub(crate) async fn bridge(&self) -> Bridge {
        self.bridge_of(self.sources()).await
    }

    /// A bridge that has read these lists.
    pub(crate) async fn bridge_of(&self, runners: Vec<RunnerSource>) -> Bridge {
        let bridge = Bridge::with(vec![], Setup { runners, ..Setup::default() }).await;
        until(&bridge, "/api/runners", |answer| answer["runners"].as_array().unwrap().len() == 4).await;
        bridge
    }
}

pub(crate) async fn get(bridge: &Bridge, target: &str) -> Value {
    let answer = bridge.call_as(&bridge.tokens.reader, &format!("GET {target}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn problem(bridge: &Bridge, request: &str) -> (u16, String) {
    bridge.call(request).await.problem()
}

/// Asks until the answer is what is wanted.
pub(crate) async fn until(bridge: &Bridge, target: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let answer = get(bridge, target).await;
            if wanted(&answer) {
                return answer;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it never was so")
}

/// The names of the runners in a list.
pub(crate) fn names(answer: &Value) -> Vec<&str> {
    answer["runners"].as_array().unwrap().iter().map(|runner| runner["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_told_of_runners_and_a_read_token_has_none_polled() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let one = format!("/api/runners/{BUILD}");
    for path in ["/api/runners", &one, &format!("{one}/transitions"), &format!("{one}/uptime"), "/api/sources"] {
        let answer = bridge.call_with(&format!("GET {path}"), &[]).await;
        assert_eq!(answer.problem(), (401, "token_missing".to_owned()), "{path}");
    }
    lists.fleet.requests();
    let denied = bridge.call_as(&bridge.tokens.reader, "POST /api/runners/poll").await;
    assert_eq!(denied.problem(), (403, "read_only_token".to_owned()));
    assert!(lists.fleet.requests().is_empty());

    let polled: Answer = bridge.call("POST /api/runners/poll").await;
    assert_eq!((polled.status, &polled.json()["sources"]), (202, &json!(["acme", "lab"])));
    tokio::time::timeout(PATIENCE, async {
        while lists.fleet.requests().is_empty() {
            lists.fleet.asked().await;
        }
    })
    .await
    .expect("nobody was asked");
    let noted = async {
        loop {
            let audit = bridge.call_as(&bridge.tokens.auditor, "GET /api/audit?kind=write").await.json();
            if let [polled, denied] = audit["entries"].as_array().unwrap().as_slice() {
                break [polled, denied].map(|entry| (entry["who"].clone(), entry["outcome"].clone()));
            }
        }
    };
    let noted = tokio::time::timeout(PATIENCE, noted).await.expect("it was never noted");
    assert_eq!(noted, [(json!("writer"), json!("polled")), (json!("reader"), json!("read_only_token"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_are_listed_by_name_with_what_their_service_says() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let all = get(&bridge, "/api/runners").await;
    assert_eq!(names(&all), ["Build-2", "build-1", "lab-1", "other"]);
    assert_eq!((&all["more"], &all["after"]), (&json!(false), &json!(null)));
    let mut build = get(&bridge, &format!("/api/runners/{BUILD}")).await;
    assert_eq!(build, all["runners"][1]);
    let times = ["since", "first_seen_at"].map(|name| build.as_object_mut().unwrap().remove(name).unwrap());
    assert_eq!(times[0], times[1]);
    let expected = json!({
        "id": BUILD, "provider": "github", "source": "acme", "external_id": "69", "name": "build-1", "os": "linux",
        "labels": ["self-hosted"], "kind": "organization", "state": "online", "busy": false, "paused": null,
        "ephemeral": false, "locked": null, "version": null, "flapping": false, "contacted_at": null,
    });
    assert_eq!(build, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_leaves_out_what_it_does_not_mean_and_a_wrong_one_is_refused() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let cases: [(&str, &[&str]); 23] = [
        ("provider=gitlab", &["lab-1"]),
        ("provider=github", &["Build-2", "build-1", "other"]),
        ("source=lab", &["lab-1"]),
        ("source=acme&state=offline", &["other"]),
        ("kind=group", &[]),
        ("kind=instance", &["lab-1"]),
        ("kind=organization&state=online", &["Build-2", "build-1"]),
        ("state=unknown", &[]),
        ("state=removed", &[]),
        ("busy=true", &["Build-2"]),
        ("busy=false&provider=github", &["build-1", "other"]),
        ("paused=false", &["lab-1"]),
        ("label=gpu", &["Build-2"]),
        ("tag_list=gpu,%20self-hosted,", &["Build-2"]),
        ("tag_list=gpu,other", &[]),
        ("tag_list=gpu&label=linux", &[]),
        ("name=BUILD", &["Build-2", "build-1"]),
        ("scope=active", &["lab-1"]),
        ("scope=paused", &[]),
        ("scope=online&provider=gitlab", &["lab-1"]),
        ("scope=online", &["Build-2", "build-1", "lab-1"]),
        ("scope=shared", &["lab-1"]),
        ("scope=specific", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&get(&bridge, &format!("/api/runners?{query}")).await), expected, "{query}");
    }
    for query in [
        "provider=gitea",
        "source=%20",
        "kind=shared",
        "state=up",
        "busy=1",
        "paused=no",
        "scope=offline",
        "scope=active&paused=false",
        "scope=online&state=online",
        "scope=shared&kind=instance",
        "limit=0",
        "limit=501",
        "after=1",
        "before=1",
        "busy=true&busy=true",
    ] {
        let refused = problem(&bridge, &format!("GET /api/runners?{query}")).await;
        assert_eq!(refused, (400, "invalid_parameter".to_owned()), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_each_runner_and_each_change_once() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let mut seen = Vec::new();
    let mut target = "/api/runners?limit=1".to_owned();
    loop {
        let page = get(&bridge, &target).await;
        seen.extend(names(&page).into_iter().map(str::to_owned));
        if page["more"] == json!(false) {
            break;
        }
        target = format!("/api/runners?limit=1&after={}", page["after"].as_str().unwrap());
    }
    assert_eq!(seen, ["Build-2", "build-1", "lab-1", "other"]);

    let one = format!("/api/runners/{BUILD}");
    for status in ["offline", "online"] {
        lists.fleet.world().github.runners[0]["status"] = json!(status);
        bridge.call("POST /api/runners/poll").await;
        until(&bridge, &one, |runner| runner["state"] == *status).await;
    }
    let changes = get(&bridge, &format!("{one}/transitions?limit=2")).await;
    let states = |answer: &Value| {
        answer["transitions"].as_array().unwrap().iter().map(|change| change["state"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((states(&changes), &changes["more"]), (vec![json!("online"), json!("offline")], &json!(true)));
    assert_eq!(changes["runner"], BUILD);
    let before = changes["before"].as_str().unwrap();
    let rest = get(&bridge, &format!("{one}/transitions?limit=2&before={before}")).await;
    assert_eq!((states(&rest), &rest["more"], &rest["before"]), (vec![json!("online")], &json!(false), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uptime_is_null_before_anything_was_known_and_counts_what_is() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let uptime = format!("/api/runners/{BUILD}/uptime");
    let before = get(&bridge, &format!("{uptime}?window=2020-01-01T00:00:00Z..2020-01-02T00:00:00Z")).await;
    let expected = json!({
        "runner": BUILD, "from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z", "uptime": null, "coverage": 0.0,
    });
    assert_eq!(before, expected);
    let now = get(&bridge, &uptime).await;
    let coverage = now["coverage"].as_f64().unwrap();
    assert!(now["uptime"] == 1.0 && coverage > 0.0 && coverage < 0.01, "{now}");
    for window in ["", "24", "2020-01-02T00:00:00Z..2020-01-01T00:00:00Z"] {
        let refused = problem(&bridge, &format!("GET {uptime}?window={window}")).await;
        assert_eq!(refused, (400, "invalid_parameter".to_owned()), "{window}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_nobody_knows_is_not_found() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    for id in ["00000000-0000-8000-8000-000000000000", "build-1"] {
        for path in ["", "/transitions", "/uptime"] {
            let found = problem(&bridge, &format!("GET /api/runners/{id}{path}")).await;
            assert_eq!(found, (404, "no_such_runner".to_owned()), "{id}{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_says_when_it_was_read_and_why_it_could_not_be() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let acme = |answer: &Value| answer["sources"][0].clone();
    let lab = get(&bridge, "/api/sources").await["sources"][1]["provider"].clone();
    assert_eq!(lab, "gitlab");
    let good = acme(&get(&bridge, "/api/sources").await);
    assert_eq!(
        (&good["name"], &good["watched"], &good["failures"]),
        (&json!("acme"), &json!(true), &json!(0)),
        "{good}"
    );
    assert_eq!(good["polled_at"], good["read_at"]);

    lists.fleet.world().github.tokens.clear();
    bridge.call("POST /api/runners/poll").await;
    let bad = until(&bridge, "/api/sources", |answer| acme(answer)["failures"] != 0).await;
    let bad = acme(&bad);
    assert_eq!(
        (&bad["error"], &bad["unreachable"], &bad["read_at"]),
        (&json!("unauthorized"), &json!(false), &good["read_at"])
    );
    assert_ne!(bad["polled_at"], bad["read_at"]);
    // What was known stays.
    assert_eq!(names(&get(&bridge, "/api/runners?state=online").await), ["Build-2", "build-1", "lab-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_history_the_fleet_says_so_and_with_no_source_it_is_empty() {
    let bridge = Bridge::with(vec![], Setup { history: false, ..Setup::default() }).await;
    for path in ["/api/runners", "/api/sources"] {
        assert_eq!(problem(&bridge, &format!("GET {path}")).await, (503, "history_unavailable".to_owned()));
    }
    let bridge = Bridge::new(vec![]).await;
    assert_eq!(get(&bridge, "/api/runners").await, json!({ "runners": [], "more": false, "after": null }));
    assert_eq!(get(&bridge, "/api/sources").await, json!({ "sources": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_is_there_after_a_restart_while_the_service_hangs() {
    let lists = Lists::new().await;
    let bridge = lists.bridge().await;
    let before = get(&bridge, "/api/runners").await;
    let setup = Setup { runners: lists.sources(), ..Setup::default() };
    lists.fleet.next((0..20).map(|_| Fault::Hang));
    let bridge = bridge.restart_as(setup, async |_| {}).await;
    assert_eq!(get(&bridge, "/api/runners").await, before);
}
