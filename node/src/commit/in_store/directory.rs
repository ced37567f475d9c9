//! What a commit into a store keeps of its directory: the plan as it goes into the log, and the digest of each content as it
//! comes. In the end that is the manifest.

use bytes::Bytes;
use checkpoint::digest::content;
use checkpoint::manifest::encode_entries;
use checkpoint::plan::{encode, entries};
use checkpoint::{Digest, EntryKind, PlanEntry};

/// Stands for the size of what is no file.
const NO_FILE: u64 = u64::MAX;

/// A directory of which contents come in.
#[derive(Debug, Default)]
pub struct Directory {
    pages: Vec<Bytes>,
    /// By entry, in bytes.
    sizes: Vec<u64>,
    /// By entry; [`Digest::NONE`] until it is known, and of what is no file.
    digests: Vec<Digest>,
}

impl Directory {
    /// Takes the next page of the plan.
    pub fn add(&mut self, page: &[PlanEntry]) {
        self.pages.push(encode(page).into());
        for entry in page {
            let is_file = entry.kind == EntryKind::File;
            self.sizes.push(if is_file { entry.size } else { NO_FILE });
            let is_empty = is_file && entry.size == 0;
            self.digests.push(if is_empty { content(&[]) } else { Digest::NONE });
        }
    }

    /// The size of a file in bytes; `None` of what is none.
    pub fn size(&self, file: u32) -> Option<u64> {
        self.sizes.get(file as usize).copied().filter(|size| *size != NO_FILE)
    }

    /// How many files have at least so many bytes.
    pub fn files_from(&self, bytes: u64) -> usize {
        self.sizes.iter().filter(|size| **size != NO_FILE && **size >= bytes).count()
    }

    /// The content of a file is known.
    pub fn set(&mut self, file: u32, digest: Digest) {
        self.digests[file as usize] = digest;
    }

    /// Whether it is.
    pub fn has(&self, file: u32) -> bool {
        self.digests.get(file as usize).is_some_and(|digest| *digest != Digest::NONE)
    }

    /// The canonical bytes of the manifest. Takes as long as it has entries.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn manifest(&self) -> Result<Vec<u8>, String> {
        let missing = (0u32..).zip(&self.sizes).find(|(file, size)| **size != NO_FILE && !self.has(*file));
        if let Some((file, _)) = missing {
            return Err(format!("the content of entry {file} of the plan did not come"));
        }
        let read = self.pages.iter().flat_map(|page| entries(page));
        let read = read.map(|read| read.expect("a page reads as it was written").entry);
        Ok(encode_entries(self.sizes.len(), read.zip(&self.digests)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::{Manifest, ManifestEntry, RelPath};

    #[test]
    fn pages_and_digests_make_the_manifest() {
        let entry = |path: &str, kind, size, target: &str| PlanEntry {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            kind,
            mode: 0o755,
            size,
            target: target.as_bytes().to_vec(),
        };
        let plan = [
            entry("", EntryKind::Directory, 0, ""),
            entry("a", EntryKind::File, 3, ""),
            entry("b", EntryKind::Symlink, 0, "a"),
            entry("c", EntryKind::File, 0, ""),
        ];
        let mut directory = Directory::default();
        directory.add(&plan[..2]);
        directory.add(&plan[2..]);
        assert_eq!(
            (directory.size(1), directory.size(2), directory.size(3), directory.size(4)),
            (Some(3), None, Some(0), None)
        );
        assert_eq!((directory.files_from(1), directory.files_from(0)), (1, 2));
        assert!(directory.manifest().unwrap_err().contains("entry 1"));
        directory.set(1, content(b"abc"));
        let digests = [Digest::NONE, content(b"abc"), Digest::NONE, content(&[])];
        let entries = plan.iter().zip(digests).map(|(entry, digest)| ManifestEntry::new(entry, digest));
        let manifest = Manifest { entries: entries.collect() };
        let bytes = directory.manifest().unwrap();
        assert_eq!(bytes, manifest.encode());
        assert_eq!(content(&bytes), manifest.root());
    }
}
