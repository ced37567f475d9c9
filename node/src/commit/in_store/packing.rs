//! Which objects contents become. A request costs the same for a byte and for a MiB: small contents lie end to end in
//! packs, each content once; a larger one is an object of its own, so that another epoch can use it whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::{Digest, Disk};
use remote::limits::{PACK_BYTES_MAX, PACKED_BYTES_MAX};

use crate::stores::{Content, Object};

/// With more files than this that would each be an object, larger ones lie in packs too: an attempt has 65,536 objects at
/// most.
const LARGE_FILES_MAX: usize = 16 << 10;
/// Then contents shorter than this do, in packs of at most twice as many bytes: of 1 TiB, the most that an epoch has,
/// that makes 65,536 objects at the very most.
const PACKED_OF_MANY: u64 = 32 << 20;

/// Contents on their way into objects.
#[derive(Debug)]
pub struct Packing {
    disk: Arc<dyn Disk>,
    /// Shorter contents lie in packs, bytes.
    packed_bytes_max: u64,
    /// Longest pack, bytes.
    pack_bytes_max: u64,
    /// The pack that is open.
    contents: Vec<Content>,
    places: BTreeMap<Digest, usize>,
    bytes: u64,
}

/// From so many bytes on a file is an object of its own, as a rule.
pub const LARGE_FROM: u64 = PACKED_BYTES_MAX;

impl Packing {
    /// For a directory with so many files from [`LARGE_FROM`] bytes on.
    pub fn new(disk: Arc<dyn Disk>, large_files: usize) -> Packing {
        let (packed_bytes_max, pack_bytes_max) = match large_files > LARGE_FILES_MAX {
            true => (PACKED_OF_MANY, 2 * PACKED_OF_MANY),
            false => (LARGE_FROM, PACK_BYTES_MAX),
        };
        let (contents, places) = (Vec::new(), BTreeMap::new());
        Packing { disk, packed_bytes_max, pack_bytes_max, contents, places, bytes: 0 }
    }

    /// Takes a content; an object that is complete by it.
    pub fn push(&mut self, content: Content) -> Option<Object> {
        if content.len >= self.packed_bytes_max {
            return Some(Object::new(self.disk.clone(), vec![content]));
        }
        if let Some(place) = self.places.get(&content.digest) {
            self.contents[*place].files.extend(content.files);
            return None;
        }
        let full = (self.bytes + content.len > self.pack_bytes_max).then(|| self.finish()).flatten();
        self.places.insert(content.digest, self.contents.len());
        self.bytes += content.len;
        self.contents.push(content);
        full
    }

    /// The pack that is open, if any.
    pub fn finish(&mut self) -> Option<Object> {
        let contents = std::mem::take(&mut self.contents);
        self.places.clear();
        self.bytes = 0;
        (!contents.is_empty()).then(|| Object::new(self.disk.clone(), contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::RealDisk;
    use checkpoint::digest::content;

    fn of(file: u32, seed: u32, len: u64) -> Content {
        Content { path: "x".into(), len, digest: content(&seed.to_le_bytes()), files: vec![file] }
    }

    fn lens(objects: &[Object]) -> Vec<u64> {
        objects.iter().map(remote::Source::len_bytes).collect()
    }

    #[test]
    fn small_contents_share_objects_and_equal_ones_their_place() {
        let mut packing = Packing::new(Arc::new(RealDisk), 1);
        assert!(packing.push(of(1, 1, 100)).is_none());
        let large = packing.push(of(2, 2, LARGE_FROM)).unwrap();
        assert_eq!(large.contents().len(), 1);
        assert!(packing.push(of(3, 1, 100)).is_none());
        assert!(packing.push(of(4, 4, 7)).is_none());
        let pack = packing.finish().unwrap();
        let held: Vec<_> =
            pack.contents().iter().map(|(at, one)| (*at, one.len, one.files.clone())).collect();
        assert_eq!(held, [(0, 100, vec![1, 3]), (100, 7, vec![4])]);
        assert!(packing.finish().is_none());
    }

    #[test]
    fn no_directory_becomes_more_objects_than_an_attempt_may_have() {
        // 20,000 files of 1 to 8 KiB.
        let mut packing = Packing::new(Arc::new(RealDisk), 0);
        let files = (0..20_000u32).map(|n| of(n, n, 1024 + u64::from(n) * 2_654_435_761 % 7168));
        let mut objects: Vec<_> = files.filter_map(|file| packing.push(file)).collect();
        objects.extend(packing.finish());
        assert_eq!(objects.len(), 3, "{:?}", lens(&objects));
        assert!(lens(&objects).iter().all(|len| *len <= PACK_BYTES_MAX));
        // 1 TiB in files of 16 MiB, of 32 MiB less a byte, of 32 MiB.
        for len in [16u64 << 20, (32 << 20) - 1, 32 << 20] {
            let count = u32::try_from((1u64 << 40) / len).unwrap();
            let mut packing = Packing::new(Arc::new(RealDisk), count as usize);
            let made = (0..count).filter_map(|n| packing.push(of(n, n, len))).count();
            let made = made + usize::from(packing.finish().is_some());
            assert!(made < 1 << 16, "{len}: {made}");
        }
    }
}
