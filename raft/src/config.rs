//! How a replica is set up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::begins::RoomJudge;
use crate::depot::{Hydrate, Stores};
use crate::secret::Secret;

/// Bytes of proposals that a node keeps unanswered, whatever their origin: those that are on their way, and those that wait
/// for room on disks.
pub const PROPOSAL_BYTES: usize = 48 << 20;
/// Bytes of entries that a node takes from append streams before they are answered.
pub const APPEND_BYTES: usize = 32 << 20;
/// The largest message that a node takes from a peer, in bytes: entries of 1 MiB, and the one of a
/// chunk of 4 MiB that goes over it.
pub const MESSAGE_BYTES_MAX: usize = (5 << 20) + (512 << 10);
/// The largest part of a snapshot or of content that a node sends, in bytes.
pub const PART_BYTES: usize = 1 << 20;
/// The largest manifest file, in bytes: a million entries with longest paths are below.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 30;
/// Items of content in one request.
pub const ITEMS_MAX: usize = 512;
/// Bytes of the ranges or packed files in one request.
pub const ITEM_BYTES_MAX: u64 = 32 << 20;
/// The largest ledger that a node takes from a peer, in bytes.
pub const LEDGER_BYTES_MAX: u64 = 1 << 30;
/// HTTP/2 frames may be so long: a request of 1 MiB of payload in two frames instead of 65. Small
/// messages never wait behind a long frame, because they have connections of their own.
pub const FRAME_BYTES: u32 = 1 << 20;
/// HTTP/2 flow control window of a peer connection, in bytes.
pub const WINDOW_BYTES: u32 = 8 << 20;

/// Says why so many more bytes of content must not be taken in just now, while that is so; 0 asks whether any may. Asked
/// for every part: it must be quick.
#[derive(Clone)]
pub struct RoomProbe(pub Arc<dyn Fn(u64) -> Option<String> + Send + Sync>);

impl RoomProbe {
    /// There is always room.
    pub fn always() -> RoomProbe {
        RoomProbe(Arc::new(|_: u64| None))
    }
}

impl fmt::Debug for RoomProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomProbe")
    }
}

/// Settings of one replica.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's id; the same as the log's owner.
    pub node: u64,
    /// Random id of this node's data folder; the same as the log's owner.
    pub incarnation: [u8; 16],
    /// Name of the cluster: nodes of another name are refused.
    pub cluster_name: String,
    /// The cluster's uuid as the data folder knows it: it holds while the log has still to be applied.
    pub cluster: Option<[u8; 16]>,
    /// The Raft group; always `main` so far.
    pub group: String,
    /// What all nodes of the cluster know and prove to each other.
    pub secret: Secret,
    /// Members of a new cluster and the addresses (`host:port`) at which peers reach them, this
    /// node included. Used once, when all of them are empty; and to reach members before the log says more.
    pub members: Vec<(u64, String)>,
    /// Where clients reach this node; the others are told. Empty: they do not.
    pub clients_at: String,
    /// Heartbeat interval.
    pub heartbeat: Duration,
    /// The whole time without a leader after which another one stands: at least the first, less than the second. So
    /// long, too, a leader leads on without hearing a majority.
    pub election_timeout: (Duration, Duration),
    /// How long connecting to a peer may take.
    pub connect_timeout: Duration,
    /// A bulk stream with unanswered entries that brings no answer and carries no byte for so long is cut.
    pub append_stall: Duration,
    /// Proposals of which none was answered for so long are given up as unknown.
    pub answer_stall: Duration,
    /// How long a proposal or read looks for a leader before it is unavailable.
    pub leader_patience: Duration,
    /// How often a leader writes log time while attempts are open.
    pub tick: Duration,
    /// Bytes of proposals, and apart from them of entries from append streams, that are unanswered at a time: at
    /// most this, [`PROPOSAL_BYTES`] and [`APPEND_BYTES`]. One record always goes, however large. A node with
    /// little disk takes less, so that its ballast holds what is on its way when the disk is full; and tells the
    /// others, so that a leader does not have more on its way to it ([`crate::Replica::heed`]).
    pub in_flight_bytes: usize,
    /// Why this node cannot take content now. Beside [`crate::Replica::refuse_appends`], which holds until it is
    /// taken back, this answers for the moment.
    pub room: RoomProbe,
    /// Whether a majority of the voters has room for what begins; asked while this node leads.
    pub judge: RoomJudge,
    /// When snapshots are taken, the log is purged and space is given back.
    pub keeping: Keeping,
    /// The way to the object stores that epochs may lie in.
    pub stores: Stores,
    /// Where content that lies in one is looked for first.
    pub hydrate: Hydrate,
    /// An object that nobody needs any more is deleted after so long, by the clock of whoever leads.
    pub release_grace: Duration,
    /// What no node has, and its store neither, is looked for again after so long before anybody says that it is lost: the
    /// store may not be what it seems for a moment.
    pub gone_for: Duration,
}

/// When a replica takes snapshots, purges its log and gives space back. Every replica decides for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeping {
    /// Pause between two looks.
    pub look_every: Duration,
    /// A snapshot is taken when the WAL has grown by so many bytes since the last one.
    pub snapshot_log_bytes: u64,
    /// And when so many entries were applied since.
    pub snapshot_entries: u64,
    /// The log is purged when its WAL takes more than this; below it stays for followers that are
    /// away for a moment, unless something waits to be given back.
    pub purge_log_bytes: u64,
    /// A transfer holds the log behind its ledger until the WAL, and what waits to be given back, take this together:
    /// then the log is purged all the same, and the other side gets another snapshot, of which it has most.
    pub held_bytes: u64,
    /// So many bytes of contents without an owner are given back at once.
    pub garbage_bytes: u64,
    /// Any content without an owner is given back after so long.
    pub garbage_age: Duration,
    /// Folders of ended attempts go after so long. It is also how long a follower may be away and still
    /// be served from the log while commits go on.
    pub attempts_age: Duration,
}

impl Default for Keeping {
    fn default() -> Self {
        Keeping {
            look_every: Duration::from_secs(1),
            snapshot_log_bytes: 16 << 20,
            snapshot_entries: 100_000,
            purge_log_bytes: 64 << 20,
            held_bytes: 1 << 30,
            garbage_bytes: 64 << 20,
            garbage_age: Duration::from_secs(3),
            attempts_age: Duration::from_secs(60),
        }
    }
}

/// openraft's two times behind [`ReplicaConfig::election_timeout`]. It waits for them one after the other: for the lease
/// of the leader that was heard last, in which nobody votes for another, then for a timer that each node draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timers {
    /// The lease; and what the timer stays below. openraft takes one number for both.
    pub lease: Duration,
    /// The least timer. A vote that is asked for must be answered, and so be fsynced, within it: so it is half the lease
    /// at least, however wide the range is.
    pub timer: Duration,
}

impl Timers {
    /// `None` when a leader could not keep its lease with such heartbeats, or the timer had no range.
    pub fn of(heartbeat: Duration, (least, most): (Duration, Duration)) -> Option<Timers> {
        let lease = most / 2;
        let timer = least.saturating_sub(lease).max(lease / 2).max(heartbeat + Duration::from_millis(1));
        (lease >= heartbeat * 3 && timer < lease).then_some(Timers { lease, timer })
    }
}

impl ReplicaConfig {
    /// Settings with the project's defaults: heartbeat 500 ms, another leader stands after 3.9 to 4.4 s without one. The
    /// secret is one that nobody knows: who has peers sets it.
    pub fn new(node: u64, incarnation: [u8; 16], cluster_name: &str, members: Vec<(u64, String)>) -> Self {
        ReplicaConfig {
            node,
            incarnation,
            cluster_name: cluster_name.to_owned(),
            cluster: None,
            group: "main".to_owned(),
            secret: Secret::of_nobody(),
            members,
            clients_at: String::new(),
            heartbeat: Duration::from_millis(500),
            election_timeout: (Duration::from_millis(3900), Duration::from_millis(4400)),
            connect_timeout: Duration::from_secs(2),
            append_stall: Duration::from_secs(10),
            answer_stall: Duration::from_secs(30),
            leader_patience: Duration::from_secs(10),
            tick: Duration::from_secs(1),
            in_flight_bytes: PROPOSAL_BYTES,
            room: RoomProbe::always(),
            judge: RoomJudge::always(),
            keeping: Keeping::default(),
            stores: Stores::none(),
            hydrate: Hydrate::default(),
            release_grace: Duration::from_secs(3600),
            gone_for: Duration::from_secs(60),
        }
    }

    /// A connection with bytes out and none acknowledged for so long is given up.
    pub(crate) fn link_silence(&self) -> Duration {
        self.heartbeat * 2
    }

    /// Bytes of unanswered proposals.
    pub(crate) fn proposal_bytes(&self) -> usize {
        PROPOSAL_BYTES.min(self.in_flight_bytes).max(1)
    }

    /// Bytes of unanswered entries from append streams.
    pub(crate) fn append_bytes(&self) -> usize {
        APPEND_BYTES.min(self.in_flight_bytes).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_and_timer_end_within_the_election_timeout() {
        let ms = Duration::from_millis;
        for (heartbeat, least, most) in
            [(500, 3900, 4400), (500, 3000, 6000), (50, 200, 400), (150, 1500, 2400)]
        {
            let timers = Timers::of(ms(heartbeat), (ms(least), ms(most))).unwrap();
            assert!(timers.lease + timers.timer >= ms(least), "{timers:?}");
            assert!(timers.lease * 2 <= ms(most), "{timers:?}");
            assert!(timers.timer >= timers.lease / 2, "a slow disk has time to vote: {timers:?}");
            assert!(timers.timer < timers.lease, "{timers:?}");
            assert!(timers.timer > ms(heartbeat) && timers.lease >= ms(heartbeat) * 3, "{timers:?}");
        }
        assert_eq!(
            Timers::of(ms(400), (ms(1000), ms(2000))),
            None,
            "three heartbeats that are lost end the lease"
        );
    }
}
