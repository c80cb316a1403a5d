//! `ci-bridge serve`: what the daemon is started with, and reads again while it runs.

use std::path::{Path, PathBuf};

use super::files::Files;
use crate::auth::Keyring;
use crate::config::{Error, Fault, Settings};

/// Serve the API
///
/// Runs in the foreground until it is told to stop. The package's unit starts it as an unprivileged user.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "\
Examples:
  systemctl enable --now ci-bridge                as a service
  ci-bridge serve --config ./config.toml          in the foreground";

/// What the daemon needs from the administrator's files, and where they are.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    files: Files,
    /// The settings.
    pub settings: Settings,
    /// The tokens, at least one.
    pub keyring: Keyring,
}

impl ServeOptions {
    /// Reads the files that the command line names.
    ///
    /// # Errors
    /// The first mistake in the settings or the tokens; also if there is no token, because nobody could get in.
    pub fn load(args: Args) -> Result<Self, Error> {
        Self::read(args.files)
    }

    /// Reads the same files again, for a reload; these options stay as they are.
    ///
    /// # Errors
    /// As [`ServeOptions::load`]. What was read before should then go on to count.
    pub fn read_again(&self) -> Result<Self, Error> {
        Self::read(self.files.clone())
    }

    /// The settings file, to be watched.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.files.config_file()
    }

    /// The tokens file, to be watched.
    #[must_use]
    pub fn tokens_file(&self) -> &Path {
        &self.settings.tokens_file
    }

    fn read(files: Files) -> Result<Self, Error> {
        let mut settings = Settings::load(&files.config_file())?;
        settings.tokens_file = files.below_root(&settings.tokens_file);
        settings.state_directory = files.below_root(&settings.state_directory);
        let keyring = Keyring::load(&settings.tokens_file)?;
        if keyring.is_empty() {
            let what = "no token is registered, so nobody could get in; make one with \
                        `ci-bridge token new NAME --access rw`";
            return Err(Error::Invalid { path: settings.tokens_file, fault: Fault::new(what) });
        }
        Ok(Self { files, settings, keyring })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{Args as _, FromArgMatches};

    use super::*;
    use crate::auth::TokenHash;

    fn load(root: &Path) -> Result<ServeOptions, Error> {
        let command = Args::augment_args(clap::Command::new("serve"));
        let matches = command.get_matches_from(["serve", "--root", root.to_str().unwrap()]);
        ServeOptions::load(Args::from_arg_matches(&matches).unwrap())
    }

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join("etc/ci-bridge").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn token(name: &str) -> String {
        format!("[[token]]\nname = \"{name}\"\naccess = \"rw\"\nsha256 = \"{}\"\n", TokenHash::of(name))
    }

    #[test]
    fn nobody_can_get_in_without_a_token_so_the_daemon_does_not_start() {
        let root = tempfile::tempdir().unwrap();
        let said = |root| load(root).unwrap_err().to_string();
        assert!(
            said(root.path()).ends_with("config.toml does not exist; make it with `ci-bridge init --prefix ci-test-`")
        );
        write(root.path(), "config.toml", "[jobs]\nprefixes = [\"ci-test-\"]\n");
        let remedy = "`ci-bridge token new NAME --access rw`";
        assert!(said(root.path()).ends_with(&format!("tokens.toml does not exist; make it with {remedy}")));
        write(root.path(), "tokens.toml", "# none yet\n");
        assert!(said(root.path()).ends_with(&format!("nobody could get in; make one with {remedy}")));
        write(root.path(), "tokens.toml", &token("ci"));
        assert_eq!(load(root.path()).unwrap().keyring.entries().len(), 1);
    }

    #[test]
    fn a_reload_sees_what_changed_and_an_error_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "config.toml", "[jobs]\nprefixes = [\"ci-test-\"]\n");
        write(root.path(), "tokens.toml", &token("ci"));
        let options = load(root.path()).unwrap();
        assert_eq!(options.tokens_file(), root.path().join("etc/ci-bridge/tokens.toml"));
        assert_eq!(options.settings.state_directory, root.path().join("var/lib/ci-bridge"));

        write(root.path(), "tokens.toml", &(token("ci") + &token("second")));
        assert_eq!(options.read_again().unwrap().keyring.entries().len(), 2);
        write(root.path(), "tokens.toml", "[[token]\n");
        assert!(options.read_again().is_err());
        assert_eq!(options.keyring.entries().len(), 1);
    }
}
