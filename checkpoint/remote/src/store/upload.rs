//! Writing an object, once, until it is proven to be there.
//!
//! Whatever a store answers, the object is compared with its plan before anybody relies on it. Each key is written at
//! most once: a single PUT is made conditional (*only when nothing is there*), so that its repetition cannot write a
//! second time; an upload in parts is completed at most once, because a store forgets its id then; where neither can be
//! had, a PUT whose fate is unknown is followed by another key. A key that turns out to hold something else, or an
//! upload that the store has lost, is given up for another key, too.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use super::Store;
use super::read::{Compared, agree};
use crate::backend::BackendKind;
use crate::content::{ObjectPlan, Source, Sums};
use crate::error::{StoreError, Trouble};
use crate::journal::{Entry, Journal, PartDone, Subject};
use crate::limits::NAMES_MAX;
use crate::line::{Failure, Kind, Patience, Tries};
use crate::name::ObjectName;
use crate::tap::Facts;

/// How much faster than its bytes came a store may take to put them together before it is thought to be gone: with
/// the slowest line, 64 MiB/s.
const COMPLETE_FASTER: u64 = 256;

/// How it is known that the store has what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The store reports the checksum of the whole object.
    Checksum,
    /// The object was read back and verified.
    ReadBack,
}

/// An object that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its key.
    pub name: ObjectName,
    /// How that is known.
    pub proof: Proof,
}

// What became of one key.
enum Outcome {
    Stored(Proof),
    // Not to be used any more; why.
    Spoiled(String),
}

impl From<Compared> for Option<Outcome> {
    fn from(compared: Compared) -> Option<Outcome> {
        match compared {
            Compared::ByChecksum => Some(Outcome::Stored(Proof::Checksum)),
            Compared::ByReading => Some(Outcome::Stored(Proof::ReadBack)),
            Compared::Different(why) => Some(Outcome::Spoiled(why)),
            Compared::Missing => None,
        }
    }
}

impl Store {
    /// Writes an object of `attempt` and proves that it is there. May be repeated, also by another process over the
    /// same journal: what was done counts. Read from `source` once, and once more for what a resumed upload must know.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`: repeat when that is mended. `Damaged`: the store kept something else, several
    /// times, or `source` is not what the plan says. `Disk`: journal or source. Nothing is committed by any of this,
    /// and what was written stays in the journal's traces.
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
        let entry = entry
            .map_err(|e| StoreError::disk(format!("store {:?}: {what}: its journal", self.name()), &e))?;
        let sums =
            entry.tried.last().map(|tried| tried.parts.iter().map(|(at, part)| (*at, part.sums)).collect());
        let upload = Upload {
            store: self,
            what,
            plan,
            source,
            entry: Arc::new(Mutex::new(entry)),
            sums: Mutex::new(sums.unwrap_or_default()),
            patience: Patience::new(),
        };
        upload.run().await
    }

    /// Ends an upload that is open under a key of ours, so that its parts cost nothing. None there is fine.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`.
    pub async fn abort_upload(&self, name: &ObjectName, upload: &str) -> Result<(), StoreError> {
        let BackendKind::Cloud { parts, .. } = &self.backend().kind else { return Ok(()) };
        let (path, id, patience) = (self.path(name), upload.to_string(), Patience::new());
        match self.line().until_answered(0, &patience, || parts.abort_multipart(&path, &id)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.kind == Kind::Missing => Ok(()),
            Err(failure) => Err(self.line().error(format!("ending the upload of {name}"), failure)),
        }
    }
}

struct Upload<'a> {
    store: &'a Store,
    what: String,
    plan: &'a ObjectPlan,
    source: Arc<dyn Source>,
    entry: Arc<Mutex<Entry>>,
    sums: Mutex<BTreeMap<u32, Sums>>,
    patience: Patience,
}

impl Upload<'_> {
    async fn run(&self) -> Result<Stored, StoreError> {
        let mut spoiled = match self.resume().await? {
            (Some(name), Some(Outcome::Stored(proof))) => return self.finish(name, proof).await,
            (Some(name), Some(Outcome::Spoiled(why))) => {
                self.abandon(&self.store.path(&name)).await;
                Some(why)
            }
            (Some(name), None) if !self.may_go_on() => Some(format!("what became of {name} is unknown")),
            (Some(_), None) => None,
            (None, _) => Some("none yet".into()),
        };
        for _ in 0..NAMES_MAX {
            let name = match spoiled.take() {
                Some(why) => self.rename(&why).await?,
                None => self.current().expect("a key that is not spoiled is there"),
            };
            let path = self.store.path(&name);
            let outcome = match &self.store.backend().kind {
                _ if self.plan.leaves().len() <= 1 => self.put_whole(&path).await?,
                BackendKind::Cloud { parts, .. } => self.put_parts(&**parts, &path).await?,
                BackendKind::Folder { .. } => self.put_file(&path).await?,
                BackendKind::ReadOnly => unreachable!("refused at the door"),
            };
            match outcome {
                Outcome::Stored(proof) => return self.finish(name, proof).await,
                Outcome::Spoiled(why) => {
                    tracing::warn!(store = self.store.name(), %name, why, "a key is given up");
                    self.abandon(&path).await;
                    spoiled = Some(why);
                }
            }
        }
        Err(StoreError::new(
            Trouble::Damaged,
            format!("store {:?}: {}", self.store.name(), self.what),
            format!(
                "{NAMES_MAX} keys were written in vain, the last because: {}",
                spoiled.unwrap_or_default()
            ),
            "the store does not keep what it is given, or a rule of the bucket removes it: `store check` says more",
        ))
    }

    // The key of an earlier try, and what became of it. A process that was killed has had no answer at all.
    async fn resume(&self) -> Result<(Option<ObjectName>, Option<Outcome>), StoreError> {
        let Some(name) = self.current() else { return Ok((None, None)) };
        self.sweep(&self.store.path(&name)).await;
        Ok((Some(name), self.compare(&self.store.path(&name)).await?.into()))
    }

    // Whether the same key may be sent again after a try of unknown fate. Never one that was done: it was deleted.
    fn may_go_on(&self) -> bool {
        let backend = self.store.backend();
        let once = match backend.kind {
            BackendKind::Cloud { .. } => backend.conditional || self.plan.leaves().len() > 1,
            _ => false,
        };
        once && !self.entry(|entry| entry.done)
    }

    fn entry<T>(&self, look: impl FnOnce(&Entry) -> T) -> T {
        look(&self.entry.lock().expect("no thread panics while it writes a journal"))
    }

    fn current(&self) -> Option<ObjectName> {
        self.entry(Entry::name)
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Entry) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let entry = Arc::clone(&self.entry);
        let done =
            blocking(move || write(&mut entry.lock().expect("no thread panics while it writes a journal")))
                .await;
        done.map_err(|e| {
            StoreError::disk(format!("store {:?}: {}: its journal", self.store.name(), self.what), &e)
        })
    }

    async fn rename(&self, why: &str) -> Result<ObjectName, StoreError> {
        let nonce = rand::random();
        let name = self.write(move |entry| entry.rename(nonce)).await?;
        tracing::debug!(store = self.store.name(), %name, why, "a new key");
        Ok(name)
    }

    async fn finish(&self, name: ObjectName, proof: Proof) -> Result<Stored, StoreError> {
        self.write(|entry| if entry.done { Ok(()) } else { entry.finish() }).await?;
        Ok(Stored { name, proof })
    }

    fn fail(&self, failure: Failure) -> StoreError {
        self.store.line().error(&self.what, failure)
    }

    /// Leaf `index` of the source, compared with the plan.
    async fn leaf(&self, index: usize) -> Result<(Bytes, Sums), StoreError> {
        let (source, plan) = (Arc::clone(&self.source), self.plan.clone());
        let what = || format!("store {:?}: {}: its source", self.store.name(), self.what);
        let (data, sums, same) = blocking(move || {
            let (offset, len) = plan.leaf_range(index);
            let data = source.read(offset, len)?;
            let same = plan.is_leaf(index, &data);
            let sums = Sums::of(&data);
            Ok((data, sums, same))
        })
        .await
        .map_err(|e| StoreError::disk(what(), &e))?;
        if !same {
            return Err(StoreError::new(
                Trouble::Damaged,
                what(),
                format!("its bytes changed since they were planned (part {index})"),
                "repeat the commit; should it happen again, this machine's disk or memory is to be doubted",
            ));
        }
        self.sums.lock().expect("no thread panics while it notes a sum").insert(index as u32, sums);
        Ok((data, sums))
    }

    // Of the whole object; what is not known yet is read.
    async fn whole_sums(&self) -> Result<Sums, StoreError> {
        let mut whole = Sums::of(&[]);
        for index in 0..self.plan.leaves().len() {
            let known = self
                .sums
                .lock()
                .expect("no thread panics while it notes a sum")
                .get(&(index as u32))
                .copied();
            let sums = match known {
                Some(sums) => sums,
                None => self.leaf(index).await?.1,
            };
            whole = whole.then(sums, self.plan.leaf_range(index).1);
        }
        Ok(whole)
    }

    async fn compare(&self, path: &Path) -> Result<Compared, StoreError> {
        let sums = self.whole_sums().await?;
        let compared = self.store.compare(path, self.plan, &sums, &self.patience).await;
        compared.map_err(|failure| self.fail(failure))
    }

    // What a success says by itself: the checksum in its answer, else a comparison. `None`: it is not there.
    async fn prove(&self, path: &Path, facts: &Facts, sums: &Sums) -> Result<Option<Outcome>, StoreError> {
        match agree(facts.crc64, facts.crc32c, sums) {
            Some(true) => Ok(Some(Outcome::Stored(Proof::Checksum))),
            Some(false) => Ok(Some(Outcome::Spoiled("the store reports another checksum".into()))),
            None => Ok(self.compare(path).await?.into()),
        }
    }

    /// One PUT.
    async fn put_whole(&self, path: &Path) -> Result<Outcome, StoreError> {
        let (data, sums) = match self.plan.leaves().len() {
            0 => (Bytes::new(), Sums::of(&[])),
            _ => self.leaf(0).await?,
        };
        let backend = self.store.backend();
        let conditional = self.may_go_on();
        let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
        let mut tries = Tries::default();
        loop {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let put = backend.objects.put_opts(path, PutPayload::from(data.clone()), options);
            let failure = match self.store.line().once(data.len() as u64, &self.patience, put).await {
                Ok((_, facts)) => match self.prove(path, &facts, &sums).await? {
                    Some(outcome) => return Ok(outcome),
                    None => Failure::new(Kind::Broken, "it was written, the store said, and is not there"),
                },
                // Perhaps our own, of a try whose answer was lost; perhaps nothing is there (a 409).
                Err(failure) if failure.kind == Kind::Exists => match self.compare(path).await?.into() {
                    Some(outcome) => return Ok(outcome),
                    None => Failure { kind: Kind::Broken, ..failure },
                },
                Err(failure) if failure.may_pass() && !conditional => {
                    match self.compare(path).await?.into() {
                        Some(outcome) => return Ok(outcome),
                        None => {
                            self.again(failure, &mut tries).await?;
                            return Ok(Outcome::Spoiled("what became of it is unknown".into()));
                        }
                    }
                }
                Err(failure) => failure,
            };
            self.again(failure, &mut tries).await?;
        }
    }

    async fn again(&self, failure: Failure, tries: &mut Tries) -> Result<(), StoreError> {
        let again = self.store.line().again(failure, &self.patience, tries).await;
        again.map_err(|failure| self.fail(failure))
    }

    /// An upload in parts.
    async fn put_parts(&self, parts: &dyn MultipartStore, path: &Path) -> Result<Outcome, StoreError> {
        let line = self.store.line();
        let id = match self.entry(|entry| entry.tried.last().and_then(|tried| tried.upload.clone())) {
            Some(id) => id,
            None => {
                // One whose answer is lost stays open, empty, and is found by listing.
                let begun = line.until_answered(0, &self.patience, || parts.create_multipart(path)).await;
                let (id, _) = begun.map_err(|failure| self.fail(failure))?;
                let journaled = id.clone();
                self.write(move |entry| entry.upload(journaled)).await?;
                id
            }
        };
        if let Some(spoiled) = self.send_parts(parts, path, &id).await? {
            return Ok(spoiled);
        }
        let ids = self.entry(|entry| {
            let tried = entry.tried.last().expect("a key was journaled");
            tried.parts.values().map(|part| PartId { content_id: part.id.clone() }).collect::<Vec<_>>()
        });
        assert_eq!(ids.len(), self.plan.leaves().len(), "every part was acknowledged");
        let mut tries = Tries::default();
        loop {
            let complete = parts.complete_multipart(path, &id, ids.clone());
            let failure =
                match line.once(self.plan.len_bytes() / COMPLETE_FASTER, &self.patience, complete).await {
                    Ok(_) => Failure::new(Kind::Broken, "it was completed, the store said, and is not there"),
                    Err(failure) => failure,
                };
            // Success or not, what is there counts.
            if let Some(outcome) = self.compare(path).await?.into() {
                return Ok(outcome);
            }
            let lost = ["InvalidPart", "InvalidPartOrder", "EntityTooSmall", "InvalidBlockList"];
            if failure.kind == Kind::Missing
                || failure.code.as_deref().is_some_and(|code| lost.contains(&code))
            {
                return Ok(Outcome::Spoiled(format!("the store lost the upload: {}", failure.why)));
            }
            let failure = if failure.kind == Kind::Exists {
                Failure { kind: Kind::Broken, ..failure }
            } else {
                failure
            };
            self.again(failure, &mut tries).await?;
        }
    }

    // Sends what the store has not acknowledged. `Some`: the store does not know the upload any more.
    async fn send_parts(
        &self,
        parts: &dyn MultipartStore,
        path: &Path,
        id: &String,
    ) -> Result<Option<Outcome>, StoreError> {
        let line = self.store.line();
        let have = self.entry(|entry| {
            let tried = entry.tried.last().expect("a key was journaled");
            tried.parts.keys().copied().collect::<Vec<_>>()
        });
        let missing = (0..self.plan.leaves().len()).filter(|index| !have.contains(&(*index as u32)));
        let sent = futures::stream::iter(missing.map(Ok)).try_for_each_concurrent(
            line.limits.requests.max(1),
            |index: usize| async move {
                let (data, sums) = self.leaf(index).await.map_err(Stop::Error)?;
                let put = || parts.put_part(path, id, index, PutPayload::from(data.clone()));
                match line.until_answered(data.len() as u64, &self.patience, put).await {
                    Ok((part, _)) => {
                        let done = PartDone { id: part.content_id, sums };
                        self.write(move |entry| entry.part(index as u32, done)).await.map_err(Stop::Error)
                    }
                    Err(failure) if failure.kind == Kind::Missing => Err(Stop::Lost(failure.why)),
                    Err(failure) => Err(Stop::Error(self.fail(failure))),
                }
            },
        );
        match sent.await {
            Ok(()) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
            // Lost, or completed by a try whose answer never came.
            Err(Stop::Lost(why)) => Ok(Some(match self.compare(path).await?.into() {
                Some(outcome) => outcome,
                None => Outcome::Spoiled(format!("the store lost the upload: {why}")),
            })),
        }
    }

    /// A file of a folder: written beside its name, then renamed.
    async fn put_file(&self, path: &Path) -> Result<Outcome, StoreError> {
        let objects = &self.store.backend().objects;
        let line = self.store.line();
        let begun = line.until_answered(0, &self.patience, || objects.put_multipart(path)).await;
        let (mut file, _) = begun.map_err(|failure| self.fail(failure))?;
        let written = async {
            for index in 0..self.plan.leaves().len() {
                let (data, _) = self.leaf(index).await?;
                let part = file.put_part(PutPayload::from(data.clone()));
                let put = line.once(data.len() as u64, &self.patience, part).await;
                put.map_err(|failure| self.fail(failure))?;
            }
            let done =
                line.once(self.plan.len_bytes() / COMPLETE_FASTER, &self.patience, file.complete()).await;
            done.map_err(|failure| self.fail(failure))
        };
        let written = written.await;
        if written.is_err() {
            // Best effort; the sweep before the next try takes what stays.
            let _ = file.abort().await;
        }
        match self.compare(path).await?.into() {
            Some(outcome) => Ok(outcome),
            None => match written {
                Ok(_) => Ok(Outcome::Spoiled("it was written and is not there".into())),
                Err(error) => Err(error),
            },
        }
    }

    // Frees what a key that is given up may hold. Not needed for anything but room: its trace stays in the journal.
    async fn abandon(&self, path: &Path) {
        self.sweep(path).await;
        let id = self.entry(|entry| entry.tried.last().and_then(|tried| tried.upload.clone()));
        if let (Some(id), BackendKind::Cloud { parts, .. }) = (id, &self.store.backend().kind) {
            let _ = self.store.line().once(0, &self.patience, parts.abort_multipart(path, &id)).await;
        }
    }

    // What a kill left beside a file: `name#1`, `name#2`, ..., which no listing shows.
    async fn sweep(&self, path: &Path) {
        let BackendKind::Folder { files, .. } = &self.store.backend().kind else { return };
        let Ok(at) = files.path_to_filesystem(path) else { return };
        let swept = blocking(move || {
            let (Some(folder), Some(name)) = (at.parent(), at.file_name().and_then(|name| name.to_str()))
            else {
                return Ok(());
            };
            let staged = |other: &str| {
                let number = other.strip_prefix(name).and_then(|rest| rest.strip_prefix('#'));
                number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
            };
            for other in std::fs::read_dir(folder)? {
                let other = other?;
                if other.file_name().to_str().is_some_and(staged) {
                    std::fs::remove_file(other.path())?;
                }
            }
            Ok(())
        });
        match swept.await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(store = self.store.name(), %path, %error, "leftovers of an upload stay");
            }
            _ => {}
        }
    }
}

enum Stop {
    Error(StoreError),
    Lost(String),
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(io::Error::other("this process is ending")),
        },
    }
}
