//! Content that an epoch reuses is read before it is linked to, and before anybody waits for it.
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
use super::{Inner, Publish, Source, Unpublished, read_envelope};
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
/// Contents that are noted, of all epochs together unless it is of one alone, 48 bytes each; other epochs are told to
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

    /// The attempt has ended: nothing is read for it any more.
    pub(super) fn forget(&self, attempt: u64) {
        self.state().jobs.remove(&attempt);
    }

    /// Reads until nothing is left, or the store is gone.
    fn read(&self, inner: &Weak<Inner>) {
        while let Some((inner, mut reading)) = self.next(inner) {
            // What is bad, or cannot be read, is met again by whoever links to it.
            let looked = look(&inner, &reading.wanted);
            reading.is_known = looked.is_ok_and(|is_known| is_known);
        }
    }

    /// What is read next; nothing when the thread ends, which is no thread of ours from here on: who finds something to
    /// read after this starts another.
    fn next(&self, inner: &Weak<Inner>) -> Option<(Arc<Inner>, Reading<'_>)> {
        let mut state = self.state();
        let found = inner.upgrade().and_then(|inner| {
            let (attempt, job) = state.jobs.iter_mut().find(|(_, job)| !job.left.is_empty())?;
            let wanted = job.left.pop()?;
            job.reading += 1;
            let (attempt, number) = (*attempt, job.number);
            Some((inner, Reading { verifier: self, attempt, number, wanted, is_known: false }))
        });
        if found.is_none() {
            state.threads = state.threads.saturating_sub(1);
        }
        found
    }

    /// What was read for an attempt, once all is; nothing when nothing was asked for, or it has ended.
    fn wait(&self, inner: &Arc<Inner>, attempt: u64, deadline: Instant) -> Result<Option<Job>, Unpublished> {
        let mut state = self.state();
        loop {
            match state.jobs.get(&attempt) {
                Some(job) if !job.is_done() => {
                    let patience = deadline.saturating_duration_since(Instant::now());
                    if patience.is_zero() {
                        let why = job.goes_on();
                        start(inner, &mut state);
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

/// Reads a blob of this content unless it is known. Whether the one that is linked to first is, now.
fn look(inner: &Inner, wanted: &Wanted) -> Result<bool, Unpublished> {
    let Wanted { digest, mode, size } = *wanted;
    let held = blobs::find_good(&*inner.disk, &inner.blobs, &inner.layout, digest, mode, size)?;
    Ok(matches!(held, Held::Good(path, _) if path == inner.layout.blob(digest, mode, 0)))
}

/// Of each epoch whether it cannot be published now, because what it reuses is still being read.
pub(super) fn before(inner: &Arc<Inner>, batch: &[Publish]) -> Vec<Option<Unpublished>> {
    batch.iter().map(|publish| of_one(inner, publish).err()).collect()
}

/// Whether the attempt's epoch was told to come again, and what it reuses is still being read.
pub(super) fn goes_on(inner: &Arc<Inner>, attempt: u64) -> Option<Unpublished> {
    let mut state = inner.verifier.state();
    let why = state.jobs.get(&attempt).filter(|job| !job.is_done())?.goes_on();
    start(inner, &mut state);
    Some(why)
}

fn of_one(inner: &Arc<Inner>, publish: &Publish) -> Result<(), Unpublished> {
    let (verifier, attempt, begun) = (&inner.verifier, publish.attempt, Instant::now());
    // One that was told to come again is not waited for again.
    let mut last = verifier.wait(inner, attempt, begun)?;
    if last.is_none() && is_published(inner, publish) {
        return Ok(());
    }
    loop {
        let Job { rounds, vain, .. } = last.unwrap_or_default();
        if rounds >= ROUNDS_MAX {
            return Ok(());
        }
        let left = unknown(inner, publish, &vain);
        let bytes: u64 = left.iter().map(|wanted| wanted.size).sum();
        if bytes <= AT_ONCE_BYTES {
            return left.iter().try_for_each(|wanted| look(inner, wanted).map(drop));
        }
        let job = Job { left, vain, bytes, bytes_left: bytes, rounds: rounds + 1, ..Job::default() };
        {
            let mut state = verifier.state();
            if !state.insert(attempt, job) {
                return Err(Unpublished::Verifying { bytes, left: bytes });
            }
            start(inner, &mut state);
        }
        last = verifier.wait(inner, attempt, begun + PATIENCE)?;
        if last.is_none() {
            // The attempt has ended, or another has taken what was read for it.
            return Ok(());
        }
    }
}

/// Threads for what is to be read. Where the system gives none now, the next who comes tries again.
fn start(inner: &Arc<Inner>, state: &mut State) {
    while state.threads < THREADS {
        let (verifier, weak) = (inner.verifier.clone(), Arc::downgrade(inner));
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

fn is_published(inner: &Inner, publish: &Publish) -> bool {
    let envelope = &publish.envelope;
    let path = inner.layout.manifest_file(&envelope.job, envelope.epoch);
    let there = read_envelope(&*inner.disk, &path).ok().flatten();
    there.is_some_and(|there| (there.root, there.attempt) == (envelope.root, envelope.attempt))
}

/// What it reuses and this process has not read, each once. What has no blob of its own mode may be cloned from one of
/// another, or is brought by another epoch of the batch: to look for it takes a list of the shelf. What was read in vain is left out.
fn unknown(inner: &Inner, publish: &Publish, vain: &[Wanted]) -> Vec<Wanted> {
    let is_reused = |(entry, source): &(&ManifestEntry, &Source)| {
        **source == Source::Reused && entry.kind == EntryKind::File && entry.size > 0
    };
    let mut seen: HashSet<Wanted> = vain.iter().copied().collect();
    let entries = publish.manifest.entries.iter().zip(publish.sources.iter()).filter(is_reused);
    entries
        .map(|(ManifestEntry { digest, mode, size, .. }, _)| Wanted {
            digest: *digest,
            mode: *mode,
            size: *size,
        })
        .filter(|wanted| {
            let Wanted { digest, mode, size } = wanted;
            let is_unread = match inner.disk.stat(&inner.layout.blob(*digest, *mode, 0)) {
                Ok(stat) => stat.len == *size && !inner.blobs.knows(&(*digest, *mode, 0), &stat),
                Err(e) => e.kind() == io::ErrorKind::NotFound && *size >= SOUGHT_BYTES_MIN,
            };
            is_unread && seen.insert(*wanted)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::epoch::RelPath;
    use crate::manifest::{Envelope, Manifest, Position};
    use crate::store::Store;

    /// An epoch that reuses files of these contents.
    fn reusing(attempt: u64, contents: &[Vec<u8>]) -> Publish {
        let root = ManifestEntry {
            path: RelPath::root(),
            kind: EntryKind::Directory,
            mode: 0o700,
            size: 0,
            digest: Digest::NONE,
            target: Vec::new(),
        };
        let file = |(n, data): (usize, &Vec<u8>)| ManifestEntry {
            path: RelPath::parse(format!("f{n:03}").as_bytes()).unwrap(),
            kind: EntryKind::File,
            mode: 0o644,
            size: data.len() as u64,
            digest: crate::digest::content(data),
            target: Vec::new(),
        };
        let files = contents.iter().enumerate().map(file);
        let manifest = Manifest { entries: std::iter::once(root).chain(files).collect() };
        let mut sources = vec![Source::Reused; manifest.entries.len()];
        sources[0] = Source::None;
        let envelope = Envelope {
            job: "job".parse().unwrap(),
            epoch: attempt,
            attempt,
            position: Position { term: 1, node: 1, index: attempt },
            root: manifest.root(),
            labels: Vec::new(),
            depends_on: Vec::new(),
            base: None,
            sealed_log_ms: 0,
        };
        Publish { attempt, envelope, manifest: Arc::new(manifest), sources: Arc::new(sources) }
    }

    fn shelved(store: &Store, contents: &[Vec<u8>]) {
        for data in contents {
            let path = store.layout().blob(crate::digest::content(data), 0o644, 0);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, data).unwrap();
            store.disk().set_mode(&path, 0o644).unwrap();
        }
    }

    fn is_known(store: &Store, data: &[u8]) -> bool {
        let digest = crate::digest::content(data);
        let stat = store.disk().stat(&store.layout().blob(digest, 0o644, 0)).unwrap();
        store.inner.blobs.knows(&(digest, 0o644, 0), &stat)
    }

    #[test]
    fn what_an_epoch_reuses_is_read_while_others_may_change_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let contents: Vec<_> = (1..4).map(|n| vec![n; 1000]).collect();
        shelved(&store, &contents);
        let names = store.inner.lock_names();
        // It does not come to an end while the names are locked, if it needs them.
        let (inner, publish) = (store.inner.clone(), reusing(1, &contents));
        let looked = std::thread::spawn(move || before(&inner, &[publish])).join().unwrap();
        assert!(looked[0].is_none(), "{looked:?}");
        assert!(contents.iter().all(|data| is_known(&store, data)));
        drop(names);
        store.publish(&[reusing(1, &contents)]).remove(0).unwrap();
    }

    #[test]
    fn much_is_read_by_others_and_the_epoch_says_so_until_they_are_through() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let contents: Vec<_> = (1..4).map(|n| vec![n; AT_ONCE_BYTES as usize / 2]).collect();
        shelved(&store, &contents);
        let publish = reusing(1, &contents);
        // As if the threads were there already and did not get anywhere.
        store.inner.verifier.state().threads = THREADS;
        let waits = store.publish(std::slice::from_ref(&publish)).remove(0).unwrap_err();
        assert!(
            matches!(waits, Unpublished::Verifying { bytes, left } if bytes == left && left > AT_ONCE_BYTES)
        );
        assert!(waits.to_string().ends_with("96 of 96 MiB are left"), "{waits}");
        // It holds up no other epoch.
        store.publish(&[reusing(2, &[])]).remove(0).unwrap();
        let waits = store.publish(std::slice::from_ref(&publish)).remove(0).unwrap_err();
        assert!(matches!(waits, Unpublished::Verifying { .. }), "asked for once, it is not waited for again");
        store.inner.verifier.state().threads = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(why) = store.publish(std::slice::from_ref(&publish)).remove(0) {
            assert!(matches!(why, Unpublished::Verifying { .. }) && Instant::now() < deadline, "{why}");
            std::thread::yield_now();
        }
        assert!(contents.iter().all(|data| is_known(&store, data)));
        assert!(store.inner.verifier.state().jobs.is_empty());
        // Of an attempt that has ended nothing is left.
        store.inner.verifier.state().jobs.insert(9, Job::default());
        store.discard(9).unwrap();
        assert!(store.inner.verifier.state().jobs.is_empty());
    }

    fn wanted(n: u8, size: u64) -> Wanted {
        Wanted { digest: crate::digest::content(&[n]), mode: 0o644, size }
    }

    #[test]
    fn what_was_read_and_forgotten_since_is_read_again_before_names_are_locked_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let contents: Vec<_> = (1..4).map(|n| vec![n; AT_ONCE_BYTES as usize / 2]).collect();
        shelved(&store, &contents);
        let publish = reusing(1, &contents);
        let state = || store.inner.verifier.state();
        // All that the last round has read was forgotten since.
        let read = |rounds| Job { rounds, ..Job::default() };
        state().jobs.insert(1, read(1));
        state().threads = THREADS;
        let again = of_one(&store.inner, &publish).unwrap_err();
        assert!(matches!(again, Unpublished::Verifying { bytes, left } if bytes == left));
        assert!(matches!(&state().jobs[&1], Job { left, rounds: 2, .. } if left.len() == 3));
        assert!(goes_on(&store.inner, 1).is_some() && goes_on(&store.inner, 2).is_none());
        // What is bad is not read in every round.
        let vain = contents.iter().map(|data| Wanted {
            digest: crate::digest::content(data),
            mode: 0o644,
            size: data.len() as u64,
        });
        state().jobs.insert(1, Job { vain: vain.collect(), ..read(1) });
        of_one(&store.inner, &publish).unwrap();
        assert!(state().jobs.is_empty() && !is_known(&store, &contents[0]));
        // And there is an end to it.
        state().jobs.insert(1, read(ROUNDS_MAX));
        of_one(&store.inner, &publish).unwrap();
        assert!(state().jobs.is_empty());
    }

    #[test]
    fn who_reads_for_a_job_that_is_gone_does_not_count_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let verifier = &store.inner.verifier;
        let job = || Job { left: vec![wanted(1, 7)], bytes: 7, bytes_left: 7, ..Job::default() };
        verifier.state().threads = 1;
        assert!(verifier.state().insert(1, job()));
        let (_, reading) = verifier.next(&Arc::downgrade(&store.inner)).unwrap();
        // It ends, and comes once more.
        verifier.forget(1);
        assert!(verifier.state().insert(1, job()));
        drop(reading);
        assert!(matches!(verifier.state().jobs[&1], Job { reading: 0, bytes_left: 7, .. }));
        // A panic is a look that has ended, and a thread less.
        let (inner, reads) = (Arc::downgrade(&store.inner), verifier.clone());
        let panicked = std::thread::spawn(move || {
            let _reading = reads.next(&inner).unwrap();
            panic!("while it reads");
        });
        assert!(panicked.join().is_err());
        let state = verifier.state();
        assert!(state.jobs[&1].is_done() && state.jobs[&1].vain == [wanted(1, 7)]);
        assert_eq!((state.threads, state.jobs[&1].bytes_left), (0, 0));
    }

    #[test]
    fn contents_are_bounded_and_not_epochs() {
        let mut state = State::default();
        let job = |count: usize| Job { left: vec![wanted(1, 1); count], ..Job::default() };
        assert!(state.insert(1, job(CONTENTS_MAX + 1)), "one alone is always taken");
        assert!(!state.insert(2, job(1)));
        state.jobs.clear();
        for attempt in 1..=100 {
            assert!(state.insert(attempt, job(1)), "{attempt}");
        }
        assert!(!state.insert(200, job(CONTENTS_MAX - 100 * CONTENTS_MIN + 1)));
        // What is done makes way, the oldest first and no more than it takes.
        for attempt in [3, 5] {
            state.jobs.get_mut(&attempt).unwrap().left.clear();
        }
        assert!(state.insert(200, job(CONTENTS_MAX - 100 * CONTENTS_MIN + 1)));
        assert!(!state.jobs.contains_key(&3) && state.jobs.contains_key(&5));
    }
}
