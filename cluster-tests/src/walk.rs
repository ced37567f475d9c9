//! An independent comparison of two directory trees, and an independent
//! fingerprint of one. This file is the judge of "identical": it must never use
//! the product's own plan, manifest or digest.
//!
//! Compared: names as raw bytes, types, permission bits (all twelve), file
//! lengths and bytes, symlink targets; the root directory's own mode included.
//! Holes are skipped where both files have them, so a sparse file costs its data.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

/// How much of each file is held in memory at a time, in bytes.
const WINDOW_BYTES: usize = 1 << 20;

/// What a comparison covered, so that a test can tell that it compared something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Sum of the lengths of the files, in bytes.
    pub bytes: u64,
}

/// The first difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where, relative to the roots; empty for the roots themselves.
    pub path: PathBuf,
    /// What differs, for people.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at \"{}\": {}", self.path.as_os_str().as_bytes().escape_ascii(), self.what)
    }
}

impl std::error::Error for Difference {}

fn differs<T>(path: &Path, what: impl Into<String>) -> Result<T, Difference> {
    Err(Difference { path: path.to_owned(), what: what.into() })
}

/// Compares the trees below `left` and `right`.
///
/// # Errors
/// The first difference in bytewise order of names; something unreadable is a difference too.
pub fn compare(left: &Path, right: &Path) -> Result<Tally, Difference> {
    let mut tally = Tally::default();
    compare_entry(left, right, Path::new(""), &mut tally)?;
    Ok(tally)
}

fn compare_entry(left: &Path, right: &Path, at: &Path, tally: &mut Tally) -> Result<(), Difference> {
    let (a, b) = (stat(&left.join(at), at)?, stat(&right.join(at), at)?);
    let (kind_a, kind_b) = (kind(&a), kind(&b));
    if kind_a != kind_b {
        return differs(at, format!("a {kind_a} on the left, a {kind_b} on the right"));
    }
    let (mode_a, mode_b) = (a.mode() & 0o7777, b.mode() & 0o7777);
    if mode_a != mode_b && kind_a != "symlink" {
        return differs(at, format!("mode {mode_a:04o} on the left, {mode_b:04o} on the right"));
    }
    match kind_a {
        "directory" => compare_directory(left, right, at, tally),
        "file" => {
            tally.files += 1;
            tally.bytes += a.len();
            if a.len() != b.len() {
                return differs(at, format!("{} bytes on the left, {} on the right", a.len(), b.len()));
            }
            compare_bytes(&left.join(at), &right.join(at), at, a.len())
        }
        "symlink" => {
            tally.symlinks += 1;
            let (to_a, to_b) = (read_link(&left.join(at), at)?, read_link(&right.join(at), at)?);
            if to_a == to_b {
                Ok(())
            } else {
                differs(at, format!("symlink to {to_a:?} on the left, to {to_b:?} on the right"))
            }
        }
        other => differs(at, format!("a {other} has no place in a checkpoint")),
    }
}

fn compare_directory(left: &Path, right: &Path, at: &Path, tally: &mut Tally) -> Result<(), Difference> {
    tally.directories += 1;
    let (a, b) = (names(&left.join(at), at)?, names(&right.join(at), at)?);
    if let Some(name) = a.iter().find(|name| b.binary_search(name).is_err()) {
        return differs(&at.join(name), "only on the left");
    }
    if let Some(name) = b.iter().find(|name| a.binary_search(name).is_err()) {
        return differs(&at.join(name), "only on the right");
    }
    a.iter().try_for_each(|name| compare_entry(left, right, &at.join(name), tally))
}

fn compare_bytes(left: &Path, right: &Path, at: &Path, len: u64) -> Result<(), Difference> {
    let (a, b) = (open(left, at)?, open(right, at)?);
    let mut extents = data_extents(&a, len);
    extents.extend(data_extents(&b, len));
    extents.sort_unstable();
    let (mut buffer_a, mut buffer_b) = (vec![0; WINDOW_BYTES], vec![0; WINDOW_BYTES]);
    let mut compared_to = 0;
    for (start, end) in extents {
        let mut offset = start.max(compared_to);
        while offset < end {
            let take = usize::try_from(end - offset).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
            let (pa, pb) = (&mut buffer_a[..take], &mut buffer_b[..take]);
            read_at(&a, pa, offset, at)?;
            read_at(&b, pb, offset, at)?;
            if pa != pb {
                let first = pa.iter().zip(pb.iter()).position(|(x, y)| x != y).unwrap_or(0);
                return differs(
                    at,
                    format!(
                        "byte {} is {:#04x} on the left, {:#04x} on the right",
                        offset + first as u64,
                        pa[first],
                        pb[first]
                    ),
                );
            }
            offset += take as u64;
        }
        compared_to = compared_to.max(end);
    }
    Ok(())
}

/// The ranges of a file that may hold anything but zeros, as [start, end).
fn data_extents(file: &File, len: u64) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let mut offset = 0;
    while offset < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return vec![(0, len)],
        };
        let Ok(end) = rustix::fs::seek(file, SeekFrom::Hole(start)) else { return vec![(0, len)] };
        extents.push((start, end.min(len)));
        offset = end;
    }
    extents
}

/// An independent name for the content of a tree; equal trees have equal ones.
/// Not cryptographic: it tells accidents, not attackers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The fingerprint of the tree below `root`.
///
/// # Errors
/// When something cannot be read or is no file, directory or symlink.
pub fn fingerprint(root: &Path) -> Result<Fingerprint, Difference> {
    let mut hasher = DefaultHasher::new();
    fingerprint_entry(root, Path::new(""), &mut hasher)?;
    Ok(Fingerprint(hasher.finish()))
}

fn fingerprint_entry(root: &Path, at: &Path, hasher: &mut DefaultHasher) -> Result<(), Difference> {
    let path = root.join(at);
    let meta = stat(&path, at)?;
    let kind = kind(&meta);
    for part in [kind.as_bytes(), at.as_os_str().as_bytes()] {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    match kind {
        "directory" => {
            hasher.write_u32(meta.mode() & 0o7777);
            names(&path, at)?.iter().try_for_each(|name| fingerprint_entry(root, &at.join(name), hasher))
        }
        "file" => {
            hasher.write_u32(meta.mode() & 0o7777);
            hasher.write_u64(meta.len());
            let file = open(&path, at)?;
            let mut buffer = vec![0; WINDOW_BYTES];
            let mut offset = 0;
            while offset < meta.len() {
                let take = usize::try_from(meta.len() - offset).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
                read_at(&file, &mut buffer[..take], offset, at)?;
                hasher.write(&buffer[..take]);
                offset += take as u64;
            }
            Ok(())
        }
        "symlink" => {
            hasher.write(read_link(&path, at)?.as_os_str().as_bytes());
            Ok(())
        }
        other => differs(at, format!("a {other} has no place in a checkpoint")),
    }
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "file"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_fifo() {
        "FIFO"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    }
}

fn unreadable<T>(result: io::Result<T>, at: &Path, path: &Path) -> Result<T, Difference> {
    result.or_else(|error| differs(at, format!("cannot read {}: {error}", path.display())))
}

fn stat(path: &Path, at: &Path) -> Result<Metadata, Difference> {
    unreadable(fs::symlink_metadata(path), at, path)
}

fn read_link(path: &Path, at: &Path) -> Result<PathBuf, Difference> {
    unreadable(fs::read_link(path), at, path)
}

fn open(path: &Path, at: &Path) -> Result<File, Difference> {
    unreadable(File::open(path), at, path)
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64, at: &Path) -> Result<(), Difference> {
    unreadable(file.read_exact_at(buffer, offset), at, at)
}

/// The names in a directory, sorted bytewise.
fn names(path: &Path, at: &Path) -> Result<Vec<OsString>, Difference> {
    let read = || -> io::Result<Vec<OsString>> {
        let mut names =
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    };
    unreadable(read(), at, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{Scratch, set_mode};
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    fn tree(at: &Path) {
        fs::create_dir(at).unwrap();
        fs::create_dir(at.join("empty")).unwrap();
        fs::write(at.join("plain"), vec![7; 3 << 20]).unwrap();
        fs::write(at.join(OsStr::from_bytes(b"caf\xe9")), b"latin").unwrap();
        symlink("nowhere", at.join("dangling")).unwrap();
        let sparse = File::create(at.join("sparse")).unwrap();
        sparse.set_len(1 << 27).unwrap();
        sparse.write_all_at(b"middle", 60 << 20).unwrap();
        set_mode(&at.join("plain"), 0o640).unwrap();
        set_mode(at, 0o755).unwrap();
    }

    /// Plants one difference on the right and gives what is said about it.
    fn planted(plant: impl FnOnce(&Path)) -> Difference {
        let scratch = Scratch::new("walk");
        let (left, right) = (scratch.join("left"), scratch.join("right"));
        tree(&left);
        tree(&right);
        assert_eq!(
            compare(&left, &right).unwrap(),
            Tally { files: 3, directories: 2, symlinks: 1, bytes: (3 << 20) + 5 + (1 << 27) }
        );
        let before = fingerprint(&right).unwrap();
        plant(&right);
        assert_ne!(fingerprint(&right).ok(), Some(before), "the fingerprint must see it too");
        assert!(compare(&right, &left).is_err(), "seen from both sides");
        compare(&left, &right).unwrap_err()
    }

    #[test]
    fn every_kind_of_difference_is_caught_and_named() {
        type Plant = Box<dyn FnOnce(&Path)>;
        let cases: Vec<(&str, &str, Plant)> = vec![
            (
                "plain",
                "byte 2097153",
                Box::new(|r| {
                    File::options()
                        .write(true)
                        .open(r.join("plain"))
                        .unwrap()
                        .write_all_at(b"x", (2 << 20) + 1)
                        .unwrap()
                }),
            ),
            (
                "plain",
                "bytes on the left",
                Box::new(|r| File::options().write(true).open(r.join("plain")).unwrap().set_len(5).unwrap()),
            ),
            ("plain", "mode 0640", Box::new(|r| set_mode(&r.join("plain"), 0o600).unwrap())),
            ("plain", "mode 0640", Box::new(|r| set_mode(&r.join("plain"), 0o4640).unwrap())),
            ("empty", "mode", Box::new(|r| set_mode(&r.join("empty"), 0o500).unwrap())),
            ("", "mode", Box::new(|r| set_mode(r, 0o700).unwrap())),
            ("empty", "only on the left", Box::new(|r| fs::remove_dir(r.join("empty")).unwrap())),
            ("empty/new", "only on the right", Box::new(|r| fs::write(r.join("empty/new"), b"").unwrap())),
            (".hidden", "only on the right", Box::new(|r| fs::create_dir(r.join(".hidden")).unwrap())),
            (
                "caf\\xe9",
                "only on the left",
                Box::new(|r| fs::rename(r.join(OsStr::from_bytes(b"caf\xe9")), r.join("caf\u{e9}")).unwrap()),
            ),
            (
                "dangling",
                "symlink to",
                Box::new(|r| {
                    fs::remove_file(r.join("dangling")).unwrap();
                    symlink("elsewhere", r.join("dangling")).unwrap()
                }),
            ),
            (
                "dangling",
                "a symlink on the left, a file",
                Box::new(|r| {
                    fs::remove_file(r.join("dangling")).unwrap();
                    fs::write(r.join("dangling"), b"").unwrap()
                }),
            ),
            (
                "sparse",
                "byte 104857600",
                Box::new(|r| {
                    File::options()
                        .write(true)
                        .open(r.join("sparse"))
                        .unwrap()
                        .write_all_at(b"x", 100 << 20)
                        .unwrap()
                }),
            ),
            (
                "sparse",
                "byte 62914560",
                Box::new(|r| {
                    let f = File::create(r.join("sparse")).unwrap();
                    f.set_len(1 << 27).unwrap()
                }),
            ),
        ];
        for (path, what, plant) in cases {
            let found = planted(plant);
            assert!(found.to_string().contains(&format!("at \"{path}\"")), "{found} should name {path}");
            assert!(found.what.contains(what), "{found} should say {what}");
        }
    }

    #[test]
    fn a_sparse_and_a_written_copy_of_the_same_zeros_are_equal() {
        let scratch = Scratch::new("walk-zeros");
        for (name, sparse) in [("left", true), ("right", false)] {
            fs::create_dir(scratch.join(name)).unwrap();
            let file = File::create(scratch.join(name).join("f")).unwrap();
            if sparse {
                file.set_len(1 << 22).unwrap()
            } else {
                file.write_all_at(&vec![0; 1 << 22], 0).unwrap()
            }
        }
        assert_eq!(compare(&scratch.join("left"), &scratch.join("right")).unwrap().bytes, 1 << 22);
    }
}
