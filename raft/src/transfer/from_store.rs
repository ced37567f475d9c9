//! Contents from the objects that they lie in.
//!
//! What lies end to end comes with one request, what is large in several at once, and is written behind what is there: as
//! content from peers it stays in `incoming/`, the next try and the next process go on behind it, and it becomes a blob only
//! when all of it has its digest. A store is not believed either. What came wrong is fetched once more, since it may have
//! been hurt on its way.

use std::collections::{BTreeMap, VecDeque};

use checkpoint::Digest;
use checkpoint::store::{Content, Incoming, IncomingError};
use futures::{FutureExt, StreamExt};
use nativelog::ledger::ObjectKey;
use tokio::sync::mpsc;

use super::error::{TransferError, blocking};
use super::gather::Gather;
use super::hydrating::Coming;
use super::runs::{Piece, Run, runs};
use super::sealed::Place;
use super::turn::stopped;
use super::way::Way;
use super::writer::{AHEAD, Part, write};
use crate::depot::{DepotError, DepotTrouble};

/// Groups that are brought at once: while one is synced, the next one comes.
const GROUPS: usize = 2;
/// Bytes of a group, unless a single content is larger: what is shelved stays, whatever happens to the rest.
const GROUP_BYTES: u64 = 64 << 20;
/// Contents of a group.
const GROUP_CONTENTS: usize = 2048;

/// Why a store did not give what lies in it.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// The store, as people call it.
    pub store: String,
    /// The object.
    pub object: ObjectKey,
    pub error: DepotError,
}

impl Refused {
    pub fn of(place: &Place, error: DepotError) -> Refused {
        Refused { store: place.store.clone(), object: place.object, error }
    }

    /// `gone` or `damaged`, when that is it.
    pub fn is(&self) -> Option<&'static str> {
        match self.error.trouble {
            DepotTrouble::Gone => Some("gone"),
            DepotTrouble::Damaged => Some("damaged"),
            DepotTrouble::Away | DepotTrouble::Denied | DepotTrouble::NotOurs => None,
        }
    }

    /// As the object's own name in its store.
    pub fn object(&self) -> String {
        let ObjectKey { attempt, digest, nonce, .. } = self.object;
        format!("{digest}.{attempt:020}.{nonce:016x}")
    }

    /// What is to be said when nobody else has it.
    pub fn transfer_error(self, peers: &str) -> TransferError {
        let why = match peers {
            "" => self.error.why.clone(),
            peers => format!("{}; {peers}", self.error.why),
        };
        match self.is() {
            Some(is) => TransferError::Unstored { object: self.object(), store: self.store, is, why },
            None => TransferError::Waits { store: self.store, why },
        }
    }
}

/// What stores did not bring, and why; nothing is said of content that lies in none.
pub(super) type Unbrought = BTreeMap<Digest, Option<Refused>>;

/// Content that lies in stores.
struct Stored {
    content: Content,
    /// Where it is still to be looked for.
    places: VecDeque<Place>,
    /// It came wrong from the first of these.
    spoiled: bool,
    /// What is to be said of it: one store that may still give it weighs more than any that has lost it.
    refused: Option<Refused>,
}

impl Stored {
    /// Not from the first place.
    fn refuse(&mut self, error: DepotError) {
        if let Some(place) = self.places.pop_front() {
            if self.refused.as_ref().is_none_or(|before| before.is().is_some()) {
                self.refused = Some(Refused::of(&place, error));
            }
            self.spoiled = false;
        }
    }

    fn at(&self) -> (ObjectKey, u64) {
        let place = self.places.front().expect("who has no place left is not asked for");
        (place.object, place.offset)
    }
}

/// What lies in one store and next to each other comes together. They are in the order of their places.
fn groups(stored: Vec<Stored>) -> Vec<Vec<Stored>> {
    let (mut all, mut group, mut bytes) = (Vec::new(), Vec::<Stored>::new(), 0u64);
    for one in stored {
        let size = one.content.size;
        let full = group.len() >= GROUP_CONTENTS || bytes.saturating_add(size) > GROUP_BYTES;
        let elsewhere = group.last().is_some_and(|last| last.at().0.store != one.at().0.store);
        if (full || elsewhere) && !group.is_empty() {
            all.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        group.push(one);
    }
    all.extend(Some(group).filter(|group| !group.is_empty()));
    all
}

impl Gather {
    /// Brings these, of different digests, from the stores that they lie in.
    ///
    /// # Errors
    /// This disk refuses, or the transfer has to end; what came is kept.
    pub(super) async fn ask_stores(&self, contents: Vec<Content>) -> Result<Unbrought, TransferError> {
        let mut unbrought = Unbrought::new();
        let mut stored = Vec::new();
        for content in contents {
            let places = self.sealed.places(&content.digest);
            if self.way.is_none() || places.is_empty() {
                unbrought.insert(content.digest, None);
            } else {
                stored.push(Stored { content, places: places.into(), spoiled: false, refused: None });
            }
        }
        let Some(way) = &self.way else { return Ok(unbrought) };
        loop {
            // All that lies in a store which is asked no more hears the same.
            for one in &mut stored {
                while let Some(error) = one.places.front().and_then(|place| way.closed(place.object.store)) {
                    one.refuse(error);
                }
            }
            let (mut due, given_up): (Vec<_>, Vec<_>) =
                stored.into_iter().partition(|one| !one.places.is_empty());
            for one in &given_up {
                if one.refused.as_ref().is_some_and(|refused| refused.is().is_some()) {
                    way.line.hydrating.is_vain(one.content.digest);
                }
            }
            unbrought.extend(given_up.into_iter().map(|one| (one.content.digest, one.refused)));
            if due.is_empty() {
                return Ok(unbrought);
            }
            due.sort_by_key(Stored::at);
            let mut under_way = futures::stream::iter(groups(due))
                .map(|group| self.group(way, group).boxed())
                .buffer_unordered(GROUPS);
            stored = Vec::new();
            while let Some(done) = under_way.next().await {
                stored.extend(done?);
            }
        }
    }

    /// What of the group did not come; each has a place less, or was spoiled.
    async fn group(&self, way: &Way, group: Vec<Stored>) -> Result<Vec<Stored>, TransferError> {
        let contents: Vec<Content> = group.iter().map(|one| one.content).collect();
        let coming = way.line.hydrating.begin(contents.iter().map(|content| content.digest));
        let arriving = self.open(contents).await?;
        let pieces: Vec<Piece> = group
            .iter()
            .zip(&arriving)
            .enumerate()
            .filter(|(_, (one, arriving))| arriving.have() < one.content.size)
            .map(|(item, (one, arriving))| {
                let place = &one.places[0];
                let (offset, len) = (place.offset + arriving.have(), one.content.size - arriving.have());
                Piece { item, object: place.object, object_bytes: place.object_bytes, offset, len }
            })
            .collect();
        let runs = runs(&pieces, way.pace.range_bytes);
        let (parts, taken) = mpsc::channel(AHEAD);
        let room = self.room.clone();
        let writer = tokio::task::spawn_blocking(move || write(arriving, taken, &room));
        let mut failed = BTreeMap::new();
        let fetched = self.fetch_runs(way, runs, parts, &coming, &mut failed).await;
        // Also when it ends early: what the thread has must not be opened again before it lets go.
        let (arriving, written) =
            writer.await.map_err(|_| TransferError::Here("a thread of this node panicked".into()))?;
        written?;
        let closed = fetched?;
        let (mut whole, mut came, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for (item, (mut one, arriving)) in group.into_iter().zip(arriving).enumerate() {
            if arriving.have() == one.content.size {
                whole.push(arriving);
                came.push(one);
                continue;
            }
            let short = || DepotError::new(DepotTrouble::Damaged, "less came than lies there");
            one.refuse(failed.remove(&item).or_else(|| closed.clone()).unwrap_or_else(short));
            left.push(one);
        }
        left.extend(self.shelve_stored(whole, came).await?);
        Ok(left)
    }

    /// Those that do not verify.
    async fn shelve_stored(
        &self,
        whole: Vec<Incoming>,
        came: Vec<Stored>,
    ) -> Result<Vec<Stored>, TransferError> {
        let store = self.store().clone();
        let shelved = blocking(move || store.shelve(whole)).await?;
        let mut left = Vec::new();
        for (mut one, result) in came.into_iter().zip(shelved) {
            let error = match result {
                Ok(()) => {
                    if let Some(way) = &self.way {
                        way.line.hydrating.came(&one.content.digest);
                    }
                    continue;
                }
                Err(IncomingError::Store(error)) => return Err(TransferError::of_disk(&error)),
                Err(error @ IncomingError::Corrupt { .. }) => error,
            };
            let place = &one.places[0];
            tracing::warn!(store = place.store, object = ?place.object, offset = place.offset, %error, "a store sent content that does not verify; it is thrown away");
            self.progress.came_wrong(one.content.size);
            if one.spoiled {
                one.refuse(DepotError::new(DepotTrouble::Damaged, format!("twice, {error}")));
            } else {
                one.spoiled = true;
            }
            left.push(one);
        }
        Ok(left)
    }

    /// Fetches runs, and hands on what they bring. What failed for its object is told by item; what failed for the store
    /// is the answer, and ends it.
    async fn fetch_runs(
        &self,
        way: &Way,
        runs: Vec<Run>,
        parts: mpsc::Sender<(usize, Part)>,
        coming: &Coming,
        failed: &mut BTreeMap<usize, DepotError>,
    ) -> Result<Option<DepotError>, TransferError> {
        // In their order: contents are written front to back.
        let mut under_way = futures::stream::iter(runs)
            .map(|run| async move { (way.fetch(run.range).await, run) }.boxed())
            .buffered(way.pace.ranges);
        loop {
            let next = tokio::select! {
                () = stopped(&self.stop) => return Err(TransferError::Stopped),
                next = under_way.next() => next,
            };
            let (data, run) = match next {
                None => return Ok(None),
                Some((Ok(data), run)) => (data, run),
                Some((Err(error), run)) if error.is_of_object() => {
                    for cut in run.cuts {
                        failed.entry(cut.item).or_insert_with(|| error.clone());
                    }
                    continue;
                }
                Some((Err(error), run)) => {
                    way.close(run.range.object.store, error.clone());
                    return Ok(Some(error));
                }
            };
            coming.comes();
            for cut in run.cuts.iter().filter(|cut| !failed.contains_key(&cut.item)).collect::<Vec<_>>() {
                self.progress.fetched(cut.len as u64);
                let part = Part::Data(data.slice(cut.at..cut.at + cut.len));
                // The writer ends before only when the disk refuses, and says so itself.
                if parts.send((cut.item, part)).await.is_err() {
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(attempt: u64, offset: u64, size: u64) -> Stored {
        let object = ObjectKey { store: 1, attempt, digest: Digest::NONE, nonce: 0 };
        let place = Place { store: "west".into(), object, object_bytes: 1 << 40, offset };
        let content = Content { digest: Digest::NONE, mode: 0o644, size };
        Stored { content, places: VecDeque::from([place]), spoiled: false, refused: None }
    }

    #[test]
    fn groups_are_bounded_in_bytes_and_contents_and_of_one_store() {
        let sizes = |all: Vec<Stored>| groups(all).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(sizes(vec![]).is_empty());
        let many = (0..GROUP_CONTENTS as u64 + 1).map(|at| stored(1, at * 10, 10)).collect();
        assert_eq!(sizes(many), [GROUP_CONTENTS, 1]);
        let large = vec![stored(1, 0, 10), stored(2, 0, 3 * GROUP_BYTES), stored(3, 0, 10)];
        assert_eq!(sizes(large), [1, 1, 1]);
        let mut elsewhere = stored(3, 0, 10);
        elsewhere.places[0].object.store = 2;
        assert_eq!(sizes(vec![stored(1, 0, 10), stored(2, 0, 10), elsewhere]), [2, 1]);
    }

    #[test]
    fn what_one_store_has_lost_and_another_may_still_give_is_not_lost() {
        let said = |troubles: &[DepotTrouble]| {
            let mut one = stored(1, 0, 10);
            one.places = (0..troubles.len()).map(|_| one.places[0].clone()).collect();
            troubles.iter().for_each(|trouble| one.refuse(DepotError::new(*trouble, "no")));
            assert!(one.places.is_empty());
            one.refused.unwrap().is()
        };
        use DepotTrouble::{Away, Damaged, Denied, Gone};
        assert_eq!(said(&[Away, Gone]), None);
        assert_eq!(said(&[Gone, Denied]), None);
        assert_eq!(said(&[Gone, Away, Damaged]), None);
        assert_eq!(said(&[Damaged, Gone]), Some("gone"));
    }

    #[test]
    fn what_is_said_names_the_store_and_the_object() {
        let mut one = stored(7, 0, 10);
        one.refuse(DepotError::new(DepotTrouble::Gone, "404"));
        let gone = one.refused.clone().unwrap();
        assert_eq!(gone.is(), Some("gone"));
        let object = gone.object();
        assert!(object.ends_with(".00000000000000000007.0000000000000000"), "{object}");
        let error = gone.transfer_error("node 2: no such blob").to_string();
        assert_eq!(
            error,
            format!("the object {object} in the store west is gone: 404; node 2: no such blob")
        );
        let mut one = stored(7, 0, 10);
        one.refuse(DepotError::new(DepotTrouble::Away, "no answer"));
        let away = one.refused.unwrap().transfer_error("").to_string();
        assert_eq!(away, "waits for the store west: no answer");
    }
}
