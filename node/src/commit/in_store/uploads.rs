//! Objects of one attempt on their way into its store, several at once. Bytes under way are bounded by the store, for all
//! attempts together; here wait only names. Dropped, all of it ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use checkpoint::Digest;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use nativelog::compose::{LinkedFile, StoredObject};
use remote::StoreError;

use crate::stores::{Bound, Object, Stored};

/// Objects that are read, hashed and sent at once.
const AT_ONCE: usize = 8;

/// What is in the store, verified.
#[derive(Debug)]
pub enum Done {
    /// An object, and the files that lie in it.
    Content(StoredObject, Vec<LinkedFile>),
    /// The manifest.
    Manifest(StoredObject),
}

enum Job {
    Content(Object),
    Manifest(Bytes),
}

/// Digests of the contents of an object, in order; none of a manifest.
type Held = Vec<Digest>;

/// See the module.
pub struct Uploads {
    bound: Bound,
    attempt: u64,
    waiting: VecDeque<Job>,
    running: FuturesUnordered<BoxFuture<'static, (Held, Result<Done, StoreError>)>>,
    /// Of objects that wait or are on their way, by what they hold: others that hold the same. One key is written by one.
    same: BTreeMap<Held, Vec<Object>>,
    /// Bytes that were read to be sent, and those of them that have arrived.
    sent: Arc<AtomicU64>,
    arrived: u64,
}

impl Uploads {
    /// Of an attempt.
    pub fn new(bound: Bound, attempt: u64) -> Uploads {
        let (waiting, running) = (VecDeque::new(), FuturesUnordered::new());
        let (same, sent) = (BTreeMap::new(), Arc::default());
        Uploads { bound, attempt, waiting, running, same, sent, arrived: 0 }
    }

    /// Takes an object. One like it that is not in the store yet is not sent beside it: both become that one.
    pub fn push(&mut self, object: Object) {
        let held = held(&object);
        if let Some(others) = self.same.get_mut(&held) {
            others.push(object);
            return;
        }
        self.same.insert(held, Vec::new());
        self.waiting.push_back(Job::Content(object));
        self.begin();
    }

    /// Takes the manifest.
    pub fn push_manifest(&mut self, bytes: Vec<u8>) {
        self.waiting.push_back(Job::Manifest(bytes.into()));
        self.begin();
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Bytes on their way, about: those of a part that was lost count twice.
    pub fn on_their_way(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).saturating_sub(self.arrived)
    }

    /// The store's name.
    pub fn store(&self) -> &str {
        self.bound.kept.name()
    }

    /// Grows whenever the store is heard of.
    pub fn heard(&self) -> u64 {
        self.bound.kept.heard()
    }

    fn begin(&mut self) {
        while self.running.len() < AT_ONCE
            && let Some(job) = self.waiting.pop_front()
        {
            let Bound { kept, cluster, .. } = &self.bound;
            self.running.push(match job {
                Job::Content(object) => {
                    let held = held(&object);
                    let written = kept.upload(*cluster, self.attempt, object.counted(self.sent.clone()));
                    let done = |(object, stored): (Arc<Object>, Stored)| {
                        Done::Content(named(stored), linked(&object).collect())
                    };
                    written.map(move |written| (held, written.map(done))).boxed()
                }
                Job::Manifest(bytes) => {
                    let written = kept.upload_bytes(*cluster, self.attempt, bytes);
                    let done = |stored| Done::Manifest(named(stored));
                    written.map(move |written| (Vec::new(), written.map(done))).boxed()
                }
            });
        }
    }

    /// What is done next. Cancel-safe. Something must be on its way.
    ///
    /// # Errors
    /// Why an object is not in the store.
    pub async fn next(&mut self) -> Result<Done, StoreError> {
        let (held, done) = self.running.next().await.expect("asked only when something is on its way");
        let mut done = done?;
        let others = self.same.remove(&held).unwrap_or_default();
        if let Done::Content(object, files) = &mut done {
            self.arrived += object.bytes;
            files.extend(others.iter().flat_map(linked));
        }
        self.begin();
        Ok(done)
    }
}

fn named(Stored { digest, nonce, bytes }: Stored) -> StoredObject {
    StoredObject { digest, nonce, bytes }
}

fn held(object: &Object) -> Held {
    object.contents().iter().map(|(_, content)| content.digest).collect()
}

fn linked(object: &Object) -> impl Iterator<Item = LinkedFile> {
    object.contents().iter().flat_map(|(offset, content)| {
        let of = |file: &u32| LinkedFile {
            file: *file,
            offset: *offset,
            len: content.len,
            digest: content.digest,
        };
        content.files.iter().map(of)
    })
}
