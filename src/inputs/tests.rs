use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::{Policy, Prefix};

fn job(name: &str) -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    policy.admit(&JobName::from_unit(&format!("{name}.service")).unwrap()).unwrap()
}

fn name(text: &str) -> InputName {
    InputName::parse(text).unwrap()
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn inputs(job: &str, declared: Vec<(&str, Input)>) -> Inputs {
    let declared = declared.into_iter().map(|(text, input)| (name(text), input)).collect();
    Inputs::new(BTreeMap::from([(JobName::parse(job).unwrap(), declared)]))
}

fn given(value: Value) -> Map<String, Value> {
    let Value::Object(given) = value else { panic!("{value}") };
    given
}

/// What the one input `a` says to a value.
fn rule(input: Input, value: &Value) -> Option<Rule> {
    let inputs = inputs("ci-test-a", vec![("a", input)]);
    match inputs.accept(&job("ci-test-a"), &given(json!({ "a": value }))) {
        Ok(values) => {
            assert_eq!(values.get(&name("a")), value.as_str());
            None
        }
        Err(Error::Invalid { name: of, rule }) => {
            assert_eq!(of, name("a"));
            Some(rule)
        }
        Err(other) => panic!("{other}"),
    }
}

fn matching(text: &str) -> Input {
    Input::new(Some(pattern(text)), true, None).unwrap()
}

#[test]
fn a_job_without_inputs_takes_none() {
    let error = Inputs::default().accept(&job("ci-test-a"), &given(json!({"version": "v1"}))).unwrap_err();
    assert_eq!(error.to_string(), "the job has no input `version`; it takes none");
    let inputs = inputs("ci-test-a", vec![("version", matching("v1"))]);
    assert!(inputs.accept(&job("ci-test-b"), &given(json!({"version": "v1"}))).is_err());
    assert!(Inputs::default().accept(&job("ci-test-a"), &Map::new()).is_ok());
}

#[test]
fn an_unknown_input_is_told_which_there_are() {
    let inputs = inputs("ci-test-a", vec![("version", matching("v1")), ("channel", matching("beta"))]);
    for unknown in ["versio", "VERSION", "", "version ", "../version"] {
        let error = inputs.accept(&job("ci-test-a"), &given(json!({"version": "v1", unknown: "v1"}))).unwrap_err();
        assert_eq!(error.to_string(), format!("the job has no input `{unknown}`; it takes: channel, version"));
    }
    let long = "x".repeat(5000);
    assert!(inputs.accept(&job("ci-test-a"), &given(json!({ long: "v1" }))).unwrap_err().to_string().len() < 120);
}

#[test]
fn a_required_input_must_be_there_and_another_has_its_default() {
    let input = |required, default| Input::new(Some(pattern("v[0-9]+")), required, default).unwrap();
    let inputs =
        inputs("ci-test-a", vec![("a", input(true, None)), ("b", input(false, Some("v7"))), ("c", input(false, None))]);
    let error = inputs.accept(&job("ci-test-a"), &given(json!({"b": "v1"}))).unwrap_err();
    assert_eq!(error, Error::Missing(name("a")));
    let values = inputs.accept(&job("ci-test-a"), &given(json!({"a": "v1"}))).unwrap();
    assert_eq!(["a", "b", "c"].map(|input| values.get(&name(input))), [Some("v1"), Some("v7"), Some("")]);
    assert_eq!(values.get(&name("d")), None);
    // Who sends an empty text means it.
    let empty = inputs.accept(&job("ci-test-a"), &given(json!({"a": "v1", "b": ""})));
    assert!(matches!(empty, Err(Error::Invalid { rule: Rule::Pattern(_), .. })), "{empty:?}");
}

#[test]
fn a_pattern_matches_the_whole_value_whatever_it_says() {
    for (text, wrong) in [
        ("v1", "v1x"),
        ("v1", "xv1"),
        ("v1", "v1\n"),
        ("^v1$", "v1\n"),
        ("(?m)^v1$", "v1\nrm"),
        ("(?m)^v1$", "rm\nv1"),
        ("v1|v2", "v1 and more"),
        ("v1|v2", "more and v2"),
        ("v|v1", "v2"),
        ("", "v1"),
        ("(?s)v.", "v12"),
        (r"\d", "\u{661}"),
        (r"\w", "\u{e9}"),
        ("(?i)k", "\u{212a}"),
    ] {
        assert_eq!(rule(matching(text), &json!(wrong)), Some(Rule::Pattern(text.to_owned())), "{text}: {wrong:?}");
    }
    for (text, right) in
        [("v|v1", "v1"), ("^v[0-9.]+$", "v1.2"), (".{1,6}", "f\u{e9}e"), ("[^/]*", "\u{1f980}"), ("(?i)beta", "BETA")]
    {
        assert_eq!(rule(matching(text), &json!(right)), None, "{text}: {right:?}");
    }
}

#[test]
fn what_is_no_pattern_is_refused_with_the_reason() {
    for text in ["(", "a)|(?:b", "[z-a]", r"\p{Greek}", "a{5000}{5000}", "[\u{e9}]"] {
        let error = Pattern::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{text}` is no pattern: ")), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(Pattern::parse("v(").unwrap_err().to_string(), "`v(` is no pattern: unclosed group");
    // The longest value that there is can be asked for.
    assert!(pattern(".{0,4096}").matches(&"x".repeat(VALUE_MAX)));
}

#[test]
fn only_text_is_a_value() {
    for value in [json!(1), json!(1.10), json!(true), json!(null), json!(["v1"]), json!({"v": 1})] {
        assert_eq!(rule(matching(".*"), &value), Some(Rule::Text), "{value}");
    }
}

#[test]
fn a_value_has_a_length_and_no_control_characters() {
    let any = || Input::new(None, true, None).unwrap();
    assert_eq!(rule(any(), &json!("x".repeat(VALUE_MAX))), None);
    assert_eq!(rule(any(), &json!("x".repeat(VALUE_MAX + 1))), Some(Rule::Length));
    assert_eq!(rule(any(), &json!("\u{e9}".repeat(VALUE_MAX / 2 + 1))), Some(Rule::Length));
    for text in ["\0", "a\rb", "\u{1b}[31m", "\u{7f}", "\u{85}"] {
        assert_eq!(rule(any(), &json!(text)), Some(Rule::Control), "{text:?}");
        assert_eq!(rule(matching("(?s).*"), &json!(text)), Some(Rule::Control), "{text:?}");
    }
    // A newline is for a pattern to allow.
    assert_eq!(rule(any(), &json!("a\nb")), Some(Rule::Control));
    assert_eq!(rule(matching(".*"), &json!("a\nb")), Some(Rule::Pattern(".*".to_owned())));
    assert_eq!(rule(matching("(?s).*"), &json!("a\n\tb\n")), None);
    assert_eq!(rule(any(), &json!("a\tb \u{1f980} \u{202e}")), None);
}

#[test]
fn a_declaration_that_contradicts_itself_is_refused() {
    let input = |required, default| Input::new(Some(pattern("v[0-9]+")), required, default);
    assert_eq!(input(true, Some("v1")), Err(DeclarationError::RequiredWithDefault));
    let of_pattern = DeclarationError::Default(Rule::Pattern("v[0-9]+".to_owned()));
    assert_eq!(input(false, Some("latest")), Err(of_pattern.clone()));
    assert_eq!(input(false, Some("")), Err(of_pattern));
    assert!(input(false, Some("v1")).is_ok());
    assert_eq!(Input::new(None, false, Some("a\nb")), Err(DeclarationError::Default(Rule::Control)));
}

#[test]
fn a_template_declares_for_its_instances_and_an_instance_for_itself() {
    let of = |text: &str| BTreeMap::from([(name("a"), matching(text))]);
    let inputs = Inputs::new(BTreeMap::from([
        (JobName::parse("ci-test-a@").unwrap(), of("all")),
        (JobName::parse("ci-test-a@main").unwrap(), of("main")),
    ]));
    let accepts = |job_name: &str, value: &str| inputs.accept(&job(job_name), &given(json!({ "a": value }))).is_ok();
    assert!(accepts("ci-test-a@x", "all") && accepts(r"ci-test-a@feature-a\x2db", "all"));
    assert!(accepts("ci-test-a@main", "main") && !accepts("ci-test-a@main", "all"));
}

#[test]
fn an_instance_that_systemd_could_not_ask_for_is_refused() {
    let inputs = inputs("ci-test-a@", vec![("version", matching("v1"))]);
    let accept = |instance: usize| {
        inputs.accept(&job(&format!("ci-test-a@{}", "x".repeat(instance))), &given(json!({"version": "v1"})))
    };
    let longest = NAMES_MAX - "version".len() - "ci-test-a@.service".len();
    assert!(accept(longest).is_ok());
    assert_eq!(accept(longest + 1), Err(Error::LongJob(name("version"))));
    assert_eq!(NAMES_MAX, 83);
}

#[test]
fn a_name_is_lower_case_and_short() {
    for text in ["a", "version", "a_1", &"a".repeat(32)] {
        assert_eq!(InputName::parse(text).unwrap().as_str(), text);
    }
    for text in ["", "A", "1a", "_a", "a-b", "a.b", "a/b", "a:b", "\u{e9}", "a\n", &"a".repeat(33)] {
        assert!(InputName::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_is_accepted_comes_out_as_it_went_in(value in "\\PC{0,60}|[a-z\n\t\r]{0,20}") {
        let inputs = inputs("ci-test-a", vec![("a", matching("(?s).*"))]);
        match inputs.accept(&job("ci-test-a"), &given(json!({ "a": &value }))) {
            Ok(values) => prop_assert_eq!(values.get(&name("a")), Some(value.as_str())),
            Err(_) => prop_assert!(value.chars().any(char::is_control)),
        }
    }
}
