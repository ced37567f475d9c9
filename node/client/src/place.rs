//! The proof that two processes see the same directory: the machine's boot id, and device and
//! inode of the directory. A path alone proves nothing: containers and chroots share paths.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::pb;

/// Where this machine tells its boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id of this machine's boot; an error where the kernel does not tell.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// How this process sees `dir`: its canonical path and the proof.
pub fn of(dir: &Path) -> io::Result<pb::SourcePath> {
    let canonical = std::fs::canonicalize(dir)?;
    let meta = std::fs::symlink_metadata(&canonical)?;
    if !meta.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
    }
    Ok(pb::SourcePath {
        dir: canonical.as_os_str().as_bytes().to_vec().into(),
        boot_id: boot_id()?,
        dev: meta.dev(),
        inode: meta.ino(),
    })
}

/// The path of `place`, when this process sees the very same directory there; else the reason why not.
pub fn same_directory(place: &pb::SourcePath) -> Result<PathBuf, String> {
    let here = boot_id().map_err(|error| format!("this machine tells no boot id: {error}"))?;
    if place.boot_id.is_empty() || place.boot_id != here {
        return Err("it is on another machine".into());
    }
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&place.dir));
    let canonical = std::fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if canonical != path {
        return Err(format!("{} is not canonical here", path.display()));
    }
    let meta = std::fs::symlink_metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !meta.is_dir() || meta.dev() != place.dev || meta.ino() != place.inode {
        return Err(format!("{} is another directory here", path.display()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_proves_itself_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one");
        let two = dir.path().join("two");
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&two).unwrap();
        let place = of(&one).unwrap();
        assert_eq!(same_directory(&place).unwrap(), std::fs::canonicalize(&one).unwrap());

        let elsewhere = pb::SourcePath { boot_id: "another-boot".into(), ..place.clone() };
        assert!(same_directory(&elsewhere).unwrap_err().contains("another machine"));
        let swapped = pb::SourcePath { dir: of(&two).unwrap().dir, ..place.clone() };
        assert!(same_directory(&swapped).unwrap_err().contains("another directory"));
        let no_proof = pb::SourcePath { boot_id: String::new(), ..place };
        assert!(same_directory(&no_proof).is_err());
        assert!(of(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_path_through_a_symlink_is_not_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let mut place = of(&dir.path().join("real")).unwrap();
        let link = std::fs::canonicalize(dir.path()).unwrap().join("link");
        place.dir = link.as_os_str().as_bytes().to_vec().into();
        assert!(same_directory(&place).unwrap_err().contains("canonical"));
    }
}
