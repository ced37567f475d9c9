//! The object stores that this node can reach, as a replica sees them: a port, filled in by whoever builds the replica.
//!
//! The replica asks here for content that lies in a store, and compares all that comes with the digest of the content
//! before it gets a name. It asks when no peer has the content, or first of all ([`Hydrate`]).
//!
//! **Never.** Nothing of the consensus waits for a store, and no thread of it works for one: what is behind this port has
//! threads of its own, and its futures only wait.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::ObjectKey;

/// Bytes of an object that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRange {
    /// The object; its `store` is the id by which the ledger knows the store.
    pub object: ObjectKey,
    /// Its length, in bytes.
    pub object_bytes: u64,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// Its length, in bytes: at least 1, at most [`RANGE_BYTES_MAX`], and it ends within the object.
    pub len: u64,
}

/// The longest range that is asked for at once, in bytes.
pub const RANGE_BYTES_MAX: u64 = 4 << 20;

/// Object stores, by the ids that they have in the ledger.
pub trait Depot: Send + Sync {
    /// Exactly the bytes of this range, as the store gives them: who asks verifies them. May be dropped at any moment. It
    /// tries again by itself what passes in seconds, and gives up by a deadline of its own; without one the replica gives
    /// it up.
    ///
    /// # Errors
    /// [`DepotError`]: also when more or fewer bytes came, or the store is not the one that the ledger means.
    fn fetch(&self, range: ObjectRange) -> BoxFuture<'_, Result<Bytes, DepotError>>;

    /// Makes the marker at the store's prefix show the batch of deletes `to`, if it shows that or one of `from` now, and is
    /// this cluster's: whoever copied all folders of the cluster is found out so. May be repeated.
    ///
    /// # Errors
    /// [`DepotError`]; `NotOurs` when the marker shows something else. Nothing may be deleted then.
    fn begin_deletes(&self, batch: DeletesBegin) -> BoxFuture<'_, Result<(), DepotError>>;

    /// Deletes objects of one store, which nobody needs any more and whose names never come back; each has its answer. One
    /// that is not there (any more) is deleted. May be repeated.
    fn delete(&self, objects: Vec<ObjectKey>) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), DepotError>)>>;
}

/// A batch of deletes that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletesBegin {
    /// The store's id in the ledger.
    pub store: u64,
    /// Its uuid, as the marker says.
    pub uuid: [u8; 16],
    /// Nonces that the marker may show before.
    pub from: Vec<u64>,
    /// The nonce that it shows then.
    pub to: u64,
}

/// What kind of trouble it is with a store: whoever asks decides by this, never by words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DepotTrouble {
    /// No answer, or only *busy*; or this node has no such store.
    Away,
    /// The store does not let this node do that: it will not by itself.
    Denied,
    /// The store answers, and has no such object.
    Gone,
    /// The object is not what was written: shorter, say.
    Damaged,
    /// Behind the name is another store, or another cluster's prefix: nothing there is ours.
    NotOurs,
}

/// Why a store did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct DepotError {
    /// The kind.
    pub trouble: DepotTrouble,
    /// In words, without secrets.
    pub why: String,
}

impl DepotError {
    /// Of this kind, in these words.
    pub fn new(trouble: DepotTrouble, why: impl Into<String>) -> DepotError {
        DepotError { trouble, why: why.into() }
    }

    /// Whether it is said of this one object; else it is said of the store, and others will hear the same.
    pub fn is_of_object(&self) -> bool {
        matches!(self.trouble, DepotTrouble::Gone | DepotTrouble::Damaged)
    }
}

/// Where content that lies in a store is looked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hydrate {
    /// On the other nodes: of all that lack it one reads the store, and the others have it from that one.
    #[default]
    Peers,
    /// In the store.
    Store,
}

/// The way to the object stores.
#[derive(Clone)]
pub struct Stores(pub Arc<dyn Depot>);

impl Stores {
    /// There are none.
    pub fn none() -> Stores {
        Stores(Arc::new(NoStores))
    }
}

impl Default for Stores {
    fn default() -> Stores {
        Stores::none()
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

struct NoStores;

impl NoStores {
    fn no() -> DepotError {
        DepotError::new(DepotTrouble::Away, "no object store is configured on this node")
    }
}

impl Depot for NoStores {
    fn fetch(&self, _: ObjectRange) -> BoxFuture<'_, Result<Bytes, DepotError>> {
        async { Err(NoStores::no()) }.boxed()
    }

    fn begin_deletes(&self, _: DeletesBegin) -> BoxFuture<'_, Result<(), DepotError>> {
        async { Err(NoStores::no()) }.boxed()
    }

    fn delete(&self, objects: Vec<ObjectKey>) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), DepotError>)>> {
        async { objects.into_iter().map(|object| (object, Err(NoStores::no()))).collect() }.boxed()
    }
}
