//! From a ledger to a disk that shows it: what the ledger refers to and this disk lacks is fetched, checked and
//! put in place.
//!
//! Epochs come one after the other, oldest first, so that content that several of them share comes once. An
//! epoch is published as soon as its content is here: a transfer that breaks off leaves whole epochs. Then the
//! pages, covered ranges and packed files of open attempts. An attempt that a later record ended without an epoch (a peer
//! that has applied more says so) is left out: the log behind the snapshot says the same. Of an epoch that a later
//! record expired only the directory is left out: attempts that began behind the snapshot may reuse its content. A
//! directory that was sealed later under its number says so as well: its job was removed since, and made anew. One that
//! was sealed earlier is of an earlier life of the job, and goes when this one is published.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use checkpoint::limits::CHUNK_BYTES_MAX;
use checkpoint::store::{Content, StoreError, Unpacked, Unpublished};
use checkpoint::{Envelope, JobName, Manifest, Store, digest};
use futures::{FutureExt, StreamExt};
use nativelog::ledger::{EpochInfo, Ledger};
use nativelog::machine::{AttemptLacks, Machine, lacking_pages, write_page};
use nativelog::store::{Brought, Placed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::anywhere::{Found, Wanted, grouped};
use super::error::{TransferError, blocking};
use super::gather::Gather;
use super::lost::Lost;
use super::owed::{Owed, does_not_fit, owing, to_hydrate};
use super::source::{Range, agrees};

/// Manifests that are fetched ahead.
const MANIFESTS_AHEAD: usize = 3;
/// Files of manifests that are in memory at once, at 140 bytes each and more; one larger manifest goes alone.
const FILES_AT_ONCE: u32 = 128 << 10;
/// Content whose name on the shelves is not known gets this one.
const ANY_MODE: u32 = 0o644;

/// A disk that content is put on.
pub trait Home: Send + Sync + 'static {
    /// Publishes an epoch whose content is on the shelves.
    fn adopt(&self, envelope: Envelope, manifest: Arc<Manifest>) -> Result<(), Unpublished>;
    /// The directory of the epoch that was this attempt was there, and was mended.
    fn mended(&self, job: &JobName, epoch: u64, attempt: u64);
    /// What open attempts lack. From now on what is in their trees stays.
    fn lacking(&self, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>>;
    /// Writes packed files of an open attempt into its tree; they are still to be synced.
    fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError>;
    /// Writes ranges of open attempts and syncs them.
    fn place(&self, ranges: Vec<Placed>) -> io::Result<()>;
}

impl Home for Arc<Machine> {
    fn adopt(&self, envelope: Envelope, manifest: Arc<Manifest>) -> Result<(), Unpublished> {
        Machine::adopt(self, envelope.attempt, envelope, manifest)
    }

    fn mended(&self, job: &JobName, epoch: u64, attempt: u64) {
        Machine::mended(self, job, epoch, attempt);
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

fn here(error: impl std::error::Error + 'static) -> TransferError {
    TransferError::of_disk(&error)
}

/// Where there is no room, nothing else finds any. What is in the way of one epoch is in the way of no other.
fn unfit((job, epoch): &(JobName, u64), why: &(impl std::error::Error + 'static)) -> TransferError {
    match TransferError::of_disk(why) {
        TransferError::Here(why) => TransferError::Unfit { what: format!("{job}@{epoch}"), why },
        full => full,
    }
}

/// Makes the disk of `home` hold everything that `ledger` refers to, but for sealed content that is nowhere to be had or
/// does not fit, or lies in a store only: what lacks it is the answer.
///
/// One epoch that does not fit keeps no other out, and a disk on which nothing fits still takes the ledger: else the
/// record that makes room could never reach it. What is owed so is no copy less than there was. It was sealed, so a
/// majority of the disks has it, whatever this one lacks; and what is sealed over it later by an attempt that reuses it
/// leans on those same disks. Bytes of open attempts are not sealed, and count on this node from the moment that it
/// acknowledges anything above them: they have to fit, in the room that is kept for what is on its way, or nothing is
/// taken over.
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
    let (mut owed, mut full) = (Vec::new(), None);
    // They wait in the order in which they are taken below, so that the one that is waited for is never behind one that
    // has come already.
    let room = Arc::new(Semaphore::new(FILES_AT_ONCE as usize));
    let mut manifests = futures::stream::iter(epochs)
        .map(|unpublished| manifest_of(gather.clone(), unpublished, at, room.clone()).boxed())
        .buffered(MANIFESTS_AHEAD);
    while let Some((NotHere { info, ended }, found, _room)) = manifests.next().await {
        let came = match found {
            Ok(Found::Here((envelope, manifest))) => epoch(gather, home, envelope, Arc::new(manifest)).await,
            Ok(Found::Ended) => content_of(gather, ledger, &info).await,
            Err(error) => Err(error),
        };
        let stored = ledger.store_of(&info.sealed.job, info.sealed.epoch).filter(|_| !ended);
        if let (Ok(()), Some(store)) = (&came, stored) {
            owed.push(to_hydrate(&info, &store.name));
        }
        if let Err(error) = came {
            if let TransferError::Full(why) = &error {
                full.get_or_insert_with(|| why.clone());
            }
            owed.push(owing(&info, error)?);
        }
        left -= 1;
        gather.progress().epochs(left);
    }
    let leaning = attempts(gather, home, ledger, at, &mut full).await?;
    Ok(Owed { epochs: owed, leaning, full })
}

/// Brings what an epoch holds that has expired since, or that lies in a store but for this: what came through the log is on
/// a majority, and this node is to be of it. The file's mode is not known without its manifest: any serves.
async fn content_of(gather: &Gather, ledger: &Ledger, info: &EpochInfo) -> Result<(), TransferError> {
    let contents = ledger.content_of(&info.sealed.job, info.sealed.epoch).into_iter();
    let contents = contents.filter(|(digest, _)| ledger.only_in_store(digest).is_none());
    let contents: Vec<Content> =
        contents.map(|(digest, size)| Content { digest, mode: ANY_MODE, size }).collect();
    let store = gather.store().clone();
    let lacking = blocking(move || store.lacking_of(contents.into_iter())).await?.map_err(here)?;
    bring(gather, lacking).await
}

/// Brings contents, if all of them fit by what they hold.
///
/// # Errors
/// [`TransferError`]; what came is kept.
pub async fn bring(gather: &Gather, contents: Vec<Content>) -> Result<(), TransferError> {
    if contents.is_empty() {
        return gather.check_stop();
    }
    let takes = gather.fits_as_stored(&contents).await?;
    gather.progress().lacks_as_stored(takes.stored, takes.holes);
    gather.bring(contents).await
}

async fn manifest_of(
    gather: Gather,
    not_here: NotHere,
    at: u64,
    room: Arc<Semaphore>,
) -> (NotHere, Result<Found<(Envelope, Manifest)>, TransferError>, Option<OwnedSemaphorePermit>) {
    // There may be very many manifests.
    if let Err(error) = gather.check() {
        return (not_here, Err(error), None);
    }
    // Of what lies in a store no directory is made here.
    if not_here.ended || not_here.info.store.is_some() {
        return (not_here, Ok(Found::Ended), None);
    }
    let info = &not_here.info;
    let files = u32::try_from(info.sealed.files).unwrap_or(u32::MAX).clamp(1, FILES_AT_ONCE);
    let room = room.acquire_many_owned(files).await.expect("nobody closes it");
    let found = gather.manifest(&Wanted { info: info.clone(), at }).await;
    (not_here, found, Some(room))
}

/// A sealed epoch that is no directory here.
struct NotHere {
    info: EpochInfo,
    /// The directory here was sealed later: a record above the ledger has ended this epoch.
    ended: bool,
}

/// Sealed epochs that are no directory here as they were sealed, oldest first.
fn unpublished(store: &Store, ledger: &Ledger) -> Result<Vec<NotHere>, TransferError> {
    let mut epochs = Vec::new();
    for job in ledger.jobs() {
        for info in ledger.epochs(job) {
            let there = store.envelope(job, info.sealed.epoch).unwrap_or_else(|error| {
                tracing::warn!(%job, epoch = info.sealed.epoch, %error, "a manifest here cannot be read; it comes anew");
                None
            });
            if !there.as_ref().is_some_and(|there| agrees(there, &info)) {
                let ended = there.is_some_and(|there| there.position.index > info.sealed.position.index);
                epochs.push(NotHere { info, ended });
            }
        }
    }
    epochs.sort_by_key(|epoch| epoch.info.sealed.position.index);
    Ok(epochs)
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
        home.mended(&envelope.job, envelope.epoch, envelope.attempt);
        return Ok(());
    }
    let (store, tree) = (gather.store().clone(), manifest.clone());
    let lacking = blocking(move || store.lacking(&tree)).await?.map_err(here)?;
    bring(gather, lacking).await?;
    let (home, of) = (home.clone(), (envelope.job.clone(), envelope.epoch));
    blocking(move || home.adopt(envelope, manifest)).await?.map_err(|why| unfit(&of, &why))
}

/// A directory that is there, although its manifest could not be read, gets good content where its own does not verify, and
/// its manifest last: with that it passes for good, wherever this may break off. One without a manifest may be somebody's:
/// it gets the manifest, if it verifies as it is. False when there is no directory, or what makes way for the epoch as a
/// whole: that of an epoch that was sealed before, or one that does not say which it is (it may be of an earlier life of
/// its job, with names that this epoch has not) and is not made good.
async fn mend_directory(
    gather: &Gather,
    envelope: &Envelope,
    manifest: &Arc<Manifest>,
) -> Result<bool, TransferError> {
    let of = (envelope.job.clone(), envelope.epoch);
    let (job, epoch) = &of;
    let (store, told, tree) = (gather.store().clone(), envelope.clone(), manifest.clone());
    let damaged = blocking(move || {
        let looked = || {
            store.may_mend(&told, &tree)?;
            let report = store.verify_by(&told, &tree)?;
            if report.is_good() { Ok(Vec::new()) } else { store.damaged_by(&told, &tree, &report) }
        };
        match looked() {
            Err(StoreError::NotPublished { .. }) => Ok(None),
            found => found.map(Some),
        }
    });
    let Some(contents) = damaged.await?.map_err(|why| unfit(&of, &why))? else { return Ok(false) };
    tracing::warn!(%job, epoch, "the directory was there without its manifest, which a peer had");
    bring(gather, contents.clone()).await?;
    let (store, told, tree) = (gather.store().clone(), envelope.clone(), manifest.clone());
    let left = blocking(move || {
        // Nothing is healed in a folder without a manifest: it is good as it is.
        if !contents.is_empty() {
            store.heal_by(&contents, &told, &tree)?;
        }
        let Some(problem) = store.verify_by(&told, &tree)?.problems.into_iter().next() else {
            store.mend_manifest(&told, &tree)?;
            return Ok(None);
        };
        // It does not say which epoch it is.
        let makes_way =
            matches!(store.envelope(&told.job, told.epoch), Ok(None) | Err(StoreError::Manifest { .. }));
        Ok::<_, StoreError>(Some((problem, makes_way)))
    });
    match left.await?.map_err(|why| unfit(&of, &why))? {
        None => Ok(true),
        Some((problem, true)) => {
            tracing::warn!(%job, epoch, path = problem.path, why = problem.why, "it still does not verify, and does not say which epoch it is");
            Ok(false)
        }
        Some((problem, false)) => Err(TransferError::Unfit {
            what: format!("{job}@{epoch}"),
            why: format!("it still does not verify: {}: {}", problem.path, problem.why),
        }),
    }
}

/// Brings what open attempts lack, but for sealed content that they lean on and nobody has, or that does not fit: that is
/// the answer, and why it does not fit.
async fn attempts<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    ledger: &Arc<Ledger>,
    at: u64,
    full: &mut Option<String>,
) -> Result<Vec<Lost>, TransferError> {
    let mut lost = pages(gather, ledger).await?;
    let unreadable: Vec<u64> = lost.iter().map(|(attempt, _)| *attempt).collect();
    let (looking, wanted) = (home.clone(), ledger.clone());
    let lacking = blocking(move || looking.lacking(&wanted)).await?.map_err(here)?;
    let must: u64 = lacking.iter().map(must_have_bytes).sum();
    gather.fits_what_is_kept(must).map_err(|error| match error {
        TransferError::Full(why) => TransferError::Full(format!(
            "open attempts have {must} bytes that must not be owed here, more than is left of the room that is kept \
             for them: make room on this node; or, where a majority is alive without it, end one with `epochlog abort` \
             or remove epochs; where none is, bring back a node that is down; {why}"
        )),
        other => other,
    })?;
    let mut unpacked = false;
    let mut leaning = BTreeMap::new();
    for lacks in lacking {
        if unreadable.contains(&lacks.attempt) {
            continue;
        }
        gather.progress().lacks(must_have_bytes(&lacks));
        match bring(gather, lacks.reused.clone()).await {
            Ok(()) => {}
            // Sealed as well, and asked for again like what is nowhere to be had; but nobody has looked in vain.
            Err(TransferError::Full(why)) => {
                full.get_or_insert(why);
                leaning.extend(lacks.reused.iter().map(|content| (content.digest, does_not_fit(content))));
            }
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

/// Bytes of an open attempt that may not be owed. Its runs of zeros are not among them, unless something else lies in their
/// place: a file that ends before, or is not there, has them.
fn must_have_bytes(lacks: &AttemptLacks) -> u64 {
    let ranges = lacks.ranges.iter().map(|(_, _, len, _)| len).sum::<u64>();
    ranges + lacks.packed.iter().map(|file| file.size).sum::<u64>()
}

/// Brings pages of plans: what is in the trees of open attempts is known by them. Answers with the attempts of which
/// nobody has a page. What came is still to be synced.
async fn pages(gather: &Gather, ledger: &Arc<Ledger>) -> Result<Vec<(u64, String)>, TransferError> {
    let (store, wanted) = (gather.store().clone(), ledger.clone());
    let lacking = blocking(move || lacking_pages(&store, &wanted)).await?;
    let bytes: u64 = lacking.iter().map(|page| u64::from(page.bytes)).sum();
    gather.fits_what_is_kept(bytes)?;
    gather.progress().lacks(bytes);
    let mut lost: Vec<(u64, String)> = Vec::new();
    for of_attempt in lacking.chunk_by(|one, next| one.attempt == next.attempt) {
        for group in grouped(of_attempt, |page| u64::from(page.bytes)) {
            gather.check_stop()?;
            let came = match gather.pages(&group).await {
                Ok(came) => came,
                Err(error @ TransferError::Nowhere { .. }) => {
                    lost.push((group[0].attempt, error.to_string()));
                    break;
                }
                Err(error) => return Err(error),
            };
            let bytes = group.iter().map(|page| u64::from(page.bytes)).sum::<u64>();
            let store = gather.store().clone();
            let written = blocking(move || {
                group.iter().zip(&came).try_for_each(|(page, bytes)| write_page(&store, page, bytes))
            });
            gather.takes(bytes);
            written.await?.map_err(here)?;
        }
    }
    Ok(lost)
}

async fn place<H: Home>(
    gather: &Gather,
    home: &Arc<H>,
    ledger: &Ledger,
    at: u64,
    lacks: &AttemptLacks,
) -> Result<(), TransferError> {
    let attempt = lacks.attempt;
    let ranges: Vec<Range> = lacks
        .ranges
        .iter()
        .map(|(file, offset, len, digest)| {
            let file_bytes = ledger.planned_bytes(attempt, *file).unwrap_or_default();
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
        gather.progress().spared(range.len);
        write(home, vec![placed(attempt, &range, Brought::Zeros(range.len))]).await?;
    }
    for group in grouped(&bytes, |range| range.len) {
        gather.check_stop()?;
        let Found::Here(came) = gather.ranges(attempt, at, &group).await? else { return Ok(()) };
        gather.takes(group.iter().map(|range| range.len).sum::<u64>());
        let came = group.iter().zip(came).map(|(range, data)| {
            // A hole there is one here.
            let zeros = digest::is_zero(&data);
            let data = if zeros { Brought::Zeros(range.len) } else { Brought::Bytes(data) };
            placed(attempt, range, data)
        });
        write(home, came.collect()).await?;
    }
    Ok(())
}

fn placed(attempt: u64, range: &Range, data: Brought) -> Placed {
    Placed { attempt, file: range.file, offset: range.offset, data }
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
        gather.check_stop()?;
        let Found::Here(came) = gather.packed(attempt, at, &group).await? else { return Ok(()) };
        gather.takes(group.iter().map(|file| file.size).sum::<u64>());
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
