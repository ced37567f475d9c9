//! What the ledger that a transfer goes by says of sealed content: which seal brought it, and where in stores it lies.

use std::sync::Arc;

use checkpoint::{Digest, JobName};
use nativelog::ledger::{Ledger, ObjectInfo, ObjectKey};
use nativelog::machine::Machine;

/// Where content lies in an object store, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The store, as people call it.
    pub store: String,
    /// The object.
    pub object: ObjectKey,
    /// Its length, in bytes.
    pub object_bytes: u64,
    /// Where the content begins in it, in bytes.
    pub offset: u64,
}

/// Knows sealed content.
pub trait Sealed: Send + Sync {
    /// Log index of the seal that brought it; `None` when nobody holds it (any more).
    fn brought(&self, digest: &Digest) -> Option<u64>;
    /// Where it lies in stores; nothing where it lies in the log alone.
    fn places(&self, digest: &Digest) -> Vec<Place>;
    /// Whether sealed content is on a majority by the log: not of what lies in stores alone.
    fn is_in_log(&self, digest: &Digest) -> bool;
    /// Where the manifest of a sealed epoch lies in a store: nowhere when the epoch lies in the log.
    fn manifest_place(&self, job: &JobName, epoch: u64) -> Option<Place>;
}

fn place(ledger: &Ledger, object: ObjectInfo, offset: u64) -> Option<Place> {
    let store = ledger.store(object.key.store)?.name;
    Some(Place { store, object: object.key, object_bytes: object.bytes, offset })
}

impl Sealed for Ledger {
    fn brought(&self, digest: &Digest) -> Option<u64> {
        Ledger::brought(self, digest)
    }

    fn places(&self, digest: &Digest) -> Vec<Place> {
        let Some(homes) = self.homes(digest) else { return Vec::new() };
        let places = homes.extents.into_iter();
        places.filter_map(|extent| place(self, extent.object, extent.offset)).collect()
    }

    fn is_in_log(&self, digest: &Digest) -> bool {
        Ledger::brought(self, digest).is_some() && self.only_in_store(digest).is_none()
    }

    fn manifest_place(&self, job: &JobName, epoch: u64) -> Option<Place> {
        place(self, self.manifest_object(job, epoch)?, 0)
    }
}

/// As the ledger of this machine says it by then.
pub struct Present(pub Arc<Machine>);

impl Sealed for Present {
    fn brought(&self, digest: &Digest) -> Option<u64> {
        Sealed::brought(&*self.0.ledger(), digest)
    }

    fn places(&self, digest: &Digest) -> Vec<Place> {
        self.0.ledger().places(digest)
    }

    fn is_in_log(&self, digest: &Digest) -> bool {
        self.0.ledger().is_in_log(digest)
    }

    fn manifest_place(&self, job: &JobName, epoch: u64) -> Option<Place> {
        self.0.ledger().manifest_place(job, epoch)
    }
}
