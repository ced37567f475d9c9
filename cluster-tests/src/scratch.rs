//! A folder for one run, removed at its end, read-only directories included.
//!
//! `EPOCHLOG_SCRATCH` says where scratch folders are made (default: the
//! system's temporary folder); `EPOCHLOG_KEEP=1` keeps them.

use std::fs::{self, Permissions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that lives as long as this value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new folder, readable by every user, below the scratch root.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Scratch {
        let root = std::env::var_os("EPOCHLOG_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
        Scratch::below(&root, name)
    }

    /// A new folder below `root`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn below(root: &Path, name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root =
            fs::canonicalize(root).unwrap_or_else(|error| panic!("scratch root {}: {error}", root.display()));
        let path = root.join(format!("epochlog-{name}-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("scratch folder {}: {error}", path.display()));
        set_mode(&path, 0o755).expect("our own new folder takes a mode");
        Scratch { path }
    }
}

impl Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("EPOCHLOG_KEEP").is_some() {
            eprintln!("kept {}", self.path.display());
        } else if let Err(error) = remove_tree(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Sets the permission bits of a file or directory.
///
/// # Errors
/// As `chmod` does.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Removes a tree, opening read-only directories on the way.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    set_mode(path, 0o700)?;
    for entry in fs::read_dir(path)? {
        remove_tree(&entry?.path())?;
    }
    fs::remove_dir(path)
}
