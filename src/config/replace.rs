//! Replacing a file as a whole: a reader sees the old text or the new one, also after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Who may use a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The permission bits, such as `0o640`.
    pub mode: u32,
    /// The group; `None` keeps the group of the file that is replaced.
    pub group: Option<u32>,
}

/// Writes `contents` to `path` by way of a temporary file in the same directory; a link is followed.
///
/// The temporary file is readable by its owner alone until it has its group and its mode.
///
/// # Errors
/// What the system said; the old file is then still there.
///
/// Source: `rename(2)`, `fsync(2)` (the directory is synced too, or the rename may be lost).
pub fn replace_file(path: &Path, contents: &str, owner: Owner) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let temporary = directory.join(format!(".{}.{}.new", name.display(), std::process::id()));
    let written = write_new(&temporary, &target, contents, owner).and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // The first error is the one to tell; that this one is left behind follows from it.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_new(temporary: &Path, target: &Path, contents: &str, owner: Owner) -> io::Result<()> {
    // Left by a process of the same number that was killed in between.
    if let Err(error) = fs::remove_file(temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    let own_group = file.metadata()?.gid();
    let group = owner.group.or_else(|| fs::metadata(target).ok().map(|old| old.gid()));
    if let Some(group) = group.filter(|group| *group != own_group) {
        fchown(&file, None, Some(group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(owner.mode))?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        for text in ["first", "second, which is longer", "3"] {
            replace_file(&path, text, Owner { mode: 0o640, group: None }).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_still_points_to_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("real.toml"), directory.path().join("link.toml"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace_file(&link, "new", Owner { mode: 0o600, group: None }).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(replace_file(&path, "text", Owner { mode: 0o600, group: None }).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
