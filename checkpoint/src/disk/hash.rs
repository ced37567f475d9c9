//! Digests of files on a disk: their holes are not read.

use std::io;
use std::path::Path;

use super::{Disk, DiskFile, Open};
use crate::digest::{Digest, FileHasher};

// Read at a time, bytes.
const READ_BYTES: usize = 1 << 20;

/// The digest of a file's content.
pub(crate) fn hash_file(disk: &dyn Disk, path: &Path) -> io::Result<Digest> {
    let file = disk.open(path, Open::Read)?;
    let mut hasher = FileHasher::new();
    hash_range(&*file, 0, u64::MAX, &mut hasher)?;
    Ok(hasher.finish())
}

/// The digest of a file as if it went on with zeros to `size`.
pub(crate) fn hash_staged(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<Digest> {
    let file = disk.open(path, Open::Read)?;
    let mut hasher = FileHasher::new();
    let end = hash_range(&*file, 0, size, &mut hasher)?;
    hasher.zeros(size - end);
    Ok(hasher.finish())
}

/// Takes the bytes of a file from `offset` to `end` or to where it ends, holes without reading them. Where that was.
pub(crate) fn hash_range(
    file: &dyn DiskFile,
    mut offset: u64,
    end: u64,
    hasher: &mut FileHasher,
) -> io::Result<u64> {
    let end = file.len()?.min(end);
    let mut room = Vec::new();
    while offset < end {
        let Some((start, until)) = file.next_data(offset, end)? else {
            // A hole up to the end, or it was cut meanwhile: behind a new end there is nothing, not even zeros.
            let end = file.len()?.clamp(offset, end);
            hasher.zeros(end - offset);
            return Ok(end);
        };
        hasher.zeros(start - offset);
        offset = start;
        if room.is_empty() {
            room.resize((end - start).min(READ_BYTES as u64) as usize, 0);
        }
        while offset < until {
            let want = (until - offset).min(room.len() as u64) as usize;
            match file.read_at(&mut room[..want], offset) {
                // It was cut meanwhile.
                Ok(0) => return Ok(offset),
                Ok(n) => {
                    hasher.data(&room[..n]);
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::disk::RealDisk;

    /// A file that is cut when its length was asked for, as often as there are lengths.
    #[derive(Debug)]
    struct Shrinking {
        file: Box<dyn DiskFile>,
        cuts: Mutex<Vec<u64>>,
    }

    impl crate::disk::FileLayer for Shrinking {
        fn below(&self) -> &dyn DiskFile {
            &*self.file
        }
        fn len(&self) -> io::Result<u64> {
            let len = self.file.len()?;
            if let Some(cut) = self.cuts.lock().unwrap().pop() {
                self.file.set_len(cut)?;
            }
            Ok(len)
        }
    }

    #[test]
    fn what_was_cut_off_a_file_while_it_is_read_does_not_count_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        for (len, cut) in [(1 << 20, 0), (1 << 20, 5000)] {
            let file = RealDisk.open(&dir.path().join("f"), Open::Create).unwrap();
            file.set_len(len).unwrap();
            let file = Shrinking { file, cuts: vec![cut].into() };
            let mut hasher = FileHasher::new();
            assert_eq!(hash_range(&file, 0, u64::MAX, &mut hasher).unwrap(), cut);
            assert!(hasher.finish() == crate::digest::content(&vec![0; cut as usize]));
        }
    }
}
