//! What a complete attempt comes to: the tree that its seal names, and what the ledger keeps of it. While content still
//! comes in, what its first pages come to.

use std::sync::Arc;

use checkpoint::{Digest, EntryKind, Manifest, ManifestEntry, store::Source};

use super::content::Part;
use super::objects::{Came, Extent};

/// A sealed directory, and what the ledger keeps of it.
#[derive(Debug)]
pub(super) struct Tree {
    pub manifest: Arc<Manifest>,
    pub sources: Arc<Vec<Source>>,
    /// Distinct content of the epoch, ascending.
    pub content: Vec<Part>,
    /// Of content that came into objects, by its place among all, ascending: where it lies.
    pub links: Vec<(u32, Extent)>,
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
    /// Entries whose content lies in objects, ascending, and where.
    pub links: Vec<(u32, Extent)>,
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
    /// Of entries with their digests, and where the bytes of each are; of those in objects, ascending, in which. `Err` with
    /// a digest that two lengths have.
    pub fn new(
        entries: Vec<ManifestEntry>,
        sources: Vec<Source>,
        links: &[(u32, Extent)],
    ) -> Result<Tree, Digest> {
        let (mut files, mut new_files, mut new_bytes) = (0, 0, 0);
        let mut content = Vec::new();
        for (entry, source) in entries.iter().zip(&sources).filter(|(entry, _)| entry.kind == EntryKind::File)
        {
            files += 1;
            if *source == Source::None {
                continue;
            }
            let came = Came {
                logged: matches!(source, Source::Staged | Source::Unpacked),
                linked: *source == Source::Linked,
            };
            if came.with_it() {
                new_bytes += entry.size;
                new_files += 1;
            }
            content.push(Part { digest: entry.digest, bytes: entry.size, came });
        }
        // In the order of digests, too: most pairs differ in the first bytes, which are one number.
        content.sort_unstable_by(|one, other| {
            one.first_bytes().cmp(&other.first_bytes()).then_with(|| one.cmp(other))
        });
        content.dedup_by(|again, one| {
            let same = (again.digest, again.bytes) == (one.digest, one.bytes);
            if same {
                one.came.and(again.came);
            }
            same
        });
        if let Some(two) = content.windows(2).find(|two| two[0].digest == two[1].digest) {
            return Err(two[0].digest);
        }
        let links = places(&content, &entries, links);
        let manifest = Manifest { entries };
        let root = manifest.root();
        Ok(Tree {
            manifest: Arc::new(manifest),
            sources: Arc::new(sources),
            content,
            links,
            root,
            files,
            new_files,
            new_bytes,
        })
    }
}

/// Where content lies, by its place among `content`. Of equal files in several objects the first counts.
fn places(content: &[Part], entries: &[ManifestEntry], links: &[(u32, Extent)]) -> Vec<(u32, Extent)> {
    let place = |digest: &Digest| {
        content.binary_search_by(|part| part.digest.cmp(digest)).expect("what is linked is among the content")
    };
    let mut places: Vec<(u32, Extent)> =
        links.iter().map(|(file, extent)| (place(&entries[*file as usize].digest) as u32, *extent)).collect();
    // The first of equals stays the first.
    places.sort_by_key(|(place, _)| *place);
    places.dedup_by_key(|(place, _)| *place);
    places
}
