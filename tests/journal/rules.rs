//! Whose an entry is: every way in, and the forgeries of each.

use ci_bridge::invocation::MainExit;
use ci_bridge::journal::{From, Source};

use crate::support::{
    DEACTIVATED, FAILED, Line, PROCESS_EXITED, Place, STARTED, STARTING, UNIT, hex, invocation, job, run, text,
};

const COREDUMP: &str = "fc2e22bc6ee647b6b90729ab34a250b1";

/// What a process of another unit sends: all fields without an underscore are its to choose.
fn forged(at_ms: u64, message: &str) -> Line {
    Line::new(at_ms, message).with("_UID", "996").with("_PID", "99").with("_SYSTEMD_UNIT", "evil.service")
}

fn starting(at_ms: u64, digit: char) -> Line {
    Line::of_manager(at_ms, digit, STARTING, "Starting")
}

fn finished(at_ms: u64, digit: char) -> Line {
    Line::of_manager(at_ms, digit, STARTED, "Finished")
}

fn untold(at_ms: u64, message: &str) -> Line {
    Line::of_job(at_ms, '9', message).without("_SYSTEMD_INVOCATION_ID")
}

#[test]
fn a_run_has_its_own_lines_and_those_of_the_manager() {
    let place = Place::with(&[
        Line::of_job(0, '0', "of the run before"),
        starting(1, '1'),
        Line::of_job(2, '1', "hello"),
        finished(3, '1'),
        Line::of_job(4, '2', "of the run after"),
    ]);
    let entries = place.entries(&run('1'), From::Start);
    let told: Vec<_> = entries.iter().map(|entry| (entry.source, text(entry))).collect();
    let expected = [(Source::Systemd, "Starting"), (Source::Job, "hello"), (Source::Systemd, "Finished")];
    assert_eq!(told, expected.map(|(source, text)| (source, text.to_owned())));
}

#[test]
fn no_other_unit_gets_a_line_into_a_run() {
    let claims = |line: Line| line.with("UNIT", UNIT).with("INVOCATION_ID", &hex('1')).with("MESSAGE_ID", STARTING);
    let object = |line: Line| {
        line.with("OBJECT_SYSTEMD_UNIT", UNIT).with("OBJECT_SYSTEMD_INVOCATION_ID", &hex('1')).with("OBJECT_PID", "1")
    };
    let core = |line: Line| line.with("MESSAGE_ID", COREDUMP).with("COREDUMP_UNIT", UNIT);
    let place = Place::with(&[
        starting(0, '1'),
        claims(forged(1, "as the manager")),
        claims(forged(2, "as root, but not as the manager").with("_UID", "0")),
        claims(forged(3, "as the first process of a container").with("_PID", "1")),
        claims(
            forged(4, "from a scope of that name")
                .with("_SYSTEMD_CGROUP", "/machine.slice/init.scope")
                .with("_UID", "0"),
        ),
        object(forged(5, "about a process")),
        core(forged(6, "about a crash")),
        forged(7, "with the invocation of the run").with("_SYSTEMD_INVOCATION_ID", &hex('1')),
        claims(object(core(forged(8, "everything at once")))),
        Line::of_job(9, '1', "hello"),
        finished(10, '1'),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "hello", "Finished"]);
}

#[test]
fn a_forged_start_begins_and_ends_no_run() {
    let start = |at_ms, digit, message: &str| {
        forged(at_ms, message).with("UNIT", UNIT).with("INVOCATION_ID", &hex(digit)).with("MESSAGE_ID", STARTING)
    };
    let place = Place::with(&[
        start(0, '1', "too early"),
        untold(1, "of an older run"),
        starting(2, '1'),
        untold(3, "hello"),
        start(4, 'e', "the next run, says nobody"),
        untold(5, "still here"),
        finished(6, '1'),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "hello", "still here", "Finished"]);
    assert!(place.messages('e').is_empty());
    assert_eq!(place.journal().last_run(&job()).unwrap().unwrap().invocation, invocation('1'));
}

#[test]
fn a_line_without_invocation_belongs_to_the_run_of_its_time() {
    let place = Place::with(&[
        starting(0, '1'),
        untold(1, "one"),
        finished(2, '1'),
        untold(3, "still one"),
        starting(4, '2'),
        untold(5, "two"),
        finished(6, '2'),
        Line::of_job(7, '3', "three"),
        untold(8, "still three"),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "one", "Finished", "still one"]);
    assert_eq!(place.messages('2'), ["Starting", "two", "Finished"]);
    assert_eq!(place.messages('3'), ["three", "still three"]);
}

#[test]
fn a_late_line_that_names_its_run_stays_with_it() {
    let place = Place::with(&[
        starting(0, '1'),
        Line::of_job(1, '1', "one"),
        finished(2, '1'),
        starting(3, '2'),
        Line::of_job(4, '1', "one, late"),
        Line::of_job(5, '2', "two"),
        Line::of_job(6, '1', "one, later"),
        untold(7, "two, untold"),
        finished(8, '2'),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "one", "Finished", "one, late", "one, later"]);
    assert_eq!(place.messages('2'), ["Starting", "two", "two, untold", "Finished"]);
}

#[test]
fn a_stream_stays_with_the_run_that_began_it() {
    let on = |stream: char, line: Line| line.with("_STREAM_ID", &hex(stream));
    let place = Place::with(&[
        starting(0, '1'),
        on('a', Line::of_job(1, '1', "one")),
        finished(2, '1'),
        starting(3, '2'),
        // journald looked again and found the unit in its next run.
        on('a', Line::of_job(4, '2', "one, named two")),
        on('b', untold(5, "two")),
        on('a', untold(6, "one, untold")),
        finished(7, '2'),
        on('b', Line::of_job(8, '1', "two, named one")),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "one", "Finished", "one, named two", "one, untold"]);
    assert_eq!(place.messages('2'), ["Starting", "two", "Finished", "two, named one"]);
}

#[test]
fn a_line_read_before_the_managers_word_belongs_to_the_new_run() {
    let sent = |line: Line, at_ms: u64| {
        line.with("_SOURCE_REALTIME_TIMESTAMP", &(1_700_000_000_000_000 + at_ms * 1000).to_string())
    };
    let place = Place::with(&[
        sent(starting(0, '1'), 0),
        untold(1, "one"),
        sent(finished(3, '1'), 2),
        untold(20, "two"),
        sent(starting(21, '2'), 15),
        sent(finished(22, '2'), 16),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "one", "Finished"]);
    assert_eq!(place.messages('2'), ["two", "Starting", "Finished"]);
}

#[test]
fn a_line_received_before_the_managers_word_was_sent_belongs_to_a_run_that_is_alone() {
    let sent = |line: Line, at_ms: u64| {
        line.with("_SOURCE_REALTIME_TIMESTAMP", &(1_700_000_000_000_000 + at_ms * 1000).to_string())
    };
    let place = Place::with(&[
        untold(2, "one"),
        sent(starting(10, '1'), 5),
        sent(finished(20, '1'), 15),
        // Another run has just ended: its last words come late.
        untold(25, "one, late"),
        sent(starting(40, '2'), 30),
        sent(finished(50, '2'), 45),
        untold(7_000, "of nobody"),
        untold(8_998, "three"),
        sent(starting(9_010, '3'), 9_000),
        sent(finished(9_020, '3'), 9_015),
    ]);
    assert_eq!(place.messages('1'), ["one", "Starting", "Finished", "one, late"]);
    assert_eq!(place.messages('2'), ["Starting", "Finished", "of nobody"]);
    assert_eq!(place.messages('3'), ["three", "Starting", "Finished"]);
}

#[test]
fn words_of_privileged_programs_about_a_process_count() {
    let root = |at_ms, message: &str| {
        Line::new(at_ms, message).with("_UID", "0").with("_PID", "7").with("_SYSTEMD_UNIT", "x.service")
    };
    let object = |at_ms, message: &str| root(at_ms, message).with("OBJECT_SYSTEMD_UNIT", UNIT);
    let core = |at_ms, message: &str| root(at_ms, message).with("MESSAGE_ID", COREDUMP).with("COREDUMP_UNIT", UNIT);
    let place = Place::with(&[
        object(0, "before the run"),
        core(1, "crash before the run"),
        starting(2, '1'),
        object(3, "about it"),
        object(4, "about it by name").with("OBJECT_SYSTEMD_INVOCATION_ID", &hex('1')),
        object(5, "about another run").with("OBJECT_SYSTEMD_INVOCATION_ID", &hex('2')),
        core(6, "crash"),
        finished(7, '1'),
        starting(8, '2'),
        object(9, "after the run"),
        core(10, "crash after the run"),
    ]);
    assert_eq!(place.messages('1'), ["Starting", "about it", "about it by name", "crash", "Finished"]);
    let others = place.entries(&run('1'), From::Start).iter().filter(|entry| entry.source == Source::Other).count();
    assert_eq!(others, 3);
}

#[test]
fn an_unmet_condition_ends_no_run() {
    let skipped =
        Line::of_manager(2, '1', STARTED, "was skipped because of an unmet condition").with("INVOCATION_ID", "");
    let place = Place::with(&[starting(0, '1'), finished(1, '1'), skipped, untold(3, "late")]);
    assert_eq!(place.messages('1'), ["Starting", "Finished", "late"]);
}

#[test]
fn the_end_of_a_run_is_what_the_manager_says() {
    type End = Option<(&'static str, Option<MainExit>)>;

    let failed = |at_ms, result: &str| Line::of_manager(at_ms, '1', FAILED, "Failed").with("UNIT_RESULT", result);
    let exited = |at_ms, command: &str, code: &str, status: &str| {
        let line = Line::of_manager(at_ms, '1', PROCESS_EXITED, "exited").with("COMMAND", command);
        line.with("EXIT_CODE", code).with("EXIT_STATUS", status)
    };
    let success = || Line::of_manager(5, '1', DEACTIVATED, "Deactivated successfully.");
    let cases: [(Vec<Line>, End); 6] = [
        (vec![], None),
        (vec![success()], Some(("success", None))),
        (
            vec![exited(1, "ExecStart", "exited", "3"), failed(2, "exit-code")],
            Some(("exit-code", Some(MainExit::Code(3)))),
        ),
        (
            vec![exited(1, "ExecStart", "killed", "15"), failed(2, "timeout")],
            Some(("timeout", Some(MainExit::Signal(15)))),
        ),
        // The main process counts, not the clean-up after it.
        (
            vec![
                exited(1, "ExecStart", "dumped", "11"),
                exited(2, "ExecStopPost", "exited", "1"),
                failed(3, "core-dump"),
            ],
            Some(("core-dump", Some(MainExit::Signal(11)))),
        ),
        // The first word counts; the second is about a start that was refused.
        (vec![success(), failed(6, "start-limit-hit")], Some(("success", None))),
    ];
    for (lines, expected) in cases {
        let place = Place::with(&[vec![starting(0, '1')], lines].concat());
        let found = place.journal().find_run(&job(), invocation('1')).unwrap().unwrap();
        assert_eq!(found.started_usec, Some(1_700_000_000_000_000));
        let ended = found.ended.map(|end| (end.result, end.exit));
        assert_eq!(ended, expected.map(|(result, exit)| (result.to_owned(), exit)));
    }
}

#[test]
fn the_newest_run_is_the_last_that_began() {
    let place = Place::with(&[
        starting(0, '1'),
        finished(1, '1'),
        starting(2, '2'),
        // Late words of the run before.
        Line::of_job(3, '1', "late"),
        forged(4, "no run").with("UNIT", UNIT).with("INVOCATION_ID", &hex('e')).with("MESSAGE_ID", STARTING),
    ]);
    let found = place.journal().last_run(&job()).unwrap().unwrap();
    assert_eq!((found.invocation, found.ended), (invocation('2'), None));
}

#[test]
fn a_run_whose_beginning_is_gone_has_no_start() {
    let place = Place::with(&[Line::of_job(0, '1', "hello"), Line::of_manager(1, '1', DEACTIVATED, "Deactivated")]);
    let found = place.journal().last_run(&job()).unwrap().unwrap();
    assert_eq!((found.invocation, found.started_usec), (invocation('1'), None));
    assert_eq!(found.ended.unwrap().result, "success");
}
