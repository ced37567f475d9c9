//! Content that an epoch reuses is read before it is linked to, and before anybody waits for it.
//!
//! To link takes the lock of all names, and a blob that this process has not read is read before it is linked: after a
//! start that is all of it, and may take an hour. So it is read before the lock is taken. A little of it is read by whoever
//! publishes; for more there are threads of their own, and until they are through the epoch is *unpublished here:
//! verifying*, which holds up no other.
//!
//! **Guarantee.** This moves reads forward and decides nothing: what was not read here, or has changed since, is read
//! under the lock as before. What was asked for once is asked for no more when it comes again: so every epoch gets
//! through, however little of it is remembered by then.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;

use super::blobs;
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
/// Epochs whose contents are noted, 48 bytes a content; others are told to come again.
const EPOCHS_MAX: usize = 8;

/// A content that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wanted {
    digest: Digest,
    mode: u32,
    size: u64,
}

/// Of one epoch.
#[derive(Debug)]
struct Job {
    left: Vec<Wanted>,
    /// Being read just now.
    reading: usize,
    bytes: u64,
    bytes_left: u64,
}

impl Job {
    fn is_done(&self) -> bool {
        self.left.is_empty() && self.reading == 0
    }

    fn goes_on(&self) -> Unpublished {
        Unpublished::Verifying { bytes: self.bytes, left: self.bytes_left }
    }
}

#[derive(Debug, Default)]
struct State {
    /// By attempt: the oldest is read first, and what several of them reuse is read once.
    jobs: BTreeMap<u64, Job>,
    threads: usize,
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
        let mut state = self.state();
        loop {
            let next = state.jobs.iter_mut().find_map(|(attempt, job)| {
                let wanted = job.left.pop()?;
                job.reading += 1;
                Some((*attempt, wanted))
            });
            let (Some((attempt, wanted)), Some(inner)) = (next, inner.upgrade()) else { break };
            drop(state);
            // What is bad, or cannot be read, is met again by whoever links to it.
            let _ = look(&inner, &wanted);
            drop(inner);
            state = self.state();
            if let Some(job) = state.jobs.get_mut(&attempt) {
                job.reading -= 1;
                job.bytes_left -= wanted.size;
                if job.is_done() {
                    self.moved.notify_all();
                }
            }
        }
        state.threads -= 1;
    }
}

/// Reads a blob of this content unless it is known.
fn look(inner: &Inner, wanted: &Wanted) -> Result<(), Unpublished> {
    let Wanted { digest, mode, size } = *wanted;
    blobs::find_good(&*inner.disk, &inner.blobs, &inner.layout, digest, mode, size)?;
    Ok(())
}

/// Of each epoch whether it cannot be published now, because what it reuses is still being read.
pub(super) fn before(inner: &Arc<Inner>, batch: &[Publish]) -> Vec<Option<Unpublished>> {
    batch.iter().map(|publish| of_one(inner, publish).err()).collect()
}

fn of_one(inner: &Arc<Inner>, publish: &Publish) -> Result<(), Unpublished> {
    let verifier = &inner.verifier;
    {
        let mut state = verifier.state();
        if let Some(job) = state.jobs.get(&publish.attempt) {
            if !job.is_done() {
                let why = job.goes_on();
                start(inner, &mut state);
                return Err(why);
            }
            state.jobs.remove(&publish.attempt);
            return Ok(());
        }
    }
    if is_published(inner, publish) {
        return Ok(());
    }
    let left = unknown(inner, publish);
    let bytes: u64 = left.iter().map(|wanted| wanted.size).sum();
    if bytes <= AT_ONCE_BYTES {
        return left.iter().try_for_each(|wanted| look(inner, wanted));
    }
    let mut state = verifier.state();
    if state.jobs.len() >= EPOCHS_MAX {
        // Those that are through and have not come again, the oldest first.
        let done = state.jobs.iter().find(|(_, job)| job.is_done()).map(|(attempt, _)| *attempt);
        match done {
            Some(attempt) => drop(state.jobs.remove(&attempt)),
            None => return Err(Unpublished::Verifying { bytes, left: bytes }),
        }
    }
    let job = Job { left, reading: 0, bytes, bytes_left: bytes };
    state.jobs.insert(publish.attempt, job);
    start(inner, &mut state);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match state.jobs.get(&publish.attempt) {
            Some(job) if !job.is_done() => {
                let patience = deadline.saturating_duration_since(Instant::now());
                if patience.is_zero() {
                    return Err(job.goes_on());
                }
                state =
                    verifier.moved.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
            }
            _ => {
                state.jobs.remove(&publish.attempt);
                return Ok(());
            }
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
/// another, or is brought by another epoch of the batch: to look for it takes a list of the shelf.
fn unknown(inner: &Inner, publish: &Publish) -> Vec<Wanted> {
    let is_reused = |(entry, source): &(&ManifestEntry, &Source)| {
        **source == Source::Reused && entry.kind == EntryKind::File && entry.size > 0
    };
    let mut seen = HashSet::new();
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
        store
            .inner
            .verifier
            .state()
            .jobs
            .insert(9, Job { left: Vec::new(), reading: 0, bytes: 0, bytes_left: 0 });
        store.discard(9).unwrap();
        assert!(store.inner.verifier.state().jobs.is_empty());
    }
}
