//! What the vendors show in their documentation is understood.

use ci_bridge::runners::Kind;

use crate::fleet::{Fault, Fleet};
use crate::support::Watched;

#[tokio::test]
async fn the_list_in_githubs_documentation_is_understood() {
    let fleet = Fleet::start().await;
    fleet.next([Fault::Answer(200, vec![], include_str!("data/github-runners.json").to_owned())]);
    let seen = Watched::acme(&fleet).seen().await;
    let [linux, mac] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(
        (linux.external_id.as_str(), linux.name.as_str(), linux.os.as_deref()),
        ("23", "linux_runner", Some("linux"))
    );
    assert_eq!((linux.online, linux.busy, linux.ephemeral), (Some(true), Some(true), Some(false)));
    assert_eq!(linux.labels, ["self-hosted", "X64", "Linux"]);
    assert_eq!((mac.online, mac.busy, mac.os.as_deref()), (Some(false), Some(false), Some("macos")));
    assert_eq!(mac.labels, ["self-hosted", "X64", "macOS", "no-gpu"]);
    assert_eq!((mac.kind, mac.paused, mac.contacted_at), (Some(Kind::Organization), None, None));
}

#[tokio::test]
async fn what_only_some_githubs_send_may_be_there_or_not() {
    let fleet = Fleet::start().await;
    let text = r#"{"total_count": 2, "extra": 1, "runners": [
        {"id": 1, "name": "bare", "os": "unknown", "status": "offline", "busy": false, "labels": [{"name": "x"}]},
        {"id": 2, "name": "full", "os": "linux", "status": "online", "busy": true, "ephemeral": true, "version": "2.328.0",
         "runner_group_id": 1, "labels": [{"id": 1, "name": "y", "type": "new-kind"}], "novelty": {"a": []}}]}"#;
    fleet.next([Fault::Answer(200, vec![], text.to_owned())]);
    let seen = Watched::acme(&fleet).seen().await;
    assert_eq!((seen[0].os.as_deref(), seen[0].ephemeral, seen[0].version.as_deref()), (None, None, None));
    assert_eq!((seen[1].ephemeral, seen[1].version.as_deref()), (Some(true), Some("2.328.0")));
    assert_eq!(seen[1].labels, ["y"]);
}

fn of(file: &str) -> String {
    let path = format!("{}/tests/runners/data/{file}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn the_lists_in_gitlabs_documentation_are_understood() {
    let fleet = Fleet::start().await;
    let mut lab = Watched::lab(&fleet, 0);
    let on = Some(true);
    let off = Some(false);
    for (file, expected) in [
        (
            "gitlab-runners",
            vec![("6", "test-1-20150125", on, Kind::Project), ("8", "test-2-20150125", off, Kind::Group)],
        ),
        (
            "gitlab-runners-all",
            vec![
                ("1", "shared-runner-1", on, Kind::Instance),
                ("3", "shared-runner-2", off, Kind::Instance),
                ("6", "test-1-20150125", on, Kind::Project),
                ("8", "test-2-20150125", off, Kind::Group),
            ],
        ),
        (
            "gitlab-project-runners",
            vec![("8", "test-2-20150125", off, Kind::Project), ("5", "development_runner", on, Kind::Instance)],
        ),
        (
            "gitlab-group-runners",
            vec![
                ("3", "Shared", None, Kind::Instance),
                ("6", "Test", off, Kind::Instance),
                ("8", "Test 2", None, Kind::Group),
            ],
        ),
    ] {
        fleet.next([Fault::Answer(200, vec![], of(file))]);
        let seen = lab.seen().await;
        let found: Vec<_> = seen
            .iter()
            .map(|runner| (runner.external_id.as_str(), runner.name.as_str(), runner.online, runner.kind.unwrap()))
            .collect();
        assert_eq!(found, expected, "{file}");
        assert!(seen.iter().all(|runner| runner.paused == Some(false) && runner.busy.is_none()), "{file}");
    }
}

#[tokio::test]
async fn the_details_in_gitlabs_documentation_are_understood() {
    let fleet = Fleet::start().await;
    let list = r#"[{"id": 6, "description": "test-1-20150125", "online": true, "status": "online"}]"#;
    let answer = |text: String| Fault::Answer(200, vec![], text);
    fleet.next([answer(list.to_owned()), answer(of("gitlab-runner-details")), answer(of("gitlab-runner-managers"))]);
    let seen = Watched::lab(&fleet, 1).seen().await;
    assert_eq!(seen[0].labels, ["ruby", "mysql"]);
    assert_eq!((seen[0].version.as_deref(), seen[0].os.as_deref()), (Some("16.11.0"), Some("linux")));
    assert_eq!(seen[0].contacted_at, Some("2016-01-25T16:39:48.066Z".parse().unwrap()));
}
