//! Readers that read much, or wait for long.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use checkpoint::disk::{Disk, Open, RealDisk};
use checkpoint::store::layout::Layout;
use checkpoint::testing::CrashDisk;
use nativelog::store::{LogStore, Options};
use tracing::{Event, Metadata, Subscriber, span};

use crate::scene::{OWNER, blank, chunk, id, layout, open, pack, segments, wait_append};

const PATIENCE: Duration = Duration::from_secs(20);

/// Passes on that its thread has logged something.
struct Listener(mpsc::Sender<()>);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("nativelog")
    }
    fn event(&self, _: &Event<'_>) {
        let _ = self.0.send(());
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_reader_that_waits_for_a_repair_returns_when_its_entry_is_truncated() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    // More than the cache holds: the first chunk must be read back.
    let chunks = vec![blank(1, 0), chunk(1, 1, 1, 0, 1), chunk(1, 2, 1, 1, 2), chunk(1, 3, 2, 0, 3)];
    wait_append(&log, chunks).unwrap();
    assert!(!log.is_cached(1, 2, 1 << 20));
    assert!(disk.flip(&layout().staged_file(2, 1), 77).unwrap());
    let (damage, damaged) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let reader = log.clone();
    let thread = std::thread::spawn(move || {
        let read = || reader.read(1, 2, 1 << 20).map(|entries| entries.len());
        let _ = answer.send(tracing::subscriber::with_default(Listener(damage), read));
    });
    damaged.recv_timeout(PATIENCE).expect("the reader has found the damage, and said so");
    log.truncate_after(Some(id(1, 0)));
    wait_append(&log, vec![chunk(2, 1, 1, 0, 9)]).unwrap();
    let answered = answered.recv_timeout(PATIENCE);
    // Lets go of a reader that waits for ever.
    log.shutdown();
    thread.join().unwrap();
    let error = answered.expect("nobody will repair what is gone").expect_err("nothing to return");
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
}

#[test]
fn readers_keep_few_segments_open() {
    const SEGMENTS: u64 = 80;
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().canonicalize().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&data);
    let options = || Options {
        segment_bytes: 2048,
        cache_bytes: 1000,
        ahead_bytes: 300,
        kept_bytes: 0,
        ..Options::default()
    };
    let (log, _) = LogStore::open(disk.clone(), &layout, OWNER, options()).unwrap();
    for index in 0..SEGMENTS {
        wait_append(&log, vec![pack(1, index, &[index as u8; 3000])]).unwrap();
    }
    log.shutdown();
    let is_segment = |path: &Path| path.extension().is_some_and(|extension| extension == "wal");
    let segments = std::fs::read_dir(layout.log_dir()).unwrap();
    let segments = segments.filter(|entry| is_segment(&entry.as_ref().unwrap().path())).count();
    assert_eq!(segments as u64, SEGMENTS, "one for each entry");
    let open_segments = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let target = |entry: io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
        descriptors.filter_map(target).filter(|path| path.starts_with(&data) && is_segment(path)).count()
    };
    // Nothing is cached after a start: every header comes from its segment.
    let (log, _) = LogStore::open(disk, &layout, OWNER, options()).unwrap();
    assert_eq!(log.headers(0..SEGMENTS).unwrap().len() as u64, SEGMENTS);
    assert!((2..=20).contains(&open_segments()), "{} segments are open", open_segments());
    for index in (0..SEGMENTS).rev() {
        assert_eq!(log.payload(index).unwrap(), [index as u8; 3000].as_slice());
    }
    assert!((2..=20).contains(&open_segments()), "{} segments are open", open_segments());
    log.shutdown();
}

#[test]
fn zeros_that_stayed_behind_a_closed_segment_are_not_read_for_the_next_one() {
    let disk = CrashDisk::new();
    open(&disk).unwrap().0.shutdown();
    let options = Options {
        segment_bytes: 2048,
        cache_bytes: 0,
        ahead_bytes: 300,
        kept_bytes: 0,
        ..Options::default()
    };
    let (log, _) = LogStore::open(Arc::new(disk.clone()), &layout(), OWNER, options).unwrap();
    let append = |index: u64| wait_append(&log, vec![pack(1, index, &[index as u8; 300])]).unwrap();
    append(0);
    // As a write leaves it that found room for a part of its zeros.
    let first = segments(&disk).remove(0);
    let len = disk.stat(&first).unwrap().len;
    disk.open(&first, Open::Write).unwrap().write_at(&[0; 8192], len).unwrap();
    let mut next = 1;
    while segments(&disk).len() < 3 {
        append(next);
        next += 1;
        // The first segment is the one that readers have open.
        assert_eq!(log.payload(0).unwrap(), [0; 300].as_slice());
    }
    for index in 0..next {
        assert_eq!(log.payload(index).unwrap(), [index as u8; 300].as_slice(), "{index}");
    }
    log.shutdown();
}
