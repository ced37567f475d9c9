//! Questions to the ledger. None changes anything.

use std::ops::{Bound, Range};
use std::sync::Arc;

use checkpoint::{CommitId, Digest, JobName};

use super::attempt::{Attempt, Fit};
use super::files::FileState;
use super::hybrid::Mode;
use super::job::{EpochRecord, Job};
use super::outcomes::Ending;
use super::pages::Page;
use super::tables::Ledger;
use super::verdict::SealedEpoch;

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    /// Log index of the record that made it: another one of its name, made after it was removed, has another.
    pub number: u64,
    /// Its current writer token; 0 when it never had a writer.
    pub token: u64,
    /// The highest epoch ever sealed.
    pub high_water: Option<u64>,
    /// The newest epoch that is not expired and holds nothing that is in quarantine.
    pub newest: Option<u64>,
    /// Number of sealed epochs that are not expired.
    pub epochs: usize,
    /// Ids of its open attempts.
    pub open: Vec<u64>,
}

/// A sealed epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochInfo {
    /// What its commit was answered.
    pub sealed: Arc<SealedEpoch>,
    /// The epoch it was made on.
    pub base: Option<u64>,
    /// Its labels, as given.
    pub labels: Vec<(String, String)>,
    /// What it depends on, as given.
    pub depends_on: Vec<String>,
    /// Log time of its seal, in milliseconds.
    pub sealed_log_ms: u64,
    /// For people: the wall clock of the leader at its seal, milliseconds since 1970, never before that of the epoch
    /// before it; 0 when it was not told.
    pub sealed_wall_ms: u64,
    /// Its pins, ended ones included.
    pub pins: Vec<PinInfo>,
    /// Where its content lies.
    pub mode: Mode,
    /// The id of its store, when it has one: [`Ledger::store`].
    pub store: Option<u64>,
}

/// A pin of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinInfo {
    /// Who pinned it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Log time in milliseconds at which it ends; `None` for never.
    pub until_ms: Option<u64>,
}

/// An open attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptInfo {
    /// Its id: log index of its Begin.
    pub id: u64,
    /// The job.
    pub job: JobName,
    /// The epoch it tries to write.
    pub epoch: u64,
    /// The writer token it goes by.
    pub token: u64,
    /// The commit that began it.
    pub commit: CommitId,
    /// Sum of its files' sizes, in bytes.
    pub declared_bytes: u64,
    /// Bytes of them that take room on a disk, at most: the rest are holes.
    pub stored_bytes: u64,
    /// Its chunk size in bytes: a resumed commit must split by this one.
    pub chunk_bytes: u32,
    /// The epoch it builds on.
    pub base: Option<u64>,
    /// Digest of its plan.
    pub plan_digest: Digest,
    /// Pages of its plan.
    pub plan_pages: u32,
    /// Entries of its plan.
    pub plan_entries: u32,
    /// Pages that are in the log.
    pub pages_here: u32,
    /// Bytes of files that are covered.
    pub covered_bytes: u64,
    /// Files that are not complete; of the pages that are here.
    pub files_missing: u64,
    /// Headers and payloads of the accepted records that named it, in bytes.
    pub log_bytes: u64,
    /// Log time since the last record that named it, in milliseconds.
    pub idle_ms: u64,
    /// Log time since its Begin, in milliseconds.
    pub age_ms: u64,
    /// The id of the store in which its content lies: [`Ledger::store`]; `None` when that is the log.
    pub store: Option<u64>,
    /// Bytes of files that lie in objects.
    pub linked_bytes: u64,
}

/// One packed file of an open attempt: beside the log, its bytes lie in the attempt's tree only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Entry of the plan.
    pub file: u32,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of its content.
    pub digest: Digest,
}

impl Ledger {
    /// The names of all jobs, in order.
    pub fn jobs(&self) -> impl Iterator<Item = &JobName> {
        self.jobs.keys()
    }

    /// The names of the jobs after one of this name, in order; without it of all.
    pub fn jobs_after(&self, name: Option<&JobName>) -> impl Iterator<Item = &JobName> {
        let after = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.jobs.range::<JobName, _>((after, Bound::Unbounded)).map(|(name, _)| name)
    }

    /// How many open attempts a job has.
    pub fn open_of(&self, name: &JobName) -> usize {
        self.jobs.get(name).map_or(0, |job| job.open.len())
    }

    /// A job, when it is known.
    pub fn job(&self, name: &JobName) -> Option<JobInfo> {
        let job = self.jobs.get(name)?;
        Some(JobInfo {
            number: job.number,
            token: job.token,
            high_water: job.mark,
            newest: self.newest_of(job).map(|(epoch, _)| epoch),
            epochs: job.epochs.len(),
            open: job.open.iter().copied().collect(),
        })
    }

    /// The sealed epochs of a job that are not expired, newest first.
    pub fn epochs(&self, name: &JobName) -> impl Iterator<Item = EpochInfo> {
        let epochs = self.jobs.get(name).into_iter().flat_map(|job| job.epochs.values().rev());
        epochs.map(|record| epoch_info(record))
    }

    /// What the commits of a job's epochs were answered that are not expired, oldest first.
    pub fn sealed(&self, name: &JobName) -> impl Iterator<Item = &SealedEpoch> {
        let epochs = self.jobs.get(name).into_iter().flat_map(|job| job.epochs.values());
        epochs.map(|record| &*record.sealed)
    }

    /// A sealed epoch that is not expired.
    pub fn epoch(&self, name: &JobName, epoch: u64) -> Option<EpochInfo> {
        self.jobs.get(name)?.epochs.get(&epoch).map(|record| epoch_info(record))
    }

    /// What the commit of a sealed epoch was answered that is not expired.
    pub fn sealed_as(&self, name: &JobName, epoch: u64) -> Option<&SealedEpoch> {
        self.jobs.get(name)?.epochs.get(&epoch).map(|record| &*record.sealed)
    }

    /// The newest sealed epoch of a job that is not above `epoch`, whatever it holds.
    pub fn at_or_below(&self, name: &JobName, epoch: u64) -> Option<EpochInfo> {
        self.jobs.get(name)?.epochs.range(..=epoch).next_back().map(|(_, record)| epoch_info(record))
    }

    /// The newest sealed epoch of a job that holds nothing that is in quarantine. It looks at every epoch above that one:
    /// where many may be in quarantine, and others wait for the ledger, ask a [`Walk`](super::Walk).
    pub fn newest(&self, name: &JobName) -> Option<EpochInfo> {
        self.newest_of(self.jobs.get(name)?).map(|(_, record)| epoch_info(record))
    }

    pub(super) fn newest_of<'a>(&self, job: &'a Job) -> Option<(u64, &'a EpochRecord)> {
        let mut good = job.epochs.iter().rev().filter(|(_, record)| !self.holds_quarantined(record));
        good.next().map(|(epoch, record)| (*epoch, &**record))
    }

    /// The job's current writer token; 0 when it never had a writer.
    pub fn token(&self, name: &JobName) -> u64 {
        self.jobs.get(name).map_or(0, |job| job.token)
    }

    /// The highest epoch of the job ever sealed.
    pub fn high_water(&self, name: &JobName) -> Option<u64> {
        self.jobs.get(name)?.mark
    }

    /// An open attempt.
    pub fn attempt(&self, id: u64) -> Option<AttemptInfo> {
        self.open.get(&id).map(|attempt| self.attempt_info(id, attempt))
    }

    /// All open attempts, oldest first: what a time to live looks at.
    pub fn attempts(&self) -> impl Iterator<Item = AttemptInfo> {
        self.open.iter().map(|(id, attempt)| self.attempt_info(*id, attempt))
    }

    /// The open attempt of an epoch.
    pub fn attempt_by(&self, name: &JobName, epoch: u64) -> Option<AttemptInfo> {
        let job = self.jobs.get(name)?;
        let mut open = job.open.iter().map(|id| (*id, &self.open[id]));
        let (id, attempt) = open.find(|(_, attempt)| attempt.terms.epoch == epoch)?;
        Some(self.attempt_info(id, attempt))
    }

    /// Whether an attempt is known to have ended without becoming an epoch.
    pub fn has_lapsed(&self, id: u64) -> bool {
        self.outcomes.of_attempt(id).is_some_and(|outcome| !matches!(outcome.how, Ending::Sealed { .. }))
    }

    /// The epoch that a sealed attempt became, while that is remembered.
    pub fn sealed_attempt(&self, id: u64) -> Option<SealedEpoch> {
        self.sealed_before(id)
    }

    /// Log index of the end of the newest outcome that was forgotten: of commits that were first tried before it and
    /// are not found nothing can be said. `None` while everything is remembered.
    pub fn horizon(&self) -> Option<u64> {
        self.outcomes.horizon()
    }

    /// Outcomes that are remembered.
    pub fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// Pages of the plan of an open attempt, as far as they are in the log.
    pub fn pages(&self, id: u64) -> impl Iterator<Item = Page> {
        self.open.get(&id).into_iter().flat_map(move |attempt| attempt.all_pages(id))
    }

    /// The page of an open attempt's plan in which entry `file` is.
    pub fn page_with(&self, id: u64, file: u32) -> Option<Page> {
        let attempt = self.open.get(&id)?;
        attempt.files.get(file).map(|_| attempt.page(id, attempt.page_of(file)))
    }

    /// Bytes of a file of an open attempt's plan; `None` for what is no file.
    pub fn planned_bytes(&self, id: u64, file: u32) -> Option<u64> {
        let stub = self.open.get(&id)?.files.get(file)?;
        stub.is_file().then(|| stub.size())
    }

    /// Whether exactly this piece, with this digest, is covered in an open attempt. The file is in its plan.
    pub(super) fn has_piece(&self, id: u64, file: u32, offset: u64, len: u64, digest: &Digest) -> bool {
        self.open.get(&id).is_some_and(|attempt| attempt.fit(file, offset, len, digest) == Fit::Repeat)
    }

    /// Covered ranges of an open attempt that lie in staged files: file, offset, bytes, subtree digest.
    pub fn staged_ranges(&self, id: u64) -> impl Iterator<Item = (u32, u64, u64, Digest)> {
        let files = self.open.get(&id).into_iter().flat_map(|attempt| attempt.files.iter());
        files.flat_map(|(file, _, state)| {
            let ranges = match state {
                FileState::Staged(staged) => Some(&staged.ranges),
                _ => None,
            };
            ranges.into_iter().flatten().map(move |(offset, (len, digest))| (file, *offset, *len, *digest))
        })
    }

    /// Files of an open attempt that came in packs.
    pub fn packed_files(&self, id: u64) -> impl Iterator<Item = PackedFile> {
        let attempt = self.open.get(&id);
        let files = attempt.into_iter().flat_map(|attempt| attempt.files.iter());
        files.filter_map(|(file, stub, state)| match state {
            FileState::Packed(digest) => {
                Some(PackedFile { file, mode: stub.mode(), size: stub.size(), digest: *digest })
            }
            _ => None,
        })
    }

    /// Of these entries of an open attempt's plan, the content of those that came in packs.
    pub fn packed_in(&self, id: u64, entries: Range<u32>) -> impl Iterator<Item = Digest> {
        self.open.get(&id).into_iter().flat_map(move |attempt| {
            let here = entries.start..entries.end.min(attempt.files.len() as u32);
            here.filter_map(|file| match attempt.files.state(file) {
                FileState::Packed(digest) => Some(*digest),
                _ => None,
            })
        })
    }

    /// Entries of an open attempt's plan that are in the log; 0 when it is not open.
    pub fn entries_here(&self, id: u64) -> u32 {
        self.open.get(&id).map_or(0, |attempt| attempt.files.len() as u32)
    }

    /// Files of an open attempt whose content an epoch brought through the log: digest, mode, bytes. What lies in a store
    /// only may be on no disk.
    pub fn reused_files(&self, id: u64) -> impl Iterator<Item = (Digest, u32, u64)> {
        let attempt = self.open.get(&id);
        let files = attempt.into_iter().flat_map(|attempt| attempt.files.iter());
        files.filter_map(|(_, stub, state)| match state {
            FileState::Reused(digest) if self.only_in_store(digest).is_none() => {
                Some((*digest, stub.mode(), stub.size()))
            }
            _ => None,
        })
    }

    /// Content of a sealed epoch: digest and bytes.
    pub fn content_of(&self, name: &JobName, epoch: u64) -> Vec<(Digest, u64)> {
        let Some(record) = self.jobs.get(name).and_then(|job| job.epochs.get(&epoch)) else {
            return Vec::new();
        };
        let contents = record.content.iter().map(|id| self.content.get(*id));
        contents.map(|content| (content.digest, content.bytes)).collect()
    }

    /// The cluster's uuid, once its first record is applied.
    pub fn cluster(&self) -> Option<[u8; 16]> {
        self.cluster
    }

    /// The incarnation under which a node is known.
    pub fn incarnation(&self, node: u64) -> Option<[u8; 16]> {
        self.members.get(&node).copied()
    }

    /// Every node that ever belonged, and its incarnation.
    pub fn members(&self) -> impl Iterator<Item = (u64, [u8; 16])> {
        self.members.iter().map(|(node, incarnation)| (*node, *incarnation))
    }

    /// Version of the rules in force.
    pub fn rules(&self) -> u32 {
        self.rules
    }

    /// Log time in milliseconds.
    pub fn log_ms(&self) -> u64 {
        self.log_ms
    }

    /// Sealed content that may be reused: its bytes, and how many epochs and open attempts hold it.
    pub fn content(&self, digest: &Digest) -> Option<(u64, u64)> {
        self.content.find(digest).map(|(_, content)| (content.bytes, u64::from(content.refs.get())))
    }

    /// Log index of the newest seal that brought the bytes of this content: who has carried that out has them.
    pub fn brought(&self, digest: &Digest) -> Option<u64> {
        self.content.find(digest).map(|(_, content)| content.brought)
    }

    /// Whether an epoch holds this content.
    pub fn epoch_holds(&self, name: &JobName, epoch: u64, digest: &Digest) -> bool {
        let record = self.jobs.get(name).and_then(|job| job.epochs.get(&epoch));
        let id = self.content.find(digest).map(|(id, _)| id);
        record.zip(id).is_some_and(|(record, id)| record.content.binary_search(&id).is_ok())
    }

    /// All sealed content that somebody holds, and its bytes.
    pub fn contents(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.content.iter().map(|(_, content)| (content.digest, content.bytes))
    }

    /// Sealed content in these slots: all of it in parts. Content keeps its slot for as long as somebody holds it.
    pub fn contents_in(&self, slots: Range<u32>) -> impl Iterator<Item = Digest> {
        let here = slots.start..slots.end.min(self.content.slots());
        here.filter_map(|id| self.content.slot(id).map(|content| content.digest))
    }

    /// How many slots there are, free ones included.
    pub fn content_slots(&self) -> u32 {
        self.content.slots()
    }

    fn attempt_info(&self, id: u64, attempt: &Attempt) -> AttemptInfo {
        let terms = &attempt.terms;
        AttemptInfo {
            id,
            job: terms.job.clone(),
            epoch: terms.epoch,
            token: terms.token,
            commit: terms.commit,
            declared_bytes: terms.declared_bytes,
            stored_bytes: terms.stored_bytes,
            chunk_bytes: terms.chunk_bytes,
            base: terms.base,
            plan_digest: terms.plan_digest,
            plan_pages: terms.plan_pages,
            plan_entries: terms.plan_entries,
            pages_here: attempt.pages.len() as u32,
            covered_bytes: attempt.covered_bytes,
            files_missing: attempt.missing,
            log_bytes: attempt.log_bytes,
            idle_ms: self.log_ms - attempt.last_ms,
            age_ms: self.log_ms - attempt.begun_ms,
            store: terms.store,
            linked_bytes: attempt.linked_bytes,
        }
    }
}

pub(super) fn epoch_info(record: &EpochRecord) -> EpochInfo {
    let pins = record.pins.iter().map(|(owner, pin)| PinInfo {
        owner: owner.clone(),
        reason: pin.reason.clone(),
        until_ms: pin.until_ms,
    });
    EpochInfo {
        sealed: record.sealed.clone(),
        base: record.base,
        labels: record.labels.clone(),
        depends_on: record.depends_on.clone(),
        sealed_log_ms: record.sealed_log_ms,
        sealed_wall_ms: record.sealed_wall_ms,
        pins: pins.collect(),
        mode: Mode::of(record.stored.as_ref()),
        store: record.stored.map(|stored| stored.store),
    }
}
