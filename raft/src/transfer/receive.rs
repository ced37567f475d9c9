//! From a ledger to a disk that shows it: what the ledger refers to and this disk lacks is fetched, checked and
//! put in place.
//!
//! Epochs come one after the other, oldest first, so that content that several of them share comes once. An
//! epoch is published as soon as its content is here: a transfer that breaks off leaves whole epochs. Then the
//! covered ranges and packed files of open attempts. An attempt that a later record ended without an epoch (a peer
//! that has applied more says so) is left out: the log behind the snapshot says the same. Of an epoch that a later
//! record expired only the directory is left out: attempts that began behind the snapshot may reuse its content.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::limits::CHUNK_BYTES_MAX;
use checkpoint::store::{Content, StoreError, Unpacked};
use checkpoint::{Envelope, JobName, Manifest, Store, digest};
use futures::{FutureExt, StreamExt};
use nativelog::ledger::{EpochInfo, Ledger};
use nativelog::machine::{AttemptLacks, Machine};
use nativelog::store::Placed;

use super::anywhere::{Found, Wanted, grouped};
use super::gather::Gather;
use super::lost::Lost;
use super::source::Range;
use super::{TransferError, blocking};
use crate::config::PART_BYTES;

/// Manifests that are fetched ahead.
const MANIFESTS_AHEAD: usize = 3;
/// Content whose name on the shelves is not known gets this one.
const ANY_MODE: u32 = 0o644;
/// Zeros that are placed at once come from here.
static ZEROS: [u8; PART_BYTES] = [0; PART_BYTES];

/// A disk that content is put on.
pub trait Home: Send + Sync + 'static {
    /// Publishes an epoch whose content is on the shelves.
    fn adopt(&self, envelope: Envelope, manifest: Arc<Manifest>) -> Result<(), String>;
    /// The directory of an epoch was there, and was mended.
    fn mended(&self, job: &JobName, epoch: u64);
    /// What open attempts lack. From now on what is in their trees stays.
    fn lacking(&self, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>>;
    /// Writes packed files of an open attempt into its tree; they are still to be synced.
    fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError>;
    /// Writes ranges of open attempts and syncs them.
    fn place(&self, ranges: Vec<Placed>) -> io::Result<()>;
}

impl Home for Arc<Machine> {
    fn adopt(&self, envelope: Envelope, manifest: Arc<Manifest>) -> Result<(), String> {
        Machine::adopt(self, envelope.attempt, envelope, manifest).map_err(|why| why.to_string())
    }

    fn mended(&self, job: &JobName, epoch: u64) {
        Machine::mended(self, job, epoch);
    }

    fn lacking(&self, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>> {
        self.lacking_of_attempts(ledger)
    }

    fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
        Machine::unpack(self, attempt, files)
    }

    fn place(&self, ranges: Vec<Placed>) -> io::Result<()> {
        let (done, placed) = std::sync::mpsc::channel();
        self.log().place(ranges, Box::new(move |result| drop(done.send(result))));
        placed.recv().map_err(|_| io::Error::other("the log writer has stopped"))?
    }
}

fn here(error: impl std::fmt::Display) -> TransferError {
    TransferError::Here(error.to_string())
}

/// A sealed epoch that is owed: nobody who lives has all of it.
#[derive(Debug, Clone)]
pub struct OwedEpoch {
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// What is lacking, and what the peers said.
    pub why: String,
}

/// What a disk lacks although everything was brought that could be.
#[derive(Debug, Clone, Default)]
pub struct Owed {
    /// Sealed epochs.
    pub epochs: Vec<OwedEpoch>,
    /// Sealed content that open attempts lean on, of epochs or of nobody else any more.
    pub leaning: Vec<Lost>,
}

/// Makes the disk of `home` hold everything that `ledger` refers to, but for sealed content that is nowhere to be had:
/// what lacks it is the answer.
///
/// # Errors
/// [`TransferError`]; what came is kept.
pub async fn complete<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    ledger: &Arc<Ledger>,
) -> Result<Owed, TransferError> {
    let at = ledger.applied().map_or(0, |id| id.index);
    let (store, wanted) = (gather.store().clone(), ledger.clone());
    let epochs = blocking(move || unpublished(&store, &wanted)).await??;
    gather.progress().epochs(epochs.len());
    let mut left = epochs.len();
    let mut owed = Vec::new();
    let mut manifests = futures::stream::iter(epochs)
        .map(|info| manifest_of(gather.clone(), info, at).boxed())
        .buffered(MANIFESTS_AHEAD);
    while let Some(next) = manifests.next().await {
        let (info, found) = next;
        let came = match found {
            Ok(Found::Here((envelope, manifest))) => match agrees(&envelope, &info) {
                Ok(()) => epoch(gather, home, envelope, Arc::new(manifest)).await,
                Err(error) => Err(error),
            },
            Ok(Found::Ended) => content_of(gather, ledger, &info).await,
            Err(error) => Err(error),
        };
        if let Err(error) = came {
            owed.push(owing(&info, error)?);
        }
        left -= 1;
        gather.progress().epochs(left);
    }
    let leaning = attempts(gather, home, ledger, at).await?;
    Ok(Owed { epochs: owed, leaning })
}

/// What is nowhere to be had is owed; everything else ends the transfer.
fn owing(info: &EpochInfo, error: TransferError) -> Result<OwedEpoch, TransferError> {
    let TransferError::Nowhere { .. } = &error else { return Err(error) };
    let (job, epoch, why) = (info.sealed.job.clone(), info.sealed.epoch, error.to_string());
    tracing::error!(%job, epoch, why, "no live node can serve all of this epoch: it is owed, and asked for again");
    Ok(OwedEpoch { job, epoch, why })
}

/// Brings what an epoch holds that has expired since. The file's mode is not known without its manifest: any serves.
async fn content_of(gather: &Gather, ledger: &Ledger, info: &EpochInfo) -> Result<(), TransferError> {
    let contents = ledger.content_of(&info.sealed.job, info.sealed.epoch).into_iter();
    let contents: Vec<Content> =
        contents.map(|(digest, size)| Content { digest, mode: ANY_MODE, size }).collect();
    let store = gather.store().clone();
    let lacking = blocking(move || store.lacking_of(contents.into_iter())).await?.map_err(here)?;
    gather.progress().lacks(lacking.iter().map(|content| content.size).sum());
    gather.bring(lacking).await
}

async fn manifest_of(
    gather: Gather,
    info: EpochInfo,
    at: u64,
) -> (EpochInfo, Result<Found<(Envelope, Manifest)>, TransferError>) {
    let (job, epoch, root) = (info.sealed.job.clone(), info.sealed.epoch, info.sealed.root);
    let found = gather.manifest(&Wanted { job, epoch, root, at }).await;
    (info, found)
}

/// Sealed epochs that are no directory here with their root, oldest first.
fn unpublished(store: &Store, ledger: &Ledger) -> Result<Vec<EpochInfo>, TransferError> {
    let mut epochs = Vec::new();
    for job in ledger.jobs() {
        for info in ledger.epochs(job) {
            let there = store.published(job, info.sealed.epoch).unwrap_or_else(|error| {
                tracing::warn!(%job, epoch = info.sealed.epoch, %error, "a manifest here cannot be read; it comes anew");
                None
            });
            if there != Some(info.sealed.root) {
                epochs.push(info);
            }
        }
    }
    epochs.sort_by_key(|info| info.sealed.position.index);
    Ok(epochs)
}

/// The root covers the tree only: what else a manifest file says must be what the ledger says.
///
/// # Errors
/// [`TransferError::Nowhere`]: this one is of no use, and whoever sent it has no better.
pub fn agrees(envelope: &Envelope, info: &EpochInfo) -> Result<(), TransferError> {
    let sealed = &info.sealed;
    let at = (envelope.position.term, envelope.position.node, envelope.position.index);
    let same = envelope.job == sealed.job
        && envelope.epoch == sealed.epoch
        && envelope.attempt == sealed.attempt
        && at == (sealed.position.term, sealed.position.node, sealed.position.index)
        && envelope.labels == info.labels
        && envelope.depends_on == info.depends_on
        && envelope.base == info.base
        && envelope.sealed_log_ms == info.sealed_log_ms;
    if same {
        return Ok(());
    }
    let what = format!("the manifest of {}@{}", sealed.job, sealed.epoch);
    let why = "the one that came says something else than the ledger".into();
    Err(TransferError::Nowhere { what, why, lost: Vec::new() })
}

/// Brings the content of one epoch and publishes it.
///
/// # Errors
/// [`TransferError`].
pub async fn epoch<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    envelope: Envelope,
    manifest: Arc<Manifest>,
) -> Result<(), TransferError> {
    gather.check()?;
    if mend_directory(gather, &envelope, &manifest).await? {
        home.mended(&envelope.job, envelope.epoch);
        return Ok(());
    }
    let (store, tree) = (gather.store().clone(), manifest.clone());
    let lacking = blocking(move || store.lacking(&tree)).await?.map_err(here)?;
    gather.progress().lacks(lacking.iter().map(|content: &Content| content.size).sum());
    gather.bring(lacking).await?;
    let home = home.clone();
    blocking(move || home.adopt(envelope, manifest)).await?.map_err(TransferError::Here)
}

/// A directory that is there, although its manifest was missing or could not be read, gets it back, and good content
/// where its own does not verify. False when there is no directory.
async fn mend_directory(
    gather: &Gather,
    envelope: &Envelope,
    manifest: &Arc<Manifest>,
) -> Result<bool, TransferError> {
    let (job, epoch) = (envelope.job.clone(), envelope.epoch);
    let (store, envelope, manifest) = (gather.store().clone(), envelope.clone(), manifest.clone());
    let damaged = blocking(move || {
        match store.mend_manifest(&envelope, &manifest) {
            Err(StoreError::NotPublished { .. }) => return Ok(None),
            other => other?,
        }
        let report = store.verify(&envelope.job, envelope.epoch)?;
        let good = report.is_good();
        let damaged = if good {
            Ok(Vec::new())
        } else {
            store.damaged_contents(&envelope.job, envelope.epoch, &report)
        };
        damaged.map(Some)
    });
    let Some(contents) = damaged.await?.map_err(here)? else { return Ok(false) };
    tracing::warn!(%job, epoch, "the directory was there without its manifest, which a peer had");
    gather.progress().lacks(contents.iter().map(|content: &Content| content.size).sum());
    gather.bring(contents.clone()).await?;
    let (store, of) = (gather.store().clone(), job.clone());
    let left = blocking(move || {
        store.heal_all(&contents)?;
        store.verify(&of, epoch).map(|report| report.problems.into_iter().next())
    });
    match left.await?.map_err(here)? {
        None => Ok(true),
        Some(problem) => {
            Err(here(format!("{job}@{epoch} still does not verify: {}: {}", problem.path, problem.why)))
        }
    }
}

/// Brings what open attempts lack, but for sealed content that they lean on and nobody has: that is the answer.
async fn attempts<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    ledger: &Arc<Ledger>,
    at: u64,
) -> Result<Vec<Lost>, TransferError> {
    let (looking, wanted) = (home.clone(), ledger.clone());
    let lacking = blocking(move || looking.lacking(&wanted)).await?.map_err(here)?;
    let mut unpacked = false;
    let mut lost = Vec::new();
    let mut leaning = BTreeMap::new();
    for lacks in lacking {
        let ranges: u64 = lacks.ranges.iter().map(|(_, _, len, _)| len).sum();
        let packed: u64 = lacks.packed.iter().map(|file| file.size).sum();
        let reused: u64 = lacks.reused.iter().map(|content| content.size).sum();
        gather.progress().lacks(ranges + packed + reused);
        match gather.bring(lacks.reused.clone()).await {
            Ok(()) => {}
            Err(TransferError::Nowhere { lost, .. }) => {
                leaning.extend(lost.into_iter().map(|lost| (lost.digest, lost)));
            }
            Err(error) => return Err(error),
        }
        unpacked |= !lacks.packed.is_empty();
        let came = match place(gather, home, ledger, at, &lacks).await {
            Ok(()) => unpack(gather, home, at, &lacks).await,
            Err(error) => Err(error),
        };
        match came {
            Ok(()) => {}
            Err(error @ TransferError::Nowhere { .. }) => lost.push((lacks.attempt, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    if !lost.is_empty() {
        return Err(TransferError::Staged(lost));
    }
    if unpacked {
        let store = gather.store().clone();
        let synced = blocking(move || store.disk().sync_fs(&store.layout().staging_dir())).await?;
        synced.map_err(here)?;
    }
    Ok(leaning.into_values().collect())
}

async fn place<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    ledger: &Ledger,
    at: u64,
    lacks: &AttemptLacks,
) -> Result<(), TransferError> {
    let attempt = lacks.attempt;
    let plan = ledger.plan(attempt).unwrap_or_default();
    let ranges: Vec<Range> = lacks
        .ranges
        .iter()
        .map(|(file, offset, len, digest)| {
            let file_bytes = plan.get(*file as usize).map_or(0, |entry| entry.size);
            Range { file: *file, file_bytes, offset: *offset, len: *len, digest: *digest }
        })
        .collect();
    // No piece of a file is longer, unless it is zeros.
    let is_zeros = |range: &Range| {
        range.len > u64::from(CHUNK_BYTES_MAX)
            && digest::zeros(range.file_bytes, range.offset, range.len) == range.digest
    };
    let (zeros, bytes): (Vec<Range>, Vec<Range>) = ranges.into_iter().partition(is_zeros);
    for range in zeros {
        gather.progress().fetched(range.len);
        write(home, cut(attempt, &range, None)).await?;
    }
    for group in grouped(&bytes, |range| range.len) {
        gather.check()?;
        let Found::Here(came) = gather.ranges(attempt, at, &group).await? else { return Ok(()) };
        let placed = group.iter().zip(came).flat_map(|(range, data)| cut(attempt, range, Some(data)));
        write(home, placed.collect()).await?;
    }
    Ok(())
}

/// A range as runs of at most a part; of zeros without data.
fn cut(attempt: u64, range: &Range, data: Option<Bytes>) -> Vec<Placed> {
    let Range { file, offset, len, .. } = *range;
    let run = |from: u64| {
        let to = len.min(from + PART_BYTES as u64);
        let data = match &data {
            Some(data) => data.slice(from as usize..to as usize),
            None => Bytes::from_static(&ZEROS[..(to - from) as usize]),
        };
        Placed { attempt, file, offset: offset + from, data }
    };
    (0..len).step_by(PART_BYTES).map(run).collect()
}

async fn write<H: Home>(home: &Arc<H>, ranges: Vec<Placed>) -> Result<(), TransferError> {
    let home = home.clone();
    blocking(move || home.place(ranges)).await?.map_err(here)
}

/// What is unpacked is still to be synced.
async fn unpack<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    at: u64,
    lacks: &AttemptLacks,
) -> Result<(), TransferError> {
    let attempt = lacks.attempt;
    for group in grouped(&lacks.packed, |file| file.size) {
        gather.check()?;
        let Found::Here(came) = gather.packed(attempt, at, &group).await? else { return Ok(()) };
        let home = home.clone();
        let written = blocking(move || {
            let files: Vec<Unpacked<'_>> = group
                .iter()
                .zip(&came)
                .map(|(file, data)| Unpacked { path: &file.path, mode: file.mode, data })
                .collect();
            home.unpack(attempt, &files)
        });
        written.await?.map_err(here)?;
    }
    Ok(())
}
