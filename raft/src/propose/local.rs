//! Proposals at the leader.
//!
//! A stream keeps its order through refusals. openraft refuses writes while the leader's lease has
//! run out, which happens to a healthy leader that is busy; and the leader's own check rejects a
//! record that needs an earlier one of the same stream which is still on its way. A stream then
//! goes back: it takes in nothing more, waits until everything that is out has been answered, and
//! proposes again, in order, what was refused and what was rejected because an earlier record was
//! missing. A rejection changes nothing, so that is safe; it is final when nothing earlier is open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use nativelog::background::{self, BULK};
use nativelog::ledger::{Accepted, NotAdmitted, Verdict};
use nativelog::record::{Kind, LogId, LogRecord};
use nativelog::shape::{ShapeError, check_record, check_zeros};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::proposal::{Outcome, Proposal, malformed};
use super::proposer::Proposer;
use crate::begins;
use crate::consensus;
use crate::error::ProposeError;
use crate::intake::Permit;
use crate::leader::Leadership;

/// Pause before what a leader without lease refused is proposed again.
const LEASE_PAUSE: Duration = Duration::from_millis(20);
const NO_MORE: &str = "leadership changed while room was looked for";

/// What became of one attempt to write.
enum Written {
    Answered(Outcome),
    /// It did not enter the log now; the same leader may take it soon.
    Later(ProposeError),
}

/// How a record was received.
enum Taken {
    /// The consensus has it; the answer comes.
    Written(oneshot::Receiver<Written>),
    /// Answered without entering the log.
    Answered(Outcome),
    /// The very same piece is on its way already, or this commit waits for room.
    Duplicate,
}

/// Judges `record` and hands it to the consensus. Returns once it is queued.
async fn write(
    proposer: &Arc<Proposer>,
    leadership: &Arc<Leadership>,
    record: &LogRecord,
    permit: &Arc<Permit>,
) -> Taken {
    // Of all who had it in hands the leader alone tells the time: a client, or the node that it asked, would not do.
    let record = &record.sealed_at(wall_ms());
    // A payload that does not match its digest would be refused by every follower for ever.
    if let Err(why) = check_record(record) {
        return Taken::Answered(Ok((LogId::default(), malformed(why))));
    }
    if let Some(no) = refused_zeros(proposer, record).await {
        return no;
    }
    if let Err(error) = in_charge(proposer) {
        return Taken::Answered(Err(error));
    }
    let intake = &proposer.intake;
    let asks = begins::may_ask(record);
    let no_content = || {
        let why = intake.proposes_no_content(|| proposer.consensus.view().voters)?;
        Some(Taken::Answered(Err(ProposeError::unavailable(why))))
    };
    // What asks for room is judged first: what became of it, or that there is none, is an answer for good.
    if record.brings_content()
        && !asks
        && let Some(not_now) = no_content()
    {
        return not_now;
    }
    intake.foreground().touch();
    let (mut asking, mut asker) = (begins::Asking::default(), None);
    // Most pieces bring what their attempt has spoken for: nobody looks for these.
    let mut looks = asks;
    let ticket = loop {
        // It rested while it waited for room.
        let out = tokio::select! {
            out = permit.go_on() => out,
            () = leadership.ended() => return Taken::Answered(Err(ProposeError::unavailable(NO_MORE))),
        };
        if !out {
            return Taken::Answered(Err(ProposeError::unavailable("this node is shutting down")));
        }
        if proposer.machine.ledger().ungathered(&record.header).is_some() {
            let (machine, header) = (proposer.machine.clone(), record.header.clone());
            match background::run("prepare-seal", BULK, move || machine.prepare(&header)).await {
                Some(Ok(())) => {}
                // This node stops.
                Some(Err(lost)) => return Taken::Answered(Err(ProposeError::unavailable(lost.to_string()))),
                None => {
                    return Taken::Answered(Err(ProposeError::unavailable("nothing could be prepared")));
                }
            }
        }
        // What there is now: it may have rested for long.
        let sight = looks.then(|| intake.judge().0.look());
        match leadership.admit(&proposer.machine, record, sight.as_ref()) {
            Ok(ticket) => match if asks { no_content() } else { None } {
                None => break ticket,
                Some(not_now) => {
                    leadership.release(ticket);
                    let verdict = proposer.machine.ledger().check(&record.header);
                    return sealed_already(verdict).unwrap_or(not_now);
                }
            },
            Err(not) => match *not {
                NotAdmitted::Answered(verdict) => {
                    return Taken::Answered(Ok((LogId::default(), verdict)));
                }
                NotAdmitted::Duplicate => return Taken::Duplicate,
                // It became complete just now, or was silent for long.
                NotAdmitted::Ungathered => {}
                // It brings more than its attempt has spoken for.
                NotAdmitted::NoRoom(_) if !looks => looks = true,
                NotAdmitted::NoRoom(no) => {
                    let asker = asker.get_or_insert_with(|| leadership.askers().begin(record));
                    // A piece keeps its bytes: behind it its own stream would take them, and wait for it.
                    if asks {
                        permit.rest();
                    }
                    let again = tokio::select! {
                        again = asking.again(intake.judge(), no) => again,
                        () = leadership.ended() => {
                            return Taken::Answered(Err(ProposeError::unavailable(NO_MORE)));
                        }
                    };
                    if let Err(no) = again {
                        if asks && asker.is_a_later_copy() {
                            return Taken::Duplicate;
                        }
                        return Taken::Answered(Ok((LogId::default(), begins::no_room(no))));
                    }
                }
            },
        }
    };
    let answer = match proposer.consensus.write(leadership.lead(), record.clone()).await {
        Ok(answer) => answer,
        Err(ended) => {
            leadership.release(ticket);
            return Taken::Answered(Err(ended));
        }
    };
    let (done, written) = oneshot::channel();
    let (proposer, leadership, permit) = (proposer.clone(), leadership.clone(), permit.clone());
    // A task of its own: the ticket goes back when the record is applied, and the permit when it is flushed here,
    // whoever still waits for it.
    tokio::spawn(async move {
        let (ticket, log, result) = match answer.await {
            consensus::Written::Decided(at, verdict) => {
                (Some(ticket), InLog::At(at.index), Written::Answered(Ok((at, verdict))))
            }
            consensus::Written::Later(error) => (Some(ticket), InLog::No, Written::Later(error)),
            consensus::Written::Refused(error) => (Some(ticket), InLog::No, Written::Answered(Err(error))),
            consensus::Written::Unknown(error) => {
                let error = match proposer.life.running() {
                    Err(fault @ ProposeError::Fault { .. }) => fault,
                    _ => error,
                };
                (None, InLog::Maybe, Written::Answered(Err(error)))
            }
        };
        if let Some(ticket) = ticket {
            leadership.release(ticket);
        }
        drop(done.send(result));
        let flushed = async {
            match log {
                InLog::At(index) => proposer.intake.flushed(index).await,
                InLog::Maybe => proposer.intake.settled().await,
                InLog::No => {}
            }
        };
        tokio::select! {
            () = flushed => {}
            () = proposer.life.ended() => {}
        }
        drop(permit);
    });
    Taken::Written(written)
}

/// The answer to a repeat of what is sealed: it needs no entry, and is the same for ever.
fn sealed_already(verdict: Verdict) -> Option<Taken> {
    let is = matches!(&verdict, Verdict::Accepted(Accepted::Sealed(sealed)) if sealed.already);
    is.then(|| Taken::Answered(Ok((LogId::default(), verdict))))
}

/// The wall clock, milliseconds since 1970. People read it, no verdict does.
fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Where a record is in this node's log.
enum InLog {
    At(u64),
    /// Maybe, somewhere in what the log was given so far.
    Maybe,
    No,
}

/// Until when `record` waits for the disks of a majority.
fn held_until(proposer: &Proposer, record: &LogRecord) -> Option<Instant> {
    proposer.intake.held_until(record, || proposer.consensus.view().voters)
}

/// This node runs, and a majority hears it.
fn in_charge(proposer: &Proposer) -> Result<(), ProposeError> {
    proposer.life.running().and_then(|()| proposer.quorum().reached())
}

/// The no to a record of zeros that are none, or that the ledger refuses: it is judged before anything is hashed, and what
/// has no place waits for no turn.
async fn refused_zeros(proposer: &Proposer, record: &LogRecord) -> Option<Taken> {
    if record.is_digested_here() || !matches!(record.header.kind, Some(Kind::Zero(_))) {
        return None;
    }
    if let Err(error) = in_charge(proposer) {
        return Some(Taken::Answered(Err(error)));
    }
    let verdict = proposer.machine.ledger().check(&record.header);
    if !verdict.is_accepted() {
        return Some(Taken::Answered(Ok((LogId::default(), verdict))));
    }
    match zeros_are_true(record).await {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(Taken::Answered(Ok((LogId::default(), malformed(why))))),
        None => Some(Taken::Answered(Err(ProposeError::unavailable("this node is shutting down")))),
    }
}

/// Whether what the record says are zeros have that digest, beside the runtime and one run at a time: 100 bytes from a
/// client may cost 15 ms of hashing, and followers leave it to the leader. `None` when the process ends.
async fn zeros_are_true(record: &LogRecord) -> Option<Result<(), ShapeError>> {
    static TURN: Semaphore = Semaphore::const_new(1);
    let _turn = TURN.acquire().await.ok()?;
    let record = record.clone();
    spawn_blocking(move || check_zeros(&record)).await.ok()
}

async fn answer_of(written: oneshot::Receiver<Written>) -> Written {
    let lost = || Written::Answered(Err(ProposeError::unknown("nobody waited for the answer")));
    written.await.unwrap_or_else(|_| lost())
}

/// Proposes one record in this leadership, again and again while it lacks its lease.
pub(super) async fn propose_once(
    proposer: &Arc<Proposer>,
    leadership: &Arc<Leadership>,
    record: &LogRecord,
    permit: &Arc<Permit>,
    until: Instant,
) -> Outcome {
    if let Some(turn) = held_until(proposer, record) {
        tokio::time::sleep_until(turn).await;
    }
    loop {
        let error = match write(proposer, leadership, record, permit).await {
            Taken::Answered(outcome) => return outcome,
            Taken::Duplicate => ProposeError::unavailable("the same piece is on its way already"),
            Taken::Written(written) => match settle(proposer, leadership, written).await {
                Written::Answered(outcome) => return outcome,
                Written::Later(error) => error,
            },
        };
        if Instant::now() >= until || leadership.is_over() {
            return Err(error);
        }
        tokio::time::sleep(LEASE_PAUSE).await;
    }
}

async fn settle(
    proposer: &Proposer,
    leadership: &Leadership,
    written: oneshot::Receiver<Written>,
) -> Written {
    let unknown = |why: &str| Written::Answered(Err(ProposeError::unknown(why)));
    tokio::select! {
        biased;
        written = answer_of(written) => written,
        () = leadership.ended() => unknown("leadership changed before the record was committed"),
        why = proposer.quorum().lost() => unknown(&why),
        () = tokio::time::sleep(proposer.config.answer_stall) => unknown("no majority has confirmed the record in time"),
    }
}

/// Runs one stream of proposals at the leader until it is closed or the leadership ends.
pub(super) async fn run(
    proposer: Arc<Proposer>,
    leadership: Arc<Leadership>,
    mut intake: mpsc::Receiver<Proposal>,
) {
    let mut stream = Stream {
        proposer,
        leadership,
        next: 0,
        open: BTreeMap::new(),
        waiting: FuturesUnordered::new(),
        again: BTreeMap::new(),
        parked: BTreeMap::new(),
        gap: None,
        progress: false,
        held: None,
    };
    let ended = stream.serve(&mut intake).await;
    intake.close();
    let Err(why) = ended else { return };
    let why = why.as_str();
    // What the consensus has may be in the log; what it refused or never got surely is not.
    for (_, proposal) in std::mem::take(&mut stream.open) {
        proposal.answer(Err(ProposeError::unknown(why)));
    }
    let held = stream.held.take().map(|(_, seq, proposal)| (seq, proposal));
    for (_, proposal) in std::mem::take(&mut stream.again).into_iter().chain(held) {
        proposal.answer(Err(ProposeError::unavailable(why)));
    }
    for (_, (proposal, outcome)) in std::mem::take(&mut stream.parked) {
        proposal.answer(outcome);
    }
    while let Some(proposal) = intake.recv().await {
        proposal.answer(Err(ProposeError::unavailable(why)));
    }
}

async fn sleep_until(turn: Option<Instant>) {
    if let Some(turn) = turn {
        tokio::time::sleep_until(turn).await;
    }
}

struct Stream {
    proposer: Arc<Proposer>,
    leadership: Arc<Leadership>,
    next: u64,
    /// Handed to the consensus and not answered.
    open: BTreeMap<u64, Proposal>,
    waiting: FuturesUnordered<BoxFuture<'static, (u64, Written)>>,
    /// To be proposed again, in order.
    again: BTreeMap<u64, Proposal>,
    /// Rejected while earlier ones are still open: if one of those is refused, these go again.
    parked: BTreeMap<u64, (Proposal, Outcome)>,
    /// The first one that was refused for want of a lease.
    gap: Option<u64>,
    /// Something entered the log since this was cleared.
    progress: bool,
    /// Large, and waiting for the disks of a majority until its turn has come. Nothing passes it.
    held: Option<(Instant, u64, Proposal)>,
}

impl Stream {
    /// Ok when the sender closed the stream and everything is answered.
    async fn serve(&mut self, intake: &mut mpsc::Receiver<Proposal>) -> Result<(), String> {
        let leadership = self.leadership.clone();
        let stall = self.proposer.config.answer_stall;
        let mut closed = false;
        let mut heard = Instant::now();
        let mut refused_since: Option<Instant> = None;
        let quorum = self.proposer.quorum().clone();
        let lost = quorum.lost();
        tokio::pin!(lost);
        loop {
            if self.waiting.is_empty() {
                if self.again.is_empty() {
                    refused_since = None;
                    if closed && self.held.is_none() {
                        return Ok(());
                    }
                } else {
                    if std::mem::take(&mut self.progress) {
                        refused_since = None;
                    }
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.proposer.config.leader_patience {
                        return Err("the leader has no majority".into());
                    }
                    tokio::select! {
                        () = tokio::time::sleep(LEASE_PAUSE) => {}
                        why = &mut lost => return Err(why),
                    }
                    self.gap = None;
                    for (seq, proposal) in std::mem::take(&mut self.again) {
                        self.launch(seq, proposal).await;
                    }
                    heard = Instant::now();
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = leadership.ended() => return Err("the leader has changed".into()),
                why = &mut lost => return Err(why),
                Some((seq, written)) = self.waiting.next() => {
                    heard = Instant::now();
                    self.written(seq, written);
                }
                () = sleep_until(self.held.as_ref().map(|held| held.0)), if self.held.is_some() && self.again.is_empty() => {
                    if self.waiting.is_empty() {
                        heard = Instant::now();
                    }
                    if let Some((_, seq, proposal)) = self.held.take() {
                        self.launch(seq, proposal).await;
                    }
                }
                proposal = intake.recv(), if !closed && self.held.is_none() && self.again.is_empty() => {
                    match proposal {
                        None => closed = true,
                        Some(proposal) => {
                            if self.waiting.is_empty() {
                                heard = Instant::now();
                            }
                            let seq = self.next;
                            self.next += 1;
                            match held_until(&self.proposer, &proposal.record) {
                                Some(turn) => self.held = Some((turn, seq, proposal)),
                                None => self.launch(seq, proposal).await,
                            }
                        }
                    }
                }
                () = tokio::time::sleep_until(heard + stall), if !self.waiting.is_empty() => {
                    return Err("no majority has confirmed a record in time".into());
                }
            }
        }
    }

    async fn launch(&mut self, seq: u64, proposal: Proposal) {
        match write(&self.proposer, &self.leadership, &proposal.record, &proposal.permit).await {
            Taken::Written(written) => {
                self.open.insert(seq, proposal);
                self.waiting.push(Box::pin(async move { (seq, answer_of(written).await) }));
            }
            // Judged without what this stream has on its way: judged again when that has arrived.
            Taken::Answered(Ok((_, Verdict::Rejected(_)))) if !self.open.is_empty() => {
                self.later(seq, proposal)
            }
            Taken::Answered(outcome) => self.answer(seq, proposal, outcome),
            Taken::Duplicate => self.later(seq, proposal),
        }
    }

    fn later(&mut self, seq: u64, proposal: Proposal) {
        self.gap = Some(self.gap.map_or(seq, |gap| gap.min(seq)));
        self.again.insert(seq, proposal);
    }

    fn written(&mut self, seq: u64, written: Written) {
        let Some(proposal) = self.open.remove(&seq) else { return };
        match written {
            Written::Later(_) => self.later(seq, proposal),
            Written::Answered(outcome) => {
                self.progress |= outcome.is_ok();
                self.answer(seq, proposal, outcome);
            }
        }
        self.release();
    }

    fn answer(&mut self, seq: u64, proposal: Proposal, outcome: Outcome) {
        if matches!(outcome, Ok((_, Verdict::Rejected(_)))) {
            self.parked.insert(seq, (proposal, outcome));
            self.release();
        } else {
            proposal.answer(outcome);
        }
    }

    /// Lets go of rejections that nothing earlier can explain any more.
    fn release(&mut self) {
        let first_open = self.open.keys().next().copied().unwrap_or(u64::MAX);
        while let Some(first) = self.parked.first_entry() {
            if *first.key() > first_open {
                break;
            }
            let (seq, (proposal, outcome)) = first.remove_entry();
            if self.gap.is_some_and(|gap| gap < seq) {
                self.again.insert(seq, proposal);
            } else {
                proposal.answer(outcome);
            }
        }
    }
}
