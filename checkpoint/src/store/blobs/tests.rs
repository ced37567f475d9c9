//! What is read of blobs while something happens to them.

use std::sync::Arc;

use super::*;
use crate::disk::{DiskDir, DiskFile, Open, RealDisk, Space};

/// A disk on which a copy of a content is found bad whenever a file is opened.
#[derive(Debug)]
struct Doubting(Arc<Known>, Digest);

impl Disk for Doubting {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.0.forget(self.1);
        RealDisk.open(path, how)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealDisk.stat(path)
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_direct(path, how)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileKind)>> {
        RealDisk.read_dir(path)
    }
    fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read_link(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.link(from, to)
    }
    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()> {
        RealDisk.symlink(target, at)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealDisk.unlink(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_tree(path)
    }
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        RealDisk.set_mode(path, mode)
    }
    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.clone_file(from, to)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        RealDisk.open_dir(path)
    }
    fn free(&self, path: &Path) -> io::Result<Space> {
        RealDisk.free(path)
    }
}

#[test]
fn a_blob_that_is_found_bad_while_it_is_read_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, data) = (dir.path().join("blob"), b"content");
    RealDisk.write_new(&path, data, 0o644).unwrap();
    let (known, key) = (Arc::new(Known::default()), (crate::digest::content(data), 0o644, 0));
    let stat = RealDisk.stat(&path).unwrap();
    let found = check(&Doubting(known.clone(), key.0), &known, &path, key, stat.len).unwrap();
    assert!(matches!(found, Found::Good(_)) && !known.knows(&key, &stat), "it is trusted later on");
    check(&RealDisk, &known, &path, key, stat.len).unwrap();
    assert!(known.knows(&key, &stat));
}
