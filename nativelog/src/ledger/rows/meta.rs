//! The first row: position, rules, identity, members, log time, how many places the content table
//! has, what is forgotten.

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::outcomes::Outcomes;
use crate::ledger::rules::Rules;
use crate::ledger::tables::Ledger;

pub(super) fn put(value: &mut Writer, ledger: &Ledger) {
    value.u32(ledger.rules).u64(ledger.log_ms).u32(ledger.content.slots());
    value.u8(u8::from(ledger.applied.is_some())).position(ledger.applied.unwrap_or_default());
    value.u8(u8::from(ledger.cluster.is_some())).raw(&ledger.cluster.unwrap_or_default());
    value.u64(ledger.outcomes.first()).option(ledger.outcomes.horizon());
    value.u32(ledger.members.len() as u32);
    for (node, incarnation) in &ledger.members {
        value.u64(*node).raw(incarnation);
    }
}

/// Answers with the number of content slots.
pub(super) fn take(ledger: &mut Ledger, value: &mut Reader<'_>) -> Result<u32, DecodeError> {
    ledger.rules = value.u32()?;
    if Rules::of(ledger.rules).is_none() {
        return Err(DecodeError("rules of a version that this binary does not know"));
    }
    ledger.log_ms = value.u64()?;
    let slots = value.u32()?;
    let some = value.u8()? != 0;
    let applied = value.position()?;
    ledger.applied = some.then_some(applied);
    let some = value.u8()? != 0;
    let cluster = value.array()?;
    ledger.cluster = some.then_some(cluster);
    ledger.outcomes = Outcomes::behind(value.u64()?, value.option()?);
    for _ in 0..value.u32()? {
        let node = value.u64()?;
        ledger.members.insert(node, value.array()?);
    }
    Ok(slots)
}
