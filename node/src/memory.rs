//! Memory for content, and memory that nothing uses, given back to the system.
//!
//! What is read of content goes through [`Buffers`], which are used again: they do not go to the allocator and back.
//!
//! A node takes and drops buffers of a chunk's size on many threads, and glibc keeps what it was given for them: a
//! leader that needed 55 MiB had 206 MiB after 300 epochs of 8 MiB. To map and unmap each buffer instead costs a third of
//! the throughput in page faults, and other allocators kept more (mimalloc: 400 MiB). So it is asked to give back
//! from time to time, only after it has grown, and once when the node comes to rest. On other systems nothing is done.

use std::time::{Duration, Instant};

use checkpoint::disk::Pool;

use crate::limits::{READ_BUFFERS_BYTES, SPLIT_BUFFERS_BYTES};

/// Growth since the last time that makes it worth asking, bytes.
const GROWN_BYTES: u64 = 16 << 20;
/// It is asked at most this often.
const PAUSE: Duration = Duration::from_secs(4);

/// Where content is read to, a pool for each use: none waits for another.
#[derive(Debug)]
pub struct Buffers {
    /// By splitters, for commits by path.
    pub split: Pool,
    /// For restores.
    pub read: Pool,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers { split: Pool::new(SPLIT_BUFFERS_BYTES), read: Pool::new(READ_BUFFERS_BYTES) }
    }
}

impl Buffers {
    /// Keeps none of those that nobody has.
    pub fn trim(&self) {
        self.split.trim();
        self.read.trim();
    }
}

/// When memory was given back, and what was resident then.
#[derive(Debug, Default)]
pub struct Memory {
    last: Option<(Instant, u64)>,
    idle: bool,
}

impl Memory {
    /// Gives back what is not used, if that has become much or the node is `idle` for the first time since it was not.
    /// Blocks for some milliseconds then.
    pub fn look(&mut self, idle: bool) {
        let Some(resident) = resident_bytes() else { return };
        let has_grown =
            self.last.is_none_or(|(when, then)| when.elapsed() >= PAUSE && resident > then + GROWN_BYTES);
        let rested = std::mem::replace(&mut self.idle, idle);
        if has_grown || idle && !rested {
            trim();
            self.last = Some((Instant::now(), resident_bytes().unwrap_or(resident)));
        }
    }
}

/// Memory of this process that is resident; `None` where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's own call has no safe wrapper")]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> i32;
    }
    // SAFETY: it takes no pointer, may be called on any thread, and frees only what nobody has.
    unsafe { malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_given_back() {
        let mut memory = Memory::default();
        memory.look(false);
        let before = resident_bytes().unwrap();
        // Below what glibc maps by itself, and not the last ones: so that the heap stays large.
        let mut held: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 100 << 10]).collect();
        let last = held.pop();
        drop(held);
        let kept = resident_bytes().unwrap();
        assert!(kept > before + (100 << 20), "{before} and then {kept}");
        memory.last = memory.last.map(|(_, then)| (Instant::now().checked_sub(PAUSE).unwrap(), then));
        memory.look(false);
        let after = resident_bytes().unwrap();
        assert!(after < before + (50 << 20), "{before}, {kept} and then {after}");
        drop(last);
    }

    #[test]
    fn a_node_that_comes_to_rest_gives_back_once() {
        let mut memory = Memory { last: Some((Instant::now(), u64::MAX - GROWN_BYTES)), idle: false };
        let given = |memory: &Memory| memory.last.is_some_and(|(_, then)| then < u64::MAX - GROWN_BYTES);
        memory.look(false);
        assert!(!given(&memory), "it has not grown");
        memory.look(true);
        assert!(given(&memory));
        memory.last = Some((Instant::now(), u64::MAX - GROWN_BYTES));
        memory.look(true);
        assert!(!given(&memory), "it rests already");
        memory.look(false);
        memory.look(true);
        assert!(given(&memory), "it has worked since");
    }
}
