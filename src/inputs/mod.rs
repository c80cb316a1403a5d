//! Inputs: the texts that a job may be given with its start.
//!
//! The administrator declares them ([`Inputs`]), a start brings some, and [`Inputs::accept`] makes [`Values`] of the two or
//! names the rule that was broken. Pure; how a value reaches its unit is the affair of `credentials`. Absent on purpose:
//! numbers and booleans, which JSON does not keep as they were written (`1.10`), and secrets.

mod name;
mod pattern;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use self::name::{InputName, InputNameError};
pub use self::pattern::{Pattern, PatternError};
use crate::policy::{AllowedJob, JobName};

/// The longest value, in bytes.
pub const VALUE_MAX: usize = 4096;

/// The longest that the names of a unit and of an input may be together, in bytes.
///
/// systemd asks for a value from an abstract address of `@`, 16 hexadecimal digits, `/unit/`, the unit, `/` and the input,
/// and refuses one that does not fit, with a final NUL, into the 108 bytes of `sun_path`. Source: `LoadCredential=` in
/// `systemd.exec(5)`; `load_credential` and `sockaddr_un_set_path` in systemd 247 to 255.
const NAMES_MAX: usize = 108 - 1 - "@0123456789abcdef/unit//".len();

/// The rule that a declaration broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    /// What is required needs no default.
    #[error("an input is either required or has a default; remove one of the two")]
    RequiredWithDefault,
    /// The default breaks the rules for values.
    #[error("the default breaks the input's own rule: {0}")]
    Default(Rule),
}

/// The rule that a value broke, as the end of a sentence that begins with the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// A number, a boolean, a list, an object or null.
    #[error("must be a text, in quotes")]
    Text,
    /// Longer than [`VALUE_MAX`].
    #[error("may have at most {VALUE_MAX} bytes")]
    Length,
    /// A control character that no pattern allows.
    #[error("must not contain control characters, except for tabs, and newlines where its pattern allows them")]
    Control,
    /// The pattern does not match the whole value.
    #[error("must match `{0}` as a whole")]
    Pattern(String),
}

/// What a job was to be given and can't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The job takes no input of this name.
    #[error("the job has no input `{name}`; {}", list(.known))]
    Unknown {
        /// The name, shortened if it is long.
        name: String,
        /// The inputs that the job takes.
        known: Vec<InputName>,
    },
    /// A required input has no value.
    #[error("the input `{0}` is required")]
    Missing(InputName),
    /// A value breaks a rule.
    #[error("the input `{name}` {rule}")]
    Invalid {
        /// The input.
        name: InputName,
        /// The rule.
        rule: Rule,
    },
    /// An instance whose name leaves no room for that of the input.
    #[error(
        "the name of the job is too long for its input `{0}`; systemd takes {NAMES_MAX} bytes of both with `.service`"
    )]
    LongJob(InputName),
}

fn list(names: &[InputName]) -> String {
    match names {
        [] => "it takes none".to_owned(),
        names => format!("it takes: {}", names.iter().map(InputName::as_str).collect::<Vec<_>>().join(", ")),
    }
}

/// What a job takes under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pattern: Option<Pattern>,
    /// The value where a start brings none; `None` if each has to.
    default: Option<String>,
}

impl Input {
    /// An input whose values match `pattern`; without one, any text of one line.
    ///
    /// One that is not required and has no default is empty where a start does not bring it, whatever the pattern.
    ///
    /// # Errors
    /// [`DeclarationError`] says what to change.
    pub fn new(pattern: Option<Pattern>, required: bool, default: Option<&str>) -> Result<Self, DeclarationError> {
        if required && default.is_some() {
            return Err(DeclarationError::RequiredWithDefault);
        }
        let input = Self { pattern, default: (!required).then(|| default.unwrap_or_default().to_owned()) };
        default.map_or(Ok(()), |default| input.check(default)).map_err(DeclarationError::Default)?;
        Ok(input)
    }

    fn check(&self, value: &str) -> Result<(), Rule> {
        if value.len() > VALUE_MAX {
            return Err(Rule::Length);
        }
        let forbidden = |char: char| match char {
            '\t' => false,
            '\n' => self.pattern.is_none(),
            char => char.is_control(),
        };
        if value.chars().any(forbidden) {
            return Err(Rule::Control);
        }
        match &self.pattern {
            Some(pattern) if !pattern.matches(value) => Err(Rule::Pattern(pattern.as_str().to_owned())),
            Some(_) | None => Ok(()),
        }
    }
}

/// The inputs of one job.
pub type Declared = BTreeMap<InputName, Input>;

/// What all jobs take; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs(Arc<BTreeMap<JobName, Declared>>);

impl Inputs {
    /// The inputs of these jobs; those of a template are those of all its instances that are not named themselves.
    #[must_use]
    pub fn new(jobs: BTreeMap<JobName, Declared>) -> Self {
        Self(Arc::new(jobs))
    }

    /// Whether no job takes any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeMap::is_empty)
    }

    /// The jobs and templates that take some, with the names of what they take.
    pub fn jobs(&self) -> impl Iterator<Item = (&JobName, Vec<&InputName>)> {
        self.0.iter().map(|(job, declared)| (job, declared.keys().collect()))
    }

    fn of(&self, job: &JobName) -> Option<&Declared> {
        self.0.get(job).or_else(|| self.0.get(&job.template()?))
    }

    /// The values for a start of `job` that brings `given`, or for one that nobody asked the bridge for if that is empty.
    ///
    /// # Errors
    /// The first [`Error`]: a name that is not declared, or a value that is missing or breaks its rule.
    pub fn accept(&self, job: &AllowedJob, given: &Map<String, Value>) -> Result<Values, Error> {
        let none = Declared::new();
        let declared = self.of(job.name()).unwrap_or(&none);
        if let Some(name) = given.keys().find(|name| !declared.keys().any(|known| known.as_str() == name.as_str())) {
            let known = declared.keys().cloned().collect();
            return Err(Error::Unknown { name: name.chars().take(40).collect(), known });
        }
        let mut values = BTreeMap::new();
        for (name, input) in declared {
            if !fits(job.unit(), name) {
                return Err(Error::LongJob(name.clone()));
            }
            let invalid = |rule| Error::Invalid { name: name.clone(), rule };
            let value = match given.get(name.as_str()) {
                Some(Value::String(value)) => input.check(value).map(|()| value).map_err(invalid)?,
                Some(_) => return Err(invalid(Rule::Text)),
                None => input.default.as_ref().ok_or_else(|| Error::Missing(name.clone()))?,
            };
            values.insert(name.clone(), value.clone());
        }
        Ok(Values(Arc::new(values)))
    }
}

/// Whether systemd can ask for the input `name` of a unit.
#[must_use]
pub fn fits(unit: &str, name: &InputName) -> bool {
    unit.len() + name.as_str().len() <= NAMES_MAX
}

/// The inputs of one run, all of them and each valid; cheap to clone.
///
/// There is no other way to them than [`Inputs::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values(Arc<BTreeMap<InputName, String>>);

impl Values {
    /// The value of an input; `None` if the job did not take it when the run was asked for.
    #[must_use]
    pub fn get(&self, name: &InputName) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All values, as [`Inputs::accept`] takes them again, in the order of the names.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_str()))).collect()
    }

    /// The names of all inputs.
    pub fn names(&self) -> impl Iterator<Item = &InputName> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests;
