//! Where the files of an installation are, and who may read them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::auth::{EditError, TokensEditor};
use crate::config::{CONFIG_FILE, Error, Owner, Settings, TOKENS_FILE};
use crate::setup::SERVICE_USER;
use crate::telemetry::tell_journal;

/// The options that say which installation is meant.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Files {
    /// The settings file
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE)]
    config: PathBuf,

    /// Look for all files below this directory
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

impl Files {
    /// An absolute `path` below the root directory; a relative one as it is.
    pub(super) fn below_root(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        path.strip_prefix("/").map_or_else(|_| path.to_owned(), |path| self.root.join(path))
    }

    /// The settings file.
    pub(super) fn config_file(&self) -> PathBuf {
        self.below_root(&self.config)
    }

    /// The settings; `None` if there is no file yet.
    pub(super) fn settings(&self) -> Result<Option<Settings>, Error> {
        match Settings::load(&self.config_file()) {
            Ok(settings) => Ok(Some(settings)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tokens file that the settings name, or the usual one.
    pub(super) fn tokens_file(&self, settings: Option<&Settings>) -> PathBuf {
        self.below_root(settings.map_or(Path::new(TOKENS_FILE), |settings| &settings.tokens_file))
    }

    /// The tokens file, held for changes; its directory is made if it is not there.
    pub(super) fn edit_tokens(&self, settings: Option<&Settings>) -> anyhow::Result<TokensEditor> {
        let path = self.tokens_file(settings);
        make_directory_of(&path, self.service_group())?;
        TokensEditor::open(&path).map_err(|error: EditError| error.into())
    }

    /// Writes the changed tokens, and tells the journal of each change: the service sees that the file has changed, but
    /// not who did it.
    pub(super) fn save_tokens(&self, editor: &TokensEditor) -> Result<(), EditError> {
        editor.save(self.owner())?;
        // Below another directory it is the installation of another machine.
        if self.root == Path::new("/") {
            for change in editor.changes() {
                let (name, what, rights) = (change.name().as_str(), change.what.as_str(), change.rights());
                let fields = [("kind", "token"), ("outcome", what), ("token", name)];
                tell_journal(format_args!("the token {name} was {what} with ci-bridge: {rights}"), &fields);
            }
        }
        Ok(())
    }

    /// Who may use settings and tokens: root writes, the service reads, nobody else does.
    pub(super) fn owner(&self) -> Owner {
        Owner { mode: 0o640, group: self.service_group() }
    }

    /// The service's group; `None` before the package made it.
    pub(super) fn service_group(&self) -> Option<u32> {
        service_group(&self.root)
    }
}

/// The service's group on the machine with that root directory; `None` before the package made it.
pub(super) fn service_group(root: &Path) -> Option<u32> {
    // The service's user is a system user of this machine, so no other source of names is asked.
    let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    group_id(&groups, SERVICE_USER)
}

/// Makes the directory that `path` is to be in, readable for the service's group, unless it is there.
pub(super) fn make_directory_of(path: &Path, group: Option<u32>) -> anyhow::Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) else { return Ok(()) };
    let made = directory
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::DirBuilder::new().mode(0o750).create(directory))
        .and_then(|()| group.map_or(Ok(()), |group| chown(directory, None, Some(group))));
    made.with_context(|| format!("failed to make the directory {}", directory.display()))
}

/// The number of a group in the text of `/etc/group`.
///
/// Source: `group(5)`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// The text of a file; `None` if there is none.
pub(super) fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nci-bridge-x:x:7:\nci-bridge:x:987:a,b\nbroken\n";
        assert_eq!(group_id(groups, "ci-bridge"), Some(987));
        assert_eq!(group_id(groups, "ci"), None);
        assert_eq!(group_id(groups, "broken"), None);
    }
}
