//! What a start would find, without starting anything or changing anything on disk.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;

use super::start_error::StartError;
use crate::record::LogId;
use crate::snapshot::newest_meta;
use crate::store::Seen;

/// The newest membership that the log, which was looked at, or the snapshots below `layout` hold, as the `raft` crate encoded
/// it.
///
/// # Errors
/// [`StartError`]: the snapshots cannot be read.
pub fn membership_on_disk(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    log: &Seen,
) -> Result<Option<(LogId, Bytes)>, StartError> {
    let in_snapshot = newest_meta(&**disk, &layout.snapshots_dir())?.and_then(|meta| meta.membership);
    Ok(log.membership.clone().into_iter().chain(in_snapshot).max_by_key(|(id, _)| id.index))
}
