//! A header is only written after its payload is durable: at start this is checked where nobody was told so yet.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::disk::{Disk, DiskFile, Open};
use checkpoint::store::layout::Layout;

use super::error::OpenError;
use super::walk::Walked;
use crate::record::Kind;
use crate::shape;
use crate::store::payload::position;

/// Reads back, past the page cache, every payload whose header lies above the mark.
pub fn verify(disk: &Arc<dyn Disk>, layout: &Layout, walked: &Walked) -> Result<u64, OpenError> {
    let mut files: BTreeMap<PathBuf, Box<dyn DiskFile>> = BTreeMap::new();
    let mut dirs = BTreeSet::new();
    for (index, (place, header)) in &walked.unsure {
        let Some(Kind::Chunk(chunk)) = &header.kind else { continue };
        let missing = |error: io::Error| OpenError::Damaged {
            dir: layout.log_dir(),
            position: walked.durable,
            why: format!("the payload of entry {index}, of attempt {}, is lost: {error}", chunk.attempt),
        };
        let (path, offset) = position(layout, *index, *place, header).map_err(missing)?;
        if !files.contains_key(&path) {
            let file = disk.open(&path, Open::Read).map_err(missing)?;
            file.sync_data().map_err(missing)?;
            file.drop_cache().map_err(missing)?;
            if let Some(dir) = path.parent()
                && dirs.insert(dir.to_path_buf())
            {
                disk.sync_dir(dir).map_err(missing)?;
            }
            if files.len() >= 256 {
                files.clear();
            }
            files.insert(path.clone(), file);
        }
        let mut bytes = vec![0; chunk.len as usize];
        files[&path].read_exact_at(&mut bytes, offset).map_err(missing)?;
        shape::check_shape(header, Some(&bytes))
            .map_err(|why| missing(io::Error::new(io::ErrorKind::InvalidData, why.to_string())))?;
    }
    Ok(walked.unsure.len() as u64)
}
