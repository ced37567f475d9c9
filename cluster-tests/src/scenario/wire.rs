//! What no honest client sends: garbage, torn messages, lies about sizes, and
//! well-formed requests with hostile content. Nothing stops, nothing is
//! written outside, and every such call is answered or closed, never left hanging.

mod forge;
mod raw;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::cluster::Cluster;
use crate::inputs::random_directory;
use crate::scenario::hostile::still_serves;
use crate::seed::Rng;
use forge::{Forged, Outcome};

/// A call that is neither answered nor closed for so long hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

const PUBLIC: [&str; 9] =
    ["Commit", "OpenWriter", "List", "Show", "Expire", "Fetch", "Status", "Verify", "PublishedOn"];
const PEER: [&str; 10] = [
    "Hello",
    "Vote",
    "PreVote",
    "Heartbeat",
    "TransferLeader",
    "StreamAppend",
    "Propose",
    "ProposeStream",
    "ReadIndex",
    "Status",
];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

/// Bytes that are no message, to every method of every service, and to the bare ports.
///
/// # Panics
/// When a node ends, hangs, or stops serving.
pub fn garbage(cluster: &mut Cluster, rng: &mut Rng) {
    let methods = PUBLIC.map(|method| format!("/epochlog.Epochlog/{method}"));
    let peer = PEER.map(|method| format!("/epochlog.raft.Peer/{method}"));
    let runtime = runtime();
    let mut answered = 0;
    for id in 1..=cluster.options.nodes {
        // What peers may call is served at a port of theirs, to who proves the secret, and nowhere else.
        let (clients, peers) = (cluster.node(id).grpc, cluster.node(id).peers);
        let at_clients = methods.iter().chain(&peer).map(|path| (clients, path));
        for (port, path) in at_clients.chain(peer.iter().map(|path| (peers, path))) {
            for (kind, body) in raw::bodies(rng) {
                for header in [None, Some(raw::peer_header(id % cluster.options.nodes + 1, id))] {
                    let call = raw::call(port, path, header.as_deref(), body.clone());
                    let ended = runtime.block_on(async { tokio::time::timeout(ANSWER_WITHIN, call).await });
                    let status =
                        ended.unwrap_or_else(|_| panic!("node {id} left {path} with {kind} hanging"));
                    answered += usize::from(status.is_some());
                    // A commit says its no in the stream: a reply with the field `failed`, number 6.
                    let says_no = path.ends_with("/Commit")
                        && status.as_ref().is_some_and(|(_, body)| body.get(5) == Some(&0x32));
                    let taken = status.as_ref().is_some_and(|(code, _)| *code == 0) && !says_no;
                    assert!(!taken, "node {id} took {kind} at {path} for a message: {status:?}");
                }
            }
        }
        for port in [clients, peers, cluster.node(id).http] {
            raw::noise(port, rng);
        }
        assert!(cluster.is_running(id), "node {id} ended over garbage:\n{}", cluster.node(id).log_tail());
    }
    assert!(answered > 0, "I12: no method answered at all");
    cluster.wait_ready();
    still_serves(cluster, rng);
}

/// Well-formed requests whose content is hostile, at the public API.
///
/// # Panics
/// When one is accepted, a node ends, or anything appears outside the data folders.
pub fn hostile_requests(cluster: &mut Cluster, rng: &mut Rng) {
    let runtime = runtime();
    let endpoint = format!("http://{}", cluster.node(cluster.leader()).address());
    let outside = tripwires(cluster);
    for (number, (what, forged)) in (1..).zip(forge::plans().into_iter().chain(forge::pieces())) {
        let outcome = runtime.block_on(async {
            tokio::time::timeout(ANSWER_WITHIN, forged.send(&endpoint, "forged", number)).await
        });
        match outcome.unwrap_or_else(|_| panic!("{what}: the node left it hanging")) {
            Outcome::Refused(why) => assert!(!why.is_empty(), "{what}: refused without a reason"),
            Outcome::Accepted(how) => panic!("{what}: it was accepted: {how}"),
        }
        for id in 1..=cluster.options.nodes {
            assert!(cluster.is_running(id), "{what}: node {id} ended:\n{}", cluster.node(id).log_tail());
        }
    }
    let swollen = runtime
        .block_on(async { tokio::time::timeout(ANSWER_WITHIN, forge::send_swollen(&endpoint)).await })
        .expect("an answer to a message of a million empty messages");
    assert!(
        matches!(&swollen, Outcome::Refused(why) if why.contains("too many fields")),
        "a message of a million empty messages: {swollen:?}"
    );
    assert!(cluster.list("forged").is_empty(), "something forged was sealed");
    outside_the_roots(cluster, &runtime, &endpoint, rng);
    for (path, before) in outside {
        assert_eq!(stamp(&path), before, "{} changed", path.display());
    }
    for node in &cluster.nodes {
        let shown = fs::read_dir(node.data.join("epochs/forged")).map_or(0, Iterator::count);
        assert_eq!(shown, 0, "node {} shows something forged", node.id);
    }
    still_serves(cluster, rng);
}

/// By path, only what lies under the source roots is read, symlinks followed or not.
fn outside_the_roots(cluster: &Cluster, runtime: &tokio::runtime::Runtime, endpoint: &str, rng: &mut Rng) {
    let secret = cluster.folder().join("hidden");
    random_directory(&secret, 1, 100, rng);
    let link = cluster.source("way-out");
    std::os::unix::fs::symlink(&secret, &link).expect("the scratch folder can be written");
    let sneaky = cluster.source("../hidden");
    for (number, path) in (1000..).zip([&secret, &link, &sneaky, &PathBuf::from("/proc/self/root")]) {
        // Whatever they go by: the node sees where they really lie.
        let ticket = client::neighbour::hand_over(endpoint, path, forge::commit_id(number))
            .expect("the node runs here and is ours");
        let forged = Forged::handed(ticket);
        let outcome = runtime.block_on(async {
            tokio::time::timeout(ANSWER_WITHIN, forged.send(endpoint, "forged", number)).await
        });
        let outcome = outcome.unwrap_or_else(|_| panic!("{}: the node left it hanging", path.display()));
        assert!(matches!(outcome, Outcome::Refused(_)), "{} was read by path: {outcome:?}", path.display());
    }
    assert!(cluster.list("forged").is_empty(), "something outside the roots was sealed");
}

/// Folders that an escape would change.
fn tripwires(cluster: &Cluster) -> Vec<(PathBuf, Option<SystemTime>)> {
    // Not the cluster's own folder: we make things there ourselves.
    let mut paths = vec![PathBuf::from("/etc"), cluster.folder().join("restored")];
    paths.extend(
        cluster
            .nodes
            .iter()
            .map(|node| node.data.parent().expect("data/ lies in the node's folder").to_owned()),
    );
    paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &std::path::Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}
