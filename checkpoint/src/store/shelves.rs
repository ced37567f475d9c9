//! The shelves of a node: the disk, where everything lies on it, and what this process knows of what lies there. Every
//! verb of the store works on them.
//!
//! **Names.** Whoever gives, moves or takes away names of blobs and epochs holds [`Names`] meanwhile: there is one at a
//! time, and what must not be done without asks for it. Contents are read and synced without, as far as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use super::arriving::Arrivals;
use super::layout::Layout;
use super::verified::Known;
use crate::disk::{Disk, Fault, StrictDisk};
use crate::epoch::JobName;
use crate::io_error::{IoError, at};

#[derive(Debug)]
pub(super) struct Shelves {
    /// A failed sync on it is final.
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) fault: Fault,
    /// Blobs that were read and found good.
    pub(super) known: Known,
    /// Files that were made since everything was synced last.
    pub(super) unsynced_files: AtomicUsize,
    // Held while names of blobs and epochs change.
    names: Mutex<()>,
    // Content that is being brought. Locked for moments only, never while names are waited for.
    arriving: Mutex<Arrivals>,
    // By job: epochs that `latest` does not point to.
    avoided: Mutex<BTreeMap<JobName, BTreeSet<u64>>>,
    // Jobs whose `latest` could not be moved.
    behind: Mutex<BTreeSet<JobName>>,
}

impl Shelves {
    pub(super) fn new(disk: StrictDisk, layout: Layout) -> Shelves {
        Shelves {
            fault: disk.fault().clone(),
            disk: Arc::new(disk),
            layout,
            known: Known::default(),
            unsynced_files: AtomicUsize::new(0),
            names: Mutex::default(),
            arriving: Mutex::default(),
            avoided: Mutex::default(),
            behind: Mutex::default(),
        }
    }

    pub(super) fn arriving(&self) -> MutexGuard<'_, Arrivals> {
        self.arriving.lock().expect("a thread panicked while it looked for what arrives")
    }

    pub(super) fn all_avoided(&self) -> MutexGuard<'_, BTreeMap<JobName, BTreeSet<u64>>> {
        self.avoided.lock().expect("a thread panicked while it noted what to avoid")
    }

    pub(super) fn avoided(&self, job: &JobName) -> BTreeSet<u64> {
        self.all_avoided().get(job).cloned().unwrap_or_default()
    }

    pub(super) fn behind(&self) -> MutexGuard<'_, BTreeSet<JobName>> {
        self.behind.lock().expect("a thread panicked while it noted where a `latest` points")
    }

    /// Waits until nobody else changes names.
    pub(super) fn lock_names(&self) -> Names<'_> {
        let lock = self.names.lock().expect("a thread panicked while it changed names");
        Names { shelves: self, _lock: lock }
    }
}

/// The shelves, whose names nobody else changes as long as this is there.
#[derive(Debug)]
pub(super) struct Names<'a> {
    shelves: &'a Shelves,
    _lock: MutexGuard<'a, ()>,
}

impl Deref for Names<'_> {
    type Target = Shelves;

    fn deref(&self) -> &Shelves {
        self.shelves
    }
}

impl Names<'_> {
    /// A name in a folder that nothing has, `name` or with a number: what could not be removed earlier must not stand in
    /// the way.
    pub(super) fn free_name(&self, dir: &Path, name: &str) -> Result<PathBuf, IoError> {
        let mut path = dir.join(name);
        for n in 1_u64.. {
            match self.disk.stat(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(at("stat", &path)(e)),
                Ok(_) => path = dir.join(format!("{name}.{n}")),
            }
        }
        Ok(path)
    }
}
