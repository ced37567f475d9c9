//! Sealed content: which digests may be referenced instead of sent, and how often they are held.
//!
//! Content is held once by every epoch that has a file of it and once by every open attempt that
//! reuses it. At zero holders it is forgotten, and can no longer be reused, although its blob may
//! still lie on a disk. Ids are small numbers so that an epoch of a million files keeps four bytes a
//! file; the smallest free id is taken next, so ids are the same on every replica. Where content lies is in `homes.rs`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use checkpoint::Digest;

use super::by_digest::ByDigest;
use super::effect::Released;
use super::free::Free;
use super::homes::{Before, Coming, Home, Homes};
use super::objects::{Came, Extent, Named, NewObject, ObjectKey};
use super::slots::Slots;
use super::sum::Sum;

/// One piece of sealed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub digest: Digest,
    pub bytes: u64,
    /// Log index of the newest record that brought its bytes: a seal, unless it only reused them, or a rehome.
    pub brought: u64,
    pub refs: NonZeroU32,
}

/// What a sealed epoch holds of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub digest: Digest,
    pub bytes: u64,
    pub came: Came,
}

/// What an epoch holds, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holds<'a> {
    /// Distinct, ascending.
    pub parts: &'a [Part],
    /// Of parts that came into objects, by their place, ascending: where.
    pub links: &'a [(u32, Extent)],
    /// Of an epoch whose content lies in a store: the object of its manifest.
    pub manifest: Option<Named>,
    /// Content in quarantine, ascending: what there was of it is lost.
    pub lost: &'a [u32],
}

/// What an epoch holds now.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldBy {
    /// Ids of its content, ascending.
    pub content: Arc<[u32]>,
    /// Number of the object of its manifest.
    pub manifest: Option<u32>,
    /// Some of its content is not in the manifest's store.
    pub mixed: bool,
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
    /// Where it lies.
    homes: Homes,
}

impl Contents {
    /// The rows alone, for a snapshot: nothing is found in it, and nothing may be changed.
    pub fn rows(&self) -> Contents {
        let Contents { slots, sum, homes, free: _, index: _ } = self;
        Contents { slots: slots.clone(), sum: *sum, homes: homes.rows(), ..Contents::default() }
    }

    /// Where it lies, and which objects there are.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// These are gone from their store.
    pub fn deleted<'a>(&mut self, keys: impl IntoIterator<Item = &'a ObjectKey>) {
        self.homes.deleted(keys);
    }

    /// Content of this id lies there in a store from the record at `index` on, which has brought it: who looked for it before
    /// says nothing of it now. `lost`: it was in quarantine.
    pub fn rehome(&mut self, id: u32, link: Extent, lost: bool, index: u64) {
        let came = Came { logged: false, linked: true };
        let digest = self.get(id).digest;
        self.brought_anew(id, index);
        let before = if lost { Before::Lost } else { Before::Stays };
        self.homes.came((id, &digest), before, Coming { came, link: Some(link) }, index);
    }

    /// What the log brought of content of this id is lost. Nothing changes where nobody holds it any more.
    pub fn lose_log(&mut self, id: u32) {
        if let Some(digest) = self.slot(id).map(|content| content.digest) {
            self.homes.lose_log((id, &digest));
        }
    }

    /// A majority has content of this id, and no store has it, from the record at `index` on.
    pub fn in_log_only(&mut self, id: u32, index: u64) {
        let digest = self.get(id).digest;
        self.homes.forget((id, &digest), index);
    }

    /// An open attempt names an object, and holds it. Its number.
    pub fn take_object(&mut self, object: NewObject) -> u32 {
        self.homes.take(object)
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
    fn hold(&mut self, part: &Part, link: Option<Extent>, lost: &[u32], index: u64) -> Option<u32> {
        let Part { digest, bytes, came } = part;
        let coming = Coming { came: *came, link };
        if let Some((id, content)) = self.find(digest) {
            if content.bytes != *bytes {
                return None;
            }
            self.hold_id(id);
            if came.with_it() {
                self.brought_anew(id, index);
                let lost = lost.binary_search(&id).is_ok();
                let before = if lost { Before::Lost } else { Before::Stays };
                self.homes.came((id, digest), before, coming, index);
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
        self.homes.came((id, digest), Before::Nowhere, coming, index);
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

    /// One more holder of all that an epoch holds, by its seal at `index`. `None` when content is held with another
    /// length: then this table is of no use any more.
    pub fn hold_all(&mut self, holds: Holds<'_>, index: u64) -> Option<HeldBy> {
        let Holds { parts, links, manifest, lost } = holds;
        self.index.reserve(parts.iter().filter(|part| part.came.with_it()).map(|part| &part.digest));
        let mut links = links.iter().peekable();
        let mut ids = Vec::with_capacity(parts.len());
        for (place, part) in parts.iter().enumerate() {
            let link = links.next_if(|(of, _)| *of as usize == place).map(|(_, extent)| *extent);
            ids.push(self.hold(part, link, lost, index)?);
        }
        let manifest = manifest.map(|manifest| match manifest {
            Named::New(object) => self.homes.take(object),
            Named::Known(id) => {
                self.homes.hold(id);
                id
            }
        });
        let store = manifest.map(|id| self.homes.object(id).key.store);
        let mixed = store.is_some_and(|store| ids.iter().any(|id| self.homes.in_store(*id, store).is_none()));
        ids.sort_unstable();
        Some(HeldBy { content: ids.into(), manifest, mixed })
    }

    /// One holder less of each content and each object, by the record at `index`; answers with the content that has none
    /// any more, sorted.
    pub fn release_all<'a>(
        &mut self,
        ids: impl IntoIterator<Item = &'a u32>,
        objects: impl IntoIterator<Item = &'a u32>,
        index: u64,
    ) -> Vec<Released> {
        let freed = ids.into_iter().filter_map(|id| self.release(*id, index));
        let mut released: Vec<Released> =
            freed.map(|content| Released { digest: content.digest, bytes: content.bytes }).collect();
        released.sort_unstable();
        objects.into_iter().for_each(|id| self.homes.let_go(*id, index));
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
        self.sum.plus(self.homes.sum())
    }

    /// One more holder of content that is held.
    pub fn hold_id(&mut self, id: u32) {
        let content = self.get_mut(id);
        content.refs = content.refs.checked_add(1).expect("fewer holders than 2^32");
    }

    /// One holder less, by the record at `index`; content without holders is forgotten, and is what this answers with.
    pub fn release(&mut self, id: u32, index: u64) -> Option<Content> {
        let content = self.get_mut(id);
        if let Some(left) = NonZeroU32::new(content.refs.get() - 1) {
            content.refs = left;
            return None;
        }
        let content = *content;
        self.sum.take_stirred(&content.digest, summed(id, &content));
        assert!(self.index.remove(&content.digest, id), "held content is in the index");
        self.homes.forget((id, &content.digest), index);
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

    /// Takes where content lies from rows, content by content and with its bytes; `homes` has the objects. `None` when they
    /// contradict each other.
    pub fn place(
        &mut self,
        mut homes: Homes,
        rows: impl IntoIterator<Item = (u32, Home, u64)>,
    ) -> Option<()> {
        for (id, home, bytes) in rows {
            let content = self.slot(id).filter(|content| content.bytes == bytes)?;
            homes.add_home((id, &content.digest, bytes), home)?;
        }
        self.homes = homes;
        Some(())
    }

    /// All holders are counted that rows tell of: `objects` are those of open attempts and of manifests. `None` when
    /// somebody holds what is not there, or nobody what is.
    pub fn count_objects(&mut self, objects: impl IntoIterator<Item = u32>) -> Option<()> {
        for id in objects {
            self.homes.slot(id)?;
            self.homes.hold(id);
        }
        self.homes.finish()
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
        self.sum == other.sum
            && self.slots == other.slots
            && self.free == other.free
            && self.homes == other.homes
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

    const LOGGED: Came = Came { logged: true, linked: false };

    fn hold(contents: &mut Contents, digest: Digest, bytes: u64) -> u32 {
        contents.hold(&Part { digest, bytes, came: LOGGED }, None, &[], 5).unwrap()
    }

    #[test]
    fn alike_digests_are_told_apart() {
        let mut contents = Contents::default();
        let a = hold(&mut contents, digest(1, 1), 10);
        let b = hold(&mut contents, digest(1, 2), 20);
        assert_ne!(a, b);
        assert_eq!(contents.find(&digest(1, 2)).unwrap().1.bytes, 20);
        assert!(contents.find(&digest(1, 3)).is_none());
        let other = Part { digest: digest(1, 2), bytes: 21, came: LOGGED };
        assert_eq!(contents.hold(&other, None, &[], 5), None, "it has another length");
    }

    #[test]
    fn content_without_holders_is_forgotten_and_its_id_taken_again() {
        let mut contents = Contents::default();
        let a = hold(&mut contents, digest(1, 1), 10);
        assert_eq!(hold(&mut contents, digest(1, 1), 10), a);
        hold(&mut contents, digest(2, 1), 5);
        contents.release(a, 6);
        assert!(contents.find(&digest(1, 1)).is_some());
        contents.release(a, 7);
        assert!(contents.find(&digest(1, 1)).is_none());
        assert_eq!(hold(&mut contents, digest(3, 3), 7), a);
    }

    #[test]
    fn the_newest_seal_that_brought_it_is_known() {
        let mut contents = Contents::default();
        let id = hold(&mut contents, digest(1, 1), 10);
        let first = contents.sum();
        let part = |came| Part { digest: digest(1, 1), bytes: 10, came };
        contents.hold(&part(Came::default()), None, &[], 7);
        assert_eq!((contents.get(id).brought, contents.sum()), (5, first));
        contents.hold(&part(LOGGED), None, &[], 9);
        assert_eq!(contents.get(id).brought, 9);
        assert_ne!(contents.sum(), first);
        let freed = (0..3).filter_map(|_| contents.release(id, 10)).count();
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
        contents.release(3, 6);
        contents.release(8, 6);
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
        contents.release(last, 6);
        contents.release(0, 6);
        assert_eq!(hold(&mut contents, digest(4, 4), 7), 0);
        assert_eq!(hold(&mut contents, digest(5, 5), 7), 2);
        assert_eq!((contents.slots(), contents.iter().count()), (SLOTS, 3));
        assert_eq!(Contents::rebuild(last, [(last, content(1))].into_iter()), None);
    }
}
