//! A strict reader of Prometheus's text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

/// The series of a metric, by their labels.
pub(crate) type Series = BTreeMap<BTreeMap<String, String>, f64>;

/// All metrics of an answer.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, Series>);

impl Metrics {
    /// Reads a text, in which each metric must have a help and a type, stand in one place, and have no series twice.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut metrics: BTreeMap<String, Series> = BTreeMap::new();
        let mut lines = text.split_terminator('\n').peekable();
        while let Some(line) = lines.next() {
            let (name, help) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')).expect(line);
            assert!(is_name(name) && !help.is_empty() && !help.contains('\\'), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).expect(line);
            assert!(["counter", "gauge"].contains(&kind), "{name} is a {kind}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            let mut series = Series::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let rest = line.strip_prefix(name).unwrap_or_else(|| panic!("not of {name}: {line}"));
                let (labels, value) = labels(rest);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(value.is_finite(), "{line}");
                assert_eq!(series.insert(labels, value), None, "it is there twice: {line}");
            }
            assert!(metrics.insert(name.to_owned(), series).is_none(), "{name} is there twice");
        }
        Self(metrics)
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The series of a metric.
    #[track_caller]
    pub(crate) fn of(&self, name: &str) -> &Series {
        self.0.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The value of the only series that has these labels, and maybe others.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| of.get(*name).map(String::as_str) == Some(*value))
        };
        let mut found = self.of(name).iter().filter(|(of, _)| has(of)).map(|(_, value)| *value);
        let value = found.next();
        assert_eq!(found.next(), None, "{name} {labels:?} are several");
        value
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// The labels of a series, and what follows them.
#[track_caller]
fn labels(rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = rest.strip_prefix('{') else {
        return (labels, rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {rest}")));
    };
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {rest}"));
        assert!(is_name(name) && !name.starts_with("__"), "{name}");
        let mut text = String::new();
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next() {
                Some((at, '"')) => break at + 1,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                    other => panic!("an escape that is none: {other:?}"),
                },
                Some((_, char)) => text.push(char),
                None => panic!("a value without an end: {rest}"),
            }
        };
        assert_eq!(labels.insert(name.to_owned(), text), None, "{name} is there twice");
        rest = &value[end..];
        if let Some(value) = rest.strip_prefix("} ") {
            return (labels, value);
        }
        rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("no comma: {rest}"));
    }
}
