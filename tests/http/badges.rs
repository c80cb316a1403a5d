//! Badges of runners: who sees them, and what they show.

use ci_bridge::config::{RunnerSource, Settings};
use serde_json::json;
use tempfile::TempDir;

use crate::bridge::{Bridge, Setup};
use crate::fleet::Fleet;
use crate::fleet::github::{GitHub, runner};
use crate::wire::Answer;

/// Runner 69 of `open` and of `closed`.
const OPEN: &str = "open";
const CLOSED: &str = "closed";
const NOBODY: &str = "00000000-0000-8000-8000-000000000000";

/// Two lists of the same runners, of which one has public badges.
fn sources(fleet: &Fleet, directory: &TempDir) -> Vec<RunnerSource> {
    std::fs::write(directory.path().join("token"), "ghp-good").unwrap();
    let mut text = "jobs.prefixes = [\"ci-test-\"]\n".to_owned();
    for (name, keys) in [(OPEN, "public_badges = true"), (CLOSED, "")] {
        text.push_str(&format!(
            "[[runners.github]]\nname = \"{name}\"\napi = \"{}\"\norganization = \"acme\"\ntoken_file = \"{}/token\"\n\
             grace = 0\n{keys}\n",
            fleet.github_api(),
            directory.path().display()
        ));
    }
    Settings::parse(&text).unwrap().runners
}

struct Place {
    bridge: Bridge,
    fleet: Fleet,
    _directory: TempDir,
}

impl Place {
    async fn new(name: &str) -> Self {
        let (fleet, directory) = (Fleet::start().await, tempfile::tempdir().unwrap());
        fleet.world().github = GitHub::acme([runner(69, name, "online")]);
        let setup = Setup { runners: sources(&fleet, &directory), ..Setup::default() };
        let bridge = Bridge::with(vec![], setup).await;
        bridge.until("GET /api/runners", |answer| answer.json()["runners"][1].is_object()).await;
        Self { bridge, fleet, _directory: directory }
    }

    /// The path of the badge of the runner of a list.
    async fn badge(&self, source: &str) -> String {
        let list = self.bridge.call(&format!("GET /api/runners?source={source}")).await.json();
        format!("/api/runners/{}/badge.svg", list["runners"][0]["id"].as_str().unwrap())
    }

    async fn without_a_token(&self, path: &str) -> Answer {
        self.bridge.call_with(&format!("GET {path}"), &[]).await
    }
}

/// An answer without what is of each request its own.
fn told(answer: &Answer) -> (u16, String, Vec<String>) {
    let mut body = answer.json();
    body["request_id"] = json!(null);
    (answer.status, body.to_string(), answer.headers.iter().map(|(name, _)| name.clone()).collect())
}

/// The texts of a badge.
#[track_caller]
fn texts(answer: &Answer) -> String {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("image/svg+xml; charset=utf-8")),
        "{answer:?}"
    );
    let (_, rest) = answer.body.split_once("<title>").unwrap();
    rest.split_once("</title>").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_what_is_public_is_shown_and_the_rest_is_as_if_it_were_not_there() {
    let place = Place::new("build-1").await;
    let (open, closed) = (place.badge(OPEN).await, place.badge(CLOSED).await);
    let nobody = format!("/api/runners/{NOBODY}/badge.svg");
    let unknown = told(&place.without_a_token(&nobody).await);
    assert_eq!(unknown.0, 401);
    for path in [closed.clone(), "/api/runners/no-id/badge.svg".to_owned()] {
        assert_eq!(told(&place.without_a_token(&path).await), unknown, "{path}");
    }
    // A mistake in the rest of the request tells no more.
    for query in ["?window=24h", "?window=x", "?nope=1"] {
        for path in [&closed, &nobody] {
            assert_eq!(told(&place.without_a_token(&format!("{path}{query}")).await), unknown, "{path}{query}");
        }
    }
    assert_eq!(texts(&place.without_a_token(&open).await), "build-1: online");

    // Nothing else of the runner is public, and no other method.
    let one = open.trim_end_matches("/badge.svg");
    for path in [
        one.to_owned(),
        format!("{one}/transitions"),
        format!("{one}/uptime"),
        "/api/runners".to_owned(),
        "/metrics".to_owned(),
    ] {
        assert_eq!(place.without_a_token(&path).await.problem(), (401, "token_missing".to_owned()), "{path}");
    }
    let posted = place.bridge.call_with(&format!("POST {open}"), &[]).await;
    assert_eq!(posted.status, 405);

    // A token that is not valid is none.
    let bad = place.bridge.call_as(&place.bridge.tokens.revoked, &format!("GET {open}")).await;
    assert_eq!(bad.problem(), (401, "token_revoked".to_owned()));
    let reader = &place.bridge.tokens.reader;
    assert_eq!(texts(&place.bridge.call_as(reader, &format!("GET {closed}")).await), "build-1: online");
    let in_url = place.without_a_token(&format!("{closed}?token={reader}")).await;
    assert_eq!(texts(&in_url), "build-1: online");
    let unknown = place.bridge.call_as(reader, &format!("GET {nobody}")).await;
    assert_eq!(unknown.problem(), (404, "no_such_runner".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_badge_shows_the_state_or_the_uptime_and_is_asked_for_anew() {
    let place = Place::new("build-1").await;
    let open = place.badge(OPEN).await;
    let answer = place.without_a_token(&open).await;
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'"));
    for (query, text) in [
        ("?window=24h", "build-1 uptime 24h: 100%"),
        ("?window=7d", "build-1 uptime 7d: 100%"),
        ("?window=2020-01-01T00:00:00Z..2020-01-02T00:00:00Z", "build-1 uptime: unknown"),
    ] {
        assert_eq!(texts(&place.without_a_token(&format!("{open}{query}")).await), text, "{query}");
    }
    for query in ["?window=24", "?window=", "?from=1"] {
        let refused = place.without_a_token(&format!("{open}{query}")).await;
        assert_eq!(refused.problem(), (400, "invalid_parameter".to_owned()), "{query}");
    }
    place.fleet.world().github.runners[0]["status"] = json!("offline");
    place.bridge.call("POST /api/runners/poll").await;
    place.bridge.until(&format!("GET {open}"), |answer| texts(answer) == "build-1: offline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_runner_becomes_a_part_of_the_picture() {
    let place = Place::new("</title><script>alert('1')</script>&\u{1b}\u{0}").await;
    let answer = place.without_a_token(&place.badge(OPEN).await).await;
    let shown = "&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;\u{fffd}\u{fffd}: online";
    assert_eq!(texts(&answer), shown);
    assert!(!answer.body.contains("<script"), "{answer:?}");
}
