//! The ledger as one string of bytes, for snapshots and for comparing replicas.
//!
//! Canonical: equal ledgers have equal bytes. Magic with the version, then every row in order of
//! keys (length of key, length of value, key, value; lengths 32-bit big-endian), then the BLAKE3 of
//! all that. Decoding takes only what encoding makes.

use checkpoint::Digest;
use checkpoint::digest::Hasher;

use super::Ledger;
use super::changes::RowKey;
use super::rows::Builder;

const MAGIC: &[u8] = b"epochlog ledger 1\n";
const DIGEST_BYTES: usize = 32;

/// Bytes that are no ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a ledger: {0}")]
pub struct DecodeError(pub &'static str);

impl Ledger {
    /// The whole state, open attempts included.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_to(|part| bytes.extend_from_slice(part));
        let digest = checkpoint::digest::content(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Digest of the whole state: equal on all replicas that applied up to the same position.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.encode_to(|part| hasher.update(part));
        hasher.finish()
    }

    /// Reads what [`Ledger::encode`] wrote.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Ledger, DecodeError> {
        let at = bytes.len().checked_sub(DIGEST_BYTES).ok_or(DecodeError("too short"))?;
        let (body, digest) = bytes.split_at(at);
        if checkpoint::digest::content(body).as_bytes() != digest {
            return Err(DecodeError("damaged"));
        }
        let mut rest = body.strip_prefix(MAGIC).ok_or(DecodeError("another format or version"))?;
        let mut builder = Builder::default();
        while !rest.is_empty() {
            let (key, value, after) = split_row(rest).ok_or(DecodeError("a row is cut short"))?;
            builder.add(RowKey::from_bytes(key)?, value)?;
            rest = after;
        }
        builder.finish()
    }

    /// Builds a ledger from its rows in order of keys, as [`Ledger::rows`] gives them.
    ///
    /// # Errors
    /// Rows that are not those of one ledger.
    pub fn from_rows(rows: impl IntoIterator<Item = (RowKey, Vec<u8>)>) -> Result<Ledger, DecodeError> {
        let mut builder = Builder::default();
        for (key, value) in rows {
            builder.add(key, &value)?;
        }
        builder.finish()
    }

    fn encode_to(&self, mut put: impl FnMut(&[u8])) {
        put(MAGIC);
        for (key, value) in self.rows() {
            let key = key.to_bytes();
            put(&(key.len() as u32).to_be_bytes());
            put(&(value.len() as u32).to_be_bytes());
            put(&key);
            put(&value);
        }
    }
}

/// Key, value and what follows.
fn split_row(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_len, bytes) = bytes.split_first_chunk::<4>()?;
    let (value_len, bytes) = bytes.split_first_chunk::<4>()?;
    let (key, bytes) = bytes.split_at_checked(u32::from_be_bytes(*key_len) as usize)?;
    let (value, bytes) = bytes.split_at_checked(u32::from_be_bytes(*value_len) as usize)?;
    Some((key, value, bytes))
}
