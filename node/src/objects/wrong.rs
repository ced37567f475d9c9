//! Objects that are not what the log says: missing from the store, of another length, or of other bytes.
//!
//! A listing may be old, and is no proof: what it does not show as it should be is asked for by its name. What is wrong
//! then is wrong only if somebody still holds it afterwards: an object that was let go meanwhile may be gone.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::Digest;
use checkpoint::digest::FileHasher;
use client::Failure;
use futures::StreamExt;
use nativelog::ledger::{Census, ObjectClass, ObjectKey};
use nativelog::machine::Machine;
use remote::limits::LEAF_BYTES;
use remote::{StoreError, Trouble};

use super::place::{Listing, Place};
use crate::epochs;
use crate::node::Node;

/// Objects that are asked for by name at once.
const ASKED_AT_ONCE: usize = 8;
/// Objects that are read at once: each holds a leaf of 8 MiB.
const READ_AT_ONCE: usize = 4;
/// Contents that are looked at while apply waits.
const SLICE: u32 = 4096;

/// What an object is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The store has none of this name.
    Missing,
    /// It has another length; which.
    Length(u64),
    /// It was read, and its digest is another one; or it cannot be read to its end. In words.
    Damaged(String),
    /// It could not be looked at. In words.
    Unread(String),
}

impl State {
    /// As in tables and JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Missing => "missing",
            State::Length(_) => "short",
            State::Damaged(_) => "damaged",
            State::Unread(_) => "unread",
        }
    }
}

/// A content that lies in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lying {
    /// Where, in bytes.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3.
    pub digest: Digest,
}

/// An object that is not what the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its name.
    pub key: ObjectKey,
    /// Bytes that it should have.
    pub bytes: u64,
    /// What it is like.
    pub state: State,
    /// What lies in it, in the order of places.
    pub contents: Vec<Lying>,
    /// Epochs whose manifest it is.
    pub manifest_of: Vec<String>,
}

/// What a store was like.
#[derive(Debug, Default)]
pub struct Looked {
    /// Log index at which the log was compared.
    pub applied: u64,
    /// Objects that somebody holds, and their bytes.
    pub referenced: (u64, u64),
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Objects that are there and that nobody holds, by class.
    pub surplus: BTreeMap<ObjectClass, u64>,
    /// There is more than one listing holds.
    pub cut: bool,
    /// What is wrong.
    pub wrong: Vec<Wrong>,
}

/// Compares a store with the log; `deep` reads every object.
///
/// # Errors
/// The store is away, or does not let this node look; there is no quorum.
pub async fn look(node: &Node, place: &Place, deep: bool) -> Result<Looked, Failure> {
    let mut listing = place.list().await?;
    let census = place.census(node).await?;
    listing.objects.sort_unstable();
    let held = census.held().map(|(key, bytes)| (*key, bytes)).collect();
    let (odd, sound) = compared(&listing, held);
    let mut looked = Looked {
        applied: census.applied().unwrap_or_default(),
        referenced: census.held().fold((0, 0), |(count, all), (_, bytes)| (count + 1, all + bytes)),
        surplus: surplus(&listing, &census),
        cut: listing.cut,
        ..Looked::default()
    };
    drop((listing, census));
    let (mut wrong, fine) = ask(place, odd).await?;
    if deep {
        let all = sound.into_iter().chain(fine).collect();
        wrong.extend(read(place, all, &mut looked.read_bytes).await?);
    }
    looked.wrong = held_still(node, wrong).await;
    Ok(looked)
}

/// The same of these alone, without a listing: those of them that are held and wrong.
///
/// # Errors
/// As [`look`].
pub async fn named(
    node: &Node,
    place: &Place,
    keys: &[ObjectKey],
    deep: bool,
) -> Result<Vec<Wrong>, Failure> {
    let census = place.census(node).await?;
    let held = keys.iter().filter_map(|key| Some((*key, census.bytes_of(key)?))).collect();
    let (mut wrong, fine) = ask(place, held).await?;
    if deep {
        wrong.extend(read(place, fine, &mut 0).await?);
    }
    Ok(held_still(node, wrong).await)
}

type Held = Vec<(ObjectKey, u64)>;

/// What is held and not listed as it should be, and the rest. The listing is in order.
fn compared(listing: &Listing, held: Held) -> (Held, Held) {
    let is_sound = |object: &(ObjectKey, u64)| listing.objects.binary_search(object).is_ok();
    let (sound, odd) = held.into_iter().partition(is_sound);
    (odd, sound)
}

fn surplus(listing: &Listing, census: &Census) -> BTreeMap<ObjectClass, u64> {
    let mut surplus = BTreeMap::from([(ObjectClass::Foreign, listing.foreign.0)]);
    for (key, _) in &listing.objects {
        let class = census.class(Some(key));
        if class != ObjectClass::Referenced {
            *surplus.entry(class).or_default() += 1;
        }
    }
    surplus
}

/// Whether an error is said of the store: all others would hear the same.
fn is_of_store(error: &StoreError) -> bool {
    matches!(
        error.trouble(),
        Trouble::Away | Trouble::Denied | Trouble::Foreign | Trouble::Configuration | Trouble::Disk
    )
}

/// Asks for objects by name: those that are wrong, and those that are as they should be.
async fn ask(place: &Place, held: Held) -> Result<(Vec<Wrong>, Held), Failure> {
    let head = |(key, bytes): (ObjectKey, u64)| {
        let (store, name) = (place.kept.store().clone(), place.name(&key));
        let head = place.kept.run(async move { store.head(&name).await });
        async move { (key, bytes, head.await) }
    };
    let mut heads = futures::stream::iter(held.into_iter().map(head)).buffer_unordered(ASKED_AT_ONCE);
    let (mut wrong, mut fine) = (Vec::new(), Vec::new());
    while let Some((key, bytes, head)) = heads.next().await {
        let state = match head {
            Ok(Some(head)) if head.len == bytes => {
                fine.push((key, bytes));
                continue;
            }
            Ok(Some(head)) => State::Length(head.len),
            Ok(None) => State::Missing,
            Err(error) if is_of_store(&error) => return Err(place.failure(&error)),
            Err(error) => State::Unread(place.outward(error.why())),
        };
        wrong.push(Wrong { key, bytes, state, contents: Vec::new(), manifest_of: Vec::new() });
    }
    Ok((wrong, fine))
}

/// Reads objects and compares their digests: those that are wrong.
async fn read(place: &Place, held: Held, read_bytes: &mut u64) -> Result<Vec<Wrong>, Failure> {
    let read = |(key, bytes): (ObjectKey, u64)| {
        let (store, name) = (place.kept.store().clone(), place.name(&key));
        let read = place.kept.run(async move { digest_of(&store, &name, bytes).await });
        async move { (key, bytes, read.await) }
    };
    let mut reads = futures::stream::iter(held.into_iter().map(read)).buffer_unordered(READ_AT_ONCE);
    let mut wrong = Vec::new();
    while let Some((key, bytes, read)) = reads.next().await {
        let state = match read {
            Ok(found) if found == key.digest => {
                *read_bytes += bytes;
                continue;
            }
            Ok(found) => {
                *read_bytes += bytes;
                State::Damaged(format!("its bytes have digest {}", found.short()))
            }
            Err(error) if is_of_store(&error) => return Err(place.failure(&error)),
            Err(error) => match error.trouble() {
                Trouble::Missing => State::Missing,
                Trouble::Damaged => State::Damaged(place.outward(error.why())),
                _ => State::Unread(place.outward(error.why())),
            },
        };
        wrong.push(Wrong { key, bytes, state, contents: Vec::new(), manifest_of: Vec::new() });
    }
    Ok(wrong)
}

async fn digest_of(
    store: &remote::Store,
    name: &remote::ObjectName,
    bytes: u64,
) -> Result<Digest, StoreError> {
    let mut hasher = FileHasher::new();
    for offset in (0..bytes).step_by(LEAF_BYTES as usize) {
        let data = store.read_unverified(name, offset, LEAF_BYTES.min(bytes - offset)).await?;
        hasher.data(&data);
    }
    Ok(hasher.finish())
}

/// Those that somebody holds now, with what lies in them.
async fn held_still(node: &Node, wrong: Vec<Wrong>) -> Vec<Wrong> {
    if wrong.is_empty() {
        return wrong;
    }
    epochs::elsewhere(node.replica.machine(), move |machine| find_holders(machine, wrong)).await
}

fn find_holders(machine: &Machine, wrong: Vec<Wrong>) -> Vec<Wrong> {
    let mut by_key: BTreeMap<ObjectKey, Wrong> = wrong.into_iter().map(|wrong| (wrong.key, wrong)).collect();
    let mut from = 0;
    loop {
        let ledger = machine.ledger();
        if from >= ledger.stored_slots() {
            break;
        }
        let to = from.saturating_add(SLICE);
        for homes in ledger.stored_in(from..to) {
            for extent in homes.extents {
                if let Some(wrong) = by_key.get_mut(&extent.object.key) {
                    let (offset, bytes) = (extent.offset, extent.bytes);
                    wrong.contents.push(Lying { offset, bytes, digest: homes.digest });
                }
            }
        }
        from = to;
    }
    for (job, epoch) in epochs::all(machine, None) {
        let manifest = machine.ledger().manifest_object(&job, epoch);
        if let Some(wrong) = manifest.and_then(|object| by_key.get_mut(&object.key)) {
            wrong.manifest_of.push(format!("{job}@{epoch}"));
        }
    }
    let open: BTreeSet<u64> = {
        let ledger = machine.ledger();
        by_key.keys().map(|key| key.attempt).filter(|attempt| ledger.is_attempt_open(*attempt)).collect()
    };
    let is_held = |wrong: &Wrong| {
        !wrong.contents.is_empty() || !wrong.manifest_of.is_empty() || open.contains(&wrong.key.attempt)
    };
    let mut wrong: Vec<Wrong> = by_key.into_values().filter(is_held).collect();
    wrong.iter_mut().for_each(|wrong| wrong.contents.sort_unstable());
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(nonce: u64) -> ObjectKey {
        ObjectKey { store: 1, attempt: 1, digest: checkpoint::digest::content(b"x"), nonce }
    }

    #[test]
    fn what_a_listing_shows_in_its_length_is_sound_and_nothing_else() {
        // Held, by an attempt that is open in a ledger of its own.
        let census = crate::objects::wrong::tests::census(&[(key(1), 10), (key(2), 10), (key(3), 10)]);
        let mut listing = Listing::default();
        listing.objects = vec![(key(1), 10), (key(3), 9), (key(4), 10)];
        let held = census.held().map(|(key, bytes)| (*key, bytes)).collect();
        let (odd, sound) = compared(&listing, held);
        assert_eq!(odd, [(key(2), 10), (key(3), 10)]);
        assert_eq!(sound, [(key(1), 10)]);
    }
}
