//! The mark that is found, and whose it is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;

use super::error::OpenError;
use crate::store::mark::{MarkError, MarkFile};
use crate::store::owner::Identity;

/// Whether this name is there.
pub fn exists(disk: &Arc<dyn Disk>, path: &Path) -> Result<bool, OpenError> {
    match disk.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(OpenError::Io { what: format!("look for {}", path.display()), source }),
    }
}

/// The mark, whoever's it is.
pub fn open_mark(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<MarkFile, OpenError> {
    let dir = layout.log_dir();
    let path = dir.join("mark");
    let what = format!("read {}", path.display());
    MarkFile::open(disk, path).map_err(|error| match error {
        MarkError::Io(source) if source.kind() != io::ErrorKind::NotFound => OpenError::Io { what, source },
        MarkError::Io(_) => OpenError::VoteLost { dir, why: "the mark file is missing".into() },
        MarkError::Damaged => {
            OpenError::VoteLost { dir, why: "both slots of the mark file are damaged".into() }
        }
    })
}

/// The mark of this owner's log.
pub fn own_mark(disk: &Arc<dyn Disk>, layout: &Layout, owner: Identity) -> Result<MarkFile, OpenError> {
    let mark = open_mark(disk, layout)?;
    if mark.last().owner != owner {
        let (dir, found) = (layout.log_dir(), mark.last().owner.node);
        return Err(OpenError::Owner { dir, found, expected: owner.node });
    }
    Ok(mark)
}
