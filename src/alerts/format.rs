//! The body of an alert, in each format, with what came from outside made harmless for it.

use serde_json::{Value, json};

use super::Error;
use super::event::Event;
use super::template::Templates;
use crate::config::{Alert, AlertFormat};

const JSON: &str = "application/json";

/// The longest text from outside that is told, in characters.
const TEXT_MAX: usize = 200;

/// A format that is ready to be used.
pub(super) enum Form {
    Json,
    Slack,
    Discord,
    Matrix,
    Ntfy,
    Template(Box<Templates>),
}

/// A body and its type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    /// Why a template did not make it.
    pub(super) fault: Option<String>,
}

impl Form {
    pub(super) fn load(alert: &Alert) -> Result<Self, Error> {
        Ok(match &alert.format {
            AlertFormat::Json => Self::Json,
            AlertFormat::Slack => Self::Slack,
            AlertFormat::Discord => Self::Discord,
            AlertFormat::Matrix => Self::Matrix,
            AlertFormat::Ntfy => Self::Ntfy,
            AlertFormat::Template { files, content_type } => {
                Self::Template(Box::new(Templates::load(&alert.name, files, content_type)?))
            }
        })
    }

    pub(super) fn render(&self, event: &Event) -> Rendered {
        match self {
            Self::Json => plain_json(event, None),
            // Slack turns nothing else into a mention or a link: https://docs.slack.dev/messaging/formatting-message-text
            Self::Slack => {
                let text = event.told.line().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                of_value(&json!({"text": text, "mrkdwn": false, "unfurl_links": false, "unfurl_media": false}))
            }
            // The flag keeps Discord from showing what a link leads to.
            Self::Discord => of_value(&json!({
                "content": without_markdown(&event.told.line()),
                "allowed_mentions": {"parse": []},
                "flags": 4,
            })),
            // Without the empty list of mentions, a client may look for names in the text.
            Self::Matrix => of_value(&json!({"msgtype": "m.text", "body": event.told.line(), "m.mentions": {}})),
            Self::Ntfy => {
                let content_type = "text/plain; charset=utf-8".to_owned();
                Rendered { content_type, body: event.told.line().into_bytes(), fault: None }
            }
            Self::Template(templates) => match templates.render(event) {
                None => plain_json(event, None),
                Some(Ok((content_type, text))) => Rendered { content_type, body: text.into_bytes(), fault: None },
                Some(Err(fault)) => plain_json(event, Some(fault)),
            },
        }
    }
}

fn plain_json(event: &Event, fault: Option<String>) -> Rendered {
    // A plain value can always be written; `json!` is the way without an error to handle.
    Rendered { fault, ..of_value(&json!(event.json())) }
}

fn of_value(value: &Value) -> Rendered {
    Rendered { content_type: JSON.to_owned(), body: value.to_string().into_bytes(), fault: None }
}

/// A text from outside, cut at 200 characters, without what controls a terminal or a reader's view: control characters,
/// and those that turn the direction of a text.
pub(super) fn plain(text: &str) -> String {
    let harmful = |char: char| {
        char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut cut: String =
        text.chars().take(TEXT_MAX).map(|char| if harmful(char) { '\u{fffd}' } else { char }).collect();
    if text.chars().nth(TEXT_MAX).is_some() {
        cut.push('…');
    }
    cut
}

/// Has a backslash before whatever Markdown could take for more than a letter.
fn without_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if "\\*_~`|>#[]()<@:-".contains(char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::alerts::event::{JobEvent, Part, SourceEvent, StorageEvent, Told, WatchedSource};
    use crate::run::{RunId, RunResult};
    use crate::runners::transitions::{Changes, Known, Transition, Turn};
    use crate::runners::uptime::{Entry, State};
    use crate::runners::{ExternalId, Kind, Provider, Seen};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn source() -> WatchedSource {
        WatchedSource {
            name: "acme".parse().unwrap(),
            provider: Provider::GitHub,
            set: "org: acme; github: https://api.github.com".to_owned(),
            heard_before: Some(at(0)),
        }
    }

    fn known(name: &str, online: bool) -> Known {
        Known {
            seen: Seen {
                external_id: ExternalId::new("69"),
                name: name.to_owned(),
                os: Some("linux".to_owned()),
                labels: vec!["self-hosted".to_owned(), name.to_owned()],
                online: Some(online),
                status: "idle".to_owned(),
                busy: Some(false),
                paused: None,
                ephemeral: None,
                version: None,
                kind: Some(Kind::Organization),
                contacted_at: None,
                locked: None,
            },
            first_seen: at(0),
            confirmed: Some(online),
            differing: 0,
            differing_since: None,
            missing: false,
            changes: Changes::default(),
            entry: Entry::first(at(if online { 0 } else { 60 }), State::told(Some(online))),
        }
    }

    fn event(told: Told) -> Event {
        Event { id: Uuid::from_u128(7), at: at(60), told }
    }

    /// A runner of that name went offline, or whatever `turn` says.
    pub(crate) fn turned(turn: Turn, name: &str) -> Event {
        let before = (turn != Turn::Created).then(|| known(name, true));
        let mut after = known(name, turn == Turn::Created);
        if turn == Turn::Removed {
            after.entry = after.entry.next(at(60), State::Removed).unwrap();
        }
        let transition = Box::new(Transition { turn, at: at(60), before, after });
        event(Told::Runner { source: source(), transition })
    }

    fn json_of(event: &Event) -> Value {
        let rendered = Form::Json.render(event);
        assert_eq!((rendered.content_type.as_str(), rendered.fault), (JSON, None));
        serde_json::from_slice(&rendered.body).unwrap()
    }

    fn text_of(form: &Form, event: &Event) -> String {
        String::from_utf8(form.render(event).body).unwrap()
    }

    /// What a runner may be called by whoever registers it.
    const NASTY: [&str; 8] = [
        "<!channel> <https://evil.example|click>",
        "@everyone @here <@123>",
        "a\r\nX-Header: b\u{1b}[31m\u{9b}0m",
        "{{ 7 * 7 }}{% raw %}",
        "\u{202e}txet\u{2066}",
        "\"},\"type\":\"runner.online\",\"x\":{\"",
        "**b** [a](https://evil.example) `c` ||d||",
        "\\\"\\\\",
    ];

    #[test]
    fn the_json_is_the_documented_one() {
        let offline = json_of(&turned(Turn::Offline, "build-1"));
        let runner = &offline["runner"];
        assert_eq!(
            offline,
            json!({
                "id": "00000000-0000-0000-0000-000000000007",
                "type": "runner.offline",
                "at": "2026-01-01T00:01:00Z",
                "runner": {
                    "id": runner["id"],
                    "provider": "github",
                    "source": "acme",
                    "external_id": "69",
                    "name": "build-1",
                    "os": "linux",
                    "labels": ["self-hosted", "build-1"],
                    "kind": "organization",
                    "state": "offline",
                    "busy": false,
                    "paused": null,
                    "since": "2026-01-01T00:01:00Z",
                },
                "previous": {
                    "id": runner["id"],
                    "provider": "github",
                    "source": "acme",
                    "external_id": "69",
                    "name": "build-1",
                    "os": "linux",
                    "labels": ["self-hosted", "build-1"],
                    "kind": "organization",
                    "state": "online",
                    "busy": false,
                    "paused": null,
                },
            })
        );
        assert_eq!(json_of(&turned(Turn::Created, "build-1"))["previous"], Value::Null);
        assert_eq!(json_of(&turned(Turn::Removed, "build-1"))["runner"]["state"], "removed");
    }

    #[test]
    fn events_of_sources_and_jobs_say_what_they_are_about() {
        let unreachable = SourceEvent::Unreachable { since: at(0), error: "timeout\n".to_owned() };
        let source_event = event(Told::Source { source: source(), event: unreachable });
        let expected =
            json!({"name": "acme", "provider": "github", "since": "2026-01-01T00:00:00Z", "error": "timeout\u{fffd}"});
        assert_eq!(json_of(&source_event)["source"], expected);
        let job = crate::policy::JobName::parse("ci-test-build").unwrap();
        let run = RunId::from_bytes([1; 16]);
        let failed = JobEvent::Failed { result: RunResult::Failed("exit-code".to_owned()), exit_code: Some(3) };
        let failed = json_of(&event(Told::Job { job: job.clone(), run, event: failed }));
        assert_eq!((&failed["type"], &failed["job"]), (&json!("job.failed"), &json!("ci-test-build")));
        assert_eq!(failed["run"], json!({"id": run, "result": "exit-code", "exit_code": 3}));
        let lost = event(Told::Job { job, run, event: JobEvent::Lost { reason: None } });
        assert_eq!(json_of(&lost)["run"]["result"], "lost");
        assert_eq!(lost.told.line(), "nobody knows how job ci-test-build has ended");
        let storage = |about| event(Told::Storage { part: Part::History, event: about });
        let failed = storage(StorageEvent::Failed { error: "its disk is full\n".to_owned() });
        assert_eq!(json_of(&failed)["storage"], json!({"part": "history", "error": "its disk is full\u{fffd}"}));
        assert_eq!(failed.told.line(), "the history of ci-bridge cannot be written: its disk is full\u{fffd}");
        let recovered = json_of(&storage(StorageEvent::Recovered));
        assert_eq!(recovered["type"], "storage.recovered");
        assert_eq!(recovered["storage"], json!({"part": "history"}));
    }

    #[test]
    fn no_name_leaves_its_place_in_json() {
        for name in NASTY {
            let json = json_of(&turned(Turn::Offline, name));
            assert_eq!(json["type"], "runner.offline", "{name}");
            assert_eq!(json.as_object().unwrap().len(), 5, "{name}");
            for form in [Form::Slack, Form::Discord, Form::Matrix] {
                let body: Value = serde_json::from_str(&text_of(&form, &turned(Turn::Offline, name))).unwrap();
                assert!(body.as_object().unwrap().len() >= 3, "{name}");
            }
        }
    }

    #[test]
    fn no_name_mentions_or_links_in_slack() {
        for name in NASTY {
            let body: Value = serde_json::from_str(&text_of(&Form::Slack, &turned(Turn::Offline, name))).unwrap();
            let text = body["text"].as_str().unwrap();
            assert!(
                !text.contains(['<', '>'])
                    && !text.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").contains('&')
            );
        }
    }

    #[test]
    fn no_name_mentions_or_formats_in_discord() {
        for name in NASTY {
            let body: Value = serde_json::from_str(&text_of(&Form::Discord, &turned(Turn::Offline, name))).unwrap();
            assert_eq!(body["allowed_mentions"], json!({"parse": []}));
            let content = body["content"].as_str().unwrap();
            let mut chars = content.chars();
            while let Some(char) = chars.next() {
                if char == '\\' {
                    chars.next();
                } else {
                    assert!(!"*_~`|>#[]()<@:".contains(char), "{content}");
                }
            }
        }
    }

    #[test]
    fn no_name_controls_what_a_reader_sees() {
        for name in NASTY {
            for form in [Form::Matrix, Form::Ntfy, Form::Slack, Form::Discord, Form::Json] {
                let body = text_of(&form, &turned(Turn::Offline, name));
                assert!(!body.contains(['\r', '\n', '\u{1b}', '\u{9b}', '\u{202e}', '\u{2066}']), "{body:?}");
            }
        }
        assert_eq!(plain(&"ä".repeat(10_000)), "ä".repeat(TEXT_MAX) + "…");
        assert_eq!(plain(&"ä".repeat(TEXT_MAX)), "ä".repeat(TEXT_MAX));
    }

    #[test]
    fn a_line_says_what_happened() {
        let line = |turn| turned(turn, "build-1").told.line();
        assert_eq!(line(Turn::Offline), "runner build-1 (acme) is offline");
        assert_eq!(line(Turn::Online), "runner build-1 (acme) is online");
        assert_eq!(line(Turn::Created), "runner build-1 (acme) is new");
        assert_eq!(line(Turn::Removed), "runner build-1 (acme) was removed");
        assert_eq!(line(Turn::Flapping), "runner build-1 (acme) goes online and offline again and again");
    }
}
