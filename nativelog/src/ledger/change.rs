//! What a record that was judged good comes to: what the judges hand to whoever applies it. Knows tables' parts, not the
//! ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::{CommitId, Digest, Envelope, JobName};

use super::attempt::{Checking, NewPage, Terms};
use super::objects::{Named, ObjectKey};
use super::store::StoreRecord;
use super::tree::Tree;
use super::verdict::{Accepted, SealedEpoch};
use crate::record::LogId;

/// A record that was judged good, with everything worked out that applying it needs.
pub(super) enum Change {
    /// The record repeats what holds already; when it names an open attempt, its bytes count there.
    Repeat {
        accepted: Accepted,
        attempt: Option<u64>,
    },
    Genesis {
        cluster: [u8; 16],
        members: Vec<(u64, [u8; 16])>,
    },
    Join {
        node: u64,
        incarnation: [u8; 16],
    },
    Activate {
        version: u32,
    },
    Tick {
        elapsed_ms: u64,
    },
    OpenWriter {
        job: JobName,
        commit: CommitId,
    },
    /// `replaces` is an open attempt at the same epoch whose writer has fallen silent: it ends. So do those that
    /// give way.
    Begin {
        terms: Terms,
        replaces: Option<u64>,
        gives_way: Vec<u64>,
    },
    /// With what the plan comes to so far, but for the last.
    Page {
        attempt: u64,
        page: NewPage,
        checking: Option<Box<Checking>>,
    },
    Range {
        attempt: u64,
        file: u32,
        offset: u64,
        len: u64,
        digest: Digest,
    },
    Pack {
        attempt: u64,
        files: Vec<PackedEntry>,
    },
    /// File, its digest, id of the content.
    Reuse {
        attempt: u64,
        files: Vec<(u32, Digest, u32)>,
    },
    /// Files that lie in an object of the attempt's store.
    Link {
        attempt: u64,
        object: Named,
        files: Vec<LinkedEntry>,
    },
    Seal(Box<Sealing>),
    Abort {
        attempt: u64,
    },
    Pin {
        job: JobName,
        epoch: u64,
        owner: String,
        reason: String,
        until_ms: Option<u64>,
    },
    Unpin {
        job: JobName,
        epoch: u64,
        owner: String,
    },
    Expire {
        job: JobName,
        epochs: Vec<u64>,
    },
    Quarantine {
        content: u32,
        digest: Digest,
        found: BTreeMap<u64, String>,
    },
    /// What the log brought of this content is lost, and a store has it: these attempts lean on what is lost.
    LogLost {
        content: u32,
        digest: Digest,
        ends: Vec<u64>,
    },
    Healed {
        content: u32,
    },
    RemoveJob {
        job: JobName,
    },
    Store {
        store: StoreRecord,
    },
    DeleteBatch {
        store: u64,
        nonce: u64,
    },
    /// Content of this id lies in another object.
    Rehome {
        attempt: u64,
        content: u32,
        object: Named,
        offset: u64,
    },
    /// All of these are known to be released.
    Deleted {
        objects: Vec<ObjectKey>,
    },
}

/// A file of a pack that is new to its attempt.
pub(super) struct PackedEntry {
    pub file: u32,
    pub digest: Digest,
    pub offset: u32,
    pub len: u32,
}

/// A file in an object that is new to its attempt.
pub(super) struct LinkedEntry {
    pub file: u32,
    pub digest: Digest,
    pub offset: u64,
}

/// An epoch that may be sealed.
pub(super) struct Sealing {
    /// The open attempt, or `None` when the record is the whole epoch and its own attempt.
    pub attempt: Option<u64>,
    pub terms: Terms,
    pub tree: Arc<Tree>,
    /// What a whole epoch unpacks.
    pub unpack: Vec<PackedEntry>,
    /// The object of the manifest, of an attempt that has a store.
    pub manifest: Option<Named>,
    /// The answer, with the position left open.
    pub sealed: SealedEpoch,
    pub sealed_log_ms: u64,
    /// The time for people, as the epoch will have it.
    pub sealed_wall_ms: u64,
}

impl Change {
    /// What the record is answered with when it stands at `id`.
    pub fn accepted(&self, id: LogId) -> Accepted {
        match self {
            Change::Repeat { accepted, .. } => accepted.clone(),
            Change::OpenWriter { .. } => Accepted::Opened { token: id.index },
            Change::Begin { terms, .. } => {
                Accepted::Begun { attempt: id.index, epoch: terms.epoch, resumed: false, token: terms.token }
            }
            Change::Seal(sealing) => Accepted::Sealed(sealing.answer(id)),
            _ => Accepted::Done,
        }
    }
}

impl Sealing {
    pub fn answer(&self, id: LogId) -> SealedEpoch {
        let attempt = self.attempt.unwrap_or(id.index);
        SealedEpoch { position: id, attempt, ..self.sealed.clone() }
    }

    pub fn envelope(&self, sealed: &SealedEpoch) -> Envelope {
        Envelope {
            job: sealed.job.clone(),
            epoch: sealed.epoch,
            attempt: sealed.attempt,
            position: checkpoint::Position {
                term: sealed.position.term,
                node: sealed.position.node,
                index: sealed.position.index,
            },
            root: sealed.root,
            labels: self.terms.labels.clone(),
            depends_on: self.terms.depends_on.clone(),
            base: self.terms.base,
            sealed_log_ms: self.sealed_log_ms,
        }
    }
}

pub(super) fn repeat(accepted: Accepted) -> Change {
    Change::Repeat { accepted, attempt: None }
}
