//! How many objects there may be before no attempt begins, and which batches of deletes are known.

use std::sync::Arc;

use checkpoint::{CommitId, EntryKind, PlanEntry, RelPath};

use super::*;
use crate::compose::{self, Opening, Pages};
use crate::ledger::verdict::Verdict;
use crate::record::{LogId, LogRecord};

const WEST: u64 = 0;
const EAST: u64 = 1;

fn key(store: u64, nonce: u64) -> ObjectKey {
    ObjectKey { store, attempt: 1, digest: Digest::NONE, nonce }
}

fn step(ledger: &mut Ledger, record: &LogRecord) -> Verdict {
    let index = ledger.applied().map_or(0, |id| id.index + 1);
    ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap().verdict
}

/// With two stores.
fn ledger() -> Ledger {
    let mut ledger = Ledger::under(STORES_RULES).unwrap();
    for (name, uuid) in [("west", 1), ("east", 2)] {
        assert_eq!(step(&mut ledger, &compose::store(name, [uuid; 16], 0)), Verdict::DONE);
    }
    ledger
}

/// So many objects of a store that nobody holds any more.
fn release(ledger: &mut Ledger, store: u64, nonces: std::ops::Range<u64>) {
    let contents = Arc::make_mut(&mut ledger.content);
    for nonce in nonces {
        let id = contents.take_object(NewObject { key: key(store, nonce), bytes: 1 });
        assert!(contents.release_all(&[], &[id], 2).is_empty());
    }
}

#[test]
fn a_store_in_which_nothing_is_deleted_takes_no_attempt_and_others_do() {
    let (mut ledger, most) = (ledger(), ledger().store_rules().unwrap().clone());
    let rules = StoreRules { released_max: 3, objects_max: 6, ..most };
    let room = |ledger: &Ledger, store: u64| {
        has_room(&rules, ledger.content.homes(), (store, "name")).map_err(|no| (no.reason, no.current))
    };
    release(&mut ledger, WEST, 0..2);
    assert_eq!(room(&ledger, WEST), Ok(()));
    release(&mut ledger, WEST, 2..3);
    assert_eq!(room(&ledger, WEST), Err((Reason::Quota, WEST)));
    assert_eq!(room(&ledger, EAST), Ok(()));
    let gone = |store, nonce| compose::deleted(store, [(Digest::NONE, 1, nonce)]);
    assert_eq!(step(&mut ledger, &gone(WEST, 1)), Verdict::DONE);
    assert_eq!(room(&ledger, WEST), Ok(()));
    // Of all stores together, and those that are held count, too.
    release(&mut ledger, EAST, 0..2);
    let contents = Arc::make_mut(&mut ledger.content);
    let held = [7, 8].map(|nonce| contents.take_object(NewObject { key: key(WEST, nonce), bytes: 1 }));
    assert_eq!(
        (room(&ledger, WEST), room(&ledger, EAST)),
        (Err((Reason::Quota, WEST)), Err((Reason::Quota, EAST)))
    );
    assert_eq!(step(&mut ledger, &gone(EAST, 0)), Verdict::DONE);
    assert_eq!((room(&ledger, WEST), room(&ledger, EAST)), (Ok(()), Ok(())));
    Arc::make_mut(&mut ledger.content).release_all(&[], &held, 2);
    assert_eq!(room(&ledger, EAST), Ok(()));
    assert_eq!(room(&ledger, WEST), Err((Reason::Quota, WEST)), "it has four by now");
}

#[test]
fn the_limit_ends_nothing_that_is_open() {
    let mut ledger = ledger();
    let root = PlanEntry {
        path: RelPath::root(),
        kind: EntryKind::Directory,
        mode: 0o755,
        size: 0,
        target: Vec::new(),
    };
    let pages = Pages::new(&[root]);
    let begin = |epoch: u64, store: Option<u64>| {
        let opening = Opening {
            job: "job".parse().unwrap(),
            epoch: Some(epoch),
            token: None,
            commit: CommitId::from_bytes([epoch as u8; 16]),
            born: 0,
            chunk_bytes: 64 << 10,
            base: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
        };
        match store {
            Some(store) => compose::begin_in(&opening, &pages, store),
            None => compose::begin(&opening, &pages),
        }
    };
    assert!(step(&mut ledger, &begin(1, Some(WEST))).is_accepted());
    let most = ledger.store_rules().unwrap().released_max as u64;
    release(&mut ledger, WEST, 0..most);
    let refused = step(&mut ledger, &begin(2, Some(WEST)));
    assert_eq!(refused.rejected().map(|no| no.reason), Some(Reason::Quota));
    for others in [begin(1, Some(WEST)), begin(3, Some(EAST)), begin(4, None)] {
        let verdict = step(&mut ledger, &others);
        assert!(verdict.is_accepted(), "{verdict}");
    }
    assert_eq!(step(&mut ledger, &compose::deleted(WEST, [(Digest::NONE, 1, 5)])), Verdict::DONE);
    let verdict = step(&mut ledger, &begin(2, Some(WEST)));
    assert!(verdict.is_accepted(), "{verdict}");
}

#[test]
fn the_last_eight_batches_of_deletes_are_known_and_do_not_begin_again() {
    let mut ledger = ledger();
    for nonce in 1..=9 {
        assert_eq!(step(&mut ledger, &compose::delete_batch(WEST, nonce)), Verdict::DONE);
    }
    let known = |ledger: &Ledger| {
        let store = ledger.store(WEST).unwrap();
        (store.batch, store.before)
    };
    assert_eq!(known(&ledger), (9, vec![8, 7, 6, 5, 4, 3, 2]));
    let reason = |verdict: Verdict| verdict.rejected().map(|no| no.reason);
    for nonce in 2..=8 {
        let again = step(&mut ledger, &compose::delete_batch(WEST, nonce));
        assert_eq!(reason(again), Some(Reason::Conflict), "{nonce}");
    }
    let decoded = Ledger::decode(&ledger.encode()).unwrap();
    assert_eq!(known(&decoded), known(&ledger));
    assert_eq!(decoded.store(EAST).unwrap().before, Vec::<u64>::new());
}
