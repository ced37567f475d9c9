//! Removing what attempts that are over have left in a store: keys that were given up, uploads that are open, all of an
//! attempt that came to nothing. Each node does that with its own journals, which say what it may have written.
//!
//! ```text
//!  journals of attempts that are over ─▶ the names that the ledger has of them, held or released, read after that
//!    ─▶ the marker was seen anew, and is ours ─▶ anything that has no name? a batch of deletes, in the log and the marker
//!    ─▶ uploads end, objects without a name go, the journals are forgotten
//! ```
//!
//! An attempt is over when the ledger is past its Begin and it is not open: it never will be again, and no record names
//! more of it. What the ledger has released is left to who deletes that. What a commit remembers to have written is no
//! list of names: after a resumption it lacks what was linked before.
//!
//! The batch is for a copy of all folders of this cluster: its log may have ended what this one's has sealed. Of the two the
//! second to delete finds a batch that its log does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nativelog::background::{self, UPKEEP};
use nativelog::compose;
use nativelog::ledger::{Ledger, ObjectKey, StoreInfo, Verdict};
use raft::{DeletesBegin, Depot, Replica};
use remote::{Journal, ObjectName};
use uuid::Uuid;

use super::all::Stores;
use super::depot::{NodeDepot, named};
use super::kept::{Kept, NotIt};

/// Pause between rounds.
const ROUND: Duration = Duration::from_secs(60);
/// Longest pause after a store did not do it; it doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Rows that are looked at while the ledger is held.
const SLICE: u32 = 4096;

/// Shows the ledger to who asks; it is held that long.
pub type Look = Arc<dyn Fn(&mut dyn FnMut(&Ledger)) + Send + Sync>;

/// Attempts that are over, of which there are journals.
struct Over {
    store: StoreInfo,
    cluster: Uuid,
    /// With the objects that the ledger has of each.
    attempts: BTreeMap<u64, BTreeSet<ObjectName>>,
    /// Something was written that is none of those.
    is_left: bool,
}

/// Tidies up after attempts that are over, until it is aborted.
pub async fn run(stores: Arc<Stores>, replica: Replica) {
    let (stores, replica) = (&stores, &replica);
    let mut paused: BTreeMap<String, (Instant, Duration)> = BTreeMap::new();
    loop {
        tokio::time::sleep(ROUND).await;
        let is_paused = |name: &str| paused.get(name).is_some_and(|(until, _)| Instant::now() < *until);
        let due: Vec<Arc<Kept>> = stores.all().filter(|kept| !is_paused(kept.name())).cloned().collect();
        let rounds = due.into_iter().map(|kept| {
            let machine = Arc::clone(replica.machine());
            let look: Look = Arc::new(move |show: &mut dyn FnMut(&Ledger)| show(&machine.ledger()));
            let depot = NodeDepot::new(Arc::clone(stores), Arc::clone(replica.machine()));
            async move {
                let done = round(&kept, look, |store| begin(depot, replica, store)).await;
                (kept, done)
            }
        });
        for (kept, done) in join_all(rounds).await {
            let Err(why) = done else {
                paused.remove(kept.name());
                continue;
            };
            let before = paused.get(kept.name()).map_or(ROUND, |(_, pause)| *pause);
            let pause = (before * 2).min(PAUSE_MAX);
            tracing::warn!(store = kept.name(), why, ?pause, "what attempts left in a store stays for now");
            paused.insert(kept.name().to_owned(), (Instant::now() + pause, pause));
        }
    }
}

/// A batch of deletes: in the log, so that all nodes know it, and then in the marker.
async fn begin(depot: NodeDepot, replica: &Replica, store: StoreInfo) -> Result<(), String> {
    let nonce: u64 = rand::random();
    let proposed = replica.propose(compose::delete_batch(store.id, nonce)).await;
    if let Verdict::Rejected(rejected) = proposed.map_err(|error| error.to_string())?.1 {
        return Err(rejected.to_string());
    }
    replica.read_barrier().await.map_err(|error| error.to_string())?;
    let from = std::iter::once(store.batch).chain(store.before).collect();
    let batch = DeletesBegin { store: store.id, uuid: store.uuid, from, to: nonce };
    depot.begin_deletes(batch).await.map_err(|error| error.to_string())
}

/// One round in one store; `begin` begins a batch of deletes there, when there is something to delete.
///
/// # Errors
/// Why something stays; it is to be repeated.
pub async fn round<F: Future<Output = Result<(), String>>>(
    kept: &Kept,
    look: Look,
    begin: impl FnOnce(StoreInfo) -> F,
) -> Result<(), String> {
    let (journal, name) = (Arc::clone(kept.journal()), kept.name().to_owned());
    let found = background::run("tidy", UPKEEP, move || find(&journal, &name, &look)).await;
    let found = found.ok_or("looking at the journals panicked")?;
    let Some(Over { store, cluster, attempts, is_left }) = found.map_err(|error| error.to_string())? else {
        return Ok(());
    };
    kept.doubt().await;
    kept.look(cluster, &store).await.map_err(|error| match error {
        NotIt::Another(why) => why,
        NotIt::Store(error) => error.to_string(),
    })?;
    if is_left {
        begin(store).await?;
    }
    for (attempt, named) in attempts {
        // A commit of this process that has not noticed yet that it is over.
        let Some(_claim) = kept.claim_files(attempt) else { continue };
        let (store, journal) = (kept.store().clone(), Arc::clone(kept.journal()));
        let cleaned = kept.run(async move { store.clean_up(&journal, attempt, &named).await }).await;
        cleaned.map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn find(journal: &Journal, name: &str, look: &Look) -> io::Result<Option<Over>> {
    let there = journal.attempts()?;
    if there.is_empty() {
        return Ok(None);
    }
    let over = ask(look, |ledger| {
        let (store, cluster) = (ledger.store_named(name)?, ledger.cluster()?);
        let applied = ledger.applied()?.index;
        let is_over = |attempt: &u64| *attempt <= applied && !ledger.is_attempt_open(*attempt);
        let over: BTreeMap<u64, BTreeSet<ObjectName>> =
            there.into_iter().filter(is_over).map(|attempt| (attempt, BTreeSet::new())).collect();
        Some((store, Uuid::from_bytes(cluster), over))
    });
    let Some((store, cluster, mut attempts)) = over.filter(|(.., over)| !over.is_empty()) else {
        return Ok(None);
    };
    let mut note = |key: &ObjectKey| {
        if key.store == store.id
            && let Some(names) = attempts.get_mut(&key.attempt)
        {
            names.insert(named(cluster, key));
        }
    };
    // First those that are held: one that is released meanwhile is found among the others.
    let mut next: u32 = 0;
    loop {
        let end = next.saturating_add(SLICE);
        let slots = ask(look, |ledger| {
            ledger.objects_in(next..end).for_each(|object| note(&object.key));
            ledger.object_slots()
        });
        if end >= slots {
            break;
        }
        next = end;
    }
    let mut last: Option<ObjectKey> = None;
    loop {
        let slice: Vec<ObjectKey> = ask(look, |ledger| {
            ledger.released(last.as_ref()).take(SLICE as usize).map(|object| object.key).collect()
        });
        slice.iter().for_each(&mut note);
        let Some(end) = slice.last() else { break };
        last = Some(*end);
    }
    let is_unnamed =
        |name: &ObjectName| attempts.get(&name.attempt).is_some_and(|names| !names.contains(name));
    let is_left = journal.traces()?.iter().any(|trace| is_unnamed(&trace.name));
    Ok(Some(Over { store, cluster, attempts, is_left }))
}

fn ask<T>(look: &Look, ask: impl FnOnce(&Ledger) -> T) -> T {
    let (mut ask, mut answer) = (Some(ask), None);
    look(&mut |ledger: &Ledger| {
        if let Some(ask) = ask.take() {
            answer = Some(ask(ledger));
        }
    });
    answer.expect("the ledger is shown once")
}
