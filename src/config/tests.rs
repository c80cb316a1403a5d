use std::collections::BTreeMap;

use super::*;
use crate::inputs::{Input, InputName, Pattern};
use crate::policy::JobName;

const SMALLEST: &str = "[jobs]\nprefixes = [\"ci-test-\"]\n";

fn fault(text: &str) -> String {
    Settings::parse(text).unwrap_err().to_string()
}

#[test]
fn the_smallest_file_has_a_default_for_everything_else() {
    let settings = Settings::parse(SMALLEST).unwrap();
    assert_eq!(settings.listen, [Listen::Tcp("127.0.0.1:8000".parse().unwrap())]);
    assert_eq!(settings.query_tokens, QueryTokens::Allow);
    assert_eq!(settings.tokens_file, Path::new("/etc/ci-bridge/tokens.toml"));
    assert_eq!(settings.state_directory, Path::new("/var/lib/ci-bridge"));
    assert_eq!(settings.jobs.policy.prefixes(), [Prefix::parse("ci-test-").unwrap()]);
    assert_eq!(settings.jobs.instances_per_hour, 200);
    assert!(settings.jobs.inputs.is_empty());
    assert_eq!(settings.limits.max_connections, 4096);
    assert_eq!(settings.limits.max_streams, 2000);
    assert_eq!(settings.limits.header_timeout, Duration::from_secs(10));
    let archive = Archive {
        enabled: true,
        max_age: Duration::from_hours(400 * 24),
        max_bytes: 10 << 30,
        max_runs_per_job: NonZeroUsize::new(1000).unwrap(),
        keep_free: 1 << 30,
    };
    assert_eq!(settings.archive, archive);
    let days = |days: u64| Duration::from_hours(24 * days);
    let history = History { max_age: days(400), max_runs_per_job: 10_000, audit_max_age: days(400) };
    assert_eq!(settings.history, history);
}

#[test]
fn a_history_is_kept_for_an_hour_to_a_hundred_years() {
    for key in ["max_age", "audit_max_age"] {
        for age in ["59m", "36501d", "0s", "1y", "400"] {
            let said = fault(&format!("{SMALLEST}[history]\n{key} = \"{age}\"\n"));
            assert!(said.starts_with(&format!("line 4: `history.{key}`: ")), "{said}");
        }
    }
    assert!(fault(&format!("{SMALLEST}[history]\nmax_runs_per_job = 0\n")).contains("choose 1 to 1000000"));
    assert!(fault(&format!("{SMALLEST}[history]\nmax_runs = 1\n")).contains("history.max_runs"));
}

#[test]
fn every_key_is_read() {
    let settings = Settings::parse(
        r#"
        listen = ["[::1]:8000", "unix:/run/ci-bridge/http.sock"]
        query_tokens = "read-only"
        tokens_file = "/etc/other/tokens.toml"
        state_directory = "/srv/ci-bridge"

        [jobs]
        prefixes = ["ci-test-", "nightly-"]
        instances_per_hour = 5

        [jobs.inputs."ci-test-deploy@".version]
        pattern = "v[0-9.]+"
        required = true

        [jobs.inputs.ci-test-a]
        level = { pattern = "low|high", default = "low" }
        note = {}

        [limits]
        max_connections = 100
        max_streams = 50
        max_queued_runs = 5
        header_timeout = "5s"

        [archive]
        enabled = false
        max_age = "90d"
        max_bytes = "500MiB"
        max_runs_per_job = 20
        keep_free = "0B"

        [history]
        max_age = "30d"
        max_runs_per_job = 100
        audit_max_age = "1h"

        [metrics]
        exporter_names = true
        "#,
    )
    .unwrap();
    let job = |name: &str| JobName::parse(name).unwrap();
    let input = |name: &str, pattern: Option<&str>, required: bool, default: Option<&str>| {
        let pattern = pattern.map(|pattern| Pattern::parse(pattern).unwrap());
        (InputName::parse(name).unwrap(), Input::new(pattern, required, default).unwrap())
    };
    let expected = Settings {
        listen: vec![Listen::Tcp("[::1]:8000".parse().unwrap()), Listen::Unix("/run/ci-bridge/http.sock".into())],
        query_tokens: QueryTokens::ReadOnly,
        tokens_file: "/etc/other/tokens.toml".into(),
        state_directory: "/srv/ci-bridge".into(),
        jobs: Jobs {
            policy: Policy::new(vec![Prefix::parse("ci-test-").unwrap(), Prefix::parse("nightly-").unwrap()]),
            instances_per_hour: 5,
            inputs: Inputs::new(BTreeMap::from([
                (job("ci-test-deploy@"), BTreeMap::from([input("version", Some("v[0-9.]+"), true, None)])),
                (
                    job("ci-test-a"),
                    BTreeMap::from([
                        input("level", Some("low|high"), false, Some("low")),
                        input("note", None, false, None),
                    ]),
                ),
            ])),
        },
        limits: Limits {
            max_connections: 100,
            max_streams: 50,
            max_queued_runs: 5,
            header_timeout: Duration::from_secs(5),
        },
        runners: Vec::new(),
        alerts: Vec::new(),
        archive: Archive {
            enabled: false,
            max_age: Duration::from_hours(90 * 24),
            max_bytes: 500 << 20,
            max_runs_per_job: NonZeroUsize::new(20).unwrap(),
            keep_free: 0,
        },
        history: History {
            max_age: Duration::from_hours(720),
            max_runs_per_job: 100,
            audit_max_age: Duration::from_hours(1),
        },
        metrics: Metrics { exporter_names: true },
    };
    assert_eq!(settings, expected);
}

#[test]
fn one_address_needs_no_list_and_an_empty_list_leaves_systemds_sockets() {
    let with = |listen: &str| Settings::parse(&format!("listen = {listen}\n{SMALLEST}")).unwrap().listen;
    assert_eq!(with("\"unix:/run/a.sock\""), [Listen::Unix("/run/a.sock".into())]);
    assert_eq!(with("[]"), []);
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_right_one_named() {
    for (text, expected) in [
        ("[jobs]\nprefix = [\"ci-test-\"]\n", "line 2: unknown key `jobs.prefix`; did you mean `jobs.prefixes`?"),
        ("prefixes = [\"ci-test-\"]\n", "line 1: unknown key `prefixes`; did you mean `jobs.prefixes`?"),
        ("query_token = \"deny\"\n", "line 1: unknown key `query_token`; did you mean `query_tokens`?"),
        ("[job]\nprefixes = [\"ci-test-\"]\n", "line 1: unknown key `job`; did you mean `jobs`?"),
        (
            "[limits]\nmax_conections = 1\n",
            "line 2: unknown key `limits.max_conections`; did you mean `limits.max_connections`?",
        ),
        ("[limits.max]\n", "line 1: unknown key `limits.max`; did you mean `limits.max_streams`?"),
        (
            "[jobs]\nzzz = 1\n",
            "line 2: unknown key `jobs.zzz`; the keys here are `jobs.inputs`, `jobs.instances_per_hour`, `jobs.prefixes`",
        ),
    ] {
        assert_eq!(fault(text), expected);
    }
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_its_remedy() {
    for (text, expected) in [
        ("listen = 8000", "line 1: `listen` must be a string in quotes, not of type integer"),
        (
            "listen = [\"127.0.0.1:8000\",\n\"localhost:1\"]",
            "line 2: `listen[1]`: `localhost:1` is no address; \
             write `127.0.0.1:8000`, `[::1]:8000` or `unix:/run/ci-bridge/http.sock`",
        ),
        ("listen = [\"[::1]:1\", \"[::1]:1\"]", "line 1: `listen[1]`: `[::1]:1` is there twice; remove one"),
        ("query_tokens = \"no\"", "line 1: `query_tokens`: `no` is no choice; write `allow`, `read-only` or `deny`"),
        ("tokens_file = \"tokens.toml\"", "line 1: `tokens_file`: `tokens.toml` must start with `/`"),
        ("jobs = 1", "line 1: `jobs` must be a table, not of type integer"),
        ("[jobs]\nprefixes = \"ci-test-\"", "line 2: `jobs.prefixes` must be a list in brackets, not of type string"),
        ("[jobs]\ninstances_per_hour = 0", "line 2: `jobs.instances_per_hour`: 0 is out of range; choose 1 to 1000000"),
        (
            "[jobs]\ninstances_per_hour = -1",
            "line 2: `jobs.instances_per_hour`: -1 is out of range; choose 1 to 1000000",
        ),
        (
            "[limits]\nheader_timeout = \"10\"",
            "line 2: `limits.header_timeout`: `10` is no length of time; write for example `10s`, `5m`, `12h` or `90d`",
        ),
        ("[limits]\nheader_timeout = \"1h\"", "line 2: `limits.header_timeout`: choose between `1s` and `10m`"),
        ("[archive]\nenabled = \"yes\"", "line 2: `archive.enabled` must be `true` or `false`, not of type string"),
        ("[archive]\nmax_age = \"12h\"", "line 2: `archive.max_age`: choose `1d` or more"),
        (
            "[archive]\nmax_bytes = \"10GB\"",
            "line 2: `archive.max_bytes`: `10GB` is no size; \
             write a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`, for example `10GiB`",
        ),
        ("[archive]\nkeep_free = 5", "line 2: `archive.keep_free` must be a string in quotes, not of type integer"),
        (
            "[archive]\nmax_runs_per_job = 0",
            "line 2: `archive.max_runs_per_job`: 0 is out of range; choose 1 to 1000000",
        ),
    ] {
        assert_eq!(fault(text), expected);
    }
    assert!(
        fault("[jobs]\nprefixes = [\"ci\"]").starts_with("line 2: `jobs.prefixes[0]`: the prefix `ci` is too short")
    );
}

#[test]
fn a_wrong_input_is_named_with_its_place() {
    let long = "x".repeat(80);
    for (text, expected) in [
        ("[jobs.inputs.sshd.a]", "line 3: `jobs.inputs.sshd`: no prefix of `jobs.prefixes` allows this job"),
        (
            "[jobs.inputs.\"ci-test-a.service\".a]",
            "line 3: `jobs.inputs.\"ci-test-a.service\"`: a job is named without its unit suffix: \
             `ci-test-hello`, not `ci-test-hello.service`",
        ),
        (
            "[jobs.inputs.ci-test-a.Version]",
            "line 3: `jobs.inputs.ci-test-a.Version`: `Version` can't be the name of an input; \
             write [a-z0-9_], a letter first, at most 32 characters: `version`",
        ),
        ("[jobs.inputs.ci-test-a]\na = \"b\"", "line 4: `jobs.inputs.ci-test-a.a` must be a table, not of type string"),
        (
            "[jobs.inputs.\"ci-test-a@\".a]\npatern = \"b\"",
            "line 4: unknown key `jobs.inputs.\"ci-test-a@\".a.patern`; \
             did you mean `jobs.inputs.\"ci-test-a@\".a.pattern`?",
        ),
        (
            "[jobs.inputs.ci-test-a.a]\npattern = \"v(\"",
            "line 4: `jobs.inputs.ci-test-a.a.pattern`: `v(` is no pattern: unclosed group",
        ),
        (
            "[jobs.inputs.ci-test-a.a]\nrequired = \"yes\"",
            "line 4: `jobs.inputs.ci-test-a.a.required` must be `true` or `false`, not of type string",
        ),
        (
            "[jobs.inputs.ci-test-a.a]\nrequired = true\ndefault = \"v1\"",
            "line 3: `jobs.inputs.ci-test-a.a`: an input is either required or has a default; remove one of the two",
        ),
        (
            "[jobs.inputs.ci-test-a.a]\npattern = \"v1\"\ndefault = \"latest\"",
            "line 3: `jobs.inputs.ci-test-a.a`: the default breaks the input's own rule: must match `v1` as a whole",
        ),
        (
            &format!("[jobs.inputs.ci-test-{long}.a]"),
            &format!(
                "line 3: `jobs.inputs.ci-test-{long}.a`: the name of the job is too long for its input `a`; \
                 systemd takes 83 bytes of both with `.service`"
            ),
        ),
    ] {
        assert_eq!(fault(&format!("{SMALLEST}{text}\n")), expected);
    }
    let many = (0..33).map(|number| format!("[jobs.inputs.ci-test-a.a{number}]\n")).collect::<Vec<_>>().concat();
    assert!(fault(&format!("{SMALLEST}{many}")).ends_with("a job has at most 32 inputs"));
}

#[test]
fn a_file_without_a_prefix_is_refused() {
    for text in ["", "[jobs]\n", "[jobs]\nprefixes = []\n"] {
        assert_eq!(fault(text), "no job is allowed; add a section `[jobs]` with `prefixes = [\"ci-test-\"]`");
    }
}

#[test]
fn invalid_toml_is_one_line_with_its_place() {
    for text in
        ["[jobs]\nprefixes = [\"ci-test-\"", "[jobs]\nprefixes = \"ci-test-", "[jobs]\n[jobs]\n", "a = 1\na = 2"]
    {
        let fault = fault(text);
        assert!(fault.starts_with("line 2: this is not valid TOML: "), "{fault}");
        assert_eq!(fault.lines().count(), 1, "{fault}");
    }
}

#[test]
fn a_missing_file_names_the_command_that_makes_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let error = Settings::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("config.toml does not exist; make it with `ci-bridge init --prefix ci-test-`"), "{error}");
    std::fs::write(&path, "[jobs]\nprefix = 1\n").unwrap();
    let error = Settings::load(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("config.toml, line 2: unknown key `jobs.prefix`; did you mean `jobs.prefixes`?"),
        "{error}"
    );
}
