//! Contents, spread over the peers; and from stores, what lies there and no peer has.
//!
//! The work is a list of batches: many small contents that are shelved with the syncs of one, or one large
//! content. A few batches are under way at once, each begins at another peer, and what a peer does not have,
//! sends wrong or breaks off goes to the next one. What came stays in `incoming/`: the next peer, the next
//! round and the next process go on behind it. Whoever sent something wrong is asked to look at it anew: its word, not
//! what became of its bytes on the way, says whether it has a good copy.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use checkpoint::Digest;
use checkpoint::store::Content;
use futures::{FutureExt, StreamExt};

use super::answers::{Answers, Nowhere, Said};
use super::batches::{STREAMS, batches};
use super::error::TransferError;
use super::from_peer::Asked;
use super::from_store::{Refused, Unbrought};
use super::gather::{CONTENTS_AT_ONCE, Gather, ROUNDS};
use super::lost::{InStore, Lost};

/// A content that is wanted, as it was brought by a seal, and what was said of it.
struct Left {
    content: Content,
    brought: u64,
    said: Answers,
}

/// What did not come.
#[derive(Default)]
struct NotHere {
    /// Nobody has it.
    lost: BTreeMap<Digest, Lost>,
    /// Of what lies in stores and may come later: the worst that was said.
    later: Option<TransferError>,
}

impl NotHere {
    fn later(&mut self, error: TransferError) {
        let rank = |error: &TransferError| match error {
            TransferError::Unstored { .. } => 2,
            TransferError::Waits { .. } => 1,
            _ => 0,
        };
        if self.later.as_ref().is_none_or(|before| rank(before) < rank(&error)) {
            self.later = Some(error);
        }
    }

    fn and(&mut self, more: NotHere) {
        self.lost.extend(more.lost);
        if let Some(error) = more.later {
            self.later(error);
        }
    }

    /// What is lost comes first: it is said of it who has looked.
    fn result(self) -> Result<(), TransferError> {
        let Some(first) = self.lost.values().next() else { return self.later.map_or(Ok(()), Err) };
        let said = first.found.iter().map(|(peer, why)| format!("node {peer}: {why}"));
        let in_store = match &first.in_store {
            InStore::Never => None,
            InStore::Unasked { .. } => Some("it lies in a store, which was not asked".to_owned()),
            InStore::Lost(what) => Some(what.clone()),
        };
        let why = said.chain(in_store).collect::<Vec<_>>().join("; ");
        let what = format!("content {}", first.digest);
        Err(TransferError::Nowhere { what, why, lost: self.lost.into_values().collect() })
    }
}

impl Gather {
    /// Brings `contents` to the shelves; what is nowhere to be had, and what waits for a store, does not hold up the rest.
    ///
    /// # Errors
    /// [`TransferError`]; what came is kept.
    pub async fn bring(&self, contents: Vec<Content>) -> Result<(), TransferError> {
        let mut not_here = NotHere::default();
        for some in contents.chunks(CONTENTS_AT_ONCE) {
            let more = self.bring_some(some).await?;
            self.lost().extend(more.lost.iter().map(|(digest, lost)| (*digest, lost.clone())));
            not_here.and(more);
        }
        not_here.result()
    }

    /// Brings these; answers with what did not come.
    async fn bring_some(&self, contents: &[Content]) -> Result<NotHere, TransferError> {
        let mut not_here = NotHere::default();
        let known = self.lost().clone();
        let mut rest = Vec::with_capacity(contents.len());
        for content in contents {
            match known.get(&content.digest) {
                Some(there) => drop(not_here.lost.insert(content.digest, there.clone())),
                None => rest.push(*content),
            }
        }
        // One digest is brought once at a time, also when it is wanted with two modes.
        let mut seen = BTreeSet::new();
        let (once, again): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|content| seen.insert(content.digest));
        not_here.and(self.bring_each(once).await?);
        for content in again {
            if !not_here.lost.contains_key(&content.digest) {
                not_here.and(self.bring_each(vec![content]).await?);
            }
        }
        Ok(not_here)
    }

    /// Answers with what did not come.
    async fn bring_each(&self, mut contents: Vec<Content>) -> Result<NotHere, TransferError> {
        let Some(way) = &self.way else {
            let left = self.ask_peers(contents, false).await?;
            return self.not_here(left, Unbrought::new());
        };
        if way.first {
            let unbrought = self.ask_stores(contents.clone()).await?;
            contents.retain(|content| unbrought.contains_key(&content.digest));
            let left = self.ask_peers(contents, true).await?;
            return self.not_here(left, unbrought);
        }
        let mut left = self.ask_peers(contents, true).await?;
        let may_ask = |left: &&Left| left.said.leave_to_stores(self.me, way.since);
        let asked: Vec<Content> = left.iter().filter(may_ask).map(|left| left.content).collect();
        let digests: BTreeSet<Digest> = asked.iter().map(|content| content.digest).collect();
        let unbrought = self.ask_stores(asked).await?;
        left.retain(|left| {
            let digest = &left.content.digest;
            !digests.contains(digest) || unbrought.contains_key(digest)
        });
        self.not_here(left, unbrought)
    }

    /// Asks the peers, in several rounds, unless that is done `once`: whoever goes on to a store comes again by itself.
    async fn ask_peers(&self, contents: Vec<Content>, once: bool) -> Result<Vec<Left>, TransferError> {
        let mut left = self.wanted(contents);
        // Whoever finds one content nowhere finds the next there, too: it is not waited for as long.
        let rounds = if self.lost().is_empty() { ROUNDS } else { 1 };
        for round in 0..ROUNDS {
            let decided = || left.iter().all(|left| left.said.nowhere(self.holder()).is_some());
            if left.is_empty() || round >= rounds && decided() || once && round > 0 {
                break;
            }
            if round > 0 {
                self.pause(round).await?;
            }
            let batches = batches(left.iter().map(|left| left.content));
            let mut under_way = futures::stream::iter(batches)
                .map(|batch| self.bring_batch(batch).boxed())
                .buffer_unordered(STREAMS);
            left = Vec::new();
            while let Some(done) = under_way.next().await {
                left.extend(done?);
            }
        }
        Ok(left)
    }

    /// What is to be concluded of what did not come.
    ///
    /// # Errors
    /// Something lies in no store, and a peer that lives may have it.
    fn not_here(&self, left: Vec<Left>, mut stores: Unbrought) -> Result<NotHere, TransferError> {
        let mut not_here = NotHere::default();
        for Left { content, brought, said } in left {
            let Content { digest, size: bytes, .. } = content;
            let (what, why) = (format!("content {digest}"), said.why());
            let refused = match (stores.remove(&digest), &self.way) {
                (Some(refused), _) => refused,
                // A peer is waited for.
                (None, Some(_)) if !self.sealed.places(&digest).is_empty() => {
                    not_here.later(TransferError::Lacking { what, why });
                    continue;
                }
                (None, _) => None,
            };
            let in_store = match &refused {
                Some(Refused { store, error, .. }) => {
                    let is = refused.as_ref().and_then(Refused::is);
                    is.map(|is| InStore::Lost(format!("in the store {store} it is {is}: {}", error.why)))
                }
                None if self.way.is_none() && !self.sealed.places(&digest).is_empty() => {
                    Some(InStore::Unasked { in_log: self.sealed.is_in_log(&digest) })
                }
                None => Some(InStore::Never),
            };
            let nowhere = match &in_store {
                // It is sought there when the transfer is over, and one that hydrates slowly keeps nobody out.
                Some(InStore::Unasked { .. }) => said.nowhere_yet(self.holder()),
                _ => said.nowhere(self.holder()),
            };
            match (nowhere, in_store, refused) {
                (Some(Nowhere { found, not_yet }), Some(in_store), _) => {
                    let lost = Lost { digest, bytes, brought, found, not_yet, in_store };
                    not_here.lost.insert(digest, lost);
                }
                (_, _, Some(refused)) => not_here.later(refused.transfer_error(&why)),
                (_, _, None) => return Err(TransferError::Lacking { what, why }),
            }
        }
        Ok(not_here)
    }

    fn wanted(&self, contents: Vec<Content>) -> Vec<Left> {
        let left = contents.into_iter().map(|content| {
            // What nobody holds any more, nobody has to have.
            let brought = self.sealed.brought(&content.digest).unwrap_or_default();
            Left { content, brought, said: Answers::default() }
        });
        left.collect()
    }

    /// Asks one peer after the other; answers with what none of them brought.
    async fn bring_batch(&self, batch: Vec<Content>) -> Result<Vec<Left>, TransferError> {
        let mut left = self.wanted(batch);
        let asked: Asked = left.iter().map(|left| (left.content.digest, left.brought)).collect();
        for peer in self.order() {
            if left.is_empty() {
                break;
            }
            let contents = left.iter().map(|left| left.content).collect();
            let mut missed: HashMap<Digest, Said> = HashMap::new();
            for (content, said) in self.bring_from(peer, contents, &asked).await? {
                missed.insert(content.digest, said);
            }
            left.retain_mut(|left| {
                let said = missed.remove(&left.content.digest);
                said.map(|said| left.said.add(peer, said)).is_some()
            });
        }
        Ok(left)
    }
}
