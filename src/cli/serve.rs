//! `ci-bridge serve`: what the daemon is started with.

use super::files::Files;
use crate::app;
use crate::auth::Keyring;
use crate::config::{Error, Fault, Settings};
use crate::telemetry;

/// Serve the API
///
/// Runs in the foreground until it is told to stop. The package's unit starts it as an unprivileged user.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "\
Examples:
  systemctl enable --now ci-bridge                as a service
  ci-bridge serve --config ./config.toml          in the foreground";

/// Runs the daemon until it is told to stop.
pub(super) fn run(args: &Args, verbose: bool) -> anyhow::Result<()> {
    telemetry::init(verbose).map_err(anyhow::Error::from_boxed)?;
    let (settings, keyring) = read(&args.files)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(app::serve(settings, keyring))?;
    Ok(())
}

/// Reads what the administrator decided.
///
/// # Errors
/// The first mistake in the settings or the tokens; also if there is no token, because nobody could get in.
fn read(files: &Files) -> Result<(Settings, Keyring), Error> {
    let mut settings = Settings::load(&files.config_file())?;
    settings.tokens_file = files.below_root(&settings.tokens_file);
    settings.state_directory = files.below_root(&settings.state_directory);
    let keyring = Keyring::load(&settings.tokens_file)?;
    if keyring.is_empty() {
        let what = "no token is registered, so nobody could get in; make one with \
                    `ci-bridge token new NAME --access rw`";
        return Err(Error::Invalid { path: settings.tokens_file, fault: Fault::new(what) });
    }
    Ok((settings, keyring))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::{Args as _, FromArgMatches};

    use super::*;
    use crate::auth::TokenHash;

    fn load(root: &Path) -> Result<(Settings, Keyring), Error> {
        let command = Args::augment_args(clap::Command::new("serve"));
        let matches = command.get_matches_from(["serve", "--root", root.to_str().unwrap()]);
        read(&Args::from_arg_matches(&matches).unwrap().files)
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
        assert_eq!(load(root.path()).unwrap().1.entries().len(), 1);
    }
}
