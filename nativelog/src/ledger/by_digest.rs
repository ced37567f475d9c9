//! Ids of contents by their digests. In 256 tables, so that one that grows holds up nobody: together they may have
//! millions. A copy shares those that do not change.
//!
//! **Never** is anything listed from here: the order in a hash table is nobody's business. All else in the ledger is
//! ordered, so that replicas cannot differ by it.

use std::sync::Arc;

use checkpoint::Digest;
use hashbrown::HashTable;

/// As many as a byte has values.
const TABLES: usize = 256;
/// The first byte of a digest is the number of its table; these places of it are hashed there.
const HASHED: usize = 8;

/// The ids alone: what they name is looked up by whoever asks.
#[derive(Debug, Clone)]
pub(super) struct ByDigest {
    tables: Vec<Arc<HashTable<u32>>>,
}

impl Default for ByDigest {
    fn default() -> Self {
        ByDigest { tables: vec![Arc::default(); TABLES] }
    }
}

impl ByDigest {
    /// The id whose digest this is, as `digest_of` tells.
    pub fn find<'a>(&self, digest: &Digest, digest_of: impl Fn(u32) -> &'a Digest) -> Option<u32> {
        let table = &self.tables[table(digest)];
        table.find(hash(digest), |id| digest_of(*id) == digest).copied()
    }

    /// Makes room for these, of which some may be here: what grows little by little is copied again and again.
    pub fn reserve<'a, 'b>(
        &mut self,
        digests: impl Iterator<Item = &'b Digest>,
        digest_of: impl Fn(u32) -> &'a Digest,
    ) {
        let mut more = [0; TABLES];
        digests.for_each(|digest| more[table(digest)] += 1);
        for (table, more) in self.tables.iter_mut().zip(more).filter(|(_, more)| *more > 0) {
            Arc::make_mut(table).reserve(more, |id| hash(digest_of(*id)));
        }
    }

    /// Puts in an id that is not there.
    pub fn insert<'a>(&mut self, digest: &Digest, id: u32, digest_of: impl Fn(u32) -> &'a Digest) {
        let table = Arc::make_mut(&mut self.tables[table(digest)]);
        table.insert_unique(hash(digest), id, |id| hash(digest_of(*id)));
    }

    /// Takes an id out. False when it was not there.
    pub fn remove(&mut self, digest: &Digest, id: u32) -> bool {
        let table = Arc::make_mut(&mut self.tables[table(digest)]);
        table.find_entry(hash(digest), |there| *there == id).map(|found| found.remove()).is_ok()
    }
}

fn table(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0])
}

/// A digest is a hash already.
fn hash(digest: &Digest) -> u64 {
    u64::from_le_bytes(*digest.as_bytes()[HASHED..].first_chunk().expect("a digest has 32 bytes"))
}
