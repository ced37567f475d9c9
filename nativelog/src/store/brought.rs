//! What goes into open attempts without a record of this log: brought by a catch-up or a repair.

use bytes::Bytes;

/// Bytes that go into an open attempt without a record of this log: brought by a catch-up or a repair.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The attempt.
    pub attempt: u64,
    /// Entry of its plan.
    pub file: u32,
    /// Where in the staged file.
    pub offset: u64,
    /// The bytes, checked.
    pub data: Brought,
}

/// What is put into a range.
#[derive(Debug, Clone)]
pub enum Brought {
    /// Bytes.
    Bytes(Bytes),
    /// As many zeros, at most the rest of the file; a hole where the disk takes that. The file grows no longer by them.
    Zeros(u64),
}

impl Brought {
    /// Bytes of the range.
    pub fn len(&self) -> u64 {
        match self {
            Brought::Bytes(bytes) => bytes.len() as u64,
            Brought::Zeros(len) => *len,
        }
    }

    /// True when there is nothing to put.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
