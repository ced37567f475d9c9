//! Where this node has the pages of open plans: in the log, and in `staging/<attempt>/plan/<page>` once a snapshot stands
//! above their records.
//!
//! **Guarantees.** A page of an attempt that is open in a kept snapshot is in its file, durable since before that snapshot
//! was. What lies above the newest snapshot is in the log, and is looked for there first: a file may be half written.
//!
//! **Never** is a page believed that has another digest than the ledger says.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::disk::{Disk, says_nothing};
use checkpoint::durable::{ensure_dir, ignore_missing};
use checkpoint::store::{Layout, Store};
use checkpoint::{PlanEntry, RelPath};

use crate::ledger::{Page, PageLost, PlanPages};
use crate::record::{Body, Kind};
use crate::store::LogStore;

/// A page that could not be read for want of something is read again after this long, for so long: apply waits, and a
/// leader whose apply stands still is no use to anybody.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);

/// Pages as they are found on this node.
pub(crate) struct Plans {
    log: LogStore,
    store: Arc<Store>,
    /// The page that was read last: names are looked up one after the other.
    recent: Mutex<Option<(Page, Arc<Vec<PlanEntry>>)>>,
}

/// Pages in their files, where no log is.
pub(crate) struct PageFiles<'a> {
    pub disk: &'a dyn Disk,
    pub layout: &'a Layout,
}

impl PlanPages for PageFiles<'_> {
    fn read(&self, page: &Page) -> io::Result<Bytes> {
        let path = self.layout.page_file(page.attempt, page.page);
        self.disk.read_file(&path, u64::from(page.bytes)).map(Bytes::from)
    }
}

/// Writes a page into its file, names included, still to be synced. Its bytes were checked.
///
/// # Errors
/// The disk refuses.
pub fn write_page(store: &Store, page: &Page, bytes: &[u8]) -> io::Result<()> {
    let (disk, layout) = (&**store.disk(), store.layout());
    ensure_dir(disk, &layout.staging_dir())?;
    ensure_dir(disk, &layout.attempt_dir(page.attempt))?;
    ensure_dir(disk, &layout.plan_dir(page.attempt))?;
    let path = layout.page_file(page.attempt, page.page);
    ignore_missing(disk.unlink(&path))?;
    disk.write_new(&path, bytes, 0o600)
}

impl PlanPages for Plans {
    fn read(&self, page: &Page) -> io::Result<Bytes> {
        let in_log = self.in_log(page);
        if let Ok(Some(bytes)) = in_log {
            return Ok(bytes);
        }
        let (disk, layout) = (&**self.store.disk(), self.store.layout());
        PageFiles { disk, layout }.read(page).map_err(|error| match in_log {
            Err(log) if error.kind() == io::ErrorKind::NotFound => log,
            _ => error,
        })
    }
}

/// For whom a page that cannot be read is the end of this replica: waits a while when the process has too little of
/// something, which says nothing of the page.
pub(crate) struct Patient<'a>(pub &'a Plans);

impl PlanPages for Patient<'_> {
    fn read(&self, page: &Page) -> io::Result<Bytes> {
        let since = Instant::now();
        loop {
            match self.0.read(page) {
                Err(error) if says_nothing(&error) && since.elapsed() < PATIENCE && !self.0.log.stops() => {
                    tracing::warn!(attempt = page.attempt, page = page.page, %error, "a page of a plan cannot be read now; it is tried again");
                    std::thread::sleep(READ_AGAIN_AFTER);
                }
                read => return read,
            }
        }
    }
}

impl Plans {
    pub fn new(log: LogStore, store: Arc<Store>) -> Plans {
        Plans { log, store, recent: Mutex::default() }
    }

    /// `None` when the log does not hold its record, or another one in its place.
    fn in_log(&self, page: &Page) -> io::Result<Option<Bytes>> {
        // A peer may ask for anything.
        let Some(end) = page.index.checked_add(1) else { return Ok(None) };
        let Some(entry) = self.log.headers(page.index..end)?.pop() else { return Ok(None) };
        let Body::Record(record) = entry.body else { return Ok(None) };
        let Some(Kind::Part(part)) = &record.header.kind else { return Ok(None) };
        Ok(Some(part.entries.clone()).filter(|bytes| page.is(bytes)))
    }

    /// The entries of a page.
    pub fn entries(&self, page: &Page) -> Result<Arc<Vec<PlanEntry>>, PageLost> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, entries)) = recent().as_ref().filter(|(there, _)| there == page) {
            return Ok(entries.clone());
        }
        let entries = Arc::new(page.read(self)?);
        *recent() = Some((page.clone(), entries.clone()));
        Ok(entries)
    }

    /// The path of an entry that is in this page.
    pub fn path(&self, page: &Page, file: u32) -> Result<Option<RelPath>, PageLost> {
        let entries = self.entries(page)?;
        let at = file.checked_sub(page.first).and_then(|at| entries.get(at as usize));
        Ok(at.map(|entry| entry.path.clone()))
    }

    /// Writes pages into their files, still to be synced.
    ///
    /// # Errors
    /// A page is not here, or the disk refuses.
    pub fn write<'a>(&self, pages: impl Iterator<Item = &'a Page>) -> io::Result<bool> {
        let mut wrote = false;
        for page in pages {
            let bytes = self.read(page)?;
            if !page.is(&bytes) {
                let why =
                    format!("page {} of the plan of attempt {} does not verify", page.page, page.attempt);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            write_page(&self.store, page, &bytes)?;
            wrote = true;
        }
        Ok(wrote)
    }
}
