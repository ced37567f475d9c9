//! What a commit stands on: the log, the ledger of this node, and a few words of it. The engine knows no more of a node, so
//! that whatever can propose records and knows a ledger can commit with it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::{JobName, Limits, Store};
use client::Code;
use nativelog::ledger::Ledger;
use nativelog::record::LogRecord;
use raft::{CutOff, Outcome, Pending, ProposalStream, ProposeError};

use crate::known::Known;

/// A node, as a commit needs to know it.
pub trait Ground: Sync {
    /// A way to one leader.
    type Stream: Proposals;

    /// Its id.
    fn node(&self) -> u64;
    /// Whether it leads now, as far as it knows.
    fn leads(&self) -> bool;
    /// How many nodes vote.
    fn voters(&self) -> usize;
    /// Limits of an epoch.
    fn limits(&self) -> Limits;

    /// Proposes one record to whoever leads. The answer may be waited for elsewhere, or by nobody.
    fn propose(&self, record: LogRecord) -> impl Future<Output = Outcome> + Send + 'static;
    /// A way to whoever leads now, for records in their order.
    fn stream(&self) -> impl Future<Output = Result<Self::Stream, ProposeError>> + Send;
    /// Waits until everything that is committed by now is in the ledger of this node.
    fn read_barrier(&self) -> impl Future<Output = Result<(), ProposeError>> + Send;
    /// That ledger. Not to be held over a wait.
    fn ledger(&self) -> impl Deref<Target = Ledger>;
    /// Why nothing can be committed through this node now, when that is so.
    fn cut_off(&self) -> Option<CutOff>;
    /// What it means for a caller that nothing can be committed here now.
    fn no_way(&self) -> (Code, &'static str);

    /// The files of the job's newest epoch here that a new one may refer to, whose content goes into the store of this id,
    /// or into the log.
    fn newest_files(&self, job: &JobName, store: Option<u64>) -> impl Future<Output = Known> + Send;
    /// Where files lie until they are published.
    fn shelves(&self) -> Arc<Store>;
    /// Whether so many bytes can be written here; else why not.
    fn has_room_for(&self, bytes: u64) -> Result<(), String>;
    /// Which members know no object stores, when some do not.
    fn too_old(&self) -> Option<String>;
    /// Counts that a stage took so long.
    fn stage(&self, stage: &'static str, took: Duration);
}

/// Proposals on their way to one leader, in order.
pub trait Proposals: Send + Sync {
    /// The outcome of one, when it is there; it may be dropped.
    type Pending: Future<Output = Outcome> + Send + Unpin;

    /// Sends a record as soon as there is room for its bytes. An error says that it is surely not in the log.
    fn send(&self, record: LogRecord) -> impl Future<Output = Result<Self::Pending, ProposeError>> + Send;
}

impl Proposals for ProposalStream {
    type Pending = Pending;

    fn send(&self, record: LogRecord) -> impl Future<Output = Result<Pending, ProposeError>> + Send {
        ProposalStream::send(self, record)
    }
}
