//! Where sealed content lies: *log* (on a quorum, because its bytes came through the log) or objects in stores, or both.
//!
//! Content without a row here is in the log, so that who has no store keeps nothing for it. An object is held once by every
//! content that lies in it, once by the open attempt that named it, and once by the epoch whose manifest it is. At zero
//! holders it is *released*: its name is kept until a record says that it is gone from its store, and comes back never.
//!
//! Objects have small numbers, as content has; the smallest free one is taken next.

use checkpoint::Digest;

use super::free::Free;
use super::objects::{Came, Extent, NewObject, ObjectKey};
use super::released::{Released, ReleasedAt};
use super::slots::Slots;
use super::sum::Sum;

/// An object that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object {
    pub key: ObjectKey,
    pub bytes: u64,
    /// Follows from contents, attempts and epochs.
    holders: u32,
}

/// Where content lies that lies in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    /// And in the log.
    pub log: bool,
    /// In the order of stores, in each at most once: almost always one.
    first: Extent,
    others: Box<[Extent]>,
}

/// How content came, and where it lies if that is an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coming {
    pub came: Came,
    pub link: Option<Extent>,
}

/// What becomes of where content was when it comes anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It was nowhere.
    Nowhere,
    /// It lies there all the same.
    Stays,
    /// It was in quarantine: neither the log nor a store has it, and no object holds its place.
    Lost,
}

/// Homes of content, and the objects that there are.
#[derive(Debug, Clone)]
pub(super) struct Homes {
    /// By content's id.
    homes: Slots<Home>,
    objects: Slots<Object>,
    free: Free,
    /// How many objects somebody holds.
    held: usize,
    released: Released,
    sum: Sum,
}

impl Default for Homes {
    fn default() -> Homes {
        let free = Free::all_but(std::iter::empty(), u32::MAX);
        let (homes, objects) = (Slots::default(), Slots::default());
        Homes { homes, objects, free, held: 0, released: Released::default(), sum: Sum::default() }
    }
}

/// What is free follows from the rest.
impl PartialEq for Homes {
    fn eq(&self, other: &Homes) -> bool {
        self.sum == other.sum
            && self.homes.iter().eq(other.homes.iter())
            && self.objects.iter().eq(other.objects.iter())
            && self.released == other.released
    }
}

impl Eq for Homes {}

impl Home {
    /// In these, in the order of stores.
    pub fn new(log: bool, extents: &[Extent]) -> Option<Home> {
        let (first, others) = extents.split_first()?;
        Some(Home { log, first: *first, others: others.into() })
    }

    /// Where in stores.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}

impl Homes {
    /// The rows alone, for a snapshot: nothing may be changed.
    pub fn rows(&self) -> Homes {
        let Homes { homes, objects, free: _, held, released, sum } = self;
        let (homes, objects, released) = (homes.clone(), objects.clone(), released.clone());
        Homes { homes, objects, free: Free::default(), held: *held, released, sum: *sum }
    }

    /// For the ledger's digest.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// Where content of this id lies; `None` when that is the log alone.
    pub fn of(&self, content: u32) -> Option<&Home> {
        self.homes.get(content)
    }

    /// Where content of this id lies in this store.
    pub fn in_store(&self, content: u32, store: u64) -> Option<Extent> {
        self.of(content)?.extents().find(|extent| self.object(extent.object).key.store == store)
    }

    /// Contents that lie in stores, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Home)> {
        self.homes.iter()
    }

    /// Ids of content up to which some lie in stores, those between that do not included.
    pub fn content_slots(&self) -> u32 {
        self.homes.len() as u32
    }

    /// An object that somebody holds.
    pub fn object(&self, id: u32) -> &Object {
        self.slot(id).expect("a number that is held names an object")
    }

    /// The object of a number, if there is any.
    pub fn slot(&self, id: u32) -> Option<&Object> {
        self.objects.get(id)
    }

    /// Numbers that objects have had, those that are free now included.
    pub fn slots(&self) -> u32 {
        self.objects.len() as u32
    }

    /// Objects that somebody holds, in order.
    pub fn objects(&self) -> impl Iterator<Item = (u32, &Object)> {
        self.objects.iter()
    }

    /// Objects that are released and not said to be gone.
    pub fn released(&self) -> &Released {
        &self.released
    }

    /// How many objects have a row: those that somebody holds, and those that are released.
    pub fn count(&self) -> usize {
        self.held + self.released.len()
    }

    /// A new object, which who names it holds. Its number.
    pub fn take(&mut self, NewObject { key, bytes }: NewObject) -> u32 {
        assert!(self.released.get(&key).is_none(), "a name is never used again");
        let id = self.free.take_first().expect("fewer objects than 2^32");
        self.objects.grow(id as usize + 1);
        *self.objects.at(id) = Some(Object { key, bytes, holders: 1 });
        self.held += 1;
        self.sum.put_stirred(&key.digest, object_words(id, &key, bytes));
        id
    }

    /// One more holder of an object that is held.
    pub fn hold(&mut self, id: u32) {
        let object = self.objects.at(id).as_mut().expect("a number that is held names an object");
        object.holders = object.holders.checked_add(1).expect("fewer holders than 2^32");
    }

    /// One holder less, by the record at `index`: without holders it is released.
    pub fn let_go(&mut self, id: u32, index: u64) {
        let object = self.objects.at(id).as_mut().expect("a number that is held names an object");
        object.holders -= 1;
        if object.holders > 0 {
            return;
        }
        let Object { key, bytes, .. } = *object;
        *self.objects.at(id) = None;
        self.held -= 1;
        self.free.put(id);
        self.sum.take_stirred(&key.digest, object_words(id, &key, bytes));
        let at = ReleasedAt { index, bytes };
        self.sum.put_stirred(&key.digest, released_words(&key, at));
        assert!(self.released.insert(key, at), "an object is released once");
    }

    /// Content came, by the record at `index`: into the log, into an object or both. `before`: what becomes of where it was.
    /// What is in a store already gets another place there: it was verified last.
    pub fn came(&mut self, (id, digest): (u32, &Digest), before: Before, coming: Coming, index: u64) {
        let Coming { came, link } = coming;
        let there = self.homes.get(id).cloned();
        let in_log = before == Before::Stays && there.as_ref().is_none_or(|home| home.log);
        let mut extents: Vec<Extent> = there.iter().flat_map(Home::extents).collect();
        let mut left: Vec<Extent> = Vec::new();
        if before == Before::Lost {
            left.append(&mut extents);
        }
        if let Some(link) = link {
            self.hold(link.object);
            let store = |extent: &Extent| self.object(extent.object).key.store;
            match extents.binary_search_by_key(&store(&link), store) {
                Ok(at) => left.push(std::mem::replace(&mut extents[at], link)),
                Err(at) => extents.insert(at, link),
            }
        }
        let now = Home::new(came.logged || in_log, &extents);
        if now != there {
            self.put(id, digest, now);
        }
        left.into_iter().for_each(|extent| self.let_go(extent.object, index));
    }

    /// What the log brought of this content is lost: it lies in stores only, if it lies in any.
    pub fn lose_log(&mut self, (id, digest): (u32, &Digest)) {
        if let Some(home) = self.homes.get(id).filter(|home| home.log).cloned() {
            self.put(id, digest, Some(Home { log: false, ..home }));
        }
    }

    /// Nobody holds this content any more, or it is in the log alone, by the record at `index`.
    pub fn forget(&mut self, (id, digest): (u32, &Digest), index: u64) {
        let Some(home) = self.homes.get(id).cloned() else { return };
        self.put(id, digest, None);
        home.extents().for_each(|extent| self.let_go(extent.object, index));
    }

    /// These are gone from their store. What is not released is passed over.
    pub fn deleted<'a>(&mut self, keys: impl IntoIterator<Item = &'a ObjectKey>) {
        for key in keys {
            if let Some(at) = self.released.remove(key) {
                self.sum.take_stirred(&key.digest, released_words(key, at));
            }
        }
    }

    fn put(&mut self, id: u32, digest: &Digest, home: Option<Home>) {
        if let Some(before) = self.homes.get(id) {
            home_words(id, before).for_each(|words| self.sum.take_stirred(digest, words));
        }
        if let Some(home) = &home {
            home_words(id, home).for_each(|words| self.sum.put_stirred(digest, words));
            self.homes.grow(id as usize + 1);
        }
        *self.homes.at(id) = home;
    }
}

/// Rebuilding from rows. Every answer is `None` when rows contradict each other.
impl Homes {
    /// An object's row; nobody holds it yet.
    pub fn add_object(&mut self, id: u32, NewObject { key, bytes }: NewObject) -> Option<()> {
        if id == u32::MAX || self.slot(id).is_some() {
            return None;
        }
        self.objects.grow(id as usize + 1);
        *self.objects.at(id) = Some(Object { key, bytes, holders: 0 });
        self.held += 1;
        self.sum.put_stirred(&key.digest, object_words(id, &key, bytes));
        Some(())
    }

    /// The row of where content lies, which is there with so many bytes; all objects are.
    pub fn add_home(&mut self, (id, digest, bytes): (u32, &Digest, u64), home: Home) -> Option<()> {
        let mut last = None;
        for Extent { object, offset } in home.extents() {
            let there = self.slot(object)?;
            let end = offset.checked_add(bytes)?;
            if end > there.bytes || last.is_some_and(|last| last >= there.key.store) {
                return None;
            }
            last = Some(there.key.store);
            self.hold(object);
        }
        self.put(id, digest, Some(home));
        Some(())
    }

    /// The row of an object that is released; all others are there.
    pub fn add_released(&mut self, key: ObjectKey, at: ReleasedAt) -> Option<()> {
        self.sum.put_stirred(&key.digest, released_words(&key, at));
        self.released.insert(key, at).then_some(())
    }

    /// All rows are in, and all holders: nothing is there that nobody holds, and nothing twice.
    pub fn finish(&mut self) -> Option<()> {
        self.free = Free::all_but(self.objects.iter().map(|(id, _)| id), u32::MAX);
        let mut keys: Vec<ObjectKey> = self.objects.iter().map(|(_, object)| object.key).collect();
        keys.sort_unstable();
        let is_sound = self.objects.iter().all(|(_, object)| object.holders > 0)
            && keys.windows(2).all(|two| two[0] != two[1])
            && keys.iter().all(|key| self.released.get(key).is_none());
        is_sound.then_some(())
    }
}

/// What goes into the sum beside a digest: which table, and the rest of the row.
fn object_words(id: u32, key: &ObjectKey, bytes: u64) -> [u64; 6] {
    [1, u64::from(id), key.store, key.attempt, key.nonce, bytes]
}

fn released_words(key: &ObjectKey, at: ReleasedAt) -> [u64; 6] {
    [2, key.store, key.attempt, key.nonce, at.index, at.bytes]
}

fn home_words(id: u32, home: &Home) -> impl Iterator<Item = [u64; 4]> {
    let extent = move |extent: Extent| [4, u64::from(id), u64::from(extent.object), extent.offset];
    std::iter::once([3, u64::from(id), u64::from(home.log), 0]).chain(home.extents().map(extent))
}

#[cfg(test)]
mod tests;
