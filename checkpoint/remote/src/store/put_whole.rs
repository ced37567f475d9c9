//! A small object: one PUT, conditional where the store can.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::uploading::{Outcome, Uploading};
use crate::content::Sums;
use crate::error::StoreError;
use crate::line::{Failure, Kind, Tries};

/// One PUT.
pub(super) async fn put_whole(
    way: &Uploading<'_>,
    path: &Path,
    tries: &mut Tries,
) -> Result<Outcome, StoreError> {
    let leaf = match way.plan.leaves().len() {
        0 => None,
        _ => Some(way.leaf(0).await?),
    };
    let (data, sums) = match &leaf {
        None => (Bytes::new(), Sums::of(&[])),
        Some(leaf) => (leaf.data.clone(), leaf.sums),
    };
    let backend = way.store.backend();
    // A store may be asked for a condition that nobody has seen it keep: then nothing is built on it.
    let mode = if backend.conditional { PutMode::Create } else { PutMode::Overwrite };
    let may_repeat = way.may_go_on();
    loop {
        let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
        let put = backend.objects.put_opts(path, PutPayload::from(data.clone()), options);
        let failure = match way.store.line().once(data.len() as u64, &way.patience, put).await {
            Ok((_, facts)) => match way.prove(path, &facts, &sums).await? {
                Some(outcome) => return Ok(outcome),
                None => Failure::new(Kind::Broken, "it was written, the store said, and is not there"),
            },
            // Perhaps our own, of a try whose answer was lost; perhaps nothing is there (a 409).
            Err(failure) if failure.kind == Kind::Exists => match way.compare(path).await?.into() {
                Some(outcome) => return Ok(outcome),
                None => Failure { kind: Kind::Broken, ..failure },
            },
            Err(failure) if failure.may_pass() && !may_repeat => match way.compare(path).await?.into() {
                Some(outcome) => return Ok(outcome),
                None => failure,
            },
            Err(failure) => failure,
        };
        let why = failure.why.clone();
        way.again(failure, tries).await?;
        if !may_repeat {
            return Ok(Outcome::Unknown(why));
        }
    }
}
