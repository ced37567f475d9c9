//! A ledger that is fed records and watched: what every history must keep, whatever it tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::{Digest, JobName};
use nativelog::ledger::{Accepted, Ledger, RowKey, SealedEpoch, Step, Verdict};
use nativelog::record::Header;
use nativelog::{LogId, LogRecord};

/// A history so far.
#[derive(Default)]
pub struct History {
    pub ledger: Ledger,
    pub term: u64,
    pub node: u64,
    records: Vec<(LogId, Option<Arc<Header>>)>,
    /// What the catalog would hold, written by changed rows alone.
    /// Version of the rules that it begins under; `None` for the first.
    pub rules: Option<u32>,
    catalog: BTreeMap<RowKey, Vec<u8>>,
    sealed: BTreeMap<(JobName, u64), Arc<SealedEpoch>>,
    marks: BTreeMap<JobName, u64>,
    numbers: BTreeMap<JobName, u64>,
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
        let dry = self.ledger.check(&record.header);
        assert_eq!(dry, self.ledger.check(&record.header), "a dry run changes nothing");
        let before = self.state();
        let step = self.ledger.step(id, &record.header).unwrap();
        assert_eq!(placeless(&dry), placeless(&step.verdict), "a dry run says what the step says");
        if !step.verdict.is_accepted() {
            assert!(step.effects.is_empty());
            assert_eq!(before, self.state(), "a rejected record changes nothing: {}", step.verdict);
        }
        self.records.push((id, Some(record.header.clone())));
        self.counts_anew();
        self.watch();
        step
    }

    /// Everything but the position.
    fn state(&self) -> Vec<(RowKey, Vec<u8>)> {
        self.ledger.rows().filter(|(key, _)| *key != RowKey::Meta).collect()
    }

    fn watch(&mut self) {
        let changes = self.ledger.drain_changes();
        for id in &changes.attempts_gone {
            self.catalog.retain(|key, _| match key {
                RowKey::Attempt(at) | RowKey::Page(at, _) | RowKey::File(at, _) | RowKey::Piece(at, _, _) => {
                    at != id
                }
                _ => true,
            });
        }
        for key in changes.rows {
            match self.ledger.row(&key) {
                Some(value) => drop(self.catalog.insert(key, value)),
                None => drop(self.catalog.remove(&key)),
            }
        }
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

    /// The digest that was kept up to date is the one of a ledger that counts anew.
    fn counts_anew(&self) {
        let anew = Ledger::decode(&self.ledger.encode()).unwrap();
        assert_eq!(anew.digest(), self.ledger.digest(), "a row changed that nobody counted");
    }

    /// At the end: a replay, a snapshot and the catalog's rows all make the same ledger.
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
            assert!(
                self.catalog.iter().eq(rows.iter().map(|(key, value)| (key, value))),
                "changed rows make the catalog"
            );
        }
        assert_eq!(self.replay().digest(), digest);
        digest
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
                Some(record) => drop(ledger.step(*id, record).unwrap()),
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
