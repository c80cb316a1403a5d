//! The commands that set up an installation, run as an administrator runs them, below a temporary root directory.
#![expect(clippy::unwrap_used, reason = "what a test can't prepare ends it")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ci_bridge::auth::{Access, Denial, Keyring, Scope, Token, TokenHash};
use ci_bridge::config::Settings;
use ci_bridge::policy::{JobName, Prefix};
use ci_bridge::setup::polkit;
use ci_bridge::store::{AuditEntry, AuditFilter, Store};
use jiff::Timestamp;
use tempfile::TempDir;

/// What a command did.
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self.stdout
    }

    /// The error of a command that must have failed with `status`: one line.
    #[track_caller]
    fn failed(self, status: i32) -> String {
        assert_eq!(self.status, status, "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        self.stderr
    }
}

/// A machine's root directory.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// Runs `ci-bridge` with words separated by spaces.
    fn run(&self, line: &str) -> Outcome {
        let output = self.command(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ci-bridge"));
        command.args(line.split(' ')).arg("--root").arg(self.root.path());
        command
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.path("etc/ci-bridge/config.toml")
    }

    fn tokens(&self) -> PathBuf {
        self.path("etc/ci-bridge/tokens.toml")
    }

    fn rule(&self) -> PathBuf {
        self.path(polkit::RULE_PATH)
    }

    fn keyring(&self) -> Keyring {
        Keyring::load(&self.tokens()).unwrap()
    }

    /// All files, with what would show a change: contents, mode and inode.
    fn snapshot(&self) -> Vec<(String, u32, u64)> {
        [self.config(), self.tokens(), self.rule()]
            .iter()
            .map(|path| {
                let metadata = fs::metadata(path).unwrap();
                (fs::read_to_string(path).unwrap(), metadata.mode(), metadata.ino())
            })
            .collect()
    }
}

/// The tokens in a text, each once.
fn tokens_in(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for word in text.split_whitespace().map(|word| word.trim_matches('\'')).filter(|word| word.starts_with("cib_")) {
        if tokens.iter().all(|token| token.expose() != word) {
            tokens.push(Token::parse(word).unwrap());
        }
    }
    tokens
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

#[test]
fn init_makes_settings_tokens_and_a_rule() {
    let machine = Machine::new();
    let said = machine.run("init --prefix ci-test- --prefix nightly-").ok();

    let prefixes = [prefix("ci-test-"), prefix("nightly-")];
    assert_eq!(Settings::load(&machine.config()).unwrap().jobs.policy.prefixes(), prefixes);
    assert_eq!(fs::read_to_string(machine.rule()).unwrap(), polkit::rule(&prefixes));
    for path in [machine.config(), machine.tokens(), machine.rule()] {
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }

    let tokens = tokens_in(&said);
    let [writer, reader] = tokens.as_slice() else { panic!("two tokens in {said}") };
    let caller = |token: &Token| machine.keyring().authenticate(token.expose(), Timestamp::now()).unwrap();
    assert_eq!((caller(writer).name().as_str(), caller(writer).access()), ("ci", Access::ReadWrite));
    assert_eq!((caller(reader).name().as_str(), caller(reader).access()), ("read", Access::ReadOnly));

    let curl: Vec<_> = said.lines().filter(|line| line.trim_start().starts_with("curl ")).collect();
    let [start, read] = curl.as_slice() else { panic!("two curl lines in {said}") };
    assert!(start.contains("-X POST") && start.contains(writer.expose()), "{start}");
    assert!(start.contains("http://127.0.0.1:8000/api/job/ci-test-hello'"), "{start}");
    assert!(read.contains(reader.expose()) && !read.contains(writer.expose()), "{read}");
}

#[test]
fn only_the_service_group_reads_settings_and_tokens() {
    let machine = Machine::new();
    let group = fs::metadata(machine.root.path()).unwrap().gid();
    // The group of the directory itself: also one who is not root may give it to a file.
    machine.write("etc/group", &format!("root:x:0:\nci-bridge:x:{group}:\n"));
    machine.run("init --prefix ci-test-").ok();
    for path in [machine.config(), machine.tokens()] {
        assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (0o640, group));
    }
    assert_eq!(mode(machine.config().parent().unwrap()), 0o750);
    assert_eq!(mode(&machine.rule()), 0o644);
}

#[test]
fn a_second_init_changes_nothing_and_shows_no_token() {
    let machine = Machine::new();
    machine.run("init --prefix ci-test-").ok();
    let before = machine.snapshot();
    for line in ["init --prefix ci-test-", "init"] {
        let said = machine.run(line).ok();
        assert!(said.contains("Nothing had to be changed") && !said.contains("cib_"), "{said}");
        assert_eq!(machine.snapshot(), before);
    }
}

#[test]
fn init_with_other_prefixes_changes_nothing_and_says_how_to() {
    let machine = Machine::new();
    machine.run("init --prefix ci-test-").ok();
    let before = machine.snapshot();
    for line in ["init --prefix other-", "init --prefix ci-test- --prefix other-"] {
        let said = machine.run(line).failed(1);
        assert!(said.contains("change `prefixes` in it and run `ci-bridge init` without --prefix"), "{said}");
        assert_eq!(machine.snapshot(), before);
    }
}

#[test]
fn init_brings_the_rule_up_to_date_with_the_settings() {
    let machine = Machine::new();
    machine.run("init --prefix ci-test-").ok();
    machine.write("etc/ci-bridge/config.toml", "[jobs]\nprefixes = [\"other-\"]\n");
    let said = machine.run("init").ok();
    assert!(said.contains("updated") && !said.contains("cib_"), "{said}");
    assert_eq!(fs::read_to_string(machine.rule()).unwrap(), polkit::rule(&[prefix("other-")]));
}

#[test]
fn init_needs_a_prefix_that_is_safe() {
    let machine = Machine::new();
    assert!(machine.run("init").failed(1).contains("--prefix ci-test-"));
    let refused = machine.run("init --prefix systemd-");
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("would allow units of the system itself"), "{}", refused.stderr);
    assert!(!machine.config().exists() && !machine.tokens().exists() && !machine.rule().exists());
}

#[test]
fn init_tells_a_script_the_same() {
    let machine = Machine::new();
    let said: serde_json::Value = serde_json::from_str(&machine.run("init --prefix ci-test- --json").ok()).unwrap();
    assert_eq!(said["url"], "http://127.0.0.1:8000");
    assert_eq!(said["files"][0]["action"], "wrote");
    let token = said["tokens"][0]["token"].as_str().unwrap();
    assert!(machine.keyring().authenticate(token, Timestamp::now()).unwrap().may_write());

    let again: serde_json::Value = serde_json::from_str(&machine.run("init --json").ok()).unwrap();
    assert_eq!((&again["tokens"], &again["files"][0]["action"]), (&serde_json::json!([]), &"kept".into()));
}

#[test]
fn a_new_token_is_all_of_the_output_and_never_in_a_file() {
    let machine = Machine::new();
    let said = machine.run("token new docs --access ro --job ci-docs-* --job ci-a --expires 90d").ok();
    let token = Token::parse(said.strip_suffix('\n').unwrap()).unwrap();
    let now = Timestamp::now();
    let caller = machine.keyring().authenticate(token.expose(), now).unwrap();
    let sees = |job| caller.may_see(&JobName::parse(job).unwrap());
    assert_eq!((sees("ci-docs-x"), sees("ci-a"), sees("ci-b"), caller.may_write()), (true, true, false, false));

    let days = |days: i64| now + jiff::SignedDuration::from_hours(24 * days);
    assert!(machine.keyring().authenticate(token.expose(), days(89)).is_ok());
    assert!(matches!(machine.keyring().authenticate(token.expose(), days(91)), Err(Denial::Expired { .. })));

    let file = fs::read_to_string(machine.tokens()).unwrap();
    assert!(!file.contains("cib_") && file.contains(&TokenHash::of(token.expose()).to_string()), "{file}");
    assert_eq!(mode(&machine.tokens()), 0o640);
}

#[test]
fn a_token_of_another_system_keeps_its_secret() {
    let machine = Machine::new();
    let line = format!("token new old --access rw --sha256 {}", TokenHash::of("their secret"));
    assert_eq!(machine.run(&line).ok(), "");
    assert!(machine.keyring().authenticate("their secret", Timestamp::now()).unwrap().may_write());
    assert_eq!(machine.run("token new bad --access rw --sha256 12").status, 2);
    assert_eq!(machine.run(&line.replace("old", "twin")).status, 1);
}

#[test]
fn a_revoked_token_is_refused_and_its_name_is_free() {
    let machine = Machine::new();
    let old = machine.run("token new ci --access rw").ok();
    assert!(machine.run("token new ci --access rw").failed(1).contains("ci-bridge token revoke ci"));
    machine.run("token revoke ci").ok();
    let now = Timestamp::now();
    assert_eq!(machine.keyring().authenticate(old.trim(), now), Err(Denial::Revoked));
    assert!(machine.run("token revoke ci").failed(1).contains("was revoked before"));
    assert!(machine.run("token revoke cj").failed(1).contains("no token is named `cj`"));
    let new = machine.run("token new ci --access rw").ok();
    assert!(machine.keyring().authenticate(new.trim(), now).is_ok());
}

#[test]
fn the_list_shows_state_and_scope_but_no_secret() {
    let machine = Machine::new();
    machine.run("token new ci --access rw").ok();
    machine.run("token new docs --access ro --job ci-docs-*").ok();
    machine.run("token revoke ci").ok();
    let said = machine.run("token list").ok();
    let rows: Vec<Vec<_>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1..], [["ci", "rw", "revoked", "never", "all"], ["docs", "ro", "valid", "never", "ci-docs-*"]]);

    let said = machine.run("token list --json").ok();
    let list: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(list["tokens"][1]["jobs"], serde_json::json!(["ci-docs-*"]));
    assert_eq!(
        (&list["tokens"][0]["state"], &list["tokens"][0]["jobs"]),
        (&"revoked".into(), &serde_json::Value::Null)
    );
    assert!(!said.contains("sha256") && !said.contains("cib_"), "{said}");
}

#[test]
fn a_scope_is_one_that_fits_the_token_and_is_shown() {
    let machine = Machine::new();
    for (line, status) in [
        ("token new a --access ro --scope audit", 1),
        ("token new a --access rw --scope audit --job ci-docs-*", 1),
        ("token new a --access rw --scope admin", 2),
    ] {
        assert_eq!(machine.run(line).status, status, "{line}");
    }
    assert!(!machine.tokens().exists());
    let token = machine.run("token new auditor --access rw --scope audit").ok();
    assert!(machine.keyring().authenticate(token.trim(), Timestamp::now()).unwrap().has(Scope::Audit));
    let said = machine.run("token list").ok();
    let row: Vec<_> = said.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["auditor", "rw+audit", "valid", "never", "all"]);
    let list: serde_json::Value = serde_json::from_str(&machine.run("token list --json").ok()).unwrap();
    assert_eq!(list["tokens"][0]["scopes"], serde_json::json!(["audit"]));
}

#[test]
fn a_backup_is_made_while_the_history_is_in_use_and_overwrites_nothing() {
    let machine = Machine::new();
    let directory = machine.path("srv/state");
    machine.write("etc/ci-bridge/config.toml", "state_directory = \"/srv/state\"\n[jobs]\nprefixes = [\"ci-test-\"]\n");
    let copy = machine.path("copy.db");
    let line = format!("backup {}", copy.display());
    let said = machine.run(&line).failed(1);
    assert!(said.contains("cannot read") && said.contains("srv/state/ci-bridge.db"), "{said}");
    assert!(!copy.exists());

    fs::create_dir_all(&directory).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(Store::open(&directory)).unwrap().store;
    let entry = AuditEntry {
        at: Timestamp::UNIX_EPOCH,
        kind: "stop".to_owned(),
        who: None,
        address: None,
        request: None,
        job: None,
        run: None,
        outcome: "stopped".to_owned(),
        detail: None,
    };
    runtime.block_on(store.append_audit(vec![entry.clone()])).unwrap();
    assert_eq!(machine.run(&line).ok(), format!("copied the history to {}\n", copy.display()));
    assert_eq!(mode(&copy), 0o600);
    assert!(machine.run(&line).failed(1).contains("exists already; nothing is overwritten"));
    assert!(machine.run("backup /nowhere/copy.db").failed(1).contains("cannot write /nowhere/copy.db"));

    // As the documentation restores it.
    let restored = tempfile::tempdir().unwrap();
    fs::copy(&copy, restored.path().join("ci-bridge.db")).unwrap();
    let opened = runtime.block_on(Store::open(restored.path())).unwrap();
    let read = runtime.block_on(opened.store.audit(None, 10, &AuditFilter::default())).unwrap();
    assert_eq!(read.into_iter().map(|record| record.entry).collect::<Vec<_>>(), [entry]);
}

#[test]
fn the_tokens_are_where_the_settings_say() {
    let machine = Machine::new();
    machine.write("etc/ci-bridge/config.toml", "tokens_file = \"/srv/t.toml\"\n[jobs]\nprefixes = [\"ci-test-\"]\n");
    machine.run("token new ci --access rw").ok();
    assert!(machine.path("srv/t.toml").exists() && !machine.tokens().exists());
    machine.write("etc/b.toml", "tokens_file = \"/srv/b.toml\"\n[jobs]\nprefixes = [\"ci-test-\"]\n");
    machine.run("token new ci --access rw --config /etc/b.toml").ok();
    assert!(machine.path("srv/b.toml").exists());

    let here = machine.command("token list --config etc/b.toml").current_dir(machine.root.path()).output().unwrap();
    assert!(here.status.success(), "{}", String::from_utf8_lossy(&here.stderr));
    assert!(String::from_utf8_lossy(&here.stdout).contains("ci  "));
}

#[test]
fn an_invalid_file_is_left_alone_and_has_its_own_exit_status() {
    let machine = Machine::new();
    machine.write("etc/ci-bridge/config.toml", "[jobs]\nprefix = [\"ci-test-\"]\n");
    for line in ["init", "token list", "token new ci --access rw", "token revoke ci"] {
        let said = machine.run(line).failed(78);
        assert!(said.contains("line 2: unknown key `jobs.prefix`; did you mean `jobs.prefixes`?"), "{said}");
    }
    assert!(!machine.tokens().exists());

    fs::remove_file(machine.config()).unwrap();
    machine.write("etc/ci-bridge/tokens.toml", "[[token]]\nname = \"ci\"\n");
    for line in ["init --prefix ci-test-", "token list", "token new ci --access rw", "token revoke ci"] {
        let said = machine.run(line).failed(78);
        assert!(said.contains("tokens.toml, `token[0].access` is missing"), "{said}");
    }
    assert_eq!(fs::read_to_string(machine.tokens()).unwrap(), "[[token]]\nname = \"ci\"\n");
}

#[test]
fn a_list_without_a_file_says_how_to_make_one() {
    assert!(Machine::new().run("token list").failed(78).contains("ci-bridge token new NAME --access rw"));
}

#[test]
fn verbose_shows_each_cause_on_its_own_line() {
    let machine = Machine::new();
    // A directory where the file should be.
    fs::create_dir_all(machine.config()).unwrap();
    let said = machine.run("token list").failed(78);
    assert!(said.contains("failed to read") && said.contains("directory"), "{said}");
    let said = machine.run("token list --verbose");
    assert_eq!(said.stderr.lines().count(), 2, "{}", said.stderr);
}

#[test]
fn a_token_that_could_not_be_shown_is_an_error() {
    let machine = Machine::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = machine.command("token new ci --access rw").stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("run `ci-bridge token revoke ci`"), "{said}");
}

#[test]
fn man_pages_and_completions_are_generated() {
    let directory = tempfile::tempdir().unwrap();
    let generate = |what: &str| {
        let binary = env!("CARGO_BIN_EXE_ci-bridge");
        assert!(Command::new(binary).args(["generate", what]).arg(directory.path()).output().unwrap().status.success());
    };
    generate("man");
    generate("completions");
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert!(read("ci-bridge.1").contains("ci\\-bridge\\-init(1)"));
    let page = read("ci-bridge-token-new.1");
    assert!(page.contains(".SH EXAMPLES") && !page.contains("\\-\\-root"), "{page}");
    for (name, word) in [("ci-bridge.bash", "revoke"), ("_ci-bridge", "revoke"), ("ci-bridge.fish", "revoke")] {
        assert!(read(name).contains(word), "{name}");
    }
    assert!(!directory.path().join("ci-bridge-generate.1").exists());
}

const GH_RUNNER_UPTIME: &str = "\
grace_period: 3
created_template_path: created.j2
removed_template_path: removed.j2
online_template_path: online.j2
offline_template_path: offline.j2
orgs:
  - {name: acme, github_base_uri: https://api.github.com, github_pat: s3cret-1, webhook_endpoint: https://a.example/s3cret-2}
";

fn import(directory: &Path, words: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_ci-bridge"))
        .args(["import", "gh-runner-uptime"])
        .args(words)
        .current_dir(directory)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn import_prints_settings_without_secrets_and_writes_nothing_unasked() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.yaml"), GH_RUNNER_UPTIME).unwrap();
    let outcome = import(directory.path(), &["config.yaml"]);
    assert_eq!(outcome.stderr, "");
    let toml = outcome.ok();
    assert!(!toml.contains("s3cret"), "{toml}");
    assert!(toml.contains("token_file = \"/etc/ci-bridge/secrets/github-acme\""), "{toml}");
    let template = fs::canonicalize(directory.path()).unwrap().join("created.j2");
    assert!(toml.contains(template.to_str().unwrap()), "{toml}");
    let settings = Settings::parse(&format!("jobs.prefixes = [\"ci-test-\"]\n{toml}")).unwrap();
    assert_eq!((settings.runners.len(), settings.alerts.len()), (1, 1));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn import_writes_secrets_for_the_service_alone_and_replaces_none() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.yaml"), GH_RUNNER_UPTIME).unwrap();
    let words = ["config.yaml", "--write-secrets", "secrets"];
    let outcome = import(directory.path(), &words);
    assert!(!outcome.stderr.contains("s3cret") && outcome.stderr.lines().count() == 2, "{}", outcome.stderr);
    assert!(outcome.ok().contains("/secrets/webhook-url\""));
    let secrets = directory.path().join("secrets");
    for (file, text) in [("github-acme", "s3cret-1\n"), ("webhook-url", "https://a.example/s3cret-2\n")] {
        let path = secrets.join(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0);
    }
    assert_eq!(fs::metadata(&secrets).unwrap().mode() & 0o777, 0o750);
    // Again, with all of them there.
    assert_eq!(import(directory.path(), &words).stderr, "");

    fs::write(secrets.join("github-acme"), "another\n").unwrap();
    fs::remove_file(secrets.join("webhook-url")).unwrap();
    let error = import(directory.path(), &words).failed(1);
    assert!(error.contains("github-acme is there already"), "{error}");
    assert_eq!(fs::read_to_string(secrets.join("github-acme")).unwrap(), "another\n");
    assert!(!secrets.join("webhook-url").exists());
}

#[test]
fn import_names_the_key_of_a_mistake_and_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let text = GH_RUNNER_UPTIME.replace("s3cret-1", "s3cret 1");
    fs::write(directory.path().join("config.yaml"), text).unwrap();
    let error = import(directory.path(), &["config.yaml"]).failed(78);
    assert!(error.contains("config.yaml, line 7: `orgs[0].github_pat`: a token is one line"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let error = import(directory.path(), &["nothing.yaml"]).failed(1);
    assert!(error.contains("nothing.yaml"), "{error}");
}
