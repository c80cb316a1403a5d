//! The ready shell script of a CI against the real bridge.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use crate::bridge::Bridge;

const SCRIPT: &str = include_str!("../../workflows/execute-and-follow-job.sh");

/// Reads the token from its standard input, so that it is on no command line.
const CALL: &str =
    "read -r CI_TOKEN_RW; export CI_TOKEN_RW CI_BRIDGE_URL=http://127.0.0.1:8000; exec sh /root/follow \"$@\"";

/// Ends with 1 if the token that it reads is on a command line, and with 0 when it has seen curl's often enough.
const WATCH: &str = r#"
read -r token
seen=0
while [ "$seen" -lt 20 ]; do
    for process in /proc/[0-9]*; do
        line=$(tr '\0' ' ' <"$process/cmdline") 2>/dev/null || continue
        case $line in
        *"$token"*) echo "$line"; exit 1 ;;
        curl*) seen=$((seen + 1)) ;;
        esac
    done
done"#;

fn up() -> Bridge {
    let bridge = Bridge::up();
    bridge.bed.write("/root/follow", SCRIPT);
    bridge
}

fn with_token(bridge: &Bridge, mut command: Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", bridge.writer).unwrap();
    child
}

fn call(bridge: &Bridge, job: &str) -> Child {
    with_token(bridge, bridge.bed.command(["bash", "-c", CALL, "follow", job]))
}

fn printed(output: &Output) -> (Vec<&str>, String) {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    (stdout.lines().collect(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_script_ends_as_the_job_does_and_prints_its_whole_log() {
    let bridge = up();
    for (job, status, verdict, expected) in [
        ("ci-test-hello", 0, "success", ["hello", "this is the second line", "done"].as_slice()),
        ("ci-test-silent", 0, "success", &[]),
        ("ci-test-fail", 1, "exit code 3", &["about to fail"]),
        ("ci-test-signal", 1, "SIGKILL", &["about to be killed"]),
        ("ci-test-masked", 1, "not started", &[]),
        ("bystander", 1, "not started", &[]),
    ] {
        let output = call(&bridge, job).wait_with_output().unwrap();
        let (lines, said) = printed(&output);
        assert_eq!(output.status.code(), Some(status), "{job}: {said}");
        assert!(said.contains(verdict), "{job}: {said}");
        let is_of_systemd = |line: &&str| line.contains(&format!("{job}.service"));
        let own: Vec<&str> = lines.iter().copied().filter(|line| !is_of_systemd(line)).collect();
        assert_eq!(own, expected, "{job}");
        let log = bridge.bed.ok(["journalctl", "--output=cat", "--unit", job]);
        if status == 0 || verdict != "not started" {
            assert_eq!(lines, log.lines().collect::<Vec<_>>(), "{job}");
        }
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_script_prints_every_line_of_a_burst_once() {
    let bridge = up();
    for _ in 0..3 {
        let output = call(&bridge, "ci-test-burst").wait_with_output().unwrap();
        let (lines, said) = printed(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let numbered = lines.iter().filter(|line| line.starts_with("line ")).copied();
        assert!(numbered.eq((1..=20_000).map(|number| format!("line {number}"))), "{} lines: {said}", lines.len());
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_script_follows_a_job_through_a_restart_to_its_stop_and_shows_its_token_to_nobody() {
    let bridge = up();
    let script = call(&bridge, "ci-test-gate");
    bridge.gate("first");
    let watch = with_token(&bridge, bridge.bed.command(["bash", "-c", WATCH])).wait_with_output().unwrap();
    let (lines, said) = printed(&watch);
    assert_eq!((watch.status.code(), lines), (Some(0), vec![]), "{said}");
    bridge.gate("second");
    bridge.gate("exit 0");
    let output = script.wait_with_output().unwrap();
    let (lines, said) = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let own: Vec<&str> = lines.into_iter().filter(|line| !line.contains("ci-test-gate.service")).collect();
    assert_eq!(own, ["open", "first", "second"]);

    let script = call(&bridge, "ci-test-gate");
    bridge.gate("before");
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.gate("after");
    bridge.gate("exit 0");
    let output = script.wait_with_output().unwrap();
    let (lines, said) = printed(&output);
    assert_eq!(output.status.code(), Some(0), "after a restart of the bridge: {said}");
    let own: Vec<&str> = lines.into_iter().filter(|line| !line.contains("ci-test-gate.service")).collect();
    assert_eq!(own, ["open", "before", "after"]);

    let script = call(&bridge, "ci-test-long");
    bridge.bed.await_log("ci-test-long", "started");
    assert_eq!(bridge.post("/api/job/ci-test-long/stop").await.status, 200);
    let output = script.wait_with_output().unwrap();
    let (lines, said) = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped"), "{said}");
    assert!(lines.contains(&"started") && lines.last().is_some_and(|line| line.starts_with("Stopped ")), "{lines:?}");
    let journal = bridge.bed.enter(["journalctl", "--output=export", "--all"]).stdout;
    assert!(!String::from_utf8_lossy(&journal).contains(&bridge.writer[7..]));
}
