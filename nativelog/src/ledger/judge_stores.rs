//! Judges what is said of object stores: their names, their batches of deletes, what is gone from them; and what it
//! means for an attempt to have one.
//!
//! The proposer has looked into the store. Here nobody has: a verdict says what agrees with the log.

use checkpoint::Digest;

use super::attempt::Terms;
use super::change::{Change, repeat};
use super::fields::{digest, malformed, sixteen};
use super::homes::Homes;
use super::objects::{Named, NewObject, ObjectKey};
use super::rules::{STORES_RULES, StoreRules};
use super::store::StoreRecord;
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::{STORES_SINCE, is_store_name, proto};

impl Ledger {
    /// The limits of object stores, where the rules in force have any.
    pub(super) fn store_rules(&self) -> Result<&'static StoreRules, Rejected> {
        let detail = || format!("hybrid epochs need rules {STORES_RULES}, see status");
        self.limits().stores.as_ref().ok_or_else(|| Rejected::new(Reason::NotActive, detail()))
    }

    pub(super) fn judge_store(&self, store: &proto::Store, version: u32) -> Result<Change, Rejected> {
        let rules = self.store_rules()?;
        judge_version(version)?;
        let uuid = sixteen(&store.uuid, "a store's uuid is 16 bytes")?;
        if !is_store_name(&store.name) || store.name.len() > rules.store_name_bytes_max {
            return Err(malformed(
                "a store's name has 1 to 64 letters, digits, hyphens, underscores and dots",
            ));
        }
        for (id, there) in &self.stores {
            let other = match (there.name == store.name, there.uuid == uuid) {
                (false, false) => continue,
                (true, true) => return Ok(repeat(Accepted::Done)),
                (true, false) => format!("{} is another store, {}", there.name, hyphenated(&there.uuid)),
                (false, true) => format!("store {} has the name {}", hyphenated(&uuid), there.name),
            };
            return Err(Rejected::new(Reason::Conflict, other).current(*id));
        }
        if self.stores.len() >= rules.stores_max {
            return Err(Rejected::new(Reason::Quota, "the cluster has had 64 stores"));
        }
        let (name, batch) = (store.name.clone(), store.nonce);
        Ok(Change::Store { store: StoreRecord { name, uuid, batch, before: Vec::new() } })
    }

    /// Batches follow each other: one that is over does not begin again.
    pub(super) fn judge_delete_batch(
        &self,
        batch: &proto::DeleteBatch,
        version: u32,
    ) -> Result<Change, Rejected> {
        self.store_rules()?;
        judge_version(version)?;
        let there = self.known_store(batch.store)?;
        if there.batch == batch.nonce {
            return Ok(repeat(Accepted::Done));
        }
        if there.before.contains(&batch.nonce) {
            return Err(Rejected::new(Reason::Conflict, "another batch of deletes has begun since"));
        }
        Ok(Change::DeleteBatch { store: batch.store, nonce: batch.nonce })
    }

    /// What is not known to be released is taken as gone already.
    pub(super) fn judge_deleted(&self, deleted: &proto::Deleted, version: u32) -> Result<Change, Rejected> {
        let rules = self.store_rules()?;
        judge_version(version)?;
        self.known_store(deleted.store)?;
        if deleted.objects.is_empty() || deleted.objects.len() > rules.deleted_per_record_max {
            return Err(malformed("a record says of 1 to 4096 objects that they are deleted"));
        }
        let released = self.content.homes().released();
        let mut gone = Vec::new();
        for object in &deleted.objects {
            let proto::ObjectName { digest: of, attempt, nonce } = object;
            let (store, attempt, nonce) = (deleted.store, *attempt, *nonce);
            let key = ObjectKey { store, attempt, digest: digest(of)?, nonce };
            if released.get(&key).is_some() {
                gone.push(key);
            }
        }
        match gone.is_empty() {
            true => Ok(repeat(Accepted::Done)),
            false => Ok(Change::Deleted { objects: gone }),
        }
    }

    /// The store that a Begin names: a record of before version 7 names none, whatever stands there.
    pub(super) fn begin_store(&self, begin: &proto::Begin, version: u32) -> Result<Option<u64>, Rejected> {
        let Some(store) = begin.store.filter(|_| version >= STORES_SINCE) else { return Ok(None) };
        self.store_rules()?;
        self.known_store(store)?;
        Ok(Some(store))
    }

    /// Whether an attempt may begin in this store: objects that are never deleted would fill the ledger of every node. What
    /// is open goes on.
    pub(super) fn judge_store_room(&self, store: Option<u64>) -> Result<(), Rejected> {
        let Some(store) = store else { return Ok(()) };
        let (rules, name) = (self.store_rules()?, self.stores[&store].name.as_str());
        has_room(rules, self.content.homes(), (store, name))
    }

    /// The object of the manifest that a seal names: it has one exactly if its attempt has a store.
    pub(super) fn seal_manifest(
        &self,
        seal: &proto::Seal,
        version: u32,
        root: Digest,
    ) -> Result<Option<Named>, Rejected> {
        let told = seal.manifest.as_ref().filter(|_| version >= STORES_SINCE);
        if told.is_some() {
            self.store_rules()?;
        }
        let attempt = self.open_attempt(seal.attempt)?;
        let (store, told) = match (attempt.terms.store, told) {
            (None, None) => return Ok(None),
            (Some(store), Some(told)) => (store, told),
            (Some(_), None) => return Err(malformed("the seal does not say where the manifest lies")),
            (None, Some(_)) => return Err(malformed("the attempt has no store for a manifest")),
        };
        // The manifest comes after all content: where that has as many objects as it may, there is room for one more.
        let many = attempt.objects.len().max(1) - 1;
        let named = self.named_object((seal.attempt, many), store, told.object.as_ref(), told.bytes)?;
        let of = told.object.as_ref().map(|object| digest(&object.digest)).transpose()?;
        if of != Some(root) {
            return Err(malformed("the manifest's object has another digest than the root"));
        }
        Ok(Some(named))
    }

    /// The object that a record of an open attempt names, which has so many already.
    pub(super) fn named_object(
        &self,
        (attempt, many): (u64, usize),
        store: u64,
        object: Option<&proto::Object>,
        bytes: u64,
    ) -> Result<Named, Rejected> {
        let rules = self.store_rules()?;
        let object = object.ok_or_else(|| malformed("an object is not named"))?;
        let digest = digest(&object.digest)?;
        if bytes == 0 || bytes > rules.object_bytes_max {
            return Err(malformed("an object has 1 byte to 5 TiB"));
        }
        let there = &self.open_attempt(attempt)?.objects;
        if let Some(id) = there.get(&(digest, object.nonce)) {
            let there = self.content.homes().object(*id).bytes;
            if there != bytes {
                return Err(malformed(format!("the object was said to have {there} bytes, not {bytes}")));
            }
            return Ok(Named::Known(*id));
        }
        if many >= rules.objects_of_attempt_max {
            return Err(Rejected::new(Reason::Quota, "the attempt has 65,536 objects: take larger ones"));
        }
        let key = ObjectKey { store, attempt, digest, nonce: object.nonce };
        Ok(Named::New(NewObject { key, bytes }))
    }

    /// Whether an attempt with these terms may reuse content of this id: bytes that are only in a store are not on a quorum, and
    /// those in another store may go with it.
    pub(super) fn judge_home(&self, terms: &Terms, id: u32, digest: &Digest) -> Result<(), Rejected> {
        let homes = self.content.homes();
        let Some(home) = homes.of(id).filter(|home| !home.log) else { return Ok(()) };
        let stores = || home.extents().map(|extent| homes.object(extent.object).key.store);
        if stores().any(|store| Some(store) == terms.store) {
            return Ok(());
        }
        let names: Vec<&str> = stores().map(|store| self.stores[&store].name.as_str()).collect();
        let (short, names) = (digest.short(), names.join(", "));
        let detail = format!("content {short} lies in the store {names} only: its bytes have to be sent");
        Err(Rejected::new(Reason::NotFound, detail))
    }

    fn known_store(&self, id: u64) -> Result<&StoreRecord, Rejected> {
        self.stores.get(&id).ok_or_else(|| Rejected::new(Reason::NotFound, format!("no store {id}")))
    }
}

/// A binary of before would not know such a record. Asked behind the rules: under those of before it is not active,
/// whichever version it has.
pub(super) fn judge_version(version: u32) -> Result<(), Rejected> {
    if version < STORES_SINCE {
        return Err(malformed("a record of before version 7 knows of no object store"));
    }
    Ok(())
}

fn has_room(rules: &StoreRules, homes: &Homes, (store, name): (u64, &str)) -> Result<(), Rejected> {
    let (released, all) = (homes.released().of_store(store), homes.count());
    let detail = if released >= rules.released_max {
        format!("the store {name} has {released} objects that are to be deleted, and are not: see why")
    } else if all >= rules.objects_max {
        format!("stores have {all} objects: let epochs expire, and see that what they leave is deleted")
    } else {
        return Ok(());
    };
    Err(Rejected::new(Reason::Quota, detail).current(store))
}

fn hyphenated(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests;
