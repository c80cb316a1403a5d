//! The table in `docs/gitlab-runners.md` for users of python-gitlab: each row does what it says.

use std::fs;

use ci_bridge::config::{RunnerSource, Settings};
use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::fleet::gitlab::runner;
use crate::manage::{ask, done, id, lab};
use crate::runners::{Lists, get, names, until};

/// The rows of the table: what python-gitlab has, and what stands here for it.
fn rows() -> Vec<(String, String)> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/gitlab-runners.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| python-gitlab |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        (cells[0].to_owned(), cells[1].to_owned())
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_the_table_for_python_gitlab_does_what_it_says() {
    let rows = rows();
    assert_eq!(rows.len(), 24);
    for (theirs, ours) in rows {
        eprintln!("row: {theirs} | {ours}");
        let (lists, bridge) = lab().await;
        let ours = ours.replace("{runner}", &id(7)).replace("{source}", "lab").replace("{project}", "acme%2Ftools");
        match theirs.as_str() {
            "gl.runners.list()" => reads(&lists, &ours, "scope = \"owned\"", "/api/v4/runners?per_page=100").await,
            "gl.runners_all.list()" => {
                reads(&lists, &ours, "scope = \"instance\"", "/api/v4/runners/all?per_page=100").await;
            }
            "group.runners.list()" => {
                let place = "/api/v4/groups/acme%2Ftools/runners?per_page=100";
                reads(&lists, &ours, "scope = \"group\"\ngroup = \"acme/tools\"", place).await;
            }
            "project.runners.list()" => {
                let place = "/api/v4/projects/acme%2Ftools/runners?per_page=100";
                reads(&lists, &ours, "scope = \"project\"\nproject = \"acme/tools\"", place).await;
            }
            "none" => without_counterpart(&lists, &bridge, &ours).await,
            theirs if theirs.starts_with("gl.runners.list(") => filter(&lists, &bridge, theirs, &ours).await,
            theirs => call(&lists, &bridge, theirs, &ours).await,
        }
    }
}

/// A list with this scope is read from that place.
async fn reads(lists: &Lists, ours: &str, scope: &str, place: &str) {
    let sources = lists.sources();
    let token = lists.token_file("gitlab");
    let text = format!(
        "jobs.prefixes = [\"ci-test-\"]\n[[runners.gitlab]]\nname = \"lab\"\napi = \"{}\"\n{scope}\ntoken_file = \"{token}\"\n",
        lists.fleet.gitlab_api(),
    );
    let gitlab: Vec<RunnerSource> = Settings::parse(&text).unwrap().runners;
    let bridge = lists.bridge_of(vec![sources[0].clone(), gitlab[0].clone()]).await;
    assert_eq!(names(&get(&bridge, ours.strip_prefix("GET ").unwrap()).await), ["lab-1"]);
    assert!(lists.fleet.requests().iter().any(|request| request.target == place), "{place}");
}

/// Of several runners, the list has those that GitLab would have.
async fn filter(lists: &Lists, bridge: &Bridge, theirs: &str, ours: &str) {
    let with = |id: u64, name: &str, online, changes: &[(&str, Value)]| {
        let mut runner = runner(id, name, online);
        for (key, value) in changes {
            runner[*key] = value.clone();
        }
        runner
    };
    let kind = |kind: &str| ("runner_type", json!(kind));
    let added = [
        with(1, "paused", Some(true), &[("paused", json!(true)), ("status", json!("paused"))]),
        with(2, "group", Some(true), &[kind("group_type"), ("tag_list", json!(["c", "b", "a"]))]),
        with(3, "project", Some(false), &[kind("project_type"), ("tag_list", json!(["a"]))]),
        with(4, "never", None, &[]),
    ];
    for runner in added {
        lists.fleet.world().gitlab.runners.insert(runner["id"].as_u64().unwrap(), runner);
    }
    bridge.call("POST /api/runners/poll").await;
    let all = "/api/runners?source=lab&name=group";
    until(bridge, all, |list| list["runners"][0]["labels"] == json!(["c", "b", "a"])).await;
    let listed = async |query: &str| {
        let answer = get(bridge, &format!("/api/runners?{query}&source=lab")).await;
        names(&answer).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let query = ours.strip_prefix("GET /api/runners?").unwrap();
    match theirs {
        "gl.runners.list(scope=\"active\")" => {
            assert_eq!(listed(query).await, ["group", "lab-1", "never", "project"]);
            assert_eq!(listed("scope=paused").await, ["paused"]);
            assert_eq!(listed("scope=online").await, ["group", "lab-1", "paused"]);
            assert_eq!(listed("scope=specific").await, ["group", "project"]);
            assert_eq!(listed("scope=shared").await, ["lab-1", "never", "paused"]);
        }
        "gl.runners.list(type=\"group_type\")" => {
            assert_eq!(listed(query).await, ["group"]);
            assert_eq!(listed("kind=project").await, ["project"]);
            assert_eq!(listed("kind=instance").await, ["lab-1", "never", "paused"]);
        }
        "gl.runners.list(status=\"online\")" => {
            assert_eq!(listed(query).await, ["group", "lab-1", "paused"]);
            assert_eq!(listed("state=offline").await, ["project"]);
            assert_eq!(listed("state=unknown").await, ["never"]);
        }
        "gl.runners.list(paused=True)" => assert_eq!(listed(query).await, ["paused"]),
        "gl.runners.list(tag_list=[\"a\", \"b\"])" => assert_eq!(listed(query).await, ["group"]),
        other => panic!("{other}"),
    }
}

async fn call(lists: &Lists, bridge: &Bridge, theirs: &str, ours: &str) {
    let gitlab = |key: &str| lists.fleet.world().gitlab.runners[&7][key].clone();
    match theirs {
        "gl.runners.get(id)" => {
            let told = done(bridge, ours, "").await;
            for key in ["description", "access_level", "maximum_timeout", "tag_list", "run_untagged", "status"] {
                assert_eq!(told[key], gitlab(key), "{key}");
            }
        }
        "runner.save()" => {
            done(bridge, ours, r#"{"tag_list": ["new_tag"]}"#).await;
            assert_eq!((gitlab("tag_list"), gitlab("description")), (json!(["new_tag"]), json!("lab-1")));
        }
        "runner.delete()" => {
            done(bridge, ours, "").await;
            assert!(lists.fleet.world().gitlab.runners.is_empty());
        }
        "gl.runners.delete(token=token)" => {
            done(bridge, ours, r#"{"token": "glrt-7"}"#).await;
            assert!(lists.fleet.world().gitlab.runners.is_empty());
        }
        "gl.runners.create({\"token\": token})" => {
            let refused = ask(bridge, ours, r#"{"token": "GR1348941", "description": "old"}"#).await;
            assert_eq!(refused.problem(), (422, "registration_retired".to_owned()));
        }
        "gl.user.runners.create({\"runner_type\": type})" => {
            let body = r#"{"runner_type": "project_type", "project_id": 3, "tag_list": ["a"], "locked": true}"#;
            assert_eq!(done(bridge, ours, body).await["token"], "glrt-8-0");
            let created = lists.fleet.world().gitlab.runners[&8].clone();
            let said =
                ["runner_type", "project_id", "tag_list", "locked", "run_untagged"].map(|key| created[key].clone());
            assert_eq!(said, [json!("project_type"), json!(3), json!(["a"]), json!(true), json!(true)]);
        }
        "gl.runners.verify(token)" => {
            assert_eq!(done(bridge, ours, r#"{"token": "glrt-7", "system_id": "s_1"}"#).await["id"], id(7));
            assert_eq!(lists.fleet.world().gitlab.heartbeats[&7], 1);
            let wrong = ask(bridge, ours, r#"{"token": "glrt-8"}"#).await;
            assert_eq!(wrong.problem(), (422, "runner_token_unknown".to_owned()));
        }
        "runner.jobs.list(status=\"failed\", sort=\"asc\")" => {
            let job = |id: u64| {
                let status = if id.is_multiple_of(2) { "failed" } else { "success" };
                json!({ "id": id, "name": "test", "status": status, "ref": "main", "duration": 1.5 })
            };
            lists.fleet.world().gitlab.jobs.insert(7, (1..=120).rev().map(job).collect());
            let ids = |told: &Value| -> Vec<u64> {
                told["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_u64().unwrap()).collect()
            };
            let told = get(bridge, ours.strip_prefix("GET ").unwrap()).await;
            assert_eq!((ids(&told), &told["more"]), ((1..=50).map(|half| half * 2).collect(), &json!(true)));
            let path = format!("/api/runners/{}/jobs", id(7));
            let told = get(bridge, &format!("{path}?limit=500")).await;
            assert_eq!((ids(&told), &told["more"]), ((1..=120).rev().collect(), &json!(false)));
            let job = &told["jobs"][0];
            assert_eq!(
                (&job["status"], &job["ref"], &job["duration"]),
                (&json!("failed"), &json!("main"), &json!(1.5))
            );
        }
        "project.runners.create({\"runner_id\": id})" => {
            done(bridge, ours, "").await;
            assert_eq!(gitlab("projects")[0]["path_with_namespace"], "acme/tools");
        }
        "project.runners.delete(id)" => {
            // The first one owns it.
            let projects = json!([{ "path_with_namespace": "acme/site" }, { "path_with_namespace": "acme/tools" }]);
            lists.fleet.world().gitlab.runners.get_mut(&7).unwrap()["projects"] = projects;
            done(bridge, ours, "").await;
            assert_eq!(gitlab("projects"), json!([{ "path_with_namespace": "acme/site" }]));
            assert_eq!(ask(bridge, ours, "").await.problem(), (422, "gitlab_refused".to_owned()));
        }
        other => panic!("no test for {other}"),
    }
}

/// What python-gitlab does not have.
async fn without_counterpart(lists: &Lists, bridge: &Bridge, ours: &str) {
    let gitlab = |key: &str| lists.fleet.world().gitlab.runners[&7][key].clone();
    let (_, what) = ours.rsplit_once('/').unwrap();
    match what {
        "pause" => {
            assert_eq!(done(bridge, ours, "").await["paused"], true);
            assert_eq!(gitlab("paused"), true);
        }
        "resume" => {
            lists.fleet.world().gitlab.runners.get_mut(&7).unwrap()["paused"] = json!(true);
            assert_eq!(done(bridge, ours, "").await["paused"], false);
            assert_eq!(gitlab("paused"), false);
        }
        "managers" => {
            let manager = json!({
                "id": 1, "system_id": "s_89e5e9956577", "version": "16.11.1", "platform": "linux",
                "architecture": "amd64", "created_at": "2024-06-09T11:12:02Z", "contacted_at": "2024-06-09T06:30:09Z",
                "ip_address": "127.0.0.1", "status": "online",
            });
            lists.fleet.world().gitlab.managers.insert(7, vec![manager.clone()]);
            let told = get(bridge, ours.strip_prefix("GET ").unwrap()).await;
            assert_eq!(told, json!({ "runner": id(7), "managers": [manager] }));
        }
        "reset-token" => {
            let token = done(bridge, ours, r#"{"token": "glrt-7"}"#).await["token"].clone();
            assert_eq!((&token, &json!(lists.fleet.world().gitlab.runner_tokens[&7])), (&json!("glrt-7-6"), &token));
        }
        other => panic!("no test for {other}"),
    }
}
