//! A short life of a log, step by step, with the state that each step leads to.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use checkpoint::digest;
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::testing::CrashDisk;
use nativelog::record::{Kind, proto};
use nativelog::store::{Identity, LogStore, OpenError, Options, Recovered, Vote};
use nativelog::{Body, Entry, LogId, LogRecord};

pub const OWNER: Identity = Identity { node: 1, incarnation: [7; 16] };
pub const CHUNK: u64 = 64 << 10;

pub fn layout() -> Layout {
    Layout::new(Path::new("/data"))
}

pub fn options() -> Options {
    Options {
        segment_bytes: 2048,
        cache_bytes: 100_000,
        ahead_bytes: 300,
        // What is kept for a full disk has tests of its own.
        kept_bytes: 0,
        mark_interval: Duration::from_secs(3600),
    }
}

pub fn open(disk: &CrashDisk) -> Result<(LogStore, Recovered), OpenError> {
    open_on(Arc::new(disk.clone()))
}

pub fn open_on(disk: Arc<dyn Disk>) -> Result<(LogStore, Recovered), OpenError> {
    open_with(disk, options())
}

pub fn open_with(disk: Arc<dyn Disk>, options: Options) -> Result<(LogStore, Recovered), OpenError> {
    // The node makes these before it opens the log.
    let _ = disk.create_dir(Path::new("/data"));
    let _ = disk.sync_dir(Path::new("/"));
    let _ = checkpoint::durable::create_dir_all(disk.as_ref(), Path::new("/data"), &layout().staging_dir());
    LogStore::open(disk, &layout(), OWNER, options)
}

pub fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: term, index }
}

pub fn blank(term: u64, index: u64) -> Entry {
    Entry { id: id(term, index), body: Body::Blank }
}

pub fn chunk(term: u64, index: u64, file: u32, number: u64, fill: u8) -> Entry {
    chunk_of(term, index, file, number * CHUNK..(number + 1) * CHUNK, fill)
}

/// A chunk of any length, in bytes of its file.
pub fn chunk_of(term: u64, index: u64, file: u32, range: Range<u64>, fill: u8) -> Entry {
    let data: Vec<u8> = (0..range.end - range.start).map(|i| fill ^ (i % 251) as u8).collect();
    let chunk = proto::Chunk {
        attempt: 2,
        file,
        offset: range.start,
        len: data.len() as u32,
        digest: digest::subtree(16 * CHUNK, range.start, &data).as_bytes().to_vec().into(),
        file_bytes: 16 * CHUNK,
    };
    Entry { id: id(term, index), body: Body::Record(LogRecord::new(Kind::Chunk(chunk), data.into())) }
}

/// A run of zeros, in bytes of its file.
pub fn zeros(term: u64, index: u64, file: u32, range: Range<u64>) -> Entry {
    let (offset, len) = (range.start, range.end - range.start);
    let digest = digest::zeros(16 * CHUNK, offset, len).as_bytes().to_vec().into();
    let zero = proto::Zero { attempt: 2, file, offset, len, digest, file_bytes: 16 * CHUNK };
    Entry { id: id(term, index), body: Body::Record(LogRecord::new(Kind::Zero(zero), Bytes::new())) }
}

pub fn pack(term: u64, index: u64, content: &[u8]) -> Entry {
    let file = proto::PackedFile {
        file: 3,
        offset: 0,
        len: content.len() as u32,
        digest: digest::content(content).as_bytes().to_vec().into(),
    };
    let pack = proto::Pack { attempt: 2, files: vec![file] };
    let record = LogRecord::new(Kind::Pack(pack), Bytes::copy_from_slice(content));
    Entry { id: id(term, index), body: Body::Record(record) }
}

fn begin(term: u64, index: u64) -> Entry {
    let begin = proto::Begin {
        job: "job".into(),
        commit_id: vec![1; 16].into(),
        chunk_bytes: CHUNK as u32,
        ..Default::default()
    };
    Entry { id: id(term, index), body: Body::Record(LogRecord::new(Kind::Begin(begin), Bytes::new())) }
}

#[derive(Clone)]
pub enum Step {
    Vote(Vote),
    Append(Vec<Entry>),
    /// A truncation and the append after it, as a new leader brings them.
    Replace(LogId, Vec<Entry>),
    /// Nobody waits for it: it leads to no state of its own.
    Committed(LogId),
    Purge(LogId),
}

/// Votes, a leader change that replaces a chunk, a range taken twice, small segments that rotate, and between
/// all of them positions that the leader calls committed.
pub fn life() -> Vec<Step> {
    let vote = |term, committed| Step::Vote(Vote { term, node: term, committed });
    vec![
        vote(1, false),
        vote(1, true),
        Step::Append(vec![
            blank(1, 0),
            Entry { id: id(1, 1), body: Body::Membership(Bytes::from_static(b"members")) },
        ]),
        Step::Committed(id(1, 0)),
        Step::Append(vec![begin(1, 2)]),
        Step::Committed(id(1, 1)),
        Step::Committed(id(1, 2)),
        Step::Append(vec![chunk(1, 3, 1, 0, 1), chunk(1, 4, 1, 1, 2), chunk(1, 5, 2, 0, 3)]),
        Step::Committed(id(1, 3)),
        Step::Append(vec![pack(1, 6, &[9; 3000])]),
        vote(2, false),
        Step::Replace(id(1, 3), vec![chunk(2, 4, 1, 1, 77), blank(2, 5)]),
        Step::Committed(id(2, 4)),
        Step::Append(vec![chunk(2, 6, 1, 0, 99)]),
        Step::Committed(id(2, 6)),
        Step::Append(vec![pack(2, 7, &[5; 100]), blank(2, 8)]),
        Step::Committed(id(2, 8)),
    ]
}

/// Purges within segments, of whole segments, of everything, and beyond the end; a truncation that reaches back into a
/// segment that the next purge deletes.
pub fn life_with_purges() -> Vec<Step> {
    let vote = |term, committed| Step::Vote(Vote { term, node: term, committed });
    let big = |term, index| pack(term, index, &[index as u8; 3000]);
    vec![
        vote(1, true),
        Step::Append(vec![
            blank(1, 0),
            Entry { id: id(1, 1), body: Body::Membership(Bytes::from_static(b"members")) },
            begin(1, 2),
            chunk(1, 3, 1, 0, 1),
        ]),
        Step::Append(vec![big(1, 4)]),
        Step::Append(vec![big(1, 5)]),
        Step::Purge(id(1, 3)),
        Step::Append(vec![blank(1, 6), big(1, 7)]),
        vote(2, false),
        Step::Replace(id(1, 5), vec![pack(2, 6, &[66; 100]), chunk(2, 7, 2, 0, 5)]),
        Step::Purge(id(2, 7)),
        Step::Append(vec![blank(2, 8), chunk(2, 9, 1, 1, 7)]),
        Step::Purge(id(4, 20)),
        Step::Append(vec![blank(4, 21), big(4, 22)]),
        Step::Append(vec![chunk(4, 23, 3, 0, 9), chunk(4, 24, 3, 1, 8)]),
        Step::Purge(id(4, 22)),
    ]
}

#[derive(Clone, Default)]
pub struct State {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub entries: Vec<Entry>,
}

/// The state before the first step and after each.
pub fn states(steps: &[Step]) -> Vec<State> {
    let mut states = vec![State::default()];
    for step in steps {
        let mut state = states.last().unwrap().clone();
        match step {
            Step::Vote(vote) => state.vote = Some(*vote),
            Step::Append(entries) => state.entries.extend(entries.clone()),
            Step::Replace(after, entries) => {
                // Both halves are seen on their own: the truncation may be all that survives.
                state.entries.retain(|entry| entry.id.index <= after.index);
                states.push(state.clone());
                state.entries.extend(entries.clone());
            }
            Step::Committed(_) => continue,
            Step::Purge(upto) => {
                state.purged = Some(*upto);
                state.entries.retain(|entry| entry.id.index > upto.index);
            }
        }
        states.push(state);
    }
    states
}

/// Runs the steps one after the other; the number of states that were reached for certain.
pub fn run(log: &LogStore, steps: &[Step]) -> usize {
    let mut reached = 0;
    for step in steps {
        let (answer, answered) = mpsc::channel();
        let done = Box::new(move |result: io::Result<()>| {
            let _ = answer.send(result.is_ok());
        });
        let halves = match step {
            Step::Vote(vote) => {
                log.save_vote(*vote, done);
                1
            }
            Step::Append(entries) => {
                log.append(entries.clone(), done);
                1
            }
            Step::Replace(after, entries) => {
                log.truncate_after(Some(*after));
                log.append(entries.clone(), done);
                2
            }
            Step::Committed(id) => {
                log.save_committed(Some(*id));
                continue;
            }
            Step::Purge(upto) => {
                if !wait_purge(log, *upto) {
                    break;
                }
                reached += 1;
                continue;
            }
        };
        match answered.recv_timeout(Duration::from_secs(20)) {
            Ok(true) => reached += halves,
            _ => break,
        }
    }
    reached
}

/// Waits until `met` says so, or the store has failed.
pub fn wait_until(log: &LogStore, what: &str, met: impl Fn() -> bool) -> bool {
    let since = std::time::Instant::now();
    while !met() {
        if log.fatal().borrow().is_some() {
            return met();
        }
        assert!(since.elapsed() < Duration::from_secs(20), "waited too long: {what}");
        std::thread::yield_now();
    }
    true
}

/// Purges and waits until that is durable; false when the store fails before.
pub fn wait_purge(log: &LogStore, upto: LogId) -> bool {
    log.purge(upto);
    let purged = log.purged();
    wait_until(log, "purge", || *purged.borrow() > upto.index)
}

/// Calls something that answers later, and waits for the answer.
pub fn answered<T: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(io::Result<T>) + Send>)) -> io::Result<T> {
    let (answer, answered) = mpsc::channel();
    ask(Box::new(move |result| drop(answer.send(result))));
    answered.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| Err(io::Error::other("no answer")))
}

/// Makes this node the leader: only a leader keeps durable payloads in memory.
pub fn lead(log: &LogStore) {
    let vote = Vote { term: 1, node: OWNER.node, committed: true };
    answered(|done| log.save_vote(vote, done)).unwrap();
}

/// Everything on this disk, durable, on a disk of its own.
pub fn copy(disk: &CrashDisk) -> CrashDisk {
    disk.sync_fs(Path::new("/data")).unwrap();
    disk.crash(checkpoint::testing::Crash::Strict)
}

/// The WAL segments, oldest first.
pub fn segments(disk: &CrashDisk) -> Vec<PathBuf> {
    let log = layout().log_dir();
    let is_segment = |path: &PathBuf| path.starts_with(&log) && path.extension().is_some_and(|x| x == "wal");
    disk.paths().into_iter().filter(is_segment).collect()
}

/// Their sizes together, bytes.
/// Bytes of a segment before the zeros that its end is filled with.
pub fn written(disk: &CrashDisk, segment: &Path) -> u64 {
    let bytes = disk.read_file(segment, 1 << 20).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    end.next_multiple_of(8)
}

/// What the log says that it takes is what its segments take, but for the zeros at the end of the last one, and for those
/// that a frame ends in.
pub fn assert_wal_bytes(log: &LogStore, disk: &CrashDisk, context: &str) {
    let segments = segments(disk);
    let (last, closed) = segments.split_last().unwrap();
    let closed: u64 = closed.iter().map(|path| disk.stat(path).unwrap().len).sum();
    let (said, least) = (log.wal_bytes(), closed + written(disk, last));
    let most = closed + disk.stat(last).unwrap().len;
    assert!(least <= said && said <= most.min(least + 128), "{context}: {said}, {least} to {most}");
}

pub fn wait_append(log: &LogStore, entries: Vec<Entry>) -> io::Result<()> {
    answered(|done| log.append(entries, done))
}

fn same(a: &Entry, b: &Entry) -> bool {
    a.id == b.id
        && match (&a.body, &b.body) {
            (Body::Blank, Body::Blank) => true,
            (Body::Membership(x), Body::Membership(y)) => x == y,
            (Body::Record(x), Body::Record(y)) => x.header == y.header && x.payload == y.payload,
            _ => false,
        }
}

/// The number of the state that the log shows, payloads included.
pub fn shown(log: &LogStore, states: &[State]) -> Option<usize> {
    let next = log.log_state().1.map_or(0, |last| last.index + 1);
    let mut entries = log.headers(0..next).unwrap();
    for entry in &mut entries {
        if let Body::Record(record) = &mut entry.body {
            record.payload = log.payload(entry.id.index).unwrap();
        }
    }
    states.iter().rposition(|state| {
        state.vote == log.vote()
            && state.purged == log.log_state().0
            && state.entries.len() == entries.len()
            && state.entries.iter().zip(&entries).all(|(a, b)| same(a, b))
    })
}
