//! Content of one epoch from whichever node has it, asynchronous. A call asks for everything that will be wanted from one
//! file on, so that a restore of many scattered files is one call and not one a file. A node that breaks off is left for
//! the next one at the byte where it stopped; one that gave what does not verify is asked no more for that file, but, when
//! no other is left, to have it from another node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::digest::{self, Digest};
use tonic::Streaming;

use super::{Fetched, next};
use crate::connect::Client;
use crate::failure::{Code, Failure};
use crate::pb::fetch_reply::Kind;
use crate::{pb, wire};

/// Rounds over all endpoints before content is given up.
const ROUNDS_MAX: usize = 3;
/// Ranges of files in one call: a node takes no more.
const RANGES_MAX: usize = 10_000;

/// Content of one epoch from the cluster, file by file. Waits without a thread: several of them may read from several
/// nodes at once.
pub struct EpochContent {
    client: Arc<Client>,
    job: String,
    epoch: u64,
    wanted: Wanted,
    open: Option<Open>,
    bad: Bad,
    /// Why endpoints were left, the newest reason of each.
    pub left: BTreeMap<String, Failure>,
}

/// What will be asked for.
struct Wanted {
    /// By entry: whether a node sends anything for it.
    has_content: Vec<bool>,
    /// Rising; at first everything.
    ranges: Vec<pb::IdRange>,
}

impl Wanted {
    /// The ranges of a call that begins with `file`.
    fn from(&self, file: u32) -> Vec<pb::IdRange> {
        let first = self.ranges.partition_point(|range| range.to <= file);
        let mut ranges: Vec<_> = self.ranges[first..].iter().take(RANGES_MAX).cloned().collect();
        match ranges.first_mut() {
            Some(range) if range.from <= file => range.from = file,
            // Nobody has said that it would be wanted.
            _ => ranges = vec![pb::IdRange { from: file, to: file + 1 }],
        }
        ranges
    }

    /// The file that a node sends after `file`, of those that it was asked for.
    fn after(&self, file: u32, asked: &[pb::IdRange]) -> Option<u32> {
        let first = asked.partition_point(|range| range.to <= file + 1);
        let mut files = asked[first..].iter().flat_map(|range| range.from.max(file + 1)..range.to);
        files.find(|file| self.has_content.get(*file as usize).copied().unwrap_or(false))
    }
}

/// Endpoints whose copy of one file is damaged.
#[derive(Default)]
struct Bad {
    file: Option<u32>,
    endpoints: BTreeSet<String>,
    /// How often what came was not the content.
    rejected: usize,
}

impl Bad {
    fn of(&mut self, file: u32) -> &mut Bad {
        if self.file != Some(file) {
            *self = Bad { file: Some(file), ..Bad::default() };
        }
        self
    }
}

/// An open stream.
struct Open {
    endpoint: String,
    stream: Streaming<pb::FetchReply>,
    asked: Vec<pb::IdRange>,
    /// The file that it goes on with.
    next_file: u32,
}

impl EpochContent {
    /// The content of what was fetched.
    pub fn new(client: Arc<Client>, fetched: &Fetched) -> EpochContent {
        let entries = &fetched.manifest.entries;
        EpochContent {
            client,
            job: fetched.head.job.clone(),
            epoch: fetched.head.epoch,
            wanted: Wanted {
                has_content: entries.iter().map(|entry| entry.size > 0).collect(),
                ranges: vec![pb::IdRange { from: 0, to: wire::id(entries.len()) }],
            },
            open: None,
            bad: Bad::default(),
            left: BTreeMap::new(),
        }
    }

    /// Only these entries will be asked for, in their order; without a word, all.
    pub fn expect(&mut self, entries: &[Range<usize>]) {
        let range =
            |range: &Range<usize>| pb::IdRange { from: wire::id(range.start), to: wire::id(range.end) };
        self.wanted.ranges = entries.iter().map(range).collect();
        self.open = None;
    }

    /// What follows `offset` in a file of `size` bytes, by its index in the manifest: bytes, or so many zeros, at least one.
    /// Each chunk is as its node has hashed it; whether the file is what was sealed is known when all of it is here.
    ///
    /// # Errors
    /// No node gave it; [`EpochContent::left`] has the reason of each.
    pub async fn read(&mut self, index: usize, offset: u64, size: u64) -> Result<pb::FileChunk, Failure> {
        let chunk = self.chunk(wire::id(index), offset, size).await?;
        if chunk.offset + length(&chunk) == size {
            self.go_on(chunk.file);
        }
        Ok(chunk)
    }

    /// What came of the file is not what was sealed: whoever gave it is asked last. True when it may be read once more.
    pub fn reject(&mut self, index: usize, why: &str) -> bool {
        let endpoints = self.client.endpoints().len();
        let bad = self.bad.of(wire::id(index));
        if let Some(open) = self.open.take() {
            let failure = Failure::new(Code::Corrupt, "its copy is damaged").why(why);
            self.left.insert(open.endpoint.clone(), failure);
            bad.endpoints.insert(open.endpoint);
        }
        bad.rejected += 1;
        // Each once for its own copy, and once for that of another.
        bad.rejected < 2 * endpoints
    }

    /// The file has been read to its end: the stream goes on with the next one that it was asked for.
    fn go_on(&mut self, file: u32) {
        if let Some(open) = &mut self.open {
            // Beyond the last one it was asked for there is none.
            open.next_file = self.wanted.after(file, &open.asked).unwrap_or(u32::MAX);
        }
    }

    async fn connect(
        &self,
        endpoint: &str,
        file: u32,
        offset: u64,
        elsewhere: bool,
    ) -> Result<Open, Failure> {
        let asked = self.wanted.from(file);
        let request = pb::FetchRequest {
            job: self.job.clone(),
            which: Some(pb::Which { kind: Some(pb::which::Kind::Exactly(self.epoch)) }),
            stale: true,
            content: true,
            files: asked.clone(),
            start_offset: offset,
            direct: false,
            elsewhere,
        };
        let stream = self.client.open_fetch(endpoint, request, self.client.options.timeout).await?;
        Ok(Open { endpoint: endpoint.to_owned(), stream, asked, next_file: file })
    }

    /// The next chunk of `file` at `offset`, from wherever it is to be had.
    async fn chunk(&mut self, file: u32, offset: u64, size: u64) -> Result<pb::FileChunk, Failure> {
        let mut endpoints = self.client.endpoints();
        // Those that have it, as far as we know, come first.
        endpoints.sort_by_key(|endpoint| self.bad.of(file).endpoints.contains(endpoint));
        let mut tries = endpoints.iter().cycle().take(endpoints.len() * ROUNDS_MAX);
        loop {
            let mut open = match self.open.take() {
                Some(open) if open.next_file == file => open,
                _ => {
                    let Some(endpoint) = tries.next() else { return Err(self.nobody_has_it()) };
                    let elsewhere = self.bad.of(file).endpoints.contains(endpoint);
                    match self.connect(endpoint, file, offset, elsewhere).await {
                        Ok(open) => open,
                        Err(failure) => {
                            self.left.insert(endpoint.clone(), failure);
                            continue;
                        }
                    }
                }
            };
            match read_chunk(&mut open.stream, self.client.options.timeout).await {
                Ok(chunk) if fits(&chunk, file, offset, size) => {
                    self.open = Some(open);
                    return Ok(chunk);
                }
                Ok(_) => {
                    let failure = Failure::new(Code::Corrupt, "the node answered out of order")
                        .why("it sent another range than it was asked for");
                    self.left.insert(open.endpoint, failure);
                }
                Err(failure) => {
                    if failure.code == Code::Corrupt {
                        self.bad.of(file).endpoints.insert(open.endpoint.clone());
                    }
                    self.left.insert(open.endpoint, failure);
                }
            }
        }
    }

    fn nobody_has_it(&self) -> Failure {
        let why: Vec<String> = self.left.iter().map(|(endpoint, why)| format!("{endpoint} {why}")).collect();
        let corrupt = self.left.values().any(|failure| failure.code == Code::Corrupt);
        // It was removed while it was restored: no node brings it back.
        let gone = !self.left.is_empty() && self.left.values().all(|failure| failure.code == Code::NotFound);
        let (code, sentence) = match (corrupt, gone) {
            (true, _) => (Code::Corrupt, "no node gave the content"),
            (_, true) => (Code::NotFound, "the epoch was removed meanwhile"),
            _ => (Code::Unavailable, "no node gave the content"),
        };
        Failure::new(code, sentence).why(why.join("; "))
    }
}

/// Bytes of the file that a chunk stands for.
pub(super) fn length(chunk: &pb::FileChunk) -> u64 {
    if chunk.payload.is_empty() { chunk.zeros } else { chunk.payload.len() as u64 }
}

fn fits(chunk: &pb::FileChunk, file: u32, offset: u64, size: u64) -> bool {
    let len = length(chunk);
    chunk.file == file && chunk.offset == offset && len > 0 && len <= size - offset
}

/// Reads one chunk and checks it against the digest that came with it, when the range is a subtree.
async fn read_chunk(
    stream: &mut Streaming<pb::FetchReply>,
    patience: Duration,
) -> Result<pb::FileChunk, Failure> {
    let chunk = loop {
        match next(stream, patience, patience).await? {
            Some(Kind::Chunk(chunk)) => break chunk,
            Some(_) => {}
            None => {
                return Err(
                    Failure::new(Code::Unavailable, "the node ended early").why("the stream ended early")
                );
            }
        }
    };
    let intact = chunk.payload.is_empty()
        || Digest::from_slice(&chunk.digest).is_some_and(|known| digest::content(&chunk.payload) == known);
    match intact {
        true => Ok(chunk),
        false => Err(Failure::new(Code::Corrupt, "a chunk was damaged on its way")
            .why(format!("file {} at offset {}", chunk.file, chunk.offset))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u32, to: u32) -> pb::IdRange {
        pb::IdRange { from, to }
    }

    #[test]
    fn a_call_asks_for_what_is_left_and_knows_what_comes_next() {
        let mut has_content = vec![true; 30];
        has_content[12] = false;
        let wanted = Wanted { has_content, ranges: vec![range(2, 3), range(10, 14), range(20, 21)] };
        assert_eq!(wanted.from(2), wanted.ranges);
        assert_eq!(wanted.from(13), [range(13, 14), range(20, 21)]);
        assert_eq!(wanted.from(5), [range(5, 6)], "nobody has said so");
        let asked = wanted.from(2);
        let files = std::iter::successors(Some(2), |file| wanted.after(*file, &asked));
        assert_eq!(files.collect::<Vec<_>>(), [2, 10, 11, 13, 20]);
        // No call asks for more than a node takes.
        let many = (0..RANGES_MAX as u32 + 5).map(|n| range(2 * n, 2 * n + 1)).collect();
        let wanted = Wanted { has_content: vec![true; 3 * RANGES_MAX], ranges: many };
        let asked = wanted.from(0);
        assert_eq!(asked.len(), RANGES_MAX);
        let last = asked[RANGES_MAX - 1].from;
        assert_eq!(wanted.after(last, &asked), None);
        assert_eq!(wanted.from(last + 2).len(), 5);
    }
}
