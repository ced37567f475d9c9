//! Small directories in memory, as a plan, as pieces and as a manifest.

use bytes::Bytes;
use checkpoint::digest::{content, subtree, zeros};
use checkpoint::limits::CHUNK_BYTES_MIN;
use checkpoint::{Digest, EntryKind, Manifest, ManifestEntry, PackedFile, Piece, PlanEntry, RelPath};

/// Chunk size of every attempt in these tests, in bytes.
pub const CHUNK: u64 = CHUNK_BYTES_MIN as u64;

/// A directory: its entries, and the bytes of its files.
#[derive(Debug, Clone)]
pub struct Directory {
    pub entries: Vec<PlanEntry>,
    pub bytes: Vec<Vec<u8>>,
}

impl Directory {
    /// Reads a description: `name:SIZE` is a file, `name:SIZE=SEED` one with the bytes of that seed (`0` is all
    /// zeros), `name/` a directory, `name->target` a symlink. Sizes take `k`. The root is there by itself.
    pub fn parse(words: &str) -> Directory {
        let mut items = vec![(entry("", EntryKind::Directory, 0o755), Vec::new())];
        for word in words.split_whitespace() {
            if let Some((name, target)) = word.split_once("->") {
                let mut link = entry(name, EntryKind::Symlink, 0o777);
                link.target = target.as_bytes().to_vec();
                items.push((link, Vec::new()));
            } else if let Some(name) = word.strip_suffix('/') {
                items.push((entry(name, EntryKind::Directory, 0o755), Vec::new()));
            } else {
                let (name, rest) = word.split_once(':').expect("name:SIZE");
                let (size, seed) = rest.split_once('=').unwrap_or((rest, name));
                let mut file = entry(name, EntryKind::File, 0o644);
                file.size = number(size);
                let bytes = if seed == "0" { vec![0; file.size as usize] } else { noise(seed, file.size) };
                items.push((file, bytes));
            }
        }
        items.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        let (entries, bytes) = items.into_iter().unzip();
        Directory { entries, bytes }
    }

    pub fn size(&self, file: u32) -> u64 {
        self.entries.get(file as usize).map_or(0, |entry| entry.size)
    }

    pub fn digest(&self, file: u32) -> Digest {
        content(&self.bytes[file as usize])
    }

    /// The chunk at `offset`, as the splitter makes it.
    pub fn chunk(&self, file: u32, offset: u64) -> Piece {
        let size = self.size(file);
        let end = (offset + CHUNK).min(size);
        let bytes = &self.bytes[file as usize][offset as usize..end as usize];
        let digest = subtree(size, offset, bytes);
        Piece::Chunk { file, offset, digest, file_bytes: size, payload: Bytes::copy_from_slice(bytes) }
    }

    pub fn pack(&self, files: &[u32]) -> Piece {
        let mut payload = Vec::new();
        let files = files.iter().map(|file| {
            let offset = payload.len() as u32;
            payload.extend_from_slice(&self.bytes[*file as usize]);
            PackedFile { file: *file, offset, len: self.size(*file) as u32, digest: self.digest(*file) }
        });
        let files = files.collect();
        Piece::Pack { files, payload: Bytes::from(payload) }
    }

    pub fn zero(&self, file: u32, offset: u64, len: u64) -> Piece {
        let file_bytes = self.size(file);
        Piece::Zero { file, offset, len, digest: zeros(file_bytes, offset, len), file_bytes }
    }

    pub fn reuse(&self, files: &[u32]) -> Piece {
        Piece::Reuse { files: files.iter().map(|file| (*file, self.digest(*file))).collect() }
    }

    /// Files with bytes.
    pub fn files(&self) -> Vec<u32> {
        (0..self.entries.len() as u32).filter(|file| self.size(*file) > 0).collect()
    }

    pub fn root(&self) -> Digest {
        let entries = self.entries.iter().enumerate().map(|(file, entry)| {
            let is_file = entry.kind == EntryKind::File;
            ManifestEntry::new(entry, if is_file { self.digest(file as u32) } else { Digest::NONE })
        });
        Manifest { entries: entries.collect() }.root()
    }
}

/// A number: decimal, with `k` for 1024, or `2^N`.
pub fn number(text: &str) -> u64 {
    if let Some(power) = text.strip_prefix("2^") {
        return 1 << power.parse::<u32>().expect("a power");
    }
    match text.strip_suffix('k') {
        Some(kibi) => kibi.parse::<u64>().expect("a number") * 1024,
        None => text.parse().expect("a number"),
    }
}

fn entry(path: &str, kind: EntryKind, mode: u32) -> PlanEntry {
    PlanEntry { path: RelPath::parse(path.as_bytes()).unwrap(), kind, mode, size: 0, target: Vec::new() }
}

fn noise(seed: &str, len: u64) -> Vec<u8> {
    let mut state = u64::from_be_bytes(content(seed.as_bytes()).as_bytes()[..8].try_into().unwrap());
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}
