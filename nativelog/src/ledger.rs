//! The ledger: the pure state machine at the centre of epochlog.
//!
//! It takes committed records in log order and answers each with a verdict and with effects for the
//! disk. It must never do IO, read a clock, use randomness, depend on configuration or on the order of
//! a hash map: every replica feeds it the same records and must hold the same ledger at the same
//! position, bit for bit ([`Ledger::digest`]).
//!
//! Judging and changing never share a function. [`Ledger::check`] and [`Ledger::step`] run the same
//! judges (`judge.rs` and the files it names), which read the ledger and answer with a [`Rejected`] or
//! with a change; only `apply.rs` changes anything, and it cannot say no.
//!
//! `docs/ledger.md` tells the rules, `tests/scripts/begin_chunk_seal.txt` is the first story to read.

mod admission;
mod apply;
mod attempt;
mod changes;
mod content;
mod effect;
mod encode;
mod job;
mod judge;
mod judge_begin;
mod judge_pieces;
mod judge_retention;
mod judge_seal;
mod quarantine;
mod query;
mod rows;
mod verdict;

use std::collections::BTreeMap;

use checkpoint::JobName;

use crate::record::{LogId, RECORD_VERSION, Record};

pub use admission::{Admission, NotAdmitted, Ticket};
pub use changes::{ChangedRows, Changes};
pub use effect::{Effect, PublishEpoch, Released, Step};
pub use job::COMMITS_REMEMBERED;
pub use quarantine::QuarantineInfo;
pub use query::{AttemptInfo, EpochInfo, JobInfo, PackedFile, PinInfo};
pub use rows::{DecodeError, RowKey};
pub use verdict::{Accepted, LedgerFault, Reason, Rejected, SealedEpoch, Verdict, VerdictError};

/// The highest version of the rules that this binary knows; the first is 1.
pub const RULES_VERSION_MAX: u32 = 2;
/// Most milliseconds that one tick adds to log time.
pub const TICK_MS_MAX: u64 = 60_000;

/// The replicated state: jobs, sealed epochs, open attempts, sealed content. See the module.
#[derive(Debug, Clone)]
pub struct Ledger {
    applied: Option<LogId>,
    rules: u32,
    cluster: Option<[u8; 16]>,
    /// Incarnation of each node that ever belonged.
    members: BTreeMap<u64, [u8; 16]>,
    log_ms: u64,
    jobs: BTreeMap<JobName, job::Job>,
    open: BTreeMap<u64, attempt::Attempt>,
    ended: BTreeMap<u64, job::Ended>,
    content: content::Contents,
    /// By the content's id.
    quarantine: BTreeMap<u32, quarantine::Quarantined>,
    changes: Changes,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            applied: None,
            rules: 1,
            cluster: None,
            members: BTreeMap::new(),
            log_ms: 0,
            jobs: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            content: content::Contents::default(),
            quarantine: BTreeMap::new(),
            changes: Changes::default(),
        }
    }
}

impl Ledger {
    /// Position of the last entry that was applied.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Applies one record.
    ///
    /// # Errors
    /// A record that only a newer binary can judge. Nothing is applied then, and the replica must stop.
    ///
    /// # Panics
    /// When `id` is not the position after [`Ledger::applied`].
    pub fn step(&mut self, id: LogId, header: &Record) -> Result<Step, LedgerFault> {
        self.assert_next(id);
        if let Some(fault) = fault_of(header) {
            return Err(fault);
        }
        let step = match self.judge(header) {
            Err(rejected) => Step { verdict: Verdict::Rejected(rejected), effects: Vec::new() },
            Ok(change) => {
                let verdict = Verdict::Accepted(change.accepted(id));
                let effects = self.apply(change, id, crate::record::header_and_payload_bytes(header));
                Step { verdict, effects }
            }
        };
        self.moved_to(id);
        Ok(step)
    }

    /// Passes an entry that carries no record of ours.
    ///
    /// # Panics
    /// When `id` is not the position after [`Ledger::applied`].
    pub fn advance(&mut self, id: LogId) {
        self.assert_next(id);
        self.moved_to(id);
    }

    /// What [`Ledger::step`] would answer now. Ids and positions that the record's own place in
    /// the log would give are `u64::MAX`; a record for a newer binary is malformed here.
    pub fn check(&self, header: &Record) -> Verdict {
        if let Some(fault) = fault_of(header) {
            return Verdict::Rejected(Rejected::new(Reason::Malformed, fault.to_string()));
        }
        match self.judge(header) {
            Ok(change) => Verdict::Accepted(change.accepted(DRY_RUN)),
            Err(rejected) => Verdict::Rejected(rejected),
        }
    }

    /// Hands out what changed since the last call, for the catalog. Cheap; the ledger forgets it.
    pub fn drain_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn assert_next(&self, id: LogId) {
        let next = self.applied.map_or(0, |applied| applied.index + 1);
        assert_eq!(id.index, next, "records are applied in order, without gaps");
    }

    fn moved_to(&mut self, id: LogId) {
        self.applied = Some(id);
        self.changes.row(RowKey::Meta);
    }
}

/// Where a dry run pretends to stand.
const DRY_RUN: LogId = LogId { term: u64::MAX, node: u64::MAX, index: u64::MAX };

fn fault_of(header: &Record) -> Option<LedgerFault> {
    if header.version > RECORD_VERSION {
        return Some(LedgerFault::UnknownRecord { found: header.version, known: RECORD_VERSION });
    }
    match &header.kind {
        Some(crate::record::Kind::Activate(activate)) if activate.version > RULES_VERSION_MAX => {
            Some(LedgerFault::UnknownRules { wanted: activate.version, known: RULES_VERSION_MAX })
        }
        _ => None,
    }
}
