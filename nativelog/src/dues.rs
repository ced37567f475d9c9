//! What this node owes the records: never replicated, different on every node.
//!
//! A record is obeyed when it is committed, the disk follows. Whatever of that is not on this disk yet, or still lies
//! there although nobody needs it, is *due*: kept here in memory, written into every snapshot (`debts`), handed on when
//! another ledger takes over (`succession`, `expected`), given back when the log allows it (`reclaim`, `way`), never while
//! somebody needs it (`pins`), told to whoever asks (`lists`), and compared with the directories when a list may not be
//! whole (`overview`, `absent`). What of it is in the log only is copied before the log forgets it (`aside`), and what is
//! large lies in files (`trees`). All of it stands in one `book` behind one lock (`shared`), which the files named here
//! import; none imports this one.
//!
//! **Guarantees.** What is owed at a snapshot's position stands in that snapshot. Only what is on a list here is ever
//! unlinked, and only after the fsynced purge of the record that put it there.
//!
//! **Never.** The lock is not held over a disk, nor over all of a table that may be long: apply waits for it. Nothing here
//! says what is accepted: an epoch that is owed holds up no other.

mod absent;
pub(crate) mod aside;
mod book;
mod debts;
mod ended;
mod epoch;
mod expected;
mod lists;
mod overview;
mod pins;
mod reclaim;
mod replay;
mod shared;
mod slices;
mod succession;
pub(crate) mod tree_file;
mod trees;
mod unheld;
mod unlooked;
mod way;

pub use book::{Book, Garbage, Publication};
pub use debts::{Owed, Pack};
pub use epoch::Origin;
pub use expected::Expected;
pub use overview::{Directories, Overview};
pub use pins::{Known, Pin, Pins};
pub use replay::Replay;
pub use shared::{Dues, Ground};
pub use succession::{out_of_quarantine, succession};

pub(crate) use debts::{Debts, Unpublished};
pub(crate) use epoch::EpochKey;
