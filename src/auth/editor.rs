//! Changing the tokens file: one writer at a time, comments kept, the file replaced as a whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::{Access, Change, JobPattern, Keyring, Scope, TokenHash, TokenName};
use crate::config::{Error as FileError, Fault, Owner, replace_file};

/// The beginning of a new file.
const HEADING: &str = "\
# The tokens of ci-bridge. Only hashes are here; a token itself is shown once, when it is made.
# Change this file with `ci-bridge token new`, `ci-bridge token revoke` or an editor.
";

/// Why the tokens file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The directory or the file could not be locked or written.
    #[error("failed to write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file as it is could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The change would make the file invalid.
    #[error("{0}")]
    Refused(Fault),
    /// A token of that name is in use.
    #[error("there is a token named `{0}`; choose another name, or first run `ci-bridge token revoke {0}`")]
    NameTaken(TokenName),
    /// No token has that name.
    #[error("no token is named `{0}`; see `ci-bridge token list`")]
    NoSuchName(TokenName),
    /// The token was withdrawn before.
    #[error("the token `{0}` was revoked before")]
    AlreadyRevoked(TokenName),
    /// The file is valid but its tokens are written in a form that can't be changed in place.
    #[error("the tokens are not written as `[[token]]` tables; rewrite them so, or change the file with an editor")]
    Form,
}

/// What to register.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The name.
    pub name: TokenName,
    /// What the token is for.
    pub access: Access,
    /// The hash of the token.
    pub hash: TokenHash,
    /// The jobs it sees; empty for all allowed jobs.
    pub jobs: Vec<JobPattern>,
    /// What it may do besides.
    pub scopes: Vec<Scope>,
    /// The moment of registration.
    pub created: Timestamp,
    /// From when on it is refused; `None` for never.
    pub expires: Option<Timestamp>,
}

/// The tokens file, held against other writers until it is dropped.
pub struct TokensEditor {
    path: PathBuf,
    document: DocumentMut,
    keyring: Keyring,
    /// The tokens of the file as it is.
    before: Keyring,
    /// The directory, not the file: the file is another one after each change.
    _lock: File,
}

impl TokensEditor {
    /// Opens the tokens file at `path` for changes and waits for another writer to finish; a missing file is empty.
    ///
    /// # Errors
    /// [`EditError::Write`] if its directory can't be locked, [`EditError::File`] if the file is not valid.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let write_error = |source| EditError::Write { path: path.to_owned(), source };
        let lock = File::open(path.parent().unwrap_or(Path::new("/"))).map_err(write_error)?;
        lock.lock().map_err(write_error)?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEADING.to_owned(),
            Err(source) => return Err(FileError::Read { path: path.to_owned(), source }.into()),
        };
        let invalid = |fault| FileError::Invalid { path: path.to_owned(), fault };
        let keyring = Keyring::parse(&text).map_err(invalid)?;
        let document = text.parse().map_err(|error| invalid(Fault::new(error)))?;
        Ok(Self { path: path.to_owned(), document, before: keyring.clone(), keyring, _lock: lock })
    }

    /// The tokens with the changes so far.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The changes so far.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        self.before.changes(&self.keyring)
    }

    /// Registers a token.
    ///
    /// # Errors
    /// [`EditError::NameTaken`], [`EditError::Refused`] for a hash that is registered already or scopes that do not fit
    /// the rest, [`EditError::Form`].
    pub fn add(&mut self, new: &NewEntry) -> Result<(), EditError> {
        let named = |entry: &super::Entry| *entry.caller().name() == new.name && entry.revoked.is_none();
        if self.keyring.entries().iter().any(named) {
            return Err(EditError::NameTaken(new.name.clone()));
        }
        let mut table = Table::new();
        table.insert("name", new.name.as_str().into());
        table.insert("access", new.access.to_string().into());
        table.insert("sha256", new.hash.to_string().into());
        if !new.jobs.is_empty() {
            let patterns: Array = new.jobs.iter().map(ToString::to_string).collect();
            table.insert("jobs", patterns.into());
        }
        if !new.scopes.is_empty() {
            let scopes: Array = new.scopes.iter().map(ToString::to_string).collect();
            table.insert("scopes", scopes.into());
        }
        table.insert("created", moment(new.created)?);
        if let Some(expires) = new.expires {
            table.insert("expires", moment(expires)?);
        }
        table.decor_mut().set_prefix("\n");
        let tokens = self.document.entry("token").or_insert_with(|| ArrayOfTables::new().into());
        tokens.as_array_of_tables_mut().ok_or(EditError::Form)?.push(table);
        self.check()
    }

    /// Withdraws the token `name` at `now`.
    ///
    /// # Errors
    /// [`EditError::NoSuchName`], [`EditError::AlreadyRevoked`], [`EditError::Form`].
    pub fn revoke(&mut self, name: &TokenName, now: Timestamp) -> Result<(), EditError> {
        let entries = self.keyring.entries();
        let named = |entry: &super::Entry| entry.caller().name() == name;
        let Some(at) = entries.iter().position(|entry| named(entry) && entry.revoked.is_none()) else {
            let known = entries.iter().any(named);
            return Err(if known { EditError::AlreadyRevoked } else { EditError::NoSuchName }(name.clone()));
        };
        let tokens = self.document.get_mut("token").and_then(Item::as_array_of_tables_mut).ok_or(EditError::Form)?;
        tokens.get_mut(at).ok_or(EditError::Form)?.insert("revoked", moment(now)?);
        self.check()
    }

    /// Writes the changes.
    ///
    /// # Errors
    /// [`EditError::Write`]; the old file is then still there.
    pub fn save(&self, owner: Owner) -> Result<(), EditError> {
        replace_file(&self.path, &self.document.to_string(), owner)
            .map_err(|source| EditError::Write { path: self.path.clone(), source })
    }

    /// What is written must be readable.
    fn check(&mut self) -> Result<(), EditError> {
        self.keyring = Keyring::parse(&self.document.to_string()).map_err(EditError::Refused)?;
        Ok(())
    }
}

/// A TOML date-time of whole seconds.
fn moment(at: Timestamp) -> Result<Item, EditError> {
    let text = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let value: Value = text.parse().map_err(|error| EditError::Refused(Fault::new(error)))?;
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { mode: 0o640, group: None };

    fn entry(name: &str) -> NewEntry {
        NewEntry {
            name: name.parse().unwrap(),
            access: Access::ReadOnly,
            hash: TokenHash::of(name),
            jobs: vec!["ci-test-*".parse().unwrap()],
            scopes: Vec::new(),
            created: "2030-01-31T12:00:00.5Z".parse().unwrap(),
            expires: Some("2031-01-31T12:00:00Z".parse().unwrap()),
        }
    }

    #[test]
    fn a_registered_token_is_accepted_and_a_revoked_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        let now = "2030-06-01T00:00:00Z".parse().unwrap();

        let mut editor = TokensEditor::open(&path).unwrap();
        editor.add(&entry("a")).unwrap();
        editor.add(&entry("b")).unwrap();
        editor.save(OWNER).unwrap();
        drop(editor);
        let keyring = Keyring::load(&path).unwrap();
        assert_eq!(keyring.authenticate("b", now).unwrap().name().as_str(), "b");

        let mut editor = TokensEditor::open(&path).unwrap();
        editor.revoke(&"b".parse().unwrap(), now).unwrap();
        editor.save(OWNER).unwrap();
        let keyring = Keyring::load(&path).unwrap();
        assert_eq!(keyring.authenticate("b", now), Err(super::super::Denial::Revoked));
        assert!(keyring.authenticate("a", now).is_ok());
    }

    #[test]
    fn comments_and_format_of_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        let hash = TokenHash::of("x");
        let old =
            format!("# ours\n\n[[token]]   # first\nname='old'  # who\nsha256 = \"{hash}\"\naccess   =   \"rw\"\n");
        std::fs::write(&path, &old).unwrap();
        let mut editor = TokensEditor::open(&path).unwrap();
        editor.add(&entry("new")).unwrap();
        editor.save(OWNER).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        let added = new.strip_prefix(&old).unwrap();
        let expected = format!(
            "\n[[token]]\nname = \"new\"\naccess = \"ro\"\nsha256 = \"{}\"\njobs = [\"ci-test-*\"]\n\
             created = 2030-01-31T12:00:00Z\nexpires = 2031-01-31T12:00:00Z\n",
            TokenHash::of("new")
        );
        assert_eq!(added, expected);
    }

    #[test]
    fn a_name_is_free_again_once_it_was_revoked() {
        let directory = tempfile::tempdir().unwrap();
        let mut editor = TokensEditor::open(&directory.path().join("tokens.toml")).unwrap();
        editor.add(&entry("ci")).unwrap();
        let second = NewEntry { hash: TokenHash::of("second"), ..entry("ci") };
        assert!(matches!(editor.add(&second), Err(EditError::NameTaken(_))));
        let name = "ci".parse().unwrap();
        let now = "2030-06-01T00:00:00Z".parse().unwrap();
        editor.revoke(&name, now).unwrap();
        assert!(matches!(editor.revoke(&name, now), Err(EditError::AlreadyRevoked(_))));
        editor.add(&second).unwrap();
        assert!(editor.keyring().authenticate("second", now).is_ok());
        assert!(matches!(editor.revoke(&"other".parse().unwrap(), now), Err(EditError::NoSuchName(_))));
    }

    #[test]
    fn a_scope_is_written_as_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        let mut editor = TokensEditor::open(&path).unwrap();
        let refused = NewEntry { scopes: vec![Scope::Audit], ..entry("auditor") };
        assert!(matches!(editor.add(&refused), Err(EditError::Refused(_))));
        drop(editor);
        let mut editor = TokensEditor::open(&path).unwrap();
        editor.add(&NewEntry { access: Access::ReadWrite, jobs: Vec::new(), ..refused }).unwrap();
        editor.save(OWNER).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("scopes = [\"audit\"]\n"));
        assert!(Keyring::load(&path).unwrap().entries()[0].caller().has(Scope::Audit));
    }

    #[test]
    fn one_hash_is_registered_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut editor = TokensEditor::open(&directory.path().join("tokens.toml")).unwrap();
        editor.add(&entry("a")).unwrap();
        let twin = NewEntry { hash: TokenHash::of("a"), ..entry("b") };
        assert!(matches!(editor.add(&twin), Err(EditError::Refused(_))));
    }

    #[test]
    fn a_second_writer_waits_and_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d", "e", "f"] {
                let path = &path;
                scope.spawn(move || {
                    let mut editor = TokensEditor::open(path).unwrap();
                    editor.add(&entry(name)).unwrap();
                    editor.save(OWNER).unwrap();
                });
            }
        });
        assert_eq!(Keyring::load(&path).unwrap().entries().len(), 6);
    }

    #[test]
    fn tokens_in_another_form_are_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        let hash = TokenHash::of("x");
        std::fs::write(&path, format!("token = [{{name = \"x\", access = \"ro\", sha256 = \"{hash}\"}}]\n")).unwrap();
        let mut editor = TokensEditor::open(&path).unwrap();
        assert!(matches!(editor.add(&entry("a")), Err(EditError::Form)));
        assert!(matches!(editor.revoke(&"x".parse().unwrap(), Timestamp::UNIX_EPOCH), Err(EditError::Form)));
    }
}
