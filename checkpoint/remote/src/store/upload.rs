//! Writing an object, once, until it is proven to be there.
//!
//! Whatever a store answers, the object is compared with its plan before anybody relies on it. Each key is written at
//! most once: a single PUT is made conditional (*only when nothing is there*), so that its repetition cannot write a
//! second time; an upload in parts is completed at most once, because a store forgets its id then; where neither can be
//! had, a PUT whose fate is unknown is followed by another key. A key that turns out to hold something else, or an
//! upload that the store has lost, is given up for another key, too.

use std::io;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::put_file::put_file;
use super::put_parts::put_parts;
use super::put_whole::put_whole;
use super::uploading::{Outcome, Proof, Uploading};
use super::{Store, leftovers};
use crate::backend::BackendKind;
use crate::content::{ObjectPlan, Source};
use crate::error::{StoreError, Trouble};
use crate::journal::{Journal, Subject};
use crate::limits::NAMES_MAX;
use crate::line::Patience;
use crate::name::ObjectName;
use crate::runtime::blocking;

/// An object that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its key.
    pub name: ObjectName,
    /// How that is known.
    pub proof: Proof,
}

impl Store {
    /// Writes an object of `attempt` and proves that it is there. May be repeated, also by another process over the
    /// same journal: what was done counts. Read from `source` once, and once more for what a resumed upload must know.
    ///
    /// # Errors
    /// `Away` (also while this process is writing the same object for the same attempt), `Denied`, `Refused`: repeat
    /// when that is mended. `Damaged`: the store kept something else, several times. `Changed`: `source` is not what
    /// the plan says. `Disk`: journal or source. Nothing is committed by any of this, and what was written stays in the
    /// journal's traces.
    pub async fn upload(
        &self,
        journal: &Arc<Journal>,
        cluster: Uuid,
        attempt: u64,
        plan: &ObjectPlan,
        source: Arc<dyn Source>,
    ) -> Result<Stored, StoreError> {
        let subject = Subject { cluster, digest: plan.digest(), attempt, len: plan.len_bytes() };
        let what =
            format!("uploading {} ({} bytes) of attempt {attempt}", subject.digest.short(), subject.len);
        self.writable(&what)?;
        let journal = Arc::clone(journal);
        let entry = blocking(move || journal.begin(subject)).await;
        let entry = entry.map_err(|e| {
            let what = format!("store {:?}: {what}: its journal", self.name());
            match e.kind() {
                io::ErrorKind::ResourceBusy => {
                    StoreError::new(Trouble::Away, what, e.to_string(), "wait for the other to end")
                }
                _ => StoreError::disk(what, &e),
            }
        })?;
        let sums =
            entry.tried.last().map(|tried| tried.parts.iter().map(|(at, part)| (*at, part.sums)).collect());
        let way = Uploading {
            store: self,
            what,
            plan,
            source,
            entry: Arc::new(Mutex::new(entry)),
            sums: Mutex::new(sums.unwrap_or_default()),
            patience: Patience::new(),
        };
        run(&way).await
    }
}

async fn run(way: &Uploading<'_>) -> Result<Stored, StoreError> {
    let mut spoiled = match resume(way).await? {
        (Some(name), Some(Outcome::Stored(proof))) => return finish(way, name, proof).await,
        (Some(name), Some(Outcome::Spoiled(why))) => {
            way.abandon(&way.store.path(&name)).await;
            Some(why)
        }
        (Some(name), None) if !way.may_go_on() => Some(format!("what became of {name} is unknown")),
        (Some(_), None) => None,
        (None, _) => Some("none yet".into()),
    };
    for _ in 0..NAMES_MAX {
        let name = match spoiled.take() {
            Some(why) => way.rename(&why).await?,
            None => way.current().expect("a key that is not spoiled is there"),
        };
        let path = way.store.path(&name);
        let outcome = match &way.store.backend().kind {
            _ if way.plan.leaves().len() <= 1 => put_whole(way, &path).await?,
            BackendKind::Cloud { parts, .. } => put_parts(way, &**parts, &path).await?,
            BackendKind::Folder { .. } => put_file(way, &path).await?,
            BackendKind::ReadOnly => unreachable!("refused at the door"),
        };
        match outcome {
            Outcome::Stored(proof) => return finish(way, name, proof).await,
            Outcome::Spoiled(why) => {
                tracing::warn!(store = way.store.name(), %name, why, "a key is given up");
                way.abandon(&path).await;
                spoiled = Some(why);
            }
        }
    }
    Err(StoreError::new(
        Trouble::Damaged,
        format!("store {:?}: {}", way.store.name(), way.what),
        format!("{NAMES_MAX} keys were written in vain, the last because: {}", spoiled.unwrap_or_default()),
        "the store does not keep what it is given, or a rule of the bucket removes it: `store check` says more",
    ))
}

// The key of an earlier try, and what became of it. A process that was killed has had no answer at all.
async fn resume(way: &Uploading<'_>) -> Result<(Option<ObjectName>, Option<Outcome>), StoreError> {
    let Some(name) = way.current() else { return Ok((None, None)) };
    leftovers::sweep(way.store, &way.store.path(&name)).await;
    Ok((Some(name), way.compare(&way.store.path(&name)).await?.into()))
}

async fn finish(way: &Uploading<'_>, name: ObjectName, proof: Proof) -> Result<Stored, StoreError> {
    way.write(|entry| if entry.done { Ok(()) } else { entry.finish() }).await?;
    Ok(Stored { name, proof })
}
