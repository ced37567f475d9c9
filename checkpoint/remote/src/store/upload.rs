//! Writing an object, once, until it is proven to be there.
//!
//! Whatever a store answers, the object is compared with its plan before anybody relies on it. Each key is written at
//! most once: a single PUT is made conditional (*only when nothing is there*), so that its repetition cannot write a
//! second time; an upload in parts is completed at most once, because a store forgets its id then; where neither can be
//! had, a PUT whose fate is unknown is followed by another key. A key that turns out to hold something else, or an
//! upload that the store has lost, is given up for another key, too.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
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
use crate::line::{Patience, Tries};
use crate::name::ObjectName;
use crate::runtime::blocking;

/// How long an object that somebody else of this process is writing is waited for.
const HELD_FOR: Duration = Duration::from_secs(5);
/// Pause before it is looked at again.
const HELD_PAUSE: Duration = Duration::from_millis(50);

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
    /// `Away` (also while this process is writing the same object for the same attempt, and for some seconds goes on), `Denied`, `Refused`: repeat
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
        let begun = Instant::now();
        let entry = loop {
            let journal = Arc::clone(journal);
            match blocking(move || journal.begin(subject)).await {
                // A call that was given up a moment ago may still hold it, for as long as a thread of its takes.
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < HELD_FOR => {
                    sleep(HELD_PAUSE).await;
                }
                done => break done,
            }
        };
        let entry = entry
            .map_err(|e| StoreError::journal(format!("store {:?}: {what}: its journal", self.name()), &e))?;
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
    let mut next = match resume(way).await? {
        Earlier::Stored(name, proof) => return finish(way, name, proof).await,
        Earlier::GoesOn => None,
        Earlier::Over(why) => Some(why),
    };
    // Keys that hold something else are counted. Those of which nothing is known have no end but that of patience.
    let (mut spoiled, mut tries) = (0, Tries::default());
    loop {
        let name = match next.take() {
            Some(why) => way.rename(&why).await?,
            None => way.current().expect("a key that goes on is there"),
        };
        let path = way.store.path(&name);
        let outcome = match &way.store.backend().kind {
            BackendKind::Folder { .. } => put_file(way, &path, &mut tries).await?,
            _ if way.plan.leaves().len() <= 1 => put_whole(way, &path, &mut tries).await?,
            BackendKind::Cloud { parts, .. } => put_parts(way, &**parts, &path).await?,
            BackendKind::ReadOnly => unreachable!("refused at the door"),
        };
        let why = match outcome {
            Outcome::Stored(proof) => return finish(way, name, proof).await,
            Outcome::Spoiled(why) => {
                spoiled += 1;
                why
            }
            Outcome::Unknown(why) => why,
        };
        tracing::warn!(store = way.store.name(), %name, why, "a key is given up");
        way.abandon(&path).await;
        if spoiled == NAMES_MAX {
            return Err(StoreError::new(
                Trouble::Damaged,
                format!("store {:?}: {}", way.store.name(), way.what),
                format!("{NAMES_MAX} keys were written in vain, the last because: {why}"),
                "the store does not keep what it is given, or a rule of the bucket removes it: `store check` says more",
            ));
        }
        next = Some(why);
    }
}

// What became of the key of an earlier try.
enum Earlier {
    Stored(ObjectName, Proof),
    // It may be sent again.
    GoesOn,
    // There is none, or none that may be used; why.
    Over(String),
}

// A process that was killed has had no answer at all.
async fn resume(way: &Uploading<'_>) -> Result<Earlier, StoreError> {
    let Some(name) = way.current() else { return Ok(Earlier::Over("none yet".into())) };
    let path = way.store.path(&name);
    leftovers::sweep(way.store, &path, &way.patience).await;
    if way.store.is_folder() && !way.entry(|entry| entry.done) {
        return Ok(Earlier::Over("nobody saw that it became durable".into()));
    }
    Ok(match way.compare(&path).await?.into() {
        Some(Outcome::Stored(proof)) => Earlier::Stored(name, proof),
        Some(Outcome::Spoiled(why) | Outcome::Unknown(why)) => {
            way.abandon(&path).await;
            Earlier::Over(why)
        }
        None if way.may_go_on() => Earlier::GoesOn,
        None => Earlier::Over(format!("what became of {name} is unknown")),
    })
}

async fn finish(way: &Uploading<'_>, name: ObjectName, proof: Proof) -> Result<Stored, StoreError> {
    way.write(|entry| if entry.done { Ok(()) } else { entry.finish() }).await?;
    Ok(Stored { name, proof })
}
