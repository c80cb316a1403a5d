//! Who follows a log gets every line of it once and in order, whatever happens on the way, and its end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bridge::Bridge;
use crate::machine::Plan;

const GATE: &str = "ci-test-gate";

/// A log as it comes in, an object a line.
struct Follower {
    response: Response,
    received: Vec<u8>,
    cursor: Option<String>,
}

/// What a follower is told.
#[derive(Debug)]
enum Told {
    Line(String),
    Gap(Value),
    Restart(String),
    End(Value),
    /// The connection was cut.
    Cut,
}

impl Follower {
    async fn open(bridge: &Bridge, job: &str, query: &str) -> Self {
        let response = bridge.stream(&format!("/api/job/{job}/tail?follow=true&format=ndjson&{query}"), &[]).await;
        let cursor = query.split('&').find_map(|pair| pair.strip_prefix("cursor=")).map(str::to_owned);
        assert_eq!(response.status(), 200);
        Self { response, received: Vec::new(), cursor }
    }

    /// From the beginning of the run that was just started.
    async fn of_start(bridge: &Bridge, job: &str) -> (Value, Self) {
        let answer = bridge.post(&format!("/api/job/{job}")).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let started = answer.json();
        let follower = Self::open(bridge, job, &format!("cursor={}", started["cursor"].as_str().unwrap())).await;
        (started, follower)
    }

    async fn object(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            self.received.extend(self.response.chunk().await.ok()??);
        }
    }

    /// What comes next; lines of the system manager are passed over.
    async fn next(&mut self) -> Told {
        loop {
            let Some(object) = self.object().await else { return Told::Cut };
            if let Some(cursor) = object["cursor"].as_str() {
                self.cursor = Some(cursor.to_owned());
            }
            for (member, told) in [("gap", Told::Gap as fn(Value) -> Told), ("end", Told::End)] {
                if !object[member].is_null() {
                    return told(object[member].clone());
                }
            }
            if let Some(cursor) = object["restart"]["cursor"].as_str() {
                self.cursor = Some(cursor.to_owned());
                return Told::Restart(cursor.to_owned());
            }
            if object["source"] == "job" {
                return Told::Line(object["message"].as_str().unwrap().to_owned());
            }
        }
    }

    async fn line(&mut self) -> String {
        match self.next().await {
            Told::Line(line) => line,
            told => panic!("no line but {told:?}"),
        }
    }

    /// All lines up to the end, and the verdict.
    async fn rest(&mut self) -> (Vec<String>, Value) {
        let mut lines = Vec::new();
        loop {
            match self.next().await {
                Told::Line(line) => lines.push(line),
                Told::End(end) => {
                    assert!(self.object().await.is_none(), "something comes behind the end");
                    return (lines, end);
                }
                told => panic!("{told:?} after {:?}", lines.last()),
            }
        }
    }

    /// The rest must be the lines numbered from `first` to `last`, and a whole end.
    async fn expect(&mut self, first: usize, last: usize) -> Value {
        let (lines, end) = self.rest().await;
        assert_numbered(&lines, first, last);
        assert_eq!((&end["complete"], &end["gap"]), (&json!(true), &json!(false)), "{end}");
        end
    }
}

fn assert_numbered(lines: &[String], first: usize, last: usize) {
    for (line, number) in lines.iter().zip(first..) {
        assert_eq!(*line, format!("line {number}"));
    }
    assert_eq!(lines.len(), last + 1 - first, "up to {:?}", lines.last());
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_line_arrives_while_the_job_runs_and_the_end_with_its_verdict() {
    let bridge = Bridge::up();
    let (started, mut follower) = Follower::of_start(&bridge, GATE).await;
    assert_eq!(follower.line().await, "open");
    for line in ["one", "two", "three"] {
        bridge.gate(line);
        assert_eq!(follower.line().await, line);
    }
    bridge.gate("exit 7");
    let (lines, end) = follower.rest().await;
    assert_eq!(lines, [""; 0]);
    let expected = json!({ "run": started["run"]["id"], "result": "exit-code", "exit_code": 7, "complete": true });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&end[member], value, "{end}");
    }
    // Who comes when all is over gets the same.
    let mut late = Follower::open(&bridge, GATE, "lines=100").await;
    let (lines, again) = late.rest().await;
    assert_eq!((lines.len(), &again["exit_code"]), (4, &json!(7)), "{lines:?}");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_hundred_bursts_of_ten_thousand_lines_arrive_whole() {
    let bridge = Bridge::up();
    for _ in 0..100 {
        let (_, mut follower) = Follower::of_start(&bridge, "ci-test-count@10000").await;
        let (mut lines, end) = follower.rest().await;
        // journald writes an entry again that it could not bring to an end in the file before. Which of the lists of that
        // file have it is a matter of luck, so journalctl shows it twice or not, by what it is asked for.
        assert!(lines.len() <= 10_001, "{} lines", lines.len());
        lines.dedup();
        assert_numbered(&lines, 1, 10_000);
        assert_eq!(end["complete"], true, "{end}");
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_connection_that_is_cut_every_second_costs_and_repeats_no_line() {
    const LINES: usize = 2_500;
    let bridge = Bridge::up();
    let (_, mut follower) = Follower::of_start(&bridge, &format!("ci-test-pace@{LINES}")).await;
    let job = format!("ci-test-pace@{LINES}");
    let mut lines = Vec::new();
    let mut cuts = 0;
    let end = loop {
        let second = tokio::time::sleep(Duration::from_secs(1));
        tokio::pin!(second);
        let told = loop {
            tokio::select! {
                () = &mut second => break None,
                told = follower.next() => match told {
                    Told::Line(line) => lines.push(line),
                    told => break Some(told),
                },
            }
        };
        match told {
            None => {
                cuts += 1;
                let cursor = follower.cursor.clone().unwrap();
                follower = if cuts % 2 == 0 {
                    Follower::open(&bridge, &job, &format!("cursor={cursor}")).await
                } else {
                    // As a browser does; the header wins over what the address says.
                    let path = format!("/api/job/{job}/tail?follow=true&format=ndjson&lines=1");
                    let response = bridge.stream(&path, &[("last-event-id", &cursor)]).await;
                    Follower { response, received: Vec::new(), cursor: Some(cursor) }
                };
            }
            Some(Told::End(end)) => break end,
            Some(told) => panic!("{told:?}"),
        }
    };
    assert!(cuts > 3, "the job was over too soon");
    assert_numbered(&lines, 1, LINES);
    assert_eq!(end["complete"], true, "{end}");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn rotation_under_a_follower_loses_nothing() {
    const LINES: usize = 3_000;
    let bridge = Bridge::up();
    let job = format!("ci-test-pace@{LINES}");
    let (started, mut follower) = Follower::of_start(&bridge, &job).await;
    let cursor = started["cursor"].as_str().unwrap().to_owned();
    // Fewer than the files that journald keeps.
    let rotate = "for round in $(seq 60); do journalctl --rotate; done";
    let mut rotating = bridge.bed.command(["bash", "-euc", rotate]).spawn().unwrap();
    follower.expect(1, LINES).await;
    assert!(rotating.wait().unwrap().success());
    let mut late = Follower::open(&bridge, &job, &format!("cursor={cursor}")).await;
    late.expect(1, LINES).await;
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn vacuum_costs_a_live_follower_nothing_and_is_told_to_one_who_comes_back() {
    let bridge = Bridge::up();
    let (_, mut follower) = Follower::of_start(&bridge, GATE).await;
    assert_eq!(follower.line().await, "open");
    let opened = follower.cursor.clone().unwrap();
    bridge.gate("before");
    assert_eq!(follower.line().await, "before");
    bridge.bed.ok(["journalctl", "--rotate"]);
    bridge.bed.ok(["journalctl", "--vacuum-time=1us", "--vacuum-files=1"]);
    bridge.gate("after");
    assert_eq!(follower.line().await, "after");

    let mut back = Follower::open(&bridge, GATE, &format!("cursor={opened}")).await;
    let gap = match back.next().await {
        Told::Gap(gap) => gap,
        told => panic!("no gap but {told:?}"),
    };
    assert_eq!(gap, json!({ "reason": "vacuumed" }));
    assert_eq!(back.line().await, "after");
    bridge.gate("exit 0");
    let (lines, end) = follower.rest().await;
    assert_eq!((lines.len(), &end["result"], &end["complete"]), (0, &json!("success"), &json!(true)));
    let (lines, end) = back.rest().await;
    assert_eq!((lines.len(), &end["gap"], &end["complete"]), (0, &json!(true), &json!(false)));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_follower_outlives_journald_and_dbus_and_a_reexecution_of_systemd() {
    let bridge = Bridge::up();
    let (_, mut follower) = Follower::of_start(&bridge, GATE).await;
    assert_eq!(follower.line().await, "open");
    for command in [
        "systemctl kill -s KILL systemd-journald",
        "systemctl restart systemd-journald",
        "systemctl daemon-reload",
        "systemctl daemon-reexec",
        "systemctl restart dbus",
        "journalctl --flush --sync",
    ] {
        let readings = bridge.readings();
        bridge.bed.sh(command);
        let line = command.replace(' ', "-");
        bridge.gate(&line);
        assert_eq!(follower.line().await, line);
        // Or else the next command may come before the bridge has met what this one has brought.
        if command.contains("daemon-re") || command.ends_with("dbus") {
            bridge.until_read_again(readings);
        }
    }
    bridge.gate("exit 3");
    let (lines, end) = follower.rest().await;
    assert_eq!((lines.len(), &end["exit_code"], &end["complete"]), (0, &json!(3), &json!(true)), "{end}");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn damage_to_a_file_is_told_and_the_rest_goes_on() {
    let bridge = Bridge::up();
    let (started, mut follower) = Follower::of_start(&bridge, GATE).await;
    assert_eq!(follower.line().await, "open");
    bridge.gate("before");
    assert_eq!(follower.line().await, "before");
    bridge.bed.ok(["journalctl", "--rotate"]);
    // All but the header of every archived file. Other files of the same names, since journald goes on to write to those
    // that it has put away.
    let cut = "for file in /var/log/journal/*/*@*.journal; do
        head -c 4096 $file >/run/cut && chgrp systemd-journal /run/cut && chmod 640 /run/cut && mv /run/cut $file
    done";
    bridge.bed.sh(cut);
    bridge.gate("after");
    loop {
        match follower.next().await {
            Told::Gap(gap) => assert_eq!(gap, json!({ "reason": "unreadable" })),
            Told::Line(line) => {
                assert_eq!(line, "after");
                break;
            }
            told => panic!("{told:?}"),
        }
    }
    let cursor = started["cursor"].as_str().unwrap();
    let mut back = Follower::open(&bridge, GATE, &format!("cursor={cursor}")).await;
    match back.next().await {
        Told::Gap(gap) => assert_eq!(gap, json!({ "reason": "unreadable" })),
        told => panic!("no gap but {told:?}"),
    }
    assert_eq!(back.line().await, "after");
    bridge.gate("exit 0");
    assert_eq!(back.rest().await.1["complete"], false);
    assert_eq!(follower.rest().await.1["result"], "success");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn what_journald_dropped_is_told_where_it_is_missing() {
    let bridge = Bridge::up();
    // 1,000 lines where 100 are allowed, and one more when that is over. The limit is that of an instance, so that none is
    // told of what another has printed.
    let unit = "[Service]\nType=oneshot\nLogRateLimitIntervalSec=2s\nLogRateLimitBurst=100\n\
                ExecStart=/usr/bin/seq -f 'line %%.0f' 1000\nExecStart=/usr/bin/sleep 3\nExecStart=/bin/echo after\n";
    bridge.bed.write("/etc/systemd/system/ci-test-suppressed@.service", unit);
    bridge.bed.ok(["systemctl", "daemon-reload"]);
    // journald reads the limit of a unit when it first hears of a process, and only as long as the unit is active. On a
    // machine that is busy elsewhere it may come too late: for the first lines, so that it drops none, or for the last one,
    // which it then takes without a word of those before.
    let mut attempts = 1..=10;
    let (job, mut follower, kept, dropped) = loop {
        let attempt = attempts.next().expect("journald has dropped nothing of which it has told");
        let job = format!("ci-test-suppressed@{attempt}");
        let (_, mut follower) = Follower::of_start(&bridge, &job).await;
        let mut kept: usize = 0;
        let dropped = loop {
            match follower.next().await {
                Told::Line(_) => kept += 1,
                Told::Gap(gap) => break Some(gap),
                Told::End(end) => {
                    assert_eq!((&end["gap"], &end["complete"]), (&json!(false), &json!(true)), "{end}");
                    bridge.bed.ok(["journalctl", "--sync"]);
                    let told = format!("journalctl -o cat | grep -c 'Suppressed .* {job}' || true");
                    assert_eq!(bridge.bed.sh(&told), "0\n", "after {kept} lines");
                    let printed = bridge.bed.sh(&format!("journalctl -o cat _SYSTEMD_UNIT={job}.service | wc -l"));
                    assert_eq!(printed, format!("{kept}\n"));
                    break None;
                }
                told => panic!("{told:?}"),
            }
        };
        if let Some(dropped) = dropped {
            break (job, follower, kept, dropped);
        }
    };
    assert_eq!(dropped, json!({ "reason": "suppressed", "count": 1000 - kept }));
    let (lines, end) = follower.rest().await;
    assert_eq!((lines, &end["gap"], &end["complete"]), (vec!["after".to_owned()], &json!(true), &json!(false)));
    let log = bridge.logs(&job).await;
    assert_eq!((&log["gap"], &log["complete"]), (&json!(true), &json!(false)));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_flood_without_a_limit_arrives_whole_in_little_memory() {
    const LINES: usize = 500_000;
    let bridge = Bridge::up();
    let (_, mut follower) = Follower::of_start(&bridge, &format!("ci-test-count@{LINES}")).await;
    follower.expect(1, LINES).await;
    let peak = bridge.bed.sh("grep VmHWM /proc/$(pidof ci-bridge)/status | tr -dc 0-9");
    let peak: usize = peak.trim().parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn who_does_not_read_slows_nobody_down() {
    const LINES: usize = 100_000;
    let bridge = Bridge::up();
    let job = format!("ci-test-count@{LINES}");
    let (started, mut follower) = Follower::of_start(&bridge, &job).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(Follower::open(&bridge, &job, &format!("cursor={}", started["cursor"].as_str().unwrap())).await);
    }
    follower.expect(1, LINES).await;
    // And who begins to read then has lost nothing.
    let mut awake = idle.pop().unwrap();
    awake.expect(1, LINES).await;
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_unit_that_is_changed_or_deleted_goes_on_to_be_followed() {
    let bridge = Bridge::up();
    let unit = "/etc/systemd/system/ci-test-changing.service";
    bridge.bed.sh(&format!("cp /etc/systemd/system/ci-test-gate.service {unit} 2>/dev/null || cp $(systemctl show -P FragmentPath ci-test-gate) {unit}"));
    bridge.bed.ok(["systemctl", "daemon-reload"]);
    let (started, mut follower) = Follower::of_start(&bridge, "ci-test-changing").await;
    assert_eq!(follower.line().await, "open");
    bridge.bed.sh(&format!("sed -i 's/^Description=.*/Description=Changed/' {unit}"));
    bridge.gate("changed");
    assert_eq!(follower.line().await, "changed");
    bridge.bed.ok(["systemctl", "daemon-reload"]);
    bridge.gate("reloaded");
    assert_eq!(follower.line().await, "reloaded");
    bridge.bed.sh(&format!("rm {unit}; systemctl daemon-reload"));
    bridge.gate("deleted");
    assert_eq!(follower.line().await, "deleted");
    bridge.gate("exit 4");
    let (lines, end) = follower.rest().await;
    assert_eq!((lines.len(), &end["run"], &end["exit_code"]), (0, &started["run"]["id"], &json!(4)), "{end}");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn what_another_job_claims_never_arrives() {
    let bridge = Bridge::up();
    let (started, mut follower) = Follower::of_start(&bridge, GATE).await;
    assert_eq!(follower.line().await, "open");
    let forger = bridge.bed.ok(["sed", "s/ci-test-hello/ci-test-gate/", "/usr/libexec/ci-test/forger"]);
    bridge.bed.write("/run/forger", &forger);
    bridge.bed.write("/var/lib/ci-test/victim", started["run"]["invocation_id"].as_str().unwrap());
    bridge.bed.ok(["systemd-run", "--quiet", "--wait", "--uid=daemon", "bash", "/run/forger"]);
    bridge.bed.ok(["journalctl", "--sync"]);
    assert_eq!(bridge.bed.sh("journalctl -o cat UNIT=ci-test-gate.service | grep -c forged"), "1\n");
    bridge.gate("own");
    assert_eq!(follower.line().await, "own");
    bridge.gate("exit 0");
    let mut whole = Follower::open(&bridge, GATE, &format!("cursor={}", started["cursor"].as_str().unwrap())).await;
    let mut texts = HashSet::new();
    while let Some(object) = whole.object().await {
        texts.insert(object.to_string());
    }
    assert!(texts.iter().any(|text| text.contains("own")) && !texts.iter().any(|text| text.contains("forged")));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn followers_are_told_of_a_restart_and_go_on_behind_it() {
    const FOLLOWERS: usize = 500;
    let bridge = Arc::new(Bridge::up_in(Plan::default().package().boot()));
    let (started, mut first) = Follower::of_start(&bridge, GATE).await;
    let cursor = started["cursor"].as_str().unwrap().to_owned();
    assert_eq!(first.line().await, "open");
    let mut followers = vec![first];
    for _ in 1..FOLLOWERS {
        let mut follower = Follower::open(&bridge, GATE, &format!("cursor={cursor}")).await;
        assert_eq!(follower.line().await, "open");
        followers.push(follower);
    }
    // systemd waits for the old process; it says how long that took.
    bridge.bed.sh("timeout 15 systemctl stop ci-bridge");
    let state = bridge.bed.ok(["systemctl", "show", "--property=Result,ExecMainStatus", "ci-bridge"]);
    assert_eq!(state, "Result=success\nExecMainStatus=0\n");
    bridge.gate("while-away");
    bridge.bed.ok(["systemctl", "start", "ci-bridge"]);
    let mut back = JoinSet::new();
    for mut follower in followers {
        let bridge = Arc::clone(&bridge);
        back.spawn(async move {
            let Told::Restart(cursor) = follower.next().await else { panic!("no word of the restart") };
            let mut follower = Follower::open(&bridge, GATE, &format!("cursor={cursor}")).await;
            assert_eq!(follower.line().await, "while-away");
            follower
        });
    }
    let back = back.join_all().await;
    bridge.gate("exit 0");
    for mut follower in back {
        let (lines, end) = follower.rest().await;
        assert_eq!((lines.len(), &end["result"], &end["complete"]), (0, &json!("success"), &json!(true)));
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn bytes_of_every_kind_keep_the_event_stream_in_form() {
    let bridge = Bridge::up();
    for job in ["ci-test-binary", "ci-test-bigline", "ci-test-noeol"] {
        bridge.run(job).await;
        let path = |format: &str| format!("/api/job/{job}/tail?follow=true&lines=10000&format={format}");
        let events = bridge.stream(&path("sse"), &[]).await.text().await.unwrap();
        let mut messages = Vec::new();
        for block in events.split("\n\n").filter(|block| block.contains("data:")) {
            assert!(
                block.lines().all(|line| ["id: ", "data: ", "event: "].iter().any(|field| line.starts_with(field)))
            );
            let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            messages.extend(data["message"].as_str().map(str::to_owned));
        }
        let text = bridge.stream(&path("text"), &[]).await.text().await.unwrap();
        assert_eq!(messages.join("\n") + "\n", text, "{job}");
        assert!(!text.contains("\u{1b}]") && !text.lines().any(|line| line.trim_start().starts_with("::")), "{text}");
    }
}
