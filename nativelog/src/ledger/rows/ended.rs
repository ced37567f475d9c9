//! Rows of attempts that ended.

use std::sync::Arc;

use super::codec::{DecodeError, Reader, Writer};
use super::epoch::{put_sealed, take_sealed};
use crate::ledger::job::{Ended, Ending};

pub(super) fn put(value: &mut Writer, ended: &Ended) {
    value.name(&ended.job);
    match &ended.how {
        Ending::Sealed { sealed, plan_digest } => {
            value.u8(1).u64(sealed.epoch).digest(plan_digest);
            put_sealed(value, sealed);
        }
        Ending::Aborted => drop(value.u8(2)),
        Ending::Subsumed { by } => drop(value.u8(3).u64(*by)),
        Ending::Fenced => drop(value.u8(4)),
    }
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Ended, DecodeError> {
    let job = value.name()?;
    let how = match value.u8()? {
        1 => {
            let epoch = value.u64()?;
            let plan_digest = value.digest()?;
            Ending::Sealed { sealed: Arc::new(take_sealed(value, job.clone(), epoch)?), plan_digest }
        }
        2 => Ending::Aborted,
        3 => Ending::Subsumed { by: value.u64()? },
        4 => Ending::Fenced,
        _ => return Err(DecodeError("an ending of no known kind")),
    };
    Ok(Ended { job, how })
}
