//! Rows of content in quarantine, by the content's id.

use std::collections::BTreeMap;

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::content::Quarantined;

pub(super) fn put(value: &mut Writer, quarantined: &Quarantined) {
    value.u64(quarantined.at).u32(quarantined.found.len() as u32);
    for (node, what) in &quarantined.found {
        value.u64(*node).string(what.as_bytes());
    }
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Quarantined, DecodeError> {
    let at = value.u64()?;
    let mut found = BTreeMap::new();
    for _ in 0..value.u32()? {
        let node = value.u64()?;
        if found.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(DecodeError("findings out of order"));
        }
        found.insert(node, value.text()?);
    }
    Ok(Quarantined { at, found })
}
