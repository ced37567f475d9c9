//! One commit, from a directory's pieces to the answer. Read this file first.
//!
//! ```text
//!   Begin ──> Begun{attempt}                 the log names the attempt
//!   plan pages                               what the directory looked like
//!   pieces, pipelined, a window of bytes     chunks, packs, zeros, references
//!   Seal ──> Sealed{root, position}          the answer: durable on a quorum
//! ```
//!
//! Where the pieces come from is an [`Origin`]: this node's own splitter, or a client's stream. A tiny
//! epoch is one `Whole` record instead.
//!
//! | file | what it holds |
//! |---|---|
//! | `ground` | what a commit stands on: a node, as it needs to know it |
//! | `driver` | one commit under way |
//! | `order`, `no` | what is wanted; the answers that are a no |
//! | `binding`, `in_store`, `in_store/*` | an epoch whose content goes into an object store |
//! | `pieces`, `window` | an epoch in pieces; the records that nobody has acknowledged yet |
//! | `whole` | a tiny epoch |
//! | `compare` | the epoch is there already |
//! | `propose` | single records, until there is an answer |
//! | `origin` | where the pieces come from |
//!
//! **When the leader dies**: the records that nobody has acknowledged are kept. Begin is repeated
//! under the same commit id, which resumes the attempt; a read barrier makes this node's ledger
//! current; and of the kept records only those are sent again that the log lacks.
//!
//! **An attempt has one writer**, its commit id: another commit of the same epoch is told at once, until that writer
//! has been silent for 30 s of log time. So this one says that it lives, also while it reads and hashes for long.
//!
//! **Never**: answer "not committed" when a seal may be in the log. A seal without an answer is
//! repeated (it is idempotent) until there is one or the time without progress is over: then the
//! answer is "unknown". (Of what this call did: whether an earlier call may have sealed, the client knows.)

mod binding;
mod compare;
mod driver;
mod ground;
mod in_store;
mod no;
mod order;
pub mod origin;
mod pieces;
mod propose;
#[cfg(test)]
mod tests;
mod whole;
mod window;

use std::time::Instant;

use bytes::Bytes;
use checkpoint::CommitId;
use checkpoint::limits::EPOCH_MAX;
use client::{Code, Failure, pb};
use nativelog::compose;
use nativelog::ledger::{Accepted, Mode, SealedEpoch, Verdict};

use compare::is_taken;
use driver::{Driver, is_closed_here};
pub use ground::{Ground, Proposals};
pub use order::Order;
use origin::{Origin, Replies};
use pieces::{Begun, GivenUp, Stopped};

/// Commits what `origin` brings; answers when it is durable on a quorum, or says no, or says unknown.
pub async fn commit<G: Ground, O: Origin>(
    ground: &G,
    order: Order,
    origin: &mut O,
    replies: &Replies,
) -> Result<pb::Committed, Failure> {
    let started = Instant::now();
    let mut driver = Driver::new(ground, order, replies, started);
    let sealed = driver.run(origin).await?;
    Ok(driver.committed(&sealed, started))
}

impl<G: Ground> Driver<'_, G> {
    async fn run<O: Origin>(&mut self, origin: &mut O) -> Result<SealedEpoch, Failure> {
        if self.order.born.is_none() {
            // The client has never sent this id before: it is born now.
            self.barrier().await?;
            let applied = self.ground.ledger().applied();
            self.order.born = Some(applied.map_or(0, |id| id.index));
        }
        if let Some(sealed) = self.exists_already().await? {
            return Ok(sealed);
        }
        if self.order.take_over {
            // What became of this commit is asked first: its writer may be forgotten by now, or gone with its job.
            self.barrier().await?;
            let known = self.ground.ledger().check(&self.order.first_record().header);
            if let Verdict::Accepted(Accepted::Sealed(sealed)) = known {
                return self.sealed_already(&sealed, origin).await;
            }
            self.open_writer().await?;
        }
        if self.order.epoch.is_none() && self.has_spent_its_numbers() {
            return Err(no::out_of_numbers(&self.order));
        }
        if self.order.is_tiny() {
            return self.whole(origin).await;
        }
        let bound = match self.order.store.clone() {
            Some(kept) => {
                // What is known of it already takes no store to say.
                if let Some(known) = self.known_already().await? {
                    return self.answered(known, origin).await;
                }
                let bound = self.bind(&kept).await?;
                self.order.store_id = Some(bound.id);
                Some(bound)
            }
            None => None,
        };
        match self.begin(None).await? {
            Begun::Sealed(sealed) => self.sealed_already(&sealed, origin).await,
            Begun::Taken(taken) => self.compare(&taken, origin).await,
            Begun::Open(attempt) => {
                let id = attempt.id;
                let sealed = match &bound {
                    Some(bound) => self.in_store(attempt, bound, origin).await,
                    None => self.in_pieces(attempt, origin).await,
                };
                match sealed {
                    Ok(sealed) => Ok(sealed),
                    Err(Stopped::Sealed(sealed)) => self.sealed_already(&sealed, origin).await,
                    Err(Stopped::Failed(failure)) => self.failed(id, failure, origin).await,
                    // The attempt stays open: what was uploaded counts when the commit is repeated.
                    Err(Stopped::Store(failure)) => Err(failure),
                }
            }
        }
    }

    /// What this node's ledger, made current, says of a commit that needs no more of it: it is sealed, or its number is
    /// another's.
    async fn known_already(&mut self) -> Result<Option<Verdict>, Failure> {
        self.barrier().await?;
        let known = self.ground.ledger().check(&self.order.first_record().header);
        let is_known = match &known {
            Verdict::Accepted(accepted) => matches!(accepted, Accepted::Sealed(_)),
            Verdict::Rejected(rejected) => is_taken(rejected),
        };
        Ok(is_known.then_some(known))
    }

    async fn answered<O: Origin>(&mut self, known: Verdict, origin: &mut O) -> Result<SealedEpoch, Failure> {
        match known {
            Verdict::Accepted(Accepted::Sealed(sealed)) => self.sealed_already(&sealed, origin).await,
            Verdict::Rejected(taken) => self.compare(&taken, origin).await,
            Verdict::Accepted(other) => Err(self.odd(&format!("it was known as {other:?}"))),
        }
    }

    /// An attempt went wrong: it is given up when its source did, and an earlier call of this commit may have
    /// sealed it.
    async fn failed<O: Origin>(
        &mut self,
        attempt: u64,
        failure: Failure,
        origin: &mut O,
    ) -> Result<SealedEpoch, Failure> {
        match failure.code {
            // The source: it changed, is not to be read, is not there.
            Code::SourceChanged | Code::Refused | Code::PermissionDenied | Code::Usage => {
                let given_up = self.abort(attempt, &failure.why).await;
                Err(of_the_source(&self.order, is_closed_here::<O>(&failure), given_up, failure))
            }
            Code::Interrupted | Code::NoQuorum | Code::Timeout | Code::Internal => Err(failure),
            _ => {
                let current = tokio::time::timeout(self.order.patience, self.ground.read_barrier()).await;
                if !matches!(current, Ok(Ok(_))) {
                    return Err(match failure.code {
                        Code::Fenced | Code::Subsumed | Code::TooLate => failure,
                        // There was no way to the leader, and nothing was sealed in this call.
                        Code::Unavailable if !self.maybe => failure,
                        _ => no::unknown(&self.order, &failure.to_string()),
                    });
                }
                match self.sealed_by_us(attempt) {
                    Some(sealed) => self.sealed_already(&sealed, origin).await,
                    None => Err(failure),
                }
            }
        }
    }

    /// What this commit sealed, as this node's ledger knows it: an epoch, or what became of one whose job is gone.
    fn sealed_by_us(&self, attempt: u64) -> Option<SealedEpoch> {
        let ledger = self.ground.ledger();
        ledger.sealed_attempt(attempt).or_else(|| match ledger.check(&self.order.first_record().header) {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Some(sealed),
            _ => None,
        })
    }

    /// Whether the job has used the highest number, and this commit has not become one of its epochs before.
    fn has_spent_its_numbers(&self) -> bool {
        let ledger = self.ground.ledger();
        let spent = ledger.high_water(&self.order.job).is_some_and(|highest| highest >= EPOCH_MAX);
        let known = || ledger.check(&self.order.first_record().header);
        spent && !matches!(known(), Verdict::Accepted(Accepted::Sealed(_)))
    }

    /// With `--if-not-exists`: the epoch, when it is there.
    async fn exists_already(&mut self) -> Result<Option<SealedEpoch>, Failure> {
        let Some(epoch) = self.order.epoch.filter(|_| self.order.if_not_exists) else { return Ok(None) };
        self.barrier().await?;
        let ledger = self.ground.ledger();
        let found = ledger.epoch(&self.order.job, epoch);
        Ok(found.map(|found| SealedEpoch { already: true, ..SealedEpoch::clone(&found.sealed) }))
    }

    async fn open_writer(&mut self) -> Result<(), Failure> {
        // The commit's id names the attempt; the writer needs one of its own, the same at every repeat.
        let derived = checkpoint::digest::checksum(&[b"writer of ", self.order.commit_id.as_bytes()]);
        let record = compose::open_writer(
            &self.order.job,
            CommitId::from_bytes(derived),
            self.order.born.unwrap_or(0),
        );
        match self.propose(record).await?.1 {
            Verdict::Accepted(Accepted::Opened { token }) => {
                self.order.token = Some(token);
                Ok(())
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("open_writer was answered {other:?}"))),
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }

    fn committed(&self, sealed: &SealedEpoch, started: Instant) -> pb::Committed {
        let (mode, store) = self.lies_in(sealed);
        pb::Committed {
            mode,
            store,
            quorum_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            voters: u32::try_from(self.ground.voters()).unwrap_or(u32::MAX),
            ..sealed_pb(sealed)
        }
    }

    /// Where its content lies, as the log says; as it was ordered while this node's ledger is not as far. Nothing of an epoch that is
    /// gone.
    fn lies_in(&self, sealed: &SealedEpoch) -> (String, String) {
        let ledger = self.ground.ledger();
        let found = ledger.epoch(&sealed.job, sealed.epoch).filter(|found| found.sealed.root == sealed.root);
        if let Some(found) = found {
            let store = found.store.and_then(|id| ledger.store(id)).map(|store| store.name);
            return (found.mode.to_string(), store.unwrap_or_default());
        }
        match &self.order.store {
            _ if sealed.expired => Default::default(),
            Some(kept) if self.order.store_id.is_some() => (Mode::Hybrid.to_string(), kept.name().to_owned()),
            _ => (Mode::Log.to_string(), String::new()),
        }
    }
}

/// The answer when the source went wrong and the attempt was given up for it.
fn of_the_source(order: &Order, is_closed_here: bool, given_up: GivenUp, failure: Failure) -> Failure {
    match given_up {
        // The client reads it, and compares.
        GivenUp::Sealed(..) if is_closed_here => failure,
        GivenUp::Sealed(root, position) => no::changed_since(order, &root, position, &failure.why),
        // A client that streams at once comes back to this attempt, and it may end under its hands.
        GivenUp::Unanswered if is_closed_here => no::closed(order, &failure.why),
        GivenUp::Unanswered | GivenUp::Gone => failure,
    }
}

/// A sealed epoch as the API tells it.
fn sealed_pb(sealed: &SealedEpoch) -> pb::Committed {
    pb::Committed {
        job: sealed.job.to_string(),
        epoch: sealed.epoch,
        root: Bytes::copy_from_slice(sealed.root.as_bytes()),
        position: Some(pb::Position { term: sealed.position.term, index: sealed.position.index }),
        attempt: sealed.attempt,
        files: sealed.files,
        bytes: sealed.bytes,
        new_bytes: sealed.new_bytes,
        new_files: sealed.new_files,
        log_bytes: sealed.log_bytes,
        already: sealed.already,
        expired: sealed.expired,
        ..pb::Committed::default()
    }
}
