//! `ci-bridge runners` below the list, against a bridge and a GitLab on the wire.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::manage::{id, lab};
use crate::runners::until;

struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs a command with a token that may change runners; `input` is its standard input.
async fn run_with(bridge: &Bridge, args: &[&str], input: &str) -> Done {
    let (url, token) = (format!("http://{}", bridge.address), bridge.tokens.keeper.clone());
    let (args, input): (Vec<String>, _) = (args.iter().map(|arg| (*arg).to_owned()).collect(), input.to_owned());
    let output = tokio::task::spawn_blocking(move || command(&url, &token, &args, &input)).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(url: &str, token: &str, args: &[String], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ci-bridge"));
    command.arg("runners").args(args).env("CI_BRIDGE_URL", url).env("CI_TOKEN", token);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that does not want it may be gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a command prints that succeeds.
async fn says(bridge: &Bridge, args: &[&str]) -> String {
    let done = run_with(bridge, args, "").await;
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{args:?}");
    done.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_is_changed_paused_resumed_lent_and_deleted() {
    let (lists, bridge) = lab().await;
    let seven = id(7);
    let gitlab = |key: &str| lists.fleet.world().gitlab.runners[&7][key].clone();
    let update = [
        ["--description", "new"],
        ["--tag-list", "arm, big,"],
        ["--run-untagged", "false"],
        ["--paused", "true"],
        ["--locked", "true"],
        ["--access-level", "ref_protected"],
        ["--maximum-timeout", "2h"],
        ["--maintenance-note", "rack 3"],
    ];
    let update = [&["update", &seven], update.concat().as_slice()].concat();
    assert_eq!(says(&bridge, &update).await, format!("{seven}: changed\n"));
    let members = ["description", "tag_list", "run_untagged", "paused", "locked", "access_level", "maximum_timeout"];
    let expected = [
        json!("new"),
        json!(["arm", "big"]),
        json!(false),
        json!(true),
        json!(true),
        json!("ref_protected"),
        json!(7200),
    ];
    assert_eq!((members.map(gitlab), gitlab("maintenance_note")), (expected, json!("rack 3")));
    let told: Value =
        serde_json::from_str(&says(&bridge, &["update", &seven, "--tag-list", "", "--json"]).await).unwrap();
    assert_eq!((&told["tag_list"], &told["description"]), (&json!([]), &json!("new")));

    assert_eq!(says(&bridge, &["resume", &seven]).await, format!("{seven}: resumed\n"));
    assert_eq!(gitlab("paused"), false);
    assert_eq!(says(&bridge, &["pause", &seven]).await, format!("{seven}: paused\n"));
    assert_eq!(gitlab("paused"), true);
    for project in ["acme/site", "7"] {
        assert_eq!(says(&bridge, &["enable", &seven, project]).await, format!("{seven}: enabled\n"));
    }
    assert_eq!(gitlab("projects"), json!([{ "path_with_namespace": "acme/site" }, { "path_with_namespace": "7" }]));
    assert_eq!(says(&bridge, &["disable", &seven, "7"]).await, format!("{seven}: disabled\n"));
    let refused = run_with(&bridge, &["disable", &seven, "acme/site"], "").await;
    let words = "error: GitLab refuses (status 403): 403 Forbidden - You cannot unassign a runner from the owner project \
                 (gitlab_refused)\n";
    assert_eq!((refused.status, refused.stderr.as_str()), (1, words));
    assert_eq!(says(&bridge, &["delete", &seven]).await, format!("{seven}: deleted\n"));
    assert!(lists.fleet.world().gitlab.runners.is_empty());
    // The list is a command as before.
    until(&bridge, "/api/runners?source=lab", |list| list["runners"] == json!([])).await;
    let listed = says(&bridge, &["--state", "removed"]).await;
    assert!(listed.contains(&seven), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_runner_comes_from_a_file_or_standard_input_and_is_printed_alone() {
    let (lists, bridge) = lab().await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let create = ["create", "--source", "lab", "--kind", "project", "--project", "3", "--locked", "true"];
    let created = run_with(&bridge, &create, "").await;
    assert_eq!((created.status, created.stdout.as_str()), (0, "glrt-8-0\n"));
    assert_eq!(created.stderr, format!("created runner {}\n", id(8)));
    let world = |id: u64, key: &str| lists.fleet.world().gitlab.runners[&id][key].clone();
    assert_eq!((world(8, "runner_type"), world(8, "project_id")), (json!("project_type"), json!(3)));
    assert_eq!((world(8, "locked"), world(8, "run_untagged")), (json!(true), json!(true)));

    let token = file("token", &created.stdout);
    let with_file = ["--source", "lab", "--token-file", &token];
    let verified = says(&bridge, &[&["verify", "--system-id", "s_1"], with_file.as_slice()].concat()).await;
    assert_eq!(verified, format!("{}: the token is valid\n", id(8)));
    let from_input = ["verify", "--source", "lab", "--token-file", "-"];
    let verified = run_with(&bridge, &from_input, " glrt-8-0 \n").await;
    assert_eq!((verified.status, verified.stdout), (0, format!("{}: the token is valid\n", id(8))));
    assert_eq!(lists.fleet.world().gitlab.heartbeats[&8], 2);
    let wrong = run_with(&bridge, &from_input, "glrt-hidden").await;
    assert!(wrong.stderr.ends_with("or the runner was deleted (runner_token_unknown)\n"), "{}", wrong.stderr);
    assert!(wrong.status == 1 && !wrong.stderr.contains("hidden"), "{}", wrong.stderr);

    assert_eq!(says(&bridge, &["reset-token", &id(7)]).await, "glrt-7-6\n");
    let reset = says(&bridge, &[["reset-token"].as_slice(), &with_file].concat()).await;
    assert_eq!(reset, "glrt-8-8\n");
    file("token", &reset);
    let deleted = says(&bridge, &[["delete"].as_slice(), &with_file].concat()).await;
    assert_eq!((deleted.as_str(), lists.fleet.world().gitlab.runners.len()), ("the runner: deleted\n", 1));

    let retired = ["create", "--source", "lab", "--registration-token-file", "-"];
    let retired = run_with(&bridge, &retired, "GR1348941").await;
    assert!(retired.status == 1 && retired.stderr.ends_with("(registration_retired)\n"), "{}", retired.stderr);
    for (path, said) in [(file("empty", " \n"), "there is no token in "), ("/nowhere".to_owned(), "failed to read ")] {
        let done = run_with(&bridge, &["delete", "--source", "lab", "--token-file", &path], "").await;
        assert!(done.status == 1 && done.stderr.starts_with(&format!("error: {said}")), "{}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_that_names_no_runner_or_two_is_refused() {
    let (lists, bridge) = lab().await;
    let seven = id(7);
    for args in [
        vec!["delete"],
        vec!["delete", &seven, "--source", "lab", "--token-file", "-"],
        vec!["delete", "--token-file", "-"],
        vec!["delete", ".."],
        vec!["pause", "7"],
        vec!["reset-token", "--source", "lab"],
        vec!["create", "--source", "lab"],
        vec!["create", "--source", "lab", "--kind", "group", "--registration-token-file", "-"],
        vec!["--state", "online", "pause", &seven],
        vec!["verify", "--source", "lab", "glrt-7"],
    ] {
        let done = run_with(&bridge, &args, "glrt-7").await;
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{args:?}");
    }
    assert!(lists.fleet.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_processes_are_tables_without_what_a_terminal_obeys() {
    let (lists, bridge) = lab().await;
    let job = |id: u64, status: &str| {
        let project = json!({ "id": 1, "name": "site", "path_with_namespace": "acme/site" });
        json!({
            "id": id, "name": "::error::\u{1b}[2J", "status": status, "ref": "main", "duration": 61.04,
            "started_at": "2026-11-21T10:40:02Z", "project": project,
        })
    };
    lists.fleet.world().gitlab.jobs.insert(7, vec![job(12, "running"), job(9, "failed")]);
    let manager = json!({
        "id": 1, "system_id": "s_89e5e9956577", "version": "16.11.1", "platform": "linux", "status": "online",
        "contacted_at": "2024-06-09T06:30:09Z", "ip_address": "192.0.2.1",
    });
    lists.fleet.world().gitlab.managers.insert(7, vec![manager]);
    assert_eq!(
        says(&bridge, &["jobs", &id(7)]).await,
        "ID  STATUS   NAME           REF   STARTED               TOOK    PROJECT\n\
         12  running  ::error::\u{fffd}[2J  main  2026-11-21T10:40:02Z  61.0 s  acme/site\n\
         9   failed   ::error::\u{fffd}[2J  main  2026-11-21T10:40:02Z  61.0 s  acme/site\n"
    );
    let oldest = ["jobs", &id(7), "--order", "asc", "--limit", "1", "--json"];
    let oldest: Value = serde_json::from_str(&says(&bridge, &oldest).await).unwrap();
    assert_eq!((&oldest["jobs"][0]["id"], &oldest["more"]), (&json!(9), &json!(true)));
    let running = says(&bridge, &["jobs", &id(7), "--status", "running", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&running).unwrap()["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(
        says(&bridge, &["managers", &id(7)]).await,
        "ID  SYSTEM          STATUS  VERSION  OS     CONTACTED             ADDRESS\n\
         1   s_89e5e9956577  online  16.11.1  linux  2024-06-09T06:30:09Z  192.0.2.1\n"
    );
}

#[test]
fn a_change_whose_answer_is_lost_on_the_way_is_told_as_one_that_may_have_been_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cut = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        stream.read(&mut request).unwrap()
    });
    let pause = ["pause".to_owned(), id(7)];
    let done = command(&url, "cib_rw_not_a_real_one", &pause, "");
    assert!(cut.join().unwrap() > 0);
    let said = String::from_utf8(done.stderr).unwrap();
    let expected = "error: the answer was lost; the change may have been made, so look before you repeat it: ";
    assert!(done.status.code() == Some(1) && said.starts_with(expected), "{said}");
    // Nobody is there: nothing was changed.
    let done = command(&url, "cib_rw_not_a_real_one", &pause, "");
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.starts_with("error: failed to reach "), "{said}");
}
