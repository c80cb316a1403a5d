//! Alerts that templates make, with the variables and filters of an older monitor, so that its templates work unchanged.
//!
//! Templates come from the administrator, what they are filled with does not: where they make JSON, a value becomes the
//! inside of a JSON text unless it has been encoded already. Absent: files that a template could include, and any
//! function that reaches outside.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error as Fault, ErrorKind, Output, State, UndefinedBehavior, Value, context};
use serde::Serialize;

use super::Error;
use super::event::{Event, Told, WatchedSource, labels};
use super::format::plain;
use crate::config::AlertEvent;
use crate::runners::transitions::Known;
use crate::telemetry::Chain;

/// How many steps a template may take.
const FUEL: u64 = 100_000;
/// The largest body that a template may make, in bytes.
const BODY_MAX: usize = 64 * 1024;

/// The templates of an alert.
pub(super) struct Templates {
    environment: Environment<'static>,
    content_type: String,
}

/// A runner as templates know it.
#[derive(Serialize)]
struct RunnerView {
    utc_ping_time: Option<Timestamp>,
    interpret_online: Option<bool>,
    online_for_github_api: Option<bool>,
    online_state_change_since: u32,
    runner_set: String,
    id: serde_json::Value,
    name: String,
    os: Option<String>,
    labels: Vec<String>,
}

impl RunnerView {
    fn new(known: &Known, source: &WatchedSource, pinged: Option<Timestamp>) -> Self {
        let id = known.seen.external_id.as_str();
        Self {
            utc_ping_time: pinged,
            interpret_online: known.confirmed,
            online_for_github_api: known.seen.online,
            online_state_change_since: known.differing,
            runner_set: source.set.clone(),
            id: id.parse::<i64>().map_or_else(|_| plain(id).into(), Into::into),
            name: plain(&known.seen.name),
            os: known.seen.os.as_deref().map(plain),
            labels: labels(known),
        }
    }
}

impl Templates {
    /// Reads and compiles them.
    pub(super) fn load(alert: &str, files: &BTreeMap<AlertEvent, PathBuf>, content_type: &str) -> Result<Self, Error> {
        let is_json = content_type.starts_with("application/json");
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_auto_escape_callback(move |_| if is_json { AutoEscape::Json } else { AutoEscape::None });
        environment.set_formatter(write);
        environment.add_filter("json_encode", |value: &Value| to_json(value).map(Value::from_safe_string));
        environment.add_filter("trim_start_matches", |text: &Value, options: Kwargs| {
            trim(text, &options, |text, pattern| text.trim_start_matches(pattern).to_owned())
        });
        environment.add_filter("trim_end_matches", |text: &Value, options: Kwargs| {
            trim(text, &options, |text, pattern| text.trim_end_matches(pattern).to_owned())
        });
        for (event, path) in files {
            let failed = |source| Error::Read { alert: alert.to_owned(), path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            let wrong = |source| Error::Template { alert: alert.to_owned(), path: path.clone(), source };
            environment.add_template_owned(event.kind(), text).map_err(wrong)?;
        }
        Ok(Self { environment, content_type: content_type.to_owned() })
    }

    /// The type and the text that the template of this event makes; `None` if it has none.
    pub(super) fn render(&self, event: &Event) -> Option<Result<(String, String), String>> {
        let template = self.environment.get_template(event.told.event().kind()).ok()?;
        let mut text = Bounded(Vec::new());
        let rendered = variables(event).and_then(|variables| template.render_captured_to(variables, &mut text));
        Some(rendered.map_err(|fault| Chain(&fault).to_string()).and_then(|_| self.check(text.0)))
    }

    fn check(&self, text: Vec<u8>) -> Result<(String, String), String> {
        if self.content_type.starts_with("application/json") {
            let json: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&text);
            json.map_err(|error| format!("what it makes is not JSON: {error}"))?;
        }
        let text = String::from_utf8(text).map_err(|_| "what it makes is not UTF-8".to_owned())?;
        Ok((self.content_type.clone(), text))
    }
}

fn variables(event: &Event) -> Result<Value, Fault> {
    let written = |runner: &RunnerView| {
        let json = serde_json::to_string_pretty(runner).map_err(|_| ErrorKind::BadSerialization)?;
        Ok::<_, Fault>(Value::from_safe_string(json))
    };
    let json = Value::from(Serde(event.json()));
    let Told::Runner { source, transition } = &event.told else { return Ok(context! { event => json }) };
    let old = transition.before.as_ref().map(|known| RunnerView::new(known, source, source.heard_before));
    let present = Some(&transition.after).filter(|after| after.is_present());
    let new = present.map(|known| RunnerView::new(known, source, Some(transition.at)));
    let mut variables = BTreeMap::from([("event", json)]);
    for (name, json_name, runner) in [("old_runner", "old_runner_json", old), ("new_runner", "new_runner_json", new)] {
        if let Some(runner) = runner {
            variables.insert(json_name, written(&runner)?);
            variables.insert(name, Value::from(Serde(runner)));
        }
    }
    Ok(variables.into())
}

/// Writes a value into the text that is made.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Fault> {
    let text = value.to_string();
    if value.is_safe() || *state.auto_escape() != AutoEscape::Json {
        out.write_str(&text)?;
    } else {
        out.write_str(inside(&to_json(&Value::from(text))?))?;
    }
    Ok(())
}

/// A text of JSON without its quotation marks.
fn inside(json: &str) -> &str {
    json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(json)
}

fn to_json(value: &Value) -> Result<String, Fault> {
    serde_json::to_string(value)
        .map_err(|error| Fault::new(ErrorKind::BadSerialization, "a value is not JSON").with_source(error))
}

fn trim(text: &Value, options: &Kwargs, cut: fn(&str, &str) -> String) -> Result<Value, Fault> {
    let pattern: String = options.get("pat")?;
    options.assert_all_used()?;
    let cut = cut(&text.to_string(), &pattern);
    Ok(if text.is_safe() { Value::from_safe_string(cut) } else { cut.into() })
}

/// A buffer that takes no more than a body may have.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BODY_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it makes more than 64 KiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::alerts::format::tests::turned;
    use crate::runners::transitions::Turn;

    /// What the template says of a runner that went offline, or whatever `turn` says.
    fn rendered(template: &str, content_type: &str, turn: Turn, name: &str) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("template");
        fs::write(&path, template).unwrap();
        let event = turned(turn, name);
        let files = BTreeMap::from([(event.told.event(), path)]);
        let templates = Templates::load("ops", &files, content_type).unwrap();
        templates.render(&event).unwrap().map(|(_, text)| text)
    }

    fn json_of(template: &str, turn: Turn, name: &str) -> Json {
        serde_json::from_str(&rendered(template, "application/json", turn, name).unwrap()).unwrap()
    }

    /// What the examples of the older monitor use: a name without a filter, a text in a text, and a comment.
    const OLDER: &str = r#"[{
    "summary": "Runner went Offline: {{ new_runner.name }}",
    {#- douple json encode needed  #}
    "event_body": "Old Runner:\n{{ old_runner_json | json_encode() | trim_start_matches(pat='"') | trim_end_matches(pat='"') | safe }}\n\nNew Runner:\n{{ new_runner_json | json_encode() | trim_start_matches(pat='"') | trim_end_matches(pat='"') |  safe }}",
    "type_field": "github_monitor"
}]
"#;

    #[test]
    fn the_templates_of_the_older_monitor_work_unchanged() {
        let body = json_of(OLDER, Turn::Offline, "build-1");
        assert_eq!(body[0]["summary"], "Runner went Offline: build-1");
        let text = body[0]["event_body"].as_str().unwrap();
        let (old, new) = text.strip_prefix("Old Runner:\n").unwrap().split_once("\n\nNew Runner:\n").unwrap();
        let (old, new): (Json, Json) = (serde_json::from_str(old).unwrap(), serde_json::from_str(new).unwrap());
        assert_eq!(
            new,
            json!({
                "utc_ping_time": "2026-01-01T00:01:00Z",
                "interpret_online": false,
                "online_for_github_api": false,
                "online_state_change_since": 0,
                "runner_set": "org: acme; github: https://api.github.com",
                "id": 69,
                "name": "build-1",
                "os": "linux",
                "labels": ["self-hosted", "build-1"],
            })
        );
        assert_eq!((&old["interpret_online"], &old["utc_ping_time"]), (&json!(true), &json!("2026-01-01T00:00:00Z")));
        assert!(text.contains("{\n  \"utc_ping_time\": "), "{text}");
    }

    #[test]
    fn each_event_has_the_runners_that_there_are() {
        let created = r#"["{{ new_runner.name }}", {{ new_runner_json }}]"#;
        assert_eq!(json_of(created, Turn::Created, "build-1")[1]["id"], 69);
        let removed = r#"["{{ old_runner.name }}", {{ old_runner_json }}]"#;
        assert_eq!(json_of(removed, Turn::Removed, "build-1")[0], "build-1");
        for (template, turn) in [(created, Turn::Removed), (removed, Turn::Created)] {
            assert!(rendered(template, "application/json", turn, "build-1").is_err());
        }
        let any = r#"{% if old_runner %}"old"{% else %}"new"{% endif %}"#;
        assert_eq!(json_of(any, Turn::Created, "build-1"), "new");
        assert_eq!(json_of(any, Turn::Removed, "build-1"), "old");
        let event = r#"["{{ event.id }}", "{{ event.type }}", {{ event.runner | json_encode }}]"#;
        let body = json_of(event, Turn::Offline, "build-1");
        assert_eq!((&body[1], &body[2]["state"]), (&json!("runner.offline"), &json!("offline")));
    }

    #[test]
    fn no_name_leaves_its_place_in_a_template_that_makes_json() {
        for name in ["\"},\"a\":{\"", "\\", "\\\"", "a\nb", "{{ 7 * 7 }}", "</script>"] {
            let template = r#"{"a": "{{ new_runner.name }}", "b": {{ new_runner.name | json_encode() }}, "c": "{{ new_runner.labels }}"}"#;
            let body = json_of(template, Turn::Offline, name);
            assert_eq!(body["a"].as_str().unwrap(), name.replace('\n', "\u{fffd}"));
            assert_eq!(body["a"], body["b"]);
            assert_eq!(body.as_object().unwrap().len(), 3);
        }
    }

    #[test]
    fn other_texts_are_written_as_they_are() {
        let text = rendered("{{ new_runner.name }} <{{ event.type }}>", "text/plain", Turn::Offline, "a \"b\" & c");
        assert_eq!(text.as_deref(), Ok("a \"b\" & c <runner.offline>"));
    }

    #[test]
    fn a_template_that_fails_says_why() {
        for (template, reason) in [
            ("{{ new_runner.nmae }}", "undefined"),
            ("{{ no_runner.name }}", "undefined"),
            ("{", "what it makes is not JSON"),
            ("\"{{ new_runner.name | json_encode() }}\"", "what it makes is not JSON"),
            ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
            ("{% for a in range(9999) %}0123456789{% endfor %}", "64 KiB"),
            ("{% include '/etc/passwd' %}", "/etc/passwd"),
        ] {
            let fault = rendered(template, "application/json", Turn::Offline, "build-1").unwrap_err();
            assert!(fault.contains(reason), "{template}: {fault}");
        }
    }
}
