//! An object store in memory, behind a door of its own for each node; and epochs that lie in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use checkpoint::digest;
use checkpoint::{Digest, EntryKind, Manifest, ManifestEntry};
use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::compose::{self, LinkedFile, StoredObject};
use nativelog::ledger::{Accepted, ObjectKey, STORES_RULES, SealedEpoch};
use raft::{
    DeletesBegin, Depot, DepotError, DepotTrouble, Hydrate, Keeping, ObjectRange, ProposalStream,
    RANGE_BYTES_MAX, Stores,
};
use tokio::sync::watch;

use super::{Cluster, Commit, accepted, directory_of, within};

/// The name of the only store.
pub const WEST: &str = "west";
const UUID: [u8; 16] = [7; 16];
const FIRST_BATCH: u64 = 1;
/// Smaller files lie in a pack together.
const PACKED_BYTES: usize = 256 << 10;

/// What a door does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Up,
    /// It says at once that it has no answer.
    Away,
    /// It never says anything, until its mood is another one.
    Silent,
}

/// The objects, and who may ask for them.
#[derive(Clone)]
pub struct Objects(Arc<Shared>);

struct Shared {
    objects: Mutex<BTreeMap<ObjectKey, Bytes>>,
    /// Of these objects every answer has a wrong byte; so many answers more, of those that have a number.
    spoiled: Mutex<BTreeMap<ObjectKey, Option<usize>>>,
    /// What was given, by node.
    given: Mutex<Vec<(u64, ObjectRange)>>,
    moods: BTreeMap<u64, watch::Sender<Mood>>,
    /// Bytes that a node is given before its door falls silent.
    limits: Mutex<BTreeMap<u64, u64>>,
    nonces: Mutex<u64>,
    /// What the marker shows, and how often somebody wanted to delete.
    marker: Mutex<u64>,
    deletes: Mutex<usize>,
    /// How often the marker was not what somebody knew.
    not_ours: Mutex<usize>,
    /// Whoever deletes is refused.
    denies: Mutex<bool>,
}

struct Door {
    node: u64,
    shared: Arc<Shared>,
}

impl Depot for Door {
    fn fetch(&self, range: ObjectRange) -> BoxFuture<'_, Result<Bytes, DepotError>> {
        async move {
            assert!((1..=RANGE_BYTES_MAX).contains(&range.len), "{range:?}");
            assert!(range.offset + range.len <= range.object_bytes, "{range:?}");
            let mut mood = self.shared.moods[&self.node].subscribe();
            if self.shared.is_over_limit(self.node, range.len) {
                self.shared.moods[&self.node].send_replace(Mood::Silent);
            }
            let now = *mood.wait_for(|mood| *mood != Mood::Silent).await.unwrap();
            if now == Mood::Away {
                return Err(DepotError::new(DepotTrouble::Away, "no answer"));
            }
            let object = self.shared.objects.lock().unwrap().get(&range.object).cloned();
            let Some(object) = object else { return Err(DepotError::new(DepotTrouble::Gone, "404")) };
            assert_eq!(object.len() as u64, range.object_bytes);
            self.shared.given.lock().unwrap().push((self.node, range));
            let data = object.slice(range.offset as usize..(range.offset + range.len) as usize);
            let mut spoiled = self.shared.spoiled.lock().unwrap();
            let spoils = match spoiled.get_mut(&range.object) {
                None | Some(Some(0)) => false,
                Some(None) => true,
                Some(Some(more)) => {
                    *more -= 1;
                    true
                }
            };
            if !spoils {
                return Ok(data);
            }
            let mut wrong = data.to_vec();
            let middle = wrong.len() / 2;
            wrong[middle] ^= 0x40;
            Ok(wrong.into())
        }
        .boxed()
    }

    fn begin_deletes(&self, batch: DeletesBegin) -> BoxFuture<'_, Result<(), DepotError>> {
        async move {
            assert_eq!(batch.uuid, UUID);
            let mut marker = self.shared.marker.lock().unwrap();
            if *marker != batch.to && !batch.from.contains(&marker) {
                *self.shared.not_ours.lock().unwrap() += 1;
                return Err(DepotError::new(DepotTrouble::NotOurs, "somebody else has deleted there"));
            }
            *marker = batch.to;
            Ok(())
        }
        .boxed()
    }

    fn delete(&self, objects: Vec<ObjectKey>) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), DepotError>)>> {
        async move {
            *self.shared.deletes.lock().unwrap() += 1;
            let denies = *self.shared.denies.lock().unwrap();
            let mut there = self.shared.objects.lock().unwrap();
            let mut delete = |object: ObjectKey| {
                if denies {
                    return (object, Err(DepotError::new(DepotTrouble::Denied, "AccessDenied")));
                }
                there.remove(&object);
                (object, Ok(()))
            };
            objects.into_iter().map(&mut delete).collect()
        }
        .boxed()
    }
}

impl Shared {
    fn is_over_limit(&self, node: u64, len: u64) -> bool {
        let mut limits = self.limits.lock().unwrap();
        match limits.get_mut(&node) {
            None => false,
            Some(left) if *left >= len => {
                *left -= len;
                false
            }
            Some(_) => limits.remove(&node).is_some(),
        }
    }
}

impl Objects {
    /// For nodes 1 to `size`.
    pub fn of(size: u64) -> Objects {
        Objects(Arc::new(Shared {
            objects: Mutex::default(),
            spoiled: Mutex::default(),
            given: Mutex::default(),
            moods: (1..=size).map(|node| (node, watch::Sender::new(Mood::Up))).collect(),
            limits: Mutex::default(),
            nonces: Mutex::default(),
            marker: Mutex::new(FIRST_BATCH),
            deletes: Mutex::default(),
            not_ours: Mutex::default(),
            denies: Mutex::default(),
        }))
    }

    fn stores(&self, node: u64) -> Stores {
        Stores(Arc::new(Door { node, shared: self.0.clone() }))
    }

    pub fn mood(&self, node: u64, mood: Mood) {
        self.0.moods[&node].send_replace(mood);
    }

    pub fn all(&self, mood: Mood) {
        self.0.moods.keys().for_each(|node| self.mood(*node, mood));
    }

    /// Once this node was given so many bytes its door falls silent.
    pub fn silent_after(&self, node: u64, bytes: u64) {
        self.0.limits.lock().unwrap().insert(node, bytes);
    }

    pub fn is_silent(&self, node: u64) -> bool {
        *self.0.moods[&node].borrow() == Mood::Silent
    }

    /// Bytes that were given to this node.
    pub fn given(&self, node: u64) -> u64 {
        let given = self.0.given.lock().unwrap();
        given.iter().filter(|(to, _)| *to == node).map(|(_, range)| range.len).sum()
    }

    /// Bytes that were given to anybody.
    pub fn given_to_all(&self) -> u64 {
        self.0.given.lock().unwrap().iter().map(|(_, range)| range.len).sum()
    }

    /// How often anybody was given something.
    pub fn answers(&self) -> usize {
        self.0.given.lock().unwrap().len()
    }

    /// Whether this node was given something of the object whose digest this is.
    pub fn gave(&self, node: u64, digest: Digest) -> bool {
        let given = self.0.given.lock().unwrap();
        given.iter().any(|(to, range)| *to == node && range.object.digest == digest)
    }

    /// So many answers of every object of the attempt have a wrong byte, or all.
    pub fn spoil(&self, attempt: u64, answers: Option<usize>) {
        let mut spoiled = self.0.spoiled.lock().unwrap();
        let of_it: Vec<ObjectKey> = self.keys(attempt);
        spoiled.extend(of_it.into_iter().map(|key| (key, answers)));
    }

    pub fn spoil_no_more(&self) {
        self.0.spoiled.lock().unwrap().clear();
    }

    fn keys(&self, attempt: u64) -> Vec<ObjectKey> {
        let objects = self.0.objects.lock().unwrap();
        objects.keys().filter(|key| key.attempt == attempt).copied().collect()
    }

    /// Objects that are there.
    pub fn there(&self) -> BTreeSet<ObjectKey> {
        self.0.objects.lock().unwrap().keys().copied().collect()
    }

    /// What the marker shows.
    pub fn marker(&self) -> u64 {
        *self.0.marker.lock().unwrap()
    }

    /// Somebody else has deleted there, under this nonce.
    pub fn set_marker(&self, nonce: u64) {
        *self.0.marker.lock().unwrap() = nonce;
    }

    /// How often somebody wanted to delete.
    pub fn deletes(&self) -> usize {
        *self.0.deletes.lock().unwrap()
    }

    /// How often somebody found out that somebody else deletes.
    pub fn not_ours(&self) -> usize {
        *self.0.not_ours.lock().unwrap()
    }

    pub fn deny_deletes(&self, denies: bool) {
        *self.0.denies.lock().unwrap() = denies;
    }

    /// The objects of an attempt are gone, until they are put back.
    pub fn lose(&self, attempt: u64) -> BTreeMap<ObjectKey, Bytes> {
        let keys: BTreeSet<ObjectKey> = self.keys(attempt).into_iter().collect();
        let mut objects = self.0.objects.lock().unwrap();
        let (lost, kept) = std::mem::take(&mut *objects).into_iter().partition(|(key, _)| keys.contains(key));
        *objects = kept;
        lost
    }

    pub fn put_back(&self, lost: BTreeMap<ObjectKey, Bytes>) {
        self.0.objects.lock().unwrap().extend(lost);
    }

    fn put(&self, store: u64, attempt: u64, data: Vec<u8>) -> StoredObject {
        let nonce = {
            let mut nonces = self.0.nonces.lock().unwrap();
            *nonces += 1;
            *nonces
        };
        let (digest, bytes) = (digest::content(&data), data.len() as u64);
        let key = ObjectKey { store, attempt, digest, nonce };
        let before = self.0.objects.lock().unwrap().insert(key, data.into());
        assert!(before.is_none(), "a key is written once");
        StoredObject { digest, nonce, bytes }
    }
}

impl Cluster {
    /// Nodes 1 to `size` that reach these objects.
    pub async fn start_with_objects(
        name: &'static str,
        size: u64,
        (objects, hydrate): (&Objects, Hydrate),
        keeping: Keeping,
    ) -> Cluster {
        let stores = (1..=size).map(|node| (node, (objects.stores(node), hydrate))).collect();
        let cluster = Cluster::build(name, size, keeping, raft::PROPOSAL_BYTES, false, stores).await;
        let leader = cluster.leader().await;
        // As whoever commits into a store asks.
        cluster.nodes.values().for_each(|node| drop(node.replica.too_old_for(STORES_RULES)));
        within("every node knows of stores", async || {
            (cluster.nodes[&leader].machine.ledger().rules() >= STORES_RULES).then_some(())
        })
        .await;
        let replica = &cluster.nodes[&cluster.leader().await].replica;
        let (_, verdict) = replica.propose(compose::store(WEST, UUID, FIRST_BATCH)).await.unwrap();
        assert!(verdict.is_accepted(), "{verdict}");
        cluster
    }
}

/// An epoch that lies in the store, whose objects are uploaded and linked, and which is not sealed yet.
pub struct Hybrid {
    /// The objects of its files and of its manifest.
    pub objects: BTreeSet<ObjectKey>,
    stream: ProposalStream,
    pub attempt: u64,
    pub root: Digest,
    manifest: StoredObject,
    /// Bytes of its files.
    pub bytes: u64,
    pub files: Vec<Digest>,
}

impl Hybrid {
    /// Of a directory like that of [`super::commit_epoch`]; `uploader` has the files staged, as whoever uploads has.
    pub async fn link(
        cluster: &Cluster,
        objects: &Objects,
        uploader: Option<u64>,
        (job, number, bytes): (&str, u8, usize),
    ) -> Hybrid {
        let source = directory_of(bytes, number);
        let leader = &cluster.nodes[&cluster.leader().await];
        let store = leader.machine.ledger().store_named(WEST).unwrap().id;
        let commit = Commit::of(source.path(), job, number);
        let stream = leader.replica.stream().await.unwrap();
        let begun = accepted(&stream, compose::begin_in(&commit.opening, &commit.pages, store)).await;
        let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
        for part in commit.pages.parts(attempt, 0) {
            accepted(&stream, part).await;
        }
        let staged = uploader.map(|node| cluster.nodes[&node].machine.store().layout().clone());
        let (mut entries, mut pack, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut total, mut files) = (0, Vec::new());
        for (file, entry) in commit.plan.entries.iter().enumerate() {
            let data = match entry.kind {
                EntryKind::File => std::fs::read(source.path().join(entry.path.as_os_str())).unwrap(),
                EntryKind::Directory | EntryKind::Symlink => {
                    entries.push(ManifestEntry::new(entry, Digest::NONE));
                    continue;
                }
            };
            let (file, digest) = (file as u32, digest::content(&data));
            entries.push(ManifestEntry::new(entry, digest));
            if data.is_empty() {
                continue;
            }
            total += data.len() as u64;
            files.push(digest);
            if let Some(layout) = &staged {
                let path = layout.staged_file(attempt, file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, &data).unwrap();
            }
            let linked = LinkedFile { file, offset: pack.len() as u64, len: data.len() as u64, digest };
            if data.len() < PACKED_BYTES {
                pack.extend_from_slice(&data);
                packed.push(linked);
            } else {
                let object = objects.put(store, attempt, data);
                let linked = LinkedFile { offset: 0, ..linked };
                accepted(&stream, compose::link(attempt, &object, &[linked])).await;
            }
        }
        if !packed.is_empty() {
            let object = objects.put(store, attempt, pack);
            accepted(&stream, compose::link(attempt, &object, &packed)).await;
        }
        let tree = Manifest { entries };
        let root = tree.root();
        let manifest = objects.put(store, attempt, tree.encode());
        assert_eq!(manifest.digest, root);
        let objects = objects.keys(attempt).into_iter().collect();
        Hybrid { objects, stream, attempt, root, manifest, bytes: total, files }
    }

    pub async fn seal(&self) -> SealedEpoch {
        let record = compose::seal_with(self.attempt, self.root, &self.manifest);
        let sealed = accepted(&self.stream, record).await;
        let Accepted::Sealed(sealed) = sealed else { panic!("{sealed:?}") };
        assert_eq!(sealed.root, self.root);
        sealed
    }

    /// Bytes of its manifest.
    pub fn manifest_bytes(&self) -> u64 {
        self.manifest.bytes
    }
}

/// As [`super::commit_epoch`], into the store.
pub async fn commit_hybrid(
    cluster: &Cluster,
    objects: &Objects,
    uploader: Option<u64>,
    what: (&str, u8, usize),
) -> Hybrid {
    let hybrid = Hybrid::link(cluster, objects, uploader, what).await;
    hybrid.seal().await;
    hybrid
}
