//! One object store as this node keeps it.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::{Digest, Disk};
use nativelog::background::{self, BULK};
use nativelog::ledger::StoreInfo;
use remote::{Counts, Journal, Limits, Marker, ObjectPlan, Source, Store, StoreError, StoreRuntime};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::marked::agrees;
use super::object::Object;
use super::running::Running;

/// How long a store is waited for. An operation without any answer ends before a commit's own patience (30 s unless its
/// client says otherwise) does, so that the commit can tell the store's own words.
pub const LIMITS: Limits = Limits {
    quiet: Duration::from_secs(10),
    bytes_per_second_min: 256 << 10,
    unanswered: Duration::from_secs(25),
    busy: Duration::from_secs(600),
    retry_after_max: Duration::from_secs(60),
    requests: remote::limits::REQUESTS_MAX,
};

/// Objects that are planned at once, each on a thread of its own.
const PLANNED_AT_ONCE: usize = 8;

/// For so long a prefix is taken to be what it was seen to be.
const LOOKED_FOR: Duration = Duration::from_secs(60);

/// What a store was like when it was asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody has asked yet, or nobody is to.
    #[default]
    NotAsked,
    /// It did all that it will have to.
    Usable,
    /// It did not; in its words.
    Unusable(String),
}

/// Why what lies behind a store's name is not to be used.
#[derive(Debug)]
pub enum NotIt {
    /// It is not what the log knows; why.
    Another(String),
    /// It could not be looked at, or belongs to another cluster.
    Store(StoreError),
}

/// An object that is in the store, verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Of this uploader; part of its key.
    pub nonce: u64,
    /// Length, bytes.
    pub bytes: u64,
}

/// A store that is open.
#[derive(Debug)]
pub struct Kept {
    store: Store,
    runtime: Arc<StoreRuntime>,
    journal: Arc<Journal>,
    skip: AtomicBool,
    access: Mutex<Access>,
    /// Attempts whose files a commit of this process writes.
    staged: Arc<Mutex<BTreeSet<u64>>>,
    /// Bytes that were read to be planned and to be uploaded: before a store is asked, all that tells that something moves.
    read: Arc<AtomicU64>,
    /// Objects that are read and hashed to be planned: of all commits together.
    planning: Arc<Semaphore>,
    /// When its prefix was last seen to be the one that the log knows.
    looked: tokio::sync::Mutex<Option<Instant>>,
}

/// Stands for an attempt whose files one commit writes, and no other of this process.
#[derive(Debug)]
pub struct Claim {
    staged: Arc<Mutex<BTreeSet<u64>>>,
    attempt: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.attempt);
    }
}

pub(super) fn no_threads(error: &std::io::Error) -> StoreError {
    StoreError::disk("starting threads for object stores", error)
}

impl Kept {
    /// Keeps `store`, whose requests are made on `runtime`, with the journal of its uploads below `data_dir`, which is
    /// there and durable.
    ///
    /// # Errors
    /// `Disk`: the journal.
    pub fn new(
        store: Store,
        runtime: Arc<StoreRuntime>,
        disk: Arc<dyn Disk>,
        data_dir: &Path,
    ) -> Result<Kept, StoreError> {
        let dir = data_dir.join("uploads").join(store.name());
        let journal = Journal::open(disk, data_dir, &dir);
        let journal = journal.map_err(|error| {
            StoreError::disk(format!("store {:?}: opening the journal of its uploads", store.name()), &error)
        })?;
        Ok(Kept {
            store,
            runtime,
            journal: Arc::new(journal),
            skip: AtomicBool::new(false),
            access: Mutex::default(),
            staged: Arc::default(),
            read: Arc::default(),
            planning: Arc::new(Semaphore::new(PLANNED_AT_ONCE)),
            looked: tokio::sync::Mutex::default(),
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.store.name()
    }

    /// The store itself; its work belongs on its own threads ([`Kept::run`]).
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Requests and bytes so far. A folder counts none, but its answers.
    pub fn counts(&self) -> &Counts {
        self.store.counts()
    }

    /// Runs work of this store on its threads.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Running<T> {
        Running::new(self.runtime.spawn(work))
    }

    pub(super) fn set_skip(&self, skip: bool) {
        self.skip.store(skip, Ordering::Relaxed);
    }

    pub(super) fn skips(&self) -> bool {
        self.skip.load(Ordering::Relaxed)
    }

    /// What it was like lately.
    pub fn access(&self) -> Access {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what it was like just now.
    pub fn says(&self, access: Access) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// Grows whenever the store is heard of, or something is read for it.
    pub fn heard(&self) -> u64 {
        self.store.counts().answers() + self.read.load(Ordering::Relaxed)
    }

    /// The marker of its prefix, claimed for `cluster` when nobody has it. Only of a store that the log does not know: of
    /// one that it knows a missing marker says that something else lies there, and another would lose it for good.
    ///
    /// # Errors
    /// Those of [`Store::claim`].
    pub async fn claim(&self, cluster: Uuid) -> Result<Marker, StoreError> {
        let store = self.store.clone();
        let claimed = self.run(async move { store.claim(cluster).await }).await;
        // That it is usable takes more than a marker.
        if let Err(error) = &claimed {
            self.says(Access::Unusable(error.to_string()));
        }
        claimed
    }

    /// Looks whether the prefix is the one that the log knows, unless that was seen within the last minute: before anything is
    /// read there.
    ///
    /// # Errors
    /// It is not, or could not be looked at.
    pub async fn look(&self, cluster: Uuid, known: &StoreInfo) -> Result<(), NotIt> {
        // Whoever comes meanwhile waits for the same look.
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < LOOKED_FOR) {
            return Ok(());
        }
        *looked = None;
        let marker = self.seen(cluster).await?;
        agrees(&marker, known).map_err(NotIt::Another)?;
        *looked = Some(Instant::now());
        Ok(())
    }

    /// The marker of its prefix, which this cluster has claimed. Writes nothing.
    ///
    /// # Errors
    /// There is none, or another cluster's; or it could not be looked at.
    pub async fn seen(&self, cluster: Uuid) -> Result<Marker, NotIt> {
        self.marker(cluster).await?.ok_or_else(|| {
            NotIt::Another(format!(
                "the prefix of the store {} has no marker: it is another prefix, was emptied, or is not mounted here",
                self.name()
            ))
        })
    }

    async fn marker(&self, cluster: Uuid) -> Result<Option<Marker>, NotIt> {
        let store = self.store.clone();
        let marker = self.run(async move { store.marker().await }).await.map_err(NotIt::Store)?;
        match marker {
            Some(marker) if marker.cluster != cluster => Err(NotIt::Another(format!(
                "the prefix of the store {} belongs to cluster {}",
                self.name(),
                marker.cluster
            ))),
            marker => Ok(marker),
        }
    }

    /// Looks whether this cluster has its prefix, or may claim it. Writes nothing.
    ///
    /// # Errors
    /// It is another cluster's; or it could not be looked at.
    pub async fn unclaimed(&self, cluster: Uuid) -> Result<(), NotIt> {
        self.marker(cluster).await.map(drop)
    }

    /// The prefix is looked at anew, whatever was seen.
    pub async fn doubt(&self) {
        *self.looked.lock().await = None;
    }

    /// The right to write the files of an attempt; `None` while another commit of this process has it.
    pub fn claim_files(&self, attempt: u64) -> Option<Claim> {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.insert(attempt).then(|| Claim { staged: Arc::clone(&self.staged), attempt })
    }

    /// Writes an object of an attempt, and proves that it is there. May be repeated, over the death of this process too.
    pub fn upload(
        &self,
        cluster: Uuid,
        attempt: u64,
        object: Object,
    ) -> Running<Result<(Arc<Object>, Stored), StoreError>> {
        let (store, journal) = (self.store.clone(), Arc::clone(&self.journal));
        let planning = Arc::clone(&self.planning);
        let object = Arc::new(object.counted(Arc::clone(&self.read)).told(Arc::clone(&self.read)));
        self.run(async move {
            let planned = Arc::clone(&object);
            let plan = plan(&store, planning, move || planned.plan()).await?;
            let source: Arc<dyn Source> = object.clone();
            let stored = upload(&store, &journal, (cluster, attempt), &plan, source).await?;
            Ok((object, stored))
        })
    }

    /// The same of bytes that are at hand.
    pub fn upload_bytes(
        &self,
        cluster: Uuid,
        attempt: u64,
        bytes: Bytes,
    ) -> Running<Result<Stored, StoreError>> {
        let (store, journal) = (self.store.clone(), Arc::clone(&self.journal));
        let planning = Arc::clone(&self.planning);
        self.run(async move {
            let planned = bytes.clone();
            let plan = plan(&store, planning, move || ObjectPlan::of(&planned)).await?;
            upload(&store, &journal, (cluster, attempt), &plan, Arc::new(bytes)).await
        })
    }
}

async fn plan(
    store: &Store,
    planning: Arc<Semaphore>,
    plan: impl FnOnce() -> std::io::Result<ObjectPlan> + Send + 'static,
) -> Result<ObjectPlan, StoreError> {
    let turn = planning.acquire_owned().await;
    let planned = background::run("plan-object", BULK, move || {
        // The thread reads on when nobody waits for it any more.
        let _turn = turn;
        plan()
    });
    let planned = planned.await;
    let planned = planned.unwrap_or_else(|| Err(std::io::Error::other("reading it panicked")));
    planned.map_err(|error| {
        StoreError::disk(format!("store {:?}: reading what is to be uploaded", store.name()), &error)
    })
}

async fn upload(
    store: &Store,
    journal: &Arc<Journal>,
    (cluster, attempt): (Uuid, u64),
    plan: &ObjectPlan,
    source: Arc<dyn Source>,
) -> Result<Stored, StoreError> {
    let stored = store.upload(journal, cluster, attempt, plan, source).await?;
    Ok(Stored { digest: plan.digest(), nonce: stored.name.nonce, bytes: plan.len_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote::testing::{Faults, ScriptedS3, Traits, open};
    use std::sync::atomic::AtomicUsize;

    #[tokio::test(flavor = "multi_thread")]
    async fn only_so_many_objects_are_planned_at_once_also_when_nobody_waits() {
        let s3 = ScriptedS3::new(Traits::default());
        let store = open(&ScriptedS3::config("p"), LIMITS, &s3, &Faults::new()).unwrap();
        let (planning, running) = (Arc::new(Semaphore::new(2)), Arc::new(AtomicUsize::new(0)));
        let (most, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let (store, planning, running) = (store.clone(), planning.clone(), running.clone());
                let (most, go_on) = (most.clone(), go_on.clone());
                tokio::spawn(async move {
                    let planned = plan(&store, planning, move || {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        while !go_on.load(Ordering::SeqCst) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        running.fetch_sub(1, Ordering::SeqCst);
                        ObjectPlan::of(&Bytes::from_static(b"x"))
                    });
                    planned.await.unwrap()
                })
            })
            .collect();
        // Two wait no more; their threads read on, and nobody takes their turns.
        while running.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tasks[0].abort();
        tasks[1].abort();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(most.load(Ordering::SeqCst), 2);
        go_on.store(true, Ordering::SeqCst);
        for task in tasks {
            // Those that were ended say so.
            let _ = task.await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }
}
