//! What attempts that have ended left in a store. First a plan, then exactly that plan: between the two nothing is looked
//! up again, and nothing has to be, because no record can name any more what is garbage once.

use std::collections::BTreeMap;

use client::{Code, Failure};
use futures::StreamExt;
use nativelog::ledger::{Census, ObjectClass, ObjectKey};
use raft::{DELETES_AT_ONCE, DepotError, DepotTrouble, NotDeleted};
use remote::{ObjectName, OpenUpload, StoreError, Trouble};

use super::place::{Listing, Place};
use crate::node::Node;

/// Keys that are told as examples.
const EXAMPLES: usize = 5;
/// Uploads that are ended at once.
const ENDED_AT_ONCE: usize = 8;

/// What there is of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A few of them.
    pub examples: Vec<String>,
}

impl Count {
    fn add(&mut self, bytes: u64, key: impl FnOnce() -> String) {
        self.count += 1;
        self.bytes += bytes;
        if self.examples.len() < EXAMPLES {
            self.examples.push(key());
        }
    }
}

/// What lies in a store, and what of it may go.
#[derive(Debug)]
pub struct Plan {
    /// The store.
    pub place: Place,
    /// Log index at which the log was compared.
    pub applied: u64,
    /// Objects.
    pub objects: BTreeMap<ObjectClass, Count>,
    /// Uploads that are open.
    pub uploads: BTreeMap<ObjectClass, Count>,
    /// Why they are not known.
    pub uploads_unknown: Option<String>,
    /// There is more than one plan counts.
    pub cut: bool,
    /// Objects that may go, and their bytes.
    pub garbage: Vec<(ObjectKey, u64)>,
    /// Uploads that may be ended: key and id.
    ended: Vec<(ObjectName, String)>,
}

/// What was made of a plan.
#[derive(Debug, Default)]
pub struct Acted {
    /// Objects that are gone.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Uploads that are ended.
    pub uploads_ended: u64,
    /// Why not all.
    pub failed: Option<Failure>,
}

impl Plan {
    /// Looks at a store. Changes nothing.
    ///
    /// # Errors
    /// Those of [`Place::find`]; the store cannot be listed; there is no quorum.
    pub async fn make(node: &Node, store: &str) -> Result<Plan, Failure> {
        let place = Place::find(node, store, format!("gc --objects {store}")).await?;
        // Both before the log is asked.
        let listing = place.list().await?;
        let uploads = match place.open_uploads().await {
            Ok(uploads) => Ok(uploads),
            // Some stores cannot tell them: what is no upload can go all the same.
            Err(error) if matches!(error.trouble(), Trouble::Refused | Trouble::Denied) => {
                Err(place.outward(&format!("{}: {}", error.what(), error.why())))
            }
            Err(error) => return Err(place.failure(&error)),
        };
        let census = place.census(node).await?;
        Ok(Plan::of(place, listing, uploads, &census))
    }

    fn of(place: Place, listing: Listing, uploads: Result<Vec<OpenUpload>, String>, census: &Census) -> Plan {
        let mut objects: BTreeMap<ObjectClass, Count> = BTreeMap::new();
        let mut garbage = Vec::new();
        for (key, bytes) in listing.objects {
            let class = census.class(Some(&key));
            objects.entry(class).or_default().add(bytes, || place.told(&key));
            if class == ObjectClass::Garbage {
                garbage.push((key, bytes));
            }
        }
        let (count, bytes, examples) = listing.foreign;
        if count > 0 {
            let foreign = objects.entry(ObjectClass::Foreign).or_default();
            foreign.count += count;
            foreign.bytes += bytes;
            foreign.examples.extend(examples);
            foreign.examples.truncate(EXAMPLES);
        }
        let (uploads, uploads_unknown) = match uploads {
            Ok(uploads) => (uploads, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let mut by_class: BTreeMap<ObjectClass, Count> = BTreeMap::new();
        let mut ended = Vec::new();
        for upload in uploads {
            let ours = upload.name.filter(|name| place.key(name).is_some());
            let class = census.class_of_upload(ours.map(|name| name.attempt));
            by_class.entry(class).or_default().add(0, || place.outward(&upload.key));
            if let Some(name) = ours.filter(|_| class == ObjectClass::Garbage) {
                ended.push((name, upload.id));
            }
        }
        Plan {
            applied: census.applied().unwrap_or_default(),
            place,
            objects,
            uploads: by_class,
            uploads_unknown,
            cut: listing.cut,
            garbage,
            ended,
        }
    }

    /// How many objects and uploads may go.
    pub fn len(&self) -> u64 {
        (self.garbage.len() + self.ended.len()) as u64
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deletes the garbage and ends its uploads. Stops where the store refuses: it would say so again.
    pub async fn act(&self, node: &Node) -> Acted {
        let mut acted = Acted::default();
        if self.is_empty() {
            return acted;
        }
        if let Err(failure) = self.delete(node, &mut acted).await {
            acted.failed = Some(failure);
            return acted;
        }
        acted.failed = self.end_uploads(&mut acted).await.err();
        tracing::info!(
            store = self.place.kept.name(),
            deleted = acted.deleted,
            bytes = acted.deleted_bytes,
            uploads = acted.uploads_ended,
            "what attempts that have ended left in a store is gone"
        );
        acted
    }

    async fn delete(&self, node: &Node, acted: &mut Acted) -> Result<(), Failure> {
        let store = self.place.known.id;
        // Who only ends uploads goes the same way: the marker, the log, the leadership.
        let mut batches: Vec<&[(ObjectKey, u64)]> = self.garbage.chunks(DELETES_AT_ONCE).collect();
        if batches.is_empty() {
            batches.push(&[]);
        }
        for batch in batches {
            let keys = batch.iter().map(|(key, _)| *key).collect();
            let answers = node.replica.deletes().garbage(store, keys).await;
            let answers = answers.map_err(|held| self.held(node, &held))?;
            let mut failed = None;
            for ((_, bytes), (_, answer)) in batch.iter().zip(answers) {
                match answer {
                    Ok(()) => {
                        acted.deleted += 1;
                        acted.deleted_bytes += bytes;
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(self.refused(&error));
            }
        }
        Ok(())
    }

    async fn end_uploads(&self, acted: &mut Acted) -> Result<(), Failure> {
        let end = |(name, id): (ObjectName, String)| {
            let store = self.place.kept.store().clone();
            self.place.kept.run(async move { store.abort_upload(&name, &id).await })
        };
        let ended = self.ended.clone().into_iter().map(end);
        let mut endings = futures::stream::iter(ended).buffer_unordered(ENDED_AT_ONCE);
        while let Some(ended) = endings.next().await {
            ended.map_err(|error: StoreError| self.place.failure(&error))?;
            acted.uploads_ended += 1;
        }
        Ok(())
    }

    fn held(&self, node: &Node, held: &NotDeleted) -> Failure {
        match held {
            NotDeleted::Store(error) => self.refused(error),
            NotDeleted::Log(why) => {
                let (code, sentence) = match node.replica.is_leader() {
                    true => node.no_way(),
                    false => (Code::Unavailable, "this node does not lead any more"),
                };
                Failure::new(code, format!("{sentence}, nothing more was deleted"))
                    .what(self.place.what())
                    .why(why)
                    .fix("repeat the command")
            }
        }
    }

    fn refused(&self, error: &DepotError) -> Failure {
        let (code, sentence, fix) = match error.trouble {
            DepotTrouble::Denied => (
                Code::PermissionDenied,
                "the store does not let this node delete",
                "allow DeleteObject below the prefix; an object lock or a hold refuses it, too. Then repeat the command",
            ),
            DepotTrouble::NotOurs => (
                Code::Refused,
                "the store is not the one that the log knows, nothing more was deleted",
                "somebody else deletes there, or it is another prefix: stop the copy, or bring the right prefix back",
            ),
            DepotTrouble::Away | DepotTrouble::Gone | DepotTrouble::Damaged => (
                Code::Unavailable,
                "the store did not delete all",
                "repeat the command when it answers again: `epochlog status` says how it is",
            ),
        };
        Failure::new(code, sentence).what(self.place.what()).why(self.place.outward(&error.why)).fix(fix)
    }
}
