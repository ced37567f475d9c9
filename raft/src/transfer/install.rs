//! The receiver of a snapshot.
//!
//! One at a time: a call that comes while another is at work ends that one, waits until it has let go, and goes
//! on with what it has brought. A call whose sender is gone ends as well. Only when all that the ledger
//! refers to is here does the consensus hear of the snapshot at all.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use checkpoint::disk::lacks_room;
use nativelog::compose;
use nativelog::ledger::{Ledger, Verdict};
use nativelog::snapshot::{Capture, SnapshotMeta};
use nativelog::store::Vote;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::Transfers;
use super::error::{TransferError, blocking};
use super::lost::leans_no_more;
use super::owed::{Owed, OwedEpoch};
use super::progress::Stage;
use super::receive;
use super::turn::is_stopped;
use crate::config::{LEDGER_BYTES_MAX, RoomProbe};
use crate::network::convert;
use crate::own_vote;
use crate::proto::{self, snapshot_part::Part};
use crate::snapshot::members_of;
use crate::terms;

/// How long this node's own garbage may take, before what the coming ledger does not know makes room.
const OWN_GARBAGE: Duration = Duration::from_secs(5);

/// Longest reason of an abort, in characters of at most four bytes: a record takes 1024.
const REASON_CHARS: usize = 256;

/// Ends a receiver when its caller is gone.
struct Caller(watch::Sender<bool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

fn bad(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

/// Takes a snapshot and everything that it refers to, and installs it.
pub async fn serve(
    transfers: Arc<Transfers>,
    from: u64,
    mut parts: Streaming<proto::SnapshotPart>,
) -> Result<proto::SnapshotReply, Status> {
    let first = parts.message().await?.and_then(|part| part.part);
    let Some(Part::Head(head)) = first else { return Err(bad("a snapshot without a head")) };
    let vote = convert::take_vote(head.vote.as_ref()).map_err(bad)?;
    let meta = convert::take_snapshot_meta(head.meta.as_ref()).map_err(bad)?;
    if head.bytes > LEDGER_BYTES_MAX {
        return Err(bad(format!("a ledger of {} bytes", head.bytes)));
    }
    // Before anything is fetched for somebody who does not lead any more.
    let mine = transfers.consensus.vote();
    let named = terms::of_snapshot(head.meta.as_ref()).chain([vote.term]);
    terms::in_reach(mine.term, named).map_err(bad)?;
    own_vote::is_of(from, head.vote.as_ref())?;
    if mine > vote {
        return Ok(proto::SnapshotReply { vote: convert::put_vote(mine) });
    }
    let (capture, ledger) = take(parts, meta, head.bytes).await?;
    let (stop, stopped) = watch::channel(false);
    let _caller = Caller(stop.clone());
    // A task of its own: what it does on other threads must have ended before the turn passes on.
    let work = tokio::spawn(async move {
        let _turn = transfers.turn.take(stop).await;
        install(&transfers, from, vote, capture, ledger, stopped).await
    });
    work.await.map_err(|_| Status::internal("the receiver panicked"))?
}

/// The ledger, checked against what the head says.
async fn take(
    mut parts: Streaming<proto::SnapshotPart>,
    meta: SnapshotMeta,
    bytes: u64,
) -> Result<(Capture, Arc<Ledger>), Status> {
    let mut data = BytesMut::new();
    while let Some(part) = parts.message().await? {
        let Some(Part::Data(more)) = part.part else { return Err(bad("a part without data")) };
        if (data.len() + more.len()) as u64 > bytes {
            return Err(bad("more than the head says"));
        }
        data.extend_from_slice(&more);
    }
    if data.len() as u64 != bytes {
        return Err(bad(format!("{} bytes of {bytes}", data.len())));
    }
    let capture = Capture::brought(meta, data.freeze());
    let encoded = capture.ledger.clone();
    let ledger = tokio::task::spawn_blocking(move || Ledger::decode(&encoded)).await;
    let ledger = ledger.map_err(|_| bad("the ledger cannot be read"))?.map_err(|e| bad(e.to_string()))?;
    if ledger.applied() != Some(capture.meta.position) {
        return Err(bad("the ledger is of another position than the head says"));
    }
    Ok((capture, Arc::new(ledger)))
}

async fn install(
    transfers: &Arc<Transfers>,
    from: u64,
    vote: Vote,
    capture: Capture,
    ledger: Arc<Ledger>,
    stop: watch::Receiver<bool>,
) -> Result<proto::SnapshotReply, Status> {
    let position = capture.meta.position;
    if is_stopped(&stop) {
        return Err(Status::aborted("another snapshot came"));
    }
    let applied = transfers.machine.ledger().applied();
    let news = applied.is_none_or(|applied| applied.index < position.index);
    if news && let Some(why) = transfers.intake.takes_no_content() {
        make_room(transfers, &ledger).await;
        // The log's writer waits for room: it could not let go of its log. The sender comes again.
        if let Some(why) = transfers.intake.stalled() {
            return Err(Status::resource_exhausted(why));
        }
        // The ledger is taken all the same: what makes room stands in it, or comes behind it.
        tracing::warn!(from, %position, why, "a snapshot comes to a node that is full: what does not fit is owed");
    }
    // Held until the snapshot is installed.
    let mut pin = None;
    let mut owed = Owed::default();
    if news {
        // Before the first blob is made: what a transfer that never ends has brought is given back one day. And what
        // is here already and not referred to yet is not given back meanwhile.
        let (machine, coming) = (transfers.machine.clone(), ledger.clone());
        let expected = blocking(move || machine.expect(&coming)).await;
        let (expected, has_room) = match expected.map_err(|e| Status::unavailable(e.to_string()))? {
            Ok(pin) => (pin, true),
            // There is no room for the list of what comes: nothing comes.
            Err(error) if lacks_room(&error) => {
                let (machine, coming) = (transfers.machine.clone(), ledger.clone());
                let pinned = blocking(move || machine.expect_nothing(&coming)).await;
                (pinned.map_err(|e| Status::unavailable(e.to_string()))?, false)
            }
            Err(error) => return Err(Status::resource_exhausted(error.to_string())),
        };
        pin = Some(expected);
        let members = members_of(&capture.meta).map_err(|e| bad(e.to_string()))?;
        transfers.peers.learn(&members);
        transfers.progress.begin(Stage::Snapshot, Some(position.index));
        tracing::info!(from, %position, "a snapshot is received; what it refers to is fetched first");
        let mut gather = transfers.gather_by(ledger.clone(), stop).with_holder(from);
        if !has_room {
            let none = RoomProbe(Arc::new(|_: u64| {
                Some("there is none for the list of what would come".to_owned())
            }));
            gather = gather.with_room(&none);
        }
        let came = receive::complete(&gather, &Arc::new(transfers.machine.clone()), &ledger).await;
        let fetched = transfers.progress.watch().borrow().fetched_bytes;
        match came {
            Ok(lacking) => owed = lacking,
            Err(error) => {
                transfers.progress.end(false);
                tracing::warn!(from, %position, fetched, %error, "the snapshot's content is not all here; what came is kept");
                if let TransferError::Staged(attempts) = &error {
                    end_attempts(transfers, attempts).await;
                }
                return Err(match error {
                    TransferError::Here(why) | TransferError::Full(why) => Status::resource_exhausted(why),
                    other => Status::unavailable(other.to_string()),
                });
            }
        }
        let voters: Vec<u64> = members.iter().map(|(node, _)| *node).collect();
        if let Err(why) = settle_leaning(transfers, &owed, &voters).await {
            transfers.progress.end(false);
            return Err(Status::unavailable(why));
        }
        // Last of all: what fails for want of room here is tried again, and would be the end of this node in there.
        let (machine, coming) = (transfers.machine.clone(), capture.clone());
        let ready = blocking(move || machine.make_ready(&coming)).await;
        if let Err(why) = ready.map_err(|e| e.to_string()).and_then(|ready| ready.map_err(|e| e.to_string()))
        {
            transfers.progress.end(false);
            return Err(Status::resource_exhausted(why));
        }
        let owes = owed.epochs.len();
        tracing::info!(from, %position, fetched, owes, "what the snapshot refers to is here, but for what is owed; it is installed");
    }
    drop(blocking(move || drop(ledger)).await);
    let installed = transfers.consensus.install(vote, capture).await;
    drop(pin);
    if news {
        let done = installed.as_ref().is_ok_and(|now| *now == vote);
        transfers.progress.end(done);
        if done {
            for OwedEpoch { job, epoch, why } in owed.epochs {
                transfers.machine.note_missing(&job, epoch, &why);
            }
            *transfers.leaning() = owed.leaning.iter().map(|lost| (lost.digest, lost.bytes)).collect();
            forget_unfinished(transfers).await;
        }
    }
    Ok(proto::SnapshotReply { vote: convert::put_vote(installed?) })
}

/// No node that lives can serve bytes of these open attempts, so that they can never be whole here: a record ends
/// them, and the same snapshot, when it comes again, does without them. Their writers begin anew.
async fn end_attempts(transfers: &Transfers, attempts: &[(u64, String)]) {
    for (attempt, why) in attempts {
        let reason: String =
            format!("no live node can serve its bytes: {why}").chars().take(REASON_CHARS).collect();
        tracing::warn!(attempt, reason, "an open attempt is to be ended");
        let error = match transfers.records.propose(compose::abort(*attempt, reason)).await {
            Ok(Verdict::Accepted(_)) => continue,
            Ok(Verdict::Rejected(rejected)) => rejected.to_string(),
            Err(error) => error,
        };
        tracing::warn!(
            attempt,
            error,
            "the attempt is not ended yet; it is tried again with the next snapshot"
        );
    }
}

/// Content that open attempts lean on and that a majority has looked for in vain goes into quarantine before anything
/// above is acknowledged here, which ends them: nothing is sealed over what is known to be lost. Where no majority has
/// looked it may still be had, and this node goes on asking for it.
async fn settle_leaning(transfers: &Transfers, owed: &Owed, voters: &[u64]) -> Result<(), String> {
    for lost in &owed.leaning {
        let Some((record, nodes)) = lost.record(voters) else { continue };
        let digest = lost.digest;
        tracing::error!(%digest, ?nodes, "open attempts lean on content that verifies nowhere on a majority: it goes into quarantine");
        let answered = transfers.records.propose(record).await;
        answered.and_then(|verdict| leans_no_more(&verdict)).map_err(|error| {
            format!("open attempts lean on content {digest}, which is nowhere to be had, and are not ended yet: {error}")
        })?;
    }
    Ok(())
}

/// Gives back what this node's own records allow, and then what those of the coming ledger do.
async fn make_room(transfers: &Transfers, ledger: &Arc<Ledger>) {
    // A snapshot waits for the log's writer, which may itself wait for room.
    match tokio::time::timeout(OWN_GARBAGE, transfers.keeper.make_room()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error, "this node's own garbage is not all given back"),
        Err(_) => tracing::warn!("this node's own garbage waits for the log"),
    }
    let (machine, coming) = (transfers.machine.clone(), ledger.clone());
    let given = blocking(move || {
        // What came for another ledger. What came for this one is fetched once more, when there is room.
        machine.store().clear_incoming().map_err(std::io::Error::other)?;
        machine.give_way(&coming)
    });
    match given.await {
        Ok(Ok(given)) if given.files > 0 => {
            tracing::info!(
                files = given.files,
                bytes = given.bytes,
                "expired epochs make room for what is lacking"
            )
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "expired epochs cannot make room yet"),
        Err(error) => tracing::warn!(%error, "expired epochs make no room"),
    }
}

/// What was begun for an earlier snapshot and is not referred to any more.
async fn forget_unfinished(transfers: &Transfers) {
    let store = transfers.machine.store().clone();
    match blocking(move || store.clear_incoming()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "what came for nothing cannot be removed yet; it is after the next transfer")
        }
        Err(error) => tracing::warn!(%error, "what came for nothing is not removed"),
    }
}
