//! What the service user can and can't do to a real systemd, when it talks to it directly and not through the bridge.
//!
//! Each refusal is tried against both walls together, and against each of them alone: the polkit rule without the D-Bus
//! policy, and the D-Bus policy under a polkit that says yes to everything. Boots beds, so these tests are ignored
//! unless asked for: `make test` asks for them where they can run.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "what a test can't do without ends it")]

#[path = "bed/machine.rs"]
#[expect(dead_code, reason = "these tests need only a part of what a bed can do")]
mod machine;
#[path = "privilege/target.rs"]
mod target;

use ci_bridge::policy::{JobName, Policy, Prefix};
use ci_bridge::setup::polkit;

use self::machine::Bed;
use self::target::{Target, fetch_systemd_257};

/// Refused by each wall alone. `$PWN` is a service that leaves `/run/pwned` behind.
const BEYOND_JOBS: &str = r#"
manager StartTransientUnit "ssa(sv)a(sa(sv))" ci-test-pwn.service fail $PWN
manager StartTransientUnit "ssa(sv)a(sa(sv))" ci-test-instance@pwn.service fail $PWN
manager StartTransientUnit "ssa(sv)a(sa(sv))" ci-test-service.service fail $PWN
manager StartTransientUnit "ssa(sv)a(sa(sv))" other.service fail $PWN
manager StartTransientUnit "ssa(sv)a(sa(sv))" ci-test-pwn.scope fail 1 PIDs au 1 $$ 0
manager StartAuxiliaryScope "sahta(sv)" ci-test-pwn.scope 0 0 0
manager StartUnitWithFlags sst innocent.service fail 0
manager EnqueueUnitJob sss ci-test-service.service start fail
manager EnqueueMarkedJobs
manager RestartUnit ss ci-test-service.service fail
manager TryRestartUnit ss ci-test-service.service fail
manager ReloadUnit ss ci-test-service.service fail
manager ReloadOrRestartUnit ss ci-test-service.service fail
manager ReloadOrTryRestartUnit ss ci-test-service.service fail
manager SetUnitProperties "sba(sv)" ci-test-service.service true 1 CPUWeight t 7
manager KillUnit ssi ci-test-service.service all 9
manager QueueSignalUnit ssii ci-test-service.service all 34 1
manager FreezeUnit s ci-test-service.service
manager ThawUnit s ci-test-service.service
manager CleanUnit sas ci-test-hello.service 1 runtime
manager BindMountUnit sssbb ci-test-service.service /etc /mnt true true
manager MountImageUnit "sssbba(ss)" ci-test-service.service /etc/x /mnt true true 0
manager AttachProcessesToUnit ssau ci-test-service.service "" 1 $$
manager AbandonScope s init.scope
manager EnableUnitFiles asbb 1 ci-test-hello.service true true
manager EnableUnitFilesWithFlags ast 1 ci-test-hello.service 1
manager DisableUnitFiles asb 1 ci-test-hello.service true
manager DisableUnitFilesWithFlags ast 1 ci-test-hello.service 1
manager ReenableUnitFiles asbb 1 ci-test-hello.service true true
manager LinkUnitFiles asbb 1 /tmp/pwn.service true true
manager PresetUnitFiles asbb 1 ci-test-hello.service true true
manager PresetUnitFilesWithMode assbb 1 ci-test-hello.service full true true
manager PresetAllUnitFiles sbb full true true
manager MaskUnitFiles asbb 1 bystander.service true true
manager UnmaskUnitFiles asb 1 ci-test-hello.service true
manager RevertUnitFiles as 1 ci-test-hello.service
manager SetDefaultTarget sb rescue.target true
manager AddDependencyUnitFiles asssbb 1 ci-test-hello.service multi-user.target Wants true true
manager SetEnvironment as 1 LD_PRELOAD=/tmp/pwn.so
manager UnsetEnvironment as 1 PATH
manager UnsetAndSetEnvironment asas 1 PATH 1 LD_PRELOAD=/tmp/pwn.so
manager Reload
manager Reexecute
manager ClearJobs
manager ResetFailed
manager SetShowStatus s yes
manager SetExitCode y 3
manager Exit
manager PowerOff
manager Reboot
manager SoftReboot s ""
manager Halt
manager KExec
manager SwitchRoot ss / /bin/sh
manager DumpUnitFileDescriptorStore s ci-test-service.service
unit Kill si all 9
unit QueueSignal sii all 34 1
unit SetProperties "ba(sv)" true 1 CPUWeight t 7
unit Restart s fail
unit Freeze
unit Thaw
unit Clean as 1 runtime
unit EnqueueJob ss start fail
service BindMount ssbb /etc /mnt true true
service MountImage "ssbba(ss)" /etc/x /mnt true true 0
service AttachProcesses sau / 1 $$
service DumpFileDescriptorStore
properties /org/freedesktop/systemd1 Set ssv $MANAGER LogLevel s debug
call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager PowerOff b false
call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager SetUserLinger ubb $UID true false
call org.freedesktop.hostname1 /org/freedesktop/hostname1 org.freedesktop.hostname1 SetHostname sb pwned false
"#;

/// Refused for their names, which only polkit sees, or for their mode.
const OTHER_UNITS: &str = "
manager StartUnit ss innocent.service fail
manager StartUnit ss ci-test-alias.service fail
manager StartUnit ss ci-test-.service fail
manager StartUnit ss ci-test-x.socket fail
manager StartUnit ss rescue.target isolate
manager StartUnit ss ci-test-hello.service isolate
manager StartUnit ss emergency.target replace
manager StopUnit ss bystander.service replace
manager StopUnit ss dbus.service replace
manager RefUnit s bystander.service
manager ResetFailedUnit s bystander.service
";

/// Harmless or allowed for a job, but not needed, so the D-Bus policy leaves them out.
const OTHER_METHODS: &str = "
unit Start s fail
unit Stop s replace
unit Ref
unit ResetFailed
manager StartUnitReplace sss ci-test-service.service ci-test-hello.service fail
manager CancelJob u 1
manager Dump
manager GetUnitProcesses s bystander.service
";

/// What the bridge does all day.
const NEEDED: &str = r#"
manager Subscribe
manager GetUnit s bystander.service
manager LoadUnit s ci-test-hello.service
manager ListUnitsByPatterns asas 0 1 "ci-test-*"
manager ListUnitFilesByPatterns asas 0 1 "ci-test-*"
manager RefUnit s ci-test-hello.service
manager StartUnit ss ci-test-hello.service fail
manager StartUnit ss ci-test-instance@a\\x2db.service fail
manager ResetFailedUnit s ci-test-service.service
manager StopUnit ss ci-test-service.service replace
properties /org/freedesktop/systemd1/unit/ci_2dtest_2dhello_2eservice GetAll s ""
"#;

/// The rule that comes to mind first: it looks at the name and the verb.
const OBVIOUS_RULE: &str = r#"polkit.addRule(function (action, subject) {
    if (action.id === "org.freedesktop.systemd1.manage-units" && subject.user === "ci-bridge" &&
        /^ci-test-/.test(action.lookup("unit")) && action.lookup("verb") === "start") {
        return polkit.Result.YES;
    }
});
"#;

const YES_TO_ALL: &str = r#"polkit.addRule(function (action, subject) {
    if (subject.user === "ci-bridge") { return polkit.Result.YES; }
});
"#;

fn policy() -> Policy {
    Policy::new(vec![Prefix::parse("ci-test-").unwrap()])
}

fn shipped_rule() -> String {
    polkit::rule(policy().prefixes())
}

/// Tries every wall alone and both together, then that the way in is open.
fn only_jobs_can_be_moved(target: &Target<'_>) {
    target.set_walls(Some(&shipped_rule()), true);
    for calls in [BEYOND_JOBS, OTHER_UNITS, OTHER_METHODS] {
        for (call, answer) in target.calls(calls) {
            assert!(answer.is_err(), "{call}: allowed");
        }
    }
    target.assert_unharmed();

    target.set_walls(Some(&shipped_rule()), false);
    for calls in [BEYOND_JOBS, OTHER_UNITS] {
        for (call, answer) in target.calls(calls) {
            assert!(answer.is_err(), "{call}: polkit alone allowed it");
        }
    }
    target.assert_unharmed();

    target.set_walls(Some(YES_TO_ALL), true);
    for calls in [BEYOND_JOBS, OTHER_METHODS] {
        for (call, answer) in target.calls(calls) {
            assert_eq!(answer, Err("Access denied".to_owned()), "{call}: the bus alone");
        }
    }
    target.assert_unharmed();

    target.set_walls(Some(&shipped_rule()), true);
    for (call, answer) in target.calls(NEEDED) {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
    assert_eq!(target.sh("systemctl is-active ci-test-service.service || true").trim(), "inactive");

    // Without a rule nothing moves, also not the jobs.
    target.set_walls(None, true);
    for (call, answer) in target.calls("manager StartUnit ss ci-test-hello.service fail\n") {
        assert!(answer.is_err(), "{call}: allowed without a rule");
    }
}

/// Asks the real polkit about names, verbs and messages.
fn polkit_agrees_with_the_policy(target: &Target<'_>) {
    target.set_walls(Some(&shipped_rule()), true);
    let start = "Authentication is required to start '$(unit)'.";
    let stop = "Authentication is required to stop '$(unit)'.";
    let transient = "Authentication is required to start transient unit '$(unit)'.";
    let freeze = "Authentication is required to freeze or thaw the processes of '$(unit)' unit.";
    let mut questions: Vec<(String, &str, Option<&str>, bool)> = vec![
        ("ci-test-a.service".to_owned(), "start", Some(transient), false),
        ("ci-test-a.service".to_owned(), "start", Some(freeze), false),
        ("ci-test-a.service".to_owned(), "start", Some(stop), false),
        ("ci-test-a.service".to_owned(), "start", None, false),
        ("ci-test-a.service".to_owned(), "stop", Some(freeze), false),
        ("ci-test-a.service".to_owned(), "stop", Some(stop), true),
        ("ci-test-a.service".to_owned(), "ref", None, true),
        ("ci-test-a.service".to_owned(), "ref", Some(start), false),
        ("ci-test-a.service".to_owned(), "kill", None, false),
        ("ci-test-a.service".to_owned(), "set-property", None, false),
        ("ci-test-a.service".to_owned(), "toString", None, false),
        ("ci-test-a.service".to_owned(), "", Some(start), false),
    ];
    let bases =
        ["ci-test-", "ci-test-a", "ci-test-_:.-", "ci-test-.a", "ci-test-a..b", "sshd", "ci-bridge", "xci-test-a"];
    let ends = ["", "@", "@a", "@a-b", "@a\\x2db", "@a..b", "@a@b", ".timer", "@a.socket", "\n", " x", "@\u{e9}"];
    for base in bases {
        for end in ends {
            let unit = format!("{base}{end}.service");
            let admitted =
                JobName::from_unit(&unit).is_ok_and(|job| !job.is_template() && policy().admit(&job).is_ok());
            questions.push((unit, "start", Some(start), admitted));
        }
    }
    assert!(questions.iter().filter(|question| question.3).count() > 8);
    let answers = target.ask_polkit(&questions.iter().map(|q| (q.0.as_str(), q.1, q.2)).collect::<Vec<_>>());
    for ((unit, verb, message, expected), answer) in questions.iter().zip(answers) {
        assert_eq!(answer, *expected, "{unit:?}, {verb}, {message:?}");
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn only_jobs_can_be_moved_on_this_systemd() {
    let bed = Bed::plain();
    let target = Target::bed(&bed);
    only_jobs_can_be_moved(&target);
    polkit_agrees_with_the_policy(&target);
}

#[test]
#[ignore = "boots a bed: make test"]
fn only_jobs_can_be_moved_on_systemd_257() {
    fetch_systemd_257();
    let bed = Bed::plain();
    let target = Target::systemd_257(&bed);
    only_jobs_can_be_moved(&target);
    polkit_agrees_with_the_policy(&target);
}

/// Proves that the attack is real, and so that its refusal means something.
#[test]
#[ignore = "boots a bed: make test"]
fn a_rule_that_ignores_the_message_makes_the_user_root_on_systemd_257() {
    fetch_systemd_257();
    let bed = Bed::plain();
    let target = Target::systemd_257(&bed);
    let attack = r#"manager StartTransientUnit "ssa(sv)a(sa(sv))" ci-test-pwn.service fail \
        1 ExecStart "a(sasb)" 1 /bin/sh 3 sh -c "id --user >/run/who" false 0"#;
    let attack = attack.replace("\\\n", "");
    target.sh("mkfifo /run/who");

    target.set_walls(Some(OBVIOUS_RULE), false);
    for (call, answer) in target.calls(&attack) {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
    assert_eq!(target.sh("timeout 10 cat /run/who"), "0\n");

    // Under the same rule, the second wall holds alone.
    target.set_walls(Some(OBVIOUS_RULE), true);
    for (call, answer) in target.calls(&attack) {
        assert_eq!(answer, Err("Access denied".to_owned()), "{call}");
    }
    target.assert_unharmed();
}
