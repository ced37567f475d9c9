//! Content that an epoch reuses, or that was staged for an upload, is read before it is linked to, and before anybody waits
//! for it.
//!
//! To link takes the lock of all names, and a blob that this process has not read is read before it is linked: after a
//! start that is all of it, and may take an hour. So it is read before the lock is taken. A little of it is read by whoever
//! publishes; for more there are threads of their own, and until they are through the epoch is *unpublished here:
//! verifying*, which holds up no other.
//!
//! **Guarantee.** This moves reads forward and decides nothing: what was not read here, or has changed since, is read
//! under the lock as before. When all was read it is looked whether it is still known, and what is not is read once more,
//! [`ROUNDS_MAX`] times altogether: so every epoch gets through, however little of it is remembered by then. What reading
//! did not make known (it is bad, missing, or of another mode) is not asked for again.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;

use super::blobs::{self, Held};
use super::envelopes::is_published;
use super::error::Unpublished;
use super::linked::{Staged, StagedFile};
use super::sealed::{Publish, Source};
use super::shelves::Shelves;
use super::staged::index_of;
use crate::digest::Digest;
use crate::epoch::EntryKind;
use crate::manifest::ManifestEntry;

/// What whoever publishes reads itself, bytes.
const AT_ONCE_BYTES: u64 = 64 << 20;
/// Content without a blob of its mode is looked for from this size on, bytes: below, that takes longer than to read it.
const SOUGHT_BYTES_MIN: u64 = 1 << 20;
/// How long it waits for what the threads read.
const PATIENCE: Duration = Duration::from_secs(1);
/// Threads that read.
const THREADS: usize = 2;
/// They leave the processors to commits.
const NICENESS: i32 = 10;
/// How often it is read for one epoch.
const ROUNDS_MAX: u32 = 3;
/// Contents that are noted, of all epochs together unless it is of one alone, 72 bytes each; other epochs are told to
/// come again.
const CONTENTS_MAX: usize = 1_000_000;
/// An epoch counts as so many at least.
const CONTENTS_MIN: usize = 1024;

/// A content that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wanted {
    digest: Digest,
    mode: u32,
    size: u64,
    /// It is this file, and no blob.
    staged: Option<StagedFile>,
}

/// Of one epoch.
#[derive(Debug, Default)]
struct Job {
    /// Who reads for it says for which: the attempt may have another by the time it was read.
    number: u64,
    left: Vec<Wanted>,
    /// What was read and is not known all the same.
    vain: Vec<Wanted>,
    /// Being read just now.
    reading: usize,
    bytes: u64,
    bytes_left: u64,
    /// Rounds that were begun.
    rounds: u32,
}

impl Job {
    fn is_done(&self) -> bool {
        self.left.is_empty() && self.reading == 0
    }

    fn goes_on(&self) -> Unpublished {
        Unpublished::Verifying { bytes: self.bytes, left: self.bytes_left }
    }

    /// What it counts as among [`CONTENTS_MAX`].
    fn contents(&self) -> usize {
        (self.left.len() + self.vain.len()).max(CONTENTS_MIN)
    }
}

#[derive(Debug, Default)]
struct State {
    /// By attempt: the oldest is read first, and what several of them reuse is read once.
    jobs: BTreeMap<u64, Job>,
    numbers: u64,
    threads: usize,
}

impl State {
    /// Takes the place of what the attempt had. False: too much is noted already.
    fn insert(&mut self, attempt: u64, mut job: Job) -> bool {
        self.jobs.remove(&attempt);
        let noted = |jobs: &BTreeMap<u64, Job>| jobs.values().map(Job::contents).sum::<usize>();
        while !self.jobs.is_empty() && noted(&self.jobs) + job.contents() > CONTENTS_MAX {
            // Those that are through and have not come again, the oldest first.
            let done = self.jobs.iter().find(|(_, job)| job.is_done()).map(|(attempt, _)| *attempt);
            let Some(done) = done else { return false };
            self.jobs.remove(&done);
        }
        self.numbers += 1;
        job.number = self.numbers;
        self.jobs.insert(attempt, job);
        true
    }
}

/// What is read, and by whom.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    state: Mutex<State>,
    moved: Condvar,
}

impl Verifier {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt has ended, or its epoch cannot be published for another reason: nothing is read for it any more.
    pub(super) fn forget(&self, attempt: u64) {
        self.state().jobs.remove(&attempt);
    }

    /// Reads until nothing is left, or the store is gone.
    fn read(&self, shelves: &Weak<Shelves>) {
        while let Some((shelves, mut reading)) = self.next(shelves) {
            // What is bad, or cannot be read, is met again by whoever links to it.
            let looked = look(&shelves, &reading.wanted);
            reading.is_known = looked.is_ok_and(|is_known| is_known);
        }
    }

    /// What is read next; nothing when the thread ends, which is no thread of ours from here on: who finds something to
    /// read after this starts another.
    fn next(&self, shelves: &Weak<Shelves>) -> Option<(Arc<Shelves>, Reading<'_>)> {
        let mut state = self.state();
        let found = shelves.upgrade().and_then(|shelves| {
            let (attempt, job) = state.jobs.iter_mut().find(|(_, job)| !job.left.is_empty())?;
            let wanted = job.left.pop()?;
            job.reading += 1;
            let (attempt, number) = (*attempt, job.number);
            Some((shelves, Reading { verifier: self, attempt, number, wanted, is_known: false }))
        });
        if found.is_none() {
            state.threads = state.threads.saturating_sub(1);
        }
        found
    }

    /// What was read for an attempt, once all is; nothing when nothing was asked for, or it has ended.
    fn wait(
        self: &Arc<Self>,
        shelves: &Arc<Shelves>,
        attempt: u64,
        deadline: Instant,
    ) -> Result<Option<Job>, Unpublished> {
        let mut state = self.state();
        loop {
            match state.jobs.get(&attempt) {
                Some(job) if !job.is_done() => {
                    let patience = deadline.saturating_duration_since(Instant::now());
                    if patience.is_zero() {
                        let why = job.goes_on();
                        self.start(shelves, &mut state);
                        return Err(why);
                    }
                    let waited = self.moved.wait_timeout(state, patience);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => return Ok(state.jobs.remove(&attempt)),
            }
        }
    }
}

/// A content that a thread has in hand. However its look ends, also by a panic, it is counted as read.
struct Reading<'a> {
    verifier: &'a Verifier,
    attempt: u64,
    number: u64,
    wanted: Wanted,
    is_known: bool,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.verifier.state();
        if std::thread::panicking() {
            state.threads = state.threads.saturating_sub(1);
        }
        let job = state.jobs.get_mut(&self.attempt).filter(|job| job.number == self.number);
        let Some(job) = job else { return };
        job.reading = job.reading.saturating_sub(1);
        job.bytes_left = job.bytes_left.saturating_sub(self.wanted.size);
        if !self.is_known {
            job.vain.push(self.wanted);
        }
        if job.is_done() {
            self.verifier.moved.notify_all();
        }
    }
}

/// Reads a blob of this content, or the staged file, unless it is known. Whether the one that is linked to first is, now.
fn look(shelves: &Shelves, wanted: &Wanted) -> Result<bool, Unpublished> {
    let Wanted { digest, mode, size, staged } = *wanted;
    if let Some(staged) = staged {
        return staged.look(shelves, digest, size);
    }
    let held = blobs::find_good(&*shelves.disk, &shelves.known, &shelves.layout, digest, mode, size)?;
    Ok(matches!(held, Held::Good(path, _) if path == shelves.layout.blob(digest, mode, 0)))
}

impl Verifier {
    /// Of each epoch whether it cannot be published now: because it has `failed` already, and then nothing is read for it, or
    /// because what it reuses is still being read.
    pub(super) fn before(
        self: &Arc<Self>,
        shelves: &Arc<Shelves>,
        batch: &[Publish],
        failed: Vec<Option<Unpublished>>,
    ) -> Vec<Option<Unpublished>> {
        let both = batch.iter().zip(failed);
        let before = both.map(|(publish, failed)| match failed {
            Some(failed) => {
                // Else it would be taken for one that is being read, and nobody would bring what it lacks.
                self.forget(publish.attempt);
                Some(failed)
            }
            None => self.of_one(shelves, publish).err(),
        });
        before.collect()
    }

    /// Whether the attempt's epoch was told to come again, and has not.
    pub(super) fn has_begun(&self, attempt: u64) -> bool {
        self.state().jobs.contains_key(&attempt)
    }

    /// Whether the attempt's epoch was told to come again, and what it reuses is still being read.
    pub(super) fn goes_on(self: &Arc<Self>, shelves: &Arc<Shelves>, attempt: u64) -> Option<Unpublished> {
        let mut state = self.state();
        let why = state.jobs.get(&attempt).filter(|job| !job.is_done())?.goes_on();
        self.start(shelves, &mut state);
        Some(why)
    }

    fn of_one(self: &Arc<Self>, shelves: &Arc<Shelves>, publish: &Publish) -> Result<(), Unpublished> {
        let (attempt, begun) = (publish.attempt, Instant::now());
        // One that was told to come again is not waited for again.
        let mut last = self.wait(shelves, attempt, begun)?;
        if last.is_none() && is_published(&*shelves.disk, &shelves.layout, &publish.envelope) {
            return Ok(());
        }
        loop {
            let Job { rounds, vain, .. } = last.unwrap_or_default();
            if rounds >= ROUNDS_MAX {
                return Ok(());
            }
            let left = unknown(shelves, publish, &vain);
            let bytes: u64 = left.iter().map(|wanted| wanted.size).sum();
            if bytes <= AT_ONCE_BYTES {
                return left.iter().try_for_each(|wanted| look(shelves, wanted).map(drop));
            }
            let job = Job { left, vain, bytes, bytes_left: bytes, rounds: rounds + 1, ..Job::default() };
            {
                let mut state = self.state();
                if !state.insert(attempt, job) {
                    return Err(Unpublished::Verifying { bytes, left: bytes });
                }
                self.start(shelves, &mut state);
            }
            last = self.wait(shelves, attempt, begun + PATIENCE)?;
            if last.is_none() {
                // The attempt has ended, or another has taken what was read for it.
                return Ok(());
            }
        }
    }

    /// Threads for what is to be read. Where the system gives none now, the next who comes tries again.
    fn start(self: &Arc<Self>, shelves: &Arc<Shelves>, state: &mut State) {
        while state.threads < THREADS {
            let (verifier, weak) = (self.clone(), Arc::downgrade(shelves));
            let read = move || {
                let _ = setpriority_process(None, NICENESS);
                verifier.read(&weak);
            };
            if let Err(error) = std::thread::Builder::new().name("verifying".into()).spawn(read) {
                tracing::warn!(%error, "no thread to verify with");
                return;
            }
            state.threads += 1;
        }
    }
}

/// What it reuses and this process has not read, each once. What has no blob of its own mode may be cloned from one of
/// another, or is brought by another epoch of the batch: to look for it takes a list of the shelf. What was read in vain is left out.
fn unknown(shelves: &Shelves, publish: &Publish, vain: &[Wanted]) -> Vec<Wanted> {
    let is_reused = |(entry, source): &(&ManifestEntry, &Source)| {
        let is_shelved = matches!(**source, Source::Reused | Source::Linked);
        is_shelved && entry.kind == EntryKind::File && entry.size > 0
    };
    let mut seen: HashSet<Wanted> = vain.iter().copied().collect();
    let entries = publish.manifest.entries.iter().zip(publish.sources.iter()).enumerate();
    let mut unknown = Vec::new();
    for (index, (entry, source)) in entries.filter(|(_, both)| is_reused(both)) {
        let ManifestEntry { digest, mode, size, .. } = *entry;
        let wanted = Wanted { digest, mode, size, staged: None };
        let (is_unread, is_known) = match shelves.disk.stat(&shelves.layout.blob(digest, mode, 0)) {
            Ok(stat) => {
                let is_known = shelves.known.knows(&(digest, mode, 0), &stat);
                (stat.len == size && !is_known, is_known)
            }
            // What lies in a store is most often not here at all.
            Err(e) => {
                let is_sought = *source == Source::Reused && size >= SOUGHT_BYTES_MIN;
                (is_sought && e.kind() == io::ErrorKind::NotFound, false)
            }
        };
        if is_unread && seen.insert(wanted) {
            unknown.push(wanted);
        }
        if *source == Source::Linked && !is_known {
            let staged = StagedFile { attempt: publish.attempt, file: index_of(index) };
            let wanted = Wanted { staged: Some(staged), ..wanted };
            if staged.known(shelves, digest, size).is_ok_and(|known| known == Staged::Unread)
                && seen.insert(wanted)
            {
                unknown.push(wanted);
            }
        }
    }
    unknown
}

#[cfg(test)]
mod tests;
