//! Tasks that end with their owner.

use tokio::task::JoinHandle;

/// A task that ends with its owner.
pub(super) struct Owned(pub JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
