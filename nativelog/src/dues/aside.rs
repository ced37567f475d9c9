//! Packs in files of their own, so that the log need not hold them.
//!
//! What cannot be unpacked or published here (a name that this file system cannot hold, a mount point in the way) needs its packs
//! again, and they are in the log only. Nobody else may have them: peers have the same kind of disk, or there are none. So
//! before a long log is purged past them, and before a snapshot from elsewhere takes the log's place, they are copied
//! into the staging folder of their attempt, under names that any file system holds, and go with it.
//!
//! ```text
//! staging/<attempt>/packs/<index>    the payload, and BLAKE3 of it (32 bytes)
//! ```
//!
//! **Guarantees.** A pack holds the log until its file was written, or read back whole, and then synced with its name. What is
//! read back is checked.
//!
//! **Never.** Nothing is unlinked here but a file that is not whole.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use checkpoint::digest::content;
use checkpoint::durable::{ensure_dir, ignore_missing};
use checkpoint::limits::PACK_BYTES_MAX;
use checkpoint::{Digest, Store};

use super::shared::{Dues, Ground};
use crate::store::LogStore;

/// What follows the payload, in bytes.
const DIGEST_BYTES: usize = 32;

impl Ground<'_> {
    /// Copies all packs that hold the log into files, which hold it no longer then. One that does not read back from
    /// the log holds it on. Blocks.
    ///
    /// # Errors
    /// The disk refuses, for want of room perhaps: what is not copied holds the log on.
    pub fn set_aside(&self) -> io::Result<()> {
        let mut aside = Vec::new();
        let mut result = Ok(());
        for (attempt, index) in self.dues.packs_in_log(self.log) {
            if !matches!(read(self.store, attempt, index), Ok(Some(_))) {
                let payload = match self.log.payload(index) {
                    Ok(payload) => payload,
                    Err(error) => {
                        tracing::warn!(attempt, index, %error, "a pack that is needed here cannot be set aside");
                        continue;
                    }
                };
                result = write(self.store, attempt, index, &payload);
                if result.is_err() {
                    break;
                }
            }
            aside.push((attempt, index));
        }
        if !aside.is_empty() {
            // Those too that were there: a process before this one may have ended before they were synced.
            self.store.disk().sync_fs(&self.store.layout().staging_dir())?;
            self.dues.set_aside(&aside);
            tracing::warn!(packs = aside.len(), "what could not be unpacked or published here was set aside");
        }
        result
    }
}

fn write(store: &Store, attempt: u64, index: u64, payload: &Bytes) -> io::Result<()> {
    let (disk, layout) = (&**store.disk(), store.layout());
    ensure_dir(disk, &layout.attempt_dir(attempt))?;
    ensure_dir(disk, &layout.packs_dir(attempt))?;
    let path = layout.pack_file(attempt, index);
    ignore_missing(disk.unlink(&path))?;
    let whole = [payload.as_ref(), content(payload).as_bytes()].concat();
    let written = disk.write_new(&path, &whole, 0o600);
    if written.is_err()
        && let Err(error) = ignore_missing(disk.unlink(&path))
    {
        tracing::warn!(path = %path.display(), %error, "a part of a pack takes room until it is written anew");
    }
    written
}

/// The payload of a pack that was set aside; `None` when it was not.
///
/// # Errors
/// It cannot be read, or does not verify.
fn read(store: &Store, attempt: u64, index: u64) -> io::Result<Option<Bytes>> {
    let path = store.layout().pack_file(attempt, index);
    let whole = match store.disk().read_file(&path, (PACK_BYTES_MAX + DIGEST_BYTES) as u64) {
        Ok(whole) => Bytes::from(whole),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match whole.split_last_chunk::<DIGEST_BYTES>() {
        Some((payload, digest)) if content(payload).as_bytes() == digest => {
            Ok(Some(whole.slice(..payload.len())))
        }
        _ => {
            let why = format!("{} does not verify", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}

/// The payload of a pack, from the log or from where it was set aside. `None` when the log was purged past it and it was not
/// set aside: then its files were in the attempt's tree, synced.
///
/// # Errors
/// It cannot be read, or does not verify.
pub fn payload(store: &Store, log: &LogStore, attempt: u64, index: u64) -> io::Result<Option<Bytes>> {
    let why = match log.payload(index) {
        Ok(payload) => return Ok(Some(payload)),
        Err(why) => why,
    };
    match read(store, attempt, index)? {
        Some(payload) => Ok(Some(payload)),
        None if log.log_state().0.is_some_and(|purged| index <= purged.index) => Ok(None),
        None => Err(why),
    }
}

/// Small files of an attempt, by their entry, that are held here in packs that were set aside: they are unpacked when it is
/// sealed.
pub fn held(store: &Store, dues: &Dues, attempt: u64) -> BTreeSet<(u32, Digest)> {
    let mut all = BTreeSet::new();
    for pack in dues.half_unpacked(attempt).unwrap_or_default() {
        let Ok(Some(payload)) = read(store, attempt, pack.index) else { continue };
        let slice = |offset: u32, len: u32| payload.get(offset as usize..)?.get(..len as usize);
        let files = pack.files.iter().filter_map(|(file, offset, len)| Some((*file, slice(*offset, *len)?)));
        all.extend(files.map(|(file, data)| (file, content(data))));
    }
    all
}
