//! What a file takes on a replica: its data, in the units in which runs of zeros stay holes.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, Stat, openat};

use crate::disk::{data_bytes, next_data};
use crate::limits::HOLE_BYTES_MIN;

/// Bytes of the file `name` in `dir`, whose state is `stat`: at most its length. What it takes where it lies is no measure,
/// for it may be compressed there; that it takes less than its length only says that it is worth asking for its holes.
pub(super) fn stored_bytes(dir: &OwnedFd, name: &[u8], stat: &Stat) -> u64 {
    let len = stat.st_size as u64;
    if len <= HOLE_BYTES_MIN as u64 || stat.st_blocks as u64 * 512 >= len {
        return len;
    }
    // What cannot be told is as long as it is: whoever reads the file meets the same obstacle, and names it.
    data_of(dir, name, len).unwrap_or(len)
}

fn data_of(dir: &OwnedFd, name: &[u8], len: u64) -> Option<u64> {
    // NONBLOCK: should it have become a fifo, opening it must not wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).ok()?;
    data_bytes(len, |at| next_data(&file, at, len)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Plan};
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn of_a_file_with_holes_only_what_has_data_counts() {
        const UNIT: u64 = HOLE_BYTES_MIN as u64;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dense"), vec![0; 200_000]).unwrap();
        let file = File::create(dir.path().join("sparse")).unwrap();
        file.set_len((100 << 30) + 77).unwrap();
        // Two in one unit, one across two, and the end.
        for at in [4096, 5 * 4096, (1 << 30) - 1, 100 << 30] {
            file.write_all_at(b"ab", at).unwrap();
        }
        File::create(dir.path().join("hole")).unwrap().set_len(50 << 30).unwrap();
        File::create(dir.path().join("small")).unwrap().set_len(5000).unwrap();
        let plan = Plan::scan(dir.path(), &Limits::default()).unwrap();
        assert_eq!(plan.bytes(), 200_000 + (150 << 30) + 77 + 5000);
        let knows_holes = file.metadata().unwrap().blocks() < 1 << 20;
        assert!(knows_holes, "this file system has no holes: nothing is shown here");
        assert_eq!(plan.stored_bytes(), 200_000 + 3 * UNIT + 77 + 5000);
    }
}
