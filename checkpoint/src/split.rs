//! The splitter: reads a planned directory once, in order, and makes pieces of
//! it. Everything is read and hashed; what the log has already is not handed
//! out again. It holds one piece at a time, never a whole file. In the end it
//! looks at every entry once more, and reads again what may have changed unseen.

mod coverage;
mod digest_dir;
mod error;
mod last_look;
mod read;
mod splitter;
mod unseen;

pub use coverage::Coverage;
pub use digest_dir::{DigestDirError, digest_chosen, digest_dir};
pub use error::SplitError;
pub use splitter::Splitter;

use bytes::Bytes;

use crate::digest::Digest;

/// A whole small file in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// The file's id: its place in the plan.
    pub file: u32,
    /// Where its content starts in the payload, bytes.
    pub offset: u32,
    /// Its length, bytes.
    pub len: u32,
    /// BLAKE3 of its content.
    pub digest: Digest,
}

/// What the splitter hands out; each becomes one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A run of one file: the chunk size, or what is left of the file.
    Chunk {
        /// The file's id.
        file: u32,
        /// A multiple of the chunk size, bytes.
        offset: u64,
        /// [`crate::digest::subtree`] of the payload at its place.
        digest: Digest,
        /// Length of the whole file, bytes.
        file_bytes: u64,
        /// The bytes.
        payload: Bytes,
    },
    /// Many small files, whole; equal contents stand once in the payload.
    Pack {
        /// The files, by rising id.
        files: Vec<PackedFile>,
        /// Their contents end to end.
        payload: Bytes,
    },
    /// A run of zeros: one subtree of the file.
    Zero {
        /// The file's id.
        file: u32,
        /// A multiple of the run's power-of-two length, bytes.
        offset: u64,
        /// The chunk size times a power of two, or what is left of the file, bytes.
        len: u64,
        /// [`crate::digest::zeros`] of the range.
        digest: Digest,
        /// Length of the whole file, bytes.
        file_bytes: u64,
    },
    /// Files whose content was sealed before: id and BLAKE3.
    Reuse {
        /// At most [`crate::limits::REUSE_FILES_MAX`].
        files: Vec<(u32, Digest)>,
    },
}
