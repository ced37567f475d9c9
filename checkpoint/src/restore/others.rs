//! What is at a target and was not written there by a restore.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::digest::checksum;
use crate::epoch::escape;

// Names that are told one by one.
const NAMES_MAX: usize = 5;

/// Entries that no restore wrote, or that have changed since one did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// How many; a directory counts only when it is empty.
    pub entries: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// The first few, escaped.
    pub some: Vec<String>,
    // Sum of the checksums of all their paths, in whatever order they were found.
    paths: u64,
}

impl Others {
    /// Whether `found` is no more than this: the same entries, and no more bytes in them.
    pub fn covers(&self, found: &Others) -> bool {
        found.entries == 0
            || (self.entries, self.paths) == (found.entries, found.paths) && found.bytes <= self.bytes
    }

    pub(super) fn add(&mut self, path: &Path, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
        let sum = checksum(&[path.as_os_str().as_bytes()]);
        let sum = u64::from_le_bytes(sum[..8].try_into().expect("eight bytes"));
        self.paths = self.paths.wrapping_add(sum);
        if self.some.len() < NAMES_MAX {
            self.some.push(escape(path.as_os_str().as_bytes()));
        }
    }
}

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.entries == 1 { "entry" } else { "entries" };
        write!(f, "{} {noun} ({}", self.entries, self.some.join(", "))?;
        match self.entries - self.some.len() as u64 {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}
