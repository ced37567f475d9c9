//! The front of a manifest file: which epoch this is, in a few hundred bytes.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::error::StoreError;
use super::layout::Layout;
use crate::disk::{Disk, DiskFile, Open, is_rot};
use crate::io_error::at;
use crate::manifest::{ENVELOPE_BYTES_MAX, Envelope, ManifestError};

/// The envelope of a manifest file; nothing when there is no file.
pub(super) fn read_envelope(disk: &dyn Disk, path: &Path) -> Result<Option<Envelope>, StoreError> {
    match disk.open(path, Open::Read) {
        Ok(file) => open_envelope(&*file, path).map(|(envelope, _)| Some(envelope)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unread(path)(e)),
    }
}

/// Whether the directory of the epoch that this envelope names is here, and is that one.
pub(super) fn is_published(disk: &dyn Disk, layout: &Layout, envelope: &Envelope) -> bool {
    let there = read_envelope(disk, &layout.manifest_file(&envelope.job, envelope.epoch)).ok().flatten();
    there.is_some_and(|there| (there.root, there.attempt) == (envelope.root, envelope.attempt))
}

/// Why a manifest file could not be read. What no other try will read is damage of it: another one is to take its place.
pub(super) fn unread(path: &Path) -> impl Fn(io::Error) -> StoreError + '_ {
    move |error| {
        let wrong = |source| StoreError::Manifest { path: path.to_path_buf(), source };
        match error.kind() {
            // It was cut.
            io::ErrorKind::UnexpectedEof => {
                wrong(ManifestError::Malformed { at: 0, why: "it ends too early" })
            }
            _ if is_rot(&error) || is_no_file(&error) => wrong(ManifestError::Unreadable(error)),
            _ => at("read", path)(error).into(),
        }
    }
}

/// A link, which is never followed, or a folder is in a file's place.
fn is_no_file(error: &io::Error) -> bool {
    let kinds = [Errno::LOOP, Errno::ISDIR].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| kinds.contains(&number))
}

/// The envelope at the front of a manifest file, and its bytes.
pub(super) fn open_envelope(file: &dyn DiskFile, path: &Path) -> Result<(Envelope, u64), StoreError> {
    let wrong = |source| StoreError::Manifest { path: path.to_path_buf(), source };
    let mut head = [0; 16];
    file.read_exact_at(&mut head, 0).map_err(unread(path))?;
    let len = Envelope::encoded_len(&head).map_err(wrong)?;
    if len > ENVELOPE_BYTES_MAX {
        return Err(wrong(ManifestError::Damaged("the envelope is far too long")));
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(unread(path))?;
    let (envelope, used) = Envelope::decode(&bytes).map_err(wrong)?;
    Ok((envelope, used as u64))
}
