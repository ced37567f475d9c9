//! openraft's types, bound to ours.
//!
//! Leader ids are *advanced*: `(term, node)`, totally ordered. A position in the log so names the
//! node that proposed it, and a vote for a lower node in the same term is overridden instead of
//! splitting the vote. Nothing outside this crate sees any of these types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use nativelog::ledger::Verdict;
use nativelog::record::{Header, LogId, LogRecord};
use nativelog::store::Vote;
use openraft::impls::leader_id_adv::LeaderId;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::proto;

openraft::declare_raft_types!(
    /// The types that openraft works with.
    pub TypeConfig:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = openraft::BasicNode,
);

/// `(term, node)` of a leader.
pub type Lead = LeaderId<u64, u64>;
/// openraft's log id.
pub type RaftLogId = openraft::LogId<Lead>;
/// openraft's vote.
pub type RaftVote = openraft::Vote<Lead>;
/// openraft's payload of an entry.
pub type Payload = openraft::EntryPayload<Command, u64, openraft::BasicNode>;
/// openraft's entry.
pub type RaftEntry = openraft::Entry<Lead, Payload>;
/// openraft's membership.
pub type Members = openraft::Membership<u64, openraft::BasicNode>;
/// openraft's membership with its position.
pub type StoredMembers = openraft::StoredMembership<Lead, u64, openraft::BasicNode>;

/// A record on its way through openraft. Cloning shares header and payload.
#[derive(Clone)]
pub struct Command(pub LogRecord);

/// openraft formats entries in its debug logs: no payload and no paths ever show there.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// openraft's traits ask for serde; the wire and the disk use the protobuf frames of our own.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.0.header.wire()[..], &self.0.payload[..]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (header, payload) = <(Vec<u8>, Vec<u8>)>::deserialize(deserializer)?;
        let header = Header::decode(&header).map_err(serde::de::Error::custom)?;
        Ok(Command(LogRecord::from_parts(Arc::new(header), Bytes::from(payload))))
    }
}

/// The ledger's answer to one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Verdict);

/// Our position as openraft's.
pub fn raft_id(id: LogId) -> RaftLogId {
    RaftLogId::new(LeaderId { term: id.term, node_id: id.node }, id.index)
}

/// openraft's position as ours.
pub fn log_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

/// Our vote as openraft's.
pub fn raft_vote(vote: Vote) -> RaftVote {
    RaftVote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

/// openraft's vote as ours.
pub fn vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// A membership as it lies in the log and travels.
pub fn members_to_proto(members: &Members) -> proto::Membership {
    let configs = members.get_joint_config().iter();
    proto::Membership {
        configs: configs.map(|voters| proto::Voters { nodes: voters.iter().copied().collect() }).collect(),
        members: members
            .nodes()
            .map(|(node, at)| proto::Member { node: *node, address: at.addr.clone() })
            .collect(),
    }
}

/// Reads a membership back.
///
/// # Errors
/// A voter without an address, or an empty configuration.
pub fn members_from_proto(members: &proto::Membership) -> Result<Members, String> {
    let configs = members.configs.iter().map(|voters| voters.nodes.iter().copied().collect::<BTreeSet<_>>());
    let nodes = members.members.iter().map(|m| (m.node, openraft::BasicNode::new(&m.address)));
    Members::new(configs.collect(), nodes.collect::<BTreeMap<_, _>>()).map_err(|e| e.to_string())
}

/// Bytes of a membership in the log.
pub fn encode_members(members: &Members) -> Bytes {
    members_to_proto(members).encode_to_vec().into()
}

/// Reads bytes of a membership in the log.
///
/// # Errors
/// Bytes that are no valid membership.
pub fn decode_members(bytes: &Bytes) -> Result<Members, String> {
    let decoded = proto::Membership::decode(bytes.clone()).map_err(|e| e.to_string())?;
    members_from_proto(&decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nativelog::record::Kind;

    #[test]
    fn a_command_never_shows_its_payload() {
        let record = LogRecord::new(Kind::Tick(Default::default()), Bytes::from_static(b"secret"));
        let command = Command(record);
        assert!(!format!("{command:?} {command}").contains("secret"));
    }

    #[test]
    fn memberships_survive_the_log() {
        let nodes = BTreeMap::from([
            (1, openraft::BasicNode::new("a:1")),
            (2, openraft::BasicNode::new("b:2")),
            (9, openraft::BasicNode::new("learner:9")),
        ]);
        let members = Members::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes).unwrap();
        assert_eq!(decode_members(&encode_members(&members)).unwrap(), members);
        assert!(decode_members(&Bytes::from_static(&[0xff, 0xff])).is_err());
    }

    #[test]
    fn votes_and_positions_convert_both_ways() {
        let id = LogId { term: 3, node: 2, index: 77 };
        assert_eq!(log_id(&raft_id(id)), id);
        let given = Vote { term: 4, node: 1, committed: true };
        assert_eq!(vote(&raft_vote(given)), given);
        assert!(
            raft_vote(Vote { term: 4, node: 2, committed: false })
                > raft_vote(Vote { term: 4, node: 1, committed: false })
        );
    }
}
