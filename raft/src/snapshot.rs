//! A ledger snapshot as openraft passes it around.
//!
//! What openraft calls a snapshot is a few numbers to us: position and membership, and the bytes of the
//! ledger at that position. The manifests, blobs and staged ranges it refers to travel apart
//! (`transfer`), before it is installed. The keeper makes snapshots durable by itself and lets
//! openraft know afterwards: a disk that refuses one is a log line there, and would be the end of the
//! node here.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use nativelog::machine::{Machine, Pin};
use nativelog::record::LogId;
use nativelog::snapshot::{Capture, SnapshotMeta};
use nativelog::store::LogStore;
use openraft::BasicNode;
use tokio::task::spawn_blocking;

use crate::types::{Lead, StoredMembers, decode_members, encode_members, log_id, raft_id};

/// openraft's description of a snapshot.
pub type Meta = openraft::storage::SnapshotMeta<Lead, u64, BasicNode>;
/// openraft's snapshot.
pub type Snap = openraft::storage::Snapshot<Lead, u64, BasicNode, SnapshotData>;

/// The bytes of a snapshot, and who can keep its content here while it is sent.
pub struct SnapshotData {
    capture: Option<Capture>,
    machine: Option<Arc<Machine>>,
}

impl SnapshotData {
    /// A snapshot that came from elsewhere, or was just built.
    pub fn new(capture: Capture) -> Self {
        SnapshotData { capture: Some(capture), machine: None }
    }

    /// A snapshot of `machine`, to be sent.
    pub fn of(machine: Arc<Machine>, capture: Capture) -> Self {
        SnapshotData { capture: Some(capture), machine: Some(machine) }
    }

    /// A snapshot that is only announced: it is on disk, and nobody asks for its bytes.
    pub fn announced() -> Self {
        SnapshotData { capture: None, machine: None }
    }

    /// The ledger and what it is of.
    ///
    /// # Errors
    /// A snapshot that was only announced.
    pub fn capture(&self) -> io::Result<&Capture> {
        self.capture.as_ref().ok_or_else(|| io::Error::other("a snapshot that was only announced"))
    }

    /// Keeps everything that the snapshot refers to, and the log behind it, while the pin lives. Taken only when the
    /// other side is there: a node that is gone for long must not hold up what is given back here.
    ///
    /// # Errors
    /// A newer snapshot is there: what this one refers to may be gone.
    pub async fn pin(&self) -> io::Result<Option<Pin>> {
        let (Some(machine), position) = (&self.machine, self.capture()?.meta.position) else {
            return Ok(None);
        };
        let pinning = machine.clone();
        let pin = spawn_blocking(move || pinning.pin()).await.map_err(io::Error::other)?;
        match machine.newest_snapshot() {
            Some(newest) if newest.position.index > position.index => {
                Err(io::Error::other("a newer snapshot is there"))
            }
            _ => Ok(Some(pin)),
        }
    }
}

/// openraft's snapshot over `data`.
///
/// # Errors
/// A membership that does not decode.
pub fn snap(meta: &SnapshotMeta, data: SnapshotData) -> io::Result<Snap> {
    Ok(Snap { meta: raft_meta(meta)?, snapshot: data })
}

/// Our description of a snapshot as openraft's.
///
/// # Errors
/// A membership that does not decode.
pub fn raft_meta(meta: &SnapshotMeta) -> io::Result<Meta> {
    let last_membership = stored_members(meta.membership.as_ref())?;
    Ok(Meta { last_log_id: Some(raft_id(meta.position)), last_membership })
}

/// A membership as nativelog keeps it, in openraft's words.
///
/// # Errors
/// A membership that does not decode.
pub fn stored_members(kept: Option<&(LogId, Bytes)>) -> io::Result<StoredMembers> {
    let Some((id, bytes)) = kept else { return Ok(StoredMembers::default()) };
    let damaged = |why| io::Error::new(io::ErrorKind::InvalidData, format!("membership at {id}: {why}"));
    Ok(StoredMembers::new(Some(raft_id(*id)), decode_members(bytes).map_err(damaged)?))
}

/// The members at a snapshot's position, and their addresses.
///
/// # Errors
/// A membership that does not decode.
pub fn members_of(meta: &SnapshotMeta) -> io::Result<Vec<(u64, String)>> {
    members_in(meta.membership.as_ref())
}

/// The members of a membership as nativelog keeps it, and their addresses; none without one.
///
/// # Errors
/// A membership that does not decode.
pub fn members_in(kept: Option<&(LogId, Bytes)>) -> io::Result<Vec<(u64, String)>> {
    let members = stored_members(kept)?;
    Ok(members.nodes().map(|(node, at)| (*node, at.addr.clone())).collect())
}

/// openraft's membership as nativelog keeps it.
pub fn kept_members(members: &StoredMembers) -> Option<(LogId, Bytes)> {
    let id = members.log_id().as_ref()?;
    Some((log_id(id), encode_members(members.membership())))
}

/// The members that the log of this node has, the newest of them; none in an empty one.
///
/// # Errors
/// The log cannot be read.
pub fn logged(log: &LogStore, machine: &Machine) -> io::Result<Vec<(u64, String)>> {
    // What is appended holds, whether it is applied or not; what the log has forgotten a snapshot knows.
    let newest = match log.last_membership(u64::MAX)? {
        Some(newest) => Some(newest),
        None => machine.last_membership()?,
    };
    members_in(newest.as_ref())
}
