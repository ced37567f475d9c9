//! What the log carries: positions, records, entries.
//!
//! A record is a small self-contained header (protobuf, `proto/record.proto`) and, for
//! chunks, packs and whole epochs, a payload that travels beside it and is encoded once.

mod header;
#[allow(missing_docs, clippy::all, reason = "generated; documented in the .proto")]
pub mod proto;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use header::{HEADER_BYTES_MAX, Header, HeaderError, TEXTS_BYTES_MAX, texts_bytes};
pub use proto::Record;
pub use proto::record::Kind;

/// The newest record version that this code writes and understands. A new field raises it: see `docs/format.md`. A record is
/// written with the lowest that has all its fields ([`version_of`]).
pub const RECORD_VERSION: u32 = 7;
/// The oldest record version that this code understands.
pub const RECORD_VERSION_MIN: u32 = 4;
/// Since this version a Seal and a Whole tell when they were proposed.
pub const STAMPED_SINCE: u32 = 5;
/// Since this version a Begin tells how many bytes its files take on a disk.
pub const HOLES_SINCE: u32 = 6;
/// Since this version records know of object stores.
pub const STORES_SINCE: u32 = 7;

/// Longest name of a store, in bytes.
pub const STORE_NAME_BYTES_MAX: usize = 64;
/// Most files of one Link.
pub const LINK_FILES_MAX: usize = 1024;
/// Longest object, in bytes: what the largest stores take.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Most objects of one Deleted.
pub const DELETED_MAX: usize = 4096;

/// A position in the log: who led when the entry was proposed, and its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogId {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Node id of that leader.
    pub node: u64,
    /// Index in the log; the first entry has index 0.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-N{}.{}", self.term, self.node, self.index)
    }
}

/// A record and its payload. Cloning is cheap: both are shared.
#[derive(Clone)]
pub struct LogRecord {
    /// The header.
    pub header: Arc<Header>,
    /// The payload; empty when the header has none, or when only headers were asked for.
    pub payload: Bytes,
    /// This process computed the digests in the header from this very payload; never on the wire.
    digested_here: bool,
}

impl LogRecord {
    /// Makes a record of `kind` with `payload`, at the lowest version that has all its fields ([`version_of`]).
    pub fn new(kind: Kind, payload: Bytes) -> Self {
        let version = version_of(&kind);
        let header = Record { version, payload_bytes: payload.len() as u64, kind: Some(kind) };
        LogRecord { header: Arc::new(Header::new(header)), payload, digested_here: false }
    }

    /// A record that came from the wire or from disk.
    pub fn from_parts(header: Arc<Header>, payload: Bytes) -> Self {
        LogRecord { header, payload, digested_here: false }
    }

    /// Says that this process computed the header's digests from this payload: nobody here has to
    /// hash it again before it is proposed. What comes from a client is never marked.
    #[must_use]
    pub fn digested_here(mut self) -> Self {
        self.digested_here = true;
        self
    }

    /// The same with the wall clock of the leader that is about to propose it, in milliseconds since 1970, when it seals an
    /// epoch: whoever composed it has no say in that. Other records are as they were. A label for people, no rule looks at it.
    #[must_use]
    pub fn sealed_at(&self, wall_ms: u64) -> Self {
        let mut header = match self.header.kind {
            Some(Kind::Seal(_) | Kind::Whole(_)) => Record::clone(&self.header),
            _ => return self.clone(),
        };
        match &mut header.kind {
            Some(Kind::Seal(seal)) => seal.wall_ms = wall_ms,
            Some(Kind::Whole(whole)) => whole.wall_ms = wall_ms,
            _ => {}
        }
        // The version that has the field; one that this binary does not know stays what it is, and is refused.
        if (RECORD_VERSION_MIN..STAMPED_SINCE).contains(&header.version) {
            header.version = STAMPED_SINCE;
        }
        LogRecord { header: Arc::new(Header::new(header)), ..self.clone() }
    }

    /// Whether this process computed the digests itself.
    pub fn is_digested_here(&self) -> bool {
        self.digested_here
    }

    /// Bytes of header and payload together, as they count against limits and in `log_bytes`.
    pub fn bytes(&self) -> u64 {
        self.header.record_bytes()
    }

    /// True for records that bring content or begin something. The others free space, end something, or are what a
    /// leader needs to lead: they pass on a disk that is nearly full, and the reserve holds them.
    pub fn brings_content(&self) -> bool {
        use Kind::{Begin, Chunk, Link, Pack, Part, Reuse, Whole, Zero};
        let kind = self.header.kind.as_ref();
        self.header.payload_bytes > 0
            || matches!(
                kind,
                Some(Begin(_) | Part(_) | Chunk(_) | Pack(_) | Zero(_) | Reuse(_) | Link(_) | Whole(_))
            )
    }
}

/// The version that a record of this kind is written with: what a binary of before object stores understands says so, and
/// a new leader does not stop followers that are still to be upgraded.
pub fn version_of(kind: &Kind) -> u32 {
    let knows_stores = match kind {
        Kind::Store(_) | Kind::DeleteBatch(_) | Kind::Deleted(_) | Kind::Link(_) | Kind::Rehome(_) => true,
        Kind::Begin(begin) => begin.store.is_some(),
        Kind::Whole(whole) => whole.begin.as_ref().is_some_and(|begin| begin.store.is_some()),
        Kind::Seal(seal) => seal.manifest.is_some(),
        Kind::Quarantine(quarantine) => quarantine.gone_from_stores,
        _ => false,
    };
    if knows_stores { STORES_SINCE } else { HOLES_SINCE }
}

/// Whether a store may have this name: it stands in configurations, commands and rows.
pub fn is_store_name(name: &str) -> bool {
    let fits = (1..=STORE_NAME_BYTES_MAX).contains(&name.len());
    fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Name of a record's kind, for logs and stories.
pub fn kind_name(header: &Record) -> &'static str {
    match &header.kind {
        None => "none",
        Some(Kind::Genesis(_)) => "genesis",
        Some(Kind::Join(_)) => "join",
        Some(Kind::Activate(_)) => "activate",
        Some(Kind::Tick(_)) => "tick",
        Some(Kind::OpenWriter(_)) => "open_writer",
        Some(Kind::Begin(_)) => "begin",
        Some(Kind::Part(_)) => "part",
        Some(Kind::Chunk(_)) => "chunk",
        Some(Kind::Pack(_)) => "pack",
        Some(Kind::Zero(_)) => "zero",
        Some(Kind::Reuse(_)) => "reuse",
        Some(Kind::Link(_)) => "link",
        Some(Kind::Seal(_)) => "seal",
        Some(Kind::Whole(_)) => "whole",
        Some(Kind::Abort(_)) => "abort",
        Some(Kind::Pin(_)) => "pin",
        Some(Kind::Unpin(_)) => "unpin",
        Some(Kind::Expire(_)) => "expire",
        Some(Kind::Quarantine(_)) => "quarantine",
        Some(Kind::Healed(_)) => "healed",
        Some(Kind::RemoveJob(_)) => "remove_job",
        Some(Kind::Store(_)) => "store",
        Some(Kind::DeleteBatch(_)) => "delete_batch",
        Some(Kind::Deleted(_)) => "deleted",
        Some(Kind::Rehome(_)) => "rehome",
    }
}

/// Payloads and plans never show in logs: openraft formats entries at debug level.
impl fmt::Debug for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}B", kind_name(&self.header), self.header.payload_bytes)
    }
}

impl fmt::Display for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// A leader's first entry, or a barrier.
    Blank,
    /// A membership, encoded by the `raft` crate; opaque here.
    Membership(Bytes),
    /// A record of ours.
    Record(LogRecord),
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position.
    pub id: LogId,
    /// Its content.
    pub body: Body,
}

impl Entry {
    /// Bytes of header and payload, as they count against batches.
    pub fn bytes(&self) -> usize {
        match &self.body {
            Body::Blank => 0,
            Body::Membership(bytes) => bytes.len(),
            Body::Record(record) => record.header.wire().len() + record.payload.len(),
        }
    }

    /// Payload bytes this entry carries in memory.
    pub fn payload_len(&self) -> usize {
        match &self.body {
            Body::Record(record) => record.payload.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
