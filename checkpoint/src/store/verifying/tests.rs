//! What is read before names are locked, by whom, and how often.

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
    store.shelves.known.knows(&(digest, 0o644, 0), &stat)
}

#[test]
fn what_an_epoch_reuses_is_read_while_others_may_change_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
    let contents: Vec<_> = (1..4).map(|n| vec![n; 1000]).collect();
    shelved(&store, &contents);
    let names = store.shelves.lock_names();
    // It does not come to an end while the names are locked, if it needs them.
    let (verifier, shelves) = (store.verifier.clone(), store.shelves.clone());
    let publish = reusing(1, &contents);
    let looked =
        std::thread::spawn(move || verifier.before(&shelves, &[publish], vec![None])).join().unwrap();
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
    store.verifier.state().threads = THREADS;
    let waits = store.publish(std::slice::from_ref(&publish)).remove(0).unwrap_err();
    assert!(matches!(waits, Unpublished::Verifying { bytes, left } if bytes == left && left > AT_ONCE_BYTES));
    assert!(waits.to_string().ends_with("96 of 96 MiB are left"), "{waits}");
    // It holds up no other epoch.
    store.publish(&[reusing(2, &[])]).remove(0).unwrap();
    let waits = store.publish(std::slice::from_ref(&publish)).remove(0).unwrap_err();
    assert!(matches!(waits, Unpublished::Verifying { .. }), "asked for once, it is not waited for again");
    store.verifier.state().threads = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(why) = store.publish(std::slice::from_ref(&publish)).remove(0) {
        assert!(matches!(why, Unpublished::Verifying { .. }) && Instant::now() < deadline, "{why}");
        std::thread::yield_now();
    }
    assert!(contents.iter().all(|data| is_known(&store, data)));
    assert!(store.verifier.state().jobs.is_empty());
    // Of an attempt that has ended nothing is left.
    store.verifier.state().jobs.insert(9, Job::default());
    store.discard(9).unwrap();
    assert!(store.verifier.state().jobs.is_empty());
}

#[test]
fn an_epoch_that_fails_for_another_reason_is_not_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
    let read = || drop(store.verifier.state().jobs.insert(1, Job::default()));
    read();
    assert!(store.is_verifying(1));
    let failed = Unpublished::Occupied { at: dir.path().into(), found: "another root".into() };
    let looked = store.verifier.before(&store.shelves, &[reusing(1, &[])], vec![Some(failed)]);
    assert!(matches!(looked.as_slice(), [Some(Unpublished::Occupied { .. })]), "{looked:?}");
    assert!(!store.is_verifying(1), "others may bring what it lacks");
    read();
    store.verified_in_vain(1);
    assert!(!store.is_verifying(1));
}

fn wanted(n: u8, size: u64) -> Wanted {
    Wanted { digest: crate::digest::content(&[n]), mode: 0o644, size, staged: None }
}

#[test]
fn what_was_read_and_forgotten_since_is_read_again_before_names_are_locked_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
    let contents: Vec<_> = (1..4).map(|n| vec![n; AT_ONCE_BYTES as usize / 2]).collect();
    shelved(&store, &contents);
    let publish = reusing(1, &contents);
    let state = || store.verifier.state();
    // All that the last round has read was forgotten since.
    let read = |rounds| Job { rounds, ..Job::default() };
    state().jobs.insert(1, read(1));
    state().threads = THREADS;
    let of_one = || store.verifier.of_one(&store.shelves, &publish);
    let again = of_one().unwrap_err();
    assert!(matches!(again, Unpublished::Verifying { bytes, left } if bytes == left));
    assert!(matches!(&state().jobs[&1], Job { left, rounds: 2, .. } if left.len() == 3));
    let goes_on = |attempt| store.verifier.goes_on(&store.shelves, attempt);
    assert!(goes_on(1).is_some() && goes_on(2).is_none());
    // What is bad is not read in every round.
    let vain = contents.iter().map(|data| Wanted {
        digest: crate::digest::content(data),
        mode: 0o644,
        size: data.len() as u64,
        staged: None,
    });
    state().jobs.insert(1, Job { vain: vain.collect(), ..read(1) });
    of_one().unwrap();
    assert!(state().jobs.is_empty() && !is_known(&store, &contents[0]));
    // And there is an end to it.
    state().jobs.insert(1, read(ROUNDS_MAX));
    of_one().unwrap();
    assert!(state().jobs.is_empty());
}

#[test]
fn who_reads_for_a_job_that_is_gone_does_not_count_for_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
    let verifier = &store.verifier;
    let job = || Job { left: vec![wanted(1, 7)], bytes: 7, bytes_left: 7, ..Job::default() };
    verifier.state().threads = 1;
    assert!(verifier.state().insert(1, job()));
    let (_, reading) = verifier.next(&Arc::downgrade(&store.shelves)).unwrap();
    // It ends, and comes once more.
    verifier.forget(1);
    assert!(verifier.state().insert(1, job()));
    drop(reading);
    assert!(matches!(verifier.state().jobs[&1], Job { reading: 0, bytes_left: 7, .. }));
    // A panic is a look that has ended, and a thread less.
    let (shelves, reads) = (Arc::downgrade(&store.shelves), verifier.clone());
    let panicked = std::thread::spawn(move || {
        let _reading = reads.next(&shelves).unwrap();
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
