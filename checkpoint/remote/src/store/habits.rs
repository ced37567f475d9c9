//! What a store has shown of itself. Some give back the checksum that they were sent without looking at the bytes, and
//! some ignore conditions and say nothing: so neither is built on before it was seen ([`Store::check_access`]). Until
//! then objects are read back, and after a lost answer another key is taken.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::Store;
use crate::backend::BackendKind;
use crate::content::Sums;
use crate::line::{Failure, Kind, Patience, Tries};
use crate::tap;

#[derive(Debug, Default)]
pub(super) struct Habits {
    // A create of what is there is refused.
    conditions: AtomicBool,
    // A checksum that it reports is one that it made, or compared, itself.
    checks: AtomicBool,
}

impl Store {
    /// Whether a PUT can be made to fail when the object is there.
    pub(super) fn keeps_conditions(&self) -> bool {
        self.backend().conditional && self.inner.habits.conditions.load(Ordering::Relaxed)
    }

    /// Whether of several that create a key at once one does, and the others see it: a store that was seen to keep
    /// conditions, or a folder. Of any other a prefix is claimed by one node alone.
    pub fn creates_once(&self) -> bool {
        self.keeps_conditions() || self.is_folder()
    }

    /// Whether a checksum that the store reports says something of the bytes that it has. One that it was never sent
    /// does.
    pub(super) fn checks(&self, crc64: Option<u64>) -> bool {
        crc64.is_none() || self.inner.habits.checks.load(Ordering::Relaxed)
    }

    /// What is known of it.
    pub(crate) fn learned(&self, conditions: bool, checks: bool) {
        self.inner.habits.conditions.store(conditions, Ordering::Relaxed);
        self.inner.habits.checks.store(checks, Ordering::Relaxed);
    }

    /// Finds it out: `there` is an object, `spoiled` a key where nothing is. What is written there is the caller's to
    /// remove.
    pub(super) async fn learn(
        &self,
        there: &Path,
        spoiled: &Path,
        patience: &Patience,
    ) -> Result<(), Failure> {
        if !matches!(self.backend().kind, BackendKind::Cloud { .. }) {
            return Ok(());
        }
        let conditions = match self.backend().conditional {
            true => self.refuses_twice(there, patience).await,
            false => Ok(false),
        };
        let checks = self.finds_out(spoiled, patience).await;
        self.learned(matches!(conditions, Ok(true)), matches!(checks, Ok(true)));
        let (kept, seen) = (conditions.as_ref().ok(), checks.as_ref().ok());
        tracing::debug!(store = self.name(), conditions = ?kept, checks = ?seen, "what the store keeps to");
        conditions.and(checks).map(|_| ())
    }

    // Whether a bit that changes on the way is found out: refused, or reported as what it became.
    async fn finds_out(&self, path: &Path, patience: &Patience) -> Result<bool, Failure> {
        let data = Bytes::from_static(b"written by epochlog with another last bit, to be refused");
        match self.put_as(path, &data, PutMode::Overwrite, true, patience).await {
            Err(failure) if failure.kind == Kind::Garbled => return Ok(true),
            Err(failure) => return Err(failure),
            Ok(()) => {}
        }
        let head = self.head_of(path, patience).await?;
        Ok(head.is_some_and(|head| head.agrees(&Sums::of(&tap::flipped(data))) == Some(true)))
    }

    async fn refuses_twice(&self, path: &Path, patience: &Patience) -> Result<bool, Failure> {
        let data = Bytes::from_static(b"written by epochlog over another, to be refused");
        match self.put_as(path, &data, PutMode::Create, false, patience).await {
            Err(failure) if failure.kind == Kind::Exists => Ok(true),
            Err(failure) => Err(failure),
            Ok(()) => Ok(false),
        }
    }

    // Again until it is answered: none of these keys is ever relied on.
    async fn put_as(
        &self,
        path: &Path,
        data: &Bytes,
        mode: PutMode,
        spoil: bool,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let mut tries = Tries::default();
        loop {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let put = self.backend().objects.put_opts(path, PutPayload::from(data.clone()), options);
            let put = async { if spoil { tap::spoiling(put).await } else { put.await } };
            let failure = match self.line().once(data.len() as u64, patience, put).await {
                Ok(_) => return Ok(()),
                // Two that were under way at once: no word about what is there.
                Err(failure) if failure.is_conflict() => Failure { kind: Kind::Broken, ..failure },
                Err(failure) => failure,
            };
            if !failure.may_pass() {
                return Err(failure);
            }
            self.line().again(failure, patience, &mut tries).await?;
        }
    }
}
