//! A strict reader of TOML files: every key that nobody asked for is an error.
//!
//! The code that reads a key is the only place that names it, so the list of right keys and the suggestion for a wrong
//! one never disagree with what is read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Range, RangeInclusive};

use jiff::Timestamp;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// How alike two keys must be, from 0 to 1, for one to be offered instead of the other.
const ALIKE: f64 = 0.7;

/// One mistake in a file: where it is and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    line: Option<usize>,
    what: String,
}

impl Fault {
    /// A mistake that has no place of its own, such as a key that is missing.
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self { line: None, what: what.to_string() }
    }

    /// A mistake in that line, from 1.
    pub(crate) fn at(line: usize, what: impl fmt::Display) -> Self {
        Self { line: Some(line), what: what.to_string() }
    }

    /// The line of the mistake, from 1; `None` for what is missing.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// A parsed file that remembers which keys it was asked for.
pub(crate) struct Document<'t> {
    text: &'t str,
    table: Spanned<DeTable<'t>>,
    /// Paths of the keys that were asked for; every element of a list has the path of the list.
    asked: RefCell<BTreeSet<String>>,
}

impl<'t> Document<'t> {
    /// Parses `text` as TOML.
    pub(crate) fn parse(text: &'t str) -> Result<Self, Fault> {
        let table = DeTable::parse(text).map_err(|error| Fault {
            line: error.span().map(|span| line_of(text, &span)),
            what: format!("this is not valid TOML: {}", error.message().lines().next().unwrap_or("unknown error")),
        })?;
        Ok(Self { text, table, asked: RefCell::default() })
    }

    /// The top level of the file.
    pub(crate) fn root(&self) -> Section<'_> {
        Section {
            document: self,
            path: String::new(),
            place: String::new(),
            table: Some(self.table.get_ref()),
            span: None,
        }
    }

    /// Refuses the first key that nobody asked for. To be called when everything has been asked for.
    pub(crate) fn refuse_unknown(&self) -> Result<(), Fault> {
        self.refuse_unknown_in(self.table.get_ref(), "")
    }

    fn refuse_unknown_in(&self, table: &DeTable<'_>, parent: &str) -> Result<(), Fault> {
        for (key, value) in table {
            let path = join(parent, key.get_ref());
            if !self.asked.borrow().contains(&path) {
                let line = Some(line_of(self.text, &key.span()));
                return Err(Fault { line, what: format!("unknown key `{path}`{}", self.suggestion(parent, &path)) });
            }
            match value.get_ref() {
                DeValue::Table(inner) => self.refuse_unknown_in(inner, &path)?,
                DeValue::Array(list) => {
                    for inner in list.iter().filter_map(|element| element.get_ref().as_table()) {
                        self.refuse_unknown_in(inner, &path)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The right key nearest to `path`: one of the same section, else one of the same name elsewhere.
    fn suggestion(&self, parent: &str, path: &str) -> String {
        let asked = self.asked.borrow();
        let likeness = |right: &&String| {
            let (section, right_name) = split(right);
            let (_, name) = split(path);
            let penalty = if section == parent { 0.0 } else { 0.1 };
            strsim::jaro_winkler(name, right_name) - penalty
        };
        let nearest = asked.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        match nearest {
            Some(right) if likeness(&right) >= ALIKE => format!("; did you mean `{right}`?"),
            _ => {
                let right: Vec<_> =
                    asked.iter().filter(|right| split(right).0 == parent).map(|key| format!("`{key}`")).collect();
                format!("; the keys here are {}", right.join(", "))
            }
        }
    }
}

/// A table of the file; also one that is absent, so that its keys are known all the same.
pub(crate) struct Section<'d> {
    document: &'d Document<'d>,
    /// The dotted path for comparison.
    path: String,
    /// The dotted path to show, with the number of the element in a list of tables.
    place: String,
    table: Option<&'d DeTable<'d>>,
    /// Where it begins; `None` for what is absent, and for the whole file.
    span: Option<Range<usize>>,
}

impl<'d> Section<'d> {
    /// The value of `key`, if it is there.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'d>> {
        let path = join(&self.path, key);
        self.document.asked.borrow_mut().insert(path.clone());
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        let key = Some(name.get_ref().as_ref());
        Some(Value { document: self.document, path, place: join(&self.place, name.get_ref()), key, content: value })
    }

    /// All values of a table whose keys are names that the administrator chose, in the order of the keys.
    pub(crate) fn values(&self) -> Vec<Value<'d>> {
        let keys = self.table.into_iter().flat_map(|table| table.keys());
        keys.filter_map(|key| self.get(key.get_ref())).collect()
    }

    /// The value of `key`.
    pub(crate) fn require(&self, key: &str, example: &str) -> Result<Value<'d>, Fault> {
        self.get(key).ok_or_else(|| Fault::new(format!("`{}` is missing; add `{example}`", join(&self.place, key))))
    }

    /// A mistake in the table as a whole.
    pub(crate) fn fault(&self, what: impl fmt::Display) -> Fault {
        let line = self.span.as_ref().map(|span| line_of(self.document.text, span));
        Fault { line, what: format!("`{}`: {what}", self.place) }
    }

    /// The table `key`, which may be absent.
    pub(crate) fn section(&self, key: &str) -> Result<Self, Fault> {
        match self.get(key) {
            Some(value) => value.section(),
            None => Ok(Self {
                document: self.document,
                path: join(&self.path, key),
                place: join(&self.place, key),
                table: None,
                span: None,
            }),
        }
    }

    /// The tables of `[[key]]`, in the order of the file.
    pub(crate) fn sections(&self, key: &str) -> Result<Vec<Self>, Fault> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list = value.elements().ok_or_else(|| value.expected(&format!("written as `[[{key}]]`")))?;
        list.iter().map(Value::section).collect()
    }
}

/// A value of the file, with its place.
pub(crate) struct Value<'d> {
    document: &'d Document<'d>,
    path: String,
    place: String,
    /// The last key that leads to it; an element of a list has none.
    key: Option<&'d str>,
    content: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    /// The name under which it stands.
    pub(crate) fn key(&self) -> &'d str {
        self.key.unwrap_or_default()
    }

    /// A mistake in this value.
    pub(crate) fn fault(&self, what: impl fmt::Display) -> Fault {
        Fault {
            line: Some(line_of(self.document.text, &self.content.span())),
            what: format!("`{}`: {what}", self.place),
        }
    }

    fn expected(&self, what: &str) -> Fault {
        let line = Some(line_of(self.document.text, &self.content.span()));
        let found = self.content.get_ref().type_str();
        Fault { line, what: format!("`{}` must be {what}, not of type {found}", self.place) }
    }

    /// The text.
    pub(crate) fn text(&self) -> Result<&'d str, Fault> {
        self.content.get_ref().as_str().ok_or_else(|| self.expected("a string in quotes"))
    }

    /// The text, parsed by `parse`.
    pub(crate) fn parsed<T, E: fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, Fault> {
        parse(self.text()?).map_err(|error| self.fault(error))
    }

    /// The whole number, within `range`.
    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Fault> {
        let integer = self.content.get_ref().as_integer().ok_or_else(|| self.expected("a whole number"))?;
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            self.fault(format!("{integer} is out of range; choose {} to {}", range.start(), range.end()))
        })
    }

    /// Yes or no.
    pub(crate) fn flag(&self) -> Result<bool, Fault> {
        self.content.get_ref().as_bool().ok_or_else(|| self.expected("`true` or `false`"))
    }

    /// The moment, written as a TOML date-time with its offset or as the same in quotes.
    pub(crate) fn moment(&self) -> Result<Timestamp, Fault> {
        let text = match self.content.get_ref() {
            DeValue::Datetime(moment) => moment.to_string(),
            DeValue::String(text) => text.to_string(),
            _ => return Err(self.expected("a moment such as 2030-01-31T12:00:00Z")),
        };
        text.parse().map_err(|_| {
            self.fault(format!("`{text}` is no moment; write date, time and offset: 2030-01-31T12:00:00Z"))
        })
    }

    /// The elements, or this value alone if it is no list.
    pub(crate) fn one_or_more(&self) -> Vec<Self> {
        self.elements().unwrap_or_else(|| {
            vec![Self {
                document: self.document,
                path: self.path.clone(),
                place: self.place.clone(),
                key: self.key,
                content: self.content,
            }]
        })
    }

    /// The elements of a list.
    pub(crate) fn list(&self) -> Result<Vec<Self>, Fault> {
        self.elements().ok_or_else(|| self.expected("a list in brackets"))
    }

    fn elements(&self) -> Option<Vec<Self>> {
        let list = self.content.get_ref().as_array()?;
        let element = |(at, value)| Self {
            document: self.document,
            path: self.path.clone(),
            place: format!("{}[{at}]", self.place),
            key: None,
            content: value,
        };
        Some(list.iter().enumerate().map(element).collect())
    }

    /// The table.
    pub(crate) fn section(&self) -> Result<Section<'d>, Fault> {
        let table = self.content.get_ref().as_table().ok_or_else(|| self.expected("a table"))?;
        Ok(Section {
            document: self.document,
            path: self.path.clone(),
            place: self.place.clone(),
            table: Some(table),
            span: Some(self.content.span()),
        })
    }
}

/// The dotted path of a key, which stands in quotes where TOML wants it to.
fn join(parent: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let key = if key.bytes().all(bare) { key.to_owned() } else { format!("\"{key}\"") };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

/// The section and the last name of a dotted path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    before.split(|byte| *byte == b'\n').count()
}
