//! How far ahead a term may be.
//!
//! A vote is kept for ever, and the next election needs a higher term: one message with a term near the top would leave
//! room for no election any more, on no node that heard of it. Terms rise by one an election, so no honest node is
//! [`AHEAD_MAX`] ahead of another one, however long that one was away.

use crate::proto;

/// A term that is further above this node's own is refused: at an election a second, 136 years.
pub const AHEAD_MAX: u64 = 1 << 32;

/// Whether all of `named` are terms that this node, in the term `own`, may hear of.
///
/// # Errors
/// In words: one is too far ahead.
pub fn in_reach(own: u64, named: impl IntoIterator<Item = u64>) -> Result<(), String> {
    let highest = own.saturating_add(AHEAD_MAX);
    match named.into_iter().find(|term| *term > highest) {
        None => Ok(()),
        Some(term) => Err(format!(
            "term {term} is more than 2^32 above term {own} of this node: whoever names it is damaged, and is not heard"
        )),
    }
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
}
