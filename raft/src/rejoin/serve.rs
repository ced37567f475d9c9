//! The leader's part of a rejoin.
//!
//! Its term must be above that of the vote that the lost log bound the other node to: only then has it never
//! counted an acknowledgement of that log, and every entry that such an acknowledgement helped to commit is in
//! its own. A leader whose term is not hands leadership over, to a voter that answers, and says "again".

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use nativelog::machine::Pin;
use nativelog::snapshot::Capture;
use tonic::Status;

use crate::config::PART_BYTES;
use crate::membership::Members;
use crate::network::convert;
use crate::proto::{self, RejoinAgain, rejoin_part::Part};

/// How long the ledger may take to show what was committed when the question came.
const CATCH_UP: Duration = Duration::from_secs(10);
/// News while the other node fetches.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// A candidate for leadership has so long to say that it is there.
const PROBE: Duration = Duration::from_millis(500);

fn again(why: impl Into<String>, leader: Option<u64>) -> RejoinAgain {
    RejoinAgain { why: why.into(), leader }
}

/// The state of this leader as parts; then news until the other side has all that it needs.
pub fn parts(
    members: Arc<Members>,
    asker: u64,
    vote_term: u64,
) -> impl Stream<Item = Result<proto::RejoinPart, Status>> + Send {
    let part = |part: Part| Ok(proto::RejoinPart { part: Some(part) });
    async_stream::stream! {
        let (head, capture, pin) = match state(&members, asker, vote_term).await {
            Ok(state) => state,
            Err(again) => {
                yield part(Part::Again(again));
                return;
            }
        };
        yield part(Part::Head(head));
        let ledger = capture.ledger;
        for at in (0..ledger.len()).step_by(PART_BYTES) {
            yield part(Part::Data(ledger.slice(at..ledger.len().min(at + PART_BYTES))));
        }
        // Dropped with the stream, when the other side closes it or is gone.
        let _pin = pin;
        while !members.proposer.life.is_closing() {
            tokio::time::sleep(WORKING_EVERY).await;
            yield part(Part::Working(proto::Blank {}));
        }
    }
}

async fn state(
    members: &Members,
    asker: u64,
    vote_term: u64,
) -> Result<(proto::RejoinHead, Capture, Pin), RejoinAgain> {
    let proposer = &members.proposer;
    let Some(leadership) = proposer.leading.now().filter(|leadership| leadership.is_ready()) else {
        let leader = proposer.consensus.leader().filter(|leader| *leader != proposer.config.node);
        return Err(again("this node does not lead", leader));
    };
    let lead = leadership.lead();
    if lead.term <= vote_term {
        return Err(hand_over(members, asker, lead.term, vote_term).await);
    }
    // Everything that was ever committed with the help of the lost log is at or below this.
    let at = proposer.consensus.read_index().await.map_err(|error| again(error.to_string(), None))?;
    let mut applied = proposer.machine.applied();
    let seen = tokio::time::timeout(CATCH_UP, applied.wait_for(|applied| *applied > at.index));
    let seen = matches!(seen.await, Ok(Ok(_)));
    if !seen {
        return Err(again("this leader has not applied all that is committed yet", None));
    }
    let machine = proposer.machine.clone();
    let pin = tokio::task::spawn_blocking(move || machine.pin()).await;
    let pin = pin.map_err(|panic| again(panic.to_string(), None))?;
    let capture = proposer.consensus.capture().await.map_err(|ended| again(ended.to_string(), None))?;
    let capture = capture.ok_or_else(|| again("nothing is applied here", None))?;
    if leadership.is_over() {
        return Err(again("leadership changed", None));
    }
    let meta = convert::put_snapshot_meta(&capture.meta).map_err(|why| again(why, None))?;
    let head = proto::RejoinHead {
        vote: convert::put_vote(lead),
        meta: Some(meta),
        bytes: capture.ledger.len() as u64,
    };
    tracing::info!(asker, vote_term, position = %capture.meta.position, "a node whose log is lost gets the state of the cluster");
    Ok((head, capture, pin))
}

/// Lets another live voter lead, in a higher term.
async fn hand_over(members: &Members, asker: u64, term: u64, vote_term: u64) -> RejoinAgain {
    let proposer = &members.proposer;
    for to in proposer.consensus.view().successors(proposer.config.node) {
        if to == asker {
            continue;
        }
        if !matches!(tokio::time::timeout(PROBE, members.hello_of(to)).await, Ok(Ok(_))) {
            continue;
        }
        tracing::info!(
            asker,
            term,
            vote_term,
            to,
            "leadership is handed over: a node whose log is lost voted in this term or a later one"
        );
        return match proposer.consensus.hand_over(to).await {
            Ok(()) => again(format!("term {term} is not above {vote_term}: node {to} is to lead"), Some(to)),
            Err(ended) => again(ended.to_string(), None),
        };
    }
    again(format!("term {term} is not above {vote_term}, and no other voter is there to lead"), None)
}
