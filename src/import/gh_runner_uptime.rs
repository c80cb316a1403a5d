//! The configuration of gh_runner_uptime, IBM's monitor of GitHub's runners.
//!
//! Source: `src/config.rs` and `example_deployment/config.yaml` of <https://codeberg.org/ibm/gh_runner_uptime>.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use secrecy::{ExposeSecret as _, SecretString};
use toml_edit::Value;
use url::{Host, Url};

use super::Imported;
use super::yaml::{self, Node};
use crate::config::{AlertFormat, ApiUrl, Fault, GitHubScope, SourceName, alert_target};

/// The lists of its configuration in the order in which it reads them, each with the key of one of our sections.
const LISTS: [(&str, &str); 3] = [("orgs", "organization"), ("repos", "repository"), ("enterprises", "enterprise")];
/// The events that it tells of, each with a template.
const EVENTS: [(&str, &str); 4] = [
    ("created", "created_template_path"),
    ("removed", "removed_template_path"),
    ("online", "online_template_path"),
    ("offline", "offline_template_path"),
];
const GRACE: &str = "grace_period";
const GITHUB_TIMEOUT: &str = "github_timeout_millis";
const INBOUND_TIMEOUT: &str = "inbound_timeout_millis";
const KEYS_OF_A_LIST: [&str; 4] = ["name", "github_base_uri", "github_pat", "webhook_endpoint"];
/// The longest name that is made of a list's own; a number may follow it.
const NAME_MAX: usize = 56;

const HEAD: &str = "\
# What was the configuration of gh_runner_uptime, for the end of /etc/ci-bridge/config.toml.
# Then: systemctl restart ci-bridge
#
# This is different:
# * gh_runner_uptime polled only when it got SIGHUP. The bridge polls by itself, at each `interval`: take the one of your
#   cron job, which is not needed any more. The grace counts polls, as before.
# * A list or a target that fails keeps no other one waiting, all pages of a list are read, and an alert that could not be
#   sent is sent again until it is taken. What happens while the bridge is down is told when it is up.
# * If half of the runners of a list are gone at once, and five or more, the next poll has to say so too before anybody is
#   told; `doubt_mass_removal = false` turns that off.
# * Messages have a Content-Type, application/json. If your templates make something else, say so in `content_type`.
";

/// Makes settings of the text of a `config.yaml`.
///
/// `directory` is where its relative paths begin, and `secrets` where the files with the secrets are to be; both are
/// absolute.
///
/// # Errors
/// The first mistake, with its key and what to do about it. No secret is in it.
pub fn gh_runner_uptime(text: &str, directory: &Path, secrets: &Path) -> Result<Imported, Fault> {
    yaml::read(text, |root| import(root, directory, secrets))
}

/// One list of runners.
struct List {
    name: SourceName,
    /// Where it stands in the configuration.
    place: String,
    scope: GitHubScope,
    api: ApiUrl,
    token_file: String,
}

/// One target, of all lists that name it.
struct Target {
    url: Url,
    /// The first key that names it.
    place: String,
    lists: Vec<SourceName>,
}

fn import(root: &Node<'_>, directory: &Path, secrets: &Path) -> Result<Imported, Fault> {
    let secret_path = |file: &str| path(&secrets.join(file)).map_err(Fault::new);
    let grace = root.require(GRACE, "3")?.number(0..=1000)?;
    let timeout = root.get(GITHUB_TIMEOUT)?.map_or(Ok(30_000), |value| value.number(1000..=300_000))?;
    let mut head = HEAD.to_owned();
    if root.get(INBOUND_TIMEOUT)?.is_some() {
        head.push_str(&format!("# * A target has 15 s for its answer; `{INBOUND_TIMEOUT}` has no equal.\n"));
    }
    let mut templates = String::new();
    for (event, key) in EVENTS {
        let file = root.require(key, &format!("/etc/ci-bridge/{event}.txt.j2"))?;
        let file = file.parsed(|text| path(&directory.join(text)))?;
        templates.push_str(&format!("templates.{event} = {}\n", quoted(&file)));
    }

    let mut files: BTreeMap<String, SecretString> = BTreeMap::new();
    let mut lists: Vec<List> = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    let mut ignored = root.others(&known_keys())?;
    for (key, word) in LISTS {
        for node in root.list(key)? {
            ignored.extend(node.others(&KEYS_OF_A_LIST)?);
            let own = node.require("name", "acme")?;
            let scope = own.parsed(|name| scope(word, name))?;
            let api: ApiUrl = node.require("github_base_uri", "https://api.github.com")?.parsed(ApiUrl::from_str)?;
            if let Some(same) = lists.iter().find(|list| list.scope == scope && list.api == api) {
                return Err(node.fault(format!(
                    "this is the same list as `{}`; gh_runner_uptime tells only the later one of them, so remove the other",
                    same.place
                )));
            }
            let is_taken = |name: &SourceName| lists.iter().any(|list| list.name == *name);
            let name = source_name(own.text()?, is_taken).map_err(|error| own.fault(error))?;
            let token = node.require("github_pat", "ghp_…")?.parsed(token)?;
            let known = files.iter().find(|(_, known)| known.expose_secret() == token).map(|(file, _)| file.clone());
            let file = known.unwrap_or_else(|| format!("github-{name}"));
            let token_file = secret_path(&file)?;
            files.entry(file).or_insert_with(|| token.into());

            let endpoint = node.require("webhook_endpoint", "https://hooks.example.com/…")?;
            let url = endpoint.parsed(target)?;
            match targets.iter_mut().find(|target| target.url == url) {
                Some(target) => target.lists.push(name.clone()),
                None => targets.push(Target { url, place: endpoint.place().to_owned(), lists: vec![name.clone()] }),
            }
            lists.push(List { name, place: node.place().to_owned(), scope, api, token_file });
        }
    }
    if lists.is_empty() {
        return Err(Fault::new("there is no list of runners; add one to `orgs`, `repos` or `enterprises`"));
    }
    for key in ignored {
        head.push_str(&format!("# * {} is no key of gh_runner_uptime, and means nothing here either.\n", quoted(&key)));
    }

    let mut toml = head;
    for list in &lists {
        toml.push_str(&section_of(list, grace, timeout));
    }
    for (number, target) in targets.iter().enumerate() {
        let name = if targets.len() == 1 { "webhook".to_owned() } else { format!("webhook-{}", number + 1) };
        let file = format!("{name}-url");
        toml.push_str(&section_to(target, &name, &secret_path(&file)?, &templates));
        files.insert(file, target.url.to_string().into());
    }
    Ok(Imported { toml, secrets: files })
}

fn known_keys() -> Vec<&'static str> {
    let templates = EVENTS.map(|(_, key)| key);
    LISTS.map(|(key, _)| key).into_iter().chain(templates).chain([GRACE, GITHUB_TIMEOUT, INBOUND_TIMEOUT]).collect()
}

/// The section of a list.
fn section_of(List { name, place, scope, api, token_file }: &List, grace: u64, timeout: u64) -> String {
    let (word, whose) = match scope {
        GitHubScope::Repository { owner, name } => ("repository", format!("{owner}/{name}")),
        GitHubScope::Organization(name) => ("organization", name.clone()),
        GitHubScope::Enterprise(name) => ("enterprise", name.clone()),
    };
    let (name, api, whose) = (quoted(name), quoted(api), quoted(whose));
    let token_file = quoted(token_file);
    let timeout = if timeout.is_multiple_of(1000) { format!("{}s", timeout / 1000) } else { format!("{timeout}ms") };
    format!(
        "\n[[runners.github]]\nname = {name}\napi = {api}\n{word} = {whose}\n\
         # It must hold `github_pat` of `{place}`, alone on one line, readable for the service.\n\
         token_file = {token_file}\ninterval = \"60s\"\ngrace = {grace}\ntimeout = \"{timeout}\"\n"
    )
}

/// The section of a target.
fn section_to(target: &Target, name: &str, file: &str, templates: &str) -> String {
    let Target { url, place, lists } = target;
    let sources: Vec<_> = lists.iter().map(quoted).collect();
    let events = EVENTS.map(|(event, _)| quoted(event)).join(", ");
    let private = if is_private(url) {
        "allow_private = true\n"
    } else {
        "# If it is in a private network or on this machine: allow_private = true\n"
    };
    format!(
        "\n[[alerts]]\nname = {}\n# It must hold `{place}`, alone on one line, readable for the service.\nurl_file = {}\n{private}\
         sources = [{}]\nevents = [{events}]\nformat = \"template\"\n\
         # The service must be able to read these: they can't be in /home or /root, or in a container.\n{templates}",
        quoted(name),
        quoted(file),
        sources.join(", "),
    )
}

/// A text as TOML writes it.
fn quoted(text: impl Display) -> String {
    Value::from(text.to_string()).to_string()
}

fn path(path: &Path) -> Result<String, &'static str> {
    path.to_str().map(str::to_owned).ok_or("a path in UTF-8 is needed")
}

fn scope(word: &str, name: &str) -> Result<GitHubScope, String> {
    match word {
        "repository" => GitHubScope::repository(name),
        "organization" => GitHubScope::organization(name),
        _ => GitHubScope::enterprise(name),
    }
}

/// A name for a list, made of what it lists.
fn source_name(own: &str, is_taken: impl Fn(&SourceName) -> bool) -> Result<SourceName, String> {
    let plain: String = own.replace('/', "-").chars().take(NAME_MAX).collect();
    let names = std::iter::once(plain.clone()).chain((2..1000).map(|number| format!("{plain}-{number}")));
    for name in names {
        let name: SourceName = name.parse().map_err(|error: crate::config::NotASourceName| error.to_string())?;
        if !is_taken(&name) {
            return Ok(name);
        }
    }
    Err("there are too many lists of this name".to_owned())
}

fn token(text: &str) -> Result<&str, &'static str> {
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(text).ok_or("a token is one line of ASCII without spaces")
}

fn target(text: &str) -> Result<Url, &'static str> {
    let allow_private = text.parse().is_ok_and(|url| is_private(&url));
    alert_target(text, &AlertFormat::Json, allow_private)
}

/// Whether an address tells by itself that it is in a private network or on this machine.
fn is_private(url: &Url) -> bool {
    let ip: IpAddr = match url.host() {
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
        Some(Host::Domain(name)) => return !name.contains('.'),
        None => return false,
    };
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Address, AlertEvent, GitHubAccess, Grace, RunnerList, SecretPlace, Settings};

    const EXAMPLE: &str = "\
# Comments are no problem.
grace_period: 2
github_timeout_millis: 20000
inbound_timeout_millis: 30000
created_template_path: /app/created.j2
removed_template_path: removed.j2
online_template_path: ../online.j2
offline_template_path: 'with \"quotes\" and \\ ä'
repos:
  - name: acme/site
    github_base_uri: https://github.example.com/api/v3/
    github_pat: s3cret-1
    webhook_endpoint: https://hooks.example.com/event?token=s3cret-2
orgs:
  - name: acme-site
    github_base_uri: https://api.github.com
    github_pat: s3cret-1
    webhook_endpoint: https://hooks.example.com/event?token=s3cret-2
enterprises:
  - name: acme
    github_base_uri: https://api.github.com
    github_pat: s3cret-3
    webhook_endpoint: https://10.0.0.1/s3cret-4
    note: none
";

    fn imported(text: &str) -> Result<Imported, String> {
        gh_runner_uptime(text, Path::new("/srv/old"), Path::new("/secrets")).map_err(|fault| fault.to_string())
    }

    fn settings(imported: &Imported) -> Settings {
        Settings::parse(&format!("jobs.prefixes = [\"ci-test-\"]\n{}", imported.toml)).unwrap()
    }

    #[test]
    fn each_list_is_one_of_ours_with_the_same_grace_and_its_token_in_a_file() {
        let imported = imported(EXAMPLE).unwrap();
        let settings = settings(&imported);
        let lists: Vec<_> = settings
            .runners
            .iter()
            .map(|list| {
                let RunnerList::GitHub { scope, access: GitHubAccess::Token(SecretPlace::File(file)), .. } = &list.list
                else {
                    panic!("{list:?}")
                };
                let plain = (list.grace, list.timeout, list.interval);
                assert_eq!(plain, (Grace::Polls(2), Duration::from_secs(20), Duration::from_mins(1)));
                (list.name.as_str(), list.api.to_string(), scope.clone(), file.to_str().unwrap())
            })
            .collect();
        let github = || "https://api.github.com".to_owned();
        let enterprise_server = "https://github.example.com/api/v3".to_owned();
        assert_eq!(
            lists,
            [
                ("acme-site", github(), GitHubScope::organization("acme-site").unwrap(), "/secrets/github-acme-site"),
                (
                    "acme-site-2",
                    enterprise_server,
                    GitHubScope::repository("acme/site").unwrap(),
                    "/secrets/github-acme-site"
                ),
                ("acme", github(), GitHubScope::enterprise("acme").unwrap(), "/secrets/github-acme"),
            ]
        );
    }

    #[test]
    fn each_target_is_an_alert_of_the_lists_that_named_it_with_the_templates_as_they_are() {
        let imported = imported(EXAMPLE).unwrap();
        let settings = settings(&imported);
        let [shared, own] = &settings.alerts[..] else { panic!("{:?}", settings.alerts) };
        let names = |names: &[&str]| Some(names.iter().map(|name| name.parse().unwrap()).collect());
        assert_eq!((&shared.sources, &own.sources), (&names(&["acme-site", "acme-site-2"]), &names(&["acme"])));
        assert!(shared.address == Address::File("/secrets/webhook-1-url".into()) && !shared.allow_private);
        assert!(own.address == Address::File("/secrets/webhook-2-url".into()) && own.allow_private);
        let files = [
            (AlertEvent::Created, "/app/created.j2".into()),
            (AlertEvent::Removed, "/srv/old/removed.j2".into()),
            (AlertEvent::Online, "/srv/old/../online.j2".into()),
            (AlertEvent::Offline, "/srv/old/with \"quotes\" and \\ ä".into()),
        ];
        for alert in [shared, own] {
            assert_eq!(alert.events, files.iter().map(|(event, _)| *event).collect());
            let content_type = "application/json".to_owned();
            assert_eq!(alert.format, AlertFormat::Template { files: files.clone().into(), content_type });
        }
    }

    #[test]
    fn secrets_are_kept_apart_and_the_rest_says_where_they_belong_and_what_is_different() {
        let imported = imported(EXAMPLE).unwrap();
        assert!(!imported.toml.contains("s3cret"), "{}", imported.toml);
        assert!(!format!("{imported:?}").contains("s3cret"));
        let secrets: Vec<_> =
            imported.secrets.iter().map(|(name, secret)| (name.as_str(), secret.expose_secret())).collect();
        assert_eq!(
            secrets,
            [
                ("github-acme", "s3cret-3"),
                ("github-acme-site", "s3cret-1"),
                ("webhook-1-url", "https://hooks.example.com/event?token=s3cret-2"),
                ("webhook-2-url", "https://10.0.0.1/s3cret-4"),
            ]
        );
        for part in [
            "It must hold `github_pat` of `orgs[0]`",
            "It must hold `orgs[0].webhook_endpoint`",
            "polled only when it got SIGHUP",
            "`inbound_timeout_millis` has no equal",
            "\"enterprises[0].note\" is no key",
        ] {
            assert!(imported.toml.contains(part), "{part}: {}", imported.toml);
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_key_and_what_to_do_and_never_repeats_a_secret() {
        let changed = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            imported(&EXAMPLE.replacen(from, to, 1)).unwrap_err()
        };
        let without_lists = &EXAMPLE[..EXAMPLE.find("repos:").unwrap()];
        for (found, part) in [
            (changed("grace_period: 2\n", ""), "`grace_period` is missing; add `grace_period: 3`"),
            (changed("grace_period: 2", "grace_period: many"), "line 2: `grace_period` must be a whole number"),
            (changed("grace_period: 2", "grace_period: 1001"), "`grace_period`: choose 0 to 1000"),
            (changed("20000", "20"), "`github_timeout_millis`: choose 1000 to 300000"),
            (changed("offline_template_path", "offline_path"), "`offline_template_path` is missing"),
            (changed("acme/site", "acme"), "line 10: `repos[0].name`: `acme` is no repository"),
            (changed("name: acme-site", "name: acme site"), "`orgs[0].name`: `acme site` is no name"),
            (changed("name: acme-site", "name: 7"), "`orgs[0].name` must be a text; put it in quotes"),
            (changed("https://github.example.com", "http://github.example.com"), "in the clear"),
            (changed("github_pat: s3cret-1", "github_pat: s3cret 1"), "`repos[0].github_pat`: a token is one line"),
            (changed("    github_pat: s3cret-1\n", ""), "`repos[0].github_pat` is missing"),
            (
                changed("https://hooks", "http://hooks"),
                "`repos[0].webhook_endpoint`: this would send alerts in the clear",
            ),
            (changed("https://hooks", "hooks"), "`repos[0].webhook_endpoint`: this is no address"),
            (changed("  - name: acme/site", "    name: acme/site"), "`repos` must be a list"),
            (changed("grace_period: 2", "grace_period: [2"), "this is not valid YAML"),
            (changed("inbound_timeout_millis: 30000", "grace_period: 3"), "not valid YAML"),
            (changed("name: acme/site", "name: acme/site\n    name: acme/site"), "not valid YAML"),
            (imported(without_lists).unwrap_err(), "there is no list of runners"),
            (imported("").unwrap_err(), "one YAML document"),
            (imported("a text").unwrap_err(), "the file must be a mapping"),
            (
                changed(
                    "enterprises:",
                    "  - name: acme-site\n    github_base_uri: https://api.github.com\nenterprises:",
                ),
                "`orgs[1]`: this is the same list as `orgs[0]`",
            ),
        ] {
            assert!(found.contains(part), "{found}");
            assert!(!found.contains("s3cret"), "{found}");
        }
    }
}
