//! Rows of objects in stores: those that somebody holds, by number; what content lies in them, by its id; those that are
//! released, by name. How often an object is held follows from the others.

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::content::Contents;
use crate::ledger::files::FileState;
use crate::ledger::homes::{Home, Homes, Object};
use crate::ledger::objects::{Extent, NewObject, ObjectKey};
use crate::ledger::released::ReleasedAt;
use crate::ledger::tables::Ledger;

pub(super) fn put(value: &mut Writer, object: &Object) {
    let ObjectKey { store, attempt, digest, nonce } = object.key;
    value.u64(store).u64(attempt).digest(&digest).u64(nonce).u64(object.bytes);
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<NewObject, DecodeError> {
    let (store, attempt) = (value.u64()?, value.u64()?);
    let key = ObjectKey { store, attempt, digest: value.digest()?, nonce: value.u64()? };
    Ok(NewObject { key, bytes: value.u64()? })
}

/// Of content of so many bytes. How many bytes lie where is told of each place: one has all of them, so far.
pub(super) fn put_home(value: &mut Writer, home: &Home, bytes: u64) {
    value.u8(u8::from(home.log)).u32(home.extents().count() as u32);
    for Extent { object, offset } in home.extents() {
        value.u32(object).u64(offset).u64(bytes);
    }
}

/// With the bytes of the content.
pub(super) fn take_home(value: &mut Reader<'_>) -> Result<(Home, u64), DecodeError> {
    let log = match value.u8()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError("a home of no known kind")),
    };
    let (mut extents, mut all) = (Vec::new(), None);
    for _ in 0..value.u32()? {
        extents.push(Extent { object: value.u32()?, offset: value.u64()? });
        let bytes = value.u64()?;
        if all.is_some_and(|all| all != bytes) {
            return Err(DecodeError("content of two lengths"));
        }
        all = Some(bytes);
    }
    let nowhere = DecodeError("content that lies in no store needs no row");
    let home = Home::new(log, &extents).ok_or(nowhere.clone())?;
    Ok((home, all.ok_or(nowhere)?))
}

pub(super) fn put_released(value: &mut Writer, at: &ReleasedAt) {
    value.u64(at.index).u64(at.bytes);
}

pub(super) fn take_released(value: &mut Reader<'_>) -> Result<ReleasedAt, DecodeError> {
    Ok(ReleasedAt { index: value.u64()?, bytes: value.u64()? })
}

const WRONG: DecodeError = DecodeError("rows of objects that cannot stand together");

/// Rows of what lies in stores, until all others are in.
#[derive(Default)]
pub(super) struct Stored {
    homes: Homes,
    /// Content, where it lies, and its bytes.
    rows: Vec<(u32, Home, u64)>,
}

impl Stored {
    pub fn add(&mut self, number: u32, object: NewObject) -> Result<(), DecodeError> {
        self.homes.add_object(number, object).ok_or(WRONG)
    }

    pub fn add_home(&mut self, id: u32, (home, bytes): (Home, u64)) {
        self.rows.push((id, home, bytes));
    }

    pub fn add_released(&mut self, key: ObjectKey, at: ReleasedAt) -> Result<(), DecodeError> {
        self.homes.add_released(key, at).ok_or(WRONG)
    }

    /// All rows are in: says to content where it lies, and to open attempts which objects are theirs.
    pub fn finish(self, ledger: &mut Ledger, contents: &mut Contents) -> Result<(), DecodeError> {
        let Stored { homes, rows } = self;
        let released = homes.released().iter().map(|(key, _)| *key);
        let mut names = homes.objects().map(|(_, object)| object.key).chain(released);
        let is_strange = names.any(|key| !ledger.stores.contains_key(&key.store));
        drop(names);
        if is_strange {
            return Err(DecodeError("an object of no store"));
        }
        let mut held = Vec::new();
        for (number, object) in homes.objects() {
            // Who is open has named it: nobody else may.
            if let Some(attempt) = ledger.open.get_mut(&object.key.attempt) {
                let before = attempt.objects.insert((object.key.digest, object.key.nonce), number);
                if before.is_some() || attempt.terms.store != Some(object.key.store) {
                    return Err(WRONG);
                }
                held.push(number);
            }
        }
        for (id, attempt) in &ledger.open {
            if attempt.terms.store.is_some_and(|store| !ledger.stores.contains_key(&store)) {
                return Err(DecodeError("an attempt of no store"));
            }
            for (_, stub, state) in attempt.files.iter() {
                let FileState::Linked(linked) = state else { continue };
                let object = homes.slot(linked.extent.object).ok_or(WRONG)?;
                let end = linked.extent.offset.checked_add(stub.size()).ok_or(WRONG)?;
                if object.key.attempt != *id || end > object.bytes {
                    return Err(WRONG);
                }
            }
        }
        for record in ledger.jobs.values().flat_map(|job| job.epochs.values()) {
            let Some(stored) = record.stored else { continue };
            let object = homes.slot(stored.manifest).ok_or(WRONG)?;
            let is_its_own = (object.key.store, object.key.attempt, object.key.digest)
                == (stored.store, record.sealed.attempt, record.sealed.root);
            if !is_its_own {
                return Err(WRONG);
            }
            held.push(stored.manifest);
        }
        contents.place(homes, rows).ok_or(WRONG)?;
        contents.count_objects(held).ok_or(WRONG)
    }
}
