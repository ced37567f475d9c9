//! How far ahead a term may be.
//!
//! A vote is kept for ever, and the next election needs a higher term: one message with a term near the top would leave
//! room for no election any more, on no node that heard of it. Terms rise by one an election, so no honest node is
//! [`AHEAD_MAX`] ahead of another one, however long that one was away.
//!
//! | who says it | above what | at most |
//! |---|---|---|
//! | a candidate | the higher of this node's term and that of the last entry of its own log | [`STEP_MAX`] |
//! | a leader, and whoever answers | this node's term | [`AHEAD_MAX`] |
//! | anybody, to a node without a vote | 0 | [`TERM_MAX`] |
//!
//! A candidate leads nobody yet: one that is damaged takes all who hear it along to its term, and those who were away have to
//! follow from where they are. So it gets a small part of the way that they can make at once. What raises terms without raising
//! the candidate's log is elections that nobody wins; `STEP_MAX` are two years of them.
//!
//! A leader and an answer must reach as far as each other: a node that is far ahead, alone, comes back only because the
//! leader takes its answer, steps down, and all go on above it.
//!
//! A node without a vote has promised nothing and knows nothing: it takes any term that leaves room for elections. Else it
//! could never join a cluster that has once jumped.

use crate::proto;

/// What a leader names, or an answer, is at most so far above this node's term: at an election a second, 136 years.
pub const AHEAD_MAX: u64 = 1 << 32;
/// How far a candidate's term may be above what its log and this node know.
pub const STEP_MAX: u64 = 1 << 24;
/// The highest term for a node that has no vote yet. As many are left for elections.
pub const TERM_MAX: u64 = 1 << 63;

/// Whether all of `named` are terms that this node, in the term `own`, may hear of. The term of no vote is 0.
///
/// # Errors
/// In words: one is too far ahead.
pub fn in_reach(own: u64, named: impl IntoIterator<Item = u64>) -> Result<(), String> {
    let highest = match own {
        0 => TERM_MAX,
        _ => own.saturating_add(AHEAD_MAX),
    };
    match named.into_iter().find(|term| *term > highest) {
        None => Ok(()),
        Some(term) if own == 0 => Err(too_far(term, "above 2^63")),
        Some(term) => Err(too_far(term, &format!("more than 2^32 above term {own} of this node"))),
    }
}

/// Whether a candidate may name these terms to this node, in the term `own`.
///
/// # Errors
/// In words: one is too far ahead.
pub fn of_a_candidate(own: u64, request: &proto::VoteRequest) -> Result<(), String> {
    let (vote, last) = (of_vote(request.vote.as_ref()), of_position(request.last.as_ref()));
    in_reach(own, vote.into_iter().chain(last))?;
    let known = own.max(last.unwrap_or(0));
    match vote.filter(|term| own > 0 && *term > known.saturating_add(STEP_MAX)) {
        None => Ok(()),
        Some(term) => Err(too_far(
            term,
            &format!(
                "more than 2^24 above term {known}, the higher of this node's and that of the candidate's log"
            ),
        )),
    }
}

fn too_far(term: u64, what: &str) -> String {
    format!("term {term} is {what}: whoever names it is damaged, and is not heard")
}

/// The term of a vote, if there is one.
pub fn of_vote(vote: Option<&proto::Vote>) -> Option<u64> {
    vote.map(|vote| vote.term)
}

/// The term of a position, if there is one.
pub fn of_position(at: Option<&proto::Position>) -> Option<u64> {
    at.map(|at| at.term)
}

/// All terms that an append or heartbeat names.
pub fn of_append(request: &proto::AppendRequest) -> impl Iterator<Item = u64> {
    let entries = request.entries.iter().filter_map(|entry| of_position(entry.position.as_ref()));
    let ledger = request.ledger.as_ref().and_then(|ledger| ledger.position.as_ref());
    of_vote(request.vote.as_ref())
        .into_iter()
        .chain(of_position(request.previous.as_ref()))
        .chain(of_position(request.committed.as_ref()))
        .chain(of_position(ledger))
        .chain(entries)
}

/// All terms that the answer to an append or heartbeat names.
pub fn of_appended(reply: &proto::AppendReply) -> Option<u64> {
    use proto::append_reply::Outcome;
    match reply.outcome.as_ref()? {
        Outcome::Matched(matched) => of_position(matched.position.as_ref()),
        Outcome::Conflict(at) => Some(at.term),
        Outcome::HigherVote(vote) => Some(vote.term),
    }
}

/// All terms that a snapshot's description names.
pub fn of_snapshot(meta: Option<&proto::SnapshotMeta>) -> impl Iterator<Item = u64> {
    let positions = meta.into_iter().flat_map(|meta| [meta.position.as_ref(), meta.membership_at.as_ref()]);
    positions.filter_map(of_position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_far_ahead_is_refused_wherever_it_stands() {
        assert!(in_reach(5, [1, 5, 6, 5 + AHEAD_MAX]).is_ok());
        assert!(in_reach(5, [6 + AHEAD_MAX]).unwrap_err().contains("not heard"));
        assert!(in_reach(u64::MAX, [u64::MAX]).is_ok());
        let vote = |term| Some(proto::Vote { term, node: 1, committed: true });
        let at = |term| Some(proto::Position { term, node: 1, index: 7 });
        let fine = || proto::AppendRequest {
            vote: vote(6),
            previous: at(5),
            entries: vec![proto::Entry { position: at(6), body: None }],
            committed: at(5),
            ledger: Some(proto::LedgerAt { position: at(5), ..Default::default() }),
        };
        assert!(in_reach(5, of_append(&fine())).is_ok());
        let far = [
            proto::AppendRequest { vote: vote(u64::MAX), ..fine() },
            proto::AppendRequest { previous: at(u64::MAX), ..fine() },
            proto::AppendRequest {
                entries: vec![proto::Entry { position: at(u64::MAX), body: None }],
                ..fine()
            },
            proto::AppendRequest { committed: at(u64::MAX), ..fine() },
            proto::AppendRequest {
                ledger: Some(proto::LedgerAt { position: at(u64::MAX), ..Default::default() }),
                ..fine()
            },
        ];
        for request in far {
            assert!(in_reach(5, of_append(&request)).is_err(), "{request:?}");
        }
        let meta =
            |position, membership_at| proto::SnapshotMeta { position, membership_at, membership: None };
        assert!(in_reach(5, of_snapshot(Some(&meta(at(5), at(4))))).is_ok());
        assert!(in_reach(5, of_snapshot(Some(&meta(at(u64::MAX), at(4))))).is_err());
        assert!(in_reach(5, of_snapshot(Some(&meta(at(5), at(u64::MAX))))).is_err());
        assert!(in_reach(5, of_snapshot(None)).is_ok());
    }

    #[test]
    fn a_candidate_makes_small_steps_and_who_was_away_follows_a_leader() {
        let candidate = |term, last: Option<u64>| proto::VoteRequest {
            vote: Some(proto::Vote { term, node: 1, committed: false }),
            last: last.map(|term| proto::Position { term, node: 1, index: 7 }),
            leadership_transfer: false,
        };
        assert!(of_a_candidate(5, &candidate(5 + STEP_MAX, Some(4))).is_ok());
        for last in [None, Some(4), Some(5)] {
            let why = of_a_candidate(5, &candidate(6 + STEP_MAX, last)).unwrap_err();
            assert!(why.contains("2^24 above term 5"), "{why}");
        }
        // All who were there took the step; who was away has its vote to give, and follows.
        let (there, away) = (5 + STEP_MAX, 3);
        assert!(of_a_candidate(away, &candidate(there + 9, Some(there))).is_ok());
        assert!(in_reach(away, [there + 9]).is_ok());
        // Its log does not speak for more than a leader could.
        assert!(of_a_candidate(5, &candidate(6 + AHEAD_MAX, Some(6 + AHEAD_MAX))).is_err());
    }

    #[test]
    fn a_node_without_a_vote_joins_a_cluster_in_any_term_that_leaves_room() {
        let far = 5 * AHEAD_MAX;
        let vote = Some(proto::Vote { term: far, node: 1, committed: false });
        let candidate = proto::VoteRequest { vote, last: None, leadership_transfer: false };
        assert!(in_reach(0, [far, TERM_MAX]).is_ok() && of_a_candidate(0, &candidate).is_ok());
        assert!(in_reach(1, [far]).is_err() && of_a_candidate(1, &candidate).is_err());
        assert!(in_reach(0, [TERM_MAX + 1]).unwrap_err().contains("2^63"));
    }
}
