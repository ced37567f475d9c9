//! Memory that a disk takes as it is, taken again and again: payloads that lie on a block's boundary go past the page
//! cache without another copy ([`RealDisk`](super::RealDisk) copies the others through a buffer of its own).
//!
//! **Guarantee.** What is out of a [`Pool`], in bytes, is bounded, and counted until nobody has it any more: the permit
//! is in the [`Bytes`] themselves. Whoever holds a slice of them, in a window, a queue, a cache or a stream, holds all of
//! the buffer: so who keeps less than half of one copies it.
//!
//! **Waiting.** [`Pool::take`] blocks while too much is out. Nobody who has to do with giving them back may call it: not the
//! log, not the consensus, no task of a runtime. One who waits may have at most one other in hand. Each use has a pool of
//! its own, so that one never waits for another. With nothing out, one is always given, however large.
//!
//! **In turn.** Who came first is served first: one that waits for much is not passed by those who want little, who wait
//! behind it. So a pool is larger than what all who wait have in hand, and the largest that is taken, together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Memory, offset and length of a direct write are multiples of this; it suits every block device with sectors of up
/// to 4 KiB.
pub(super) const DIRECT_ALIGN: usize = 4096;
/// The buffers that are kept for the next who comes: most chunks and packs have as many bytes. Others are made as they
/// are needed, and counted like these.
pub const BUFFER_BYTES: usize = 1 << 20;
/// Of which these are for the boundary.
const CAPACITY: usize = BUFFER_BYTES + DIRECT_ALIGN - 1;

/// Buffers, at most so many bytes of them at a time. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that are out.
    out: usize,
    /// Buffers that are not, each of [`CAPACITY`].
    free: Vec<Vec<u8>>,
    /// Who comes gets the next number, and is served when it is its turn.
    next: u64,
    turn: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that is being filled. It goes back to its pool when it, and all [`Bytes`] made of it, are dropped.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    bytes: usize,
    room: Vec<u8>,
    /// Before the boundary.
    skip: usize,
}

impl Pool {
    /// At most so many bytes are out at a time.
    pub fn new(bytes_max: usize) -> Pool {
        Pool(Arc::new(Shared { bytes_max, state: Mutex::default(), moved: Condvar::new() }))
    }

    /// Where another bound holds already: nobody waits.
    pub fn unbounded() -> Pool {
        Pool::new(usize::MAX)
    }

    /// An empty buffer with room for `len` bytes on a block's boundary. Blocks while there is none.
    pub fn take(&self, len: usize) -> Lease {
        let pooled = len > BUFFER_BYTES / 2 && len <= BUFFER_BYTES;
        let bytes = if pooled { BUFFER_BYTES } else { len };
        let mut state = self.0.state();
        let number = state.next;
        state.next += 1;
        while state.turn != number || (state.out > 0 && state.out.saturating_add(bytes) > self.0.bytes_max) {
            state = self.0.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.turn += 1;
        state.out += bytes;
        if state.turn != state.next {
            // There may be room for the next one, too.
            self.0.moved.notify_all();
        }
        let free = if pooled { state.free.pop() } else { None };
        drop(state);
        let mut room = free
            .unwrap_or_else(|| Vec::with_capacity(if pooled { CAPACITY } else { len + DIRECT_ALIGN - 1 }));
        let skip = room.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN - 1);
        room.resize(skip, 0);
        Lease { shared: self.0.clone(), bytes, room, skip }
    }

    /// Bytes that are out.
    pub fn out(&self) -> usize {
        self.0.state().out
    }

    /// Gives the memory of what is not out back to the allocator.
    pub fn trim(&self) {
        let free = std::mem::take(&mut self.0.state().free);
        drop(free);
    }
}

impl Lease {
    /// Where the next bytes are appended. (More than was asked for are not lost, but lie on no boundary any more.)
    pub fn room(&mut self) -> &mut Vec<u8> {
        &mut self.room
    }

    /// How many bytes were filled in.
    pub fn len(&self) -> usize {
        self.room.len().saturating_sub(self.skip)
    }

    /// Whether nothing was filled in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it has room for.
    pub fn capacity(&self) -> usize {
        self.room.capacity() - self.skip
    }

    /// Forgets what was filled in behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.room.truncate(self.skip + len);
    }

    /// It is full: from now on it is shared and never changed.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self.room.get(self.skip..).unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut room = std::mem::take(&mut self.room);
        let mut state = self.shared.state();
        state.out -= self.bytes;
        if room.capacity() == CAPACITY {
            room.clear();
            state.free.push(room);
        }
        drop(state);
        // Of those who wait one knows that it is its turn.
        self.shared.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_lies_on_a_boundary_also_the_second_time() {
        let pool = Pool::new(8 << 20);
        for len in [1, 100, BUFFER_BYTES, BUFFER_BYTES - 5, 4 << 20, BUFFER_BYTES] {
            let mut lease = pool.take(len);
            assert!(lease.is_empty() && lease.capacity() >= len);
            let data = vec![7; len];
            lease.room().extend_from_slice(&data);
            assert_eq!(lease.len(), len);
            let bytes = lease.freeze();
            assert_eq!(bytes, data);
            assert_eq!(bytes.as_ptr().align_offset(DIRECT_ALIGN), 0, "{len} bytes");
        }
        let mut lease = pool.take(1);
        lease.room().extend_from_slice(&[1; 1 << 20]);
        lease.truncate(1 << 19);
        assert_eq!(lease.freeze().len(), 1 << 19, "more than was said is not lost");
    }

    #[test]
    fn a_buffer_is_out_until_the_last_slice_is_dropped_and_is_taken_again() {
        let pool = Pool::new(2 * BUFFER_BYTES);
        let mut lease = pool.take(BUFFER_BYTES);
        lease.room().resize(BUFFER_BYTES, 1);
        let bytes = lease.freeze();
        let at = bytes.as_ptr();
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(pool.out(), BUFFER_BYTES, "a slice holds all of it");
        drop(slice);
        assert_eq!(pool.out(), 0);
        let mut again = pool.take(BUFFER_BYTES);
        assert!(again.is_empty(), "nothing is left of the last one");
        again.room().push(1);
        assert_eq!(again.as_ref().as_ptr(), at);
        drop(again);
        pool.trim();
        assert!(pool.0.state().free.is_empty());
        // Dropped half full, and of another size.
        drop(pool.take(3));
        assert_eq!((pool.out(), pool.0.state().free.len()), (0, 0));
    }

    #[test]
    fn who_finds_too_much_out_waits_until_it_comes_back() {
        let pool = Pool::new(2 * BUFFER_BYTES);
        let held = [pool.take(BUFFER_BYTES).freeze(), pool.take(BUFFER_BYTES).freeze()];
        let other = pool.clone();
        let waiting = std::thread::spawn(move || other.take(100).capacity() >= 100);
        // It cannot be seen that somebody waits for ever; but that nothing more is out.
        for _ in 0..100 {
            assert_eq!(pool.out(), 2 * BUFFER_BYTES);
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.join().unwrap());
        assert_eq!(pool.out(), 0);
        // One that is larger than all goes alone.
        assert_eq!(Pool::new(10).take(100).len(), 0);
    }

    #[test]
    fn one_that_waits_for_much_is_not_passed_by_those_who_want_little() {
        let pool = Pool::new(4 * BUFFER_BYTES);
        let waiting = |count: u64| {
            let there = || {
                let state = pool.0.state();
                state.next - state.turn
            };
            while there() < count {
                std::thread::yield_now();
            }
        };
        let take = |len: usize| {
            let other = pool.clone();
            std::thread::spawn(move || other.take(len))
        };
        let mut held = vec![pool.take(BUFFER_BYTES), pool.take(BUFFER_BYTES)];
        let large = take(4 * BUFFER_BYTES);
        waiting(1);
        let small = [take(BUFFER_BYTES), take(BUFFER_BYTES)];
        waiting(3);
        // There is room for the small ones, and stays free for the one before them.
        held.pop();
        for _ in 0..100 {
            assert_eq!(pool.out(), BUFFER_BYTES);
            std::thread::yield_now();
        }
        drop(held);
        let large = large.join().unwrap();
        assert_eq!(pool.out(), 4 * BUFFER_BYTES);
        drop(large);
        let small = small.map(|small| small.join().unwrap());
        assert_eq!(pool.out(), 2 * BUFFER_BYTES);
        drop(small);
        assert_eq!(pool.out(), 0);
    }
}
