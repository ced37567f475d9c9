//! Epochs that lie in a store and are no directory here: a debt, paid in the background, by way of the peers where one has
//! it, else from the store. And other content that lies there and is sought.
//!
//! Each store has its own worker, which goes from one epoch to the next: a store that is away, or never answers, keeps no
//! other waiting, and has a pause that doubles. What is gone from a store keeps no other epoch of that store. All give way
//! to a snapshot that comes and to what is mended, and go on with what they have.
//!
//! **Never.** Nobody waits for this: no snapshot, no install, no other epoch, no commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{Digest, JobName};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use nativelog::machine::Missing;
use tokio::sync::watch;

use super::contents::Contents;
use super::epoch::{RepairError, RepairReport, Site};
use super::later::Later;
use crate::depot::DepotError;
use crate::intake::Intake;
use crate::life::Life;
use crate::transfer::{Pace, TransferError, Transfers, blocking};

/// Pause between looks when nothing happened.
const LOOK: Duration = Duration::from_secs(2);
/// Pause before a store is asked again that was away; doubles up to [`AWAY_MAX`].
const AWAY: Duration = Duration::from_secs(2);
const AWAY_MAX: Duration = Duration::from_secs(120);
/// Longest pause before the peers are asked again, when one of them is about to have it: asking is cheap.
const SOON_MAX: Duration = Duration::from_secs(4);
/// Longest pause before the peers are asked again for what waits for a store: one of them may reach it.
const WAITS_MAX: Duration = Duration::from_secs(10);
/// Longest pause before a store is asked again for what it says is gone.
const GONE_MAX: Duration = Duration::from_secs(60);

/// What this node is still to bring of what lies in stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hydration {
    /// Epochs that are no directory here.
    pub epochs: u64,
    /// Bytes that they lack: their room is spoken for.
    pub bytes: u64,
    /// Bytes that came for such epochs since this process started, from peers and from stores.
    pub fetched_bytes_total: u64,
    /// Of these, from stores; what was asked for and turned out wrong included.
    pub from_stores_bytes_total: u64,
}

/// Brings what lies in stores to one replica; made of the rooms that it needs.
pub(crate) struct Hydrator {
    site: Site,
    transfers: Arc<Transfers>,
    contents: Arc<Contents>,
    intake: Arc<Intake>,
    life: Arc<Life>,
    /// Epochs and bytes.
    owed: watch::Sender<(u64, u64)>,
}

/// Something to bring.
enum Sought {
    Epoch(Missing),
    Content(Digest, u64),
}

/// Names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    /// By its attempt.
    Epoch(u64),
    Content(Digest),
}

impl Sought {
    fn key(&self) -> Key {
        match self {
            Sought::Epoch(missing) => Key::Epoch(missing.attempt),
            Sought::Content(digest, _) => Key::Content(*digest),
        }
    }
}

/// What is known of one store.
struct Known {
    later: Later<Key>,
    since: HashMap<Key, Instant>,
    /// Why it is not asked, until when, and how long that pause was.
    away: Option<(DepotError, Instant, Duration)>,
    pace: Pace,
    /// What was found nowhere, not in the store either. Once may be a slip of the store's.
    nowhere: BTreeSet<Key>,
}

/// A store, what is known of it, and the attempts that were tried.
type Passed = (u64, Known, BTreeSet<u64>);

impl Default for Known {
    fn default() -> Known {
        let (later, since, nowhere) = (Later::default(), HashMap::new(), BTreeSet::new());
        Known { later, since, away: None, pace: Pace::NORMAL, nowhere }
    }
}

impl Known {
    /// Only these are still sought.
    fn keep(&mut self, sought: &[Sought]) {
        let keys: BTreeSet<Key> = sought.iter().map(Sought::key).collect();
        self.later.keep_only(|key| keys.contains(key));
        self.since.retain(|key, _| keys.contains(key));
        self.nowhere.retain(|key| keys.contains(key));
        for key in keys {
            self.since.entry(key).or_insert_with(Instant::now);
        }
    }

    /// Why it is not asked now.
    fn is_away(&self) -> Option<&DepotError> {
        self.away.as_ref().filter(|(_, until, _)| Instant::now() < *until).map(|(why, ..)| why)
    }

    fn away(&mut self, why: DepotError) {
        let pause = self.away.as_ref().map_or(AWAY, |(.., pause)| (*pause * 2).min(AWAY_MAX));
        self.away = Some((why, Instant::now() + pause, pause));
    }
}

impl Hydrator {
    pub fn new(
        site: Site,
        transfers: Arc<Transfers>,
        contents: Arc<Contents>,
        intake: Arc<Intake>,
        life: Arc<Life>,
    ) -> Hydrator {
        Hydrator { site, transfers, contents, intake, life, owed: watch::Sender::new((0, 0)) }
    }

    /// What is still to be brought.
    pub fn report(&self) -> Hydration {
        let (epochs, bytes) = *self.owed.borrow();
        let fetched_bytes_total = self.transfers.hydrated().watch().borrow().fetched_bytes_total;
        let from_stores_bytes_total = self.transfers.line().fetched();
        Hydration { epochs, bytes, fetched_bytes_total, from_stores_bytes_total }
    }

    /// Works until this node stops.
    pub async fn run(&self) {
        let mut published = self.site.machine.publications();
        let mut known: BTreeMap<u64, Known> = BTreeMap::new();
        let mut bytes: BTreeMap<u64, u64> = BTreeMap::new();
        let mut busy: BTreeSet<u64> = BTreeSet::new();
        let mut working = FuturesUnordered::<BoxFuture<'_, Passed>>::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = published.changed() => if changed.is_err() { return },
                Some((store, of_it, tried)) = working.next(), if !working.is_empty() => {
                    busy.remove(&store);
                    known.insert(store, of_it);
                    // Something of them may have come.
                    bytes.retain(|attempt, _| !tried.contains(attempt));
                }
            }
            published.borrow_and_update();
            if self.life.is_closing() {
                return;
            }
            let sought = self.sought();
            self.count(&sought, &mut bytes).await;
            for (store, sought) in sought {
                if busy.contains(&store) {
                    continue;
                }
                let mut of_it = known.remove(&store).unwrap_or_default();
                of_it.keep(&sought);
                if sought.iter().any(|sought| of_it.later.is_due(&sought.key())) {
                    busy.insert(store);
                    working.push(self.pass(store, of_it, sought).boxed());
                } else {
                    known.insert(store, of_it);
                }
            }
        }
    }

    /// What is to be brought, by store.
    fn sought(&self) -> BTreeMap<u64, Vec<Sought>> {
        let mut all: BTreeMap<u64, Vec<Sought>> = BTreeMap::new();
        let mut missing = self.site.machine.missing();
        self.site.leave_verifying(&mut missing);
        {
            let ledger = self.site.machine.ledger();
            for missing in missing {
                if let Some(store) = ledger.store_of(&missing.job, missing.epoch) {
                    all.entry(store.id).or_default().push(Sought::Epoch(missing));
                }
            }
        }
        for (store, digest, bytes) in self.contents.stored() {
            all.entry(store).or_default().push(Sought::Content(digest, bytes));
        }
        all
    }

    /// What epochs lack is looked up once, and again when something of it may have come. What several lack counts for each.
    async fn count(&self, sought: &BTreeMap<u64, Vec<Sought>>, bytes: &mut BTreeMap<u64, u64>) {
        let epochs = sought.values().flatten().filter_map(|sought| match sought {
            Sought::Epoch(missing) => Some(missing),
            Sought::Content(..) => None,
        });
        let epochs: Vec<&Missing> = epochs.collect();
        let attempts: BTreeSet<u64> = epochs.iter().map(|missing| missing.attempt).collect();
        bytes.retain(|attempt, _| attempts.contains(attempt));
        for missing in &epochs {
            if bytes.contains_key(&missing.attempt) {
                continue;
            }
            let (site, job, epoch) = (self.site.clone(), missing.job.clone(), missing.epoch);
            if let Ok(lacking) = blocking(move || site.to_hydrate_bytes(&job, epoch)).await {
                bytes.insert(missing.attempt, lacking);
            }
        }
        let owed = (epochs.len() as u64, bytes.values().fold(0, |all: u64, one| all.saturating_add(*one)));
        self.owed.send_if_modified(|before| std::mem::replace(before, owed) != owed);
    }

    /// Tries what is due of one store.
    async fn pass(&self, store: u64, mut known: Known, sought: Vec<Sought>) -> Passed {
        let mut tried = BTreeSet::new();
        for sought in sought {
            // What could not be published for want of space is not brought once more.
            if self.life.is_closing() || self.intake.takes_no_content().is_some() {
                break;
            }
            if !known.later.is_due(&sought.key()) {
                continue;
            }
            if let Sought::Epoch(missing) = &sought {
                tried.insert(missing.attempt);
            }
            self.one(store, &mut known, &sought).await;
        }
        // Also when nothing could be tried: not at once again.
        for key in known.since.keys().copied().collect::<Vec<_>>() {
            if known.later.is_due(&key) {
                known.later.put_off(&key, SOON_MAX);
            }
        }
        (store, known, tried)
    }

    async fn one(&self, store: u64, known: &mut Known, sought: &Sought) {
        let key = sought.key();
        let since = known.since.get(&key).map_or(Duration::ZERO, Instant::elapsed);
        let (stop, stopped) = watch::channel(false);
        let share = self.transfers.turn().share(stop.clone()).await;
        let (gather, way) = self.transfers.gather_with_stores(stopped, since, known.pace);
        let was_away = known.is_away().cloned();
        if let Some(why) = &was_away {
            // The peers are asked all the same.
            way.close(store, why.clone());
        }
        let done = match sought {
            Sought::Epoch(missing) => {
                let done = self.site.hydrate(&gather, missing).await;
                let left = self.site.leave_nothing_of_expired(&missing.job, missing.epoch).await;
                done.and_then(|published| left.map(|()| published))
            }
            Sought::Content(digest, bytes) => self
                .contents
                .hydrate(&gather, *digest, *bytes)
                .await
                .map(|()| true)
                .map_err(RepairError::from),
        };
        drop(share);
        if let (None, Some(why)) = (was_away, way.closed(store)) {
            known.away(why);
        } else if way.has_answered() {
            known.away = None;
        }
        known.pace = if way.has_stalled() { Pace::GENTLE } else { known.pace };
        match done {
            Ok(true) => {
                known.pace = Pace::NORMAL;
                if let Sought::Epoch(Missing { job, epoch, .. }) = sought {
                    tracing::info!(node = self.site.node, %job, epoch, store, "the epoch is published here");
                }
                // Who looks next finds nothing more to do.
                known.later.put_off(&key, SOON_MAX);
            }
            Ok(false) => known.later.failed(&key),
            Err(RepairError::Transfer(TransferError::Stopped)) => {}
            Err(error) => self.failed(known, sought, error).await,
        }
    }

    async fn failed(&self, known: &mut Known, sought: &Sought, error: RepairError) {
        let key = sought.key();
        if let Sought::Epoch(missing) = sought {
            let Missing { job, epoch, attempt, .. } = missing;
            let why = error.to_string();
            if why != missing.why {
                tracing::warn!(node = self.site.node, %job, epoch, why, "the epoch is still to be hydrated; it is tried again");
                self.site.machine.still_missing(job, *epoch, &why);
                self.site.machine.still_unpublished(*attempt, &why);
            }
        }
        use TransferError::{Lacking, Nowhere, Unfit, Unstored, Waits};
        match &error {
            RepairError::Transfer(Unfit { .. }) => known.later.is_stuck(&key),
            RepairError::Transfer(Lacking { .. }) => known.later.put_off(&key, SOON_MAX),
            RepairError::Transfer(Waits { .. }) => known.later.put_off(&key, WAITS_MAX),
            RepairError::Transfer(Unstored { .. } | Nowhere { .. }) => known.later.put_off(&key, GONE_MAX),
            _ => known.later.failed(&key),
        }
        match &error {
            RepairError::Transfer(error @ Nowhere { .. }) if !known.nowhere.insert(key) => {
                self.contents.report(error).await;
            }
            RepairError::Transfer(Nowhere { .. }) => {}
            _ => {
                known.nowhere.remove(&key);
            }
        }
    }

    /// One epoch that lies in this store, read again as a whole. It begins anew when somebody went first.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn repair(&self, store: u64, job: &JobName, epoch: u64) -> Result<RepairReport, RepairError> {
        loop {
            let (stop, stopped) = watch::channel(false);
            let _share = self.transfers.turn().share(stop.clone()).await;
            // Whoever asks for it by hand waits for no other node.
            let (gather, way) =
                self.transfers.gather_with_stores(stopped, Duration::from_secs(3600), Pace::NORMAL);
            let done = self.site.mend(&gather, job, epoch).await;
            if let Some(why) = way.closed(store) {
                tracing::debug!(store, %why, "a store did not help to repair an epoch");
            }
            match done {
                Err(RepairError::Transfer(TransferError::Stopped)) if !self.life.is_closing() => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::DepotTrouble;

    #[test]
    fn a_store_that_is_away_is_asked_more_and_more_seldom() {
        let mut known = Known::default();
        assert!(known.is_away().is_none());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            known.away(DepotError::new(DepotTrouble::Away, "no answer"));
            assert!(known.is_away().is_some());
            let (_, until, pause) = known.away.as_mut().unwrap();
            pauses.push(pause.as_secs());
            *until = Instant::now();
            assert!(known.is_away().is_none(), "it is asked again");
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 120, 120]);
    }

    #[test]
    fn what_is_not_sought_any_more_is_forgotten() {
        let mut known = Known::default();
        let content = |n: u8| Sought::Content(Digest::from_bytes([n; 32]), 5);
        known.keep(&[content(1), content(2)]);
        known.later.failed(&content(1).key());
        let since = known.since.clone();
        known.keep(&[content(1)]);
        assert_eq!(known.since.len(), 1);
        assert_eq!(
            known.since.get(&content(1).key()),
            since.get(&content(1).key()),
            "it is as old as it was"
        );
        assert!(!known.later.is_due(&content(1).key()));
        known.keep(&[]);
        assert!(known.later.is_due(&content(1).key()));
    }
}
