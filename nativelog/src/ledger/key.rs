//! Names of rows. Bytes of keys sort as [`RowKey`] does: a table's tag, then names ended by a zero byte and
//! big-endian numbers.

use checkpoint::JobName;

use super::codec::{DecodeError, Reader, Writer, text};
use super::objects::ObjectKey;

/// Names one row of the ledger, as it stands in a snapshot and in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// Position, rules, identity, members, log time.
    Meta,
    /// A job's number, token and mark.
    Job(JobName),
    /// A sealed epoch.
    Epoch(JobName, u64),
    /// The content that a sealed epoch holds.
    EpochContent(JobName, u64),
    /// A pin of an epoch by an owner.
    Pin(JobName, u64, String),
    /// Sealed content.
    Content(u32),
    /// An open attempt.
    Attempt(u64),
    /// A page of an open attempt's plan.
    Page(u64, u32),
    /// A file of an open attempt that was packed, reused or linked whole.
    File(u64, u32),
    /// A covered range of a file of an open attempt, by its offset.
    Piece(u64, u32, u64),
    /// What became of a commit, by its number.
    Outcome(u64),
    /// Sealed content in quarantine.
    Quarantine(u32),
    /// An object store, by the log index of the record that named it.
    Store(u64),
    /// An object that somebody holds, by its number.
    Object(u32),
    /// Where sealed content lies that lies in a store.
    Home(u32),
    /// An object that nobody holds any more.
    Released(ObjectKey),
}

impl RowKey {
    /// The key as bytes: the table's tag first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut key = Writer::default();
        self.put(&mut key);
        key.bytes
    }

    pub(super) fn put(&self, key: &mut Writer) {
        match self {
            RowKey::Meta => key.u8(0),
            RowKey::Job(job) => key.u8(1).name(job),
            RowKey::Epoch(job, epoch) => key.u8(3).name(job).u64(*epoch),
            RowKey::EpochContent(job, epoch) => key.u8(4).name(job).u64(*epoch),
            RowKey::Pin(job, epoch, owner) => key.u8(5).name(job).u64(*epoch).raw(owner.as_bytes()),
            RowKey::Content(id) => key.u8(6).u32(*id),
            RowKey::Attempt(id) => key.u8(7).u64(*id),
            RowKey::Page(id, page) => key.u8(8).u64(*id).u32(*page),
            RowKey::File(id, file) => key.u8(9).u64(*id).u32(*file),
            RowKey::Piece(id, file, offset) => key.u8(10).u64(*id).u32(*file).u64(*offset),
            RowKey::Outcome(number) => key.u8(11).u64(*number),
            RowKey::Quarantine(id) => key.u8(20).u32(*id),
            RowKey::Store(id) => key.u8(21).u64(*id),
            RowKey::Object(number) => key.u8(22).u32(*number),
            RowKey::Home(id) => key.u8(23).u32(*id),
            RowKey::Released(ObjectKey { store, attempt, digest, nonce }) => {
                key.u8(24).u64(*store).u64(*attempt).digest(digest).u64(*nonce)
            }
        };
    }

    /// Reads a key.
    ///
    /// # Errors
    /// Bytes that are no key.
    pub fn from_bytes(bytes: &[u8]) -> Result<RowKey, DecodeError> {
        let mut key = Reader { rest: bytes };
        let read = match key.u8()? {
            0 => RowKey::Meta,
            1 => RowKey::Job(key.name()?),
            3 => RowKey::Epoch(key.name()?, key.u64()?),
            4 => RowKey::EpochContent(key.name()?, key.u64()?),
            5 => RowKey::Pin(key.name()?, key.u64()?, text(std::mem::take(&mut key.rest))?),
            6 => RowKey::Content(key.u32()?),
            7 => RowKey::Attempt(key.u64()?),
            8 => RowKey::Page(key.u64()?, key.u32()?),
            9 => RowKey::File(key.u64()?, key.u32()?),
            10 => RowKey::Piece(key.u64()?, key.u32()?, key.u64()?),
            11 => RowKey::Outcome(key.u64()?),
            20 => RowKey::Quarantine(key.u32()?),
            21 => RowKey::Store(key.u64()?),
            22 => RowKey::Object(key.u32()?),
            23 => RowKey::Home(key.u32()?),
            24 => {
                let (store, attempt) = (key.u64()?, key.u64()?);
                RowKey::Released(ObjectKey { store, attempt, digest: key.digest()?, nonce: key.u64()? })
            }
            _ => return Err(DecodeError("a row of no known table")),
        };
        key.end()?;
        Ok(read)
    }
}
