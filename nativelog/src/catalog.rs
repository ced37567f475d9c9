//! The catalog: a projection of the ledger in sled, for a fast start.
//!
//! It never carries a promise. sled's flush is not an fsync and a damaged database may open empty, so
//! what is read back counts only when it is provably the ledger of this node at a position the WAL has:
//! clean marker, identity, format, position (not above the log, not below the newest snapshot) and the digest of the
//! whole ledger must all agree. The marker also says what this node owed the ledger when it stopped. In every other
//! case, and on any error, the folder is deleted and made anew, and the ledger is rebuilt from snapshot and log.
//! So is one whose files have become much larger than the ledger. This is the only file that knows sled.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use checkpoint::Digest;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};

use crate::dues::Debts;
use crate::ledger::{ChangedRows, Ledger, RowKey};
use crate::record::LogId;
use crate::store::Identity;

/// Memory that sled's page cache may take, in bytes.
const CACHE_BYTES: u64 = 16 << 20;
/// Format of the rows and of the marker.
const FORMAT: u32 = 2;
/// A whole ledger is written in transactions of about this many bytes.
const BATCH_BYTES: usize = 8 << 20;
/// What sled's file takes when it is empty, bytes. It grows by as much at a time, and never gets smaller.
const EMPTY_BYTES: u64 = 512 << 10;
/// It may take so many bytes for each byte of the ledger before it is worth making anew.
const BLOATED_RATIO: u64 = 4;
const MARKER: &[u8] = b"\xffclean";

/// Trees, each with the row tags it holds: a ledger's rows sort by tag, so reading the trees in this order
/// gives them sorted.
const TREES: [(&str, std::ops::RangeInclusive<u8>); 5] =
    [("meta", 0..=0), ("jobs", 1..=2), ("epochs", 3..=5), ("content", 6..=6), ("attempts", 7..=11)];

/// Why the catalog could not be used. The log goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// sled said no.
    #[error("the catalog failed: {0}")]
    Sled(#[from] sled::Error),
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
    identity: Identity,
    db: sled::Db,
    trees: Vec<sled::Tree>,
    /// Bytes of the files when they were made anew, and of the ledger then.
    made: Option<(u64, u64)>,
    /// What the clean marker said when the catalog was opened.
    clean: Option<Marker>,
}

/// Written last, on a clean close.
#[derive(Debug, Clone, PartialEq)]
struct Marker {
    format: u32,
    digest: Digest,
    identity: Identity,
    debts: Debts,
}

impl Catalog {
    /// Opens the catalog in `folder`, which belongs to it alone. The clean marker is taken off, durably, before
    /// this returns.
    ///
    /// # Errors
    /// The folder can neither be opened nor made anew.
    pub fn open(folder: &Path, identity: Identity) -> Result<Catalog, CatalogError> {
        // sled answers some kinds of damage with a panic; nothing of it is kept then.
        let open = AssertUnwindSafe(|| Catalog::open_as_is(folder, identity));
        let why = match catch_unwind(open) {
            Ok(Ok(catalog)) => return Ok(catalog),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::warn!(why, folder = %folder.display(), "catalog is damaged: making it anew");
        remove(folder)?;
        Catalog::open_as_is(folder, identity)
    }

    fn open_as_is(folder: &Path, identity: Identity) -> Result<Catalog, CatalogError> {
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open()?;
        let trees = TREES.iter().map(|(name, _)| db.open_tree(name)).collect::<Result<Vec<_>, _>>()?;
        let clean = trees[0].remove(MARKER)?.and_then(|bytes| Marker::decode(&bytes));
        let catalog = Catalog { folder: folder.to_owned(), identity, db, trees, made: None, clean };
        catalog.sync()?;
        Ok(catalog)
    }

    /// The ledger that was projected here, and what this node owed it, when it counts: see the module. `wal_lookup`
    /// gives the WAL's position at an index, `wal_last` its last one, `snapshot` the index of the newest snapshot. When
    /// it does not count, the catalog is emptied and filled again by what it is given.
    pub fn load(
        &self,
        wal_lookup: &dyn Fn(u64) -> Option<LogId>,
        wal_last: Option<LogId>,
        snapshot: Option<u64>,
    ) -> Option<(Ledger, Debts)> {
        let found = self.read().filter(|(ledger, _)| match ledger.applied() {
            None => false,
            Some(applied) => {
                wal_last.is_some_and(|last| applied.index <= last.index)
                    && wal_lookup(applied.index) == Some(applied)
                    && snapshot.is_none_or(|snapshot| snapshot <= applied.index)
            }
        });
        if found.is_none()
            && let Err(error) = self.clear()
        {
            // Rows that stay are found out at the next start: the digest will not be the ledger's.
            tracing::warn!(%error, "the catalog does not count and cannot be emptied");
        }
        found
    }

    /// The ledger of a clean close of this node, its digest checked.
    fn read(&self) -> Option<(Ledger, Debts)> {
        let marker = self.clean.as_ref()?;
        if marker.format != FORMAT || marker.identity != self.identity {
            return None;
        }
        let mut rows = Vec::new();
        for tree in &self.trees {
            for row in tree.iter() {
                let (key, value) = row.ok()?;
                rows.push((RowKey::from_bytes(&key).ok()?, value.to_vec()));
            }
        }
        let ledger = Ledger::from_rows(rows).ok()?;
        (ledger.digest() == marker.digest).then(|| (ledger, marker.debts.clone()))
    }

    /// Writes rows that changed, in one transaction.
    ///
    /// # Errors
    /// sled failed. The projection is void then: drop the catalog, the log goes on.
    pub fn project(&self, changed: &ChangedRows) -> Result<(), CatalogError> {
        let mut batches: Vec<sled::Batch> = TREES.iter().map(|_| sled::Batch::default()).collect();
        let attempts = TREES.len() - 1;
        for id in &changed.attempts_gone {
            for tag in 7..=10u8 {
                let prefix = [&[tag][..], &id.to_be_bytes()].concat();
                for key in self.trees[attempts].scan_prefix(prefix).keys() {
                    batches[attempts].remove(key?);
                }
            }
        }
        for (key, value) in &changed.rows {
            let batch = &mut batches[tree_of(key[0])];
            match value {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        self.write(&batches)
    }

    /// Writes a whole ledger, as `Ledger::encode` gave it, in place of what is here.
    ///
    /// # Errors
    /// As [`Catalog::project`].
    pub fn project_all(&self, encoded: &[u8]) -> Result<(), CatalogError> {
        self.clear()?;
        let mut batches: Vec<sled::Batch> = TREES.iter().map(|_| sled::Batch::default()).collect();
        let mut pending = 0;
        for (key, value) in Ledger::encoded_rows(encoded) {
            pending += key.len() + value.len();
            batches[tree_of(key[0])].insert(key, value);
            if pending > BATCH_BYTES {
                self.write(&batches)?;
                batches.iter_mut().for_each(|batch| *batch = sled::Batch::default());
                pending = 0;
            }
        }
        self.write(&batches)
    }

    /// Whether the files are much larger than a ledger of `encoded` bytes needs, and, for what it takes, than they were
    /// when they were made anew: to do that again would gain nothing.
    pub fn is_bloated(&self, encoded: u64) -> bool {
        let limit = EMPTY_BYTES.saturating_add(encoded.saturating_mul(BLOATED_RATIO).max(EMPTY_BYTES / 2));
        let again = self.made.map_or(0, |(bytes, of)| {
            let by_now = u128::from(bytes) * 2 * u128::from(encoded) / u128::from(of.max(1));
            u64::try_from(by_now).unwrap_or(u64::MAX)
        });
        let limit = limit.max(again);
        self.db.size_on_disk().is_ok_and(|bytes| bytes > limit)
    }

    /// A new catalog in place of this one, with a whole ledger as `Ledger::encode` gave it.
    ///
    /// # Errors
    /// As [`Catalog::open`] and [`Catalog::project`].
    pub fn made_anew(self, encoded: &[u8]) -> Result<Catalog, CatalogError> {
        let Catalog { folder, identity, db, trees, .. } = self;
        // Every handle goes before the files do.
        drop((trees, db));
        remove(&folder)?;
        let mut catalog = Catalog::open_as_is(&folder, identity)?;
        catalog.project_all(encoded)?;
        // It cannot always be told while sled works on its files.
        catalog.made = catalog.db.size_on_disk().ok().map(|bytes| (bytes, encoded.len() as u64));
        Ok(catalog)
    }

    /// Closes the catalog as clean: everything durable first, then the marker, then that durable too. `ledger` is
    /// what was projected last, `debts` what this node owes it.
    ///
    /// # Errors
    /// The catalog will not count at the next start.
    pub fn close_clean(self, ledger: &Ledger, debts: &Debts) -> Result<(), CatalogError> {
        self.sync()?;
        let identity = self.identity;
        let marker = Marker { format: FORMAT, digest: ledger.digest(), identity, debts: debts.clone() };
        self.trees[0].insert(MARKER, marker.encode())?;
        self.sync()
    }

    fn write(&self, batches: &[sled::Batch]) -> Result<(), CatalogError> {
        let written = self.trees.as_slice().transaction(|trees| {
            for (tree, batch) in trees.iter().zip(batches) {
                tree.apply_batch(batch)?;
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        written.map_err(|error| match error {
            TransactionError::Storage(error) => CatalogError::Sled(error),
            TransactionError::Abort(()) => unreachable!("nothing aborts it"),
        })
    }

    fn clear(&self) -> Result<(), CatalogError> {
        self.trees.iter().try_for_each(|tree| tree.clear().map_err(CatalogError::Sled))
    }

    /// sled's flush reaches the page cache only: the fsync of every file and folder is ours.
    fn sync(&self) -> Result<(), CatalogError> {
        self.db.flush()?;
        sync_folder(&self.folder)
    }
}

impl Marker {
    /// The fields, and their BLAKE3: nothing else vouches for the debts.
    fn encode(&self) -> Vec<u8> {
        let Identity { node, incarnation } = self.identity;
        let (format, node, debts) = (self.format.to_be_bytes(), node.to_be_bytes(), self.debts.encode());
        let mut bytes = [&format[..], self.digest.as_bytes(), &node, &incarnation, &debts].concat();
        let digest = checkpoint::digest::content(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Marker> {
        let (bytes, sum) = bytes.split_last_chunk::<32>()?;
        if checkpoint::digest::content(bytes).as_bytes() != sum {
            return None;
        }
        let (format, rest) = bytes.split_first_chunk::<4>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (node, rest) = rest.split_first_chunk::<8>()?;
        let (incarnation, debts) = rest.split_first_chunk::<16>()?;
        Some(Marker {
            format: u32::from_be_bytes(*format),
            digest: Digest::from_bytes(*digest),
            identity: Identity { node: u64::from_be_bytes(*node), incarnation: *incarnation },
            debts: Debts::decode(debts)?,
        })
    }
}

fn tree_of(tag: u8) -> usize {
    TREES.iter().position(|(_, tags)| tags.contains(&tag)).expect("every tag of a row has its tree")
}

fn sync_folder(folder: &Path) -> Result<(), CatalogError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CatalogError::Io { path, source }
    };
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed(&path))?;
        if kind.is_dir() {
            sync_folder(&path)?;
        } else if kind.is_file() {
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed(&path))?;
        }
    }
    File::open(folder).and_then(|file| file.sync_all()).map_err(failed(folder))
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
    use checkpoint::{CommitId, JobName};

    const NODE: Identity = Identity { node: 1, incarnation: [7; 16] };

    fn at(index: u64) -> LogId {
        LogId { term: 1, node: 1, index }
    }

    fn fill(ledger: &mut Ledger, records: std::ops::Range<u64>) {
        for index in records {
            let job = JobName::try_from(format!("job{}", index % 3).as_str()).unwrap();
            let commit = CommitId::from_bytes([index as u8; 16]);
            ledger.step(at(index), &compose::open_writer(&job, commit, 0).header).unwrap();
        }
    }

    fn closed(folder: &Path) -> Ledger {
        let catalog = Catalog::open(folder, NODE).unwrap();
        assert!(catalog.load(&|_| None, None, None).is_none());
        let mut ledger = Ledger::default();
        for batch in [0..4, 4..9] {
            fill(&mut ledger, batch);
            let changes = ledger.drain_changes();
            catalog.project(&ledger.changed_rows(&changes)).unwrap();
        }
        catalog.close_clean(&ledger, &Debts::default()).unwrap();
        ledger
    }

    fn load(folder: &Path, identity: Identity, last: u64) -> Option<Ledger> {
        load_above(folder, identity, last, None)
    }

    fn load_above(folder: &Path, identity: Identity, last: u64, snapshot: Option<u64>) -> Option<Ledger> {
        let known = |index| (index <= last).then(|| at(index));
        let found = Catalog::open(folder, identity).unwrap().load(&known, Some(at(last)), snapshot);
        found.map(|(ledger, _)| ledger)
    }

    #[test]
    fn a_clean_catalog_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = closed(folder.path());
        assert_eq!(load(folder.path(), NODE, 20).unwrap().encode(), ledger.encode());
        assert!(load(folder.path(), NODE, 20).is_none(), "the marker is off after it was opened");
    }

    #[test]
    fn a_catalog_that_the_log_does_not_know_counts_not() {
        for (identity, last) in [(NODE, 7), (Identity { node: 2, ..NODE }, 20)] {
            let folder = tempfile::tempdir().unwrap();
            closed(folder.path());
            assert!(load(folder.path(), identity, last).is_none());
        }
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        let other = |index| Some(LogId { term: 2, node: 1, index });
        assert!(Catalog::open(folder.path(), NODE).unwrap().load(&other, Some(at(20)), None).is_none());
    }

    #[test]
    fn a_catalog_behind_the_snapshot_counts_not() {
        for (snapshot, counts) in [(8, true), (9, false)] {
            let folder = tempfile::tempdir().unwrap();
            closed(folder.path());
            assert_eq!(load_above(folder.path(), NODE, 20, Some(snapshot)).is_some(), counts, "{snapshot}");
        }
    }

    #[test]
    fn a_catalog_is_filled_from_a_whole_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = closed(folder.path());
        let catalog = Catalog::open(folder.path(), NODE).unwrap();
        fill(&mut ledger, 9..12);
        catalog.project_all(&ledger.encode()).unwrap();
        catalog.close_clean(&ledger, &Debts::default()).unwrap();
        assert_eq!(load(folder.path(), NODE, 20).unwrap().encode(), ledger.encode());
    }

    #[test]
    fn a_bloated_catalog_is_made_anew_as_small_as_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(folder.path(), NODE).unwrap();
        let empty = catalog.db.size_on_disk().unwrap();
        assert!(!catalog.is_bloated(0), "an empty one has {empty} bytes");
        // Rows that come and go, as those of epochs do.
        for round in 0..64u32 {
            let key = RowKey::Job(JobName::try_from(format!("gone{round}").as_str()).unwrap()).to_bytes();
            catalog.trees[1].insert(&key, vec![round as u8; 32 << 10]).unwrap();
            catalog.sync().unwrap();
            catalog.trees[1].remove(&key).unwrap();
        }
        let mut ledger = Ledger::default();
        fill(&mut ledger, 0..100);
        let encoded = ledger.encode();
        let grown = catalog.db.size_on_disk().unwrap();
        assert!(catalog.is_bloated(encoded.len() as u64), "{grown} bytes for {}", encoded.len());
        catalog = catalog.made_anew(&encoded).unwrap();
        catalog.sync().unwrap();
        let now = catalog.db.size_on_disk().unwrap();
        assert!(now < grown && !catalog.is_bloated(encoded.len() as u64), "{grown} bytes, and then {now}");
        ledger.drain_changes();
        catalog.close_clean(&ledger, &Debts::default()).unwrap();
        assert_eq!(load(folder.path(), NODE, 100).unwrap().encode(), encoded);
    }

    #[test]
    fn a_catalog_that_takes_much_also_when_made_anew_is_not_made_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(folder.path(), NODE).unwrap();
        // Bytes that do not compress, in rows too small for files of their own.
        for row in 0..2000u32 {
            let key = RowKey::Job(JobName::try_from(format!("row{row}").as_str()).unwrap()).to_bytes();
            let digests =
                (0..32u32).map(|n| checkpoint::digest::content(&[row, n].map(u32::to_be_bytes).concat()));
            let bytes: Vec<u8> = digests.flat_map(|digest| *digest.as_bytes()).collect();
            catalog.trees[1].insert(&key, bytes).unwrap();
        }
        catalog.sync().unwrap();
        let bytes = catalog.db.size_on_disk().unwrap();
        assert!(catalog.is_bloated(1000), "{bytes} bytes");
        catalog.made = Some((bytes, 1000));
        assert!(!catalog.is_bloated(1000), "to make it anew gains nothing");
        assert!(catalog.is_bloated(400), "the ledger has become smaller since");
    }

    #[test]
    fn a_damaged_catalog_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        for file in fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                let mut bytes = fs::read(&path).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                fs::write(&path, bytes).unwrap();
            }
        }
        assert!(load(folder.path(), NODE, 20).is_none());
        closed(folder.path());
        assert!(load(folder.path(), NODE, 20).is_some());
    }

    #[test]
    fn a_row_lost_or_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = closed(folder.path());
        let catalog = Catalog::open(folder.path(), NODE).unwrap();
        let key = RowKey::Job(JobName::try_from("job1").unwrap()).to_bytes();
        catalog.trees[1].remove(key).unwrap();
        catalog.close_clean(&ledger, &Debts::default()).unwrap();
        assert!(load(folder.path(), NODE, 20).is_none());
    }
}
