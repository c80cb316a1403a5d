//! The documentation against the code: what it names exists, and what it shows works.
//!
//! Two comments in the Markdown mark a block of code:
//!
//! * `<!-- from FILE -->`: the block is a part of that file, word for word;
//! * `<!-- bed -->`: a console block whose commands (behind `# ` or `$ `) run in a bed.
//!
//! The bed has the package in `target/debian` below the working directory, and all marked commands run in one shell, in
//! the order of [`IN_ORDER`]. The tokens that `ci-bridge init` shows there are `$CI_TOKEN_RW` and `$CI_TOKEN_RO`.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a test can't do without ends it")]

#[path = "bed/machine.rs"]
#[expect(dead_code, reason = "these tests need only a part of what a bed can do")]
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ci_bridge::config::Settings;
use regex::Regex;

use self::machine::Bed;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The pages whose marked commands run in a bed, as a new user would read them.
const IN_ORDER: [&str; 3] = ["README.md", "docs/api.md", "docs/operations.md"];

/// A page of the documentation.
struct Page {
    path: PathBuf,
    text: String,
}

/// A fenced block of code.
struct Block<'t> {
    /// The comment on the line before it, without `<!--` and `-->`.
    mark: Option<&'t str>,
    language: &'t str,
    lines: Vec<&'t str>,
}

impl Page {
    fn read(path: &str) -> Self {
        let path = Path::new(ROOT).join(path);
        Self { text: fs::read_to_string(&path).expect("a page in UTF-8"), path }
    }

    fn all() -> Vec<Self> {
        let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let docs = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
        let pages = docs.map(|path| path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned());
        pages.chain(["README.md", "CHANGELOG.md"].map(str::to_owned)).map(|path| Self::read(&path)).collect()
    }

    fn name(&self) -> String {
        self.path.strip_prefix(ROOT).unwrap().display().to_string()
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut before = "";
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if let Some(language) = line.strip_prefix("```") {
                let mark = before.strip_prefix("<!-- ").and_then(|mark| mark.strip_suffix(" -->"));
                let lines = lines.by_ref().take_while(|line| *line != "```").collect();
                blocks.push(Block { mark, language, lines });
            }
            before = line;
        }
        blocks
    }

    /// The page without its blocks of code.
    fn prose(&self) -> String {
        let mut in_block = false;
        let outside = |line: &&str| {
            let fence = line.starts_with("```");
            in_block ^= fence;
            !in_block && !fence
        };
        self.text.lines().filter(outside).collect::<Vec<_>>().join("\n")
    }

    /// The anchors that GitHub gives to the headings.
    fn anchors(&self) -> BTreeSet<String> {
        let plain = |char: &char| char.is_alphanumeric() || " -_".contains(*char);
        let headings = Regex::new("(?m)^#+ (.*)$").unwrap();
        let prose = self.prose();
        headings
            .captures_iter(&prose)
            .map(|heading| heading[1].chars().filter(plain).collect::<String>().to_lowercase().replace(' ', "-"))
            .collect()
    }

    /// The cells of each row of the table whose heading begins with `heading`.
    fn table(&self, heading: &str) -> Vec<Vec<String>> {
        let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let rows = self.text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
        let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).map(cells).collect();
        assert!(!rows.is_empty(), "{} has no table {heading}", self.name());
        rows
    }
}

impl Block<'_> {
    /// The commands of a console block: what stands behind a prompt.
    fn commands(&self) -> Vec<&str> {
        self.lines.iter().filter_map(|line| line.strip_prefix("# ").or_else(|| line.strip_prefix("$ "))).collect()
    }
}

fn code_in(text: &str) -> Vec<String> {
    Regex::new("`([^`\n]+)`").unwrap().captures_iter(text).map(|code| code[1].to_owned()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^) \n]+)\)").unwrap();
    let mut faults = Vec::new();
    let mut links = 0;
    for page in Page::all() {
        for found in link.captures_iter(&page.prose()) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            let leads = path.exists()
                && anchor.is_none_or(|anchor| {
                    Page { text: fs::read_to_string(&path).unwrap(), path }.anchors().contains(anchor)
                });
            if !leads {
                faults.push(format!("{}: {target}", page.name()));
            }
        }
    }
    assert!(links > 40, "only {links} links were found");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_file_of_the_project_that_is_named_exists() {
    // Also what the package installs is named, and what is made: only what is below a directory of the project counts.
    let path = Regex::new(r"^(?:\./)?((?:src|tests|docs|systemd|workflows|sudoers\.d|benches|\.ci|\.config)/[^ :*]*)")
        .unwrap();
    let mut faults = Vec::new();
    let mut paths = 0;
    for page in Page::all() {
        for code in code_in(&page.prose()) {
            if let Some(found) = path.captures(&code).filter(|_| !code.contains(['*', ' '])) {
                paths += 1;
                if !Path::new(ROOT).join(&found[1]).exists() {
                    faults.push(format!("{}: {code}", page.name()));
                }
            }
        }
    }
    assert!(paths > 20, "only {paths} paths were found");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_file_of_the_package_that_is_named_is_in_it() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let examples = |path: &str| Path::new(ROOT).join(path).exists();
    let installed = Regex::new("/usr/(?:share|lib)/[A-Za-z0-9@/._-]+").unwrap();
    for page in Page::all() {
        for code in page.blocks().iter().flat_map(Block::commands).map(str::to_owned).chain(code_in(&page.prose())) {
            for path in installed.find_iter(&code).map(|path| path.as_str().trim_end_matches('/')) {
                let name = path.rsplit('/').next().unwrap();
                let example = path.contains("/doc/ci-bridge/examples/")
                    && (examples(&format!("systemd/examples/{name}")) || examples(&format!("workflows/{name}")));
                let known = example || manifest.contains(path.trim_start_matches('/')) || is_of_systemd(path);
                assert!(known, "{}: {path}", page.name());
            }
        }
    }
}

/// Directories that other packages own.
fn is_of_systemd(path: &str) -> bool {
    ["/usr/lib/systemd/system", "/usr/share/dbus-1"].contains(&path) || path == "/usr/share/doc/ci-bridge/examples"
}

#[test]
fn a_block_that_is_from_a_file_is_in_it_word_for_word() {
    let mut blocks = 0;
    for page in Page::all() {
        for block in page.blocks() {
            let Some(file) = block.mark.and_then(|mark| mark.strip_prefix("from ")) else { continue };
            blocks += 1;
            let text = fs::read_to_string(Path::new(ROOT).join(file)).expect(file);
            let quoted = block.lines.join("\n");
            assert!(text.contains(&quoted), "{}: this is not in {file}:\n{quoted}", page.name());
        }
    }
    assert!(blocks > 0);
}

/// The text of `ci-bridge SUBCOMMAND... --help`; `None` if there is no such command.
fn help(subcommands: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_ci-bridge")).args(subcommands).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_command_line_that_is_shown_is_one_that_the_program_takes() {
    let invocation = Regex::new(r"(?:^|[ (=/])ci-bridge ([a-z]+)((?: [^|&;)]+)?)").unwrap();
    let option = Regex::new(r"(?:^| )(--[a-z][a-z0-9-]*)").unwrap();
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut shown = 0;
    for page in Page::all() {
        let blocks = page.blocks();
        let commands = blocks.iter().filter(|block| block.language == "console").flat_map(Block::commands);
        for line in commands.map(str::to_owned).chain(code_in(&page.prose())) {
            // What other programs do with the service is theirs.
            if line.contains("systemctl")
                || line.contains("journalctl")
                || line.contains("apt ")
                || line.contains("bed ")
            {
                continue;
            }
            for found in invocation.captures_iter(&line) {
                shown += 1;
                let rest = found.get(2).map_or("", |rest| rest.as_str());
                let mut command = vec![&found[1]];
                if ["alerts", "import", "runners", "token"].contains(&&found[1]) {
                    command.extend(rest.split_whitespace().next().filter(|word| !word.starts_with('-')));
                }
                let key = command.join(" ");
                if !helps.contains_key(&key) {
                    let text =
                        help(&command).unwrap_or_else(|| panic!("{}: there is no `ci-bridge {key}`", page.name()));
                    helps.insert(key.clone(), text);
                }
                for option in option.captures_iter(rest) {
                    assert!(helps[&key].contains(&option[1]), "{}: {line}: there is no {}", page.name(), &option[1]);
                }
            }
        }
    }
    assert!(shown > 20, "only {shown} command lines were found");
    assert!(helps.len() > 7, "{:?}", helps.keys());
}

#[test]
fn the_table_of_errors_is_the_list_of_codes() {
    let source = |file: &str| fs::read_to_string(Path::new(ROOT).join("src").join(file)).unwrap();
    let http: String = [
        "error",
        "alerts",
        "audit",
        "authenticate",
        "badge",
        "body",
        "params",
        "problem",
        "index",
        "jobs",
        "logs",
        "metrics",
        "runs",
        "retry",
        "format",
        "stream",
        "mod",
    ]
    .map(|module| source(&format!("http/{module}.rs")))
    .concat();
    let mut made: BTreeMap<String, Option<u16>> = BTreeMap::new();
    let with_status = Regex::new(r#"StatusCode::([A-Z_]+),[ \n]*"([a-z_]+)""#).unwrap();
    for found in with_status.captures_iter(&http) {
        made.insert(found[2].to_owned(), Some(status(&found[1])));
    }
    for (pattern, status) in [
        (r#"(?-u:\b)conflict\("([a-z_]+)"\)"#, Some(409)),
        (r#"(?-u:\b)unavailable\("([a-z_]+)"\)"#, Some(503)),
        (r#"=> \{?[ \n]*\("([a-z_]+)", ""#, None),
    ] {
        for found in Regex::new(pattern).unwrap().captures_iter(&http) {
            made.entry(found[1].to_owned()).or_insert(status);
        }
    }
    for found in Regex::new(r#"=> "(token_[a-z_]+)""#).unwrap().captures_iter(&source("auth/mod.rs")) {
        made.insert(found[1].to_owned(), Some(401));
    }

    let page = Page::read("docs/api.md");
    let rows = page.table("| status | code |");
    let documented: BTreeMap<String, u16> =
        rows.iter().map(|row| (row[1].trim_matches('`').to_owned(), row[0].parse().expect("a status"))).collect();
    assert_eq!(documented.len(), rows.len(), "a code is there twice");
    assert_eq!(documented.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
    for (code, status) in made {
        assert!(status.is_none_or(|status| documented[&code] == status), "{code} has the status {status:?}");
    }
}

fn status(name: &str) -> u16 {
    match name {
        "BAD_REQUEST" => 400,
        "UNAUTHORIZED" => 401,
        "FORBIDDEN" => 403,
        "NOT_FOUND" => 404,
        "METHOD_NOT_ALLOWED" => 405,
        "REQUEST_TIMEOUT" => 408,
        "CONFLICT" => 409,
        "PAYLOAD_TOO_LARGE" => 413,
        "FAILED_DEPENDENCY" => 424,
        "UNPROCESSABLE_ENTITY" => 422,
        "TOO_MANY_REQUESTS" => 429,
        "INTERNAL_SERVER_ERROR" => 500,
        "BAD_GATEWAY" => 502,
        "SERVICE_UNAVAILABLE" => 503,
        other => panic!("add {other} to this list"),
    }
}

#[test]
fn the_table_of_the_configuration_has_each_key_with_its_default() {
    let minimal = "[jobs]\nprefixes = [\"ci-test-\"]\n";
    let defaults = Settings::parse(minimal).unwrap();
    let rows = Page::read("docs/operations.md").table("| key | default |");
    let mut keys = BTreeSet::new();
    for row in &rows {
        let key = row[0].trim_matches('`');
        keys.insert(key.to_owned());
        let value = if key == "jobs.prefixes" { "[\"ci-test-\"]" } else { row[1].trim_matches('`') };
        // A dotted key at the top is the same as the key in its section.
        let prefixes = if key == "jobs.prefixes" { "" } else { "jobs.prefixes = [\"ci-test-\"]\n" };
        let settings = Settings::parse(&format!("{prefixes}{key} = {value}\n"));
        assert_eq!(settings.as_ref(), Ok(&defaults), "{key} = {value}");
    }
    // The file that `init` writes shows every key.
    let starter = ci_bridge::config::starter(defaults.jobs.policy.prefixes());
    let mut section = String::new();
    let mut all = BTreeSet::new();
    for line in starter.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, _)) =
            line.trim_start_matches('#').split_once(" = ").filter(|(key, _)| !key.contains(' '))
        {
            all.insert(format!("{section}{key}"));
        }
    }
    assert_eq!(keys, all);
}

#[test]
fn the_table_of_the_lists_of_runners_has_each_key() {
    let page = Page::read("docs/operations.md");
    let rows = page.table("| key of a list |");
    let prefixes = "jobs.prefixes = [\"ci-test-\"]\n";
    for (service, word) in [("GitHub", "github"), ("GitLab", "gitlab")] {
        let documented: BTreeSet<_> =
            rows.iter().filter(|row| ["both", service].contains(&row[1].as_str())).map(|row| row[0].clone()).collect();
        // What is unknown is answered with all keys that there are.
        let rest = if word == "github" { "organization = \"a\"" } else { "scope = \"owned\"" };
        let text = format!("{prefixes}[[runners.{word}]]\nname = \"a\"\ntoken_file = \"/t\"\n{rest}\nqqq = 1\n");
        let fault = Settings::parse(&text).unwrap_err().to_string();
        let (_, known) = fault.split_once("the keys here are ").expect(&fault);
        let known: BTreeSet<_> = known.split(", ").map(|key| key.replace(&format!("runners.{word}."), "")).collect();
        assert_eq!(documented, known, "{service}");
    }
    let block = page.blocks().into_iter().find(|block| block.lines.contains(&"[[runners.github]]")).unwrap();
    let settings = Settings::parse(&format!("{prefixes}{}\n", block.lines.join("\n"))).unwrap();
    assert_eq!(settings.runners.len(), 3);
}

#[test]
fn the_table_of_alerts_has_each_key() {
    let page = Page::read("docs/operations.md");
    let documented: BTreeSet<_> =
        page.table("| key of an alert |").iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let prefixes = "jobs.prefixes = [\"ci-test-\"]\n";
    let text = format!("{prefixes}[[alerts]]\nname = \"a\"\nurl = \"https://a.example\"\nqqq = 1\n");
    let fault = Settings::parse(&text).unwrap_err().to_string();
    let (_, known) = fault.split_once("the keys here are ").expect(&fault);
    let known: BTreeSet<_> = known.split(", ").map(|key| key.trim_matches('`').replace("alerts.", "")).collect();
    assert_eq!(documented, known);
    let block = page.blocks().into_iter().find(|block| block.lines.contains(&"[[alerts]]")).unwrap();
    let settings = Settings::parse(&format!("{prefixes}{}\n", block.lines.join("\n"))).unwrap();
    assert_eq!(settings.alerts.len(), 2);
}

#[test]
fn every_endpoint_is_documented_with_its_parameters() {
    let index = fs::read_to_string(Path::new(ROOT).join("src/http/mod.rs")).unwrap();
    let page = Page::read("docs/api.md");
    let route = Regex::new(r#"\.route\("(/[^"]*)""#).unwrap();
    let mut routes = 0;
    for found in route.captures_iter(&index) {
        routes += 1;
        assert!(page.text.contains(&format!("{}`", &found[1])), "{} is missing", &found[1]);
    }
    assert!(routes > 8, "{routes}");
    let source = ["alerts", "audit", "badge", "jobs", "logs", "manage", "metrics", "runners", "runs"]
        .map(|file| fs::read_to_string(Path::new(ROOT).join(format!("src/http/{file}.rs"))).unwrap());
    let accepted = Regex::new(r"Params::of\(\s*&uri,\s*&\[([^\]]*)\]").unwrap();
    let rows: BTreeSet<String> =
        code_in(&page.text.lines().filter(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n"))
            .into_iter()
            .collect();
    for found in accepted.captures_iter(&source.concat()) {
        for name in found[1].split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty()) {
            assert!(rows.contains(name), "the parameter {name} is in no table");
        }
    }
}

/// All marked commands of a page.
fn bed_commands(page: &Page) -> Vec<String> {
    let blocks = page.blocks();
    let marked = blocks.iter().filter(|block| block.mark == Some("bed"));
    marked
        .flat_map(|block| {
            assert_eq!(block.language, "console", "{}: only console blocks run in a bed", page.name());
            let commands = block.commands();
            assert!(!commands.is_empty(), "{}: a marked block has no command: {:?}", page.name(), block.lines);
            commands
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_marked_command_is_a_whole_line_of_shell() {
    for name in IN_ORDER {
        let commands = bed_commands(&Page::read(name));
        assert!(!commands.is_empty(), "{name} has no command for the bed");
        for command in commands {
            assert!(!command.contains('…'), "{name}: {command}");
            let checked = Command::new("sh").args(["-n", "-c", &command]).output().unwrap();
            assert!(checked.status.success(), "{name}: {command}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    let marked = |page: &Page| page.blocks().iter().any(|block| block.mark == Some("bed"));
    let pages: Vec<String> = Page::all().iter().filter(|page| marked(page)).map(Page::name).collect();
    assert!(pages.iter().all(|page| IN_ORDER.contains(&page.as_str())), "add these to the order: {pages:?}");
}

/// What must be in the output of a command because it is in the one that the page shows, and is the same each time.
fn lasting(shown: &[&str]) -> Vec<String> {
    let member = Regex::new(r#""(?:msg|code|result|job|status)": ?(?:"[^"]*"|[0-9]+)"#).unwrap();
    let shown = shown.join("\n");
    member.find_iter(&shown).map(|member| member.as_str().replace(": ", ":")).collect()
}

#[test]
#[ignore = "boots a bed: make test"]
fn what_the_documentation_shows_works_in_a_bed() {
    let bed = Bed::plain();
    let package = env::var_os("CI_BRIDGE_DEB").map_or_else(
        || fs::read_dir(Path::new(ROOT).join("target/debian")).expect("make deb").next().unwrap().unwrap().path(),
        PathBuf::from,
    );
    let receive = ["sh", "-c", "mkdir -p /root/target/debian && cat >/root/target/debian/ci-bridge_0_amd64.deb"];
    assert!(bed.command(receive).stdin(fs::File::open(package).unwrap()).status().unwrap().success());

    let pages = IN_ORDER.map(Page::read);
    let mut script = "cd /root\nset -o pipefail\n".to_owned();
    let mut commands = Vec::new();
    for page in &pages {
        for block in page.blocks().into_iter().filter(|block| block.mark == Some("bed")) {
            let mut lines = block.lines.iter().copied().peekable();
            while let Some(line) = lines.next() {
                let Some(command) = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")) else { continue };
                let is_output = |line: &&str| !line.starts_with("# ") && !line.starts_with("$ ");
                let shown: Vec<&str> = std::iter::from_fn(|| lines.next_if(is_output)).collect();
                script.push_str(&format!("{command} >/tmp/shown || exit 1\ncat /tmp/shown\n"));
                if command.starts_with("ci-bridge init") {
                    script.push_str(
                        "while read -r name token _; do case $name in ci) export CI_TOKEN_RW=$token ;; \
                         read) export CI_TOKEN_RO=$token ;; esac; done </tmp/shown\n",
                    );
                }
                script.push_str("printf '\\n%s\\n' '---- end of the command'\n");
                commands.push((command, shown));
            }
        }
    }
    let output = bed.enter(["bash", "-c", &script]);
    let said = String::from_utf8_lossy(&output.stdout);
    let outputs: Vec<&str> = said.split("---- end of the command\n").collect();
    for (number, (command, shown)) in commands.iter().enumerate() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(number + 1 < outputs.len(), "this failed: {command}\n{}{stderr}", outputs.last().unwrap());
        let said = outputs[number].replace(": ", ":");
        for word in lasting(shown) {
            assert!(said.contains(&word), "{word} is not in the output of {command}\n{said}");
        }
    }
}
