//! The tokens that the administrator registered, and the decision about a presented one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::token::{MARK, Token};
use super::{Access, Denial, JobPattern, Scope};
use crate::config::{Document, Error, Fault, Section, read_file};
use crate::policy::JobName;

/// The name of a token, such as `ci` or `nightly-reader`: 1 to 64 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenName(String);

/// The text is no name of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token's name is 1 to 64 characters of [A-Za-z0-9._-]")]
pub struct TokenNameError;

impl TokenName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = TokenNameError;

    fn from_str(text: &str) -> Result<Self, TokenNameError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&text.len()) || !text.bytes().all(plain) {
            return Err(TokenNameError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 hash of a token's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// The text is no SHA-256 hash of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotATokenHash {
    /// Anything but 64 hexadecimal digits.
    #[error("a SHA-256 hash is 64 hexadecimal digits")]
    Form,
    /// The hash of the empty text, which everyone can present.
    #[error("this is the SHA-256 hash of the empty text: the token was lost before it was hashed")]
    OfNothing,
}

impl TokenHash {
    /// The hash of a token's text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

impl FromStr for TokenHash {
    type Err = NotATokenHash;

    fn from_str(text: &str) -> Result<Self, NotATokenHash> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotATokenHash::Form);
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| NotATokenHash::Form)?;
        }
        if Self(hash) == Self::of("") {
            return Err(NotATokenHash::OfNothing);
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    /// Shows the beginning only: the hash of a weak foreign token can be used to guess it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

/// Someone whose token was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: TokenName,
    access: Access,
    jobs: Option<Vec<JobPattern>>,
    scopes: Vec<Scope>,
    hash: TokenHash,
}

impl Caller {
    /// The name of the token.
    #[must_use]
    pub fn name(&self) -> &TokenName {
        &self.name
    }

    /// What the token was made for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether the caller may start and stop the jobs that it sees.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.access == Access::ReadWrite
    }

    /// Whether the token has this right.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The rights that the token has besides its access.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Whether `job` exists for this caller.
    #[must_use]
    pub fn may_see(&self, job: &JobName) -> bool {
        self.jobs.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(job)))
    }
}

impl Caller {
    /// Refuses a right that would be of no use, or would undo a limit of the same token.
    fn check_scopes(&self) -> Result<(), Fault> {
        let name = &self.name;
        for scope in &self.scopes {
            match scope {
                Scope::Audit | Scope::Runners if !self.may_write() => {
                    return Err(Fault::new(format!("`{name}`: the scope `{scope}` takes `access = \"rw\"`")));
                }
                Scope::Audit if self.jobs.is_some() => {
                    return Err(Fault::new(format!(
                        "`{name}`: the scope `{scope}` shows all jobs, so the token can't be limited to some; remove \
                         `jobs`, or make a second token"
                    )));
                }
                Scope::Audit | Scope::Runners => {}
            }
        }
        Ok(())
    }
}

/// One registered token: `[[token]]` in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    caller: Arc<Caller>,
    /// When it was registered, if the file says so.
    pub created: Option<Timestamp>,
    /// From when on it is refused; `None` for never.
    pub expires: Option<Timestamp>,
    /// From when on it is accepted; `None` for always.
    pub not_before: Option<Timestamp>,
    /// When it was withdrawn. It is refused whatever the moment is.
    pub revoked: Option<Timestamp>,
}

impl Entry {
    /// Whom the token makes its owner.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The patterns of the jobs that the token sees; `None` for all allowed jobs.
    #[must_use]
    pub fn jobs(&self) -> Option<&[JobPattern]> {
        self.caller.jobs.as_deref()
    }

    /// Whether the token is accepted at `now`.
    ///
    /// # Errors
    /// The [`Denial`] that its owner gets.
    pub fn valid_at(&self, now: Timestamp) -> Result<(), Denial> {
        if self.revoked.is_some() {
            return Err(Denial::Revoked);
        }
        if let Some(at) = self.expires.filter(|at| *at <= now) {
            return Err(Denial::Expired { at });
        }
        if let Some(from) = self.not_before.filter(|from| *from > now) {
            return Err(Denial::NotYetValid { from, now });
        }
        Ok(())
    }

    fn read(section: &Section<'_>) -> Result<Self, Fault> {
        let name = section.require("name", "name = \"ci\"").and_then(|value| value.parsed(str::parse));
        let access = section.require("access", "access = \"ro\"").and_then(|value| value.parsed(str::parse));
        let hash = section.require("sha256", "sha256 = \"…\"").and_then(|value| value.parsed(str::parse));
        let jobs = section.get("jobs").map(|value| {
            let patterns = value.list()?;
            if patterns.is_empty() {
                return Err(value.fault("no job at all; name at least one, or remove the key to allow all"));
            }
            patterns.iter().map(|pattern| pattern.parsed(str::parse)).collect()
        });
        let scopes = scopes(section);
        let moment = |key| section.get(key).map(|value| value.moment()).transpose();
        let (created, expires, not_before, revoked) =
            (moment("created"), moment("expires"), moment("not_before"), moment("revoked"));
        let caller = Caller { name: name?, access: access?, jobs: jobs.transpose()?, scopes: scopes?, hash: hash? };
        caller.check_scopes()?;
        Ok(Self {
            caller: Arc::new(caller),
            created: created?,
            expires: expires?,
            not_before: not_before?,
            revoked: revoked?,
        })
    }
}

fn scopes(section: &Section<'_>) -> Result<Vec<Scope>, Fault> {
    let Some(value) = section.get("scopes") else { return Ok(Vec::new()) };
    let mut scopes = Vec::new();
    for element in value.list()? {
        let scope = element.parsed(str::parse)?;
        if scopes.contains(&scope) {
            return Err(element.fault(format!("`{scope}` is there twice; remove one")));
        }
        scopes.push(scope);
    }
    Ok(scopes)
}

/// What happened to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was registered.
    Added,
    /// It was withdrawn; its entry is there still.
    Revoked,
    /// It is still the same text, but has another name, other rights or another time.
    Changed,
    /// Its entry is gone.
    Removed,
}

impl What {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Revoked => "revoked",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// A difference between two sets of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// The token as it is now, or as it was before it was removed.
    entry: Entry,
}

impl Change {
    /// The name of the token.
    #[must_use]
    pub fn name(&self) -> &TokenName {
        self.entry.caller.name()
    }

    /// What the token may do, and until when, such as `rw, jobs ci-docs-*, until 2030-01-31T12:00:00Z`.
    #[must_use]
    pub fn rights(&self) -> String {
        let Caller { access, jobs, scopes, .. } = self.entry.caller();
        let mut rights = vec![access.to_string()];
        rights.extend(scopes.iter().map(|scope| format!("scope {scope}")));
        rights.extend(jobs.iter().flatten().map(|pattern| format!("jobs {pattern}")));
        rights.extend(self.entry.not_before.map(|from| format!("from {from}")));
        rights.extend(self.entry.expires.map(|at| format!("until {at}")));
        rights.extend(self.entry.revoked.map(|at| format!("revoked {at}")));
        rights.join(", ")
    }
}

/// All registered tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keyring {
    entries: Vec<Entry>,
}

impl Keyring {
    /// Reads the tokens from the file at `path`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Read`], or [`Error::Invalid`] with the first mistake.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = read_file(path, "ci-bridge token new NAME --access rw")?;
        Self::parse(&text).map_err(|fault| Error::Invalid { path: path.to_owned(), fault })
    }

    /// Parses the text of a tokens file.
    ///
    /// # Errors
    /// The first mistake: invalid TOML, an unknown key, a wrong or missing value, two entries for one token, or two
    /// entries of one name that are both not revoked.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let document = Document::parse(text)?;
        let sections = document.root().sections("token")?;
        let entries: Result<Vec<_>, _> = sections.iter().map(Entry::read).collect();
        // An unknown key comes first: it explains why another one is missing.
        document.refuse_unknown()?;
        let entries = entries?;
        for (at, entry) in entries.iter().enumerate() {
            let Caller { name, hash, .. } = entry.caller();
            for earlier in &entries[..at] {
                if earlier.caller.hash == *hash {
                    let other = &earlier.caller.name;
                    return Err(Fault::new(format!("`{other}` and `{name}` have the same sha256; remove one of them")));
                }
                if earlier.caller.name == *name && earlier.revoked.is_none() && entry.revoked.is_none() {
                    return Err(Fault::new(format!("two tokens are named `{name}`; rename or revoke one of them")));
                }
            }
        }
        Ok(Self { entries })
    }

    /// Whether no token is registered, so that nobody could ever get in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The registered tokens, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Who presents `presented` at `now`.
    ///
    /// A text that does not start like a token of the bridge counts as a token of another make, of which only the hash
    /// is known. All hashes are compared, each in constant time, so the time taken tells nothing about them.
    ///
    /// # Errors
    /// The [`Denial`], also for the empty text.
    pub fn authenticate(&self, presented: &str, now: Timestamp) -> Result<Arc<Caller>, Denial> {
        if presented.is_empty() || (presented.starts_with(MARK) && Token::parse(presented).is_err()) {
            return Err(Denial::Malformed);
        }
        self.look_up(TokenHash::of(presented), now)
    }

    /// Whether the token of `caller` is still accepted at `now`, for answers that go on for long.
    ///
    /// # Errors
    /// The [`Denial`] that its owner gets now; [`Denial::Unknown`] also if its rights were changed since.
    pub fn confirm(&self, caller: &Caller, now: Timestamp) -> Result<(), Denial> {
        let current = self.look_up(caller.hash, now)?;
        if *current == *caller { Ok(()) } else { Err(Denial::Unknown) }
    }

    /// What is different in `newer`, in the order of the files; what became of a token is told by its hash, not by its
    /// name.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let find = |keyring: &Self, entry: &Entry| {
            keyring.entries.iter().find(|other| other.caller.hash == entry.caller.hash).cloned()
        };
        let mut changes = Vec::new();
        for entry in &newer.entries {
            let what = match find(self, entry) {
                None => What::Added,
                Some(before) if before == *entry => continue,
                Some(before) if before.revoked.is_none() && entry.revoked.is_some() => What::Revoked,
                Some(_) => What::Changed,
            };
            changes.push(Change { what, entry: entry.clone() });
        }
        let removed = self.entries.iter().filter(|entry| find(newer, entry).is_none());
        changes.extend(removed.map(|entry| Change { what: What::Removed, entry: entry.clone() }));
        changes
    }

    fn look_up(&self, hash: TokenHash, now: Timestamp) -> Result<Arc<Caller>, Denial> {
        let mut found = u64::MAX;
        for (at, entry) in (0_u64..).zip(&self.entries) {
            found.conditional_assign(&at, entry.caller.hash.0.ct_eq(&hash.0));
        }
        let entry = usize::try_from(found).ok().and_then(|at| self.entries.get(at)).ok_or(Denial::Unknown)?;
        entry.valid_at(now)?;
        Ok(Arc::clone(&entry.caller))
    }
}

#[cfg(test)]
mod tests;
