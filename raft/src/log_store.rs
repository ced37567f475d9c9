//! openraft's log storage over [`nativelog::store::LogStore`].
//!
//! **Guarantees.** `append` hands over and returns. `save_vote` returns when the vote and all that
//! was queued before it are fsynced (openraft takes its return as that). A reader sees an entry as
//! soon as `append` has returned.
//!
//! **Never.** Nothing here reads a payload for apply or at start: header-only entries are enough
//! there. Only [`RaftLogReader::limited_get_log_entries`], which feeds replication, reads payloads.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use nativelog::record::{Body, Entry};
use nativelog::store::LogStore;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, RaftLogReader};

use crate::agreement::Agreement;
use crate::types::{
    Command, RaftEntry, RaftLogId, RaftVote, TypeConfig, decode_members, encode_members, log_id, raft_id,
    raft_vote, vote,
};

/// Payload bytes of one append request to a follower.
pub const REQUEST_BYTES: usize = 1 << 20;
/// Headers that apply reads at a time.
const APPLY_BATCH: u64 = 64;

/// The log as openraft wants it.
#[derive(Clone)]
pub struct RaftLog {
    log: LogStore,
    agreement: Option<Arc<Agreement>>,
}

impl RaftLog {
    /// Wraps `log`.
    pub fn new(log: LogStore) -> Self {
        RaftLog { log, agreement: None }
    }

    /// The same, which is never cut below what is applied.
    pub(crate) fn agreeing(self, agreement: Arc<Agreement>) -> Self {
        RaftLog { agreement: Some(agreement), ..self }
    }
}

/// openraft's entry in our words; shares header and payload.
pub fn to_entry(entry: RaftEntry) -> Entry {
    let body = match entry.payload {
        EntryPayload::Blank => Body::Blank,
        EntryPayload::Normal(Command(record)) => Body::Record(record),
        EntryPayload::Membership(members) => Body::Membership(encode_members(&members)),
    };
    Entry { id: log_id(&entry.log_id), body }
}

/// Our entry in openraft's words.
///
/// # Errors
/// A membership that does not decode: the log is damaged.
pub fn from_entry(entry: Entry) -> io::Result<RaftEntry> {
    let payload = match entry.body {
        Body::Blank => EntryPayload::Blank,
        Body::Record(record) => EntryPayload::Normal(Command(record)),
        Body::Membership(bytes) => {
            let members = decode_members(&bytes).map_err(|why| {
                io::Error::new(io::ErrorKind::InvalidData, format!("membership at {}: {why}", entry.id))
            })?;
            EntryPayload::Membership(members)
        }
    };
    Ok(RaftEntry { log_id: raft_id(entry.id), payload })
}

/// The half-open range of `bounds`, ending at the log's end.
fn range_of(log: &LogStore, bounds: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match bounds.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let held = log.log_state().1.map_or(0, |last| last.index + 1);
    let end = match bounds.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => held,
    };
    start..end.min(held).max(start)
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        let range = range_of(&self.log, &range);
        self.log.headers(range)?.into_iter().map(from_entry).collect()
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<RaftEntry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let log = self.log.clone();
        let range = range_of(&log, &range);
        let batches = range.clone().step_by(APPLY_BATCH as usize).map(move |start| {
            let entries = log.headers(start..range.end.min(start + APPLY_BATCH))?;
            Ok::<_, io::Error>(futures::stream::iter(entries.into_iter().map(from_entry)))
        });
        futures::stream::iter(batches).try_flatten().boxed()
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.log.vote().map(raft_vote))
    }

    /// At most about [`REQUEST_BYTES`] of payload, never empty while `start` is held. What lies in
    /// the cache is taken at once; a follower far behind is read for on a blocking thread.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = if self.log.is_cached(start, end, REQUEST_BYTES) {
            self.log.read(start, end, REQUEST_BYTES)?
        } else {
            let log = self.log.clone();
            let read = tokio::task::spawn_blocking(move || log.read(start, end, REQUEST_BYTES));
            read.await.map_err(io::Error::other)??
        };
        entries.into_iter().map(from_entry).collect()
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (purged, last) = self.log.log_state();
        Ok(LogState { last_purged_log_id: purged.map(raft_id), last_log_id: last.map(raft_id) })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, given: &RaftVote) -> io::Result<()> {
        let (done, saved) = tokio::sync::oneshot::channel();
        self.log.save_vote(vote(given), Box::new(move |result| drop(done.send(result))));
        saved.await.map_err(|_| io::Error::other("the log writer has stopped"))?
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.log.committed().map(raft_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(to_entry).collect();
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> io::Result<()> {
        let after = last_log_id.as_ref().map(log_id);
        if let Some(agreement) = &self.agreement {
            agreement.may_truncate(after)?;
        }
        self.log.truncate_after(after);
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.log.purge(log_id(&upto));
        Ok(())
    }
}
