//! Rows of object stores, by the log index of the record that named them.

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::store::StoreRecord;

pub(super) fn put(value: &mut Writer, store: &StoreRecord) {
    value.string(store.name.as_bytes()).raw(&store.uuid).u64(store.batch).option(store.before);
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<StoreRecord, DecodeError> {
    let (name, uuid) = (value.text()?, value.array()?);
    Ok(StoreRecord { name, uuid, batch: value.u64()?, before: value.option()? })
}
