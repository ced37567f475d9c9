//! A new log for a node whose own is damaged: `epochlog repair`. No consensus runs here meanwhile.
//!
//! ```text
//!  the vote that the damaged log still binds this node to, certain, of term t
//!   ─▶ a leader of a term above t: its state, at or above a read index, kept while the stream is open
//!   ─▶ what that refers to and this disk lacks: fetched, checked, fsynced
//!   ─▶ the snapshot files ─▶ an empty log that begins behind it, with that leader's vote
//! ```
//!
//! Stopped anywhere, the damaged log is still the log, and the next try goes on with what came.
//! `docs/decisions/rejoin.md` says why nothing acknowledged is lost and no vote is given twice.
//!
//! **Never.** Nothing is voted, acknowledged or promised here. A node whose vote is not certain, or whose identity
//! is not the one that the cluster knows, is not repaired: it must not come back.

pub(crate) mod serve;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use checkpoint::disk::{Disk, Open};
use checkpoint::durable::ensure_dir;
use checkpoint::store::layout::Layout;
use checkpoint::store::{StoreError, Unpacked};
use checkpoint::{Envelope, Manifest, Store};
use nativelog::compose;
use nativelog::ledger::Ledger;
use nativelog::machine::{self, AttemptLacks};
use nativelog::record::LogId;
use nativelog::snapshot::{Capture, SnapshotError};
use nativelog::store::{Brought, Identity, LogStore, OpenError, Placed, Vote};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Streaming;

use crate::config::{LEDGER_BYTES_MAX, ReplicaConfig};
use crate::identity::{Check, Known, hex};
use crate::network::convert;
use crate::network::peers::{Lane, Peers};
use crate::own_vote;
use crate::propose::propose_to;
use crate::proto::{self, rejoin_part::Part};
use crate::snapshot::members_of;
use crate::terms;
use crate::transfer::gather::Gather;
use crate::transfer::lost::{Lost, leans_no_more};
use crate::transfer::owed::OwedEpoch;
use crate::transfer::{Progress, Stage, Transfer, TransferError, blocking, receive};

/// How long a leader with a high enough term is looked for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two questions.
const AGAIN: Duration = Duration::from_millis(500);
/// A node that says nothing for so long is asked later.
const ANSWER: Duration = Duration::from_secs(20);

/// What a rejoin is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejoinStep {
    /// Looking for a leader with a term above this.
    Asking {
        /// The term of the vote that binds this node.
        above_term: u64,
        /// What the last node said.
        why: String,
    },
    /// The state of the cluster is here; what it refers to is fetched.
    Fetching(Transfer),
    /// All of it is here; the log is replaced.
    Replacing {
        /// Where the new log begins.
        position: LogId,
    },
}

/// What a rejoin brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejoined {
    /// The new log begins behind this position.
    pub position: LogId,
    /// The vote in the new log.
    pub vote: Vote,
    /// Bytes of content that were fetched.
    pub fetched_bytes: u64,
}

/// Why a node could not be given a new log. The damaged one is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// The folder does not say which cluster it belongs to.
    #[error("the data folder does not name its cluster")]
    NoCluster,
    /// The settings are of another node than the folder.
    #[error("the log belongs to another node or incarnation than the configuration says")]
    Identity,
    /// The log does not say for sure how the node voted, or cannot be replaced.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// No leader with a term above the vote's was found.
    #[error("no leader of a term above {term} answers: {why}")]
    NoLeader {
        /// The vote's term.
        term: u64,
        /// What the last node said.
        why: String,
    },
    /// The cluster does not know this node, or not as it is.
    #[error("{0}")]
    Unknown(String),
    /// What the leader sent is not what it should be.
    #[error("the leader's state cannot be used: {0}")]
    State(String),
    /// The content could not be brought.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The snapshot files could not be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// The state that a leader sent.
struct State {
    leader: u64,
    vote: Vote,
    capture: Capture,
    /// What the leader sent is kept there while this is open.
    stream: Streaming<proto::RejoinPart>,
}

/// Gives the node a new log in place of the damaged one below `layout`. `store` is open, and nothing else of
/// the node runs. `config.cluster` must be the cluster of the data folder.
///
/// # Errors
/// [`RejoinError`].
pub async fn rejoin(
    config: ReplicaConfig,
    disk: Arc<dyn Disk>,
    layout: Layout,
    store: Arc<Store>,
    owner: Identity,
    progress: impl Fn(RejoinStep) + Send + Sync,
) -> Result<Rejoined, RejoinError> {
    if owner.node != config.node || owner.incarnation != config.incarnation {
        return Err(RejoinError::Identity);
    }
    let cluster = config.cluster.ok_or(RejoinError::NoCluster)?;
    let (d, l) = (disk.clone(), layout.clone());
    let term = blocking(move || LogStore::certain_vote(&d, &l, owner)).await??.map_or(0, |vote| vote.term);
    let peers = Peers::new(&config, Known::new(&config));
    let state = find_state(&peers, config.node, term, &progress).await?;
    let State { leader, vote, capture, stream } = state;
    let encoded = capture.ledger.clone();
    let ledger = blocking(move || Ledger::decode(&encoded)).await?;
    let ledger = Arc::new(ledger.map_err(|error| RejoinError::State(error.to_string()))?);
    check(&ledger, &capture, owner, cluster)?;
    let members = members_of(&capture.meta).map_err(|error| RejoinError::State(error.to_string()))?;
    if !members.iter().any(|(node, _)| *node == owner.node) {
        return Err(RejoinError::Unknown(format!("node {} is no member any more", owner.node)));
    }
    peers.learn(&members);
    let kept = tokio::spawn(hold(stream));
    let fetched = fetch(&peers, &disk, &layout, &store, owner.node, leader, &ledger, &progress).await;
    let position = capture.meta.position;
    let fetched_bytes = fetched?;
    progress(RejoinStep::Replacing { position });
    let shelves = store.clone();
    blocking(move || machine::plant(&shelves, &capture)).await??;
    blocking(move || LogStore::replace_damaged(&disk, &layout, owner, position, vote)).await??;
    kept.abort();
    if let Err(error) = blocking(move || store.clear_incoming()).await? {
        tracing::warn!(%error, "what came for nothing cannot be removed yet");
    }
    Ok(Rejoined { position, vote, fetched_bytes })
}

/// Reads on, so that the leader sees that somebody still needs what it keeps.
async fn hold(mut stream: Streaming<proto::RejoinPart>) {
    while let Ok(Some(_)) = stream.message().await {}
    tracing::warn!(
        "the leader that kept everything is gone; what is still lacking comes from whoever has it"
    );
}

fn check(ledger: &Ledger, capture: &Capture, owner: Identity, cluster: [u8; 16]) -> Result<(), RejoinError> {
    if ledger.applied() != Some(capture.meta.position) {
        return Err(RejoinError::State("it is of another position than it says".into()));
    }
    if ledger.cluster() != Some(cluster) {
        return Err(RejoinError::Unknown(format!("this node belongs to the cluster {}", hex(&cluster))));
    }
    match ledger.incarnation(owner.node) {
        Some(known) if known == owner.incarnation => Ok(()),
        Some(known) => Err(RejoinError::Unknown(format!(
            "node {} is known with incarnation {}, this one is {}",
            owner.node,
            hex(&known),
            hex(&owner.incarnation)
        ))),
        None => Err(RejoinError::Unknown(format!("node {} is not known in the cluster", owner.node))),
    }
}

/// Asks around until a leader with a term above `term` sends its state.
async fn find_state(
    peers: &Peers,
    me: u64,
    term: u64,
    progress: &(impl Fn(RejoinStep) + Sync),
) -> Result<State, RejoinError> {
    let until = Instant::now() + PATIENCE;
    let mut why = "no other node is known".to_owned();
    let mut leader = None;
    loop {
        let mut order = peers.others(me);
        order.sort_by_key(|peer| Some(*peer) != leader);
        let (mut refused, mut heard) = (None, false);
        for peer in order {
            match ask(peers, peer, term).await {
                Ok(Ok(state)) => return Ok(state),
                Ok(Err(again)) => {
                    heard = true;
                    why = format!("node {peer}: {}", again.why);
                    leader = again.leader.filter(|leader| *leader != peer);
                    if leader.is_some() {
                        break;
                    }
                }
                Err(RejoinError::Unknown(error)) => refused = Some(error),
                Err(error) => why = format!("node {peer}: {error}"),
            }
        }
        // Whoever answers does not know this node.
        if let Some(error) = refused.filter(|_| !heard) {
            return Err(RejoinError::Unknown(error));
        }
        progress(RejoinStep::Asking { above_term: term, why: why.clone() });
        if Instant::now() >= until {
            return Err(RejoinError::NoLeader { term, why });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn wrong(why: impl Into<String>) -> RejoinError {
    RejoinError::State(why.into())
}

async fn next(stream: &mut Streaming<proto::RejoinPart>) -> Result<Part, RejoinError> {
    let part = tokio::time::timeout(ANSWER, stream.message()).await;
    let part = part.map_err(|_| wrong("no answer"))?.map_err(|status| wrong(status.message()))?;
    part.and_then(|part| part.part).ok_or_else(|| wrong("the answer ends too early"))
}

async fn ask(peers: &Peers, peer: u64, term: u64) -> Result<Result<State, proto::RejoinAgain>, RejoinError> {
    let client = peers.member(peer, Lane::Transfer, Check::Full);
    let mut client = client.map_err(|status| wrong(status.message()))?;
    let call = client.rejoin(proto::RejoinRequest { vote_term: term });
    let answer = tokio::time::timeout(ANSWER, call).await.map_err(|_| wrong("no answer"))?;
    let mut stream = match answer {
        Ok(answer) => answer.into_inner(),
        // It knows us, and not as we are.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
            return Err(RejoinError::Unknown(status.message().to_owned()));
        }
        Err(status) => return Err(wrong(status.message())),
    };
    let head = loop {
        match next(&mut stream).await? {
            Part::Working(_) => {}
            Part::Again(again) => return Ok(Err(again)),
            Part::Head(head) => break head,
            Part::Data(_) => return Err(wrong("data without a head")),
        }
    };
    let vote = convert::take_vote(head.vote.as_ref()).map_err(wrong)?;
    let named = terms::of_snapshot(head.meta.as_ref()).chain([vote.term]);
    terms::in_reach(term, named).map_err(wrong)?;
    own_vote::is_of(peer, head.vote.as_ref()).map_err(|status| wrong(status.message()))?;
    if !vote.committed || vote.term <= term {
        return Err(wrong(format!("its vote is of term {}, and must be above {term}", vote.term)));
    }
    let meta = convert::take_snapshot_meta(head.meta.as_ref()).map_err(wrong)?;
    if head.bytes > LEDGER_BYTES_MAX {
        return Err(wrong(format!("a ledger of {} bytes", head.bytes)));
    }
    let mut data = BytesMut::new();
    while (data.len() as u64) < head.bytes {
        match next(&mut stream).await? {
            Part::Working(_) => {}
            Part::Data(more) if (data.len() + more.len()) as u64 <= head.bytes => {
                data.extend_from_slice(&more)
            }
            _ => return Err(wrong("more than it said")),
        }
    }
    let capture = Capture::brought(meta, data.freeze());
    Ok(Ok(State { leader: peer, vote, capture, stream }))
}

#[expect(clippy::too_many_arguments, reason = "what a node is made of, before it is one")]
async fn fetch(
    peers: &Arc<Peers>,
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    store: &Arc<Store>,
    me: u64,
    leader: u64,
    ledger: &Arc<Ledger>,
    progress: &(impl Fn(RejoinStep) + Sync),
) -> Result<u64, RejoinError> {
    let counted = Arc::new(Progress::default());
    counted.begin(Stage::Snapshot, ledger.applied().map(|id| id.index));
    let (stop, stopped) = watch::channel(false);
    let gather = Gather::new(peers.clone(), store.clone(), me, counted.clone(), ledger.clone(), stopped)
        .with_holder(leader);
    let home = Arc::new(Shelves { disk: disk.clone(), layout: layout.clone(), store: store.clone() });
    let mut fetching = std::pin::pin!(receive::complete(&gather, &home, ledger));
    let seen = counted.watch();
    let done = loop {
        tokio::select! {
            done = &mut fetching => break done,
            () = tokio::time::sleep(AGAIN) => progress(RejoinStep::Fetching(*seen.borrow())),
        }
    };
    drop(stop);
    let owed = match done {
        Ok(owed) => owed,
        Err(TransferError::Staged(attempts)) => {
            end_attempts(peers, leader, &attempts).await;
            return Err(TransferError::Staged(attempts).into());
        }
        Err(error) => return Err(error.into()),
    };
    // Somebody is there to make room, and nothing waits for this node meanwhile.
    if let Some(why) = owed.full {
        return Err(TransferError::Full(why).into());
    }
    settle_leaning(peers, me, leader, &owed.leaning).await?;
    // The next start finds that they have no directory, and asks for them again.
    for OwedEpoch { job, epoch, why } in owed.epochs {
        tracing::error!(%job, epoch, why, "the epoch is missing on this node until a good copy turns up");
    }
    let now = *seen.borrow();
    progress(RejoinStep::Fetching(now));
    Ok(now.fetched_bytes)
}

/// No node that lives can serve bytes of these open attempts: a record ends them, so that the next try does without.
async fn end_attempts(peers: &Peers, leader: u64, attempts: &[(u64, String)]) {
    for (attempt, why) in attempts {
        let reason: String = format!("no live node can serve its bytes: {why}").chars().take(256).collect();
        tracing::warn!(attempt, reason, "an open attempt is to be ended");
        let record = compose::abort(*attempt, reason);
        match tokio::time::timeout(ANSWER, propose_to(peers, leader, &record)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(attempt, %error, "the attempt is not ended yet"),
            Err(_) => tracing::warn!(attempt, "the attempt may not be ended yet: no answer"),
        }
    }
}

/// Content that open attempts lean on, and that a majority has looked for in vain, goes into quarantine: that ends them.
async fn settle_leaning(peers: &Peers, me: u64, leader: u64, leaning: &[Lost]) -> Result<(), TransferError> {
    let mut voters = peers.others(me);
    voters.push(me);
    for lost in leaning {
        let Some((record, _)) = lost.record(&voters) else { continue };
        let answered = tokio::time::timeout(ANSWER, propose_to(peers, leader, &record)).await;
        let settled = match answered {
            Ok(Ok((_, verdict))) => leans_no_more(&verdict),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".into()),
        };
        settled.map_err(|why| {
            let what = format!("content {}, which open attempts lean on,", lost.digest);
            TransferError::Lacking { what, why: format!("and they are not ended yet: {why}") }
        })?;
    }
    Ok(())
}

/// The disk of a node that does not run.
struct Shelves {
    disk: Arc<dyn Disk>,
    layout: Layout,
    store: Arc<Store>,
}

impl receive::Home for Shelves {
    fn adopt(&self, envelope: Envelope, manifest: Arc<Manifest>) -> Result<(), checkpoint::Unpublished> {
        machine::adopt(&self.store, envelope.attempt, envelope, manifest)
    }

    fn mended(&self, _: &checkpoint::JobName, _: u64, _: u64) {}

    fn lacking(&self, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>> {
        machine::lacking_of_attempts(&self.store, ledger)
    }

    fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
        self.store.unpack(attempt, files)
    }

    /// Nobody else writes there: no log runs.
    fn place(&self, ranges: Vec<Placed>) -> io::Result<()> {
        let (disk, layout) = (&*self.disk, &self.layout);
        ensure_dir(disk, &layout.staging_dir())?;
        for run in ranges.chunk_by(|a, b| (a.attempt, a.file) == (b.attempt, b.file)) {
            let Placed { attempt, file, .. } = run[0];
            ensure_dir(disk, &layout.attempt_dir(attempt))?;
            let staged = disk.open(&layout.staged_file(attempt, file), Open::Create)?;
            for placed in run {
                match &placed.data {
                    Brought::Bytes(bytes) => staged.write_at(bytes, placed.offset)?,
                    Brought::Zeros(len) => staged.clear(placed.offset, *len)?,
                }
            }
            staged.sync_data()?;
            disk.sync_dir(&layout.attempt_dir(attempt))?;
        }
        disk.sync_dir(&layout.staging_dir())?;
        disk.sync_dir(layout.group_dir())
    }
}
