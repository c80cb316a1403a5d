use std::sync::LazyLock;

use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::policy::{JobName, Policy};

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| Prefix::parse(text).unwrap()).collect()
}

/// The three kinds of regular expressions, read back from the text of a rule.
struct Expressions {
    reserved: Regex,
    malformed: Regex,
    jobs: Vec<Regex>,
}

impl Expressions {
    fn of(rule: &str) -> Self {
        let named = |name: &str| {
            let line = rule.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
            Regex::new(line.strip_prefix('/').unwrap().strip_suffix("/;").unwrap()).unwrap()
        };
        let job = |line: &str| {
            let expression = line.trim().trim_end_matches(',').strip_prefix('/')?.strip_suffix('/')?;
            Some(Regex::new(expression).unwrap())
        };
        let jobs = rule.lines().skip_while(|line| !line.contains("var jobs = [")).filter_map(job);
        Self { reserved: named("var reserved = "), malformed: named("var malformed = "), jobs: jobs.collect() }
    }

    /// What the rule does with the name, once verb and message are right.
    fn admit(&self, unit: &str) -> bool {
        unit.len() <= 255
            && !self.reserved.is_match(unit)
            && !self.malformed.is_match(unit)
            && self.jobs.iter().any(|job| job.is_match(unit))
    }
}

/// Prefixes whose characters or whose neighbours make trouble.
fn wide() -> Vec<Prefix> {
    prefixes(&["ci-test-", "ci-", "a.b.", "d:_", "sys-"])
}

#[test]
fn without_a_prefix_no_unit_is_allowed() {
    let rule = rule(&[]);
    assert!(rule.contains("var jobs = [];"), "{rule}");
    assert!(Expressions::of(&rule).jobs.is_empty());
}

#[test]
fn a_foreign_unit_is_refused() {
    let rule = Expressions::of(&rule(&prefixes(&["ci-test-"])));
    for unit in [
        "sshd.service",
        "ci-test-.service",
        "ci-test-.a.service",
        "ci-test-@a.service",
        "ci-test-b@.service",
        "ci-test-b@a@b.service",
        "ci-test-a.socket",
        "ci-test-a",
        "ci-test-a.service\n",
        "\nci-test-a.service",
        "ci-test-a.service.service",
        "ci-test-a.timer.service",
        "ci-test-a..b.service",
        "ci-test-b@a\\x2.service",
        "ci-test-b@a\\x2D.service",
        "ci-test-a\\x2db.service",
        "ci-test-a sshd.service",
        "xci-test-a.service",
        "CI-TEST-a.service",
        "undefined",
    ] {
        assert!(!rule.admit(unit), "{unit:?}");
    }
    for unit in ["ci-test-a.service", "ci-test-b@main.service", "ci-test-b@feature-login\\x2dform.service"] {
        assert!(rule.admit(unit), "{unit:?}");
    }
}

#[test]
fn reserved_names_stay_closed_under_a_wide_prefix() {
    let rule = Expressions::of(&rule(&prefixes(&["ci-"])));
    for unit in ["ci-bridge.service", "ci-bridge-a.service", "ci-bridge@a.service"] {
        assert!(!rule.admit(unit), "{unit}");
    }
    assert!(rule.admit("ci-build.service"));
}

#[test]
fn a_dot_in_a_prefix_is_a_dot() {
    let rule = Expressions::of(&rule(&prefixes(&["a.b."])));
    assert!(rule.admit("a.b.c.service"));
    assert!(!rule.admit("axb.c.service"));
    assert!(!rule.admit("a.bxc.service"));
}

#[test]
fn each_verb_has_its_own_message() {
    let rule = rule(&prefixes(&["ci-test-"]));
    assert_eq!(rule.matches("verb === ").count(), 4);
    assert_eq!(rule.matches("message === ").count(), 4);
    assert_eq!(rule.matches("polkit.Result.YES").count(), 1);
    assert!(!rule.contains("transient unit '$(unit)'"));
}

#[test]
fn the_text_depends_on_the_prefixes_alone() {
    assert_eq!(rule(&wide()), rule(&wide()));
    assert_ne!(rule(&wide()), rule(&prefixes(&["ci-test-"])));
}

static WIDE: LazyLock<Expressions> = LazyLock::new(|| Expressions::of(&rule(&wide())));

/// A unit name from what may stand in one, so that many are admitted and the others miss by little.
fn unit_names() -> impl Strategy<Value = String> {
    let start = "(ci-test-|ci-|a\\.b\\.|axb\\.|d:_|sys-|systemd-|dbus|polkit|user@|ci-bridge)?";
    let rest = "[a-zA-Z0-9:_.@\\\\-]{0,12}((@|\\\\x2d|\\\\x2D|\\.\\.|\\.timer)[a-z0-9.-]{0,6})?";
    let suffix = "(\\.service|\\.service|\\.service|\\.socket|)";
    (start, rest, suffix).prop_map(|(start, rest, suffix)| format!("{start}{rest}{suffix}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_rule_never_admits_what_the_policy_refuses(unit in unit_names()) {
        if WIDE.admit(&unit) {
            let name = JobName::from_unit(&unit);
            prop_assert!(name.is_ok_and(|name| Policy::new(wide()).admit(&name).is_ok()), "{}", unit);
        }
    }

    #[test]
    fn the_rule_admits_every_job_that_a_request_can_name(text in unit_names(), value in "\\PC{1,12}|[a-z./-]{1,12}") {
        let Ok(name) = JobName::parse(text.trim_end_matches(".service")) else { return Ok(()) };
        let name = if name.is_template() { name.with_instance(&value) } else { Ok(name) };
        if let Ok(job) = name {
            let admitted = Policy::new(wide()).admit(&job).is_ok();
            prop_assert_eq!(WIDE.admit(&job.unit()), admitted, "{}", job.unit());
        }
    }
}
