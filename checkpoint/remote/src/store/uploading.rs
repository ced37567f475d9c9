//! An object that is being written: what every way of writing it needs.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use object_store::path::Path;
use tokio::sync::OwnedSemaphorePermit;

use super::Store;
use super::leftovers;
use super::read::{Compared, agree};
use crate::backend::BackendKind;
use crate::content::{ObjectPlan, Source, Sums};
use crate::error::{StoreError, Trouble};
use crate::journal::Entry;
use crate::line::{Failure, Patience, Tries};
use crate::name::ObjectName;
use crate::runtime::blocking;
use crate::tap::Facts;

/// How much faster than its bytes came a store may take to put them together before it is thought to be gone: with
/// the slowest line, 64 MiB/s.
pub(super) const COMPLETE_FASTER: u64 = 256;

const OTHER_CHECKSUM: &str = "the store reports another checksum";

/// How it is known that the store has what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The store reports the checksum of the whole object.
    Checksum,
    /// The object was read back and verified.
    ReadBack,
}

/// What became of one key.
pub(super) enum Outcome {
    Stored(Proof),
    /// It holds something else, or nothing although it was written; why.
    Spoiled(String),
    /// Not to be sent again, because what became of the last try is not known; why that was.
    Unknown(String),
}

impl From<Compared> for Option<Outcome> {
    fn from(compared: Compared) -> Option<Outcome> {
        match compared {
            Compared::ByChecksum => Some(Outcome::Stored(Proof::Checksum)),
            Compared::ByReading => Some(Outcome::Stored(Proof::ReadBack)),
            Compared::Different(why) => Some(Outcome::Spoiled(why)),
            Compared::Missing => None,
        }
    }
}

/// A leaf in memory, counted until it is dropped.
pub(super) struct Leaf {
    pub data: Bytes,
    pub sums: Sums,
    _room: OwnedSemaphorePermit,
}

/// An object on its way, and what its journal says.
pub(super) struct Uploading<'a> {
    pub store: &'a Store,
    pub what: String,
    pub plan: &'a ObjectPlan,
    pub source: Arc<dyn Source>,
    pub entry: Arc<Mutex<Entry>>,
    pub sums: Mutex<BTreeMap<u32, Sums>>,
    pub patience: Patience,
}

impl Uploading<'_> {
    // Whether the same key may be sent again after a try of unknown fate. Never one that was done: it was deleted.
    pub(super) fn may_go_on(&self) -> bool {
        let once = match self.store.backend().kind {
            BackendKind::Cloud { .. } => self.store.keeps_conditions() || self.plan.leaves().len() > 1,
            _ => false,
        };
        once && !self.entry(|entry| entry.done)
    }

    pub(super) fn entry<T>(&self, look: impl FnOnce(&Entry) -> T) -> T {
        look(&self.entry.lock().expect("no thread panics while it writes a journal"))
    }

    pub(super) fn current(&self) -> Option<ObjectName> {
        self.entry(Entry::name)
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Entry) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let entry = Arc::clone(&self.entry);
        let done =
            blocking(move || write(&mut entry.lock().expect("no thread panics while it writes a journal")))
                .await;
        done.map_err(|e| StoreError::disk(self.of("its journal"), &e))
    }

    // What an error is about: a part of the upload.
    fn of(&self, part: &str) -> String {
        format!("store {:?}: {}: {part}", self.store.name(), self.what)
    }

    fn sums(&self) -> MutexGuard<'_, BTreeMap<u32, Sums>> {
        self.sums.lock().expect("no thread panics while it notes a sum")
    }

    pub(super) async fn rename(&self, why: &str) -> Result<ObjectName, StoreError> {
        let nonce = rand::random();
        let name = self.write(move |entry| entry.rename(nonce)).await?;
        tracing::debug!(store = self.store.name(), %name, why, "a new key");
        Ok(name)
    }

    pub(super) fn fail(&self, failure: Failure) -> StoreError {
        self.store.line().error(&self.what, failure)
    }

    /// Leaf `index` of the source, compared with the plan.
    pub(super) async fn leaf(&self, index: usize) -> Result<Leaf, StoreError> {
        let room = self.store.room().await;
        let (source, plan) = (Arc::clone(&self.source), self.plan.clone());
        let (data, sums, same) = blocking(move || {
            let (offset, len) = plan.leaf_range(index);
            let data = source.read(offset, len)?;
            let same = plan.is_leaf(index, &data);
            let sums = Sums::of(&data);
            Ok((data, sums, same))
        })
        .await
        .map_err(|e| StoreError::disk(self.of("its source"), &e))?;
        if !same {
            return Err(StoreError::new(
                Trouble::Changed,
                self.of("its source"),
                format!("its bytes changed since they were planned (part {index})"),
                "repeat the commit; should it happen again, this machine's disk or memory is to be doubted",
            ));
        }
        self.sums().insert(index as u32, sums);
        Ok(Leaf { data, sums, _room: room })
    }

    // Of the whole object; what is not known yet is read.
    pub(super) async fn whole_sums(&self) -> Result<Sums, StoreError> {
        let mut whole = Sums::of(&[]);
        for index in 0..self.plan.leaves().len() {
            let known = self.sums().get(&(index as u32)).copied();
            let sums = match known {
                Some(sums) => sums,
                None => self.leaf(index).await?.sums,
            };
            whole = whole.then(sums, self.plan.leaf_range(index).1);
        }
        Ok(whole)
    }

    /// Compares the object with its plan. Whatever was answered before, this counts.
    pub(super) async fn compare(&self, path: &Path) -> Result<Compared, StoreError> {
        let (store, plan, patience) = (self.store, self.plan, &self.patience);
        let head = store.head_of(path, patience).await.map_err(|failure| self.fail(failure))?;
        let Some(head) = head else { return Ok(Compared::Missing) };
        if head.len != plan.len_bytes() {
            return Ok(Compared::Different(format!("it has {} bytes of {}", head.len, plan.len_bytes())));
        }
        // Only for a checksum to compare with is the source read.
        if head.reports() {
            let sums = self.whole_sums().await?;
            match agree(head.crc64, head.crc32c, &sums) {
                Some(false) => return Ok(Compared::Different(OTHER_CHECKSUM.into())),
                Some(true) if store.checks(head.crc64) => return Ok(Compared::ByChecksum),
                _ => {}
            }
        }
        store.read_back(path, plan, patience).await.map_err(|failure| self.fail(failure))
    }

    // What a success says by itself: the checksum in its answer, else a comparison. `None`: it is not there.
    pub(super) async fn prove(
        &self,
        path: &Path,
        facts: &Facts,
        sums: &Sums,
    ) -> Result<Option<Outcome>, StoreError> {
        match agree(facts.crc64, facts.crc32c, sums) {
            Some(true) if self.store.checks(facts.crc64) => Ok(Some(Outcome::Stored(Proof::Checksum))),
            Some(false) => Ok(Some(Outcome::Spoiled(OTHER_CHECKSUM.into()))),
            _ => Ok(self.compare(path).await?.into()),
        }
    }

    pub(super) async fn again(&self, failure: Failure, tries: &mut Tries) -> Result<(), StoreError> {
        let again = self.store.line().again(failure, &self.patience, tries).await;
        again.map_err(|failure| self.fail(failure))
    }

    // Frees what a key that is given up may hold. Not needed for anything but room: its trace stays in the journal.
    pub(super) async fn abandon(&self, path: &Path) {
        leftovers::sweep(self.store, path, &self.patience).await;
        let id = self.entry(|entry| entry.tried.last().and_then(|tried| tried.upload.clone()));
        if let (Some(id), BackendKind::Cloud { parts, .. }) = (id, &self.store.backend().kind) {
            let _ = self.store.line().once(0, &self.patience, parts.abort_multipart(path, &id)).await;
        }
    }
}
