//! The stories that a cluster must live through. Each is a function with sizes
//! and counts as parameters and asserts what must hold: the tests call them
//! short, the program `trial` long.

pub mod catch_up;
pub mod cut_leader;
pub mod damage;
pub mod eio;
pub mod full_disk;
pub mod hostile;
pub mod identical;
pub mod identity;
pub mod kills;
pub mod many_files;
pub mod memory;
pub mod order;
pub mod purging;
pub mod readme;
pub mod reflinks;
pub mod restart;
pub mod restore_into;
pub mod rotten;
pub mod same_epoch;
pub mod slow_disk;
pub mod small_contents;
pub mod sources;
pub mod sparse;
pub mod wire;
pub mod writers;
pub mod years;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// A part of the machine: most of a story's time is waiting, so as many are told at once as the test harness has
/// threads.
pub fn among_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The whole machine, for a story that measures time or memory.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}
