//! Rows of what became of commits, by their number.

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::outcomes::{Ending, Outcome};

pub(super) fn put(value: &mut Writer, outcome: &Outcome) {
    value.raw(&outcome.key).position(outcome.end).u64(outcome.end_ms).u64(outcome.attempt).u64(outcome.job);
    match outcome.how {
        Ending::Writer => value.u8(1),
        Ending::Sealed { epoch, root, plan } => value.u8(2).u64(epoch).digest(&root).u64(plan),
        Ending::Aborted => value.u8(3),
        Ending::Subsumed { by } => value.u8(4).u64(by),
        Ending::Fenced => value.u8(5),
        Ending::Replaced => value.u8(6),
        Ending::GaveWay => value.u8(7),
    };
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    let (key, end, end_ms) = (value.array()?, value.position()?, value.u64()?);
    let (attempt, job) = (value.u64()?, value.u64()?);
    let how = match value.u8()? {
        1 => Ending::Writer,
        2 => Ending::Sealed { epoch: value.u64()?, root: value.digest()?, plan: value.u64()? },
        3 => Ending::Aborted,
        4 => Ending::Subsumed { by: value.u64()? },
        5 => Ending::Fenced,
        6 => Ending::Replaced,
        7 => Ending::GaveWay,
        _ => return Err(DecodeError("an ending of no known kind")),
    };
    Ok(Outcome { key, end, end_ms, attempt, job, how })
}
