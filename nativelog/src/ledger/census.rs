//! All objects of one store as the log knows them: what a listing of that store is compared with.
//!
//! **Order.** Whoever compares lists the store first, makes the ledger current, and takes the census after that. Then every
//! attempt of this log that had written what was listed has been applied, and what the log does not know of by its number
//! was written by somebody else: a copy of the cluster, say.
//!
//! It is taken in slices, between which records are applied. What is open is looked at first: what was not open then never
//! names anything any more. Objects that somebody holds come before those that are released, so that one which is let go
//! meanwhile is met once at least.
//!
//! **Never.** It is no verdict, and nothing that is replicated depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use checkpoint::Digest;

use super::hybrid::ObjectInfo;
use super::objects::ObjectKey;
use super::tables::Ledger;

/// Rows that are looked at while the ledger is held.
const SLICE: u32 = 4096;

/// What is to be done with an object that lies in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectClass {
    /// A content, an epoch or an open attempt holds it.
    Referenced,
    /// Nobody holds it any more: whoever leads deletes it after the grace period.
    Released,
    /// Its attempt is open and has not named it yet.
    Open,
    /// Its attempt has ended and nothing names it: it may be deleted, for no record can name it any more.
    Garbage,
    /// Its name is none of this log: never to be touched.
    Foreign,
}

impl ObjectClass {
    /// All, as they are told.
    pub const ALL: [ObjectClass; 5] = [
        ObjectClass::Referenced,
        ObjectClass::Released,
        ObjectClass::Open,
        ObjectClass::Garbage,
        ObjectClass::Foreign,
    ];

    /// As in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectClass::Referenced => "referenced",
            ObjectClass::Released => "released",
            ObjectClass::Open => "open",
            ObjectClass::Garbage => "garbage",
            ObjectClass::Foreign => "foreign",
        }
    }
}

impl fmt::Display for ObjectClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    store: u64,
    /// Log index up to which attempts were looked at.
    applied: Option<u64>,
    open: BTreeSet<u64>,
    /// By name, how many bytes each has.
    held: BTreeMap<ObjectKey, u64>,
    released: BTreeSet<ObjectKey>,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Objects from this number on.
    Held(u32),
    /// Names behind this one.
    Released(ObjectKey),
    Nothing,
}

impl Census {
    /// Begins one of the store of this id: [`Census::slice`] goes on.
    pub fn begin(ledger: &Ledger, store: u64) -> Census {
        Census {
            store,
            applied: ledger.applied().map(|id| id.index),
            open: ledger.open.keys().copied().collect(),
            held: BTreeMap::new(),
            released: BTreeSet::new(),
            next: Next::Held(0),
        }
    }

    /// Looks at some more. False when all was looked at.
    pub fn slice(&mut self, ledger: &Ledger) -> bool {
        self.next = match self.next {
            Next::Held(from) => {
                let of_store = |object: &ObjectInfo| object.key.store == self.store;
                let to = from.saturating_add(SLICE);
                let here = ledger.objects_in(from..to).filter(of_store);
                self.held.extend(here.map(|object| (object.key, object.bytes)));
                // No object has this name: log index 0 is no Begin of an attempt in a store.
                let first = ObjectKey { store: self.store, attempt: 0, digest: Digest::NONE, nonce: 0 };
                if to < ledger.object_slots() { Next::Held(to) } else { Next::Released(first) }
            }
            Next::Released(last) => {
                let here = ledger.released(Some(&last)).take(SLICE as usize);
                let here: Vec<ObjectKey> =
                    here.map(|object| object.key).take_while(|key| key.store == self.store).collect();
                let next = here.last().copied().filter(|_| here.len() == SLICE as usize);
                self.released.extend(here);
                next.map_or(Next::Nothing, Next::Released)
            }
            Next::Nothing => Next::Nothing,
        };
        self.next != Next::Nothing
    }

    /// Log index up to which attempts were looked at.
    pub fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// What somebody holds, by name, and how many bytes each has.
    pub fn held(&self) -> impl Iterator<Item = (&ObjectKey, u64)> {
        self.held.iter().map(|(key, bytes)| (key, *bytes))
    }

    /// How many bytes an object has that somebody holds.
    pub fn bytes_of(&self, key: &ObjectKey) -> Option<u64> {
        self.held.get(key).copied()
    }

    /// What is to be done with an object of this name; `None` of a name that is not one of this cluster.
    pub fn class(&self, key: Option<&ObjectKey>) -> ObjectClass {
        match key {
            Some(key) if key.store != self.store => ObjectClass::Foreign,
            Some(key) if self.held.contains_key(key) => ObjectClass::Referenced,
            Some(key) if self.released.contains(key) => ObjectClass::Released,
            key => self.class_of_upload(key.map(|key| key.attempt)),
        }
    }

    /// The same of an upload that is not completed, of this attempt. What is released is no matter of its parts: of an
    /// attempt that has ended nobody completes them.
    pub fn class_of_upload(&self, attempt: Option<u64>) -> ObjectClass {
        match attempt {
            Some(attempt) if self.applied.is_none_or(|applied| attempt > applied) => ObjectClass::Foreign,
            Some(attempt) if self.open.contains(&attempt) => ObjectClass::Open,
            Some(_) => ObjectClass::Garbage,
            None => ObjectClass::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compose::{self, Opening, Pages};
    use crate::ledger::objects::NewObject;
    use crate::ledger::rules::STORES_RULES;
    use crate::ledger::verdict::{Accepted, Verdict};
    use crate::record::{LogId, LogRecord};

    const WEST: u64 = 0;
    const EAST: u64 = 1;

    fn key(store: u64, attempt: u64, nonce: u64) -> ObjectKey {
        ObjectKey { store, attempt, digest: checkpoint::digest::content(&nonce.to_le_bytes()), nonce }
    }

    fn step(ledger: &mut Ledger, record: &LogRecord) -> Verdict {
        let index = ledger.applied().map_or(0, |id| id.index + 1);
        ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap().verdict
    }

    fn begin(ledger: &mut Ledger, commit: u8) -> u64 {
        let opening = Opening {
            job: "job".parse().unwrap(),
            epoch: None,
            token: None,
            commit: checkpoint::CommitId::from_bytes([commit; 16]),
            born: 0,
            chunk_bytes: 64 << 10,
            base: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
        };
        let root = checkpoint::PlanEntry {
            path: checkpoint::RelPath::parse(b"").unwrap(),
            kind: checkpoint::EntryKind::Directory,
            mode: 0o755,
            size: 0,
            target: Vec::new(),
        };
        match step(ledger, &compose::begin_in(&opening, &Pages::new(&[root]), WEST)) {
            Verdict::Accepted(Accepted::Begun { attempt, .. }) => attempt,
            other => panic!("{other:?}"),
        }
    }

    fn census(ledger: &Ledger, store: u64) -> Census {
        let mut census = Census::begin(ledger, store);
        while census.slice(ledger) {}
        census
    }

    /// Two stores; attempt 2 is open, attempt 3 has ended.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::under(STORES_RULES).unwrap();
        for (name, uuid) in [("west", 1), ("east", 2)] {
            assert_eq!(step(&mut ledger, &compose::store(name, [uuid; 16], 0)), Verdict::DONE);
        }
        assert_eq!((begin(&mut ledger, 1), begin(&mut ledger, 2)), (2, 3));
        assert!(step(&mut ledger, &compose::abort(3, "over")).is_accepted());
        ledger
    }

    #[test]
    fn every_name_has_one_class() {
        let mut ledger = ledger();
        let names = [key(WEST, 2, 10), key(WEST, 3, 11), key(WEST, 3, 12), key(EAST, 3, 13)];
        let contents = Arc::make_mut(&mut ledger.content);
        let ids = names.map(|key| contents.take_object(NewObject { key, bytes: 5 }));
        assert!(contents.release_all(&[], &[ids[2]], 4).is_empty());
        let census = census(&ledger, WEST);
        assert_eq!(census.applied(), Some(4));
        use ObjectClass::{Foreign, Garbage, Open, Referenced, Released};
        for (name, class, why) in [
            (Some(key(WEST, 2, 10)), Referenced, "an open attempt has named it"),
            (Some(key(WEST, 3, 11)), Referenced, "something holds it, whatever became of its attempt"),
            (Some(key(WEST, 3, 12)), Released, "the leader deletes it by itself"),
            (Some(key(WEST, 2, 20)), Open, "its attempt may name it still"),
            (Some(key(WEST, 3, 20)), Garbage, "its attempt has ended"),
            (Some(key(WEST, 3, 13)), Garbage, "it is held in another store"),
            (Some(key(WEST, 1, 20)), Garbage, "no attempt has this number, and none will"),
            (Some(key(WEST, 5, 20)), Foreign, "the log has not come so far"),
            (Some(key(WEST, u64::MAX, 20)), Foreign, "the log has not come so far"),
            (Some(ObjectKey { nonce: 99, ..key(WEST, 2, 10) }), Open, "another upload of the same bytes"),
            (Some(ObjectKey { nonce: 99, ..key(WEST, 3, 11) }), Garbage, "another upload of the same bytes"),
            (Some(key(EAST, 3, 13)), Foreign, "another store's"),
            (None, Foreign, "no name of ours"),
        ] {
            assert_eq!(census.class(name.as_ref()), class, "{why}");
        }
        for (attempt, class) in [(Some(2), Open), (Some(3), Garbage), (Some(5), Foreign), (None, Foreign)] {
            assert_eq!(census.class_of_upload(attempt), class, "{attempt:?}");
        }
        let held: Vec<u64> = census.held().map(|(key, _)| key.nonce).collect();
        assert_eq!((held, census.bytes_of(&key(WEST, 3, 11))), (vec![10, 11], Some(5)));
    }

    #[test]
    fn what_is_let_go_between_two_slices_is_no_garbage() {
        let mut ledger = ledger();
        let contents = Arc::make_mut(&mut ledger.content);
        let many = 3 * SLICE;
        let ids: Vec<u32> = (0..u64::from(many))
            .map(|nonce| contents.take_object(NewObject { key: key(WEST, 3, nonce), bytes: 1 }))
            .collect();
        let mut census = Census::begin(&ledger, WEST);
        let mut slices = 0;
        while census.slice(&ledger) {
            slices += 1;
            // The last of those that were not met yet, and the first that was.
            if slices <= 2 {
                let contents = Arc::make_mut(&mut ledger.content);
                let gone = [ids[slices - 1], ids[ids.len() - slices]];
                assert!(contents.release_all(&[], &gone, 4).is_empty());
            }
        }
        assert!(slices >= 3, "{slices}");
        for nonce in 0..u64::from(many) {
            let class = census.class(Some(&key(WEST, 3, nonce)));
            assert!(matches!(class, ObjectClass::Referenced | ObjectClass::Released), "{nonce}: {class}");
        }
    }

    #[test]
    fn all_that_is_released_is_met() {
        let mut ledger = ledger();
        let contents = Arc::make_mut(&mut ledger.content);
        let many = 2 * u64::from(SLICE) + 7;
        for store in [WEST, EAST] {
            let ids: Vec<u32> = (0..many)
                .map(|nonce| contents.take_object(NewObject { key: key(store, 3, nonce), bytes: 1 }))
                .collect();
            assert!(contents.release_all(&[], &ids, 4).is_empty());
        }
        for store in [WEST, EAST] {
            let census = census(&ledger, store);
            assert_eq!((census.released.len() as u64, census.held.len()), (many, 0), "store {store}");
        }
    }
}
