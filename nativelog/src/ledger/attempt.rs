//! An open attempt: its plan as pages come in, and which bytes of which file the log has.
//!
//! Coverage is made of the records alone. Every accepted range keeps its digest until the attempt ends:
//! a repeat is told from a contradiction by it, and a snapshot of an open attempt lists it. Of the plan it keeps no paths:
//! see `pages.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::digest::DigestTree;
use checkpoint::limits::{CHUNK_BYTES_MIN, ZERO_BYTES_MAX};
use checkpoint::plan::{Encoded, PlanChecker, PlanError, PlanHasher};
use checkpoint::{CommitId, Digest, JobName, Limits, store::Source};

use super::files::{FileState, Files, Linked, Staged, Stub, Whole};
use super::objects::Extent;
use super::pages::Page;
use super::sum::Sum;
use super::tree::{Kept, Tree};

/// What an entry of a plan takes beside its content: a block, and its headers.
pub(super) const ENTRY_BYTES: u64 = 4096;
/// Headers of records that bring content take at most one part in so many of it: a piece has 64 KiB, or is a whole file.
const HEADERS_SHARE: u64 = 64;
/// Bytes of the record of a run of zeros, at most.
const ZEROS_BYTES: u64 = 96;
/// Runs of zeros beside an island of data, at most: each side has one of every length from a piece's to the longest.
const ZEROS_BESIDE: u64 = 2 * (ZERO_BYTES_MAX / CHUNK_BYTES_MIN as u64).ilog2() as u64;

/// What Begin fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub job: JobName,
    pub epoch: u64,
    pub token: u64,
    pub commit: CommitId,
    pub declared_bytes: u64,
    /// At most `declared_bytes`, which are those of a plan without holes.
    pub stored_bytes: u64,
    pub chunk_bytes: u32,
    pub base: Option<u64>,
    pub labels: Vec<(String, String)>,
    pub depends_on: Vec<String>,
    pub plan_digest: Digest,
    pub plan_pages: u32,
    pub plan_entries: u32,
    /// The store in which its content lies: log index of the store's record.
    pub store: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub terms: Terms,
    pub pages: Vec<KeptPage>,
    /// What the pages that are here come to; dropped with the last page.
    pub checking: Option<Box<Checking>>,
    pub files: Files,
    /// Files that are not complete, of the pages that are here.
    pub missing: u64,
    /// Content ids that this attempt reuses, each held once.
    pub held: BTreeSet<u32>,
    /// Numbers of the objects that it has named, each held once, by digest and nonce.
    pub objects: BTreeMap<(Digest, u64), u32>,
    pub covered_bytes: u64,
    /// Of these, bytes that lie in objects.
    pub linked_bytes: u64,
    pub log_bytes: u64,
    /// Log time in milliseconds of Begin and of the newest record that named the attempt.
    pub begun_ms: u64,
    pub last_ms: u64,
    /// Over pages and what is covered, for the ledger's digest.
    pub sum: Sum,
    /// What it comes to, once it is complete and somebody has put it together; or a digest that two lengths have.
    pub tree: Option<Result<Arc<Tree>, Digest>>,
    /// What of that was put together while content came in.
    pub half: Kept,
}

/// What is kept of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptPage {
    /// Entries up to its end.
    pub end: u32,
    /// Length of its bytes, and their BLAKE3.
    pub bytes: u32,
    pub digest: Digest,
    /// Log index of its record.
    pub index: u64,
}

/// A plan as its pages come in: its paths are checked and its digest is made entry by entry. It needs nothing of the
/// pages before.
#[derive(Debug, Clone)]
pub(super) struct Checking {
    pub checker: PlanChecker,
    pub digest: PlanHasher,
}

impl Checking {
    fn new(limits: Limits) -> Self {
        Checking { checker: PlanChecker::new(limits), digest: PlanHasher::default() }
    }

    pub fn push(&mut self, encoded: Encoded<'_>) -> Result<(), PlanError> {
        self.checker.push(encoded.entry)?;
        self.digest.push_encoded(encoded.bytes);
        Ok(())
    }

    /// Ends the list; answers with the sum of its files' sizes and its digest.
    pub fn finish(&self) -> Result<(u64, Digest), PlanError> {
        self.checker.finish()?;
        Ok((self.checker.bytes(), self.digest.finish()))
    }
}

/// A page that was judged good.
pub(super) struct NewPage {
    pub stubs: Arc<[Stub]>,
    pub bytes: u32,
    pub digest: Digest,
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
            pages: Vec::new(),
            checking: Some(Box::new(Checking::new(plan))),
            files: Files::default(),
            missing: 0,
            held: BTreeSet::new(),
            objects: BTreeMap::new(),
            covered_bytes: 0,
            linked_bytes: 0,
            log_bytes,
            begun_ms: now_ms,
            last_ms: now_ms,
            sum: Sum::default(),
            tree: None,
            half: Kept::default(),
        }
    }

    /// Bytes that it may still bring to a disk: what is not covered, and of what has holes no more than was said to be
    /// there. Of what came its records tell, whose bytes are those of the payloads and a little; zeros have none, and
    /// reused content covers without any. What lies in objects has come to no disk but its writer's. Once more came than
    /// was said, it was not true: then all that is not covered may.
    pub fn left_bytes(&self) -> u64 {
        let came = self.came_bytes();
        if came > self.said_bytes() {
            return self.uncovered_bytes();
        }
        self.uncovered_bytes().min(self.terms.stored_bytes.saturating_sub(came))
    }

    /// Whether with `more` bytes of content more came than was said, and not yet without them.
    pub fn outgrows_with(&self, more: u64) -> bool {
        let (came, said) = (self.came_bytes(), self.said_bytes());
        came <= said && came.saturating_add(more) > said
    }

    /// Bytes that are not on the disks by what is covered.
    pub fn uncovered_bytes(&self) -> u64 {
        self.terms.declared_bytes.saturating_sub(self.here_bytes())
    }

    fn came_bytes(&self) -> u64 {
        self.log_bytes.min(self.here_bytes())
    }

    fn here_bytes(&self) -> u64 {
        self.covered_bytes - self.linked_bytes
    }

    /// What was said to come, and a little for headers and blocks: also for those that only tell of holes.
    fn said_bytes(&self) -> u64 {
        let Terms { declared_bytes, stored_bytes, plan_entries, .. } = self.terms;
        let entries = u64::from(plan_entries);
        let holes = declared_bytes.saturating_sub(stored_bytes);
        let islands = if holes == 0 { 0 } else { stored_bytes / u64::from(CHUNK_BYTES_MIN) + entries };
        let zeros = holes / ZERO_BYTES_MAX + islands * ZEROS_BESIDE;
        let beside = stored_bytes / HEADERS_SHARE + entries * ENTRY_BYTES + zeros * ZEROS_BYTES;
        stored_bytes.saturating_add(beside)
    }

    pub fn plan_is_complete(&self) -> bool {
        self.pages.len() == self.terms.plan_pages as usize
    }

    /// Where nothing is left to be brought.
    pub fn is_complete(&self) -> bool {
        self.plan_is_complete() && self.missing == 0
    }

    /// Entries, of the pages that are here, that lack nothing.
    pub fn covered(&self) -> u64 {
        self.files.len() as u64 - self.missing
    }

    /// Whether nothing is left to be brought of an entry that is here.
    fn is_covered(&self, file: u32, stub: Stub) -> bool {
        match self.files.state(file) {
            FileState::Bare => !stub.has_bytes(),
            FileState::Staged(staged) => staged.covered == stub.size(),
            FileState::Packed(_) | FileState::Reused(_) | FileState::Linked(_) => true,
        }
    }

    /// Whether that holds for all entries of a page that is here.
    pub fn is_covered_page(&self, page: u32) -> bool {
        let (first, _) = self.span(page);
        // Content mostly comes in the order of the plan: what is missing is at the end.
        let mut entries = self.stubs(page).iter().enumerate().rev();
        entries.all(|(at, stub)| self.is_covered(first + at as u32, *stub))
    }

    /// Where the entries of a page that is here begin, and what is kept of it.
    fn span(&self, page: u32) -> (u32, &KeptPage) {
        let page = page as usize;
        (if page == 0 { 0 } else { self.pages[page - 1].end }, &self.pages[page])
    }

    /// What is kept of the entries of a page that is here.
    pub fn stubs(&self, page: u32) -> &[Stub] {
        let (first, kept) = self.span(page);
        self.files.stubs(first, kept.end)
    }

    /// A page that is here; `attempt` is this one's id.
    pub fn page(&self, attempt: u64, page: u32) -> Page {
        let (first, kept) = self.span(page);
        let KeptPage { end, bytes, digest, index } = *kept;
        Page { attempt, page, first, entries: end - first, index, bytes, digest }
    }

    /// All pages that are here.
    pub fn all_pages(&self, attempt: u64) -> impl Iterator<Item = Page> {
        (0..self.pages.len() as u32).map(move |page| self.page(attempt, page))
    }

    /// The number of the page in which an entry is that is here.
    pub fn page_of(&self, file: u32) -> u32 {
        self.pages.partition_point(|page| page.end <= file) as u32
    }

    /// Takes the next page, which was judged and lies at `index` of the log.
    pub fn add_page(&mut self, page: NewPage, index: u64) {
        let NewPage { stubs, bytes, digest } = page;
        self.sum.put_stirred(&digest, [0, self.pages.len() as u64, index, u64::from(bytes)]);
        self.missing += stubs.iter().filter(|stub| stub.has_bytes()).count() as u64;
        self.files.add(&stubs, self.terms.plan_entries);
        if self.pages.is_empty() {
            self.pages.reserve_exact(self.terms.plan_pages as usize);
        }
        let end = u32::try_from(self.files.len()).expect("judged to be few");
        self.pages.push(KeptPage { end, bytes, digest, index });
    }

    /// Bytes of an entry that is here.
    fn size(&self, file: u32) -> u64 {
        self.files.get(file).expect("judged to be in the plan").size()
    }

    /// How a range fits to what is covered. The range is within the file and not empty.
    pub fn fit(&self, file: u32, offset: u64, len: u64, digest: &Digest) -> Fit {
        let whole = offset == 0 && len == self.size(file);
        match self.files.state(file) {
            FileState::Bare => Fit::New,
            FileState::Packed(there)
            | FileState::Reused(there)
            | FileState::Linked(Linked { digest: there, .. }) => {
                if whole && *there == *digest {
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
        let size = self.size(file);
        let begin =
            || Staged { ranges: BTreeMap::new(), covered: 0, tree: DigestTree::new(size, CHUNK_BYTES_MIN) };
        let staged = self.files.staged(file, begin);
        staged.tree.insert(offset, len, digest).expect("judged: an aligned subtree that is not covered");
        staged.ranges.insert(offset, (len, digest));
        staged.covered += len;
        if staged.covered == size {
            assert!(staged.tree.finish().is_some(), "a file covered whole has a digest");
            self.missing -= 1;
        }
        self.sum.put_stirred(&digest, [1, u64::from(file), offset, len]);
        self.covered_bytes += len;
    }

    /// Covers a whole file, from a pack or by reuse; it was judged bare.
    pub fn cover_whole(&mut self, file: u32, how: Whole, digest: Digest) {
        self.files.cover(file, how, digest);
        let (kind, object, offset) = match how {
            Whole::Packed => (2, 0, 0),
            Whole::Reused => (3, 0, 0),
            Whole::Linked(Extent { object, offset }) => (4, object, offset),
        };
        self.sum.put_stirred(&digest, [kind, u64::from(file), u64::from(object), offset]);
        self.covered_bytes += self.size(file);
        if kind == 4 {
            self.linked_bytes += self.size(file);
        }
        self.missing -= 1;
    }

    /// The digest of an entry's content, `None` while it is not complete and for entries without content.
    pub fn digest_of(&self, file: u32) -> Option<Digest> {
        let stub = self.files.get(file)?;
        if !stub.is_file() {
            return None;
        }
        if stub.size() == 0 {
            return Some(checkpoint::digest::content(&[]));
        }
        match self.files.state(file) {
            FileState::Bare => None,
            FileState::Staged(staged) => staged.tree.finish(),
            FileState::Packed(digest) | FileState::Reused(digest) => Some(*digest),
            FileState::Linked(linked) => Some(linked.digest),
        }
    }

    /// Where publish finds the bytes of an entry. Empty files are created, not linked.
    pub fn source_of(&self, file: u32) -> Source {
        match self.files.state(file) {
            FileState::Bare => Source::None,
            FileState::Staged(_) => Source::Staged,
            FileState::Packed(_) => Source::Unpacked,
            FileState::Reused(_) => Source::Reused,
            FileState::Linked(_) => Source::Linked,
        }
    }

    /// Where the content of an entry lies that lies in an object.
    pub fn link_of(&self, file: u32) -> Option<Extent> {
        match self.files.state(file) {
            FileState::Linked(linked) => Some(linked.extent),
            _ => None,
        }
    }
}
