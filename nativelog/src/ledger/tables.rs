//! The ledger's tables, side by side. Whoever reads or changes them is in the rooms above.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::JobName;

use super::attempt::Attempt;
use super::changes::Changes;
use super::content::{Contents, Quarantined};
use super::held::{Gone, Held, Paged};
use super::job::{EndingPins, Job};
use super::outcomes::Outcomes;
use super::rules::{RULES_VERSION_FIRST, Rules};
use super::store::StoreRecord;
use super::sum::Sums;
use crate::record::LogId;

/// The replicated state: jobs, sealed epochs, open attempts, sealed content.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(super) applied: Option<LogId>,
    pub(super) rules: u32,
    pub(super) cluster: Option<[u8; 16]>,
    /// Incarnation of each node that ever belonged.
    pub(super) members: BTreeMap<u64, [u8; 16]>,
    pub(super) log_ms: u64,
    pub(super) jobs: BTreeMap<JobName, Job>,
    /// Names of the jobs, by number.
    pub(super) names: BTreeMap<u64, JobName>,
    pub(super) open: BTreeMap<u64, Attempt>,
    /// Entries in the plans of all open attempts.
    pub(super) planned: u64,
    pub(super) outcomes: Outcomes,
    pub(super) ending_pins: EndingPins,
    /// Shared only while the table after a large seal is worked out.
    pub(super) content: Arc<Contents>,
    /// Content in quarantine, by its id.
    pub(super) quarantine: BTreeMap<u32, Quarantined>,
    /// Object stores, by the log index of the record that named them.
    pub(super) stores: BTreeMap<u64, StoreRecord>,
    pub(super) sums: Sums,
    pub(super) changes: Changes,
    /// For the next step, see `holding.rs`.
    pub(super) held: Option<Box<Held>>,
    /// For the next step, see `paging.rs`.
    pub(super) paged: Option<Box<Paged>>,
    pub(super) gone: Gone,
    /// Of this process alone, see [`Ledger::brought_bytes`].
    pub(super) brought: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            applied: None,
            rules: RULES_VERSION_FIRST,
            cluster: None,
            members: BTreeMap::new(),
            log_ms: 0,
            jobs: BTreeMap::new(),
            names: BTreeMap::new(),
            open: BTreeMap::new(),
            planned: 0,
            outcomes: Outcomes::default(),
            ending_pins: EndingPins::new(),
            content: Arc::default(),
            quarantine: BTreeMap::new(),
            stores: BTreeMap::new(),
            sums: Sums::default(),
            changes: Changes::default(),
            held: None,
            paged: None,
            gone: Gone::default(),
            brought: 0,
        }
    }
}

impl Ledger {
    /// Position of the last entry that was applied.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// An empty ledger that begins under the rules of `version`; `None` when this binary does not know them.
    pub fn under(version: u32) -> Option<Ledger> {
        Rules::of(version)?;
        Some(Ledger { rules: version, ..Ledger::default() })
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> &'static Rules {
        Rules::of(self.rules).expect("only known rules are activated or decoded")
    }
}
