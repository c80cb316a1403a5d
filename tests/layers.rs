//! The arrows between the parts of the bridge: an import against them fails here.

#![expect(clippy::unwrap_used, reason = "what a test can't do without ends it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A part, the parts that it may name, and the crates that it may not.
type Part = (&'static str, &'static [&'static str], &'static [&'static str]);

/// What would make a part more than a function of its inputs.
const IMPURE: [&str; 5] = ["axum", "hyper", "sqlx", "tokio", "zbus"];

const PARTS: [Part; 25] = [
    ("invocation", &[], &IMPURE),
    ("run", &["invocation"], &IMPURE),
    ("policy", &[], &IMPURE),
    ("inputs", &["policy"], &IMPURE),
    ("config", &["inputs", "policy"], &IMPURE),
    ("auth", &["config", "policy"], &IMPURE),
    ("setup", &["policy"], &IMPURE),
    ("import", &["config"], &IMPURE),
    ("telemetry", &[], &IMPURE),
    ("runners", &["config", "telemetry"], &["axum", "hyper", "sqlx", "zbus"]),
    ("journal", &["invocation", "policy", "telemetry"], &IMPURE),
    ("store", &["auth", "invocation", "policy", "run", "runners"], &["axum", "hyper", "zbus"]),
    (
        "alerts",
        &["config", "invocation", "policy", "run", "runners", "store", "telemetry"],
        &["axum", "hyper", "sqlx", "zbus"],
    ),
    ("fleet", &["alerts", "config", "runners", "store", "telemetry"], &["axum", "hyper", "sqlx", "zbus"]),
    ("outages", &["alerts", "store", "telemetry"], &["axum", "hyper", "sqlx", "zbus"]),
    ("systemd", &["invocation", "policy", "telemetry"], &["axum", "hyper", "sqlx"]),
    ("credentials", &["inputs", "policy"], &["axum", "hyper", "sqlx", "zbus"]),
    (
        "jobs",
        &["alerts", "archive", "inputs", "invocation", "journal", "policy", "run", "store", "systemd", "telemetry"],
        &["axum", "hyper", "sqlx", "zbus"],
    ),
    ("archive", &["invocation", "journal", "policy"], &IMPURE),
    ("audit", &["auth", "policy", "run", "store", "telemetry"], &["axum", "hyper", "sqlx", "zbus"]),
    (
        "http",
        &["audit", "auth", "config", "fleet", "inputs", "jobs", "policy", "runners", "systemd", "telemetry"],
        &["sqlx", "zbus"],
    ),
    ("lifecycle", &["audit", "auth", "fleet", "telemetry"], &["axum", "hyper", "sqlx", "zbus"]),
    (
        "retention",
        &["config", "invocation", "jobs", "policy", "run", "store", "telemetry"],
        &["axum", "hyper", "sqlx", "zbus"],
    ),
    // These two put the others together.
    (
        "app",
        &[
            "alerts",
            "archive",
            "audit",
            "auth",
            "config",
            "credentials",
            "fleet",
            "http",
            "inputs",
            "jobs",
            "journal",
            "lifecycle",
            "outages",
            "policy",
            "retention",
            "runners",
            "store",
            "systemd",
            "telemetry",
        ],
        &["axum", "hyper", "sqlx", "zbus"],
    ),
    (
        "cli",
        &[
            "app",
            "auth",
            "config",
            "credentials",
            "import",
            "inputs",
            "journal",
            "policy",
            "setup",
            "store",
            "systemd",
            "telemetry",
        ],
        &["axum", "hyper", "sqlx"],
    ),
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|entry| sources(&entry)).filter(|file| file.extension().is_some_and(|kind| kind == "rs")).collect()
}

/// The text of a source file without its comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The part that a file below `src` belongs to.
fn part_of(file: &Path) -> String {
    let part = file.iter().next().and_then(|part| part.to_str()).unwrap();
    part.trim_end_matches(".rs").to_owned()
}

/// The parts that `code` names: `crate::part`, also several in `crate::{…}`.
fn named_parts(code: &str) -> BTreeSet<String> {
    let path = Regex::new(r"(?-u:\b)crate::(?:\{([^}]*)\}|([a-z_]+))").unwrap();
    let first_word = Regex::new(r"(?:^|,)[ \n]*([a-z_]+)").unwrap();
    let mut parts = BTreeSet::new();
    for found in path.captures_iter(code) {
        if let Some(part) = found.get(2) {
            parts.insert(part.as_str().to_owned());
        }
        let list = found.get(1).map_or("", |list| list.as_str());
        parts.extend(first_word.captures_iter(list).map(|word| word[1].to_owned()));
    }
    parts
}

#[test]
fn no_import_runs_against_the_arrows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources(&root) {
        let below = file.strip_prefix(&root).unwrap();
        let name = part_of(below);
        if ["lib", "main"].contains(&name.as_str()) {
            continue;
        }
        let Some((_, uses, never)) = PARTS.iter().find(|(part, ..)| *part == name) else {
            faults.push(format!("{}: the part `{name}` has no place in this test yet", below.display()));
            continue;
        };
        let code = code(&file);
        for used in named_parts(&code).into_iter().filter(|used| *used != name && !uses.contains(&used.as_str())) {
            faults.push(format!("{}: `{name}` must not name `crate::{used}`", below.display()));
        }
        for banned in *never {
            if Regex::new(&format!(r"(?-u:\b){banned}(?:::|;| as )")).unwrap().is_match(&code) {
                faults.push(format!("{}: `{name}` must not name the crate `{banned}`", below.display()));
            }
        }
        seen.insert(name);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let expected: BTreeSet<String> = PARTS.iter().map(|(part, ..)| (*part).to_owned()).collect();
    assert_eq!(seen, expected, "a part is gone");
}

#[test]
fn every_way_to_name_a_part_is_seen() {
    let code = "use crate::jobs::{self, Run};\nuse crate::{http, auth::Caller};\nlet _ = crate::systemd::Error;";
    let parts = ["auth", "http", "jobs", "systemd"].map(str::to_owned);
    assert_eq!(named_parts(code), BTreeSet::from(parts));
}
