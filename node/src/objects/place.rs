//! A store as the log knows it, and what lies below this cluster's folder in it.

use std::sync::Arc;

use client::{Code, Failure};
use nativelog::ledger::{Census, ObjectKey, StoreInfo};
use remote::{ObjectName, OpenUpload, StoreError};
use uuid::Uuid;

use crate::epochs;
use crate::limits::OBJECTS_LISTED_MAX;
use crate::node::Node;
use crate::stores::{Kept, NotIt, failure};

/// Keys that are told as examples.
const EXAMPLES: usize = 5;

/// See the module.
#[derive(Debug, Clone)]
pub struct Place {
    /// The store.
    pub kept: Arc<Kept>,
    /// What the log knows of it.
    pub known: StoreInfo,
    /// The cluster, in its keys.
    pub cluster: Uuid,
    what: String,
}

/// What was listed.
#[derive(Debug, Default)]
pub struct Listing {
    /// By name, with the bytes that each has.
    pub objects: Vec<(ObjectKey, u64)>,
    /// How many have a name that is none of ours, their bytes, and a few of them.
    pub foreign: (u64, u64, Vec<String>),
    /// There are more than one listing holds.
    pub cut: bool,
}

impl Place {
    /// The store of this name, found to be the one that the log means. `what` somebody asked for.
    ///
    /// # Errors
    /// This node has no such store, the log knows none, another one is behind the name, or it is away.
    pub async fn find(node: &Node, name: &str, what: String) -> Result<Place, Failure> {
        let Some(kept) = node.stores.get(name) else {
            let names: Vec<&str> = node.stores.all().map(|kept| kept.name()).collect();
            let there = if names.is_empty() { "no store".to_owned() } else { names.join(", ") };
            return Err(Failure::new(Code::NotFound, "there is no such store")
                .what(what)
                .why(format!("node {} has no [disk.{name}]: its configuration names {there}", node.config.id))
                .fix("name one of these, or give all nodes that section and start them again"));
        };
        current(node, &what).await?;
        let (known, cluster) = {
            let ledger = node.replica.machine().ledger();
            (ledger.store_named(name), ledger.cluster())
        };
        let (Some(known), Some(cluster)) = (known, cluster) else {
            return Err(Failure::new(Code::NotFound, "nothing of this cluster lies in the store")
                .what(what)
                .why(format!("no epoch was ever committed into {name}"))
                .fix("commit one: the first names the store in the log"));
        };
        let place = Place { kept: kept.clone(), known, cluster: Uuid::from_bytes(cluster), what };
        place.look().await?;
        Ok(place)
    }

    /// Looks whether the prefix is the one that the log means, if that was not seen lately.
    ///
    /// # Errors
    /// It is not, or is away.
    pub async fn look(&self) -> Result<(), Failure> {
        match self.kept.look(self.cluster, &self.known).await {
            Ok(()) => Ok(()),
            Err(NotIt::Store(error)) => Err(self.failure(&error)),
            Err(NotIt::Another(why)) => Err(Failure::new(
                Code::Refused,
                "it is not the store that the log knows",
            )
            .what(&self.what)
            .why(why)
            .fix("nothing was changed there: bring the right prefix back, or stop whoever else uses it")),
        }
    }

    /// What was asked for.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What an error of the store means to who asked.
    pub fn failure(&self, error: &StoreError) -> Failure {
        let failure = failure(&self.what, error);
        let why = self.outward(&failure.why);
        failure.why(why)
    }

    /// A text for whoever asks: the cluster's uuid is in every key, and nobody's business.
    pub fn outward(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.cluster.as_hyphenated()), "")
    }

    /// The object as the store calls it.
    pub fn name(&self, key: &ObjectKey) -> ObjectName {
        let ObjectKey { attempt, digest, nonce, .. } = *key;
        ObjectName { cluster: self.cluster, digest, attempt, nonce }
    }

    /// Its key below the cluster's folder, as it is told.
    pub fn told(&self, key: &ObjectKey) -> String {
        self.outward(&self.name(key).to_string())
    }

    /// The object that is told so.
    pub fn read(&self, told: &str) -> Option<ObjectKey> {
        let name = format!("{}/{told}", self.cluster.as_hyphenated()).parse().ok()?;
        self.key(&name)
    }

    /// The object as the log calls it; `None` of another cluster's.
    pub fn key(&self, name: &ObjectName) -> Option<ObjectKey> {
        let ObjectName { cluster, digest, attempt, nonce } = *name;
        (cluster == self.cluster).then_some(ObjectKey { store: self.known.id, attempt, digest, nonce })
    }

    /// Lists this cluster's folder.
    ///
    /// # Errors
    /// The store is away, or does not let this node list.
    pub async fn list(&self) -> Result<Listing, Failure> {
        let (mut listing, mut from) = (Listing::default(), None);
        loop {
            let (store, cluster, at) = (self.kept.store().clone(), self.cluster, from.take());
            let page = self.kept.run(async move { store.list(Some(cluster), at).await }).await;
            let page = page.map_err(|error| self.failure(&error))?;
            for object in page.objects {
                match object.name.and_then(|name| self.key(&name)) {
                    Some(key) => listing.objects.push((key, object.len)),
                    None => {
                        let (count, bytes, examples) = &mut listing.foreign;
                        (*count, *bytes) = (*count + 1, *bytes + object.len);
                        if examples.len() < EXAMPLES {
                            examples.push(self.outward(&object.key));
                        }
                    }
                }
            }
            match page.next {
                Some(_) if listing.objects.len() >= OBJECTS_LISTED_MAX => {
                    listing.cut = true;
                    return Ok(listing);
                }
                Some(next) => from = Some(next),
                None => return Ok(listing),
            }
        }
    }

    /// Uploads that are open there.
    ///
    /// # Errors
    /// The store is away, or does not tell.
    pub async fn open_uploads(&self) -> Result<Vec<OpenUpload>, StoreError> {
        let (store, cluster) = (self.kept.store().clone(), self.cluster);
        self.kept.run(async move { store.open_uploads(Some(cluster)).await }).await
    }

    /// All that the log knows of the store, as it is after this call began.
    ///
    /// # Errors
    /// There is no quorum, or no way to the leader.
    pub async fn census(&self, node: &Node) -> Result<Census, Failure> {
        current(node, &self.what).await?;
        let id = self.known.id;
        let look = epochs::elsewhere(node.replica.machine(), move |machine| {
            let mut census = Census::begin(&machine.ledger(), id);
            while census.slice(&machine.ledger()) {}
            census
        });
        Ok(look.await)
    }
}

async fn current(node: &Node, what: &str) -> Result<(), Failure> {
    node.replica.read_barrier().await.map(drop).map_err(|error| {
        let (code, sentence) = node.no_way();
        Failure::new(code, format!("{sentence}, nothing was changed"))
            .what(what)
            .why(error.to_string())
            .fix("see `epochlog status`, start what is down, then repeat the command")
    })
}
