//! One store, open.

mod access;
mod clean_up;
mod delete;
mod fetch;
mod files;
mod habits;
mod leftovers;
mod list;
mod marks;
mod open_uploads;
mod put_file;
mod put_parts;
mod put_whole;
mod read;
mod upload;
mod upload_all;
mod uploading;

use std::fmt;
use std::sync::Arc;

use object_store::client::HttpConnector;
use object_store::path::Path;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::{Backend, BackendKind, path_of};
use crate::config::StoreConfig;
use crate::error::{StoreError, Trouble};
use crate::gate::Gate;
use crate::limits::Limits;
use crate::line::Line;
use crate::name::ObjectName;
use crate::secret::Mask;
use crate::tap::Counts;

pub use delete::Deleted;
pub use fetch::{Fetched, Wanted};
use habits::Habits;
pub use list::{Listed, Page};
pub use marks::Marker;
pub use open_uploads::OpenUpload;
pub use read::Head;
pub use upload::Stored;
pub use upload_all::Written;
pub use uploading::Proof;

/// An open store. Clones share its requests' bound and its counts.
///
/// All of it is async and belongs on a runtime of its own ([`crate::StoreRuntime`]): no thread of the consensus may
/// wait for a store. Dropping a call ends it; what the store has been asked by then, it may do.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    line: Line,
    counts: Arc<Counts>,
    prefix: String,
    // Leaves of uploads that are in memory, of all objects together.
    room: Arc<Semaphore>,
    // Threads that wait for the files of a folder.
    threads: Arc<Semaphore>,
    habits: Habits,
}

// The crate's stores print their configuration.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?}, {:?})", self.inner.line.name, self.inner.backend.kind)
    }
}

impl Store {
    /// Opens a store; sends nothing.
    ///
    /// # Errors
    /// `Configuration`; `Away`: a folder, or a file of credentials, that is not there now.
    pub fn open(config: &StoreConfig, limits: Limits) -> Result<Store, StoreError> {
        Store::open_over(config, limits, Arc::new(object_store::client::ReqwestConnector::default()))
    }

    /// Opens a store over another transport.
    pub(crate) fn open_over(
        config: &StoreConfig,
        limits: Limits,
        transport: Arc<dyn HttpConnector>,
    ) -> Result<Store, StoreError> {
        let counts = Arc::new(Counts::default());
        let mask = Mask::new(config.secrets());
        let backend = Backend::open(config, transport, Arc::clone(&counts), &mask)?;
        let line = Line {
            name: config.name().to_string(),
            limits,
            gate: Gate::new(limits.requests),
            mask,
            reload: backend.reload.clone(),
        };
        let prefix = config.place.prefix().to_string();
        let as_requests = || Arc::new(Semaphore::new(limits.requests.max(1)));
        let (room, threads, habits) = (as_requests(), as_requests(), Habits::default());
        Ok(Store { inner: Arc::new(Inner { backend, line, counts, prefix, room, threads, habits }) })
    }

    /// What the store is called.
    pub fn name(&self) -> &str {
        &self.inner.line.name
    }

    /// Requests and bytes so far. A folder counts none, but its answers.
    pub fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    pub(crate) fn line(&self) -> &Line {
        &self.inner.line
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    fn path(&self, name: &ObjectName) -> Path {
        self.path_below(&name.to_string())
    }

    pub(crate) fn path_below(&self, key: &str) -> Path {
        path_of(&self.inner.prefix, key)
    }

    /// Whether it is a folder that all nodes share.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.backend().kind, BackendKind::Folder { .. })
    }

    /// Whether nothing can be written there.
    pub(crate) fn is_for_reading(&self) -> bool {
        matches!(self.backend().kind, BackendKind::ReadOnly)
    }

    /// Waits until a leaf of what is to be written may be in memory.
    async fn room(&self) -> OwnedSemaphorePermit {
        let room = Arc::clone(&self.inner.room).acquire_owned().await;
        room.expect("nobody closes the room of a store")
    }

    fn writable(&self, what: &str) -> Result<(), StoreError> {
        match self.backend().kind {
            BackendKind::ReadOnly => Err(StoreError::new(
                Trouble::Refused,
                format!("store {:?}: {what}", self.name()),
                "plain HTTP is for reading",
                "name a bucket or a shared folder to write to",
            )),
            _ => Ok(()),
        }
    }
}
