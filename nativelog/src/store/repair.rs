//! A rotten payload in a staged file is replaced, while the log goes on.
//!
//! ```text
//!   who asks, on a thread that may block          the writer thread
//!     copy? ───────────────────────────────────>  1 notes from here on what it writes into the file
//!   2 clones the file, writes the good payload
//!     into the clone, fsyncs it
//!     swap? ───────────────────────────────────>  3 has noted much: hands that over, and notes on
//!   4 copies those ranges as well, asks again
//!     swap? ───────────────────────────────────>  5 has noted little: copies it, fsyncs; if the file is still the
//!                                                   one that was cloned, renames and fsyncs both folders
//! ```
//!
//! **Guarantees.** Until the rename the old file has everything that was ever acknowledged; what landed there since
//! step 1 is in the copy, fsynced, before the rename. How large the file is makes no difference to the writer.
//!
//! **Never.** Nothing is written in place: whatever shares the old inode keeps what it has.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::copied::Copied;
use super::failed::{Failed, same};
use super::queue::{Command, Repair, Swapped};
use super::shared::Shared;

/// How often a repair starts again because the performer has changed the file meanwhile, or too much was written.
const TRIES_MAX: usize = 8;
/// How often a copy follows what was written meanwhile: each time there is less of it, unless the file is written
/// faster than it is copied.
const ROUNDS_MAX: usize = 16;

/// Does it. Blocks for as long as the copy takes.
pub fn repair(shared: &Shared, repair: &Arc<Repair>) -> io::Result<()> {
    // The writer notes for one copy, and there is one name.
    let _turn = shared.repairing.lock().unwrap_or_else(PoisonError::into_inner);
    // Removed at the next start if this process ends before it has its name.
    let copy = shared.layout.log_dir().join("repair.new");
    let result = try_often(shared, repair, &copy);
    if result.is_err() {
        let _ = shared.disk.unlink(&copy);
    }
    result
}

fn try_often(shared: &Shared, repair: &Arc<Repair>, copy: &Path) -> io::Result<()> {
    for _ in 0..TRIES_MAX {
        let (path, offset) = shared.queue.ask(|done| Command::Copy { repair: repair.clone(), done })?;
        let copied = Copied::make(&shared.disk, &path, copy, offset, &repair.payload);
        let copied = Arc::new(copied.map_err(|failed| leave(shared, failed))?);
        if swap(shared, repair, &copied)? {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("the file of {} changes all the time", repair.id)))
}

/// False when the file has changed.
fn swap(shared: &Shared, repair: &Arc<Repair>, copied: &Arc<Copied>) -> io::Result<bool> {
    for _ in 0..ROUNDS_MAX {
        let (repair, copy) = (repair.clone(), copied.clone());
        match shared.queue.ask(|done| Command::Swap { repair, copied: copy, done })? {
            Swapped::Done => return Ok(true),
            Swapped::Changed => return Ok(false),
            Swapped::Behind(ranges) => {
                copied.follow(&ranges).map_err(|failed| leave(shared, failed))?;
            }
        }
    }
    let why = format!("{} is written faster than it is copied", copied.path().display());
    Err(leave(shared, Failed::Refused(io::Error::other(why))))
}

/// The copy is given up; after a failed fsync the log stops.
fn leave(shared: &Shared, failed: Failed) -> io::Error {
    let (error, fatal) = match failed {
        Failed::Refused(error) => (error, None),
        Failed::Final(error) => (same(&error), Some(error)),
    };
    shared.queue.push(Command::Leave { fatal });
    error
}
