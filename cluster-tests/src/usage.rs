//! What a node takes: bytes on its disk, each inode once, and memory.
//!
//! Published trees, blobs and staged files share inodes, so a sum over names would count the same bytes
//! several times. Directories count nothing: shelves, once made, stay. The ballast is room that is given up
//! when it is needed, and counts nothing either.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cluster::Node;

/// Bytes of a node by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// WAL segments and mark.
    pub wal: u64,
    /// The catalog.
    pub catalog: u64,
    /// Ledger snapshots.
    pub snapshots: u64,
    /// Staged, sealed, published, incoming and leaving content.
    pub content: u64,
    /// Resident memory of the process, 0 without one.
    pub rss: u64,
}

impl Usage {
    /// What a node takes now. What vanishes meanwhile counts nothing.
    pub fn of(node: &Node) -> Usage {
        let group = node.data.join("groups/main");
        let mut seen = BTreeSet::new();
        let mut sum = |path: PathBuf| unique_bytes(&path, &mut seen);
        let [wal, catalog, snapshots] = ["log", "catalog", "snapshots"].map(|name| sum(group.join(name)));
        let content = ["staging", "blobs", "incoming", "trash"].map(|name| sum(group.join(name)));
        let content =
            content.iter().sum::<u64>() + sum(node.data.join("epochs")) + sum(node.data.join("capture"));
        Usage { wal, catalog, snapshots, content, rss: rss(node) }
    }

    /// All of the disk.
    pub fn disk(&self) -> u64 {
        self.wal + self.catalog + self.snapshots + self.content
    }

    /// The larger of each.
    pub fn max(self, other: Usage) -> Usage {
        Usage {
            wal: self.wal.max(other.wal),
            catalog: self.catalog.max(other.catalog),
            snapshots: self.snapshots.max(other.snapshots),
            content: self.content.max(other.content),
            rss: self.rss.max(other.rss),
        }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kib = |bytes: u64| bytes >> 10;
        write!(
            f,
            "disk {} KiB (wal {}, catalog {}, snapshots {}, content {}), RSS {} KiB",
            kib(self.disk()),
            kib(self.wal),
            kib(self.catalog),
            kib(self.snapshots),
            kib(self.content),
            kib(self.rss)
        )
    }
}

/// Blocks of the files below a path whose inodes were not seen yet.
fn unique_bytes(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return if seen.insert((meta.dev(), meta.ino())) { meta.blocks() * 512 } else { 0 };
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| unique_bytes(&entry.path(), seen)).sum()
}

fn rss(node: &Node) -> u64 {
    let Some(pid) = node.pid() else { return 0 };
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Everything that must be gone from a node when no epoch is left and no attempt is open: files of content wherever
/// they lie, folders of attempts and of epochs.
pub fn leftovers(node: &Node) -> Vec<PathBuf> {
    let group = node.data.join("groups/main");
    let mut found = Vec::new();
    for folder in ["staging", "blobs", "incoming", "trash"] {
        files(&group.join(folder), &mut found);
    }
    files(&node.data.join("capture"), &mut found);
    files(&node.data.join("epochs"), &mut found);
    let jobs = entries(&node.data.join("epochs")).into_iter().flat_map(|job| entries(&job));
    found.extend(entries(&group.join("staging")).into_iter().chain(jobs).filter(|path| path.is_dir()));
    found
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => entries(path).iter().for_each(|entry| files(entry, found)),
        Ok(meta) if meta.is_file() => found.push(path.to_owned()),
        _ => {}
    }
}

fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_file_with_two_names_counts_once_and_a_directory_not_at_all() {
        let scratch = Scratch::new("usage");
        fs::create_dir(scratch.join("dir")).unwrap();
        fs::write(scratch.join("dir/one"), vec![1; 8192]).unwrap();
        fs::hard_link(scratch.join("dir/one"), scratch.join("two")).unwrap();
        let bytes = fs::metadata(scratch.join("two")).unwrap().blocks() * 512;
        assert!(bytes >= 8192);
        assert_eq!(unique_bytes(&scratch, &mut BTreeSet::new()), bytes);
    }
}
