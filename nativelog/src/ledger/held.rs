//! What was worked out for the next record, and what the last one let go of: beside the state, no part of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::attempt::Attempt;
use super::content::Contents;
use super::effect::Released;
use super::tree::Tree;
use crate::record::LogId;

/// The content table as it is after the record.
#[derive(Debug, Clone)]
pub struct Held {
    pub(super) applied: Option<LogId>,
    pub(super) record: Bytes,
    pub(super) contents: Arc<Contents>,
    /// Ids of a sealed epoch's content, ascending.
    pub(super) sealed: Arc<[u32]>,
    /// What nobody holds any more, for each that let go.
    pub(super) released: VecDeque<Vec<Released>>,
}

/// What the ledger has let go of and takes long to free: see [`Ledger::take_gone`](super::Ledger::take_gone).
#[derive(Debug, Clone, Default)]
pub struct Gone {
    pub(super) attempts: Vec<Attempt>,
    pub(super) trees: Vec<Arc<Tree>>,
    pub(super) contents: Vec<Arc<Contents>>,
}
