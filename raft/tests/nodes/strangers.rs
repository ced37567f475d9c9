//! Who does not know the secret of a cluster gets nothing from its peers' door, whatever it says; and who does cannot
//! make a term unreachable.

use std::future::Future;

use crate::cluster::{Cluster, Commit, commit_epoch, directory, quick, within};
use raft::proto;
use raft::testing::{Check, Client, Known, Lane, Peers};
use raft::{ReplicaConfig, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Response, Status};

/// A caller of node `to` that claims to be `from`, and knows whatever secret it knows.
fn caller(config: ReplicaConfig, to: (u64, &str)) -> Client {
    let peers = Peers::new(&config, Known::new(&config));
    peers.client(to.0, to.1, Lane::Control, Check::Full).unwrap()
}

async fn no<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Status {
    match call.await {
        Ok(_) => panic!("it was answered"),
        Err(status) => status,
    }
}

fn vote(term: u64) -> Option<proto::Vote> {
    Some(proto::Vote { term, node: 1, committed: true })
}

fn position(term: u64, index: u64) -> Option<proto::Position> {
    Some(proto::Position { term, node: 1, index })
}

fn append(term: u64) -> proto::AppendRequest {
    proto::AppendRequest { vote: vote(term), ..Default::default() }
}

fn candidate(term: u64) -> proto::VoteRequest {
    proto::VoteRequest { vote: vote(term), last: position(term, u64::MAX), leadership_transfer: true }
}

fn snapshot(term: u64) -> proto::SnapshotPart {
    let meta = proto::SnapshotMeta { position: position(term, 7), ..Default::default() };
    let head = proto::SnapshotHead { vote: vote(term), meta: Some(meta), bytes: 0 };
    proto::SnapshotPart { part: Some(proto::snapshot_part::Part::Head(head)) }
}

/// Every call there is, as somebody makes it who wants to lead in `term`.
async fn every_call(client: &Client, term: u64) -> Vec<(&'static str, Status)> {
    let record = proto::ProposeRequest::default;
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g] = std::array::from_fn(|_| client.clone());
    let [mut h, mut i, mut j, mut k, mut l, mut m] = std::array::from_fn(|_| client.clone());
    let [mut n, mut o, mut p, mut q, mut r, mut s, mut t] = std::array::from_fn(|_| client.clone());
    let transfer = proto::TransferRequest { from_leader: vote(term), to: 1, last: position(term, 7) };
    vec![
        ("Hello", no(a.hello(proto::HelloRequest {})).await),
        ("Vote", no(b.vote(candidate(term))).await),
        ("PreVote", no(c.pre_vote(candidate(term))).await),
        ("Heartbeat", no(d.heartbeat(append(term))).await),
        ("TransferLeader", no(e.transfer_leader(transfer)).await),
        ("StreamAppend", no(f.stream_append(tokio_stream::iter([append(term)]))).await),
        ("Propose", no(g.propose(record())).await),
        ("ProposeStream", no(h.propose_stream(tokio_stream::iter([record()]))).await),
        ("ReadIndex", no(i.read_index(proto::ReadIndexRequest {})).await),
        ("Status", no(j.status(proto::StatusRequest {})).await),
        ("Pulse", no(k.pulse(proto::PulseRequest {})).await),
        ("InstallSnapshot", no(l.install_snapshot(tokio_stream::iter([snapshot(term)]))).await),
        ("FetchManifest", no(m.fetch_manifest(proto::ManifestRequest::default())).await),
        ("FetchBlobs", no(n.fetch_blobs(proto::BlobsRequest::default())).await),
        ("StoredBytes", no(t.stored_bytes(proto::StoredRequest::default())).await),
        ("FetchRanges", no(o.fetch_ranges(proto::RangesRequest::default())).await),
        ("FetchPacked", no(p.fetch_packed(proto::PackedRequest::default())).await),
        ("FetchPages", no(q.fetch_pages(proto::PagesRequest::default())).await),
        ("FetchPayload", no(r.fetch_payload(proto::PayloadRequest::default())).await),
        ("Rejoin", no(s.rejoin(proto::RejoinRequest { vote_term: term })).await),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_secret_every_call_is_refused_and_nothing_changes() {
    let cluster = Cluster::start("guarded", 3).await;
    commit_epoch(&cluster, "job", 1, 1 << 20).await;
    let ledger = cluster.agree().await;
    let leader = cluster.leader().await;
    let before: Vec<_> =
        cluster.nodes.values().map(|node| (node.replica.status().term, node.log.vote())).collect();
    for node in cluster.nodes.values() {
        // It knows all the rest: the name, the ids, the incarnations.
        let from = node.id % 3 + 1;
        let config = quick(from, [from as u8; 16], "guarded", vec![]);
        let config = ReplicaConfig { secret: Secret::of_nobody(), ..config };
        let stranger = caller(config, (node.id, &node.address));
        for (call, refused) in every_call(&stranger, 1000).await {
            assert_eq!(refused.code(), Code::Unavailable, "{call}: {refused}");
            assert!(refused.message().contains("cluster.secret_file"), "{call}: {refused}");
        }
    }
    let after: Vec<_> =
        cluster.nodes.values().map(|node| (node.replica.status().term, node.log.vote())).collect();
    assert_eq!(before, after);
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.agree().await, ledger);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_did_not_come_through_the_door_is_refused() {
    let cluster = Cluster::start("doorless", 1).await;
    cluster.leader().await;
    let node = &cluster.nodes[&1];
    // The service on a port like that of the clients.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = node.replica.service();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(raft::network::server().add_service(service).serve_with_incoming(incoming));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = proto::peer_client::PeerClient::new(channel.connect().await.unwrap());
    let refused = client.hello(proto::HelloRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    server.abort();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stranger_is_told_a_nonce_and_nothing_else() {
    let cluster = Cluster::start("silent", 1).await;
    cluster.leader().await;
    let mut told = Vec::new();
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 66]] {
        let mut stream = TcpStream::connect(&cluster.nodes[&1].address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Hung up on, in one way or the other.
        drop(stream.read_to_end(&mut answer).await);
        assert!(answer.len() <= 40, "{answer:?}");
        told.push(answer);
    }
    assert!(told[0] != told[1] && told[1] != told[2], "each connection has a nonce of its own");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_term_far_ahead_is_refused_also_from_a_peer_and_the_leader_stays() {
    let cluster = Cluster::start("terms", 3).await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    cluster.agree().await;
    let term = target.replica.status().term;
    let config = quick(leader, [leader as u8; 16], "terms", vec![]);
    let mut peer = caller(config, (target.id, &target.address));
    for far in [u64::MAX, u64::MAX - 1, term + (1 << 32) + 1] {
        let transfer = proto::TransferRequest { from_leader: vote(far), to: target.id, last: None };
        let calls = [
            no(peer.vote(candidate(far))).await,
            no(peer.pre_vote(candidate(far))).await,
            no(peer.heartbeat(append(far))).await,
            no(peer.transfer_leader(transfer)).await,
            no(peer.install_snapshot(tokio_stream::iter([snapshot(far)]))).await,
            no(peer.rejoin(proto::RejoinRequest { vote_term: far })).await,
            {
                let stream = peer.stream_append(tokio_stream::iter([append(far)])).await.unwrap();
                stream.into_inner().message().await.unwrap_err()
            },
        ];
        for refused in calls {
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains("2^32"), "{refused}");
        }
    }
    assert_eq!(target.replica.status().term, term);
    assert_eq!(cluster.leader().await, leader);
    let source = directory(1 << 20);
    Commit::of(source.path(), "job", 1).write(source.path(), &target.replica).await;
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_brings_no_vote_but_its_own() {
    let cluster = Cluster::start("voices", 3).await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    cluster.agree().await;
    let (term, third) = (target.replica.status().term, 6 - leader - target.id);
    let mut peer = caller(quick(third, [third as u8; 16], "voices", vec![]), (target.id, &target.address));
    // In the leader's name: in its present term, and in the next one.
    for term in [term, term + 1] {
        let vote = Some(proto::Vote { term, node: leader, committed: true });
        let candidate =
            || proto::VoteRequest { vote, last: position(term, 1 << 20), leadership_transfer: true };
        let append = || proto::AppendRequest { vote, ..Default::default() };
        let transfer = proto::TransferRequest { from_leader: vote, to: target.id, last: None };
        let mut head = snapshot(term);
        if let Some(proto::snapshot_part::Part::Head(head)) = &mut head.part {
            head.vote = vote;
        }
        let calls = [
            no(peer.vote(candidate())).await,
            no(peer.pre_vote(candidate())).await,
            no(peer.heartbeat(append())).await,
            no(peer.transfer_leader(transfer)).await,
            no(peer.install_snapshot(tokio_stream::iter([head]))).await,
            {
                let stream = peer.stream_append(tokio_stream::iter([append()])).await.unwrap();
                stream.into_inner().message().await.unwrap_err()
            },
        ];
        for refused in calls {
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(&format!("a vote of node {leader}")), "{refused}");
        }
    }
    assert_eq!(target.replica.status().term, term);
    assert_eq!(cluster.leader().await, leader);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_of_another_history_that_no_log_lists_stops_nobody() {
    let cluster = Cluster::start("lists", 3).await;
    commit_epoch(&cluster, "job", 1, 1 << 20).await;
    let ledger = cluster.agree().await;
    let target = cluster.follower().await;
    let term = target.replica.status().term;
    // It was told the uuid, as whoever asks with the secret is.
    let config = quick(9, [9; 16], "lists", vec![]);
    let config = ReplicaConfig { cluster: target.replica.cluster(), ..config };
    let mut stranger = caller(config, (target.id, &target.address));
    let vote = Some(proto::Vote { term: term + 1, node: 9, committed: true });
    let other = Some(proto::Position { term: term + 1, node: 9, index: 1 });
    for request in [
        proto::AppendRequest { vote, committed: other, ..Default::default() },
        proto::AppendRequest { vote, previous: other, ..Default::default() },
    ] {
        let refused = no(stranger.heartbeat(request)).await;
        assert!(refused.message().contains("no member in the log"), "{refused}");
    }
    assert_eq!(*target.replica.fatal().borrow(), None);
    assert_eq!(target.replica.status().term, term);
    assert_eq!(cluster.agree().await, ledger);
    commit_epoch(&cluster, "job", 2, 4096).await;
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_node_tells_the_others_where_clients_reach_it() {
    let cluster = Cluster::start("addresses", 3).await;
    cluster.leader().await;
    for node in cluster.nodes.values() {
        for other in cluster.nodes.keys().filter(|other| **other != node.id) {
            let told = within("it is told", || async { node.replica.clients_at(*other) }).await;
            assert_eq!(told, format!("client.example:{other}"));
        }
    }
    cluster.shutdown().await;
}
