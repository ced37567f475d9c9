//! Objects of one attempt on their way into its store, several at once. Bytes under way are bounded by the store, for all
//! attempts together; here wait only names. Dropped, all of it ends.

use std::collections::VecDeque;
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

/// See the module.
pub struct Uploads {
    bound: Bound,
    attempt: u64,
    waiting: VecDeque<Job>,
    running: FuturesUnordered<BoxFuture<'static, Result<Done, StoreError>>>,
    written: Vec<Digest>,
    /// Bytes that were read to be sent, and those of them that have arrived.
    sent: Arc<AtomicU64>,
    arrived: u64,
}

impl Uploads {
    /// Of an attempt.
    pub fn new(bound: Bound, attempt: u64) -> Uploads {
        let (waiting, running) = (VecDeque::new(), FuturesUnordered::new());
        let (written, sent) = (Vec::new(), Arc::default());
        Uploads { bound, attempt, waiting, running, written, sent, arrived: 0 }
    }

    /// Takes an object.
    pub fn push(&mut self, object: Object) {
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

    /// What was written, by digest.
    pub fn into_written(self) -> Vec<Digest> {
        self.written
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
                    let written = kept.upload(*cluster, self.attempt, object.counted(self.sent.clone()));
                    written.map(|written| written.map(|(object, stored)| linked(&object, stored))).boxed()
                }
                Job::Manifest(bytes) => {
                    let written = kept.upload_bytes(*cluster, self.attempt, bytes);
                    written.map(|written| written.map(|stored| Done::Manifest(named(stored)))).boxed()
                }
            });
        }
    }

    /// What is done next. Cancel-safe. Something must be on its way.
    ///
    /// # Errors
    /// Why an object is not in the store.
    pub async fn next(&mut self) -> Result<Done, StoreError> {
        let done = self.running.next().await.expect("asked only when something is on its way")?;
        let (Done::Content(object, _) | Done::Manifest(object)) = &done;
        self.written.push(object.digest);
        self.arrived += if matches!(done, Done::Content(..)) { object.bytes } else { 0 };
        self.begin();
        Ok(done)
    }
}

fn named(Stored { digest, nonce, bytes }: Stored) -> StoredObject {
    StoredObject { digest, nonce, bytes }
}

fn linked(object: &Object, stored: Stored) -> Done {
    let files = object.contents().iter().flat_map(|(offset, content)| {
        let of = |file: &u32| LinkedFile {
            file: *file,
            offset: *offset,
            len: content.len,
            digest: content.digest,
        };
        content.files.iter().map(of)
    });
    Done::Content(named(stored), files.collect())
}
