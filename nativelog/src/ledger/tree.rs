//! What a complete attempt comes to: the tree that its seal names, and what the ledger keeps of it.

use std::sync::Arc;

use checkpoint::{Digest, EntryKind, Manifest, ManifestEntry, store::Source};

use super::content::Part;

/// A sealed directory, and what the ledger keeps of it.
#[derive(Debug)]
pub(super) struct Tree {
    pub manifest: Arc<Manifest>,
    pub sources: Arc<Vec<Source>>,
    /// Distinct content of the epoch, ascending.
    pub content: Vec<Part>,
    pub root: Digest,
    pub files: u64,
    pub new_files: u64,
    pub new_bytes: u64,
}

impl Tree {
    /// Of entries with their digests, and where the bytes of each are. `Err` with a digest that two lengths have.
    pub fn new(entries: Vec<ManifestEntry>, sources: Vec<Source>) -> Result<Tree, Digest> {
        let (mut files, mut new_files, mut new_bytes) = (0, 0, 0);
        let mut content = Vec::new();
        for (entry, source) in entries.iter().zip(&sources).filter(|(entry, _)| entry.kind == EntryKind::File)
        {
            files += 1;
            if *source == Source::None {
                continue;
            }
            let brought = *source != Source::Reused;
            if brought {
                new_bytes += entry.size;
                new_files += 1;
            }
            content.push(Part { digest: entry.digest, bytes: entry.size, brought });
        }
        content.sort_unstable();
        content.dedup_by(|again, one| {
            let same = (again.digest, again.bytes) == (one.digest, one.bytes);
            one.brought |= same && again.brought;
            same
        });
        if let Some(two) = content.windows(2).find(|two| two[0].digest == two[1].digest) {
            return Err(two[0].digest);
        }
        let manifest = Manifest { entries };
        let root = manifest.root();
        Ok(Tree {
            manifest: Arc::new(manifest),
            sources: Arc::new(sources),
            content,
            root,
            files,
            new_files,
            new_bytes,
        })
    }
}
