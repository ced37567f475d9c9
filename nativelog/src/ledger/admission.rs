//! The leader's own check before it proposes: the whole verdict against its ledger, plus what it has in flight.
//!
//! Two payloads for one byte range must never both be in the log (the staged file has room for one),
//! so a range is taken from the moment its record is proposed until it is applied. An `Admission`
//! belongs to one term of one leader: it is made anew when leadership is won, after the ledger has
//! applied that term's first entry, and dropped when it is lost. Within its term a ticket is released
//! only when its record was applied, or surely never entered the log.
//!
//! Room is given out in the same way, and under the same lock: of two records that begin something at the same moment,
//! wherever they come from, the second one is asked with what the first may bring. A repeat of what is on its way is not
//! asked at all: it brings nothing beside the first, and a no to it would be said of what is about to be committed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use checkpoint::Digest;

use super::room::{Ask, NoRoom, Outgrown};
use super::tables::Ledger;
use super::verdict::{Reason, Rejected, Verdict};
use crate::record::{Header, Kind, Record, proto};

/// A range that a piece brings: its end and its digest.
type Brought = (RangeKey, (u64, Digest));

/// Attempt, file and offset.
type RangeKey = (u64, u32, u64);

/// What a leader has in flight.
#[derive(Debug, Default)]
pub struct Admission {
    next: u64,
    /// By ticket.
    held: BTreeMap<u64, Held>,
    /// Ranges in flight by attempt, file and offset: length, digest and ticket.
    ranges: BTreeMap<RangeKey, (u64, Digest)>,
    /// Bytes of pieces in flight by attempt.
    bringing: BTreeMap<u64, u64>,
    /// Pages in flight by attempt.
    pages: BTreeSet<(u64, u32)>,
    /// What records in flight have asked for, or repeat, by ticket.
    asked: BTreeMap<u64, Asked>,
}

/// A record that may be proposed. Give it back with [`Admission::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is not released holds its ranges for ever"]
pub struct Ticket(u64);

/// Why a record is not proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The answer is certain already: a rejection, or a piece that the log has.
    Answered(Verdict),
    /// The very same piece is in flight: its verdict will be the answer.
    Duplicate,
    /// The plan of what it seals was not read yet, see [`Ledger::gathering`]: admit it again after that.
    Ungathered,
    /// It begins something for which there is no room.
    NoRoom(NoRoom),
}

#[derive(Debug)]
enum Held {
    Piece { attempt: u64, bytes: u64, ranges: Vec<RangeKey> },
    Page(u64, u32),
    Nothing,
}

/// What a record has asked for, and for which commit. Of several for one commit one brings it.
#[derive(Debug)]
struct Asked {
    job: String,
    commit: Bytes,
    bytes: u64,
}

/// A range that a record brings.
struct Range {
    file: u32,
    offset: u64,
    len: u64,
    digest: Digest,
}

#[expect(
    clippy::result_large_err,
    reason = "the answer goes to the proposer as it is, and is no common case"
)]
impl Admission {
    /// Nothing in flight.
    pub fn new() -> Self {
        Admission::default()
    }

    /// Records in flight.
    pub fn in_flight(&self) -> usize {
        self.held.len()
    }

    /// Judges a record as if everything in flight were not there, and its ranges against those in flight. The next page of a
    /// plan is not judged here: its entries are where it is applied.
    ///
    /// Pages of a plan may follow each other in flight: page n is admitted when the pages before it are
    /// applied or in flight.
    ///
    /// # Errors
    /// The record must not be proposed; see [`NotAdmitted`].
    pub fn admit(&mut self, ledger: &Ledger, header: &Header) -> Result<Ticket, NotAdmitted> {
        self.admit_if(ledger, header, |_| Ok(()))
    }

    /// The same, where what begins something also needs room, and a piece with which its attempt brings more than it said.
    /// `has_room` is asked last, when nothing else stands against the record; it must be quick, and reads no disk.
    ///
    /// # Errors
    /// The record must not be proposed; see [`NotAdmitted`].
    pub fn admit_if(
        &mut self,
        ledger: &Ledger,
        header: &Header,
        has_room: impl FnOnce(Ask) -> Result<(), NoRoom>,
    ) -> Result<Ticket, NotAdmitted> {
        if let Some(Kind::Part(part)) = &header.kind {
            if self.pages.contains(&(part.attempt, part.page)) {
                return Err(NotAdmitted::Duplicate);
            }
            if let Some(attempt) = ledger.attempt(part.attempt) {
                let here = attempt.pages_here;
                let in_flight = (here..part.page).all(|page| self.pages.contains(&(part.attempt, page)));
                if part.page >= here && in_flight {
                    // What it says is judged where it is applied: to read it takes long.
                    return self.admit_page((part.attempt, part.page), attempt.plan_pages);
                }
            }
        }
        if ledger.ungathered(header).is_some() {
            return Err(NotAdmitted::Ungathered);
        }
        let verdict = ledger.check(header);
        let Some((attempt, ranges)) = pieces_of(header, ledger) else {
            return match verdict {
                Verdict::Rejected(_) => Err(NotAdmitted::Answered(verdict)),
                Verdict::Accepted(_) => self.admit_asking(ledger, header, &verdict, has_room),
            };
        };
        if !verdict.is_accepted() {
            return Err(NotAdmitted::Answered(verdict));
        }
        if matches!(&header.kind, Some(Kind::Part(_))) {
            // It is here.
            return Err(NotAdmitted::Answered(verdict));
        }
        let bytes = header.payload_bytes;
        let keys = self.new_ranges(ledger, attempt, ranges, verdict)?;
        let more = self.bringing.get(&attempt).copied().unwrap_or_default().saturating_add(bytes);
        let asked = match ledger.outgrown(attempt, more).filter(|_| bytes > 0) {
            None => None,
            Some(Outgrown { job, commit, bytes }) => {
                let asked = Asked { job, commit, bytes };
                self.ask(ledger, &asked, has_room)?;
                Some(asked)
            }
        };
        if bytes > 0 {
            self.bringing.insert(attempt, more);
        }
        let ranges = keys.iter().map(|(key, _)| *key).collect();
        self.ranges.extend(keys);
        let ticket = self.ticket(Held::Piece { attempt, bytes, ranges });
        self.asked.extend(asked.map(|asked| (ticket.0, asked)));
        Ok(ticket)
    }

    /// The record was applied, or surely never entered the log.
    pub fn release(&mut self, ticket: Ticket) {
        self.asked.remove(&ticket.0);
        match self.held.remove(&ticket.0).expect("a ticket is released once, where it was given") {
            Held::Piece { attempt, bytes, ranges } => {
                for range in ranges {
                    self.ranges.remove(&range);
                }
                if let Some(bringing) = self.bringing.get_mut(&attempt) {
                    *bringing -= bytes;
                    if *bringing == 0 {
                        self.bringing.remove(&attempt);
                    }
                }
            }
            Held::Page(attempt, page) => {
                self.pages.remove(&(attempt, page));
            }
            Held::Nothing => {}
        }
    }

    fn admit_asking(
        &mut self,
        ledger: &Ledger,
        header: &Header,
        verdict: &Verdict,
        has_room: impl FnOnce(Ask) -> Result<(), NoRoom>,
    ) -> Result<Ticket, NotAdmitted> {
        let asks = ledger.asks_for(header, verdict).zip(begin_of(header));
        let Some((needed, begin)) = asks else { return Ok(self.ticket(Held::Nothing)) };
        let asked = Asked { job: begin.job.clone(), commit: begin.commit_id.clone(), bytes: needed };
        self.ask(ledger, &asked, has_room)?;
        let ticket = self.ticket(Held::Nothing);
        self.asked.insert(ticket.0, asked);
        Ok(ticket)
    }

    fn ask(
        &self,
        ledger: &Ledger,
        Asked { job, commit, bytes }: &Asked,
        has_room: impl FnOnce(Ask) -> Result<(), NoRoom>,
    ) -> Result<(), NotAdmitted> {
        let is_own = |asked: &&Asked| asked.job == *job && asked.commit == *commit;
        // It counts on beside the first: that one may be rejected, and then this is what comes.
        if self.asked.values().any(|asked| is_own(&asked) && asked.bytes >= *bytes) {
            return Ok(());
        }
        let spoken_for = ledger.reserved_bytes().saturating_add(self.asked_beside(job, commit));
        has_room(Ask { needed: *bytes, spoken_for, held: ledger.brought_bytes() })
            .map_err(NotAdmitted::NoRoom)
    }

    /// Bytes that other commits on their way have asked for, each once.
    fn asked_beside(&self, job: &str, commit: &Bytes) -> u64 {
        let mut most: BTreeMap<(&str, &Bytes), u64> = BTreeMap::new();
        for asked in self.asked.values().filter(|asked| asked.job != job || asked.commit != *commit) {
            let bytes = most.entry((&asked.job, &asked.commit)).or_default();
            *bytes = asked.bytes.max(*bytes);
        }
        most.into_values().fold(0, u64::saturating_add)
    }

    fn admit_page(&mut self, page: (u64, u32), pages: u32) -> Result<Ticket, NotAdmitted> {
        if page.1 >= pages {
            let rejected = Rejected::new(Reason::Malformed, format!("the plan has {pages} pages"));
            return Err(NotAdmitted::Answered(Verdict::Rejected(rejected)));
        }
        self.pages.insert(page);
        Ok(self.ticket(Held::Page(page.0, page.1)))
    }

    /// The ranges that neither the ledger has nor are in flight, by where they are.
    fn new_ranges(
        &self,
        ledger: &Ledger,
        attempt: u64,
        ranges: Vec<Range>,
        verdict: Verdict,
    ) -> Result<Vec<Brought>, NotAdmitted> {
        let mut taken = Vec::new();
        let mut in_flight = false;
        for range in ranges {
            if ledger.has_piece(attempt, range.file, range.offset, range.len, &range.digest) {
                continue;
            }
            match self.in_flight_at(attempt, &range) {
                None => taken.push(((attempt, range.file, range.offset), (range.len, range.digest))),
                Some(true) => in_flight = true,
                Some(false) => {
                    let end = range.offset + range.len;
                    let detail = format!(
                        "bytes {}..{end} of file {} are on their way otherwise",
                        range.offset, range.file
                    );
                    return Err(NotAdmitted::Answered(Verdict::Rejected(Rejected::new(
                        Reason::Overlap,
                        detail,
                    ))));
                }
            }
        }
        match taken.is_empty() {
            true if in_flight => Err(NotAdmitted::Duplicate),
            true => Err(NotAdmitted::Answered(verdict)),
            false => Ok(taken),
        }
    }

    /// Whether a range in flight touches this one: `Some(true)` when it is the same.
    fn in_flight_at(&self, attempt: u64, range: &Range) -> Option<bool> {
        let end = (attempt, range.file, range.offset + range.len);
        let ((_, _, at), (len, digest)) = self.ranges.range((attempt, range.file, 0)..end).next_back()?;
        if at + len <= range.offset {
            return None;
        }
        Some(*at == range.offset && *len == range.len && *digest == range.digest)
    }

    fn ticket(&mut self, held: Held) -> Ticket {
        self.next += 1;
        self.held.insert(self.next, held);
        Ticket(self.next)
    }
}

/// What a record begins.
fn begin_of(header: &Record) -> Option<&proto::Begin> {
    match header.kind.as_ref()? {
        Kind::Begin(begin) => Some(begin),
        Kind::Whole(whole) => whole.begin.as_ref(),
        _ => None,
    }
}

/// The attempt and the ranges that a record brings to it; `None` for a record that is no piece. Files that are
/// not in the plan are left out: the check has rejected them.
fn pieces_of(header: &Record, ledger: &Ledger) -> Option<(u64, Vec<Range>)> {
    let digest = |bytes: &[u8]| Digest::from_slice(bytes);
    let whole = |attempt: u64, file: u32, bytes: &[u8]| {
        let len = ledger.planned_bytes(attempt, file)?;
        Some(Range { file, offset: 0, len, digest: digest(bytes)? }).filter(|range| range.len > 0)
    };
    Some(match header.kind.as_ref()? {
        Kind::Part(part) => (part.attempt, Vec::new()),
        Kind::Chunk(chunk) => {
            let range = digest(&chunk.digest).map(|digest| Range {
                file: chunk.file,
                offset: chunk.offset,
                len: u64::from(chunk.len),
                digest,
            });
            (chunk.attempt, range.into_iter().collect())
        }
        Kind::Zero(zero) => {
            let range = digest(&zero.digest).map(|digest| Range {
                file: zero.file,
                offset: zero.offset,
                len: zero.len,
                digest,
            });
            (zero.attempt, range.into_iter().collect())
        }
        Kind::Pack(pack) => {
            let ranges = pack.files.iter().filter_map(|file| whole(pack.attempt, file.file, &file.digest));
            (pack.attempt, ranges.collect())
        }
        Kind::Reuse(reuse) => {
            let ranges = reuse.files.iter().filter_map(|file| whole(reuse.attempt, file.file, &file.digest));
            (reuse.attempt, ranges.collect())
        }
        Kind::Link(link) => {
            let ranges = link.files.iter().filter_map(|file| whole(link.attempt, file.file, &file.digest));
            (link.attempt, ranges.collect())
        }
        _ => return None,
    })
}
