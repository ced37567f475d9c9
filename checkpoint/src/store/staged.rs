//! Staged files when their epoch is published: they get length and mode, and where nothing speaks for what is in them they
//! are read.

use std::io;
use std::path::Path;

use super::aside::{self, Occupant, Unnamed};
use super::error::{Step, Unpublished};
use super::jobs::is_folder;
use super::link::{corrupt, missing};
use super::sealed::{Publish, Source};
use super::shelves::Shelves;
use crate::digest::{self, Digest};
use crate::disk::{Disk, FileKind, Open, Stat, hash_staged, is_rot};
use crate::epoch::EntryKind;
use crate::io_error::at;
use crate::manifest::ManifestEntry;

/// The number of an entry's staged file.
pub(super) fn index_of(entry: usize) -> u32 {
    u32::try_from(entry).expect("plans are limited to u32 entries")
}

/// What ends in zeros is read to the end of its data: before the names are locked, as `verifying` does. What is damaged is
/// met again under the lock, and so is what somebody may have published already.
pub(super) fn extend_all(shelves: &Shelves, epoch: &Publish) -> Step {
    let Publish { attempt, envelope, manifest, sources } = epoch;
    let all = manifest.entries.iter().zip(sources.iter()).enumerate();
    let is_staged = |entry: &ManifestEntry, source: &Source| {
        entry.kind == EntryKind::File && entry.size > 0 && matches!(source, Source::Staged)
    };
    // A folder that does not say whose it is makes way. It may have been this very epoch's, with the damage that it has in
    // its files, which are those of the attempt. One that has none never was: where it cannot be moved (it is a mount
    // point), everything would be read with every try.
    let (disk, layout) = (&*shelves.disk, &shelves.layout);
    let files = layout.files_dir(&envelope.job, envelope.epoch);
    let doubted = match aside::occupant(disk, layout, &envelope.job, envelope.epoch) {
        Ok(Occupant::Unnamed(Unnamed::Unread)) => true,
        Ok(Occupant::Unnamed(Unnamed::Foreign)) => is_folder(disk, &files).unwrap_or(true),
        Ok(Occupant::Epoch(_) | Occupant::Nobody) | Err(_) => false,
    };
    for (index, (entry, _)) in all.filter(|(_, (entry, source))| is_staged(entry, source)) {
        let path = shelves.layout.staged_file(*attempt, index_of(index));
        if doubted {
            check(&*shelves.disk, &path, entry)?;
        }
        if let Ok(stat) = shelves.disk.stat(&path)
            && stat.kind == FileKind::File
            && stat.len < entry.size
            && stat.mode & 0o200 != 0
            && let Err(error @ Unpublished::Io(_)) = extend(&*shelves.disk, &path, entry, &stat)
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Length and mode; its bytes were verified and synced when they came.
pub(super) fn prepare(disk: &dyn Disk, staged: &Path, entry: &ManifestEntry) -> Step {
    let stat = match disk.stat(staged) {
        Ok(stat) => stat,
        // Nothing but zeros never got a staged file.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if entry.digest != digest::zeros(entry.size, 0, entry.size) {
                return Err(missing(entry, "the staged file", staged));
            }
            let make = disk.open(staged, Open::CreateNew).and_then(|file| {
                file.set_len(entry.size)?;
                file.set_mode(entry.mode)
            });
            return Ok(make.map_err(at("make", staged))?);
        }
        Err(e) => return Err(at("stat", staged)(e).into()),
    };
    if stat.kind != FileKind::File || stat.len > entry.size {
        let why = format!("it has {} bytes, more than the {} sealed", stat.len, entry.size);
        return Err(corrupt(entry, staged, why));
    }
    if stat.len < entry.size {
        extend(disk, staged, entry, &stat)?;
    }
    Ok(disk.set_mode(staged, entry.mode).map_err(at("set the mode of", staged))?)
}

// One that is not there is looked for on the shelves.
fn check(disk: &dyn Disk, staged: &Path, entry: &ManifestEntry) -> Step {
    let found = match hash_staged(disk, staged, entry.size) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if is_rot(&e) => return Err(corrupt(entry, staged, format!("it cannot be read: {e}"))),
        found => found.map_err(at("read", staged))?,
    };
    match found == entry.digest {
        true => Ok(()),
        false => Err(corrupt(entry, staged, not_its_content(disk, staged, entry, found))),
    }
}

// What a file that was cut shows first is its length.
fn not_its_content(disk: &dyn Disk, staged: &Path, entry: &ManifestEntry, found: Digest) -> String {
    match disk.stat(staged) {
        Ok(stat) if stat.len < entry.size => {
            let (len, size) = (stat.len, entry.size);
            format!("it has {len} bytes of {size}, and with zeros behind them the digest {}", found.short())
        }
        _ => format!("its {} bytes have the digest {}", entry.size, found.short()),
    }
}

// Zeros at the end were never written. That it was cut would look the same, but for the digest.
fn extend(disk: &dyn Disk, staged: &Path, entry: &ManifestEntry, stat: &Stat) -> Step {
    check(disk, staged, entry)?;
    if stat.mode & 0o200 == 0 {
        disk.set_mode(staged, 0o600).map_err(at("set the mode of", staged))?;
    }
    let extend = disk.open(staged, Open::Write).and_then(|file| file.set_len(entry.size));
    Ok(extend.map_err(at("extend", staged))?)
}
