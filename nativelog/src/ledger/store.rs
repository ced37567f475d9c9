//! What the ledger keeps of an object store.

/// So many nonces of earlier batches of deletes are known.
pub(super) const BEFORE_MAX: usize = 7;

/// A name that is bound to one prefix in one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreRecord {
    pub name: String,
    /// As the marker at the prefix says.
    pub uuid: [u8; 16],
    /// The nonce of the newest batch of deletes.
    pub batch: u64,
    /// Those of the batches before, the newest first, at most [`BEFORE_MAX`]: after a crash the marker may show one, and
    /// also when a leader of before, which the store was slow to answer, writes late.
    pub before: Vec<u64>,
}

impl StoreRecord {
    /// Another batch of deletes.
    pub fn begin_batch(&mut self, nonce: u64) {
        let before = std::mem::replace(&mut self.batch, nonce);
        self.before.insert(0, before);
        self.before.truncate(BEFORE_MAX);
    }
}
