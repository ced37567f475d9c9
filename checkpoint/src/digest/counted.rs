//! How much is hashed, for tests of who hashes what.

use std::cell::Cell;

thread_local! {
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn count(bytes: usize) {
    BYTES.set(BYTES.get() + bytes as u64);
}

/// Bytes of contents and of parts of them that this thread has hashed so far.
pub fn hashed_bytes() -> u64 {
    BYTES.get()
}
