//! What is read of blobs while something happens to them.

use std::sync::Arc;

use super::*;
use crate::disk::{DiskFile, Open, RealDisk};

/// A disk on which a copy of a content is found bad whenever a file is opened.
#[derive(Debug)]
struct Doubting(Arc<Known>, Digest);

impl crate::disk::DiskLayer for Doubting {
    fn below(&self) -> &dyn Disk {
        &RealDisk
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.0.forget(self.1);
        RealDisk.open(path, how)
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
