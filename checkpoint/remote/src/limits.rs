//! The bounds of this crate, each with its unit.

use std::time::Duration;

/// What is verified, uploaded and fetched as one: a leaf of an object, bytes. A power of two, so that its value is a
/// subtree of the object's BLAKE3; all parts but the last are equal, because some stores want that.
pub const LEAF_BYTES: u64 = 8 << 20;
/// Largest object, bytes: 8,192 parts, below the 10,000 that S3 and GCS take. Longer content is several objects.
pub const OBJECT_BYTES_MAX: u64 = 64 << 30;
/// Contents shorter than this lie in packs, bytes: below it a request costs more than its bytes.
pub const PACKED_BYTES_MAX: u64 = 256 << 10;
/// Longest pack, bytes; where there are several, they have at least about half of it.
pub const PACK_BYTES_MAX: u64 = 32 << 20;
/// Most requests under way at once; with parts of [`LEAF_BYTES`] also the bound of memory.
pub const REQUESTS_MAX: usize = 8;
/// Largest object that is read whole without a plan (markers), bytes.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Most of an error's body that is looked at, bytes.
pub(crate) const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Most characters of a store's own words in an error.
pub(crate) const SAID_CHARS_MAX: usize = 300;
/// Most keys that one upload of one object tries before it gives up.
pub(crate) const NAMES_MAX: usize = 4;

/// How long a store is waited for. None of it is about how long something takes in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One try ends when nothing moved for this long (an upload has what its bytes take at `bytes_per_second_min`
    /// besides).
    pub quiet: Duration,
    /// The slowest line that is still taken for one, bytes per second and request.
    pub bytes_per_second_min: u64,
    /// An operation ends when nothing at all was answered for this long.
    pub unanswered: Duration,
    /// An operation ends when everything that was answered for this long is *busy* or *broken*.
    pub busy: Duration,
    /// The longest pause that a store's `Retry-After` gets.
    pub retry_after_max: Duration,
    /// Most requests under way.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            quiet: Duration::from_secs(10),
            bytes_per_second_min: 256 << 10,
            unanswered: Duration::from_secs(60),
            busy: Duration::from_secs(600),
            retry_after_max: Duration::from_secs(60),
            requests: REQUESTS_MAX,
        }
    }
}
