//! Rows of object stores, by the log index of the record that named them.

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::store::{BEFORE_MAX, StoreRecord};

pub(super) fn put(value: &mut Writer, store: &StoreRecord) {
    value.string(store.name.as_bytes()).raw(&store.uuid).u64(store.batch);
    value.u32(store.before.len() as u32);
    for nonce in &store.before {
        value.u64(*nonce);
    }
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<StoreRecord, DecodeError> {
    let (name, uuid, batch) = (value.text()?, value.array()?, value.u64()?);
    let many = value.u32()? as usize;
    if many > BEFORE_MAX {
        return Err(DecodeError("a store with too many batches of deletes"));
    }
    let before: Vec<u64> = (0..many).map(|_| value.u64()).collect::<Result<_, _>>()?;
    Ok(StoreRecord { name, uuid, batch, before })
}
