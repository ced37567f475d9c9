//! What the ledger keeps in memory of every entry of an open plan: twelve bytes, and what the log has of its content.

use std::collections::BTreeMap;

use checkpoint::digest::DigestTree;
use checkpoint::limits::{FILE_BYTES_MAX, MODE_MAX};
use checkpoint::plan::EntryRef;
use checkpoint::{Digest, EntryKind};

use super::objects::Extent;
use super::ring::Ring;

/// Kind, mode and size of an entry in one number: two bits, nine bits, the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stub(u64);

const SIZE_BITS: u32 = 51;
const _: () = assert!(FILE_BYTES_MAX < 1 << SIZE_BITS && MODE_MAX < 1 << 9);

impl Stub {
    /// Of an entry that was checked.
    pub fn of(entry: EntryRef<'_>) -> Stub {
        let kind = match entry.kind {
            EntryKind::File => 1,
            EntryKind::Directory => 2,
            EntryKind::Symlink => 3,
        };
        assert!(entry.mode <= MODE_MAX && entry.size <= FILE_BYTES_MAX, "it was checked");
        Stub((kind << 62) | (u64::from(entry.mode) << SIZE_BITS) | entry.size)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    /// `None` for what is no entry's.
    pub fn from_bits(bits: u64) -> Option<Stub> {
        let stub = Stub(bits);
        (bits >> 62 != 0 && stub.size() <= FILE_BYTES_MAX && (bits >> (SIZE_BITS + 9)) & 0b11 == 0)
            .then_some(stub)
    }

    pub fn is_file(self) -> bool {
        self.0 >> 62 == 1
    }

    /// Whether it is a file with bytes.
    pub fn has_bytes(self) -> bool {
        self.is_file() && self.size() > 0
    }

    pub fn mode(self) -> u32 {
        (self.0 >> SIZE_BITS) as u32 & MODE_MAX
    }

    pub fn size(self) -> u64 {
        self.0 & ((1 << SIZE_BITS) - 1)
    }
}

/// What the log has of one entry of the plan.
#[derive(Debug, Clone, Copy)]
pub(super) enum FileState<'a> {
    /// Nothing; or nothing is needed (directories, symlinks, empty files).
    Bare,
    /// Ranges, staged in place.
    Staged(&'a Staged),
    /// All of it, in a pack.
    Packed(&'a Digest),
    /// All of it, as a reference to sealed content.
    Reused(&'a Digest),
    /// All of it, in an object.
    Linked(&'a Linked),
}

/// How a whole file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Packed,
    Reused,
    Linked(Extent),
}

/// A file that lies in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linked {
    pub digest: Digest,
    pub extent: Extent,
}

/// Covered ranges of one file.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    /// By offset: length in bytes and subtree digest.
    pub ranges: BTreeMap<u64, (u64, Digest)>,
    pub covered: u64,
    /// Merges the ranges' digests; follows from `ranges`.
    pub tree: DigestTree,
}

/// The entries of an open plan as far as they are in the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    stubs: Vec<Stub>,
    /// What there is of each: nothing, or a tag in the upper three bits and a place in one of the lists below.
    slots: Vec<u32>,
    /// By far the most of it; a snapshot's copy shares it.
    digests: Ring<Digest>,
    linked: Ring<Linked>,
    staged: Vec<Staged>,
}

const TAG_SHIFT: u32 = 29;
const PLACE: u32 = (1 << TAG_SHIFT) - 1;
const STAGED: u32 = 1;
const PACKED: u32 = 2;
const REUSED: u32 = 3;
const LINKED: u32 = 4;

impl Files {
    /// Takes the next entries of a plan of so many.
    pub fn add(&mut self, stubs: &[Stub], planned: u32) {
        if self.stubs.is_empty() {
            self.stubs.reserve_exact(planned as usize);
            self.slots.reserve_exact(planned as usize);
        }
        self.stubs.extend_from_slice(stubs);
        self.slots.resize(self.stubs.len(), 0);
    }

    pub fn len(&self) -> usize {
        self.stubs.len()
    }

    pub fn get(&self, file: u32) -> Option<Stub> {
        self.stubs.get(file as usize).copied()
    }

    /// Those from `from` to below `to`.
    pub fn stubs(&self, from: u32, to: u32) -> &[Stub] {
        &self.stubs[from as usize..to as usize]
    }

    /// What there is of an entry that is here.
    pub fn state(&self, file: u32) -> FileState<'_> {
        let slot = self.slots[file as usize];
        let place = (slot & PLACE) as usize;
        match slot >> TAG_SHIFT {
            STAGED => FileState::Staged(&self.staged[place]),
            PACKED => FileState::Packed(self.digest(place)),
            REUSED => FileState::Reused(self.digest(place)),
            LINKED => FileState::Linked(self.linked.get(place).expect("a slot names what is here")),
            _ => FileState::Bare,
        }
    }

    fn digest(&self, place: usize) -> &Digest {
        self.digests.get(place).expect("a slot names a digest that is here")
    }

    /// Every entry that is here, in order: its place, what it is, what there is of it.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Stub, FileState<'_>)> {
        self.stubs.iter().enumerate().map(|(file, stub)| (file as u32, *stub, self.state(file as u32)))
    }

    /// The ranges of a file that is not covered whole by one record; begun with the first.
    pub fn staged(&mut self, file: u32, begin: impl FnOnce() -> Staged) -> &mut Staged {
        let slot = self.slots[file as usize];
        let place = match slot >> TAG_SHIFT {
            STAGED => slot & PLACE,
            _ => {
                assert_eq!(slot, 0, "judged new: the file is not covered whole");
                self.staged.push(begin());
                let place = place(self.staged.len());
                self.slots[file as usize] = (STAGED << TAG_SHIFT) | place;
                place
            }
        };
        &mut self.staged[place as usize]
    }

    /// Covers a file whole, of which there was nothing.
    pub fn cover(&mut self, file: u32, how: Whole, digest: Digest) {
        assert_eq!(self.slots[file as usize], 0, "judged new");
        let tag = match how {
            Whole::Packed => PACKED,
            Whole::Reused => REUSED,
            Whole::Linked(extent) => {
                self.linked.push_back(Linked { digest, extent });
                self.slots[file as usize] = (LINKED << TAG_SHIFT) | place(self.linked.len());
                return;
            }
        };
        self.digests.push_back(digest);
        self.slots[file as usize] = (tag << TAG_SHIFT) | place(self.digests.len());
    }
}

/// The place of the last of so many.
fn place(len: usize) -> u32 {
    let place = u32::try_from(len - 1).expect("a plan has far fewer entries");
    assert!(place <= PLACE, "a plan has far fewer entries");
    place
}
