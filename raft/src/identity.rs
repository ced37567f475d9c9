//! Who is who: the header of every peer call and the guard that checks it.
//!
//! A node id holds one log for ever. The log says which incarnation (random, one per data folder)
//! belongs to which id; a node whose folder was wiped has another one and is refused by everybody,
//! in both directions: it must not accept appends meant for its former self, or the quorum that
//! once held a record would no longer hold it.
//!
//! Whoever gets here has proved the secret of the cluster (`network/greeting`). Words of a refusal travel: they end in
//! answers to clients. So they hold no uuid and no incarnation; the log lines here do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nativelog::machine::Machine;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};

use crate::config::ReplicaConfig;
use crate::proto::PeerHeader;
use crate::secret::Secret;

/// Metadata key of the header.
const KEY: &str = "epochlog-peer-bin";
/// A refused peer is logged once in this time.
const REFUSAL_LOG_EVERY: Duration = Duration::from_secs(60);

/// What this node is and what the log says about everybody.
pub struct Known {
    node: u64,
    incarnation: [u8; 16],
    group: String,
    cluster_name: String,
    secret: Secret,
    /// The first members as they are configured; none where whoever proves the secret may begin.
    first: BTreeSet<u64>,
    /// What the data folder says.
    folder: Option<[u8; 16]>,
    from_log: RwLock<FromLog>,
    /// The member that last called an earlier life of this node.
    known_otherwise: watch::Sender<Option<u64>>,
    refused: Mutex<HashMap<(u64, Trouble), Instant>>,
}

#[derive(Default, Clone)]
struct FromLog {
    cluster: Option<[u8; 16]>,
    incarnations: BTreeMap<u64, [u8; 16]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trouble {
    Unproven,
    Refused,
    Header,
    Group,
    Cluster,
    Target,
    Incarnation,
}

/// How strictly a call is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Incarnations must be the ones in the log; once there is a cluster, the caller must be
    /// listed in it or name its uuid; before, it must be one of the first members.
    Full,
    /// The call only asks who is there: any incarnation may ask and be asked.
    Introduction,
}

impl Known {
    /// Nothing is known from the log yet.
    pub fn new(config: &ReplicaConfig) -> Arc<Known> {
        Arc::new(Known {
            node: config.node,
            incarnation: config.incarnation,
            group: config.group.clone(),
            cluster_name: config.cluster_name.clone(),
            secret: config.secret.clone(),
            first: config.members.iter().map(|(node, _)| *node).collect(),
            folder: config.cluster,
            from_log: RwLock::default(),
            known_otherwise: watch::Sender::new(None),
            refused: Mutex::default(),
        })
    }

    /// Takes cluster and incarnations from the ledger; called at start and after Genesis and Join.
    pub fn refresh(&self, machine: &Machine) {
        let from_log = {
            let ledger = machine.ledger();
            FromLog { cluster: ledger.cluster(), incarnations: ledger.members().collect() }
        };
        *self.from_log.write().unwrap_or_else(PoisonError::into_inner) = from_log;
    }

    fn log_says(&self) -> FromLog {
        self.from_log.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This node's id.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// This node's incarnation.
    pub fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// The cluster's uuid, once the log says it.
    pub fn cluster(&self) -> Option<[u8; 16]> {
        self.from_log.read().unwrap_or_else(PoisonError::into_inner).cluster
    }

    /// The incarnation that the log knows for `node`.
    pub fn incarnation_of(&self, node: u64) -> Option<[u8; 16]> {
        self.from_log.read().unwrap_or_else(PoisonError::into_inner).incarnations.get(&node).copied()
    }

    /// The member that last called this node under another incarnation than it has: as whom the log knows it.
    pub fn known_otherwise(&self) -> watch::Receiver<Option<u64>> {
        self.known_otherwise.subscribe()
    }

    /// What peers prove to each other.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The header of a greeting of node `to`, which has still to prove that it may know more.
    pub(crate) fn introduction(&self, to: u64) -> PeerHeader {
        PeerHeader {
            group: self.group.clone(),
            cluster_name: self.cluster_name.clone(),
            from: self.node,
            to,
            ..PeerHeader::default()
        }
    }

    /// Who greets, once it has proved the secret.
    ///
    /// # Errors
    /// In words: it is no peer of this node, or means another one.
    pub(crate) fn greet(&self, header: &PeerHeader) -> Result<u64, String> {
        let me = self.node;
        if header.from == me {
            return Err(format!(
                "this is node {me}, and so says who calls: each node needs an id of its own"
            ));
        }
        self.judge(header, Check::Introduction).map(|()| header.from).map_err(|(_, why)| why)
    }

    /// A connection from the address `from` was not let in; logged once a minute for all who did not prove the secret, and
    /// for each `proved` node that did: whoever knocks without it hides no member with a wrong name or id.
    pub(crate) fn not_let_in(&self, from: &str, proved: Option<u64>, why: &str) {
        let due = match proved {
            Some(node) => self.is_due(node, Trouble::Refused),
            None => self.is_due(0, Trouble::Unproven),
        };
        if due {
            tracing::warn!(node = self.node, from, why, "a connection for peers is refused");
        }
    }

    /// Puts the header for a call to `to` into `metadata`.
    pub fn stamp(&self, to: u64, check: Check, metadata: &mut MetadataMap) {
        let from_log = self.log_says();
        let expected = from_log.incarnations.get(&to).filter(|_| check == Check::Full);
        let header = PeerHeader {
            group: self.group.clone(),
            cluster_name: self.cluster_name.clone(),
            cluster: from_log.cluster.or(self.folder).map(|id| id.to_vec().into()).unwrap_or_default(),
            from: self.node,
            from_incarnation: self.incarnation.to_vec().into(),
            to,
            to_incarnation: expected.map(|id| id.to_vec().into()).unwrap_or_default(),
        };
        metadata.insert_bin(KEY, BinaryMetadataValue::from_bytes(&header.encode_to_vec()));
    }

    /// Checks the header of a call that came over a connection that node `proved` has proved, and says who calls.
    ///
    /// # Errors
    /// `FailedPrecondition` with the reason in words; logged once per peer and minute.
    pub fn admit(&self, proved: u64, metadata: &MetadataMap, check: Check) -> Result<u64, Status> {
        let header = match read_header(metadata) {
            Ok(header) => header,
            Err(why) => return Err(self.refuse(proved, Trouble::Header, why)),
        };
        // First: what somebody says in another's name has no effect here, not even that this node was wiped.
        if header.from != proved {
            let why = format!("this connection was proved by node {proved}, not by node {}", header.from);
            return Err(self.refuse(proved, Trouble::Header, why));
        }
        match self.judge(&header, check) {
            Ok(()) => Ok(header.from),
            Err((trouble, why)) => Err(self.refuse(header.from, trouble, why)),
        }
    }

    fn judge(&self, header: &PeerHeader, check: Check) -> Result<(), (Trouble, String)> {
        let (me, from) = (self.node, header.from);
        if header.group != self.group {
            return Err((Trouble::Group, format!("node {me} has no group {:?}", header.group)));
        }
        if header.cluster_name != self.cluster_name {
            let why = format!(
                "node {me} belongs to cluster {:?}, not {:?}",
                self.cluster_name, header.cluster_name
            );
            return Err((Trouble::Cluster, why));
        }
        let from_log = self.log_says();
        let mine = from_log.cluster.or(self.folder);
        if let Some(mine) = mine
            && !header.cluster.is_empty()
            && header.cluster[..] != mine
        {
            tracing::debug!(
                node = me,
                from,
                mine = hex(&mine),
                its = hex(&header.cluster),
                "another cluster"
            );
            let why = format!("node {me} belongs to another cluster of the same name than node {from}");
            return Err((Trouble::Cluster, why));
        }
        if header.to != me {
            return Err((
                Trouble::Target,
                format!("this is node {me}, not node {}: check the addresses", header.to),
            ));
        }
        if check == Check::Introduction {
            return Ok(());
        }
        if !header.to_incarnation.is_empty() && header.to_incarnation[..] != self.incarnation {
            self.known_otherwise.send_replace(Some(from));
            return Err((Trouble::Incarnation, wiped(me, &header.to_incarnation, &self.incarnation)));
        }
        let stranger =
            || (Trouble::Incarnation, format!("node {from} is not known in the log of this cluster"));
        match from_log.incarnations.get(&from) {
            Some(known) if header.from_incarnation[..] != *known => {
                Err((Trouble::Incarnation, wiped(from, known, &header.from_incarnation)))
            }
            // A listed member proves itself by its incarnation, also while it has Genesis still to apply and names no uuid.
            Some(_) => Ok(()),
            // One that this log does not list may have joined in a part of the log that is still to come from it, or that
            // only its vote can save. It knows the secret; it has to name this cluster, too.
            None if mine.is_some() && !header.cluster.is_empty() => Ok(()),
            // It may be a first member that Genesis had not waited for: it is asked who it is, and then gets its Join.
            None if from_log.cluster.is_some() => Err(stranger()),
            None if !self.first.is_empty() && !self.first.contains(&from) => Err(stranger()),
            None => Ok(()),
        }
    }

    fn refuse(&self, from: u64, trouble: Trouble, why: String) -> Status {
        if self.is_due(from, trouble) {
            tracing::warn!(node = self.node, from, why, "a peer call is refused");
        }
        Status::failed_precondition(why)
    }

    /// Whether this is to be logged: once in a while.
    fn is_due(&self, from: u64, trouble: Trouble) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due =
            refused.get(&(from, trouble)).is_none_or(|last| now.duration_since(*last) >= REFUSAL_LOG_EVERY);
        // Node ids in a header are whatever a stranger wrote: keep the memory of them bounded.
        if due && refused.len() >= 256 {
            refused.clear();
        }
        if due {
            refused.insert((from, trouble), now);
        }
        due
    }
}

fn read_header(metadata: &MetadataMap) -> Result<PeerHeader, String> {
    let value = metadata.get_bin(KEY).ok_or("a peer call without its header")?;
    let bytes = value.to_bytes().map_err(|e| format!("the header of a peer call: {e}"))?;
    PeerHeader::decode(bytes).map_err(|e| format!("the header of a peer call: {e}"))
}

fn wiped(node: u64, known: &[u8], found: &[u8]) -> String {
    tracing::debug!(node, known = hex(known), found = hex(found), "another incarnation");
    format!(
        "node {node} is known with another incarnation: its data folder was wiped, and what it promised is lost: it must not come back under this id"
    )
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use std::fmt::Write;
        write!(text, "{byte:02x}").expect("writing to a String never fails");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(node: u64, name: &str) -> Arc<Known> {
        Known::new(&ReplicaConfig::new(node, [node as u8; 16], name, vec![]))
    }

    fn call(from: &Known, to: u64, check: Check) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        from.stamp(to, check, &mut metadata);
        metadata
    }

    fn learn(known: &Known, cluster: u8, incarnations: &[(u64, u8)]) {
        let incarnations = incarnations.iter().map(|(node, byte)| (*node, [*byte; 16])).collect();
        *known.from_log.write().unwrap() = FromLog { cluster: Some([cluster; 16]), incarnations };
    }

    #[test]
    fn strangers_may_call_while_nothing_is_known() {
        assert_eq!(known(2, "c").admit(1, &call(&known(1, "c"), 2, Check::Full), Check::Full).unwrap(), 1);
    }

    #[test]
    fn another_cluster_group_or_target_is_refused() {
        let two = known(2, "c");
        let other = two.admit(1, &call(&known(1, "d"), 2, Check::Full), Check::Full).unwrap_err();
        assert!(other.message().contains("cluster"), "{other}");
        let target = two.admit(1, &call(&known(1, "c"), 3, Check::Full), Check::Full).unwrap_err();
        assert!(target.message().contains("this is node 2"), "{target}");
        let (one, two) = (known(1, "c"), known(2, "c"));
        learn(&one, 7, &[]);
        learn(&two, 8, &[]);
        let uuid = two.admit(1, &call(&one, 2, Check::Introduction), Check::Introduction).unwrap_err();
        assert!(uuid.message().contains("another cluster of the same name"), "{uuid}");
        assert!(two.admit(1, &MetadataMap::new(), Check::Full).is_err());
    }

    #[test]
    fn a_folder_of_another_cluster_is_refused_before_its_log_is_applied() {
        let mut config = ReplicaConfig::new(3, [30; 16], "prod", vec![]);
        config.cluster = Some([8; 16]);
        let here = Known::new(&config);
        let caller = known(1, "prod");
        learn(&caller, 9, &[(1, 1), (3, 3)]);
        let status = here.admit(1, &call(&caller, 3, Check::Full), Check::Full).unwrap_err();
        assert!(status.message().contains("belongs to another cluster"), "{status}");
        assert!(!status.message().contains("0909") && !status.message().contains("0808"), "{status}");
    }

    #[test]
    fn who_knows_the_cluster_hears_no_strangers() {
        let (one, two, three) = (known(1, "c"), known(2, "c"), known(3, "c"));
        learn(&one, 7, &[(1, 1), (2, 2)]);
        // Neither listed nor with the uuid.
        let status = one.admit(3, &call(&three, 1, Check::Full), Check::Full).unwrap_err();
        assert!(status.message().contains("not known in the log"), "{status}");
        assert!(one.admit(3, &call(&three, 1, Check::Introduction), Check::Introduction).is_ok());
        // A listed member that has not applied Genesis yet, in both directions.
        assert_eq!(one.admit(2, &call(&two, 1, Check::Full), Check::Full).unwrap(), 2);
        assert_eq!(two.admit(1, &call(&one, 2, Check::Full), Check::Full).unwrap(), 1);
        // A fresh member catches up; then it leads, and the log of one does not list it yet.
        assert!(three.admit(1, &call(&one, 3, Check::Full), Check::Full).is_ok());
        learn(&three, 7, &[(1, 1), (2, 2), (3, 3)]);
        assert_eq!(one.admit(3, &call(&three, 1, Check::Full), Check::Full).unwrap(), 3);
    }

    #[test]
    fn before_the_first_record_the_first_members_are_heard_and_then_who_names_the_cluster() {
        let members = vec![(1, "a:1".to_owned()), (2, "b:1".to_owned())];
        let one = Known::new(&ReplicaConfig::new(1, [1; 16], "c", members));
        let (two, three) = (known(2, "c"), known(3, "c"));
        assert_eq!(one.admit(2, &call(&two, 1, Check::Full), Check::Full).unwrap(), 2);
        let refused = || {
            let status = one.admit(3, &call(&three, 1, Check::Full), Check::Full).unwrap_err();
            assert!(status.message().contains("node 3 is not known in the log"), "{status}");
        };
        refused();
        // It has come to know a cluster, of which node 1 knows nothing yet.
        learn(&three, 7, &[(1, 1), (2, 2), (3, 3)]);
        refused();
        // A node that was away hears of members that are newer than its log.
        learn(&one, 7, &[(1, 1), (2, 2)]);
        assert_eq!(one.admit(3, &call(&three, 1, Check::Full), Check::Full).unwrap(), 3);
        // Also while it knows its cluster from its folder alone.
        let config = ReplicaConfig::new(1, [1; 16], "c", vec![(1, "a:1".to_owned()), (2, "b:1".to_owned())]);
        let fresh = Known::new(&ReplicaConfig { cluster: Some([7; 16]), ..config });
        assert_eq!(fresh.admit(3, &call(&three, 1, Check::Full), Check::Full).unwrap(), 3);
        // In another incarnation than the log's it is not.
        learn(&one, 7, &[(1, 1), (2, 2), (3, 33)]);
        let wiped = one.admit(3, &call(&three, 1, Check::Full), Check::Full).unwrap_err();
        assert!(wiped.message().contains("another incarnation"), "{wiped}");
    }

    #[test]
    fn a_greeting_tells_nobody_who_this_node_is() {
        let mut config = ReplicaConfig::new(3, [30; 16], "prod", vec![]);
        config.cluster = Some([8; 16]);
        let header = Known::new(&config).introduction(1);
        assert!(header.cluster.is_empty() && header.from_incarnation.is_empty(), "{header:?}");
        assert_eq!(known(1, "prod").greet(&header).unwrap(), 3);
        for (listener, why) in [
            (known(3, "prod"), "this is node 3"),
            (known(2, "prod"), "not node 1"),
            (known(1, "test"), "cluster"),
        ] {
            assert!(listener.greet(&header).unwrap_err().contains(why), "{why}");
        }
    }

    #[test]
    fn a_flood_of_strangers_hides_no_refusal_of_a_node() {
        let one = known(1, "c");
        assert!(one.is_due(0, Trouble::Unproven) && !one.is_due(0, Trouble::Unproven));
        for node in [2, 3] {
            assert!(one.is_due(node, Trouble::Refused) && !one.is_due(node, Trouble::Refused));
        }
    }

    #[test]
    fn a_wiped_node_is_refused_in_both_directions() {
        let (one, two) = (known(1, "c"), known(2, "c"));
        learn(&one, 7, &[(1, 1), (2, 99)]);
        // In the name of a member, by who has proved to be another node.
        let in_its_name = two.admit(3, &call(&one, 2, Check::Full), Check::Full).unwrap_err();
        assert!(in_its_name.message().contains("proved by node 3"), "{in_its_name}");
        assert_eq!(*two.known_otherwise().borrow(), None);
        let target = two.admit(1, &call(&one, 2, Check::Full), Check::Full).unwrap_err();
        assert!(target.message().contains("it must not come back under this id"), "{target}");
        assert_eq!(*two.known_otherwise().borrow(), Some(1), "and it hears of it");
        assert_eq!(target.code(), tonic::Code::FailedPrecondition);
        let source = one.admit(2, &call(&two, 1, Check::Full), Check::Full).unwrap_err();
        assert!(source.message().contains("node 2 is known with another incarnation"), "{source}");
        assert!(
            !source.message().contains("6363") && !target.message().contains("0202"),
            "{source} {target}"
        );
        assert!(one.admit(2, &call(&two, 1, Check::Introduction), Check::Introduction).is_ok());
    }
}
