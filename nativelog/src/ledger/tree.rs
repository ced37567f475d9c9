//! What a complete attempt comes to: the tree that its seal names, and what the ledger keeps of it. While content still
//! comes in, what its first pages come to.

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

/// The beginning of a tree: the entries of so many pages whose content is all here. What is covered never changes.
#[derive(Debug, Default)]
pub(super) struct Half {
    pub pages: usize,
    pub entries: Vec<ManifestEntry>,
    pub sources: Vec<Source>,
    /// Entries that lacked nothing when this was left.
    pub covered: u64,
    /// The next page could not be read here.
    pub unread: bool,
}

/// A half of a tree that is kept beside the state, which it follows from.
#[derive(Debug, Default)]
pub(super) struct Kept(pub Option<Box<Half>>);

/// A copy of the ledger begins anew: to copy a million entries takes as long as to gather them.
impl Clone for Kept {
    fn clone(&self) -> Kept {
        Kept(None)
    }
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
        // In the order of digests, too: most pairs differ in the first bytes, which are one number.
        content.sort_unstable_by(|one, other| {
            one.first_bytes().cmp(&other.first_bytes()).then_with(|| one.cmp(other))
        });
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
