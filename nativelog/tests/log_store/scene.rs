//! A short life of a log, step by step, with the state that each step leads to.

use std::io;
use std::ops::Range;
use std::path::Path;
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
    Options { segment_bytes: 2048, cache_bytes: 100_000, mark_interval: Duration::from_secs(3600) }
}

pub fn open(disk: &CrashDisk) -> Result<(LogStore, Recovered), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    // The node makes these before it opens the log.
    let _ = disk.create_dir(Path::new("/data"));
    let _ = disk.sync_dir(Path::new("/"));
    let _ = checkpoint::durable::create_dir_all(disk.as_ref(), Path::new("/data"), &layout().staging_dir());
    LogStore::open(disk, &layout(), OWNER, options())
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
    };
    Entry { id: id(term, index), body: Body::Record(LogRecord::new(Kind::Chunk(chunk), data.into())) }
}

/// A run of zeros, in bytes of its file.
pub fn zeros(term: u64, index: u64, file: u32, range: Range<u64>) -> Entry {
    let (offset, len) = (range.start, range.end - range.start);
    let digest = digest::zeros(16 * CHUNK, offset, len).as_bytes().to_vec().into();
    let zero = proto::Zero { attempt: 2, file, offset, len, digest };
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

#[derive(Clone, Default)]
pub struct State {
    pub vote: Option<Vote>,
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
                state.entries.truncate(after.index as usize + 1);
                states.push(state.clone());
                state.entries.extend(entries.clone());
            }
            Step::Committed(_) => continue,
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
        };
        match answered.recv_timeout(Duration::from_secs(20)) {
            Ok(true) => reached += halves,
            _ => break,
        }
    }
    reached
}

pub fn wait_append(log: &LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (answer, answered) = mpsc::channel();
    log.append(entries, Box::new(move |result| drop(answer.send(result))));
    answered.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| Err(io::Error::other("no answer")))
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
            && state.entries.len() == entries.len()
            && state.entries.iter().zip(&entries).all(|(a, b)| same(a, b))
    })
}
