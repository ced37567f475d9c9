//! What a complete attempt comes to: the tree that its seal names, and what the ledger keeps of it.

use std::sync::Arc;

use checkpoint::{Digest, EntryKind, Manifest, ManifestEntry, store::Source};

/// A sealed directory, and what the ledger keeps of it.
#[derive(Debug)]
pub(super) struct Tree {
    pub manifest: Arc<Manifest>,
    pub sources: Arc<Vec<Source>>,
    /// Distinct content of the epoch and its length in bytes, ascending.
    pub content: Vec<(Digest, u64)>,
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
            if *source != Source::Reused {
                new_bytes += entry.size;
                new_files += 1;
            }
            content.push((entry.digest, entry.size));
        }
        content.sort_unstable();
        content.dedup();
        if let Some(two) = content.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(two[0].0);
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
