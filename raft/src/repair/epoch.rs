//! One sealed epoch that is missing or damaged here: what it lacks is brought, by whichever way, and put in place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::store::{Content, Store, StoreError, VerifyReport};
use checkpoint::{EntryKind, Envelope, JobName, Manifest, ManifestEntry};
use nativelog::ledger::EpochInfo;
use nativelog::machine::{Machine, Missing};
use nativelog::performer::Publication;

use crate::transfer::anywhere::{Found, Wanted};
use crate::transfer::gather::Gather;
use crate::transfer::source::agrees;
use crate::transfer::{TransferError, blocking, receive};

/// The ledger is asked about so many contents at a time.
const SLICE: usize = 1024;
/// How long the performer has to publish what has all come.
const PUBLISHED: Duration = Duration::from_secs(10);
/// Pause between two looks whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What the repair of an epoch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Contents that were refetched.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names in published trees that now lead to good content.
    pub names: u64,
}

/// Why an epoch could not be repaired. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The ledger here has no such epoch.
    #[error("{0}@{1} is not sealed")]
    NotSealed(JobName, u64),
    /// The content could not be brought.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The shelves refuse.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It still does not verify.
    #[error("it still does not verify: {0}")]
    StillDamaged(String),
}

/// Where epochs are mended.
#[derive(Clone)]
pub(crate) struct Site {
    pub node: u64,
    pub machine: Arc<Machine>,
}

impl Site {
    /// Publishes an epoch that is missing. False when it has expired since it was listed.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn bring(&self, gather: &Gather, missing: &Missing) -> Result<bool, RepairError> {
        match self.tree_of(missing).await? {
            Some((envelope, manifest)) => {
                receive::epoch(gather, &Arc::new(self.machine.clone()), envelope, manifest).await?;
            }
            None => match self.mend(gather, &missing.job, missing.epoch).await {
                // Also when it was good: nobody else would say that it is not missing.
                Ok(_) => self.machine.mended(&missing.job, missing.epoch, missing.attempt),
                Err(RepairError::NotSealed(..)) => return Ok(false),
                Err(error) => return Err(error),
            },
        }
        Ok(true)
    }

    /// As [`Site::bring`], of an epoch that lies in a store: what came through the log is here, if the log brought the epoch
    /// itself, and is not brought once more.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn hydrate(&self, gather: &Gather, missing: &Missing) -> Result<bool, RepairError> {
        let Some((_, manifest)) = self.tree_of(missing).await? else {
            return self.bring(gather, missing).await;
        };
        let (machine, store) = (self.machine.clone(), self.machine.store().clone());
        let lacking =
            blocking(move || store.lacking_of(stored_files(&machine, &manifest).into_iter())).await??;
        receive::bring(gather, lacking).await?;
        self.machine.publish_now(missing.attempt);
        if self.is_published_soon(gather, missing).await? {
            return Ok(true);
        }
        // Something that came through the log is not good here any more.
        self.bring(gather, missing).await
    }

    /// Without those of which it is still being read what is here: nothing is brought that may be here already. Whoever has
    /// read asks whether that is all.
    pub fn leave_verifying(&self, missing: &mut Vec<Missing>) {
        for verifying in missing.extract_if(.., |missing| missing.verifying) {
            self.machine.publish_now(verifying.attempt);
        }
    }

    async fn is_published_soon(&self, gather: &Gather, missing: &Missing) -> Result<bool, TransferError> {
        let until = Instant::now() + PUBLISHED;
        while Instant::now() < until {
            gather.check_stop()?;
            match self.machine.publication(&missing.job, missing.epoch) {
                // Or it has expired.
                Some(Publication::Published) | None => return Ok(true),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
        Ok(false)
    }

    /// Bytes of a sealed epoch that lie in a store and have no blob here. Blocks.
    pub fn to_hydrate_bytes(&self, job: &JobName, epoch: u64) -> u64 {
        let (store, mut bytes) = (self.machine.store(), 0);
        for from in (0..).step_by(SLICE) {
            let some = self.machine.ledger().hydration(job, epoch, from..from + SLICE);
            let Some(some) = some else { break };
            let lacking = some.iter().filter(|homes| store.blob_path(homes.digest).is_none());
            bytes += lacking.map(|homes| homes.bytes).sum::<u64>();
        }
        bytes
    }

    /// Makes a sealed epoch good here, whatever of it is missing or damaged.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn mend(
        &self,
        gather: &Gather,
        job: &JobName,
        epoch: u64,
    ) -> Result<RepairReport, RepairError> {
        let sealed = self.machine.ledger().epoch(job, epoch);
        let Some(info) = sealed else { return Err(RepairError::NotSealed(job.clone(), epoch)) };
        let store = self.machine.store().clone();
        let report = match verify_sealed(&store, info.clone()).await? {
            Ok(report) => report,
            Err(StoreError::NotPublished { .. } | StoreError::Manifest { .. }) => {
                let Some((envelope, manifest)) = self.manifest_of(gather, info).await? else {
                    return Err(RepairError::NotSealed(job.clone(), epoch));
                };
                return self.publish(gather, envelope, Arc::new(manifest)).await;
            }
            Err(error) => return Err(error.into()),
        };
        if report.is_good() {
            return Ok(RepairReport::default());
        }
        let contents = {
            let (store, job) = (store.clone(), job.clone());
            blocking(move || store.damaged_contents(&job, epoch, &report)).await??
        };
        let mut done = counted(&contents);
        // A good copy may lie on the shelves already: put back by hand.
        let (looking, wanted) = (store.clone(), contents.clone());
        let lacking = blocking(move || looking.lacking_of(wanted.into_iter())).await??;
        receive::bring(gather, lacking).await?;
        let healing = store.clone();
        done.names = blocking(move || healing.heal_all(&contents)).await??.names;
        proven(&store, job, epoch).await?;
        Ok(done)
    }

    /// Envelope and tree, where this node has them; else they come from elsewhere.
    async fn tree_of(&self, missing: &Missing) -> Result<Option<(Envelope, Arc<Manifest>)>, RepairError> {
        if !missing.has_tree {
            return Ok(None);
        }
        let (machine, attempt) = (self.machine.clone(), missing.attempt);
        let read = blocking(move || machine.tree_of(attempt)).await?;
        Ok(read.unwrap_or_else(|error| {
            tracing::warn!(node = self.node, job = %missing.job, epoch = missing.epoch, %error, "its tree cannot be read now");
            None
        }))
    }

    /// The manifest of an epoch, from elsewhere; `None` when a later record has ended it.
    async fn manifest_of(
        &self,
        gather: &Gather,
        info: EpochInfo,
    ) -> Result<Option<(Envelope, Manifest)>, RepairError> {
        let at = self.machine.ledger().applied().map_or(0, |id| id.index);
        match gather.tree(&Wanted { info, at }).await? {
            Found::Ended => Ok(None),
            Found::Here(found) => Ok(Some(found)),
        }
    }

    /// Publishes an epoch that is no directory here.
    async fn publish(
        &self,
        gather: &Gather,
        envelope: Envelope,
        manifest: Arc<Manifest>,
    ) -> Result<RepairReport, RepairError> {
        let (job, epoch) = (envelope.job.clone(), envelope.epoch);
        let (store, looking) = (self.machine.store().clone(), manifest.clone());
        let looked = store.clone();
        let mut done = counted(&blocking(move || looked.lacking(&looking)).await??);
        receive::epoch(gather, &Arc::new(self.machine.clone()), envelope, manifest.clone()).await?;
        proven(&store, &job, epoch).await?;
        done.names = manifest.files();
        Ok(done)
    }

    /// What was brought for an epoch that expired meanwhile is nobody's: no record will release it. What a transfer has
    /// begun goes too, and is begun anew.
    pub async fn leave_nothing_of_expired(&self, job: &JobName, epoch: u64) -> Result<(), RepairError> {
        if self.machine.ledger().epoch(job, epoch).is_some() {
            return Ok(());
        }
        let (machine, store) = (self.machine.clone(), self.machine.store().clone());
        blocking(move || machine.owe_surplus().and_then(|()| store.clear_incoming())).await??;
        Ok(())
    }
}

/// The files of a tree that lie in stores.
fn stored_files(machine: &Machine, manifest: &Manifest) -> Vec<Content> {
    let files = |entry: &&ManifestEntry| entry.kind == EntryKind::File && entry.size > 0;
    let mut stored = Vec::new();
    for slice in manifest.entries.chunks(SLICE) {
        let ledger = machine.ledger();
        let in_store = slice.iter().filter(files).filter(|entry| ledger.is_in_store(&entry.digest));
        stored.extend(in_store.map(|file| Content { digest: file.digest, mode: file.mode, size: file.size }));
    }
    stored
}

fn counted(contents: &[Content]) -> RepairReport {
    RepairReport {
        files: contents.len() as u64,
        bytes: contents.iter().map(|content| content.size).sum(),
        names: 0,
    }
}

async fn verify(
    store: &Arc<Store>,
    job: &JobName,
    epoch: u64,
) -> Result<Result<VerifyReport, StoreError>, TransferError> {
    let (store, job) = (store.clone(), job.clone());
    blocking(move || store.verify(&job, epoch)).await
}

/// As [`verify`], of a directory that is not another epoch's: such a one counts as none.
async fn verify_sealed(
    store: &Arc<Store>,
    info: EpochInfo,
) -> Result<Result<VerifyReport, StoreError>, TransferError> {
    let store = store.clone();
    let verify = move || {
        let (job, epoch) = (&info.sealed.job, info.sealed.epoch);
        match store.envelope(job, epoch)? {
            Some(there) if agrees(&there, &info) => store.verify(job, epoch),
            _ => Err(StoreError::NotPublished { job: job.to_string(), epoch }),
        }
    };
    blocking(verify).await
}

async fn proven(store: &Arc<Store>, job: &JobName, epoch: u64) -> Result<(), RepairError> {
    let report = verify(store, job, epoch).await??;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(RepairError::StillDamaged(format!("{}: {}", problem.path, problem.why))),
    }
}
