//! The ledger: the pure state machine at the centre of epochlog.
//!
//! It takes committed records in log order and answers each with a verdict and with effects for the
//! disk. It must never do IO, read a clock, use randomness, depend on configuration or on the order of
//! a hash map: every replica feeds it the same records and must hold the same ledger at the same
//! position, bit for bit ([`Ledger::digest`]).
//!
//! Judging and changing never share a function. [`Ledger::check`] and [`Ledger::step`] run the same
//! judges (`judge.rs` and the files it names), which read the ledger and answer with a [`Rejected`] or
//! with a change; only `apply.rs` and the files it names change anything, and they cannot say no.
//!
//! From the bottom up, and nobody imports what is above it, nor this file:
//!
//! | rooms | what they hold |
//! |---|---|
//! | `verdict`, `effect`, `pages`, `rules` | what is answered, what disks are told, where plans lie, the limits |
//! | `key`, `codec`, `sum`, `changes` | names and fields of rows, what sums them up, which of them changed |
//! | `objects`, `homes`, `store` | names of objects, where content lies, the stores |
//! | `job`, `attempt`, `content`, `outcomes`, `tree`, `held` | the parts of the tables |
//! | `tables` | the [`Ledger`]: the tables side by side, and nothing that reads or changes them |
//! | `rows`, `digest`, `encode` | the tables as rows, the digest that follows them, all rows as bytes |
//! | `query`, `hybrid`, `census`, `quarantine`, `found`, `covering`, `walk`, `listed` | what is asked of it |
//! | `fields`, `change` | a record's fields, read; what a record that was judged good comes to |
//! | `gathering`, `paging` | plans, read before the ledger is locked for them |
//! | `judge_*`, above them `judge` | one file for each family of records; the front door |
//! | `holding` | the content table after a record, worked out before the ledger is locked for it |
//! | `apply_*`, `log_time`, above them `apply` | what a change does |
//! | `room`, `admission` | what a proposer asks beforehand |
//!
//! `docs/ledger.md` tells the rules, `tests/scripts/begin_chunk_seal.txt` is the first story to read.

mod admission;
mod apply;
mod apply_end;
mod apply_named;
mod apply_quarantine;
mod attempt;
mod by_digest;
mod census;
mod change;
mod changes;
mod codec;
mod content;
mod covering;
mod digest;
mod effect;
mod encode;
mod fields;
mod files;
mod found;
mod free;
mod gathering;
mod held;
mod holding;
mod homes;
mod hybrid;
mod job;
mod judge;
mod judge_begin;
mod judge_link;
mod judge_pieces;
mod judge_quarantine;
mod judge_retention;
mod judge_seal;
mod judge_stores;
mod judge_writer;
mod key;
mod listed;
mod log_time;
mod objects;
mod outcomes;
mod pages;
mod paging;
mod quarantine;
mod query;
mod released;
mod ring;
mod room;
mod rows;
mod rules;
mod slots;
mod store;
mod sum;
mod tables;
mod tree;
mod verdict;
mod walk;

use crate::record::{Header, LogId, RECORD_VERSION, RECORD_VERSION_MIN};

pub use admission::{Admission, NotAdmitted, Ticket};
pub use census::{Census, ObjectClass};
pub use codec::DecodeError;
pub use covering::Covering;
pub use digest::DIGEST_FORM;
pub use effect::{Effect, PublishEpoch, Released, Step};
pub use encode::Frozen;
pub use gathering::{Gathered, Gathering};
pub use held::{Gone, Held, Paged};
pub use holding::Holding;
pub use hybrid::{ExtentInfo, HomesInfo, Mode, ObjectInfo, ReleasedObject, StoreInfo};
pub use key::RowKey;
pub use listed::ChangedRow;
pub use log_time::TimeNeed;
pub use objects::ObjectKey;
pub use pages::{Page, PageLost, PlanPages};
pub use paging::Paging;
pub use quarantine::QuarantineInfo;
pub use query::{AttemptInfo, EpochInfo, JobInfo, PackedFile, PinInfo};
pub use room::{Ask, LAPSES_MS, NoRoom, Spoken};
pub use rules::{
    OUTCOME_KEPT_MS, OUTCOMES_MAX, RULES_VERSION_FIRST, RULES_VERSION_MAX, Rules, STORES_RULES, StoreRules,
    TICK_MS_MAX,
};
pub use tables::Ledger;
pub use verdict::{Accepted, LedgerFault, Reason, Rejected, SealedEpoch, Verdict, VerdictError};
pub use walk::{EpochView, Go, Walk};

impl Ledger {
    /// Applies one record.
    ///
    /// # Errors
    /// A record that only a newer binary can judge, or a seal of a plan that was not read first ([`Ledger::gathering`]).
    /// Nothing is applied then, and the replica must stop.
    ///
    /// # Panics
    /// When `id` is not the position after [`Ledger::applied`].
    pub fn step(&mut self, id: LogId, header: &Header) -> Result<Step, LedgerFault> {
        self.assert_next(id);
        if let Some(fault) = fault_of(header) {
            return Err(fault);
        }
        if let Some(attempt) = self.ungathered(header) {
            return Err(LedgerFault::PlanLost { attempt, why: "nobody has read it before the seal".into() });
        }
        self.gone = Gone::default();
        self.check_held(header);
        let step = match self.judge(header).and_then(|change| self.judge_lengths(change)) {
            Err(rejected) => Step { verdict: Verdict::Rejected(rejected), effects: Vec::new() },
            Ok(change) => {
                let verdict = Verdict::Accepted(change.accepted(id));
                self.place_held();
                self.brought = self.brought.saturating_add(header.payload_bytes);
                let effects = self.apply(change, id, header.record_bytes());
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
    /// the log would give are `u64::MAX`; a record for a newer binary is malformed here,
    /// and a seal of a plan that was not read yet is incomplete.
    pub fn check(&self, header: &Header) -> Verdict {
        if let Some(fault) = fault_of(header) {
            return Verdict::Rejected(Rejected::new(Reason::Malformed, fault.to_string()));
        }
        match self.judge(header) {
            Ok(change) => Verdict::Accepted(change.accepted(DRY_RUN)),
            Err(rejected) => Verdict::Rejected(rejected),
        }
    }

    fn assert_next(&self, id: LogId) {
        let next = self.applied.map_or(0, |applied| applied.index + 1);
        assert_eq!(id.index, next, "records are applied in order, without gaps");
    }

    fn moved_to(&mut self, id: LogId) {
        self.applied = Some(id);
        (self.held, self.paged) = (None, None);
        self.touch(RowKey::Meta);
        self.sum_up();
    }
}

/// Where a dry run pretends to stand.
const DRY_RUN: LogId = LogId { term: u64::MAX, node: u64::MAX, index: u64::MAX };

/// What this binary must not judge: another one would judge it otherwise, or by more than this one sees.
fn fault_of(header: &Header) -> Option<LedgerFault> {
    if !(RECORD_VERSION_MIN..=RECORD_VERSION).contains(&header.version) {
        return Some(LedgerFault::UnknownRecord { found: header.version });
    }
    match &header.kind {
        None => Some(LedgerFault::UnknownKind),
        Some(crate::record::Kind::Activate(activate)) if activate.version > RULES_VERSION_MAX => {
            Some(LedgerFault::UnknownRules { wanted: activate.version, known: RULES_VERSION_MAX })
        }
        _ => None,
    }
}
