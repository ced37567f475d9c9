//! Why a transfer did not come to its end.

use std::io;

use checkpoint::disk::lacks_room;
use checkpoint::store::{Content, StoreError};

use super::lost::Lost;

/// Why a transfer did not come to its end. What came is kept and need not come again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// No peer that answers has it, and some that live did not say so.
    #[error("{what} is not to be had from any peer: {why}")]
    Lacking {
        /// What is lacking.
        what: String,
        /// What the peers said.
        why: String,
    },
    /// Every peer that lives said that it has no good copy.
    #[error("{what} is nowhere to be had: {why}")]
    Nowhere {
        /// What is lacking.
        what: String,
        /// What the peers said.
        why: String,
        /// The contents.
        lost: Vec<Lost>,
    },
    /// It lies in an object store that does not give it now, and no other node has it.
    #[error("waits for the store {store}: {why}")]
    Waits {
        /// The store.
        store: String,
        /// What it says.
        why: String,
    },
    /// The object that it lies in is not in its store any more, or not as it was written, and no other node was found that
    /// has it.
    #[error("the object {object} in the store {store} is {is}: {why}")]
    Unstored {
        /// The object.
        object: String,
        /// Its store.
        store: String,
        /// `gone` or `damaged`.
        is: &'static str,
        /// What the store says, and the peers.
        why: String,
    },
    /// Another transfer of this node brings this just now: a moment later it is here, or may be brought.
    #[error("{0} is being brought already")]
    Underway(String),
    /// Nobody can serve bytes of open attempts: these must end before anything above is acknowledged here.
    #[error("{}", .0.iter().map(|(attempt, why)| format!("attempt {attempt}: {why}")).collect::<Vec<_>>().join("; "))]
    Staged(Vec<(u64, String)>),
    /// This epoch cannot be put in its place on this node: something is in the way that nobody but a user may remove.
    /// Others are not concerned.
    #[error("{what} cannot be put in place here: {why}")]
    Unfit {
        /// The epoch.
        what: String,
        /// What is in the way.
        why: String,
    },
    /// This node's disk has no room for it. Sealed content is owed then; what open attempts have is not.
    #[error("this node has no room for it: {0}")]
    Full(String),
    /// This node's disk refuses.
    #[error("this node cannot take it: {0}")]
    Here(String),
    /// Somebody ended it.
    #[error("the transfer was ended")]
    Stopped,
}

impl TransferError {
    /// Why there is no place for content that is to come.
    pub(crate) fn of_incoming(content: &Content, why: &StoreError) -> TransferError {
        match why {
            StoreError::Io(error) if error.source.kind() == io::ErrorKind::WouldBlock => {
                TransferError::Underway(format!("content {}", content.digest))
            }
            _ => TransferError::of_disk(why),
        }
    }

    /// What the disk says.
    pub(crate) fn of_disk(why: &(dyn std::error::Error + 'static)) -> TransferError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(why);
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(lacks_room) {
                return TransferError::Full(why.to_string());
            }
            cause = error.source();
        }
        TransferError::Here(why.to_string())
    }
}

/// Runs `work`, which waits for the disk, on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TransferError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| TransferError::Here("a thread of this node panicked".into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use checkpoint::RealDisk;
    use checkpoint::store::Store;

    use super::*;

    #[test]
    fn what_another_transfer_brings_is_no_fault_of_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let content = Content { digest: checkpoint::digest::content(b"1"), mode: 0o644, size: 1 };
        let first = store.incoming(content).unwrap();
        let error = TransferError::of_incoming(&content, &store.incoming(content).unwrap_err());
        assert!(matches!(error, TransferError::Underway(_)), "{error}");
        drop(first);
        store.incoming(content).unwrap();
    }
}
