//! Reads and checks a page of a plan before the ledger is locked for it: thousands of entries take a millisecond or two.
//!
//! What a page says follows from its bytes and from what the pages before it come to, and an attempt's pages only ever
//! grow in number: so what was read stays true for as long as the attempt waits for this very page.

use bytes::Bytes;
use checkpoint::plan::entries;
use checkpoint::{Digest, digest};

use super::attempt::{Attempt, Checking};
use super::fields::malformed;
use super::files::Stub;
use super::held::{PageSays, Paged};
use super::tables::Ledger;
use super::verdict::Rejected;
use crate::record::{Header, Kind, proto};

/// A page of more bytes is read beforehand.
const MUCH: usize = 16 << 10;

/// What it takes to read the next page of a plan. See [`Ledger::paging`].
pub struct Paging {
    attempt: u64,
    page: u32,
    read: Reading,
}

/// The bytes, and where they go on.
pub(super) struct Reading {
    entries: Bytes,
    checking: Checking,
    /// Entries of the plan that are not here yet.
    room: usize,
    planned: u32,
}

impl Reading {
    pub fn of(attempt: &Attempt, entries: &Bytes) -> Reading {
        let checking = attempt.checking.as_deref().expect("a plan that lacks pages is being checked");
        let planned = attempt.terms.plan_entries;
        let room = planned as usize - attempt.files.len();
        Reading { entries: entries.clone(), checking: checking.clone(), room, planned }
    }

    pub fn read(self) -> Result<PageSays, Rejected> {
        let Reading { entries: bytes, mut checking, room, planned } = self;
        let mut stubs = Vec::new();
        for read in entries(&bytes) {
            let encoded = read.map_err(|error| malformed(error.to_string()))?;
            if stubs.len() == room {
                return Err(miscounted(planned));
            }
            checking.push(encoded).map_err(|error| malformed(error.to_string()))?;
            stubs.push(Stub::of(encoded.entry));
        }
        Ok(PageSays { stubs: stubs.into(), checking })
    }
}

pub(super) fn miscounted(planned: u32) -> Rejected {
    malformed(format!("the plan was declared with {planned} entries"))
}

impl Paging {
    /// Reads the page: this takes long, and needs no ledger.
    pub fn read(self) -> Paged {
        let Paging { attempt, page, read } = self;
        let entries = read.entries.clone();
        Paged { attempt, page, digest: digest::content(&entries), entries, said: read.read() }
    }
}

impl Ledger {
    /// What judging this record would read, when it is the next page of a plan and a long one.
    pub fn paging(&self, header: &Header) -> Option<Paging> {
        let (part, attempt) = self.long_page(header)?;
        Some(Paging { attempt: part.attempt, page: part.page, read: Reading::of(attempt, &part.entries) })
    }

    pub(super) fn long_page<'a>(&self, header: &'a Header) -> Option<(&'a proto::Part, &Attempt)> {
        let Some(Kind::Part(part)) = &header.kind else { return None };
        let attempt = self.open.get(&part.attempt).filter(|attempt| !attempt.plan_is_complete())?;
        let next = part.page as usize == attempt.pages.len() && part.entries.len() > MUCH;
        next.then_some((part, attempt))
    }

    /// Keeps a page that was read. The next step uses it, or forgets it.
    pub fn keep_paged(&mut self, paged: Paged) {
        self.paged = Some(Box::new(paged));
    }

    fn paged_of(&self, part: &proto::Part) -> Option<&Paged> {
        let same = |there: &Bytes| {
            // Mostly it is in the very same place.
            let place = (there.as_ptr(), there.len()) == (part.entries.as_ptr(), part.entries.len());
            place || *there == part.entries
        };
        let paged = self.paged.as_deref()?;
        ((paged.attempt, paged.page) == (part.attempt, part.page) && same(&paged.entries)).then_some(paged)
    }

    /// The digest of a page's bytes.
    pub(super) fn page_digest(&self, part: &proto::Part) -> Digest {
        self.paged_of(part).map_or_else(|| digest::content(&part.entries), |paged| paged.digest)
    }

    /// What a page says that is the next one of its attempt.
    pub(super) fn page_says(&self, attempt: &Attempt, part: &proto::Part) -> Result<PageSays, Rejected> {
        match self.paged_of(part) {
            Some(paged) => paged.said.clone(),
            None => Reading::of(attempt, &part.entries).read(),
        }
    }
}
