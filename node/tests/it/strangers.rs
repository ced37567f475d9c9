//! Whoever reaches a cluster's ports and does not know its secret: every call of the peers' service, at both ports of every
//! node, is refused, nothing changes, and no answer tells who the cluster or a node is, or where its data lies.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use crate::support::trio::Trio;
use crate::support::wait_for;
use client::pb;
use client::pb::epochlog_client::EpochlogClient;
use prost::Message;
use raft::proto::peer_client::PeerClient;
use raft::proto::{self, PeerHeader};
use tonic::metadata::BinaryMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// A term that leaves no room for another one.
const LAST_TERM: u64 = u64::MAX;
/// A call that is neither answered nor hung up on for so long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a cluster keeps to itself, as text and as bytes.
struct Secrets {
    texts: Vec<String>,
    bytes: Vec<Vec<u8>>,
}

impl Secrets {
    /// From the folders of three nodes below `dir`.
    fn of(dir: &Path) -> Option<Secrets> {
        let mut secrets = Secrets { texts: vec![dir.display().to_string()], bytes: Vec::new() };
        for id in 1..=3 {
            let text = std::fs::read_to_string(dir.join(format!("n{id}/identity"))).ok()?;
            let identity: toml::Table = text.parse().unwrap();
            for key in ["incarnation", "cluster"] {
                secrets.texts.push(identity.get(key)?.as_str()?.to_owned());
            }
        }
        let hex = secrets.texts[1..].iter();
        secrets.bytes =
            hex.map(|hex| hex.parse::<checkpoint::CommitId>().unwrap().as_bytes().to_vec()).collect();
        Some(secrets)
    }

    fn are_not_in(&self, what: &str, answer: &[u8]) {
        let text = String::from_utf8_lossy(answer);
        for secret in &self.texts {
            assert!(!text.contains(secret), "{what} tells {secret}: {text}");
        }
        for secret in &self.bytes {
            let found = answer.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{what} tells the bytes {secret:?}");
        }
    }
}

/// Somebody who knows names and ids, and claims to be a node; he says that the cluster knows whom he calls with another
/// data folder, which would end a node that was wiped.
fn claim(from: u64, to: u64) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    let header = PeerHeader {
        group: "main".into(),
        cluster_name: "trio".into(),
        from,
        to,
        to_incarnation: vec![9; 16].into(),
        ..Default::default()
    };
    let header = header.encode_to_vec();
    move |mut request: Request<()>| {
        let value = BinaryMetadataValue::from_bytes(&header);
        request.metadata_mut().insert_bin("epochlog-peer-bin", value);
        Ok(request)
    }
}

async fn no<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Status {
    match tokio::time::timeout(PATIENCE, call).await.expect("the call hangs") {
        Ok(_) => panic!("it was answered"),
        Err(status) => status,
    }
}

fn vote() -> Option<proto::Vote> {
    Some(proto::Vote { term: LAST_TERM, node: 99, committed: true })
}

/// Every call there is of the peers' service, made by somebody who wants to do harm.
async fn every_peer_call<F>(
    channel: Channel,
    claim: impl Fn(u64) -> F,
    to: u64,
) -> Vec<(&'static str, Status)>
where
    F: FnMut(Request<()>) -> Result<Request<()>, Status> + Clone,
{
    let peer = |from| -> PeerClient<InterceptedService<Channel, F>> {
        PeerClient::with_interceptor(channel.clone(), claim(from))
    };
    let from = to % 3 + 1;
    let candidate = || proto::VoteRequest { vote: vote(), last: None, leadership_transfer: true };
    let append = || proto::AppendRequest { vote: vote(), ..Default::default() };
    let transfer = proto::TransferRequest { from_leader: vote(), to, last: None };
    let expire = nativelog::compose::expire(&"job".parse().unwrap(), vec![1], true, "harm", vec![1, 2, 3]);
    let record =
        || proto::ProposeRequest { seq: 1, header: expire.header.wire().clone(), ..Default::default() };
    let head = proto::SnapshotHead { vote: vote(), ..Default::default() };
    let snapshot = proto::SnapshotPart { part: Some(proto::snapshot_part::Part::Head(head)) };
    vec![
        ("Hello", no(peer(from).hello(proto::HelloRequest {})).await),
        ("Vote", no(peer(from).vote(candidate())).await),
        ("PreVote", no(peer(from).pre_vote(candidate())).await),
        ("Heartbeat", no(peer(from).heartbeat(append())).await),
        ("TransferLeader", no(peer(from).transfer_leader(transfer)).await),
        ("StreamAppend", no(peer(from).stream_append(tokio_stream::iter([append()]))).await),
        ("Propose", no(peer(from).propose(record())).await),
        ("ProposeStream", no(peer(from).propose_stream(tokio_stream::iter([record()]))).await),
        ("ReadIndex", no(peer(from).read_index(proto::ReadIndexRequest {})).await),
        ("Status", no(peer(from).status(proto::StatusRequest {})).await),
        ("Pulse", no(peer(from).pulse(proto::PulseRequest {})).await),
        ("InstallSnapshot", no(peer(from).install_snapshot(tokio_stream::iter([snapshot]))).await),
        ("FetchManifest", no(peer(from).fetch_manifest(proto::ManifestRequest::default())).await),
        ("FetchBlobs", no(peer(from).fetch_blobs(proto::BlobsRequest::default())).await),
        ("StoredBytes", no(peer(from).stored_bytes(proto::StoredRequest::default())).await),
        ("FetchRanges", no(peer(from).fetch_ranges(proto::RangesRequest::default())).await),
        ("FetchPacked", no(peer(from).fetch_packed(proto::PackedRequest::default())).await),
        ("FetchPages", no(peer(from).fetch_pages(proto::PagesRequest::default())).await),
        ("FetchPayload", no(peer(from).fetch_payload(proto::PayloadRequest::default())).await),
        ("Rejoin", no(peer(from).rejoin(proto::RejoinRequest { vote_term: LAST_TERM })).await),
        ("Heartbeat of a node that there is not", no(peer(99).heartbeat(append())).await),
    ]
}

fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// The answer and the metadata of a refusal, as bytes.
fn told(status: &Status) -> Vec<u8> {
    let mut told = status.message().as_bytes().to_vec();
    told.extend_from_slice(status.details());
    told.extend_from_slice(format!("{:?}", status.metadata()).as_bytes());
    told
}

/// Who leads in which term, and the epochs that are listed.
async fn stands(trio: &Trio) -> (Option<u64>, u64, Vec<u64>) {
    let status = EpochlogClient::new(channel(&trio.endpoints[0]))
        .status(pb::StatusRequest { all: true, light: false })
        .await
        .unwrap()
        .into_inner();
    let list = pb::ListRequest { job: "job".into(), ..Default::default() };
    let list = EpochlogClient::new(channel(&trio.endpoints[0])).list(list).await.unwrap().into_inner();
    (status.leader, status.term, list.epochs.iter().map(|epoch| epoch.epoch).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_without_the_secret_is_refused_at_every_node_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    let secrets = wait_for("the folders to know their cluster", async || Secrets::of(dir.path())).await;
    let before = stands(&trio).await;
    assert_eq!((before.0, &before.2[..]), (Some(leader as u64 + 1), &[1][..]));
    for (at, (public, peers)) in trio.endpoints.iter().zip(&trio.peers).enumerate() {
        let to = at as u64 + 1;
        let mut calls = 0;
        for (port, address) in [("clients", public), ("peers", peers)] {
            for (call, refused) in every_peer_call(channel(address), |from| claim(from, to), to).await {
                calls += 1;
                let what = format!("{call} at node {to}'s port for {port}");
                if port == "clients" {
                    assert_eq!(refused.code(), Code::Unimplemented, "{what}: {refused:?}");
                }
                secrets.are_not_in(&what, &told(&refused));
            }
        }
        assert_eq!(calls, 42);
    }
    assert_eq!(stands(&trio).await, before);
    for node in &mut trio.nodes {
        assert!(node.try_wait().unwrap().is_none(), "a node has ended");
    }
    let source = dir.path().join("source");
    let again = trio.ask(leader, &["commit", source.to_str().unwrap(), "--job", "job", "--wait", "all"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_public_answer_tells_who_the_cluster_or_a_node_is_or_where_its_data_lies() {
    let dir = tempfile::tempdir().unwrap();
    let trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    let secrets = wait_for("the folders to know their cluster", async || Secrets::of(dir.path())).await;
    let mut client = EpochlogClient::new(channel(&trio.endpoints[leader]));
    for light in [false, true] {
        let status = client.status(pb::StatusRequest { all: true, light }).await.unwrap().into_inner();
        secrets.are_not_in("Status", &status.encode_to_vec());
    }
    let list = client.list(pb::ListRequest { published_on: true, ..Default::default() }).await.unwrap();
    secrets.are_not_in("List", &list.into_inner().encode_to_vec());
    let manifest = pb::FetchRequest { job: "job".into(), direct: true, ..Default::default() };
    let mut answers = client.fetch(manifest).await.unwrap().into_inner();
    let mut heads = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        heads += usize::from(matches!(answer.kind, Some(pb::fetch_reply::Kind::Head(_))));
        secrets.are_not_in("Fetch of a manifest", &answer.encode_to_vec());
    }
    assert_eq!(heads, 1);
    // A published file is gone: what is wrong is told by its name, and not by its path.
    let files = dir.path().join(format!("n{}/epochs/job/1/files", leader + 1));
    std::fs::remove_file(files.join("large")).unwrap();
    let verify = pb::VerifyRequest { job: "job".into(), ..Default::default() };
    let mut answers = client.verify(verify).await.unwrap().into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(!answer.ok, "{answer:?}");
        secrets.are_not_in("Verify", &answer.encode_to_vec());
    }
    let fetch = pb::FetchRequest { job: "job".into(), content: true, direct: true, ..Default::default() };
    let mut answers = client.fetch(fetch).await.unwrap().into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await.unwrap() {
        secrets.are_not_in("Fetch", &answer.encode_to_vec());
        last = answer.kind;
    }
    assert!(matches!(last, Some(pb::fetch_reply::Kind::Failed(_))), "{last:?}");
}
