//! Content that a catch-up is about to bring, and may leave on the shelves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use checkpoint::Digest;
use checkpoint::disk::{Disk, is_rot};
use checkpoint::durable::{ignore_missing, replace_file};

use super::pins::{Pin, Pins};

const EXPECTED_MAGIC: &[u8] = b"epochlog expected 1\n";
/// Largest list of expected content, in bytes.
const EXPECTED_BYTES_MAX: u64 = 1 << 32;

/// Content that is about to be brought for a ledger that is not installed yet. It stands in `snapshots/expected`
/// before the first blob of it is made, so that a catch-up that never ends leaves nothing behind for ever.
#[derive(Debug, Default)]
pub struct Expected {
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
        let contents = match disk.read_file(&expected.path, EXPECTED_BYTES_MAX) {
            Ok(bytes) => decode_expected(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(expected),
            // No start finds more in it.
            Err(error) if is_rot(&error) => None,
            Err(error) => return Err(error),
        };
        match contents {
            // A list of nothing is not needed any more: what removed it may not have been durable.
            Some(contents) => {
                expected.owed = contents.is_empty();
                expected.contents = contents;
            }
            None => {
                tracing::warn!(path = %expected.path.display(), "what a catch-up expected cannot be read: some blobs of it may stay")
            }
        }
        Ok(expected)
    }

    /// More is about to come: what the ledger that comes has and this node's own has not. On disk when this returns.
    pub fn more(&mut self, disk: &dyn Disk, new: Vec<(Digest, u64)>, pin: &Pin) -> io::Result<()> {
        self.contents.extend(new);
        (self.pin, self.owed) = (Some(pin.number()), false);
        self.write(disk)
    }

    /// When the catch-up has ended without its snapshot: what it may have brought, which the caller owes from now on.
    pub fn left_over(&mut self, pins: &Pins) -> BTreeMap<Digest, u64> {
        let goes_on = self.pin.is_some_and(|pin| pins.lives(pin));
        if goes_on || self.contents.is_empty() {
            return BTreeMap::new();
        }
        self.owed = true;
        self.contents.clone()
    }

    /// The snapshot has taken over: its debts say what was brought for nothing.
    pub fn superseded(&mut self, disk: &dyn Disk) {
        self.owed = true;
        self.written_down(disk);
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
