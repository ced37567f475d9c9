//! What the ledger keeps of an object store.

/// A name that is bound to one prefix in one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreRecord {
    pub name: String,
    /// As the marker at the prefix says.
    pub uuid: [u8; 16],
    /// The nonce of the newest batch of deletes, and the one before: after a crash the marker may show either.
    pub batch: u64,
    pub before: Option<u64>,
}
