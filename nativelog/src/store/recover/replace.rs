//! Makes a log: the first one of a node, or the one that takes the place of a damaged one.
//!
//! ```text
//!   log.new/          built, every file and name fsynced
//!   log.replacement/  complete: from here on the replacement is decided
//!   log/         ->   log.damaged.<n>/
//!   log.replacement/ -> log/
//! ```
//!
//! **Guarantees.** Each step is fsynced before the next one. Stopped before `log.replacement` has its name,
//! the damaged log is found again; after that, whoever looks at the log next finishes the replacement. The damaged log
//! is kept.
//!
//! **Never** replaces a log whose vote is not certain, or gives the new one a vote below it: a node that forgets a vote
//! could vote twice in a term. When a vote is certain is said in the head of `mark.rs`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::durable::create_dir_all;
use checkpoint::store::layout::Layout;

use super::error::{OpenError, io_error};
use super::mark::{exists, own_mark};
use super::walk;
use crate::record::LogId;
use crate::store::failed::Failed;
use crate::store::mark::MarkFile;
use crate::store::owner::{Identity, Vote};
use crate::store::room::Room;
use crate::store::wal::{SegmentStart, start_segment};

/// Damaged logs that may be kept beside the one in use.
const DAMAGED_MAX: u32 = 10_000;

fn beside(layout: &Layout, extension: &str) -> PathBuf {
    layout.log_dir().with_extension(extension)
}

/// Where a log lies that is to take the place of a damaged one. Whoever opens the log puts it there: between the last
/// two steps of a replacement, this is the only log there is.
pub fn replacement_dir(layout: &Layout) -> PathBuf {
    beside(layout, "replacement")
}

fn moving(layout: &Layout) -> impl FnOnce(io::Error) -> OpenError {
    io_error(format!("put a log in the place of {}", layout.log_dir().display()))
}

/// Builds a complete log under another name.
fn build(disk: &Arc<dyn Disk>, layout: &Layout, start: &SegmentStart) -> io::Result<PathBuf> {
    let dir = beside(layout, "new");
    if let Ok(names) = disk.read_dir(&dir) {
        for (name, _) in names {
            disk.unlink(&dir.join(name))?;
        }
        disk.remove_dir(&dir)?;
    }
    create_dir_all(disk.as_ref(), layout.data_dir(), &dir)?;
    MarkFile::create(disk, dir.join("mark"), start.owner, start.vote, start.purged)?;
    let names = disk.open_dir(&dir)?;
    start_segment(disk, (&dir, &*names), None, &Room::impatient(), 0, start).map_err(Failed::error)?;
    names.sync()?;
    Ok(dir)
}

/// Makes the first log.
pub fn create(disk: &Arc<dyn Disk>, layout: &Layout, owner: Identity) -> Result<(), OpenError> {
    let start = SegmentStart { owner, last: None, purged: None, vote: None };
    let made = build(disk, layout, &start).and_then(|dir| {
        disk.rename(&dir, &layout.log_dir())?;
        disk.sync_dir(layout.group_dir())
    });
    made.map_err(io_error(format!("make the log in {}", layout.log_dir().display())))
}

/// Finishes a replacement that was decided.
pub fn settle(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<(), OpenError> {
    let replacement = replacement_dir(layout);
    if !exists(disk, &replacement)? {
        return Ok(());
    }
    let log = layout.log_dir();
    // The process before may have died before it synced the name.
    disk.sync_dir(layout.group_dir()).map_err(moving(layout))?;
    if exists(disk, &log)? {
        let kept = free_name(disk, layout)?;
        disk.rename(&log, &kept).map_err(moving(layout))?;
        disk.sync_dir(layout.group_dir()).map_err(moving(layout))?;
        tracing::warn!(kept = %kept.display(), "a log takes the place of a damaged one, which is kept");
    }
    disk.rename(&replacement, &log).map_err(moving(layout))?;
    disk.sync_dir(layout.group_dir()).map_err(moving(layout))
}

fn free_name(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<PathBuf, OpenError> {
    for number in 1..=DAMAGED_MAX {
        let name = beside(layout, &format!("damaged.{number}"));
        if !exists(disk, &name)? {
            return Ok(name);
        }
    }
    Err(moving(layout)(io::Error::other("too many damaged logs are kept: remove some `log.damaged.<n>`")))
}

/// The vote that this owner's log binds its node to, whatever state the WAL is in.
pub fn certain_vote(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    owner: Identity,
) -> Result<Option<Vote>, OpenError> {
    settle(disk, layout)?;
    let mark = own_mark(disk, layout, owner)?;
    let last = mark.last();
    if mark.is_certain() {
        return Ok(last.vote);
    }
    let dir = layout.log_dir();
    let lost = |why: String| OpenError::VoteLost {
        dir: dir.clone(),
        why: format!("one slot of the mark file is damaged, and {why}"),
    };
    match walk::walk(disk, &dir, &last, 0) {
        Ok(walked) => match walked.torn {
            None => Ok(walked.index.vote.max(last.vote)),
            Some(why) => Err(lost(format!("at the end of the WAL {why}"))),
        },
        Err(OpenError::Damaged { position, why, .. }) => Err(lost(format!("at offset {position} {why}"))),
        Err(other) => Err(other),
    }
}

/// Puts an empty log that starts after `position` in the place of a damaged one.
pub fn replace_damaged(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    owner: Identity,
    position: LogId,
    vote: Vote,
) -> Result<(), OpenError> {
    if let Some(bound) = certain_vote(disk, layout, owner)?
        && bound > vote
    {
        let why = format!("this node is bound to {bound:?}, above {vote:?}");
        return Err(moving(layout)(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    let start = SegmentStart { owner, last: Some(position), purged: Some(position), vote: Some(vote) };
    let decided = build(disk, layout, &start).and_then(|dir| {
        disk.rename(&dir, &replacement_dir(layout))?;
        disk.sync_dir(layout.group_dir())
    });
    decided.map_err(moving(layout))?;
    settle(disk, layout)
}
