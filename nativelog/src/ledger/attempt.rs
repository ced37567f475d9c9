//! An open attempt: its plan as pages come in, and which bytes of which file the log has.
//!
//! Coverage is made of the records alone. Every accepted range keeps its digest until the attempt ends:
//! a repeat is told from a contradiction by it, and a snapshot of an open attempt lists it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::digest::DigestTree;
use checkpoint::limits::CHUNK_BYTES_MIN;
use checkpoint::plan::{PlanChecker, PlanError, PlanHasher, plan_digest};
use checkpoint::{CommitId, Digest, EntryKind, JobName, Limits, PlanEntry, store::Source};

use super::sum::Sum;
use super::tree::Tree;

/// What Begin fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub job: JobName,
    pub epoch: u64,
    pub token: u64,
    pub commit: CommitId,
    pub declared_bytes: u64,
    pub chunk_bytes: u32,
    pub base: Option<u64>,
    pub labels: Vec<(String, String)>,
    pub depends_on: Vec<String>,
    pub plan_digest: Digest,
    pub plan_pages: u32,
    pub plan_entries: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub terms: Terms,
    pub entries: Vec<PlanEntry>,
    /// For each page that is here, the number of entries up to its end.
    pub page_ends: Vec<u32>,
    /// What the pages that are here come to; dropped with the last page.
    pub checker: Option<Box<Pages>>,
    pub files: Vec<FileState>,
    /// Files that are not complete, of the pages that are here.
    pub missing: u64,
    /// Content ids that this attempt reuses, each held once.
    pub held: BTreeSet<u32>,
    pub covered_bytes: u64,
    pub log_bytes: u64,
    /// Log time in milliseconds of Begin and of the newest record that named the attempt.
    pub begun_ms: u64,
    pub last_ms: u64,
    /// Over pages and what is covered, for the ledger's digest.
    pub sum: Sum,
    /// What it comes to, once it is complete and somebody has put it together.
    pub tree: Option<Arc<Tree>>,
}

/// A plan as its pages come in: its paths are checked and its digest is made entry by entry, so that the last page
/// takes no longer than the others.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    checker: PlanChecker,
    digest: PlanHasher,
}

impl Pages {
    fn new(limits: Limits) -> Self {
        Pages { checker: PlanChecker::new(limits), digest: PlanHasher::default() }
    }

    pub fn push(&mut self, entry: &PlanEntry) -> Result<(), PlanError> {
        self.checker.push(entry)?;
        self.digest.push(entry);
        Ok(())
    }

    /// Ends the list; answers with the sum of its files' sizes and its digest.
    pub fn finish(&self) -> Result<(u64, Digest), PlanError> {
        self.checker.finish()?;
        Ok((self.checker.bytes(), self.digest.finish()))
    }
}

/// What the log has of one entry of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileState {
    /// Nothing; or nothing is needed (directories, symlinks, empty files).
    Bare,
    /// Ranges, staged in place.
    Staged(Box<Staged>),
    /// All of it, in a pack.
    Packed(Digest),
    /// All of it, as a reference to sealed content.
    Reused(Digest),
}

/// Covered ranges of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staged {
    /// By offset: length in bytes and subtree digest.
    pub ranges: BTreeMap<u64, (u64, Digest)>,
    pub covered: u64,
    /// Merges the ranges' digests; follows from `ranges`.
    pub tree: DigestTree,
}

/// What a range of a file is to what the log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// None of it is covered.
    New,
    /// Exactly this, with this digest, is covered.
    Repeat,
    /// Some of it is covered, by something else.
    Overlap,
}

impl Attempt {
    pub fn new(terms: Terms, plan: Limits, now_ms: u64, log_bytes: u64) -> Self {
        Attempt {
            terms,
            entries: Vec::new(),
            page_ends: Vec::new(),
            checker: Some(Box::new(Pages::new(plan))),
            files: Vec::new(),
            missing: 0,
            held: BTreeSet::new(),
            covered_bytes: 0,
            log_bytes,
            begun_ms: now_ms,
            last_ms: now_ms,
            sum: Sum::default(),
            tree: None,
        }
    }

    pub fn plan_is_complete(&self) -> bool {
        self.page_ends.len() == self.terms.plan_pages as usize
    }

    /// The entries of a page that is here.
    pub fn page(&self, page: u32) -> &[PlanEntry] {
        let page = page as usize;
        let start = if page == 0 { 0 } else { self.page_ends[page - 1] as usize };
        &self.entries[start..self.page_ends[page] as usize]
    }

    /// Takes the next page, which was judged, with the checker that took its entries.
    pub fn add_page(&mut self, entries: Vec<PlanEntry>, checker: Box<Pages>) {
        let page = self.page_ends.len() as u64;
        self.sum.put(&summed(0, page, 0, 0, &plan_digest(&entries)));
        for entry in &entries {
            if entry.kind == EntryKind::File && entry.size > 0 {
                self.missing += 1;
            }
            self.files.push(FileState::Bare);
        }
        self.entries.extend(entries);
        self.page_ends.push(u32::try_from(self.entries.len()).expect("judged to be few"));
        self.checker = if self.plan_is_complete() { None } else { Some(checker) };
    }

    /// How a range fits to what is covered. The range is within the file and not empty.
    pub fn fit(&self, file: u32, offset: u64, len: u64, digest: &Digest) -> Fit {
        let size = self.entries[file as usize].size;
        let whole = offset == 0 && len == size;
        match &self.files[file as usize] {
            FileState::Bare => Fit::New,
            FileState::Packed(there) | FileState::Reused(there) => {
                if whole && there == digest {
                    Fit::Repeat
                } else {
                    Fit::Overlap
                }
            }
            FileState::Staged(staged) => {
                if staged.ranges.get(&offset) == Some(&(len, *digest)) {
                    return Fit::Repeat;
                }
                if whole && staged.tree.finish().as_ref() == Some(digest) {
                    return Fit::Repeat;
                }
                let before = staged.ranges.range(..offset + len).next_back();
                let overlaps = before.is_some_and(|(at, (covered, _))| at + covered > offset);
                if overlaps { Fit::Overlap } else { Fit::New }
            }
        }
    }

    /// Covers a range that was judged new and a subtree of the file.
    pub fn cover(&mut self, file: u32, offset: u64, len: u64, digest: Digest) {
        let size = self.entries[file as usize].size;
        let state = &mut self.files[file as usize];
        if *state == FileState::Bare {
            let tree = DigestTree::new(size, CHUNK_BYTES_MIN);
            *state = FileState::Staged(Box::new(Staged { ranges: BTreeMap::new(), covered: 0, tree }));
        }
        let FileState::Staged(staged) = state else { panic!("judged new: the file is not covered whole") };
        staged.tree.insert(offset, len, digest).expect("judged: an aligned subtree that is not covered");
        staged.ranges.insert(offset, (len, digest));
        self.sum.put(&summed(1, u64::from(file), offset, len, &digest));
        staged.covered += len;
        self.covered_bytes += len;
        if staged.covered == size {
            assert!(staged.tree.finish().is_some(), "a file covered whole has a digest");
            self.missing -= 1;
        }
    }

    /// Covers a whole file, from a pack or by reuse; it was judged bare.
    pub fn cover_whole(&mut self, file: u32, state: FileState) {
        let place = &mut self.files[file as usize];
        assert_eq!(*place, FileState::Bare, "judged new");
        let (kind, digest) = match &state {
            FileState::Packed(digest) => (2, digest),
            FileState::Reused(digest) => (3, digest),
            FileState::Bare | FileState::Staged(_) => panic!("a file is covered whole by a pack or by reuse"),
        };
        self.sum.put(&summed(kind, u64::from(file), 0, 0, digest));
        *place = state;
        self.covered_bytes += self.entries[file as usize].size;
        self.missing -= 1;
    }

    /// The digest of an entry's content, `None` while it is not complete and for entries without content.
    pub fn digest_of(&self, file: u32) -> Option<Digest> {
        let entry = &self.entries[file as usize];
        if entry.kind != EntryKind::File {
            return None;
        }
        if entry.size == 0 {
            return Some(checkpoint::digest::content(&[]));
        }
        match &self.files[file as usize] {
            FileState::Bare => None,
            FileState::Staged(staged) => staged.tree.finish(),
            FileState::Packed(digest) | FileState::Reused(digest) => Some(*digest),
        }
    }

    /// Where publish finds the bytes of an entry. Empty files are created, not linked.
    pub fn source_of(&self, file: u32) -> Source {
        match &self.files[file as usize] {
            FileState::Bare => Source::None,
            FileState::Staged(_) => Source::Staged,
            FileState::Packed(_) => Source::Unpacked,
            FileState::Reused(_) => Source::Reused,
        }
    }
}

/// A page, a range, a packed or a reused file, as it goes into the attempt's sum.
fn summed(kind: u8, number: u64, offset: u64, len: u64, digest: &Digest) -> [u8; 57] {
    let mut row = [0; 57];
    row[0] = kind;
    row[1..9].copy_from_slice(&number.to_be_bytes());
    row[9..17].copy_from_slice(&offset.to_be_bytes());
    row[17..25].copy_from_slice(&len.to_be_bytes());
    row[25..].copy_from_slice(digest.as_bytes());
    row
}
