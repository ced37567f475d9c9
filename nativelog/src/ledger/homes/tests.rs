//! Homes against a plain model of them, in histories of any kind.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const CONTENT_BYTES: u64 = 10;
const OBJECT_BYTES: u64 = 100;

fn digest_of(content: u32) -> Digest {
    checkpoint::digest::content(&content.to_be_bytes())
}

/// Object, and offset in it.
type Place = (ObjectKey, u64);

/// What homes are, told in the simplest way.
#[derive(Default)]
struct Model {
    /// By content: in the log or not; by store: object and offset.
    homes: BTreeMap<u32, (bool, BTreeMap<u64, Place>)>,
    /// Held by open attempts.
    open: BTreeMap<ObjectKey, u32>,
    taken: BTreeSet<ObjectKey>,
    gone: BTreeSet<ObjectKey>,
}

impl Model {
    fn held(&self) -> BTreeSet<ObjectKey> {
        let by_content = self.homes.values().flat_map(|(_, stores)| stores.values().map(|(key, _)| *key));
        by_content.chain(self.open.keys().copied()).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An open attempt names a new object in this store.
    Take(u64),
    /// Content comes: into the log, into one of the open attempts' objects, or both.
    Came {
        content: u32,
        logged: bool,
        object: Option<prop::sample::Index>,
        lost: bool,
    },
    Forget(u32),
    LoseLog(u32),
    /// An open attempt ends that had named this object.
    End(prop::sample::Index),
    Deleted(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => (0..3u64).prop_map(Step::Take),
        4 => (0..6u32, any::<bool>(), prop::option::weighted(0.8, index()), prop::bool::weighted(0.1))
            .prop_map(|(content, logged, object, lost)| Step::Came { content, logged, object, lost }),
        2 => (0..6u32).prop_map(Step::Forget),
        1 => (0..6u32).prop_map(Step::LoseLog),
        2 => index().prop_map(Step::End),
        1 => index().prop_map(Step::Deleted),
    ]
}

struct Played {
    homes: Homes,
    model: Model,
    /// Contents that are there, in the log alone or not.
    there: BTreeSet<u32>,
    index: u64,
}

impl Played {
    fn play(&mut self, step: &Step) {
        self.index += 1;
        let Played { homes, model, there, index } = self;
        match step {
            Step::Take(store) => {
                let key = ObjectKey { store: *store, attempt: *index, digest: digest_of(7), nonce: 0 };
                let number = homes.take(NewObject { key, bytes: OBJECT_BYTES });
                model.open.insert(key, number);
                model.taken.insert(key);
            }
            Step::Came { content, logged, object, lost } => {
                let object = object.filter(|_| !model.open.is_empty());
                let picked = object.map(|at| *at.get(&model.open.iter().collect::<Vec<_>>()));
                let picked = picked.map(|(key, number)| (*key, *number));
                let came = Came { logged: *logged, linked: picked.is_some() };
                if !came.with_it() {
                    return;
                }
                let offset = u64::from(*content);
                let link = picked.map(|(_, object)| Extent { object, offset });
                let in_log = there.contains(content) && !lost;
                let before = match (there.contains(content), lost) {
                    (false, _) => Before::Nowhere,
                    (true, false) => Before::Stays,
                    (true, true) => Before::Lost,
                };
                homes.came((*content, &digest_of(*content)), before, Coming { came, link }, *index);
                let log = logged | (in_log && model.homes.get(content).is_none_or(|(log, _)| *log));
                if before == Before::Lost {
                    model.homes.remove(content);
                }
                if let Some((key, _)) = picked {
                    let home = model.homes.entry(*content).or_default();
                    home.1.insert(key.store, (key, offset));
                }
                if let Some(home) = model.homes.get_mut(content) {
                    home.0 = log;
                }
                there.insert(*content);
            }
            Step::Forget(content) => {
                homes.forget((*content, &digest_of(*content)), *index);
                model.homes.remove(content);
                there.remove(content);
            }
            Step::LoseLog(content) => {
                homes.lose_log((*content, &digest_of(*content)));
                if let Some(home) = model.homes.get_mut(content) {
                    home.0 = false;
                }
            }
            Step::End(at) if !model.open.is_empty() => {
                let (key, number) = *at.get(&model.open.iter().collect::<Vec<_>>());
                let (key, number) = (*key, *number);
                homes.let_go(number, *index);
                model.open.remove(&key);
            }
            Step::Deleted(at) if !model.taken.is_empty() => {
                let key = **at.get(&model.taken.iter().collect::<Vec<_>>());
                homes.deleted([&key]);
                if !model.held().contains(&key) {
                    model.gone.insert(key);
                }
            }
            Step::End(_) | Step::Deleted(_) => {}
        }
    }

    fn check(&self) {
        let Played { homes, model, .. } = self;
        let held: BTreeSet<ObjectKey> = homes.objects().map(|(_, object)| object.key).collect();
        assert_eq!(held, model.held());
        let released: BTreeSet<ObjectKey> = homes.released().iter().map(|(key, _)| *key).collect();
        let expected = model.taken.iter().filter(|key| !held.contains(key) && !model.gone.contains(key));
        assert_eq!(released, expected.copied().collect(), "what nobody holds is released until it is gone");
        let found: BTreeMap<u32, _> = homes
            .iter()
            .map(|(id, home)| {
                let of = |extent: Extent| {
                    let key = homes.object(extent.object).key;
                    (key.store, (key, extent.offset))
                };
                (id, (home.log, home.extents().map(of).collect::<BTreeMap<_, _>>()))
            })
            .collect();
        assert_eq!(found, model.homes);
        for (content, (_, stores)) in &model.homes {
            for store in 0..3 {
                let there = homes.in_store(*content, store).map(|extent| extent.offset);
                assert_eq!(there, stores.get(&store).map(|(_, offset)| *offset));
            }
        }
        assert_eq!(self.rebuilt(), Some(homes.clone()), "rows make the same");
    }

    /// From its rows.
    fn rebuilt(&self) -> Option<Homes> {
        let mut anew = Homes::default();
        for (number, object) in self.homes.objects() {
            anew.add_object(number, NewObject { key: object.key, bytes: object.bytes })?;
        }
        for (id, home) in self.homes.iter() {
            anew.add_home((id, &digest_of(id), CONTENT_BYTES), home.clone())?;
        }
        for (key, at) in self.homes.released().iter() {
            anew.add_released(*key, *at)?;
        }
        self.model.open.values().for_each(|number| anew.hold(*number));
        anew.finish()?;
        Some(anew)
    }
}

fn played(steps: &[Step]) -> Played {
    let (homes, model) = (Homes::default(), Model::default());
    let mut played = Played { homes, model, there: BTreeSet::new(), index: 0 };
    for step in steps {
        played.play(step);
        played.check();
    }
    played
}

proptest! {
    #[test]
    fn any_history_is_the_one_that_the_model_tells(steps in prop::collection::vec(steps(), 0..60)) {
        let mut played = played(&steps);
        // The numbers that come next are the same as in one that was rebuilt.
        let mut rebuilt = played.rebuilt().unwrap();
        for round in 0..3 {
            let key = ObjectKey { store: 0, attempt: 1000 + round, digest: digest_of(8), nonce: 0 };
            let object = NewObject { key, bytes: 1 };
            prop_assert_eq!(played.homes.take(object), rebuilt.take(object));
        }
        prop_assert_eq!(played.homes.sum().to_bytes(), rebuilt.sum().to_bytes());
    }
}

#[test]
fn a_ledger_without_stores_keeps_nothing_and_adds_nothing_to_its_digest() {
    let mut homes = Homes::default();
    let came = Came { logged: true, linked: false };
    homes.came((3, &digest_of(3)), Before::Nowhere, Coming { came, link: None }, 5);
    homes.came((3, &digest_of(3)), Before::Stays, Coming { came, link: None }, 6);
    homes.lose_log((3, &digest_of(3)));
    homes.forget((3, &digest_of(3)), 7);
    assert_eq!(homes, Homes::default());
    assert_eq!(homes.sum().to_bytes(), Sum::default().to_bytes());
}

#[test]
fn a_name_is_never_taken_again() {
    let mut homes = Homes::default();
    let key = ObjectKey { store: 1, attempt: 2, digest: digest_of(3), nonce: 4 };
    let number = homes.take(NewObject { key, bytes: 5 });
    homes.let_go(number, 6);
    let again = std::panic::catch_unwind(move || homes.take(NewObject { key, bytes: 5 }));
    assert!(again.is_err());
}

#[test]
fn rows_that_contradict_each_other_make_nothing() {
    let key = |store| ObjectKey { store, attempt: 2, digest: digest_of(3), nonce: 4 };
    let with = |objects: &[(u32, u64)]| {
        let mut homes = Homes::default();
        for (number, store) in objects {
            homes.add_object(*number, NewObject { key: key(*store), bytes: 20 })?;
        }
        Some(homes)
    };
    let home = |extents: &[(u32, u64)]| {
        let extent = |(object, offset): &(u32, u64)| Extent { object: *object, offset: *offset };
        Home::new(false, &extents.iter().map(extent).collect::<Vec<_>>()).unwrap()
    };
    assert!(with(&[(0, 1), (0, 2)]).is_none(), "two of one number");
    assert!(with(&[(u32::MAX, 1)]).is_none());
    let placed = |extents: &[(u32, u64)]| {
        let mut homes = with(&[(0, 1), (5, 2)]).unwrap();
        homes.add_home((9, &digest_of(9), 10), home(extents))
    };
    assert!(placed(&[(0, 10), (5, 0)]).is_some());
    for bad in [&[(1, 0)][..], &[(0, 11)], &[(0, u64::MAX)], &[(5, 0), (0, 0)], &[(0, 0), (0, 5)]] {
        assert!(placed(bad).is_none(), "{bad:?}");
    }
    let mut unheld = with(&[(0, 1)]).unwrap();
    assert!(unheld.finish().is_none(), "an object that nobody holds");
    let mut twice = with(&[(0, 1), (1, 1)]).unwrap();
    (0..2).for_each(|number| twice.hold(number));
    assert!(twice.finish().is_none(), "two of one name");
    let mut released = with(&[(0, 1)]).unwrap();
    released.hold(0);
    released.add_released(key(1), ReleasedAt { index: 5, bytes: 20 }).unwrap();
    assert!(released.finish().is_none(), "held, and released");
}
