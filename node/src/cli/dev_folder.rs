//! The folder of `dev`: of this user alone, whatever others have put in its way.
//!
//! **Guarantees.** Nothing is written, emptied or followed in a folder that is a link, that belongs to somebody else, that
//! others may write to, or that holds other things. One `dev` at a time uses it.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use checkpoint::IoError;
use client::{Code, Failure};
use rustix::fs::{FlockOperation, flock};

/// Marks a folder that `dev` made and may therefore empty.
const MARKER: &str = "dev-cluster";
/// Held while a `dev` uses the folder.
const LOCK: &str = "lock";

/// The folder, while it is ours.
#[derive(Debug)]
pub struct DevFolder {
    _lock: File,
}

/// Where a user's state lies, by the XDG rules; never a folder that others may write to.
pub fn of_the_user() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("epochlog/dev")).ok_or_else(|| {
        Failure::new(Code::Usage, "there is no folder for the cluster")
            .what("dev")
            .why("neither XDG_STATE_HOME nor HOME names a folder of yours")
            .fix("name one with --data DIR")
    })
}

impl DevFolder {
    /// Takes the folder, making it when there is none, and empties it when that is wanted.
    ///
    /// # Errors
    /// Whatever makes it unsafe to use; then nothing in it was changed.
    pub fn take(dir: &Path, reset: bool) -> Result<DevFolder, Failure> {
        let cannot = |source: io::Error| {
            let failure = Failure::from_io(&IoError { path: dir.to_owned(), what: "use", source });
            let fix = format!("{}; or name another folder with --data DIR", failure.fix);
            failure
                .sentence("the data folder cannot be used")
                .what(format!("dev --data {}", dir.display()))
                .fix(fix)
        };
        let refuse = |why: String| {
            Failure::new(Code::Usage, "the data folder is not one of `epochlog dev`")
                .what(format!("dev --data {}", dir.display()))
                .why(why)
                .fix("name an empty or a new folder of yours with --data DIR")
        };
        match fs::symlink_metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(cannot)?;
            }
            Err(error) => return Err(cannot(error)),
            Ok(_) => {}
        }
        let meta = fs::symlink_metadata(dir).map_err(cannot)?;
        if let Some(why) = unfit(&meta, rustix::process::geteuid().as_raw()) {
            return Err(refuse(why));
        }
        let is_ours = fs::symlink_metadata(dir.join(MARKER)).is_ok_and(|marker| marker.is_file());
        let is_open = meta.mode() & 0o022 != 0;
        if is_open && !holds_nothing(dir).map_err(cannot)? {
            let mode = meta.mode() & 0o777;
            return Err(refuse(format!("others may write to it (mode {mode:03o}), and it is not empty")));
        }
        if !is_ours && !holds_nothing(dir).map_err(cannot)? {
            return Err(refuse("it holds other things".into()));
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(cannot)?;
        // Until now somebody may have put something into it.
        if is_open && !holds_nothing(dir).map_err(cannot)? {
            return Err(refuse("it holds other things".into()));
        }
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK));
        let lock = lock.map_err(cannot)?;
        flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(Code::Usage, "this cluster runs already")
                .what(format!("dev --data {}", dir.display()))
                .why("another `epochlog dev` uses the folder")
                .fix("use that cluster; or start a second one with --data DIR --base-port PORT")
        })?;
        if reset {
            empty(dir).map_err(cannot)?;
        }
        if reset || !is_ours {
            mark(dir).map_err(cannot)?;
        }
        Ok(DevFolder { _lock: lock })
    }
}

/// Why the user `me` must not use it, if so.
fn unfit(meta: &Metadata, me: u32) -> Option<String> {
    if meta.file_type().is_symlink() {
        return Some("it is a link: where that leads may change".into());
    }
    if !meta.is_dir() {
        return Some("it is not a directory".into());
    }
    (meta.uid() != me).then(|| format!("it belongs to user {}, you are user {me}", meta.uid()))
}

/// Nothing but the lock of a `dev` that was stopped before it had marked the folder.
fn holds_nothing(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != LOCK || !entry.file_type()?.is_file() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what is in it but for the lock.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            _ if entry.file_name() == LOCK => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn mark(dir: &Path) -> io::Result<()> {
    // `create_new` follows no link.
    let mut marker = File::options().write(true).create_new(true).open(dir.join(MARKER))?;
    marker.write_all(b"made by `epochlog dev`; `--reset` empties this folder\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn why(taken: Result<DevFolder, Failure>) -> String {
        taken.unwrap_err().why
    }

    #[test]
    fn a_new_folder_is_the_users_alone_and_one_dev_uses_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state/epochlog/dev");
        let first = DevFolder::take(&dir, false).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert!(why(DevFolder::take(&dir, true)).contains("another `epochlog dev`"));
        drop(first);
        fs::create_dir(dir.join("node-1")).unwrap();
        drop(DevFolder::take(&dir, false).unwrap());
        assert!(dir.join("node-1").exists());
        drop(DevFolder::take(&dir, true).unwrap());
        assert!(!dir.join("node-1").exists() && dir.join(MARKER).exists());
    }

    #[test]
    fn links_other_things_and_folders_of_others_are_refused_untouched() {
        let home = tempfile::tempdir().unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        let at = |name: &str| home.path().join(name);
        // A marker that leads elsewhere.
        fs::create_dir(at("planted")).unwrap();
        symlink(&victim, at("planted").join(MARKER)).unwrap();
        assert!(why(DevFolder::take(&at("planted"), true)).contains("other things"));
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full").join("thesis"), b"mine").unwrap();
        assert!(why(DevFolder::take(&at("full"), true)).contains("other things"));
        symlink(at("full"), at("link")).unwrap();
        assert!(why(DevFolder::take(&at("link"), false)).contains("link"));
        assert!(why(DevFolder::take(&victim, false)).contains("directory"));
        // One that others could have filled.
        fs::create_dir(at("open")).unwrap();
        fs::write(at("open").join(MARKER), b"").unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(why(DevFolder::take(&at("open"), true)).contains("others may write"));
        fs::create_dir(at("new")).unwrap();
        symlink(&victim, at("new").join(LOCK)).unwrap();
        assert!(why(DevFolder::take(&at("new"), true)).contains("other things"));
        // What a user makes under a lax umask is empty, and becomes his alone.
        fs::create_dir(at("lax")).unwrap();
        fs::set_permissions(at("lax"), fs::Permissions::from_mode(0o775)).unwrap();
        drop(DevFolder::take(&at("lax"), false).unwrap());
        assert_eq!(fs::metadata(at("lax")).unwrap().mode() & 0o777, 0o700);
        let meta = fs::symlink_metadata(at("open")).unwrap();
        assert!(unfit(&meta, meta.uid() + 1).unwrap().contains("belongs to user"));
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(at("full/thesis").exists());
    }
}
