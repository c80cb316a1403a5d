//! From the configuration of an older monitor to what its targets get: the changes that its own tests play, and the
//! messages that it would have sent.

use std::path::Path;
use std::process::Command;

use ci_bridge::alerts::Alerts;
use ci_bridge::config::Settings;
use ci_bridge::fleet::{Watch, Watched};
use ci_bridge::runners::{Poll, Source};
use serde_json::{Value, json};

use crate::hook::Hook;
use crate::service::Fleet;
use crate::service::github::{GitHub, runner};
use crate::support::{minute, open};

/// In the form of its examples: a name without a filter, and a text of JSON within a text.
fn template(event: &str, runner: &str) -> String {
    let json =
        format!("{runner}_json | json_encode() | trim_start_matches(pat='\"') | trim_end_matches(pat='\"') | safe");
    format!(r#"["{event} {{{{ {runner}.name }}}}", {{"text": "{{{{ {json} }}}}"}}]"#)
}

/// Writes an old configuration and its templates, and has the program take them over.
fn import(directory: &Path, grace: u32, lists: &str) -> Settings {
    let mut old = format!("grace_period: {grace}\n{lists}");
    let new = ["created", "online", "offline"].map(|event| (event, "new_runner"));
    for (event, runner) in new.into_iter().chain([("removed", "old_runner")]) {
        std::fs::write(directory.join(format!("{event}.txt.j2")), template(event, runner)).unwrap();
        old.push_str(&format!("{event}_template_path: {event}.txt.j2\n"));
    }
    let config = directory.join("config.yaml");
    std::fs::write(&config, old).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ci-bridge"))
        .args(["import", "gh-runner-uptime"])
        .arg(&config)
        .arg("--write-secrets")
        .arg(directory.join("secrets"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let toml = String::from_utf8(output.stdout).unwrap();
    assert!(!toml.contains("ghp-good") && !toml.contains("/hook-"), "{toml}");
    Settings::parse(&format!("jobs.prefixes = [\"ci-test-\"]\n{toml}")).unwrap()
}

fn list(name: &str, fleet: &Fleet, hook: &str) -> String {
    let api = fleet.github_api();
    format!("  - name: {name}\n    github_base_uri: {api}\n    github_pat: ghp-good\n    webhook_endpoint: {hook}\n")
}

/// What a target has got since the last time: path, what happened, and the runner as the template wrote it.
fn news(hook: &Hook, seen: &mut usize) -> Vec<(String, String, Value)> {
    let got = hook.got();
    let new = got[*seen..].iter().map(|got| {
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let runner = serde_json::from_str(body[1]["text"].as_str().unwrap()).unwrap();
        (got.path.clone(), body[0].as_str().unwrap().to_owned(), runner)
    });
    let new = new.collect();
    *seen = got.len();
    new
}

#[tokio::test]
async fn an_imported_configuration_tells_the_same_targets_of_the_same_changes() {
    let directory = tempfile::tempdir().unwrap();
    let (fleet, other) = (Fleet::start().await, Fleet::start().await);
    let (hook, address) = Hook::start().await;
    let lists = format!(
        "orgs:\n{}{}",
        list("acme", &fleet, &format!("http://{address}/hook-1?token=a")),
        list("acme", &other, &format!("http://{address}/hook-2")),
    );
    let settings = import(directory.path(), 0, &lists);

    let store = open(directory.path()).await;
    let alerts = Alerts::load(&settings.alerts).unwrap();
    let mut couriers = alerts.couriers(&store).unwrap();
    let mut watches = Vec::new();
    for source in &settings.runners {
        let watch = Watch::open(Watched::of(source), &store).await.unwrap();
        watches.push((watch, Source::open(source, None).unwrap()));
    }

    let with_os = |id: u64, status: &str, os: &str| {
        let mut runner = runner(id, &format!("build-{id}"), status);
        runner["os"] = json!(os);
        runner
    };
    let mut seen = 0;
    // What the two lists have, and what is told of it to whom.
    let polls = [
        (vec![with_os(69, "online", "linux")], vec![], vec![]),
        (vec![with_os(69, "offline", "linux")], vec![], vec![("1", "offline build-69")]),
        (vec![], vec![], vec![("1", "removed build-69")]),
        (vec![], vec![], vec![]),
        (
            vec![with_os(420, "online", "linux")],
            vec![with_os(12, "offline", "linux")],
            vec![("1", "created build-420"), ("2", "created build-12")],
        ),
        (vec![with_os(420, "online", "TempleOS")], vec![with_os(12, "offline", "linux")], vec![]),
        (
            vec![with_os(420, "offline", "TempleOS")],
            vec![with_os(12, "offline", "linux")],
            vec![("1", "offline build-420")],
        ),
        (
            vec![with_os(420, "offline", "TempleOS")],
            vec![with_os(12, "online", "linux")],
            vec![("2", "online build-12")],
        ),
    ];
    for (at, (first, second, expected)) in (0..).zip(polls) {
        (fleet.world().github, other.world().github) = (GitHub::acme(first), GitHub::acme(second));
        for (watch, source) in &mut watches {
            let poll = Poll { at: minute(at), ..source.poll().await };
            assert!(poll.result.is_ok(), "{poll:?}");
            watch.take(&poll, &alerts).await.unwrap();
        }
        for courier in &mut couriers {
            while courier.deliver(minute(at)).await.unwrap().sent > 0 {}
        }
        let told = news(&hook, &mut seen);
        let said: Vec<_> = told.iter().map(|(path, what, _)| (path.as_str(), what.as_str())).collect();
        let path = |number: &str| if number == "1" { "/hook-1?token=a" } else { "/hook-2" };
        let expected: Vec<_> = expected.into_iter().map(|(number, what)| (path(number), what)).collect();
        assert_eq!(said, expected, "poll {at}");
        for (path, _, runner) in told {
            let api = if path == "/hook-2" { other.github_api() } else { fleet.github_api() };
            assert_eq!(runner["runner_set"], format!("org: acme; github: {api}"));
        }
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_imported_grace_is_counted_in_polls_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = Fleet::start().await;
    let (hook, address) = Hook::start().await;
    let lists = format!("orgs:\n{}", list("acme", &fleet, &format!("http://{address}/hook-1")));
    let settings = import(directory.path(), 3, &lists);
    let store = open(directory.path()).await;
    let alerts = Alerts::load(&settings.alerts).unwrap();
    let mut courier = alerts.couriers(&store).unwrap().remove(0);
    let mut watch = Watch::open(Watched::of(&settings.runners[0]), &store).await.unwrap();
    let mut source = Source::open(&settings.runners[0], None).unwrap();
    let mut seen = 0;
    let day = [
        ("online", 1, None),
        ("offline", 3, None),
        ("online", 1, None),
        ("offline", 3, None),
        ("offline", 1, Some("offline build-1")),
        ("offline", 1, None),
        ("online", 3, None),
        ("offline", 1, None),
        ("online", 3, None),
        ("online", 1, Some("online build-1")),
    ];
    let mut at = 0;
    for (status, polls, expected) in day {
        for _ in 0..polls {
            fleet.world().github = GitHub::acme([runner(1, "build-1", status)]);
            let poll = Poll { at: minute(at), ..source.poll().await };
            watch.take(&poll, &alerts).await.unwrap();
            while courier.deliver(minute(at)).await.unwrap().sent > 0 {}
            at += 1;
        }
        let told = news(&hook, &mut seen);
        assert_eq!(told.iter().map(|(_, what, _)| what.as_str()).next(), expected, "before minute {at}");
    }
    store.close().await.unwrap();
}
