//! The ledger as rows: the one form in which it leaves memory, all of them in a snapshot, a few in the catalog.
//!
//! Every row has a key ([`RowKey`]) and a value of fixed fields. What follows from other rows (merged digests,
//! indexes, counters) has none. Each table has a file with the put and the take of its rows side by side; here
//! is only their order.

mod attempt;
mod content;
mod epoch;
mod job;
mod meta;
mod object;
mod outcome;
mod quarantine;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::JobName;

use super::attempt::Attempt;
use super::codec::{DecodeError, Reader, Writer};
use super::content::{Content, Contents};
use super::files::FileState;
use super::job::{EpochRecord, Job};
use super::key::RowKey;
use super::tables::Ledger;

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
            RowKey::Meta => meta::put(value, self),
            RowKey::Job(name) => job::put(value, self.jobs.get(name)?),
            RowKey::Epoch(name, epoch) => epoch::put(value, self.jobs.get(name)?.epochs.get(epoch)?),
            RowKey::EpochContent(name, epoch) => {
                epoch::put_content(value, &self.jobs.get(name)?.epochs.get(epoch)?.content);
            }
            RowKey::Pin(name, epoch, owner) => {
                epoch::put_pin(value, self.jobs.get(name)?.epochs.get(epoch)?.pins.get(owner)?);
            }
            RowKey::Content(id) => content::put(value, self.content.slot(*id)?),
            RowKey::Attempt(id) => attempt::put(value, self.open.get(id)?),
            RowKey::Page(id, page) => attempt::put_page(value, self.open.get(id)?, *page)?,
            RowKey::File(id, file) => attempt::put_file(value, self.open.get(id)?, *file)?,
            RowKey::Piece(id, file, offset) => {
                attempt::put_piece(value, self.open.get(id)?, *file, *offset)?;
            }
            RowKey::Outcome(number) => outcome::put(value, self.outcomes.get(*number)?),
            RowKey::Quarantine(id) => quarantine::put(value, self.quarantine.get(id)?),
            RowKey::Store(id) => store::put(value, self.stores.get(id)?),
            RowKey::Object(number) => object::put(value, self.content.homes().slot(*number)?),
            RowKey::Home(id) => {
                object::put_home(value, self.content.homes().of(*id)?, self.content.get(*id).bytes)
            }
            RowKey::Released(key) => object::put_released(value, self.content.homes().released().get(key)?),
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
                attempt.files.iter().map(move |(file, _, state)| (*id, file, state))
            })
        };
        std::iter::once(RowKey::Meta)
            .chain(jobs().map(|(name, _)| RowKey::Job(name.clone())))
            .chain(epochs().map(|(name, epoch, _)| RowKey::Epoch(name.clone(), epoch)))
            .chain(epochs().map(|(name, epoch, _)| RowKey::EpochContent(name.clone(), epoch)))
            .chain(epochs().flat_map(|(name, epoch, record)| {
                record.pins.keys().map(move |owner| RowKey::Pin(name.clone(), epoch, owner.clone()))
            }))
            .chain(self.content.iter().map(|(id, _)| RowKey::Content(id)))
            .chain(self.open.keys().map(|id| RowKey::Attempt(*id)))
            .chain(self.open.iter().flat_map(|(id, attempt)| {
                (0..attempt.pages.len() as u32).map(move |page| RowKey::Page(*id, page))
            }))
            .chain(files().filter_map(|(id, file, state)| {
                let whole =
                    matches!(state, FileState::Packed(_) | FileState::Reused(_) | FileState::Linked(_));
                whole.then_some(RowKey::File(id, file))
            }))
            .chain(files().flat_map(|(id, file, state)| {
                let ranges = match state {
                    FileState::Staged(staged) => Some(staged.ranges.keys()),
                    _ => None,
                };
                ranges.into_iter().flatten().map(move |offset| RowKey::Piece(id, file, *offset))
            }))
            .chain(self.outcomes.iter().map(|(number, _)| RowKey::Outcome(number)))
            .chain(self.quarantine.keys().map(|id| RowKey::Quarantine(*id)))
            .chain(self.stores.keys().map(|id| RowKey::Store(*id)))
            .chain(self.content.homes().objects().map(|(number, _)| RowKey::Object(number)))
            .chain(self.content.homes().iter().map(|(id, _)| RowKey::Home(id)))
            .chain(self.content.homes().released().iter().map(|(key, _)| RowKey::Released(*key)))
    }
}

/// Builds a ledger from its rows, which must come in the order of keys, without gaps in what they refer to.
#[derive(Default)]
pub(super) struct Builder {
    ledger: Ledger,
    last: Option<RowKey>,
    slots: u32,
    content: Vec<(u32, Content)>,
    stored: object::Stored,
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
            RowKey::Meta => self.slots = meta::take(ledger, value)?,
            RowKey::Job(name) => {
                let job = job::take(value)?;
                if ledger.names.insert(job.number, name.clone()).is_some() {
                    return Err(DecodeError("two jobs of one number"));
                }
                ledger.jobs.insert(name.clone(), job);
            }
            RowKey::Epoch(name, epoch) => {
                let record = epoch::take(value, name, *epoch)?;
                ledger.known(name)?.epochs.insert(*epoch, Arc::new(record));
            }
            RowKey::EpochContent(name, epoch) => {
                ledger.known_epoch(name, *epoch)?.content = epoch::take_content(value)?;
            }
            RowKey::Pin(name, epoch, owner) => {
                let pin = epoch::take_pin(value)?;
                if let Some(end_ms) = pin.until_ms {
                    ledger.ending_pins.insert((end_ms, name.clone(), *epoch, owner.clone()));
                }
                ledger.known_epoch(name, *epoch)?.pins.insert(owner.clone(), pin);
            }
            RowKey::Content(id) => self.content.push((*id, content::take(value)?)),
            RowKey::Attempt(id) => {
                let attempt = attempt::take(value, ledger.limits().plan)?;
                ledger.known(&attempt.terms.job)?.open.insert(*id);
                ledger.planned += u64::from(attempt.terms.plan_entries);
                ledger.open.insert(*id, attempt);
            }
            RowKey::Page(id, page) => attempt::take_page(ledger.known_open(*id)?, *page, value)?,
            RowKey::File(id, file) => attempt::take_file(ledger.known_open(*id)?, *file, value)?,
            RowKey::Piece(id, file, offset) => {
                attempt::take_piece(ledger.known_open(*id)?, *file, *offset, value)?;
            }
            RowKey::Outcome(number) => {
                let wrong = DecodeError("outcomes that cannot stand together");
                let outcome = outcome::take(value)?;
                if *number != ledger.outcomes.next() || !ledger.outcomes.may_follow(&outcome) {
                    return Err(wrong);
                }
                ledger.outcomes.push(outcome);
            }
            RowKey::Quarantine(id) => drop(ledger.quarantine.insert(*id, quarantine::take(value)?)),
            RowKey::Store(id) => drop(ledger.stores.insert(*id, store::take(value)?)),
            RowKey::Object(number) => self.stored.add(*number, object::take(value)?)?,
            RowKey::Home(id) => self.stored.add_home(*id, object::take_home(value)?),
            RowKey::Released(key) => self.stored.add_released(*key, object::take_released(value)?)?,
        }
        Ok(())
    }

    /// The ledger, once all rows are in; its rows are not summed up yet.
    pub fn finish(self) -> Result<Ledger, DecodeError> {
        let Builder { mut ledger, last, slots, content, stored } = self;
        last.ok_or(DecodeError("no rows"))?;
        let contents = Contents::rebuild(slots, content.into_iter());
        let mut contents = contents.ok_or(DecodeError("content rows that cannot stand together"))?;
        stored.finish(&mut ledger, &mut contents)?;
        ledger.content = Arc::new(contents);
        if ledger.quarantine.keys().any(|id| ledger.content.slot(*id).is_none()) {
            return Err(DecodeError("content in quarantine is gone"));
        }
        for attempt in ledger.open.values_mut() {
            if !attempt::is_whole(attempt) {
                return Err(DecodeError("pages of a plan are missing"));
            }
            for (_, _, state) in attempt.files.iter() {
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
            .eq(ledger.content.iter().map(|(id, c)| (id, c.refs.get())))
        {
            return Err(DecodeError("content is not held as often as its rows say"));
        }
        Ok(ledger)
    }
}

impl Ledger {
    fn known(&mut self, name: &JobName) -> Result<&mut Job, DecodeError> {
        self.jobs.get_mut(name).ok_or(DecodeError("a row of a job that is not there"))
    }

    fn known_epoch(&mut self, name: &JobName, epoch: u64) -> Result<&mut EpochRecord, DecodeError> {
        let record = self.known(name)?.epochs.get_mut(&epoch);
        record.map(Arc::make_mut).ok_or(DecodeError("a row of an epoch that is not there"))
    }

    fn known_open(&mut self, id: u64) -> Result<&mut Attempt, DecodeError> {
        self.open.get_mut(&id).ok_or(DecodeError("a row of an attempt that is not there"))
    }
}
