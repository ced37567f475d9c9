//! The ledger as one string of bytes, for snapshots and for comparing replicas.
//!
//! Canonical: equal ledgers have equal bytes. Magic with the version, then every row in order of
//! keys (length of key, length of value, key, value; lengths 32-bit big-endian), then the BLAKE3 of
//! all that. Decoding takes only what encoding makes.

use std::sync::Arc;

use super::codec::{DecodeError, Writer};
use super::key::RowKey;
use super::pages::Page;
use super::rows::Builder;
use super::tables::Ledger;

const MAGIC: &[u8] = b"epochlog ledger 5\n";
const DIGEST_BYTES: usize = 32;

impl Ledger {
    /// The whole state, open attempts included.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.encode_to(&mut out);
        let mut bytes = out.bytes;
        let digest = checkpoint::digest::content(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// This ledger as it is now, to be encoded where nobody waits: a copy that shares what is large, and takes little time.
    pub fn freeze(&self) -> Frozen {
        // Named one by one: whoever adds a table decides here.
        let Ledger {
            applied,
            rules,
            cluster,
            members,
            log_ms,
            jobs,
            open,
            planned,
            outcomes,
            content,
            quarantine,
            stores,
            names: _,
            ending_pins: _,
            sums: _,
            changes: _,
            held: _,
            paged: _,
            gone: _,
            brought: _,
        } = self;
        Frozen(Ledger {
            applied: *applied,
            rules: *rules,
            cluster: *cluster,
            members: members.clone(),
            log_ms: *log_ms,
            jobs: jobs.clone(),
            open: open.clone(),
            planned: *planned,
            outcomes: outcomes.rows(),
            content: Arc::new(content.rows()),
            quarantine: quarantine.clone(),
            stores: stores.clone(),
            // What follows from these.
            ..Ledger::default()
        })
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
        let mut ledger = builder.finish()?;
        ledger.sum_anew();
        Ok(ledger)
    }

    /// Writes every row where it belongs, without a copy: a ledger may have a million.
    fn encode_to(&self, out: &mut Writer) {
        out.bytes.extend_from_slice(MAGIC);
        for key in self.row_keys() {
            let lens = out.bytes.len();
            out.bytes.extend_from_slice(&[0; 8]);
            key.put(out);
            let value_at = out.bytes.len();
            self.put_row(&key, out).expect("the ledger lists the rows it has");
            let key_len = (value_at - lens - 8) as u32;
            let value_len = (out.bytes.len() - value_at) as u32;
            out.bytes[lens..lens + 4].copy_from_slice(&key_len.to_be_bytes());
            out.bytes[lens + 4..lens + 8].copy_from_slice(&value_len.to_be_bytes());
        }
    }
}

/// A ledger's rows as they were at one position. See [`Ledger::freeze`].
#[derive(Debug, Clone)]
pub struct Frozen(Ledger);

impl Frozen {
    /// What [`Ledger::encode`] would have written then. Takes a tenth of a second for each few hundred thousand rows.
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Pages of the plans that were open then, as far as they were in the log.
    pub fn pages(&self) -> impl Iterator<Item = Page> {
        self.0.open.iter().flat_map(|(id, attempt)| attempt.all_pages(*id))
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
