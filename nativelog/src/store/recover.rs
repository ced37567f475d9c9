//! What a node does with the log it finds at start.
//!
//! | found | done |
//! |---|---|
//! | no `log/`, nothing that takes its place | made anew: built under another name, renamed when complete |
//! | `log.replacement/` | a repair was interrupted: it takes the place of `log/`, which is kept as `log.damaged.<n>` |
//! | `log.new/`, `*.new` in `log/` | never got its name: removed |
//! | both slots of the mark damaged, or no mark | refuse, for good: a vote may be lost |
//! | one slot of the mark damaged | the other one serves: the WAL must reach as far as it says, and has the vote too |
//! | another owner | refuse |
//! | segments in front of one that follows nothing but purged entries, holes among them or not | the deletion that a durable purge began is finished; they are not read |
//! | any other segment missing, or not starting where the one before ends | refuse |
//! | the first segment follows entries that no mark and no frame says are purged | refuse: their segments are missing |
//! | a bad frame below the mark | refuse: it was durable, so this is damage |
//! | a bad frame with a good one after it | refuse: the same |
//! | the WAL ends below the mark | refuse: the same |
//! | a bad frame at the end | cut: nothing in it was ever acknowledged |
//! | an entry above the mark whose payload does not verify | refuse: its header is only written after its payload is durable |
//! | the mark's vote is newer than the WAL's | refuse: the WAL lost a vote |
//! | an entry below the mark whose payload does not verify | found by its reader, who waits for its repair |
//!
//! To refuse costs a node; to go on could cost an acknowledged epoch, or a second vote in a term. Who was refused
//! runs `epochlog repair`: [`certain_vote`] tells what this node is bound to, and [`replace_damaged`] puts an
//! empty log behind a snapshot from the peers in the place of the damaged one. Where the vote is not certain the node
//! must not come back.
//!
//! Before anything is read, the last segment is fdatasynced and its cached pages are dropped: after
//! a failed fsync the page cache may hold what the device does not.

mod error;
mod mark;
mod payloads;
mod rebuild;
mod replace;
mod segment;
mod walk;

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::{Disk, Open};
use checkpoint::store::layout::Layout;

use super::index::Index;
use super::mark::MarkFile;
use super::options::Options;
use super::owner::Identity;
use super::room::Room;
use super::wal::{SegmentReader, Wal, segment_name};
use crate::record::{Body, LogId};

use error::io_error;
use mark::{exists, open_mark, own_mark};

pub use error::OpenError;
pub use replace::{certain_vote, replace_damaged, replacement_dir};

/// What opening found, for the log and for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The log was made just now.
    pub created: bool,
    /// Entries found.
    pub entries: u64,
    /// Bytes of an unacknowledged torn tail that were cut.
    pub cut_bytes: u64,
    /// Payloads above the durable mark that were read back from the device and verified.
    pub verified_payloads: u64,
}

/// An opened log, before its writer runs.
pub struct Opened {
    /// The index.
    pub index: Index,
    /// The writing end.
    pub wal: Wal,
    /// The mark.
    pub mark: MarkFile,
    /// What was found.
    pub report: Recovered,
}

/// Opens or makes the log.
pub fn open(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    owner: Identity,
    options: &Options,
) -> Result<Opened, OpenError> {
    replace::settle(disk, layout)?;
    let created = !exists(disk, &layout.log_dir())?;
    if created {
        replace::create(disk, layout, owner)?;
    }
    let group = layout.group_dir();
    disk.sync_dir(group).map_err(io_error(format!("sync {}", group.display())))?;
    let mut opened = read(disk, layout, owner, options)?;
    opened.report.created = created;
    Ok(opened)
}

/// What a log says that was only looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The newest membership that the log holds, as the `raft` crate encoded it.
    pub membership: Option<(LogId, Bytes)>,
    /// Last purged position.
    pub purged: Option<LogId>,
    /// Last position.
    pub last: Option<LogId>,
}

/// Looks at the log as [`open`] would, and changes nothing on disk. `None` when there is no log, or one that is yet to take
/// its place.
pub fn look(disk: &Arc<dyn Disk>, layout: &Layout, owner: Identity) -> Result<Option<Seen>, OpenError> {
    let dir = layout.log_dir();
    if exists(disk, &replacement_dir(layout))? || !exists(disk, &dir)? {
        return Ok(None);
    }
    let mark = own_mark(disk, layout, owner)?;
    let walked = walk::walk(disk, &dir, &mark.last(), 0)?;
    payloads::verify(disk, layout, &walked)?;
    let index = &walked.index;
    let slot = index.last_membership(u64::MAX).and_then(|at| index.slots(at..at + 1).pop());
    let body = slot.map(|slot| match slot.body.clone() {
        Some(body) => Ok((slot.id, body)),
        None => SegmentReader::new(disk.clone(), dir.clone()).body(&slot).map(|body| (slot.id, body)),
    });
    let body = body.transpose().map_err(io_error(format!("read the log in {}", dir.display())))?;
    let membership = body.and_then(|(id, body)| match body {
        Body::Membership(bytes) => Some((id, bytes)),
        _ => None,
    });
    Ok(Some(Seen { membership, purged: index.purged(), last: index.last() }))
}

/// Who made the log, if there is one.
pub fn owner_of(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<Option<Identity>, OpenError> {
    replace::settle(disk, layout)?;
    if !exists(disk, &layout.log_dir())? {
        return Ok(None);
    }
    Ok(Some(open_mark(disk, layout)?.last().owner))
}

fn read(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    owner: Identity,
    options: &Options,
) -> Result<Opened, OpenError> {
    let dir = layout.log_dir();
    let reading = |what: &str| io_error(format!("{what} the log in {}", dir.display()));
    let mut mark = own_mark(disk, layout, owner)?;
    // The process before may have died between a rename and its sync: what is named here must stay.
    disk.sync_dir(&dir).map_err(reading("sync"))?;
    for (name, _) in disk.read_dir(&dir).map_err(reading("list"))? {
        if name.to_str().is_some_and(|name| name.ends_with(".new")) {
            disk.unlink(&dir.join(&name)).map_err(reading("clean"))?;
        }
    }
    let walked = walk::walk(disk, &dir, &mark.last(), options.cache_bytes)?;
    let end = walked.end;
    if let Some(why) = walked.torn {
        let cut_bytes = walked.torn_bytes;
        tracing::warn!(position = end, cut_bytes, why, "cutting the unacknowledged torn tail of the log");
        let base = walked.segments.last().map_or(0, |segment| segment.base);
        let last = disk.open(&dir.join(segment_name(base)), Open::Write).map_err(reading("cut"))?;
        last.set_len(end - base).and_then(|()| last.sync_all()).map_err(reading("cut"))?;
    }
    // The zeros at the end of a segment that was closed: its cut may not have been durable.
    for pair in walked.segments.windows(2) {
        let path = dir.join(segment_name(pair[0].base));
        let file = disk.open(&path, Open::Write).map_err(reading("cut"))?;
        if file.len().map_err(reading("cut"))? > pair[1].base - pair[0].base {
            file.set_len(pair[1].base - pair[0].base).map_err(reading("cut"))?;
        }
    }
    let verified_payloads = payloads::verify(disk, layout, &walked)?;
    let index = walked.index;
    let mut wal =
        Wal::resume(disk.clone(), dir.clone(), walked.segments, end, options).map_err(reading("open"))?;
    // Both for what was cut and for what is deleted next: from here on this is what the log says.
    mark.write(&Room::impatient(), end, index.vote, index.purged()).map_err(reading("mark"))?;
    if let Some(purged) = index.purged() {
        wal.delete_purged(purged).map_err(reading("clean"))?;
    }
    let entries = index.next_index() - index.first();
    let report = Recovered { created: false, entries, cut_bytes: walked.torn_bytes, verified_payloads };
    Ok(Opened { index, wal, mark, report })
}
