//! The lists of runners that are watched: `[[runners.github]]` and `[[runners.gitlab]]`.
//!
//! Absent on purpose: the tokens themselves. The settings only say where each one is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::document::{Fault, Section};
use super::{ApiUrl, parse_duration};

/// The longest name of a source, in bytes.
const NAME_MAX: usize = 64;

/// The longest name of an organisation or path of a group, in bytes; both services allow less.
const PLACE_MAX: usize = 255;

/// What the administrator calls a list of runners; unique among all of them.
///
/// 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(String);

/// A text that can't be a [`SourceName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name; write 1 to {NAME_MAX} of `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit")]
pub struct NotASourceName(String);

impl SourceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = NotASourceName;

    fn from_str(text: &str) -> Result<Self, NotASourceName> {
        if text.len() <= NAME_MAX && is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotASourceName(text.chars().take(NAME_MAX + 1).collect()))
        }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One list of runners at one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerSource {
    /// Its name.
    pub name: SourceName,
    /// Where the service's interface is. Default: github.com's or gitlab.com's.
    pub api: ApiUrl,
    /// The time from one poll to the next. Default: 60 s, 10 s to 1 h.
    pub interval: Duration,
    /// How long a runner must be in another state before that counts. Default: 3 polls.
    pub grace: Grace,
    /// Whether runners that take one job only are watched. Default: yes.
    pub ephemeral: bool,
    /// Whether a list that has lost half of its runners at once, and five or more, is believed only when the next poll
    /// says the same. Default: yes.
    pub doubt_mass_removal: bool,
    /// Whether the badges of its runners are shown to whoever asks. Default: no.
    pub public_badges: bool,
    /// The time for one answer of the service. Default: 30 s, 1 s to 5 min.
    pub timeout: Duration,
    /// Which list it is.
    pub list: RunnerList,
}

/// How long a runner must be in another state before that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// So many polls beyond the first one, 0 to 1000.
    Polls(u32),
    /// So long, up to 24 h.
    Time(Duration),
}

/// A list of runners, and how to get at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerList {
    /// One of github.com or of a GitHub Enterprise Server.
    GitHub {
        /// Whose runners.
        scope: GitHubScope,
        /// As whom.
        access: GitHubAccess,
        /// The `X-GitHub-Api-Version` to ask for. Default: `2022-11-28`.
        api_version: String,
    },
    /// One of gitlab.com or of a self-managed GitLab.
    GitLab {
        /// Whose runners.
        scope: GitLabScope,
        /// The token.
        token: SecretPlace,
        /// How the token is sent.
        auth: GitLabAuth,
        /// How many runners are asked about one by one in a poll, for what the list does not tell. Default: 10, 0 to
        /// 100.
        details: u32,
    },
}

/// Whose runners of GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitHubScope {
    /// Those of a repository.
    Repository {
        /// The user or organisation that it belongs to.
        owner: String,
        /// Its name.
        name: String,
    },
    /// Those of an organisation.
    Organization(String),
    /// Those of an enterprise, by its slug.
    Enterprise(String),
}

impl GitHubScope {
    /// That of a repository, by its owner and its name: `acme/site`.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn repository(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((owner, name)) if is_plain_name(owner) && !name.contains('/') && is_path_part(name) => {
                Ok(Self::Repository { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("`{text}` is no repository; write its owner and its name, such as `acme/site`")),
        }
    }

    /// That of an organisation, by its name.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn organization(text: &str) -> Result<Self, String> {
        plain_name(text).map(Self::Organization)
    }

    /// That of an enterprise, by its slug.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn enterprise(text: &str) -> Result<Self, String> {
        plain_name(text).map(Self::Enterprise)
    }
}

/// As whom GitHub is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitHubAccess {
    /// As whoever has a personal access token.
    Token(SecretPlace),
    /// As an installation of a GitHub App.
    App {
        /// The client id or the number of the app.
        app: String,
        /// The number of the installation.
        installation: u32,
        /// The app's private key, in PEM.
        key: SecretPlace,
    },
}

/// Whose runners of GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitLabScope {
    /// All of the GitLab, for an administrator.
    Instance,
    /// Those that the token's owner may manage.
    Owned,
    /// Those that a group may use, by its number or path.
    Group(String),
    /// Those that a project may use, by its number or path.
    Project(String),
}

/// How a token is sent to GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GitLabAuth {
    /// As `PRIVATE-TOKEN`: personal, group and project access tokens.
    #[default]
    PrivateToken,
    /// As `Authorization: Bearer`: tokens of OAuth, and the others too.
    Bearer,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a file, by its absolute path.
    File(PathBuf),
    /// In a credential that systemd hands to the service, by its name (`LoadCredential=`, systemd.exec(5)).
    Credential(String),
}

/// Reads `[runners]`.
pub(super) fn runners(root: &Section<'_>) -> Result<Vec<RunnerSource>, Fault> {
    let runners = root.section("runners")?;
    let github = runners.sections("github")?.into_iter().map(|section| (section, Service::GitHub));
    let gitlab = runners.sections("gitlab")?.into_iter().map(|section| (section, Service::GitLab));
    let mut sources: Vec<RunnerSource> = Vec::new();
    for (section, service) in github.chain(gitlab) {
        let name = section.require("name", "name = \"acme\"")?;
        let source = service.source(&section, name.parsed(str::parse)?)?;
        if sources.iter().any(|known| known.name == source.name) {
            return Err(name.fault(format!("`{}` is there twice; give each list its own name", source.name)));
        }
        sources.push(source);
    }
    Ok(sources)
}

/// Which keys a section may have.
#[derive(Clone, Copy)]
enum Service {
    GitHub,
    GitLab,
}

impl Service {
    fn source(self, section: &Section<'_>, name: SourceName) -> Result<RunnerSource, Fault> {
        let default_api = match self {
            Self::GitHub => "https://api.github.com",
            Self::GitLab => "https://gitlab.com/api/v4",
        };
        let api: Option<ApiUrl> = section.get("api").map(|value| value.parsed(str::parse)).transpose()?;
        let api = api.map_or_else(|| default_api.parse().map_err(Fault::new), Ok)?;
        let interval = length(section, "interval", 60, 10, 3600)?;
        let timeout = length(section, "timeout", 30, 1, 300)?;
        let grace = grace(section)?;
        let ephemeral = section.get("ephemeral").map_or(Ok(true), |value| value.flag())?;
        let doubt_mass_removal = section.get("doubt_mass_removal").map_or(Ok(true), |value| value.flag())?;
        let list = match self {
            Self::GitHub => github(section)?,
            Self::GitLab => gitlab(section)?,
        };
        let public_badges = section.get("public_badges").map_or(Ok(false), |value| value.flag())?;
        Ok(RunnerSource { name, api, interval, grace, ephemeral, doubt_mass_removal, public_badges, timeout, list })
    }
}

fn github(section: &Section<'_>) -> Result<RunnerList, Fault> {
    let repository = section.get("repository");
    let organization = section.get("organization");
    let enterprise = section.get("enterprise");
    let app = section.get("app_id").map(|value| value.parsed(plain_name)).transpose()?;
    let installation = section.get("installation_id").map(|value| value.number(1..=u32::MAX)).transpose()?;
    let key = secret(section, "private_key_file", "private_key_credential")?;
    let token = secret(section, "token_file", "credential")?;
    let api_version = section.get("api_version").map(|value| value.parsed(api_version)).transpose()?;

    let scope = match (repository, organization, enterprise) {
        (Some(value), None, None) => value.parsed(GitHubScope::repository)?,
        (None, Some(value), None) => value.parsed(GitHubScope::organization)?,
        (None, None, Some(value)) => value.parsed(GitHubScope::enterprise)?,
        _ => {
            return Err(section.fault(
                "whose runners? write one of `organization = \"acme\"`, `repository = \"acme/site\"`, \
                 `enterprise = \"acme\"`",
            ));
        }
    };
    let access = match (token, app, installation, key) {
        (Some(token), None, None, None) => GitHubAccess::Token(token),
        (None, Some(_), Some(_), Some(_)) if matches!(scope, GitHubScope::Enterprise(_)) => {
            return Err(
                section.fault("GitHub lets no app list the runners of an enterprise; use a token (`token_file`)")
            );
        }
        (None, Some(app), Some(installation), Some(key)) => GitHubAccess::App { app, installation, key },
        _ => {
            return Err(section.fault(
                "as whom? write either `token_file` (or `credential`), or for a GitHub App all of `app_id`, \
                 `installation_id` and `private_key_file` (or `private_key_credential`)",
            ));
        }
    };
    Ok(RunnerList::GitHub { scope, access, api_version: api_version.unwrap_or_else(|| "2022-11-28".to_owned()) })
}

fn gitlab(section: &Section<'_>) -> Result<RunnerList, Fault> {
    let word = section.require("scope", "scope = \"instance\"")?;
    let group = section.get("group").map(|value| value.parsed(place_path)).transpose()?;
    let project = section.get("project").map(|value| value.parsed(place_path)).transpose()?;
    let scope = match (word.text()?, group, project) {
        ("instance", None, None) => GitLabScope::Instance,
        ("owned", None, None) => GitLabScope::Owned,
        ("group", Some(group), None) => GitLabScope::Group(group),
        ("project", None, Some(project)) => GitLabScope::Project(project),
        _ => {
            return Err(word.fault(
                "write `\"instance\"` (all runners, for an administrator), `\"owned\"` (those that the token may manage), \
                 `\"group\"` with `group = \"acme/tools\"`, or `\"project\"` with `project = \"acme/site\"`",
            ));
        }
    };
    let auth = section.get("auth").map(|value| value.parsed(auth)).transpose()?.unwrap_or_default();
    let details = section.get("details").map_or(Ok(10), |value| value.number(0..=100))?;
    let token = secret(section, "token_file", "credential")?
        .ok_or_else(|| section.fault("there is no token; write `token_file = \"/etc/ci-bridge/secrets/gitlab\"`"))?;
    Ok(RunnerList::GitLab { scope, token, auth, details })
}

fn secret(section: &Section<'_>, file: &str, credential: &str) -> Result<Option<SecretPlace>, Fault> {
    match (section.get(file), section.get(credential)) {
        (None, None) => Ok(None),
        (Some(value), None) => super::absolute(&value).map(|path| Some(SecretPlace::File(path))),
        (None, Some(value)) => value.parsed(plain_name).map(|name| Some(SecretPlace::Credential(name))),
        (Some(_), Some(value)) => Err(value.fault(format!("`{file}` is there too; remove one of them"))),
    }
}

fn grace(section: &Section<'_>) -> Result<Grace, Fault> {
    let Some(value) = section.get("grace") else { return Ok(Grace::Polls(3)) };
    if value.text().is_err() {
        return value.number(0..=1000).map(Grace::Polls);
    }
    let time = value.parsed(parse_duration)?;
    if time > Duration::from_hours(24) {
        return Err(value.fault("choose at most `24h`"));
    }
    Ok(Grace::Time(time))
}

/// A length of time; `default`, `min` and `max` are seconds.
fn length(section: &Section<'_>, key: &str, default: u64, min: u64, max: u64) -> Result<Duration, Fault> {
    let Some(value) = section.get(key) else { return Ok(Duration::from_secs(default)) };
    let length = value.parsed(parse_duration)?;
    if length < Duration::from_secs(min) || length > Duration::from_secs(max) {
        return Err(value.fault(format!("choose between `{min}s` and `{max}s`")));
    }
    Ok(length)
}

fn auth(text: &str) -> Result<GitLabAuth, String> {
    match text {
        "private-token" => Ok(GitLabAuth::PrivateToken),
        "bearer" => Ok(GitLabAuth::Bearer),
        _ => Err(format!("`{text}` is no choice; write `private-token` or `bearer`")),
    }
}

fn api_version(text: &str) -> Result<String, String> {
    let date: Result<jiff::civil::Date, _> = text.parse();
    match date {
        Ok(date) if date.to_string() == text => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no version; write a date such as `2022-11-28`")),
    }
}

fn plain_name(text: &str) -> Result<String, String> {
    if text.len() <= PLACE_MAX && is_plain_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no name; write `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit"))
    }
}

/// The number or the full path of a group or a project.
fn place_path(text: &str) -> Result<String, String> {
    if text.len() <= PLACE_MAX && text.split('/').all(is_path_part) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is neither a number nor a path such as `acme/tools`"))
    }
}

fn is_plain_name(text: &str) -> bool {
    is_path_part(text) && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Whether `text` can be a part of a path that means neither this place nor the one above.
fn is_path_part(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.bytes().all(fits) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn parse(text: &str) -> Result<Vec<RunnerSource>, Fault> {
        Settings::parse(&format!("jobs.prefixes = [\"ci-test-\"]\n{text}")).map(|settings| settings.runners)
    }

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_name_is_short_and_plain() {
        for text in ["acme", "a", "lab.example-1_x", &"a".repeat(NAME_MAX)] {
            assert_eq!(text.parse::<SourceName>().map(|name| name.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(NAME_MAX + 1)] {
            assert!(text.parse::<SourceName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn without_a_section_no_list_is_watched() {
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn the_smallest_sections_have_a_default_for_everything_else() {
        let sources = parse(
            r#"
            [[runners.github]]
            name = "acme"
            organization = "acme"
            token_file = "/etc/ci-bridge/secrets/github-acme"

            [[runners.gitlab]]
            name = "lab"
            scope = "owned"
            credential = "gitlab-lab"
            "#,
        )
        .unwrap();
        let expected = [
            RunnerSource {
                name: "acme".parse().unwrap(),
                api: "https://api.github.com".parse().unwrap(),
                interval: Duration::from_mins(1),
                grace: Grace::Polls(3),
                ephemeral: true,
                doubt_mass_removal: true,
                public_badges: false,
                timeout: Duration::from_secs(30),
                list: RunnerList::GitHub {
                    scope: GitHubScope::Organization("acme".to_owned()),
                    access: GitHubAccess::Token(SecretPlace::File("/etc/ci-bridge/secrets/github-acme".into())),
                    api_version: "2022-11-28".to_owned(),
                },
            },
            RunnerSource {
                name: "lab".parse().unwrap(),
                api: "https://gitlab.com/api/v4".parse().unwrap(),
                interval: Duration::from_mins(1),
                grace: Grace::Polls(3),
                ephemeral: true,
                doubt_mass_removal: true,
                public_badges: false,
                timeout: Duration::from_secs(30),
                list: RunnerList::GitLab {
                    scope: GitLabScope::Owned,
                    token: SecretPlace::Credential("gitlab-lab".to_owned()),
                    auth: GitLabAuth::PrivateToken,
                    details: 10,
                },
            },
        ];
        assert_eq!(sources, expected);
    }

    #[test]
    fn every_key_is_read() {
        let sources = parse(
            r#"
            [[runners.github]]
            name = "site"
            api = "https://github.example.com/api/v3"
            repository = "acme/.github"
            app_id = "Iv23li"
            installation_id = 7
            private_key_credential = "github-app"
            api_version = "2026-03-10"
            interval = "5m"
            grace = "10m"
            timeout = "10s"

            [[runners.gitlab]]
            name = "tools"
            api = "http://127.0.0.1:8080/api/v4/"
            scope = "group"
            group = "acme/tools"
            token_file = "/run/secrets/tools"
            auth = "bearer"
            details = 0
            grace = 0
            "#,
        )
        .unwrap();
        let [github, gitlab] = &sources[..] else { panic!("{sources:?}") };
        let scope = GitHubScope::Repository { owner: "acme".to_owned(), name: ".github".to_owned() };
        let key = SecretPlace::Credential("github-app".to_owned());
        let access = GitHubAccess::App { app: "Iv23li".to_owned(), installation: 7, key };
        assert_eq!(github.list, RunnerList::GitHub { scope, access, api_version: "2026-03-10".to_owned() });
        assert_eq!(github.api.to_string(), "https://github.example.com/api/v3");
        assert_eq!((github.interval, github.timeout), (Duration::from_mins(5), Duration::from_secs(10)));
        assert_eq!(github.grace, Grace::Time(Duration::from_mins(10)));
        let token = SecretPlace::File("/run/secrets/tools".into());
        let scope = GitLabScope::Group("acme/tools".to_owned());
        assert_eq!(gitlab.list, RunnerList::GitLab { scope, token, auth: GitLabAuth::Bearer, details: 0 });
        assert_eq!(gitlab.api.to_string(), "http://127.0.0.1:8080/api/v4");
        assert_eq!(gitlab.grace, Grace::Polls(0));
    }

    #[test]
    fn a_mistake_is_told_with_its_remedy() {
        let github = |keys: &str| fault(&format!("[[runners.github]]\nname = \"acme\"\n{keys}"));
        let gitlab = |keys: &str| fault(&format!("[[runners.gitlab]]\nname = \"lab\"\n{keys}"));
        for (found, expected) in [
            (fault("[[runners.github]]\n"), "`runners.github[0].name` is missing; add `name = \"acme\"`"),
            (
                fault("[[runners.github]]\nname = \"a b\"\n"),
                "line 3: `runners.github[0].name`: `a b` is no name; write",
            ),
            (github(""), "line 2: `runners.github[0]`: whose runners? write one of `organization = \"acme\"`"),
            (
                github("organization = \"acme\"\nrepository = \"acme/site\"\n"),
                "line 2: `runners.github[0]`: whose runners?",
            ),
            (
                github("repository = \"site\"\n"),
                "line 4: `runners.github[0].repository`: `site` is no repository; write",
            ),
            (github("organization = \"../x\"\n"), "line 4: `runners.github[0].organization`: `../x` is no name"),
            (github("organization = \"acme\"\n"), "line 2: `runners.github[0]`: as whom? write either `token_file`"),
            (
                github("organization = \"acme\"\napp_id = \"1\"\ntoken_file = \"/t\"\n"),
                "line 2: `runners.github[0]`: as whom?",
            ),
            (
                github("enterprise = \"a\"\napp_id = \"1\"\ninstallation_id = 1\nprivate_key_file = \"/k\"\n"),
                "line 2: `runners.github[0]`: GitHub lets no app list the runners of an enterprise",
            ),
            (
                github("organization = \"acme\"\ntoken_file = \"t\"\n"),
                "line 5: `runners.github[0].token_file`: `t` must start with `/`",
            ),
            (
                github("token_file = \"/t\"\ncredential = \"t\"\n"),
                "line 5: `runners.github[0].credential`: `token_file` is there too; remove one of them",
            ),
            (github("credential = \"../t\"\n"), "line 4: `runners.github[0].credential`: `../t` is no name"),
            (github("api_version = \"3\"\n"), "line 4: `runners.github[0].api_version`: `3` is no version"),
            (
                github("api = \"http://github.example.com\"\n"),
                "line 4: `runners.github[0].api`: `http://github.example.com` would send the token in the clear; write `https://`",
            ),
            (github("interval = \"1s\"\n"), "line 4: `runners.github[0].interval`: choose between `10s` and `3600s`"),
            (github("grace = \"25h\"\n"), "line 4: `runners.github[0].grace`: choose at most `24h`"),
            (github("grace = 1001\n"), "line 4: `runners.github[0].grace`: 1001 is out of range; choose 0 to 1000"),
            (
                github("organisation = \"acme\"\norganization = \"acme\"\ntoken_file = \"/t\"\n"),
                "line 4: unknown key `runners.github.organisation`; did you mean `runners.github.organization`?",
            ),
            (gitlab(""), "`runners.gitlab[0].scope` is missing; add `scope = \"instance\"`"),
            (gitlab("scope = \"all\"\n"), "line 4: `runners.gitlab[0].scope`: write `\"instance\"` (all runners"),
            (gitlab("scope = \"group\"\n"), "line 4: `runners.gitlab[0].scope`: write"),
            (gitlab("scope = \"owned\"\ngroup = \"a\"\n"), "line 4: `runners.gitlab[0].scope`: write"),
            (gitlab("scope = \"owned\"\n"), "line 2: `runners.gitlab[0]`: there is no token; write `token_file"),
            (
                gitlab("scope = \"project\"\nproject = \"a//b\"\n"),
                "line 5: `runners.gitlab[0].project`: `a//b` is neither a number nor a path",
            ),
            (gitlab("scope = \"owned\"\nauth = \"basic\"\n"), "line 5: `runners.gitlab[0].auth`: `basic` is no choice"),
        ] {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn two_lists_have_two_names_also_at_two_services() {
        let text = "[[runners.github]]\nname = \"a\"\norganization = \"a\"\ntoken_file = \"/t\"\n\
                    [[runners.gitlab]]\nname = \"a\"\nscope = \"owned\"\ntoken_file = \"/t\"\n";
        let expected = "line 7: `runners.gitlab[0].name`: `a` is there twice; give each list its own name";
        assert_eq!(fault(text), expected);
    }
}
