//! The ledger as rows: the one form in which it leaves memory, all of them in a snapshot, a few in the catalog.
//!
//! Every row has a key whose bytes sort as [`RowKey`] does (a table's tag, then names ended by a zero
//! byte and big-endian numbers) and a value of fixed fields, big-endian, byte strings behind a
//! 32-bit length. What follows from other rows (merged digests, indexes, counters) has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::digest::is_subtree;
use checkpoint::limits::CHUNK_BYTES_MIN;
use checkpoint::{CommitId, Digest, EntryKind, JobName, PlanEntry, RelPath};

use super::Ledger;
use super::attempt::{Attempt, FileState, Fit, Terms};
use super::changes::RowKey;
use super::content::{Content, Contents};
use super::encode::DecodeError;
use super::job::{Ended, Ending, EpochRecord, Job, Outcome, PinRecord};
use super::verdict::SealedEpoch;
use crate::record::LogId;

impl RowKey {
    /// The key as bytes: the table's tag first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut key = Writer::default();
        self.put(&mut key);
        key.bytes
    }

    pub(super) fn put(&self, key: &mut Writer) {
        match self {
            RowKey::Meta => key.u8(0),
            RowKey::Job(job) => key.u8(1).name(job),
            RowKey::Commit(job, commit) => key.u8(2).name(job).raw(commit.as_bytes()),
            RowKey::Epoch(job, epoch) => key.u8(3).name(job).u64(*epoch),
            RowKey::EpochContent(job, epoch) => key.u8(4).name(job).u64(*epoch),
            RowKey::Pin(job, epoch, owner) => key.u8(5).name(job).u64(*epoch).raw(owner.as_bytes()),
            RowKey::Content(id) => key.u8(6).u32(*id),
            RowKey::Attempt(id) => key.u8(7).u64(*id),
            RowKey::Page(id, page) => key.u8(8).u64(*id).u32(*page),
            RowKey::File(id, file) => key.u8(9).u64(*id).u32(*file),
            RowKey::Piece(id, file, offset) => key.u8(10).u64(*id).u32(*file).u64(*offset),
            RowKey::Ended(id) => key.u8(11).u64(*id),
        };
    }

    /// Reads a key.
    ///
    /// # Errors
    /// Bytes that are no key.
    pub fn from_bytes(bytes: &[u8]) -> Result<RowKey, DecodeError> {
        let mut key = Reader { rest: bytes };
        let read = match key.u8()? {
            0 => RowKey::Meta,
            1 => RowKey::Job(key.name()?),
            2 => RowKey::Commit(key.name()?, key.commit()?),
            3 => RowKey::Epoch(key.name()?, key.u64()?),
            4 => RowKey::EpochContent(key.name()?, key.u64()?),
            5 => RowKey::Pin(key.name()?, key.u64()?, text(std::mem::take(&mut key.rest))?),
            6 => RowKey::Content(key.u32()?),
            7 => RowKey::Attempt(key.u64()?),
            8 => RowKey::Page(key.u64()?, key.u32()?),
            9 => RowKey::File(key.u64()?, key.u32()?),
            10 => RowKey::Piece(key.u64()?, key.u32()?, key.u64()?),
            11 => RowKey::Ended(key.u64()?),
            _ => return Err(DecodeError("a row of no known table")),
        };
        key.end()?;
        Ok(read)
    }
}

impl Ledger {
    /// The value of one row; `None` when the ledger has no such row (any more).
    pub fn row(&self, key: &RowKey) -> Option<Vec<u8>> {
        let mut value = Writer::default();
        self.put_row(key, &mut value)?;
        Some(value.bytes)
    }

    /// Nothing is written when the ledger has no such row.
    pub(super) fn put_row(&self, key: &RowKey, value: &mut Writer) -> Option<()> {
        match key {
            RowKey::Meta => self.put_meta(value),
            RowKey::Job(name) => {
                let job = self.jobs.get(name)?;
                value.u64(job.token).option(job.mark);
            }
            RowKey::Commit(name, commit) => {
                let (at, outcome) = self.jobs.get(name)?.commits.row(commit)?;
                put_outcome(value.u64(at), outcome);
            }
            RowKey::Epoch(name, epoch) => put_epoch(value, self.jobs.get(name)?.epochs.get(epoch)?),
            RowKey::EpochContent(name, epoch) => {
                for id in &self.jobs.get(name)?.epochs.get(epoch)?.content {
                    value.u32(*id);
                }
            }
            RowKey::Pin(name, epoch, owner) => {
                let pin = self.jobs.get(name)?.epochs.get(epoch)?.pins.get(owner)?;
                value.option(pin.until_ms).string(pin.reason.as_bytes());
            }
            RowKey::Content(id) => put_content(value, self.content.slot(*id)?),
            RowKey::Attempt(id) => put_attempt(value, self.open.get(id)?),
            RowKey::Page(id, page) => {
                let attempt = self.open.get(id)?;
                if *page as usize >= attempt.page_ends.len() {
                    return None;
                }
                attempt.page(*page).iter().for_each(|entry| put_entry(value, entry));
            }
            RowKey::File(id, file) => put_file(value, self.open.get(id)?.files.get(*file as usize)?)?,
            RowKey::Piece(id, file, offset) => {
                let FileState::Staged(staged) = self.open.get(id)?.files.get(*file as usize)? else {
                    return None;
                };
                let (len, digest) = staged.ranges.get(offset)?;
                value.u64(*len).digest(digest);
            }
            RowKey::Ended(id) => put_ended(value, self.ended.get(id)?),
        }
        Some(())
    }

    /// Every row, in the order of keys.
    pub fn rows(&self) -> impl Iterator<Item = (RowKey, Vec<u8>)> {
        self.row_keys().map(|key| {
            let value = self.row(&key).expect("the ledger lists the rows it has");
            (key, value)
        })
    }

    pub(super) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let jobs = || self.jobs.iter();
        let epochs = || {
            jobs()
                .flat_map(|(name, job)| job.epochs.iter().map(move |(epoch, record)| (name, *epoch, record)))
        };
        let files = || {
            let open = self.open.iter();
            open.flat_map(|(id, attempt)| {
                attempt.files.iter().enumerate().map(move |(file, state)| (*id, file as u32, state))
            })
        };
        std::iter::once(RowKey::Meta)
            .chain(jobs().map(|(name, _)| RowKey::Job(name.clone())))
            .chain(jobs().flat_map(|(name, job)| {
                job.commits.iter().map(move |(id, _, _)| RowKey::Commit(name.clone(), *id))
            }))
            .chain(epochs().map(|(name, epoch, _)| RowKey::Epoch(name.clone(), epoch)))
            .chain(epochs().map(|(name, epoch, _)| RowKey::EpochContent(name.clone(), epoch)))
            .chain(epochs().flat_map(|(name, epoch, record)| {
                record.pins.keys().map(move |owner| RowKey::Pin(name.clone(), epoch, owner.clone()))
            }))
            .chain(self.content.iter().map(|(id, _)| RowKey::Content(id)))
            .chain(self.open.keys().map(|id| RowKey::Attempt(*id)))
            .chain(self.open.iter().flat_map(|(id, attempt)| {
                (0..attempt.page_ends.len() as u32).map(move |page| RowKey::Page(*id, page))
            }))
            .chain(files().filter_map(|(id, file, state)| {
                matches!(state, FileState::Packed(_) | FileState::Reused(_)).then_some(RowKey::File(id, file))
            }))
            .chain(files().flat_map(|(id, file, state)| {
                let ranges = match state {
                    FileState::Staged(staged) => Some(staged.ranges.keys()),
                    _ => None,
                };
                ranges.into_iter().flatten().map(move |offset| RowKey::Piece(id, file, *offset))
            }))
            .chain(self.ended.keys().map(|id| RowKey::Ended(*id)))
    }

    fn put_meta(&self, value: &mut Writer) {
        value.u32(self.rules).u64(self.log_ms).u32(self.content.slots());
        value.u8(u8::from(self.applied.is_some())).position(self.applied.unwrap_or_default());
        value.u8(u8::from(self.cluster.is_some())).raw(&self.cluster.unwrap_or_default());
        value.u32(self.members.len() as u32);
        for (node, incarnation) in &self.members {
            value.u64(*node).raw(incarnation);
        }
    }
}

/// Builds a ledger from its rows, which must come in the order of keys, without gaps in what they refer to.
#[derive(Default)]
pub(super) struct Builder {
    ledger: Ledger,
    last: Option<RowKey>,
    slots: u32,
    content: Vec<(u32, Content)>,
}

impl Builder {
    /// Takes the next row.
    pub fn add(&mut self, key: RowKey, value: &[u8]) -> Result<(), DecodeError> {
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(DecodeError("rows out of order"));
        }
        if self.last.is_none() && key != RowKey::Meta {
            return Err(DecodeError("the first row is missing"));
        }
        let mut value = Reader { rest: value };
        self.take(&key, &mut value)?;
        value.end()?;
        self.last = Some(key);
        Ok(())
    }

    fn take(&mut self, key: &RowKey, value: &mut Reader<'_>) -> Result<(), DecodeError> {
        let ledger = &mut self.ledger;
        match key {
            RowKey::Meta => self.slots = ledger.take_meta(value)?,
            RowKey::Job(name) => {
                let job = Job { token: value.u64()?, mark: value.option()?, ..Job::default() };
                ledger.jobs.insert(name.clone(), job);
            }
            RowKey::Commit(name, commit) => {
                let at = value.u64()?;
                let outcome = value.outcome()?;
                let commits = &mut ledger.known(name)?.commits;
                if commits.knows_age(at) || commits.remember(*commit, at, outcome).is_some() {
                    return Err(DecodeError("commit ids that cannot stand together"));
                }
            }
            RowKey::Epoch(name, epoch) => {
                let record = value.epoch(name, *epoch)?;
                ledger.known(name)?.epochs.insert(*epoch, record);
            }
            RowKey::EpochContent(name, epoch) => {
                let mut ids = Vec::with_capacity(value.rest.len() / 4);
                while !value.rest.is_empty() {
                    ids.push(value.u32()?);
                }
                if !ids.is_sorted_by(|a, b| a < b) {
                    return Err(DecodeError("content ids out of order"));
                }
                ledger.known_epoch(name, *epoch)?.content = ids.into();
            }
            RowKey::Pin(name, epoch, owner) => {
                let until_ms = value.option()?;
                let pin = PinRecord { until_ms, reason: value.text()? };
                ledger.known_epoch(name, *epoch)?.pins.insert(owner.clone(), pin);
            }
            RowKey::Content(id) => {
                let content = Content { digest: value.digest()?, bytes: value.u64()?, refs: value.u32()? };
                self.content.push((*id, content));
            }
            RowKey::Attempt(id) => {
                let attempt = value.attempt()?;
                ledger.known(&attempt.terms.job)?.open.insert(*id);
                ledger.open.insert(*id, attempt);
            }
            RowKey::Page(id, page) => take_page(ledger.known_open(*id)?, *page, value)?,
            RowKey::File(id, file) => take_file(ledger.known_open(*id)?, *file, value)?,
            RowKey::Piece(id, file, offset) => {
                take_range(ledger.known_open(*id)?, *file, *offset, value.u64()?, value.digest()?)?;
            }
            RowKey::Ended(id) => {
                let mut ended = value.ended()?;
                let job = ledger.known(&ended.job)?;
                job.ended.insert(*id);
                if let Ending::Sealed { sealed, .. } = &mut ended.how {
                    let there = job.epochs.get(&sealed.epoch).filter(|there| there.sealed == *sealed);
                    if let Some(there) = there {
                        *sealed = there.sealed.clone();
                    }
                }
                ledger.ended.insert(*id, ended);
            }
        }
        Ok(())
    }

    /// The ledger, once all rows are in.
    pub fn finish(self) -> Result<Ledger, DecodeError> {
        let Builder { mut ledger, last, slots, content } = self;
        last.ok_or(DecodeError("no rows"))?;
        let contents = Contents::rebuild(slots, content.into_iter());
        ledger.content = contents.ok_or(DecodeError("content rows that cannot stand together"))?;
        for attempt in ledger.open.values_mut() {
            for state in &attempt.files {
                if let FileState::Reused(digest) = state {
                    let (id, _) = ledger.content.find(digest).ok_or(DecodeError("reused content is gone"))?;
                    attempt.held.insert(id);
                }
            }
        }
        let mut holders: BTreeMap<u32, u32> = BTreeMap::new();
        let by_epochs =
            ledger.jobs.values().flat_map(|job| job.epochs.values().flat_map(|e| e.content.iter()));
        let by_attempts = ledger.open.values().flat_map(|attempt| attempt.held.iter());
        by_epochs.chain(by_attempts).for_each(|id| *holders.entry(*id).or_default() += 1);
        if !holders
            .iter()
            .map(|(id, refs)| (*id, *refs))
            .eq(ledger.content.iter().map(|(id, c)| (id, c.refs)))
        {
            return Err(DecodeError("content is not held as often as its rows say"));
        }
        Ok(ledger)
    }
}

impl Ledger {
    fn take_meta(&mut self, value: &mut Reader<'_>) -> Result<u32, DecodeError> {
        self.rules = value.u32()?;
        self.log_ms = value.u64()?;
        let slots = value.u32()?;
        let some = value.u8()? != 0;
        let applied = value.position()?;
        self.applied = some.then_some(applied);
        let some = value.u8()? != 0;
        let cluster = value.array()?;
        self.cluster = some.then_some(cluster);
        for _ in 0..value.u32()? {
            let node = value.u64()?;
            self.members.insert(node, value.array()?);
        }
        Ok(slots)
    }

    fn known(&mut self, name: &JobName) -> Result<&mut Job, DecodeError> {
        self.jobs.get_mut(name).ok_or(DecodeError("a row of a job that is not there"))
    }

    fn known_epoch(&mut self, name: &JobName, epoch: u64) -> Result<&mut EpochRecord, DecodeError> {
        self.known(name)?.epochs.get_mut(&epoch).ok_or(DecodeError("a row of an epoch that is not there"))
    }

    fn known_open(&mut self, id: u64) -> Result<&mut Attempt, DecodeError> {
        self.open.get_mut(&id).ok_or(DecodeError("a row of an attempt that is not there"))
    }
}

fn take_page(attempt: &mut Attempt, page: u32, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    let mut checker = attempt.checker.clone().ok_or(DecodeError("more pages than the plan has"))?;
    if page as usize != attempt.page_ends.len() {
        return Err(DecodeError("a page of a plan is missing"));
    }
    let mut entries = Vec::new();
    while !value.rest.is_empty() {
        let entry = value.entry()?;
        checker.push(&entry).map_err(|_| DecodeError("a plan that is none"))?;
        entries.push(entry);
    }
    attempt.add_page(entries, checker);
    Ok(())
}

fn take_file(attempt: &mut Attempt, file: u32, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    let state = value.file()?;
    if !is_open_file(attempt, file) || attempt.files[file as usize] != FileState::Bare {
        return Err(DecodeError("a file that cannot be covered"));
    }
    attempt.cover_whole(file, state);
    Ok(())
}

fn take_range(
    attempt: &mut Attempt,
    file: u32,
    offset: u64,
    len: u64,
    digest: Digest,
) -> Result<(), DecodeError> {
    let wrong = DecodeError("a range that cannot be covered");
    if !is_open_file(attempt, file) {
        return Err(wrong);
    }
    let size = attempt.entries[file as usize].size;
    let unit = u64::from(CHUNK_BYTES_MIN);
    let end = offset.checked_add(len).filter(|end| len > 0 && *end <= size).ok_or(wrong.clone())?;
    let aligned = offset.is_multiple_of(unit) && (len.is_multiple_of(unit) || end == size);
    if !aligned || !is_subtree(size, offset, len) || attempt.fit(file, offset, len, &digest) != Fit::New {
        return Err(wrong);
    }
    attempt.cover(file, offset, len, digest);
    Ok(())
}

fn is_open_file(attempt: &Attempt, file: u32) -> bool {
    attempt.entries.get(file as usize).is_some_and(|entry| entry.kind == EntryKind::File && entry.size > 0)
}

fn put_outcome(value: &mut Writer, outcome: Outcome) {
    match outcome {
        Outcome::Writer { token } => value.u8(1).u64(token),
        Outcome::Attempt { id } => value.u8(2).u64(id),
    };
}

fn put_epoch(value: &mut Writer, record: &EpochRecord) {
    put_sealed(value, &record.sealed);
    value.option(record.base).u64(record.sealed_log_ms);
    put_labels(value, &record.labels, &record.depends_on);
}

fn put_sealed(value: &mut Writer, sealed: &SealedEpoch) {
    value.digest(&sealed.root).position(sealed.position).u64(sealed.attempt);
    value
        .u64(sealed.files)
        .u64(sealed.bytes)
        .u64(sealed.new_bytes)
        .u64(sealed.new_files)
        .u64(sealed.log_bytes);
}

fn put_labels(value: &mut Writer, labels: &[(String, String)], depends_on: &[String]) {
    value.u32(labels.len() as u32);
    for (key, label) in labels {
        value.string(key.as_bytes()).string(label.as_bytes());
    }
    value.u32(depends_on.len() as u32);
    for name in depends_on {
        value.string(name.as_bytes());
    }
}

fn put_content(value: &mut Writer, content: &Content) {
    value.digest(&content.digest).u64(content.bytes).u32(content.refs);
}

fn put_attempt(value: &mut Writer, attempt: &Attempt) {
    let terms = &attempt.terms;
    value.name(&terms.job).u64(terms.epoch).u64(terms.token).raw(terms.commit.as_bytes());
    value.u64(terms.declared_bytes).u32(terms.chunk_bytes).option(terms.base);
    value.digest(&terms.plan_digest).u32(terms.plan_pages).u32(terms.plan_entries);
    put_labels(value, &terms.labels, &terms.depends_on);
    value.u64(attempt.log_bytes).u64(attempt.begun_ms).u64(attempt.last_ms);
}

fn put_entry(value: &mut Writer, entry: &PlanEntry) {
    let kind = match entry.kind {
        EntryKind::File => 1,
        EntryKind::Directory => 2,
        EntryKind::Symlink => 3,
    };
    value.u8(kind).u32(entry.mode).u64(entry.size);
    value.string(entry.path.as_bytes()).string(&entry.target);
}

fn put_file(value: &mut Writer, state: &FileState) -> Option<()> {
    match state {
        FileState::Packed(digest) => value.u8(1).digest(digest),
        FileState::Reused(digest) => value.u8(2).digest(digest),
        FileState::Bare | FileState::Staged(_) => return None,
    };
    Some(())
}

fn put_ended(value: &mut Writer, ended: &Ended) {
    value.name(&ended.job);
    match &ended.how {
        Ending::Sealed { sealed, plan_digest } => {
            value.u8(1).u64(sealed.epoch).digest(plan_digest);
            put_sealed(value, sealed);
        }
        Ending::Aborted => drop(value.u8(2)),
        Ending::Subsumed { by } => drop(value.u8(3).u64(*by)),
        Ending::Fenced => drop(value.u8(4)),
    }
}

/// Keys and values, as given.
type Labels = Vec<(String, String)>;

/// Writes fields end to end.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    fn u8(&mut self, number: u8) -> &mut Self {
        self.raw(&[number])
    }
    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    fn option(&mut self, number: Option<u64>) -> &mut Self {
        self.u8(u8::from(number.is_some())).u64(number.unwrap_or(0))
    }
    fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.raw(digest.as_bytes())
    }
    fn name(&mut self, name: &JobName) -> &mut Self {
        self.raw(name.as_str().as_bytes()).u8(0)
    }
    fn string(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("judged to be short")).raw(bytes)
    }
    fn position(&mut self, id: LogId) -> &mut Self {
        self.u64(id.term).u64(id.node).u64(id.index)
    }
}

/// Reads fields end to end; never past the end.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError("a row is too short"))?;
        self.rest = rest;
        Ok(taken)
    }
    fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError("a row is too long")) }
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }
    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }
    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    fn option(&mut self) -> Result<Option<u64>, DecodeError> {
        let some = self.u8()? != 0;
        let number = self.u64()?;
        Ok(some.then_some(number))
    }
    fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest::from_bytes(self.array()?))
    }
    fn commit(&mut self) -> Result<CommitId, DecodeError> {
        Ok(CommitId::from_bytes(self.array()?))
    }
    fn name(&mut self) -> Result<JobName, DecodeError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(DecodeError("a name without an end"))?;
        let name = text(self.take(end)?)?;
        self.take(1)?;
        JobName::try_from(name.as_str()).map_err(|_| DecodeError("a job name that is none"))
    }
    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    fn text(&mut self) -> Result<String, DecodeError> {
        text(self.string()?)
    }
    fn position(&mut self) -> Result<LogId, DecodeError> {
        Ok(LogId { term: self.u64()?, node: self.u64()?, index: self.u64()? })
    }
    fn outcome(&mut self) -> Result<Outcome, DecodeError> {
        match self.u8()? {
            1 => Ok(Outcome::Writer { token: self.u64()? }),
            2 => Ok(Outcome::Attempt { id: self.u64()? }),
            _ => Err(DecodeError("an outcome that is none")),
        }
    }
    fn epoch(&mut self, job: &JobName, epoch: u64) -> Result<EpochRecord, DecodeError> {
        let sealed = Arc::new(self.sealed(job.clone(), epoch)?);
        let base = self.option()?;
        let sealed_log_ms = self.u64()?;
        let (labels, depends_on) = self.labels()?;
        let (content, pins) = (Box::default(), BTreeMap::new());
        Ok(EpochRecord { sealed, base, labels, depends_on, sealed_log_ms, content, pins })
    }
    fn sealed(&mut self, job: JobName, epoch: u64) -> Result<SealedEpoch, DecodeError> {
        Ok(SealedEpoch {
            job,
            epoch,
            root: self.digest()?,
            position: self.position()?,
            attempt: self.u64()?,
            files: self.u64()?,
            bytes: self.u64()?,
            new_bytes: self.u64()?,
            new_files: self.u64()?,
            log_bytes: self.u64()?,
            already: false,
        })
    }
    fn labels(&mut self) -> Result<(Labels, Vec<String>), DecodeError> {
        let mut labels = Vec::new();
        for _ in 0..self.u32()? {
            labels.push((self.text()?, self.text()?));
        }
        let mut depends_on = Vec::new();
        for _ in 0..self.u32()? {
            depends_on.push(self.text()?);
        }
        Ok((labels, depends_on))
    }
    fn attempt(&mut self) -> Result<Attempt, DecodeError> {
        let (job, epoch, token, commit) = (self.name()?, self.u64()?, self.u64()?, self.commit()?);
        let (declared_bytes, chunk_bytes, base) = (self.u64()?, self.u32()?, self.option()?);
        let (plan_digest, plan_pages, plan_entries) = (self.digest()?, self.u32()?, self.u32()?);
        let (labels, depends_on) = self.labels()?;
        if !chunk_bytes.is_power_of_two() || chunk_bytes < 1024 {
            return Err(DecodeError("a chunk size that is none"));
        }
        let terms = Terms {
            job,
            epoch,
            token,
            commit,
            declared_bytes,
            chunk_bytes,
            base,
            labels,
            depends_on,
            plan_digest,
            plan_pages,
            plan_entries,
        };
        let mut attempt = Attempt::new(terms, 0, self.u64()?);
        attempt.begun_ms = self.u64()?;
        attempt.last_ms = self.u64()?;
        Ok(attempt)
    }
    fn entry(&mut self) -> Result<PlanEntry, DecodeError> {
        let kind = match self.u8()? {
            1 => EntryKind::File,
            2 => EntryKind::Directory,
            3 => EntryKind::Symlink,
            _ => return Err(DecodeError("an entry of no known kind")),
        };
        let (mode, size) = (self.u32()?, self.u64()?);
        let path = RelPath::parse(self.string()?).map_err(|_| DecodeError("a path that is none"))?;
        Ok(PlanEntry { path, kind, mode, size, target: self.string()?.to_vec() })
    }
    fn file(&mut self) -> Result<FileState, DecodeError> {
        match self.u8()? {
            1 => Ok(FileState::Packed(self.digest()?)),
            2 => Ok(FileState::Reused(self.digest()?)),
            _ => Err(DecodeError("a covered file of no known kind")),
        }
    }
    fn ended(&mut self) -> Result<Ended, DecodeError> {
        let job = self.name()?;
        let how = match self.u8()? {
            1 => {
                let epoch = self.u64()?;
                let plan_digest = self.digest()?;
                Ending::Sealed { sealed: Arc::new(self.sealed(job.clone(), epoch)?), plan_digest }
            }
            2 => Ending::Aborted,
            3 => Ending::Subsumed { by: self.u64()? },
            4 => Ending::Fenced,
            _ => return Err(DecodeError("an ending of no known kind")),
        };
        Ok(Ended { job, how })
    }
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError("a text that is not UTF-8"))
}
