//! A snapshot from elsewhere takes the place of everything before it.
//!
//! Whoever calls has brought all that it refers to, checked and fsynced. What is left to do is to find out what
//! this node has that the new ledger does not want any more. That is written as *debts* into the very files that
//! hold the new ledger: from the moment they are durable, whatever happens, the next start goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::durable::{ignore_missing, replace_file};
use checkpoint::store::Store;
use checkpoint::{Digest, JobName};

use super::keep::Pin;
use super::missing::{Overview, directories};
use super::{Machine, lock};
use crate::ledger::Ledger;
use crate::snapshot::{Capture, Debts, Folder, OpenFault, Owed, SnapshotError, ledger_of};

const EXPECTED_MAGIC: &[u8] = b"epochlog expected 1\n";
/// Largest list of expected content, in bytes.
const EXPECTED_BYTES_MAX: u64 = 1 << 32;

/// Content that is about to be brought for a ledger that is not installed yet. It stands in `snapshots/expected`
/// before the first blob of it is made, so that a catch-up that never ends leaves nothing behind for ever.
#[derive(Debug, Default)]
pub(super) struct Expected {
    path: PathBuf,
    contents: BTreeMap<Digest, u64>,
    /// The pin of the catch-up that goes on.
    pin: Option<u64>,
    /// Handed over as debts.
    owed: bool,
}

impl Expected {
    pub fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Expected> {
        let mut expected = Expected { path: dir.join("expected"), ..Expected::default() };
        match disk.read_file(&expected.path, EXPECTED_BYTES_MAX) {
            Ok(bytes) => match decode_expected(&bytes) {
                Some(contents) => expected.contents = contents,
                None => {
                    tracing::warn!(path = %expected.path.display(), "what a catch-up expected cannot be read: some blobs of it may stay")
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(expected)
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut bytes = EXPECTED_MAGIC.to_vec();
        for (digest, size) in &self.contents {
            bytes.extend_from_slice(digest.as_bytes());
            bytes.extend_from_slice(&size.to_be_bytes());
        }
        let digest = checkpoint::digest::content(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        replace_file(disk, &self.path, &self.path.with_extension("tmp"), &bytes)
    }

    /// The debts with what was expected are durable: the list is not needed any more.
    pub fn written_down(&mut self, disk: &dyn Disk) {
        if std::mem::take(&mut self.owed) {
            self.contents.clear();
            // When it stays, its content is owed once more at the next start.
            if let Err(error) = ignore_missing(disk.unlink(&self.path)) {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove a list that is not needed any more");
            }
        }
    }
}

fn decode_expected(bytes: &[u8]) -> Option<BTreeMap<Digest, u64>> {
    let (bytes, digest) = bytes.split_last_chunk::<32>()?;
    if checkpoint::digest::content(bytes).as_bytes() != digest {
        return None;
    }
    let (rows, rest) = bytes.strip_prefix(EXPECTED_MAGIC)?.as_chunks::<40>();
    let row = |row: &[u8; 40]| {
        let (digest, size) = row.split_first_chunk::<32>()?;
        Some((Digest::from_bytes(*digest), u64::from_be_bytes(size.try_into().ok()?)))
    };
    if !rest.is_empty() {
        return None;
    }
    rows.iter().map(row).collect()
}

impl Machine {
    /// Says what a catch-up to `ledger` is about to bring, before the first blob of it is made: if the catch-up never
    /// ends, all that is given back like any other content that nobody holds. Holds a pin, so that nothing it counts
    /// on is unlinked; keep it until the snapshot is installed or given up. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn expect(&self, ledger: &Ledger) -> io::Result<Pin> {
        let pin = self.pin_here();
        let mut snapshots = lock(&self.snapshots);
        let expected = &mut snapshots.expected;
        {
            let own = self.ledger();
            let new = ledger.contents().filter(|(digest, _)| own.content(digest).is_none());
            expected.contents.extend(new);
        }
        expected.write(&**self.store.disk())?;
        (expected.pin, expected.owed) = (Some(pin.number()), false);
        Ok(pin)
    }

    /// A catch-up has ended without its snapshot: what it may have brought is owed from `index` on.
    pub(super) fn owe_expected(&self, snapshots: &mut super::Snapshots, index: u64) {
        let expected = &mut snapshots.expected;
        let goes_on = expected.pin.is_some_and(|pin| lock(&self.pins.held).contains_key(&pin));
        if !goes_on && !expected.contents.is_empty() {
            self.performer.owe(index, expected.contents.clone(), []);
            expected.owed = true;
        }
    }

    /// Takes over a snapshot from elsewhere: the ledger, and what it says of this node's disk. Everything that it
    /// refers to must be here, checked and fsynced. The file is durable when this returns. One that is not above
    /// what is applied here changes nothing. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError`]; the machine is as before then.
    pub fn install(self: &Arc<Self>, capture: &Capture) -> Result<(), SnapshotError> {
        let mut ledger = checked(capture)?;
        let position = capture.meta.position;
        let mut snapshots = lock(&self.snapshots);
        let paused = self.performer.pause();
        let (debts, there) = {
            let old = self.ledger();
            if old.applied().is_some_and(|applied| applied.index >= position.index) {
                return Ok(());
            }
            drop(old);
            succession(&self.store, self.performer.debts(u64::MAX), &ledger)?
        };
        // Ranges and files of open attempts may have been here before, and not been synced.
        sync_everything(&self.store)?;
        let kept = keep_twice(&mut snapshots.folder, capture, &debts);
        self.show_kept(&snapshots.folder);
        kept?;
        snapshots.expected.owed = true;
        snapshots.expected.written_down(&**self.store.disk());
        let overview = Overview::of(&ledger);
        {
            let mut own = self.write();
            ledger.succeeds(&own);
            *own = ledger;
            self.performer.reset(&paused, position.index + 1, debts, &own);
        }
        self.applied.send_replace(position.index + 1);
        drop(paused);
        match self.note_absent(&overview, &there) {
            Ok(()) => self.performer.looked(),
            Err(error) => {
                tracing::warn!(%error, "cannot look for missing epochs; it is tried again");
                self.look_for_missing(overview).map_err(|source| SnapshotError::Io { what: "start a thread".into(), source })?;
            }
        }
        Ok(())
    }
}

/// Writes the snapshot files that a node starts from which lost its own, or whose log was damaged: all that the
/// snapshot refers to must be in `store`, checked and fsynced. No machine runs over `store`. Blocks.
///
/// # Errors
/// [`SnapshotError`]; what is on disk before stays.
pub fn plant(store: &Store, capture: &Capture) -> Result<(), SnapshotError> {
    let ledger = checked(capture)?;
    let dir = store.layout().snapshots_dir();
    let (mut folder, found, _) =
        Folder::open(store.disk().clone(), dir.clone()).map_err(|fault| match fault {
            OpenFault::Version(path) => {
                SnapshotError::NotNow(format!("{path} was made by a later version of this program"))
            }
            OpenFault::Io { what, source } => SnapshotError::Io { what, source },
        })?;
    let mut expected = Expected::read(&**store.disk(), &dir)
        .map_err(|source| SnapshotError::Io { what: "read what was expected".into(), source })?;
    let debts = found.map(|found| found.debts).unwrap_or_default();
    let (debts, _) = succession(store, debts, &ledger)?;
    sync_everything(store)?;
    keep_twice(&mut folder, capture, &debts)?;
    expected.owed = true;
    expected.written_down(&**store.disk());
    Ok(())
}

fn sync_everything(store: &Store) -> Result<(), SnapshotError> {
    let synced = store.disk().sync_fs(store.layout().data_dir());
    synced.map_err(|source| SnapshotError::Io { what: "sync the file system".into(), source })
}

fn checked(capture: &Capture) -> Result<Ledger, SnapshotError> {
    let name = || format!("of {}", capture.meta.position);
    ledger_of(capture).map_err(|why| SnapshotError::Damaged { name: name(), why })
}

/// Two files, so that one that rots costs nothing and the log can be purged at once.
fn keep_twice(folder: &mut Folder, capture: &Capture, debts: &Debts) -> Result<(), SnapshotError> {
    folder.keep(capture, debts)?;
    folder.keep(capture, debts)
}

/// What this node owes once `new` is its ledger, and the directories that were there. `owed` is what it owed before.
///
/// An earlier life of this node may have applied more than this one has: what it published and let go of stands in no
/// snapshot, and the log that names it is about to go. So the shelves are looked through, here and nowhere else. What is
/// found is *owed*, not removed: it goes when nothing holds it after the log was purged.
fn succession(
    store: &Store,
    owed: Debts,
    new: &Ledger,
) -> Result<(Debts, BTreeSet<(JobName, u64)>), SnapshotError> {
    let io = |error: checkpoint::store::StoreError| SnapshotError::Io {
        what: "list what is published and on the shelves".into(),
        source: io::Error::other(error),
    };
    let index = new.applied().map_or(0, |applied| applied.index);
    let there = directories(store).map_err(io)?;
    let overview = Overview::of(new);
    let known = |digest: &Digest| new.content(digest).is_some();
    let surplus = overview.surplus(store, &there);
    let Debts { mut released, unpublished, mut half_unpacked, mut expiring } = owed;
    for (digest, bytes) in overview.strays(store, &there, &known).map_err(io)?.unwrap_or_default() {
        released.entry(digest).or_insert(Owed { index, bytes });
    }
    released.retain(|digest, _| !known(digest));
    let mut unpublished = unpublished;
    unpublished.retain(|failed| {
        let epoch = &failed.epoch;
        let sealed = new.epoch(&epoch.job, epoch.epoch).is_some_and(|info| info.sealed.root == epoch.envelope.root);
        sealed && !matches!(store.published(&epoch.job, epoch.epoch), Ok(Some(root)) if root == epoch.envelope.root)
    });
    // What open attempts lacked was brought, with everything else.
    half_unpacked.retain(|id, _| unpublished.iter().any(|failed| failed.epoch.attempt == *id));
    expiring.retain(|(job, epoch), _| new.epoch(job, *epoch).is_none());
    expiring.extend(surplus.into_iter().map(|gone| ((gone.job, gone.epoch), index)));
    Ok((Debts { released, unpublished, half_unpacked, expiring }, there))
}
