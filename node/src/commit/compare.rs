//! The epoch is there already: is it ours, does it hold the same directory?
//!
//! **Guarantees**: who is told that it is committed already is told the root of its own directory, computed from
//! its bytes. Equal names and sizes are no equal content, and an earlier answer to the same commit id is no proof
//! that the directory still holds what it held then.

use bytes::Bytes;
use checkpoint::{Coverage, Digest};
use client::{Code, Failure};
use nativelog::ledger::{Accepted, Reason, Rejected, SealedEpoch, Verdict};
use nativelog::record::{Kind, LogRecord, proto};

use super::driver::{Driver, is_closed_here};
use super::ground::Ground;
use super::no;
use super::origin::{Next, Opening, Origin};

/// Whether the rejection is for a sealed epoch that bears the number.
pub(super) fn is_taken(rejected: &Rejected) -> bool {
    matches!(rejected.reason, Reason::Conflict | Reason::TooOld) && rejected.root.is_some()
}

impl<G: Ground> Driver<'_, G> {
    /// This commit sealed its epoch before this call: does it hold the same directory?
    pub(super) async fn sealed_already<O: Origin>(
        &mut self,
        sealed: &SealedEpoch,
        origin: &mut O,
    ) -> Result<SealedEpoch, Failure> {
        self.order.epoch = Some(sealed.epoch);
        let root = match self.root(origin).await {
            Ok(root) => root,
            Err(failure) if failure.code == Code::Interrupted || is_closed_here::<O>(&failure) => {
                return Err(failure);
            }
            Err(failure) => {
                return Err(no::changed_since(&self.order, &sealed.root, sealed.position, &failure.why));
            }
        };
        if root == sealed.root {
            return Ok(SealedEpoch { already: true, ..sealed.clone() });
        }
        let why = format!("its root is {root}");
        Err(no::changed_since(&self.order, &sealed.root, sealed.position, &why))
    }

    /// Of a rejection that names a sealed root: an error when this very commit id sealed it, with
    /// the directory as it was then, or may have and is too old to know. A Begin for no number in particular brings that
    /// out: it can only come upon a sealed root through its own commit id.
    pub(super) async fn own_seal(&mut self, rejected: &Rejected) -> Result<(), Failure> {
        if rejected.reason != Reason::Conflict || rejected.root.is_none() {
            return Ok(());
        }
        // What is sealed may be ours: without this node's ledger nothing is certain.
        let before = std::mem::replace(&mut self.maybe, true);
        self.barrier().await?;
        self.maybe = before;
        let begin = |epoch| {
            let begin = proto::Begin { epoch, token: None, ..self.order.begin(None) };
            LogRecord::new(Kind::Begin(begin), Bytes::new())
        };
        let ledger = self.ground.ledger();
        let own = match ledger.check(&begin(None).header) {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Some((sealed.root, sealed.position)),
            Verdict::Rejected(Rejected {
                reason: Reason::Conflict,
                root: Some(root),
                position: Some(position),
                ..
            }) => Some((root, position)),
            Verdict::Rejected(too_old) if too_old.reason == Reason::TooOld => {
                match ledger.check(&begin(self.order.epoch).header) {
                    // Its number is certainly another's.
                    Verdict::Rejected(taken) if taken.reason == Reason::Conflict => None,
                    _ => return Err(no::rejected(&self.order.name(), &too_old)),
                }
            }
            _ => None,
        };
        drop(ledger);
        match own {
            Some((root, position)) => {
                Err(no::changed_since(&self.order, &root, position, "the directory has changed since"))
            }
            None => Ok(()),
        }
    }

    /// The epoch is sealed by another commit, or by one that is too old to know: does it hold the same directory?
    pub(super) async fn compare<O: Origin>(
        &mut self,
        taken: &Rejected,
        origin: &mut O,
    ) -> Result<SealedEpoch, Failure> {
        self.own_seal(taken).await?;
        let epoch = self.order.epoch.unwrap_or_default();
        let root = self.root(origin).await?;
        if taken.root != Some(root) {
            return Err(no::rejected(&self.order.name(), taken));
        }
        let ledger = self.ground.ledger();
        match ledger.epoch(&self.order.job, epoch) {
            Some(found) if found.sealed.root == root => {
                Ok(SealedEpoch { already: true, ..SealedEpoch::clone(&found.sealed) })
            }
            _ => Err(no::rejected(&self.order.name(), taken)),
        }
    }

    /// The root of the origin; its pieces are wanted by nobody.
    async fn root<O: Origin>(&mut self, origin: &mut O) -> Result<Digest, Failure> {
        // It tells its root once.
        if let Some(root) = self.root {
            return Ok(root);
        }
        if !self.opened {
            self.open_to_compare(origin).await?;
        }
        loop {
            match self.from(origin.next().await)? {
                Next::Seal(root) => {
                    self.root = Some(root);
                    return Ok(root);
                }
                Next::Piece(_) | Next::Alive => {}
            }
        }
    }

    /// Asks the origin for the root alone: everything counts as covered.
    async fn open_to_compare<O: Origin>(&mut self, origin: &mut O) -> Result<(), Failure> {
        while self.from(origin.page().await)?.is_some() {}
        let mut coverage = Coverage::default();
        coverage.add_files(0..self.order.plan_entries);
        let epoch = self.order.epoch.unwrap_or_default();
        let opening = Opening { epoch, coverage, resumed: true, ..Opening::silent(self.order.chunk_bytes) };
        self.from(origin.open(Opening { silent: false, ..opening }).await)?;
        self.opened = true;
        Ok(())
    }
}
