//! The catalog: what people list (jobs, epochs, open attempts), as a projection of the ledger in sled. Its rows are
//! the ledger's own ([`RowKey::is_listed`]); the row of the ledger's position says as of when they are.
//!
//! It never carries a promise: nothing here is fsynced, nothing in the house reads it back (the ledger answers, and a
//! start takes it from snapshot and log), and a folder that is damaged or of another format is made anew. So is one whose
//! files have become much larger than its rows. This is the only file that knows sled.
//!
//! **Never** many rows in one transaction or batch: sled clones a page for every row that it takes, and frees none of
//! the clones before the whole is written, about 9 KiB a row.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ledger::{ChangedRow, RowKey};

/// Memory that sled's page cache may take, in bytes.
const CACHE_BYTES: u64 = 4 << 20;
/// Format of the rows.
const FORMAT: [u8; 4] = 3u32.to_be_bytes();
/// No key of a row: every key begins with a table's tag, which is small.
const FORMAT_KEY: &[u8] = b"\xffformat";
/// What sled's file takes when it is empty, bytes. It grows by as much at a time, and never gets smaller.
const EMPTY_BYTES: u64 = 512 << 10;
/// It may take so many bytes for each row before it is worth making anew.
const ROW_BYTES: u64 = 1 << 10;

/// Why the catalog could not be used. The log goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// sled said no.
    #[error("the catalog failed: {0}")]
    Sled(#[from] sled::Error),
    /// A row that is none, or of another format.
    #[error("what is in the catalog is no row of this version")]
    Format,
    /// The disk said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The open catalog of one node.
#[derive(Debug)]
pub struct Catalog {
    folder: PathBuf,
    db: sled::Db,
    /// Bytes of the files when they were made anew, and rows then.
    made: Option<(u64, u64)>,
}

/// Longest that a catalog may stay locked by whoever had it before.
const LOCKED_MAX: Duration = Duration::from_secs(5);

fn is_locked(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::WouldBlock || why.to_string().contains("could not acquire lock")
}

impl Catalog {
    /// Opens the catalog in `folder`, which belongs to it alone; anything that does not open is made anew.
    ///
    /// # Errors
    /// The folder can neither be opened nor made anew.
    pub fn open(folder: &Path) -> Result<Catalog, CatalogError> {
        // sled answers some kinds of damage with a panic; nothing of it is kept then.
        let why = match catch_unwind(AssertUnwindSafe(|| Catalog::open_as_is(folder))) {
            Ok(Ok(catalog)) => return Ok(catalog),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::warn!(why, folder = %folder.display(), "the catalog does not open: making it anew");
        remove(folder)?;
        Catalog::open_as_is(folder)
    }

    fn open_as_is(folder: &Path) -> Result<Catalog, CatalogError> {
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let begun = Instant::now();
        let db = loop {
            match config.open() {
                // sled's threads let go of its lock a moment after the last handle is dropped.
                Err(sled::Error::Io(why)) if is_locked(&why) && begun.elapsed() < LOCKED_MAX => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => break opened?,
            }
        };
        match db.get(FORMAT_KEY)? {
            Some(format) if *format == FORMAT[..] => {}
            None if db.is_empty() && !db.was_recovered() => drop(db.insert(FORMAT_KEY, &FORMAT)?),
            _ => return Err(CatalogError::Format),
        }
        Ok(Catalog { folder: folder.to_owned(), db, made: None })
    }

    /// The keys of all rows that are here.
    ///
    /// # Errors
    /// sled failed, or something is here that is no row: make it anew.
    pub fn keys(&self) -> Result<Vec<RowKey>, CatalogError> {
        let mut keys = Vec::new();
        for key in self.db.iter().keys() {
            let key = key?;
            if *key != *FORMAT_KEY {
                keys.push(RowKey::from_bytes(&key).map_err(|_| CatalogError::Format)?);
            }
        }
        Ok(keys)
    }

    /// Writes rows that changed, each for itself.
    ///
    /// # Errors
    /// sled failed. The projection is void then: drop the catalog, the log goes on.
    pub fn project(&self, changed: &[ChangedRow]) -> Result<(), CatalogError> {
        for (key, value) in changed {
            let there = self.db.get(key)?;
            match value {
                Some(value) if there.as_deref() == Some(value) => {}
                Some(value) => drop(self.db.insert(key, &value[..])?),
                None if there.is_some() => drop(self.db.remove(key)?),
                None => {}
            }
        }
        Ok(())
    }

    /// Whether the files are much larger than so many rows need, and, for what these take, than they were when they were
    /// made anew: to do that again would gain nothing. `rows` is asked only when the files are not small anyway.
    pub fn is_bloated(&self, rows: impl FnOnce() -> u64) -> bool {
        let Ok(bytes) = self.db.size_on_disk() else { return false };
        if bytes <= EMPTY_BYTES * 3 / 2 {
            return false;
        }
        let rows = rows();
        let limit = EMPTY_BYTES + rows.saturating_mul(ROW_BYTES).max(EMPTY_BYTES / 2);
        let again = self.made.map_or(0, |(bytes, of)| {
            u64::try_from(u128::from(bytes) * 2 * u128::from(rows) / u128::from(of.max(1)))
                .unwrap_or(u64::MAX)
        });
        bytes > limit.max(again)
    }

    /// A new catalog in place of this one, without rows.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub fn made_anew(self) -> Result<Catalog, CatalogError> {
        let Catalog { folder, db, .. } = self;
        // The handle goes before the files do.
        drop(db);
        remove(&folder)?;
        Catalog::open_as_is(&folder)
    }

    /// All `rows` were written since the catalog was made anew.
    pub fn is_whole(&mut self, rows: u64) {
        self.made = self.db.size_on_disk().ok().map(|bytes| (bytes, rows));
    }

    /// Hands everything to the system; no more.
    ///
    /// # Errors
    /// As [`Catalog::project`].
    pub fn flush(&self) -> Result<(), CatalogError> {
        self.db.flush()?;
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<(), CatalogError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CatalogError::Io { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose;
    use crate::ledger::Ledger;
    use crate::record::LogId;
    use checkpoint::{CommitId, JobName};

    impl Catalog {
        /// Every row, in the order of keys.
        pub(crate) fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
            let rows = self.db.iter().map(|row| row.unwrap()).filter(|(key, _)| *key != *FORMAT_KEY);
            rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
        }
    }

    fn fill(ledger: &mut Ledger, records: std::ops::Range<u64>) {
        for index in records {
            let job = JobName::try_from(format!("job{}", index % 3).as_str()).unwrap();
            let commit = CommitId::from_bytes([index as u8; 16]);
            let id = LogId { term: 1, node: 1, index };
            ledger.step(id, &compose::open_writer(&job, commit, 0).header).unwrap();
        }
    }

    fn follow(catalog: &Catalog, ledger: &mut Ledger) {
        // Fewer at a time than there are.
        loop {
            let changed = ledger.take_changed(2);
            if changed.is_empty() {
                return;
            }
            catalog.project(&changed).unwrap();
        }
    }

    fn assert_lists(catalog: &Catalog, ledger: &Ledger) {
        let listed = ledger.rows().filter(|(key, _)| key.is_listed());
        let listed: Vec<_> = listed.map(|(key, value)| (key.to_bytes(), value)).collect();
        assert_eq!(catalog.rows(), listed);
        assert_eq!(listed.len() as u64, ledger.listed_rows());
    }

    fn written(folder: &Path) -> Ledger {
        let catalog = Catalog::open(folder).unwrap();
        let mut ledger = Ledger::default();
        for batch in [0..4, 4..9] {
            fill(&mut ledger, batch);
            follow(&catalog, &mut ledger);
        }
        assert_lists(&catalog, &ledger);
        catalog.flush().unwrap();
        ledger
    }

    #[test]
    fn a_catalog_from_before_follows_another_ledger() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let catalog = Catalog::open(folder.path()).unwrap();
        let other = JobName::try_from("other").unwrap();
        let mut ledger = Ledger::default();
        let id = LogId { term: 1, node: 1, index: 0 };
        ledger.step(id, &compose::open_writer(&other, CommitId::from_bytes([1; 16]), 0).header).unwrap();
        ledger.list_anew(catalog.keys().unwrap());
        follow(&catalog, &mut ledger);
        assert_lists(&catalog, &ledger);
    }

    #[test]
    fn a_catalog_follows_a_ledger_that_succeeds_another_in_the_middle() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = written(folder.path());
        let catalog = Catalog::open(folder.path()).unwrap();
        fill(&mut before, 9..12);
        catalog.project(&before.take_changed(1)).unwrap();
        let mut ledger = Ledger::default();
        fill(&mut ledger, 0..2);
        ledger.list_anew([]);
        ledger.list(before.was_listed());
        follow(&catalog, &mut ledger);
        assert_lists(&catalog, &ledger);
    }

    #[test]
    fn a_bloated_catalog_is_made_anew_as_small_as_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(folder.path()).unwrap();
        let empty = catalog.db.size_on_disk().unwrap();
        assert!(!catalog.is_bloated(|| 0), "an empty one has {empty} bytes");
        // Rows that come and go, as those of epochs do.
        for round in 0..64u32 {
            let key = RowKey::Job(JobName::try_from(format!("gone{round}").as_str()).unwrap()).to_bytes();
            catalog.db.insert(&key, vec![round as u8; 32 << 10]).unwrap();
            catalog.flush().unwrap();
            catalog.db.remove(&key).unwrap();
        }
        let mut ledger = Ledger::default();
        fill(&mut ledger, 0..100);
        let grown = catalog.db.size_on_disk().unwrap();
        assert!(catalog.is_bloated(|| ledger.listed_rows()), "{grown} bytes");
        catalog = catalog.made_anew().unwrap();
        ledger.list_anew([]);
        follow(&catalog, &mut ledger);
        catalog.is_whole(ledger.listed_rows());
        catalog.flush().unwrap();
        let now = catalog.db.size_on_disk().unwrap();
        assert!(now < grown && !catalog.is_bloated(|| ledger.listed_rows()), "{grown} bytes, and then {now}");
        assert_lists(&catalog, &ledger);
    }

    #[test]
    fn a_catalog_that_takes_much_also_when_made_anew_is_not_made_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(folder.path()).unwrap();
        // Bytes that do not compress, in rows too small for files of their own.
        for row in 0..2000u32 {
            let key = RowKey::Job(JobName::try_from(format!("row{row}").as_str()).unwrap()).to_bytes();
            let digests =
                (0..32u32).map(|n| checkpoint::digest::content(&[row, n].map(u32::to_be_bytes).concat()));
            let bytes: Vec<u8> = digests.flat_map(|digest| *digest.as_bytes()).collect();
            catalog.db.insert(&key, bytes).unwrap();
        }
        catalog.flush().unwrap();
        let bytes = catalog.db.size_on_disk().unwrap();
        assert!(catalog.is_bloated(|| 5), "{bytes} bytes");
        catalog.made = Some((bytes, 5));
        assert!(!catalog.is_bloated(|| 5), "to make it anew gains nothing");
        assert!(catalog.is_bloated(|| 2), "there are fewer rows since");
    }

    #[test]
    fn a_damaged_catalog_and_one_of_another_format_are_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        for file in fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                let mut bytes = fs::read(&path).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                fs::write(&path, bytes).unwrap();
            }
        }
        assert_eq!(Catalog::open(folder.path()).unwrap().keys().unwrap(), []);
        written(folder.path());
        let catalog = Catalog::open(folder.path()).unwrap();
        assert!(!catalog.keys().unwrap().is_empty());
        catalog.db.insert(FORMAT_KEY, &[0, 0, 0, 2]).unwrap();
        drop(catalog);
        assert_eq!(Catalog::open(folder.path()).unwrap().keys().unwrap(), []);
    }
}
