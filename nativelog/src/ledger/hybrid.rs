//! What is asked of object stores: which there are, which objects, what lies in them, and what nobody needs any more.
//!
//! Objects and content are many, and whoever looks at all of them does so in slices, while records are applied in between.
//! An object keeps its number for as long as it is held, and no object of an attempt that is not open is ever added: so of
//! an attempt that had ended before the first slice, an object that is in none of them is held by nobody.

use std::fmt;
use std::ops::Range;

use checkpoint::{Digest, JobName};

use super::homes::Home;
use super::job::StoredEpoch;
use super::objects::{Extent, ObjectKey};
use super::store::StoreRecord;
use super::tables::Ledger;

/// An object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// Its id: log index of the record that named it.
    pub id: u64,
    /// Its name, as in configurations.
    pub name: String,
    /// Its uuid, as the marker at its prefix says.
    pub uuid: [u8; 16],
    /// Nonce of the newest batch of deletes, which the marker shows.
    pub batch: u64,
    /// Nonce of the batch before, which it may still show.
    pub before: Option<u64>,
}

/// An object that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: ObjectKey,
    /// Its length.
    pub bytes: u64,
}

/// An object that nobody holds any more, and that nobody has said to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasedObject {
    /// Its name.
    pub key: ObjectKey,
    /// Its length.
    pub bytes: u64,
    /// Log index of the record that released it.
    pub index: u64,
}

/// Where in an object content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentInfo {
    /// The object.
    pub object: ObjectInfo,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How much of it, in bytes.
    pub bytes: u64,
}

/// Where content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomesInfo {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Its bytes came through the log: a quorum has them.
    pub log: bool,
    /// In stores, in their order: all of it in each.
    pub extents: Vec<ExtentInfo>,
}

/// Where the content of an epoch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the log.
    #[default]
    Log,
    /// In a store.
    Hybrid,
    /// In a store, but for some that was in the log when the epoch was sealed.
    Mixed,
}

impl Mode {
    /// As in lists and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Log => "log",
            Mode::Hybrid => "hybrid",
            Mode::Mixed => "mixed",
        }
    }

    pub(super) fn of(stored: Option<&StoredEpoch>) -> Mode {
        match stored {
            None => Mode::Log,
            Some(stored) if stored.mixed => Mode::Mixed,
            Some(_) => Mode::Hybrid,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Ledger {
    /// The stores that have a name, oldest first.
    pub fn stores(&self) -> impl Iterator<Item = StoreInfo> {
        self.stores.iter().map(|(id, store)| store_info(*id, store))
    }

    /// The store of this id.
    pub fn store(&self, id: u64) -> Option<StoreInfo> {
        self.stores.get(&id).map(|store| store_info(id, store))
    }

    /// The store of this name.
    pub fn store_named(&self, name: &str) -> Option<StoreInfo> {
        self.stores().find(|store| store.name == name)
    }

    /// The store in which a sealed epoch lies; `None` of one in the log.
    pub fn store_of(&self, job: &JobName, epoch: u64) -> Option<StoreInfo> {
        self.store(self.stored(job, epoch)?.store)
    }

    /// The object in which the manifest of a sealed epoch lies.
    pub fn manifest_object(&self, job: &JobName, epoch: u64) -> Option<ObjectInfo> {
        Some(self.object_info(self.stored(job, epoch)?.manifest))
    }

    fn stored(&self, job: &JobName, epoch: u64) -> Option<StoredEpoch> {
        self.jobs.get(job)?.epochs.get(&epoch)?.stored
    }

    /// Where sealed content lies; `None` of content that nobody holds.
    pub fn homes(&self, digest: &Digest) -> Option<HomesInfo> {
        let (id, _) = self.content.find(digest)?;
        Some(self.homes_info(id))
    }

    /// The store in which alone this content lies: it is not on a quorum by the log, so that it may be nowhere on a disk.
    pub fn only_in_store(&self, digest: &Digest) -> Option<StoreInfo> {
        let (id, _) = self.content.find(digest)?;
        let home = self.content.homes().of(id).filter(|home| !home.log)?;
        let first = home.extents().next()?;
        self.store(self.content.homes().object(first.object).key.store)
    }

    /// Whether this content lies in a store, whatever else.
    pub fn is_in_store(&self, digest: &Digest) -> bool {
        self.content.find(digest).is_some_and(|(id, _)| self.content.homes().of(id).is_some())
    }

    /// Of so many contents of a sealed epoch, by their place in it, those that are not in the log: what replicas have to
    /// fetch from peers or from a store. `None` when there is no such epoch, or no content in these places.
    pub fn hydration(&self, job: &JobName, epoch: u64, places: Range<usize>) -> Option<Vec<HomesInfo>> {
        let content = &self.jobs.get(job)?.epochs.get(&epoch)?.content;
        let here =
            content.get(places.start..places.end.min(content.len())).filter(|here| !here.is_empty())?;
        let to_fetch = |id: &&u32| self.content.homes().of(**id).is_some_and(|home| !home.log);
        Some(here.iter().filter(to_fetch).map(|id| self.homes_info(*id)).collect())
    }

    /// How many numbers content has had up to the last that lies in a store.
    pub fn stored_slots(&self) -> u32 {
        self.content.homes().content_slots()
    }

    /// Content that lies in stores, of these numbers: all of it in parts, as objects are looked at.
    pub fn stored_in(&self, numbers: Range<u32>) -> impl Iterator<Item = HomesInfo> {
        let homes = self.content.homes();
        let here = numbers.start..numbers.end.min(homes.content_slots());
        here.filter(move |id| homes.of(*id).is_some()).map(move |id| self.homes_info(id))
    }

    /// How many numbers objects have had, those that are free now included.
    pub fn object_slots(&self) -> u32 {
        self.content.homes().slots()
    }

    /// Objects that somebody holds, of these numbers: all of them in parts.
    pub fn objects_in(&self, numbers: Range<u32>) -> impl Iterator<Item = ObjectInfo> {
        let homes = self.content.homes();
        let here = numbers.start..numbers.end.min(homes.slots());
        here.filter_map(move |id| {
            homes.slot(id).map(|object| ObjectInfo { key: object.key, bytes: object.bytes })
        })
    }

    /// Objects that nobody holds any more, behind this name, in order: store by store.
    pub fn released(&self, after: Option<&ObjectKey>) -> impl Iterator<Item = ReleasedObject> {
        let released = self.content.homes().released().after(after);
        released.map(|(key, at)| ReleasedObject { key: *key, bytes: at.bytes, index: at.index })
    }

    /// Whether this attempt is open: its objects are not garbage, whether a record has named them yet or not. One at or below
    /// [`Ledger::applied`] that is not open never will be again.
    pub fn is_attempt_open(&self, attempt: u64) -> bool {
        self.open.contains_key(&attempt)
    }

    fn object_info(&self, id: u32) -> ObjectInfo {
        let object = self.content.homes().object(id);
        ObjectInfo { key: object.key, bytes: object.bytes }
    }

    fn homes_info(&self, id: u32) -> HomesInfo {
        let content = self.content.get(id);
        let (digest, bytes) = (content.digest, content.bytes);
        let home = self.content.homes().of(id);
        let extent =
            |Extent { object, offset }| ExtentInfo { object: self.object_info(object), offset, bytes };
        let extents = home.into_iter().flat_map(Home::extents).map(extent).collect();
        HomesInfo { digest, bytes, log: home.is_none_or(|home| home.log), extents }
    }
}

fn store_info(id: u64, StoreRecord { name, uuid, batch, before }: &StoreRecord) -> StoreInfo {
    StoreInfo { id, name: name.clone(), uuid: *uuid, batch: *batch, before: *before }
}
