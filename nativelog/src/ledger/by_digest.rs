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
/// The first byte of a digest is the number of its table; four bytes from this place on are its tag there.
const TAG_AT: usize = 8;

/// The ids alone: what they name is looked up by whoever asks.
#[derive(Debug, Clone)]
pub(super) struct ByDigest {
    tables: Vec<Arc<HashTable<Place>>>,
}

/// An id with a part of its digest. The digest itself lies anywhere in memory: a table that grows needs no look at it, nor
/// does who looks for what is not there.
#[derive(Debug, Clone, Copy)]
struct Place {
    tag: u32,
    id: u32,
}

impl Place {
    /// A digest is a hash already. A table goes by the lowest bits and by the seven highest.
    fn hash(&self) -> u64 {
        spread(self.tag)
    }
}

impl Default for ByDigest {
    fn default() -> Self {
        ByDigest { tables: vec![Arc::default(); TABLES] }
    }
}

impl ByDigest {
    /// The id whose digest this is, as `digest_of` tells.
    pub fn find<'a>(&self, digest: &Digest, digest_of: impl Fn(u32) -> &'a Digest) -> Option<u32> {
        let tag = tag(digest);
        let is_it = |place: &Place| place.tag == tag && digest_of(place.id) == digest;
        self.tables[table(digest)].find(spread(tag), is_it).map(|place| place.id)
    }

    /// Makes room for these, of which some may be here: what grows little by little is copied again and again.
    pub fn reserve<'a>(&mut self, digests: impl Iterator<Item = &'a Digest>) {
        let mut more = [0; TABLES];
        digests.for_each(|digest| more[table(digest)] += 1);
        for (table, more) in self.tables.iter_mut().zip(more).filter(|(_, more)| *more > 0) {
            grow(table, more);
        }
    }

    /// Puts in an id that is not there.
    pub fn insert(&mut self, digest: &Digest, id: u32) {
        let table = &mut self.tables[table(digest)];
        grow(table, 1);
        let place = Place { tag: tag(digest), id };
        Arc::make_mut(table).insert_unique(place.hash(), place, Place::hash);
    }

    /// Takes an id out. False when it was not there.
    pub fn remove(&mut self, digest: &Digest, id: u32) -> bool {
        let table = Arc::make_mut(&mut self.tables[table(digest)]);
        table.find_entry(spread(tag(digest)), |there| there.id == id).map(|found| found.remove()).is_ok()
    }
}

/// Room for so many more. One that is shared is not copied first, only to be moved to a larger one then.
fn grow(table: &mut Arc<HashTable<Place>>, more: usize) {
    if table.capacity() - table.len() >= more {
        return;
    }
    match Arc::get_mut(table) {
        Some(own) => own.reserve(more, Place::hash),
        None => {
            let mut grown = HashTable::with_capacity(table.len() + more);
            for place in table.iter() {
                grown.insert_unique(place.hash(), *place, Place::hash);
            }
            *table = Arc::new(grown);
        }
    }
}

fn table(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0])
}

fn tag(digest: &Digest) -> u32 {
    u32::from_le_bytes(*digest.as_bytes()[TAG_AT..].first_chunk().expect("a digest has 32 bytes"))
}

fn spread(tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(tag)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn digests(from: u32, count: u32) -> Vec<Digest> {
        (from..from + count).map(|n| checkpoint::digest::content(&n.to_le_bytes())).collect()
    }

    /// Contents lie anywhere in memory: a million looks at them are what a seal's time went into.
    #[test]
    fn a_table_that_grows_and_a_search_in_vain_look_at_no_content() {
        let all = digests(0, 20_000);
        let (first, second) = all.split_at(10_000);
        let mut index = ByDigest::default();
        first.iter().zip(0..).for_each(|(digest, id)| index.insert(digest, id));
        let before = index.clone();
        index.reserve(second.iter());
        let looks = Cell::new(0);
        let digest_of = |id: u32| {
            looks.set(looks.get() + 1);
            &all[id as usize]
        };
        assert!(second.iter().all(|digest| index.find(digest, digest_of).is_none()));
        assert_eq!(looks.get(), 0);
        second.iter().zip(10_000..).for_each(|(digest, id)| index.insert(digest, id));
        for (digest, id) in all.iter().zip(0..) {
            assert_eq!(index.find(digest, digest_of), Some(id));
            assert_eq!(before.find(digest, digest_of), (id < 10_000).then_some(id), "a copy stays as it was");
        }
        assert!(index.remove(&all[7], 7) && !index.remove(&all[7], 7));
        assert_eq!(index.find(&all[7], digest_of), None);
    }

    #[test]
    fn equal_tags_are_told_apart() {
        let mut bytes = [7; 32];
        let one = Digest::from_slice(&bytes).unwrap();
        bytes[31] = 8;
        let other = Digest::from_slice(&bytes).unwrap();
        let all = [one, other];
        let mut index = ByDigest::default();
        index.insert(&one, 0);
        assert_eq!(index.find(&other, |id| &all[id as usize]), None);
        index.insert(&other, 1);
        assert_eq!(index.find(&other, |id| &all[id as usize]), Some(1));
        assert!(index.remove(&one, 0));
        assert_eq!(index.find(&other, |id| &all[id as usize]), Some(1));
    }
}
