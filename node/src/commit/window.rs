//! The window: records that a quorum has not acknowledged yet, in order, bounded in bytes.
//!
//! A record leaves it only when it was acknowledged, or when the log was seen to cover what it
//! carries. Payloads are shared, never copied.

use std::collections::{BTreeMap, VecDeque};

use checkpoint::{Coverage, Piece};
use nativelog::ledger::{Rejected, Verdict};
use nativelog::record::LogRecord;
use raft::ProposeError;

use super::ground::{Ground, Proposals};
use crate::limits::{WINDOW_BYTES, WINDOW_RECORDS};

/// What a record covers of its attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covers {
    /// A page of the plan.
    Page(u32),
    /// A run of one file.
    Range { file: u32, offset: u64, len: u64 },
    /// Whole files.
    Files(Vec<u32>),
}

impl Covers {
    fn is_in(&self, coverage: &Coverage) -> bool {
        match self {
            Covers::Page(page) => *page < coverage.parts,
            Covers::Range { file, offset, len } => coverage.has(*file, *offset, *len),
            Covers::Files(files) => files.iter().all(|file| coverage.has_file(*file)),
        }
    }
}

/// What a piece covers, and how many bytes of files that is; `sizes` tells those of references.
pub fn covers(piece: &Piece, sizes: &BTreeMap<u32, u64>) -> (Covers, u64) {
    match piece {
        Piece::Chunk { file, offset, payload, .. } => {
            let len = payload.len() as u64;
            (Covers::Range { file: *file, offset: *offset, len }, len)
        }
        Piece::Zero { file, offset, len, .. } => {
            (Covers::Range { file: *file, offset: *offset, len: *len }, *len)
        }
        Piece::Pack { files, .. } => {
            let bytes = files.iter().map(|file| u64::from(file.len)).sum();
            (Covers::Files(files.iter().map(|file| file.file).collect()), bytes)
        }
        Piece::Reuse { files } => {
            let bytes = files.iter().filter_map(|(file, _)| sizes.get(file)).sum();
            (Covers::Files(files.iter().map(|(file, _)| *file).collect()), bytes)
        }
    }
}

struct Sent<P> {
    record: LogRecord,
    covers: Covers,
    /// Bytes of files, for progress.
    bytes: u64,
    /// Absent until it was handed to a leader.
    answer: Option<P>,
}

/// How the oldest record of the window fared.
pub enum Settled {
    /// A quorum has it; so many bytes of files.
    Acknowledged(u64),
    /// The ledger said no.
    Rejected(Rejected),
    /// No answer: it may be in the log or not.
    Lost(ProposeError),
}

/// See the module.
pub struct Window<S: Proposals> {
    attempt: u64,
    sent: VecDeque<Sent<S::Pending>>,
    /// Index of the first record that was not handed to a leader.
    next: usize,
    bytes: u64,
    stream: Option<S>,
}

impl<S: Proposals> Window<S> {
    /// An empty window of an attempt.
    pub fn new(attempt: u64) -> Window<S> {
        Window { attempt, sent: VecDeque::new(), next: 0, bytes: 0, stream: None }
    }

    /// The attempt.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Records in the window.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether another record may be taken.
    pub fn has_room(&self) -> bool {
        self.bytes < WINDOW_BYTES && self.sent.len() < WINDOW_RECORDS
    }

    /// Takes a record; [`Window::dispatch`] sends it.
    pub fn push(&mut self, record: LogRecord, covers: Covers, bytes: u64) {
        self.bytes += record.bytes();
        self.sent.push_back(Sent { record, covers, bytes, answer: None });
    }

    /// Hands everything that waits to the leader, in order.
    pub async fn dispatch<G: Ground<Stream = S>>(&mut self, ground: &G) -> Result<(), ProposeError> {
        while self.next < self.sent.len() {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(ground.stream().await?),
            };
            let record = self.sent[self.next].record.clone();
            let answer = stream.send(record).await?;
            self.sent[self.next].answer = Some(answer);
            self.next += 1;
        }
        Ok(())
    }

    /// Waits for the answer to the oldest record. Cancel-safe. The window must not be empty, and
    /// its oldest record handed out.
    pub async fn settle(&mut self) -> Settled {
        let oldest = self.sent.front_mut().expect("asked only when something is in the window");
        let Some(answer) = &mut oldest.answer else {
            return Settled::Lost(ProposeError::Unavailable { why: "it was not sent yet".into() });
        };
        match answer.await {
            Ok((_, Verdict::Accepted(_))) => {
                let bytes = self.pop();
                Settled::Acknowledged(bytes)
            }
            Ok((_, Verdict::Rejected(rejected))) => Settled::Rejected(rejected),
            Err(error) => {
                oldest.answer = None;
                Settled::Lost(error)
            }
        }
    }

    fn pop(&mut self) -> u64 {
        let sent = self.sent.pop_front().expect("the caller has seen it");
        self.bytes -= sent.record.bytes();
        self.next = self.next.saturating_sub(1);
        sent.bytes
    }

    /// Lets go of the leader: nothing is counted as handed out any more.
    pub fn disconnect(&mut self) {
        self.stream = None;
        self.next = 0;
        for sent in &mut self.sent {
            sent.answer = None;
        }
    }

    /// Drops what the log covers; answers how many records that were. The rest waits for dispatch.
    pub fn resume(&mut self, coverage: &Coverage) -> usize {
        let before = self.sent.len();
        self.sent.retain(|sent| !sent.covers.is_in(coverage));
        self.bytes = self.sent.iter().map(|sent| sent.record.bytes()).sum();
        before - self.sent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use nativelog::compose;
    use raft::ProposalStream;

    fn chunk(file: u32, offset: u64, len: usize) -> Piece {
        let payload = Bytes::from(vec![7; len]);
        let digest = checkpoint::digest::content(&payload);
        Piece::Chunk { file, offset, digest, file_bytes: 1 << 30, payload }
    }

    #[test]
    fn a_resumed_window_keeps_only_what_the_log_lacks() {
        let mut window = Window::<ProposalStream>::new(3);
        for offset in [0, 1 << 20, 2 << 20] {
            let piece = chunk(1, offset, 1 << 20);
            let (covers, bytes) = covers(&piece, &BTreeMap::new());
            window.push(compose::piece(3, piece), covers, bytes);
        }
        let mut coverage = Coverage::default();
        coverage.add_range(1, 0, 2 << 20);
        window.disconnect();
        assert_eq!(window.resume(&coverage), 2);
        assert_eq!(window.len(), 1);
        assert!(window.has_room());
    }

    #[test]
    fn the_window_is_bounded_in_bytes() {
        let mut window = Window::<ProposalStream>::new(3);
        let mut taken = 0;
        while window.has_room() {
            let piece = chunk(1, taken << 22, 4 << 20);
            window.push(compose::piece(3, piece), Covers::Page(0), 0);
            taken += 1;
        }
        assert_eq!(taken, 12);
    }
}
