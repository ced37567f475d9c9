//! Removing a tree name by name, as a disk without descriptors has to.

use std::io;
use std::path::Path;

use crate::disk::{Disk, FileKind};
use crate::durable::ignore_missing;

/// Removes a file or a whole tree; directories without owner write permission are opened up first.
pub(super) fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    // Without recursion: a tree may be 512 deep and paths long.
    let mut left = vec![(path.to_path_buf(), false)];
    while let Some((at, emptied)) = left.pop() {
        if emptied {
            ignore_missing(disk.remove_dir(&at))?;
            continue;
        }
        let stat = match disk.stat(&at) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if stat.kind != FileKind::Directory {
            ignore_missing(disk.unlink(&at))?;
            continue;
        }
        if stat.mode & 0o700 != 0o700 {
            ignore_missing(disk.set_mode(&at, 0o700))?;
        }
        left.push((at.clone(), true));
        let names = match disk.read_dir(&at) {
            Ok(names) => names,
            // Somebody else removes it as well.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for (name, kind) in names {
            let inner = at.join(name);
            if kind == FileKind::Directory {
                left.push((inner, false));
            } else {
                ignore_missing(disk.unlink(&inner))?;
            }
        }
    }
    Ok(())
}
