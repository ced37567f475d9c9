//! openraft's messages to and from the wire.
//!
//! Decoding trusts nothing: what is missing or out of range is an error in words. Payloads stay
//! slices of the buffer that they came in.

use std::sync::Arc;

use nativelog::record::{Header, LogRecord};
use nativelog::snapshot::SnapshotMeta;
use nativelog::store::Vote;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;

use crate::positions::{from_position, position};
use crate::proto;
use crate::types::{
    Command, RaftEntry, RaftLogId, RaftVote, TypeConfig, encode_members, log_id, members_from_proto,
    members_to_proto, raft_id, raft_vote, vote,
};

/// Entries that one append request may hold.
const ENTRIES_MAX: usize = 4096;

fn put_id(id: Option<&RaftLogId>) -> Option<proto::Position> {
    id.map(|id| position(log_id(id)))
}

fn take_id(at: Option<&proto::Position>) -> Option<RaftLogId> {
    at.map(|at| raft_id(from_position(at)))
}

fn need_id(at: Option<&proto::Position>, what: &str) -> Result<RaftLogId, String> {
    take_id(at).ok_or_else(|| format!("{what} without a position"))
}

/// A vote for the wire.
pub fn put_vote(given: Vote) -> Option<proto::Vote> {
    Some(proto::Vote { term: given.term, node: given.node, committed: given.committed })
}

/// A vote from the wire.
///
/// # Errors
/// There is none.
pub fn take_vote(given: Option<&proto::Vote>) -> Result<Vote, String> {
    let given = given.ok_or("a message without a vote")?;
    Ok(Vote { term: given.term, node: given.node, committed: given.committed })
}

fn put_raft_vote(given: &RaftVote) -> Option<proto::Vote> {
    put_vote(vote(given))
}

fn take_raft_vote(given: Option<&proto::Vote>) -> Result<RaftVote, String> {
    take_vote(given).map(raft_vote)
}

/// What a snapshot is of, for the wire.
///
/// # Errors
/// A membership that does not decode.
pub fn put_snapshot_meta(meta: &SnapshotMeta) -> Result<proto::SnapshotMeta, String> {
    let membership = meta.membership.as_ref().map(|(_, bytes)| proto::Membership::decode(bytes.clone()));
    Ok(proto::SnapshotMeta {
        position: Some(position(meta.position)),
        membership_at: meta.membership.as_ref().map(|(id, _)| position(*id)),
        membership: membership.transpose().map_err(|e| e.to_string())?,
    })
}

/// What a snapshot is of, from the wire.
///
/// # Errors
/// A missing position, or a membership that is none.
pub fn take_snapshot_meta(meta: Option<&proto::SnapshotMeta>) -> Result<SnapshotMeta, String> {
    let meta = meta.ok_or("a snapshot without a description")?;
    let at = meta.position.as_ref().ok_or("a snapshot without a position")?;
    let membership = match (&meta.membership_at, &meta.membership) {
        (None, None) => None,
        (Some(at), Some(members)) => Some((from_position(at), encode_members(&members_from_proto(members)?))),
        _ => return Err("half a membership".into()),
    };
    Ok(SnapshotMeta { position: from_position(at), membership })
}

/// A record's header and payload for the wire.
pub fn put_record(record: &LogRecord) -> proto::Record {
    proto::Record { header: record.header.wire().clone(), payload: record.payload.clone() }
}

/// A record from the wire; its shape is not checked here.
///
/// # Errors
/// A header that does not decode.
pub fn take_record(header: &bytes::Bytes, payload: bytes::Bytes) -> Result<LogRecord, String> {
    let header = Header::decode(header).map_err(|e| format!("the header of a record: {e}"))?;
    Ok(LogRecord::from_parts(Arc::new(header), payload))
}

/// An append request for the wire.
pub fn put_append(request: AppendEntriesRequest<TypeConfig>) -> proto::AppendRequest {
    let entries = request.entries.iter().map(|entry| {
        let body = match &entry.payload {
            EntryPayload::Blank => proto::entry::Body::Blank(proto::Blank {}),
            EntryPayload::Membership(members) => proto::entry::Body::Membership(members_to_proto(members)),
            EntryPayload::Normal(Command(record)) => proto::entry::Body::Record(put_record(record)),
        };
        proto::Entry { position: Some(position(log_id(&entry.log_id))), body: Some(body) }
    });
    proto::AppendRequest {
        vote: put_raft_vote(&request.vote),
        previous: put_id(request.prev_log_id.as_ref()),
        entries: entries.collect(),
        committed: put_id(request.leader_commit.as_ref()),
        ledger: None,
    }
}

/// An append request from the wire: decoded, and its entries follow each other and `previous`.
///
/// # Errors
/// What is missing, malformed or leaves a hole.
pub fn take_append(request: proto::AppendRequest) -> Result<Append, Unread> {
    if request.entries.len() > ENTRIES_MAX {
        return Err(format!("{} entries in one request", request.entries.len()).into());
    }
    let prev_log_id = take_id(request.previous.as_ref());
    let mut next = prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let log_id = need_id(entry.position.as_ref(), "an entry")?;
        if log_id.index != next {
            return Err(format!("entry {} where {next} was due", log_id.index).into());
        }
        next = next.saturating_add(1);
        let payload = match entry.body.ok_or("an entry without a body")? {
            proto::entry::Body::Blank(_) => EntryPayload::Blank,
            proto::entry::Body::Membership(members) => {
                EntryPayload::Membership(members_from_proto(&members)?)
            }
            proto::entry::Body::Record(record) => {
                let record = take_record(&record.header, record.payload);
                EntryPayload::Normal(Command(
                    record.map_err(|why| Unread { entry: Some(log_id.index), why })?,
                ))
            }
        };
        entries.push(RaftEntry { log_id, payload });
    }
    Ok(Append(AppendEntriesRequest {
        vote: take_raft_vote(request.vote.as_ref())?,
        prev_log_id,
        entries,
        leader_commit: take_id(request.committed.as_ref()),
    }))
}

/// An append request that cannot be read, and why.
#[derive(Debug)]
pub struct Unread {
    /// The entry with a header that nobody can read: it will not get better.
    pub entry: Option<u64>,
    /// Why.
    pub why: String,
}

impl From<String> for Unread {
    fn from(why: String) -> Unread {
        Unread { entry: None, why }
    }
}

impl From<&str> for Unread {
    fn from(why: &str) -> Unread {
        why.to_owned().into()
    }
}

/// An append request that was decoded.
pub struct Append(pub AppendEntriesRequest<TypeConfig>);

impl Append {
    /// How many entries it brings.
    pub fn entries(&self) -> usize {
        self.0.entries.len()
    }

    /// Index of the last of them; 0 when there is none.
    pub fn last_index(&self) -> u64 {
        self.0.entries.last().map_or(0, |entry| entry.log_id.index)
    }

    /// The records among them, with their indexes.
    pub fn records(&self) -> impl Iterator<Item = (u64, &LogRecord)> {
        self.0.entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(Command(record)) => Some((entry.log_id.index, record)),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        })
    }
}

/// An answer to an append request for the wire; how far this node is behind is still to be said.
pub fn put_appended(result: &StreamAppendResult<TypeConfig>) -> proto::AppendReply {
    use proto::append_reply::Outcome;
    let outcome = match result {
        Ok(id) => Outcome::Matched(proto::Matched { position: put_id(id.as_ref()) }),
        Err(StreamAppendError::Conflict(id)) => Outcome::Conflict(position(log_id(id))),
        Err(StreamAppendError::HigherVote(higher)) => {
            let higher = vote(higher);
            Outcome::HigherVote(proto::Vote {
                term: higher.term,
                node: higher.node,
                committed: higher.committed,
            })
        }
    };
    proto::AppendReply { outcome: Some(outcome), behind: 0 }
}

/// An answer to an append request from the wire.
///
/// # Errors
/// An empty answer.
pub fn take_appended(reply: &proto::AppendReply) -> Result<StreamAppendResult<TypeConfig>, String> {
    use proto::append_reply::Outcome;
    match reply.outcome.as_ref().ok_or("an empty answer to an append")? {
        Outcome::Matched(matched) => Ok(Ok(take_id(matched.position.as_ref()))),
        Outcome::Conflict(at) => Ok(Err(StreamAppendError::Conflict(raft_id(from_position(at))))),
        Outcome::HigherVote(higher) => Ok(Err(StreamAppendError::HigherVote(take_raft_vote(Some(higher))?))),
    }
}

/// A vote request for the wire.
pub fn put_vote_request(request: &VoteRequest<TypeConfig>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: put_raft_vote(&request.vote),
        last: put_id(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    }
}

/// A vote request from the wire.
///
/// # Errors
/// A request without a vote.
pub fn take_vote_request(request: &proto::VoteRequest) -> Result<VoteRequest<TypeConfig>, String> {
    Ok(VoteRequest {
        vote: take_raft_vote(request.vote.as_ref())?,
        last_log_id: take_id(request.last.as_ref()),
        leadership_transfer: request.leadership_transfer,
    })
}

/// A vote for the wire.
pub fn put_voted(reply: &VoteResponse<TypeConfig>) -> proto::VoteReply {
    proto::VoteReply {
        vote: put_raft_vote(&reply.vote),
        granted: reply.vote_granted,
        last: put_id(reply.last_log_id.as_ref()),
    }
}

/// A vote from the wire.
///
/// # Errors
/// An answer without a vote.
pub fn take_voted(reply: &proto::VoteReply) -> Result<VoteResponse<TypeConfig>, String> {
    Ok(VoteResponse {
        vote: take_raft_vote(reply.vote.as_ref())?,
        vote_granted: reply.granted,
        last_log_id: take_id(reply.last.as_ref()),
    })
}

/// A transfer of leadership for the wire.
pub fn put_transfer(request: &TransferLeaderRequest<TypeConfig>) -> proto::TransferRequest {
    proto::TransferRequest {
        from_leader: put_raft_vote(request.from_leader()),
        to: *request.to_node_id(),
        last: put_id(request.last_log_id()),
    }
}

/// A transfer of leadership from the wire.
///
/// # Errors
/// A request without a vote.
pub fn take_transfer(request: &proto::TransferRequest) -> Result<TransferLeaderRequest<TypeConfig>, String> {
    let from = take_raft_vote(request.from_leader.as_ref())?;
    Ok(TransferLeaderRequest::new(from, request.to, take_id(request.last.as_ref())))
}

/// The answer to a transfer of leadership for the wire.
pub fn put_transferred(reply: &TransferLeaderResponse<TypeConfig>) -> proto::TransferReply {
    use proto::transfer_reply::Outcome;
    let outcome = match reply {
        Ok(()) => Outcome::Done(proto::Blank {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            Outcome::VoteChanged(proto::VoteChanged {
                expected: put_raft_vote(expected),
                actual: put_raft_vote(actual),
            })
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Outcome::NotFlushed(proto::NotFlushed {
                expected: put_id(expected.as_ref()),
                actual: put_id(actual.as_ref()),
            })
        }
    };
    proto::TransferReply { outcome: Some(outcome) }
}

/// The answer to a transfer of leadership from the wire.
///
/// # Errors
/// An empty answer.
pub fn take_transferred(reply: &proto::TransferReply) -> Result<TransferLeaderResponse<TypeConfig>, String> {
    use proto::transfer_reply::Outcome;
    match reply.outcome.as_ref().ok_or("an empty answer to a transfer")? {
        Outcome::Done(_) => Ok(Ok(())),
        Outcome::VoteChanged(changed) => Ok(Err(TransferLeaderError::VoteChanged {
            expected: take_raft_vote(changed.expected.as_ref())?,
            actual: take_raft_vote(changed.actual.as_ref())?,
        })),
        Outcome::NotFlushed(at) => Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: take_id(at.expected.as_ref()),
            actual: take_id(at.actual.as_ref()),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use nativelog::record::{Kind, LogId};

    fn request(indexes: &[u64]) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index: &u64| RaftEntry {
            log_id: raft_id(LogId { term: 2, node: 1, index: *index }),
            payload: EntryPayload::Normal(Command(LogRecord::new(
                Kind::Tick(Default::default()),
                Bytes::from_static(b"payload"),
            ))),
        };
        AppendEntriesRequest {
            vote: raft_vote(Vote { term: 2, node: 1, committed: true }),
            prev_log_id: Some(raft_id(LogId { term: 1, node: 3, index: 6 })),
            entries: indexes.iter().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_survives_the_wire_and_its_payload_is_a_slice() {
        let bytes = Bytes::from(put_append(request(&[7, 8])).encode_to_vec());
        let range = bytes.as_ptr_range();
        let Append(taken) = take_append(proto::AppendRequest::decode(bytes.clone()).unwrap()).unwrap();
        assert_eq!(taken.entries.len(), 2);
        let EntryPayload::Normal(Command(record)) = &taken.entries[1].payload else { panic!("a record") };
        assert_eq!(&record.payload[..], b"payload");
        assert!(range.contains(&record.payload.as_ptr()), "the payload was copied");
        assert_eq!(put_append(taken), put_append(request(&[7, 8])));
    }

    #[test]
    fn what_this_binary_does_not_know_of_a_header_goes_on_to_others() {
        /// Field 60 of the record, five bytes: no version knows it.
        const UNKNOWN: [u8; 8] = [0xe2, 0x03, 5, 1, 2, 3, 4, 5];
        let mut came = put_append(request(&[7]));
        let Some(proto::entry::Body::Record(record)) = &mut came.entries[0].body else { panic!("a record") };
        record.header = [&record.header[..], &UNKNOWN].concat().into();
        let bytes = Bytes::from(came.encode_to_vec());
        let Append(taken) = take_append(proto::AppendRequest::decode(bytes).unwrap()).unwrap();
        let EntryPayload::Normal(Command(record)) = &taken.entries[0].payload else { panic!("a record") };
        assert!(record.header.wire().ends_with(&UNKNOWN));
        assert_eq!(put_append(taken), came);
    }

    #[test]
    fn holes_and_missing_parts_are_refused() {
        assert!(take_append(put_append(request(&[8]))).err().unwrap().why.contains("7 was due"));
        assert!(take_append(put_append(request(&[7, 9]))).is_err());
        let mut headless = put_append(request(&[7]));
        headless.vote = None;
        assert!(take_append(headless).is_err());
        let mut empty = put_append(request(&[7]));
        empty.entries[0].body = None;
        assert!(take_append(empty).is_err());
        assert!(take_appended(&proto::AppendReply::default()).is_err());
    }
}
