//! Sealed content: which digests may be referenced instead of sent, and how often they are held.
//!
//! Content is held once by every epoch that has a file of it and once by every open attempt that
//! reuses it. At zero holders it is forgotten, and can no longer be reused, although its blob may
//! still lie on a disk. Ids are small numbers so that an epoch of a million files keeps four bytes a
//! file; the smallest free id is taken next, so ids are the same on every replica.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use checkpoint::Digest;

use super::by_digest::ByDigest;
use super::effect::Released;
use super::free::Free;
use super::slots::Slots;
use super::sum::Sum;

/// One piece of sealed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub digest: Digest,
    pub bytes: u64,
    /// Log index of the newest seal that brought its bytes, rather than reuse them.
    pub brought: u64,
    pub refs: NonZeroU32,
}

/// What a sealed epoch holds of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub digest: Digest,
    pub bytes: u64,
    /// Its bytes came with the epoch.
    pub brought: bool,
}

impl Part {
    /// The digest's first eight bytes: a number that orders as they do.
    pub fn first_bytes(&self) -> u64 {
        u64::from_be_bytes(*self.digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }
}

/// What the ledger keeps of content in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quarantined {
    /// Log index of the newest record that said so.
    pub at: u64,
    /// By node: what it found.
    pub found: BTreeMap<u64, String>,
}

/// All sealed content, by id and by digest.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    slots: Slots<Content>,
    free: Free,
    index: ByDigest,
    /// Over ids, digests, lengths and where it was brought; how often content is held follows from epochs and attempts.
    sum: Sum,
}

impl Contents {
    /// The rows alone, for a snapshot: nothing is found in it, and nothing may be changed.
    pub fn rows(&self) -> Contents {
        let Contents { slots, sum, .. } = self;
        Contents { slots: slots.clone(), sum: *sum, ..Contents::default() }
    }

    /// Finds content by its digest.
    pub fn find(&self, digest: &Digest) -> Option<(u32, &Content)> {
        let id = self.index.find(digest, |id| &self.get(id).digest)?;
        Some((id, self.get(id)))
    }

    /// Content of an id that someone holds.
    pub fn get(&self, id: u32) -> &Content {
        self.slots.get(id).expect("an id that is held names content")
    }

    fn get_mut(&mut self, id: u32) -> &mut Content {
        self.slots.at(id).as_mut().expect("an id that is held names content")
    }

    /// The content in a slot, if there is any.
    pub fn slot(&self, id: u32) -> Option<&Content> {
        self.slots.get(id)
    }

    /// One more holder of `digest`, by the seal at `index`; answers with its id. `None` when it is held with another length.
    fn hold(&mut self, part: &Part, index: u64) -> Option<u32> {
        let Part { digest, bytes, brought } = part;
        if let Some((id, content)) = self.find(digest) {
            if content.bytes != *bytes {
                return None;
            }
            self.hold_id(id);
            if *brought {
                self.brought_anew(id, index);
            }
            return Some(id);
        }
        let content = Content { digest: *digest, bytes: *bytes, brought: index, refs: NonZeroU32::MIN };
        let id = match self.free.take_first() {
            Some(id) => {
                *self.slots.at(id) = Some(content);
                id
            }
            None => self.slots.push(content),
        };
        self.sum.put_stirred(&content.digest, summed(id, &content));
        self.index.insert(digest, id);
        Some(id)
    }

    fn brought_anew(&mut self, id: u32, index: u64) {
        let before = *self.get(id);
        self.sum.take_stirred(&before.digest, summed(id, &before));
        let content = self.get_mut(id);
        content.brought = index;
        let now = *content;
        self.sum.put_stirred(&now.digest, summed(id, &now));
    }

    /// One more holder of each, by the seal at `index`; answers with their ids, ascending. `None` when one is held with
    /// another length: then this table is of no use any more.
    pub fn hold_all(&mut self, parts: &[Part], index: u64) -> Option<Arc<[u32]>> {
        self.index.reserve(parts.iter().filter(|part| part.brought).map(|part| &part.digest));
        let mut ids: Vec<u32> = parts.iter().map(|part| self.hold(part, index)).collect::<Option<_>>()?;
        ids.sort_unstable();
        Some(ids.into())
    }

    /// One holder less of each; answers with what has none any more, sorted.
    pub fn release_all<'a>(&mut self, ids: impl IntoIterator<Item = &'a u32>) -> Vec<Released> {
        let freed = ids.into_iter().filter_map(|id| self.release(*id));
        let mut released: Vec<Released> =
            freed.map(|content| Released { digest: content.digest, bytes: content.bytes }).collect();
        released.sort_unstable();
        released
    }

    /// The first of these that is held with another length.
    pub fn of_another_length(&self, parts: &[Part]) -> Option<Digest> {
        let other =
            |part: &&Part| self.find(&part.digest).is_some_and(|(_, there)| there.bytes != part.bytes);
        parts.iter().find(other).map(|part| part.digest)
    }

    /// For the ledger's digest.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// One more holder of content that is held.
    pub fn hold_id(&mut self, id: u32) {
        let content = self.get_mut(id);
        content.refs = content.refs.checked_add(1).expect("fewer holders than 2^32");
    }

    /// One holder less; content without holders is forgotten, and is what this answers with.
    pub fn release(&mut self, id: u32) -> Option<Content> {
        let content = self.get_mut(id);
        if let Some(left) = NonZeroU32::new(content.refs.get() - 1) {
            content.refs = left;
            return None;
        }
        let content = *content;
        self.sum.take_stirred(&content.digest, summed(id, &content));
        assert!(self.index.remove(&content.digest, id), "held content is in the index");
        self.free.put(id);
        self.slots.at(id).take()
    }

    /// Ids and contents in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Content)> {
        self.slots.iter()
    }

    /// Number of slots, free ones included: part of the state, as it decides the next id.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Rebuilds the table from its rows. `None` when the rows contradict each other.
    pub fn rebuild(slots: u32, rows: impl Iterator<Item = (u32, Content)>) -> Option<Contents> {
        let mut built = Contents::default();
        for (id, content) in rows {
            if id >= slots || built.find(&content.digest).is_some() {
                return None;
            }
            built.slots.grow(id as usize + 1);
            if built.slots.at(id).replace(content).is_some() {
                return None;
            }
            built.index.insert(&content.digest, id);
            built.sum.put_stirred(&content.digest, summed(id, &content));
        }
        // Free slots cost no row, and next to no memory: a ledger from elsewhere may say that there are very many.
        built.slots.grow(slots as usize);
        built.free = Free::all_but(built.slots.iter().map(|(id, _)| id), slots);
        Some(built)
    }
}

/// The index follows from the rest.
impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        self.sum == other.sum && self.slots == other.slots && self.free == other.free
    }
}

impl Eq for Contents {}

/// What goes into the sum beside its digest.
fn summed(id: u32, content: &Content) -> [u64; 3] {
    [u64::from(id), content.bytes, content.brought]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;

    fn digest(first: u8, last: u8) -> Digest {
        let mut bytes = [first; 32];
        bytes[31] = last;
        Digest::from_slice(&bytes).unwrap()
    }

    fn hold(contents: &mut Contents, digest: Digest, bytes: u64) -> u32 {
        contents.hold(&Part { digest, bytes, brought: true }, 5).unwrap()
    }

    #[test]
    fn alike_digests_are_told_apart() {
        let mut contents = Contents::default();
        let a = hold(&mut contents, digest(1, 1), 10);
        let b = hold(&mut contents, digest(1, 2), 20);
        assert_ne!(a, b);
        assert_eq!(contents.find(&digest(1, 2)).unwrap().1.bytes, 20);
        assert!(contents.find(&digest(1, 3)).is_none());
        let other = Part { digest: digest(1, 2), bytes: 21, brought: true };
        assert_eq!(contents.hold(&other, 5), None, "it has another length");
    }

    #[test]
    fn content_without_holders_is_forgotten_and_its_id_taken_again() {
        let mut contents = Contents::default();
        let a = hold(&mut contents, digest(1, 1), 10);
        assert_eq!(hold(&mut contents, digest(1, 1), 10), a);
        hold(&mut contents, digest(2, 1), 5);
        contents.release(a);
        assert!(contents.find(&digest(1, 1)).is_some());
        contents.release(a);
        assert!(contents.find(&digest(1, 1)).is_none());
        assert_eq!(hold(&mut contents, digest(3, 3), 7), a);
    }

    #[test]
    fn the_newest_seal_that_brought_it_is_known() {
        let mut contents = Contents::default();
        let id = hold(&mut contents, digest(1, 1), 10);
        let first = contents.sum();
        let part = |brought| Part { digest: digest(1, 1), bytes: 10, brought };
        contents.hold(&part(false), 7);
        assert_eq!((contents.get(id).brought, contents.sum()), (5, first));
        contents.hold(&part(true), 9);
        assert_eq!(contents.get(id).brought, 9);
        assert_ne!(contents.sum(), first);
        let freed = (0..3).filter_map(|_| contents.release(id)).count();
        assert_eq!(freed, 1);
        assert_eq!(contents.sum(), Contents::default().sum());
        // A cluster may have millions.
        assert_eq!(size_of::<Option<Content>>(), 56);
    }

    #[test]
    fn a_ledger_tells_its_digest_without_a_look_at_its_contents() {
        let mut contents = Contents::default();
        for n in 0..50_000u32 {
            hold(&mut contents, checkpoint::digest::content(&n.to_be_bytes()), 10);
        }
        // All slots are free: whoever looks finds nothing.
        let mut bare = Contents { sum: contents.sum, ..Contents::default() };
        bare.slots.grow(contents.slots.len());
        let ledger = |contents| Ledger { content: Arc::new(contents), ..Ledger::default() };
        assert_eq!(bare.iter().count(), 0);
        assert_eq!(ledger(bare).digest(), ledger(contents).digest());
    }

    #[test]
    fn a_table_is_rebuilt_from_its_rows() {
        let mut contents = Contents::default();
        for n in 0..9 {
            hold(&mut contents, digest(n, n), u64::from(n));
        }
        contents.release(3);
        contents.release(8);
        let rows: Vec<_> = contents.iter().map(|(id, content)| (id, *content)).collect();
        assert_eq!(Contents::rebuild(contents.slots(), rows.into_iter()), Some(contents));
    }

    #[test]
    fn the_smallest_of_very_many_free_slots_is_taken_next() {
        const SLOTS: u32 = 1 << 22;
        let last = SLOTS - 1;
        let content = |n| Content { digest: digest(n, n), bytes: 1, brought: 5, refs: NonZeroU32::MIN };
        let rows = [(0, content(1)), (last, content(2))];
        let mut contents = Contents::rebuild(SLOTS, rows.into_iter()).unwrap();
        assert_eq!((contents.slots(), contents.iter().count()), (SLOTS, 2));
        assert_eq!(hold(&mut contents, digest(3, 3), 7), 1);
        contents.release(last);
        contents.release(0);
        assert_eq!(hold(&mut contents, digest(4, 4), 7), 0);
        assert_eq!(hold(&mut contents, digest(5, 5), 7), 2);
        assert_eq!((contents.slots(), contents.iter().count()), (SLOTS, 3));
        assert_eq!(Contents::rebuild(last, [(last, content(1))].into_iter()), None);
    }
}
