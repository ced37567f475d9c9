//! What was worked out for the next record, and what the last one let go of: beside the state, no part of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::Digest;

use super::attempt::{Attempt, Checking};
use super::content::{Contents, HeldBy};
use super::effect::Released;
use super::files::Stub;
use super::tree::{Kept, Tree};
use super::verdict::Rejected;
use crate::record::LogId;

/// The content table as it is after the record.
#[derive(Debug, Clone)]
pub struct Held {
    pub(super) applied: Option<LogId>,
    pub(super) record: Bytes,
    pub(super) contents: Arc<Contents>,
    /// What a sealed epoch holds.
    pub(super) sealed: HeldBy,
    /// What nobody holds any more, for each that let go.
    pub(super) released: VecDeque<Vec<Released>>,
}

/// A page that was read, for [`Ledger::keep_paged`](super::Ledger::keep_paged).
#[derive(Debug, Clone)]
pub struct Paged {
    pub(super) attempt: u64,
    pub(super) page: u32,
    pub(super) entries: Bytes,
    pub(super) digest: Digest,
    pub(super) said: Result<PageSays, Rejected>,
}

/// What a page says.
#[derive(Debug, Clone)]
pub(super) struct PageSays {
    pub stubs: Arc<[Stub]>,
    /// What the plan comes to with it.
    pub checking: Checking,
}

/// What the ledger has let go of and takes long to free: see [`Ledger::take_gone`](super::Ledger::take_gone).
#[derive(Debug, Clone, Default)]
pub struct Gone {
    pub(super) attempts: Vec<Attempt>,
    pub(super) trees: Vec<Arc<Tree>>,
    pub(super) halves: Vec<Kept>,
    pub(super) contents: Vec<Arc<Contents>>,
}
