//! A ledger that is fed records and watched: what every history must keep, whatever it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::{Digest, JobName, RelPath};
use nativelog::ledger::{Accepted, Ledger, ObjectKey, Page, PlanPages, RowKey, SealedEpoch, Step, Verdict};
use nativelog::record::{Header, Kind};
use nativelog::{LogId, LogRecord};

/// The bytes of pages as they lie in the log, by index.
#[derive(Default, Clone)]
pub struct Remembered(BTreeMap<u64, Bytes>);

impl Remembered {
    pub fn remember(&mut self, id: LogId, header: &Header) {
        if let Some(Kind::Part(part)) = &header.kind {
            self.0.insert(id.index, part.entries.clone());
        }
    }
}

impl PlanPages for Remembered {
    fn read(&self, page: &Page) -> io::Result<Bytes> {
        self.0.get(&page.index).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A history so far.
#[derive(Default)]
pub struct History {
    pub ledger: Ledger,
    pub term: u64,
    pub node: u64,
    records: Vec<(LogId, Option<Arc<Header>>)>,
    pages: Remembered,
    /// Version of the rules that it begins under; `None` for the first.
    pub rules: Option<u32>,
    /// What the catalog would hold, written by changed rows alone.
    catalog: BTreeMap<Vec<u8>, Vec<u8>>,
    sealed: BTreeMap<(JobName, u64), Arc<SealedEpoch>>,
    marks: BTreeMap<JobName, u64>,
    numbers: BTreeMap<JobName, u64>,
    /// Objects that were released at any time.
    released: BTreeSet<ObjectKey>,
}

impl History {
    pub fn next(&self) -> LogId {
        let index = self.ledger.applied().map_or(0, |id| id.index + 1);
        LogId { term: self.term, node: self.node, index }
    }

    /// A leader's empty entry.
    pub fn blank(&mut self) {
        let id = self.next();
        self.ledger.advance(id);
        self.records.push((id, None));
        self.watch();
    }

    /// Applies a record; its dry run must have said the same, and a rejection must have changed nothing.
    pub fn apply(&mut self, record: &LogRecord) -> Step {
        let id = self.next();
        self.gather(&record.header);
        let dry = self.ledger.check(&record.header);
        assert_eq!(dry, self.ledger.check(&record.header), "a dry run changes nothing");
        let before = self.state();
        let step = self.ledger.step(id, &record.header).unwrap();
        assert_eq!(placeless(&dry), placeless(&step.verdict), "a dry run says what the step says");
        if !step.verdict.is_accepted() {
            assert!(step.effects.is_empty());
            assert_eq!(before, self.state(), "a rejected record changes nothing: {}", step.verdict);
        }
        self.pages.remember(id, &record.header);
        self.records.push((id, Some(record.header.clone())));
        self.counts_anew();
        self.watch();
        step
    }

    /// As a machine does before anybody judges.
    pub fn gather(&mut self, header: &Header) {
        self.ledger.gather(header, &self.pages).unwrap();
    }

    /// The path of an entry in these pages.
    pub fn path(&self, pages: &[Page], file: u32) -> RelPath {
        let page = pages.iter().find(|page| (page.first..page.first + page.entries).contains(&file)).unwrap();
        page.read(&self.pages).unwrap().swap_remove((file - page.first) as usize).path
    }

    /// Everything but the position.
    fn state(&self) -> Vec<(RowKey, Vec<u8>)> {
        self.ledger.rows().filter(|(key, _)| *key != RowKey::Meta).collect()
    }

    fn watch(&mut self) {
        for (key, value) in self.ledger.take_changed(usize::MAX) {
            match value {
                Some(value) => drop(self.catalog.insert(key, value)),
                None => drop(self.catalog.remove(&key)),
            }
        }
        self.watch_objects();
        // What was removed starts anew.
        let numbers: BTreeMap<JobName, u64> =
            self.ledger.jobs().map(|job| (job.clone(), self.ledger.job(job).unwrap().number)).collect();
        let same = |job: &JobName| numbers.get(job) == self.numbers.get(job);
        self.marks.retain(|job, _| same(job));
        self.sealed.retain(|(job, _), _| same(job));
        self.numbers = numbers;
        for job in self.ledger.jobs() {
            let mark = self.ledger.high_water(job);
            let before = self.marks.get(job).copied();
            assert!(before <= mark, "marks only rise");
            if let Some(mark) = mark {
                self.marks.insert(job.clone(), mark);
            }
            for epoch in self.ledger.epochs(job) {
                let sealed = epoch.sealed;
                let key = (job.clone(), sealed.epoch);
                assert!(Some(sealed.epoch) <= mark);
                let first = self.sealed.entry(key).or_insert_with(|| sealed.clone());
                assert_eq!(*first, sealed, "a sealed epoch never changes");
            }
        }
    }

    /// The name of an object that was released comes back never, and all content lies somewhere.
    fn watch_objects(&mut self) {
        self.released.extend(self.ledger.released(None).map(|object| object.key));
        let objects: Vec<_> = self.ledger.objects_in(0..self.ledger.object_slots()).collect();
        for object in &objects {
            assert!(!self.released.contains(&object.key), "{:?} was released", object.key);
        }
        for (digest, bytes) in self.ledger.contents() {
            let homes = self.ledger.homes(&digest).unwrap();
            assert!(homes.log || !homes.extents.is_empty(), "content lies nowhere");
            for extent in homes.extents {
                assert!(objects.contains(&extent.object), "content lies in an object that nobody holds");
                assert!(extent.bytes == bytes && extent.offset + bytes <= extent.object.bytes);
            }
        }
    }

    /// The digest that was kept up to date is the one of a ledger that counts anew.
    fn counts_anew(&self) {
        let encoded = self.ledger.encode();
        assert!(self.ledger.freeze().encode() == encoded, "a snapshot has every row");
        let anew = Ledger::decode(&encoded).unwrap();
        assert_eq!(anew.digest(), self.ledger.digest(), "a row changed that nobody counted");
    }

    /// At the end: a replay and a snapshot make the same ledger, and the catalog has what people list of it.
    pub fn finish(&self) -> Digest {
        self.counts_anew();
        let digest = self.ledger.digest();
        assert_eq!(Ledger::decode(&self.ledger.encode()).unwrap().digest(), digest);
        let rows: Vec<_> = self.ledger.rows().collect();
        assert!(rows.windows(2).all(|two| two[0].0 < two[1].0 && two[0].0.to_bytes() < two[1].0.to_bytes()));
        for (key, _) in &rows {
            assert_eq!(RowKey::from_bytes(&key.to_bytes()).as_ref(), Ok(key));
        }
        if !self.records.is_empty() {
            let listed = rows.iter().filter(|(key, _)| key.is_listed());
            let listed = listed.map(|(key, value)| (key.to_bytes(), value.clone()));
            assert!(self.catalog.clone().into_iter().eq(listed), "changed rows make the catalog");
        }
        assert_eq!(self.replay().digest(), digest);
        self.lists_the_same_in_parts();
        digest
    }

    fn lists_the_same_in_parts(&self) {
        let (mut whole, mut parts) = (self.ledger.clone(), self.ledger.clone());
        assert!(!whole.has_changed(), "all changes were taken");
        whole.list_anew([]);
        let mut last = None;
        while let Some(more) = parts.list_more(last.as_ref(), 2) {
            last = Some(more);
        }
        let listed = whole.take_changed(usize::MAX);
        assert_eq!(parts.take_changed(usize::MAX), listed);
        assert_eq!(listed.len() as u64, whole.listed_rows());
    }

    /// Replays everything, going through a snapshot in the middle.
    fn replay(&self) -> Ledger {
        let mut ledger = self.rules.map_or_else(Ledger::default, |rules| Ledger::under(rules).unwrap());
        for (place, (id, record)) in self.records.iter().enumerate() {
            if place == self.records.len() / 2 {
                ledger = Ledger::decode(&ledger.encode()).unwrap();
            }
            match record {
                None => ledger.advance(*id),
                Some(record) => {
                    ledger.gather(record, &self.pages).unwrap();
                    drop(ledger.step(*id, record).unwrap());
                }
            }
        }
        ledger
    }
}

/// A verdict without what its place in the log gives.
fn placeless(verdict: &Verdict) -> Verdict {
    let mut verdict = verdict.clone();
    match &mut verdict {
        Verdict::Accepted(Accepted::Opened { token }) => *token = 0,
        Verdict::Accepted(Accepted::Begun { attempt, resumed: false, .. }) => *attempt = 0,
        Verdict::Accepted(Accepted::Sealed(sealed)) if !sealed.already => {
            sealed.position = LogId::default();
            sealed.attempt = 0;
        }
        _ => {}
    }
    verdict
}
