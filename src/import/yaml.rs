//! A reader of YAML files that names the place of each mistake, and never repeats a value: it may be a secret.

use std::fmt;
use std::ops::RangeInclusive;

use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, YamlData};

use crate::config::Fault;

/// A value of a file.
pub(super) struct Node<'d> {
    yaml: &'d MarkedYaml<'d>,
    /// Which keys lead to it, such as `orgs[0].name`; empty for the whole file.
    place: String,
}

/// Parses a file of one document and has `read` look at it.
///
/// # Errors
/// The first mistake, of the form or one that `read` finds.
pub(super) fn read<T>(text: &str, read: impl FnOnce(&Node<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|error| Fault::at(error.marker().line(), format!("this is not valid YAML: {}", error.info())))?;
    match &documents[..] {
        [yaml] => read(&Node { yaml, place: String::new() }),
        _ => Err(Fault::new("one YAML document is expected in this file")),
    }
}

impl<'d> Node<'d> {
    /// Which keys lead to it.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// A mistake in this value.
    pub(super) fn fault(&self, what: impl fmt::Display) -> Fault {
        Fault::at(self.yaml.span.start.line(), format!("`{}`: {what}", self.place))
    }

    fn expected(&self, what: &str) -> Fault {
        let place = if self.place.is_empty() { "the file".to_owned() } else { format!("`{}`", self.place) };
        Fault::at(self.yaml.span.start.line(), format!("{place} must be {what}"))
    }

    /// The keys of a mapping, and its values.
    fn entries(&self) -> Result<Vec<(&'d str, Self)>, Fault> {
        let YamlData::Mapping(entries) = &self.yaml.data else {
            return Err(self.expected("a mapping, such as `name: acme`"));
        };
        let named = entries.iter().filter_map(|(key, yaml)| match &key.data {
            YamlData::Value(Scalar::String(key)) => {
                let place = if self.place.is_empty() { key.to_string() } else { format!("{}.{key}", self.place) };
                Some((key.as_ref(), Node { yaml, place }))
            }
            _ => None,
        });
        Ok(named.collect())
    }

    /// The keys that are not among `known`, with what leads to them.
    pub(super) fn others(&self, known: &[&str]) -> Result<Vec<String>, Fault> {
        let others = self.entries()?.into_iter().filter(|(key, _)| !known.contains(key));
        Ok(others.map(|(_, node)| node.place).collect())
    }

    /// The value of `key`; one that is empty is absent.
    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, Fault> {
        let found = self.entries()?.into_iter().find(|(name, _)| *name == key);
        let is_empty = |node: &Self| matches!(node.yaml.data, YamlData::Value(Scalar::Null));
        Ok(found.map(|(_, node)| node).filter(|node| !is_empty(node)))
    }

    /// The value of `key`.
    pub(super) fn require(&self, key: &str, example: &str) -> Result<Self, Fault> {
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        let line = self.yaml.span.start.line();
        self.get(key)?.ok_or_else(|| Fault::at(line, format!("`{place}` is missing; add `{key}: {example}`")))
    }

    /// The elements of the list `key`; none if it is absent.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>, Fault> {
        let Some(list) = self.get(key)? else { return Ok(Vec::new()) };
        let YamlData::Sequence(elements) = &list.yaml.data else {
            return Err(list.expected("a list, each element after a `-`"));
        };
        let element = |(at, yaml)| Node { yaml, place: format!("{}[{at}]", list.place) };
        Ok(elements.iter().enumerate().map(element).collect())
    }

    /// The text, which is not empty.
    pub(super) fn text(&self) -> Result<&'d str, Fault> {
        match &self.yaml.data {
            YamlData::Value(Scalar::String(text)) if !text.is_empty() => Ok(text),
            _ => Err(self.expected("a text; put it in quotes")),
        }
    }

    /// The text, parsed by `parse`.
    pub(super) fn parsed<T, E: fmt::Display>(&self, parse: impl FnOnce(&'d str) -> Result<T, E>) -> Result<T, Fault> {
        parse(self.text()?).map_err(|error| self.fault(error))
    }

    /// The whole number, within `range`.
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Result<u64, Fault> {
        let YamlData::Value(Scalar::Integer(number)) = &self.yaml.data else {
            return Err(self.expected("a whole number"));
        };
        let number = u64::try_from(*number).ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.fault(format!("choose {} to {}", range.start(), range.end())))
    }
}
