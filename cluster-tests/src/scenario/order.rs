//! A header on disk means that its payload is durable, and an answer that a
//! quorum's WALs are: seen in the system calls of all nodes, in time, and
//! with single fsyncs that fail.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_directory;
use crate::needs::{Need, skip};
use crate::observe::{Cache, observe_and_check};
use crate::oracle::{Answer, Event, History};
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::trace::{Call, Trace, is_there};
use crate::wait::wait_until;
use crate::walk::fingerprint;

/// Elections that a traced, slow node does not lose.
fn patient() -> Options {
    Options { heartbeat_ms: 500, election_ms: (18_000, 24_000), ..Options::default() }
}

fn flags(text: &str) -> Vec<OsString> {
    text.split(' ').map(OsString::from).collect()
}

/// Traces all nodes while one epoch of single-chunk files is committed through
/// a follower. For every chunk on every node: staged write, staged fdatasync,
/// the WAL write that carries its digest, WAL fdatasync; and the client's
/// answer after a quorum's WALs hold the seal.
///
/// # Panics
/// When any order differs.
pub fn staged_then_log_then_answer(name: &str, rng: &mut Rng) {
    if !is_there() {
        return skip(Need::Strace, "order of fsyncs", "strace is missing");
    }
    let cluster = Cluster::start(name, patient());
    let source = cluster.source("traced");
    random_directory(&source, 8, 1 << 20, rng);
    let server = cluster.follower();
    let watched = "-s 100000 -e trace=pwrite64,pwritev,pwritev2,write,writev,fdatasync,fsync,sendto,sendmsg";
    let mut traces = BTreeMap::new();
    for node in &cluster.nodes {
        let pid = node.pid().expect("it was started");
        match Trace::attach(pid, cluster.folder().join(format!("trace-{}", node.id)), &flags(watched)) {
            Some(trace) => drop(traces.insert(node.id, trace)),
            None => return skip(Need::Strace, "order of fsyncs", "strace may not attach here"),
        }
    }
    let output = cluster.commit(&[server], &source, "traced", 1, &["--stream", "--timeout", "120s"]).ok();
    cluster.wait_published("traced", 1);
    let calls: BTreeMap<u64, Vec<Call>> =
        traces.into_iter().map(|(id, trace)| (id, trace.detach())).collect();
    compare_everywhere(&cluster, &source, "traced", 1);

    let root = output.summary()["root"].as_str().expect("a summary names its root").to_owned();
    let digests = digests_of_files(&cluster, "traced@1");
    assert_eq!(digests.len(), 8, "every file has a digest of its own");
    let mut sealed = Vec::new();
    for (id, calls) in &calls {
        for (file, digest) in &digests {
            chunk_is_durable_before_its_header(*id, calls, file, digest);
        }
        sealed.extend(
            calls.iter().filter(|call| in_wal(call) && call.writes() && call.carries(&root)).take(1).map(
                |write| {
                    let sync = sync_after(calls, &write.about, write.end);
                    sync.unwrap_or_else(|| panic!("node {id}: the seal in {} was never synced", write.about))
                        .end
                },
            ),
        );
    }
    sealed.sort_by(f64::total_cmp);
    assert!(sealed.len() >= 2, "the seal reached {} WALs", sealed.len());
    let ports: Vec<String> = cluster.nodes.iter().map(|node| format!(":{}", node.grpc)).collect();
    let own = ports[usize::try_from(server).expect("small") - 1].as_str();
    let answer = calls[&server]
        .iter()
        .filter(|call| call.writes() && call.about.starts_with("TCP:") && call.carries(&root))
        .filter(|call| call.about.split("->").next().is_some_and(|local| local.ends_with(own)))
        .filter(|call| !is_between_nodes(&calls, call))
        .map(|call| call.start)
        .fold(f64::INFINITY, f64::min);
    assert!(answer.is_finite(), "the answer with the root was not seen on node {server}'s client connection");
    assert!(
        answer > sealed[1],
        "the client was answered at {answer}, a quorum's WALs held the seal at {}",
        sealed[1]
    );
}

/// Digests by name, from `show --files`.
fn digests_of_files(cluster: &Cluster, name: &str) -> BTreeMap<String, String> {
    let output = cluster.cli(&["show", name, "--files"]).ok();
    let mut found = BTreeMap::new();
    let mut open: Vec<&Value> = output.lines.iter().collect();
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let (Some(path), Some(digest)) =
                    (fields.get("path").and_then(Value::as_str), fields.get("digest").and_then(Value::as_str))
                {
                    found.insert(path.to_owned(), digest.to_owned());
                }
                open.extend(fields.values());
            }
            Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    found.retain(|_, digest| digest.len() == 64);
    found
}

fn in_wal(call: &Call) -> bool {
    call.about.contains("/groups/main/log/")
}

fn sync_after<'a>(calls: &'a [Call], path: &str, time: f64) -> Option<&'a Call> {
    calls.iter().find(|call| call.syncs() && call.ok && call.about == path && call.start >= time)
}

fn chunk_is_durable_before_its_header(node: u64, calls: &[Call], file: &str, digest: &str) {
    let number: usize = file.trim_start_matches("part-").parse().expect("our own names end in numbers");
    // The plan is sorted and starts with the root directory: part-00000 is entry 1.
    let staged = format!("/f{}", number + 1);
    let is_staged = |call: &&Call| call.about.contains("/staging/") && call.about.ends_with(&staged);
    let written =
        calls.iter().filter(is_staged).filter(|call| call.writes()).map(|call| call.end).fold(0.0, f64::max);
    assert!(written > 0.0, "node {node}: no staged write of {file} ({staged}) was seen");
    let staged_path = &calls.iter().find(is_staged).expect("it was just seen").about;
    let synced = sync_after(calls, staged_path, written)
        .unwrap_or_else(|| panic!("node {node}: {staged_path} was never synced"));
    let headers: Vec<_> =
        calls.iter().filter(|call| in_wal(call) && call.writes() && call.carries(digest)).collect();
    assert!(!headers.is_empty(), "node {node}: no header of {file} with digest {digest} went into the WAL");
    for header in headers {
        assert!(
            header.start >= synced.end,
            "node {node}: the header of {file} was written at {}, its payload was durable at {}",
            header.start,
            synced.end
        );
        assert!(
            sync_after(calls, &header.about, header.end).is_some(),
            "node {node}: the header of {file} was never synced"
        );
    }
}

/// Whether the other end of a call's connection belongs to a traced node.
fn is_between_nodes(calls: &BTreeMap<u64, Vec<Call>>, call: &Call) -> bool {
    let ends = call.about.trim_start_matches("TCP:[");
    let Some((local, remote)) = ends.split_once("->") else { return false };
    let reverse = format!("TCP:[{remote}->{local}");
    calls.values().flatten().any(|other| other.about == reverse)
}

/// With every fdatasync of both followers made slow, a quorum cannot be had
/// before staged file, WAL and the seal have been synced one after another.
///
/// # Panics
/// When the answer comes earlier.
pub fn no_answer_before_slow_followers(name: &str, rng: &mut Rng) {
    if !is_there() {
        return skip(Need::Strace, "slow followers", "strace is missing");
    }
    const DELAY_MS: u64 = 300;
    let cluster = Cluster::start(name, patient());
    let leader = cluster.leader();
    let source = cluster.source("slow");
    random_directory(&source, 1, 1 << 20, rng);
    let delay = format!("-e trace=fdatasync,fsync -e inject=fdatasync,fsync:delay_enter={}", DELAY_MS * 1000);
    let followers: Vec<u64> = cluster.first(leader).split_off(1);
    let mut traces = Vec::new();
    for id in followers {
        let pid = cluster.node(id).pid().expect("it was started");
        match Trace::attach(pid, cluster.folder().join(format!("slow-{id}")), &flags(&delay)) {
            Some(trace) => traces.push(trace),
            None => return skip(Need::Strace, "slow followers", "strace may not attach here"),
        }
    }
    let output = cluster.commit(&[leader], &source, "slow", 1, &["--timeout", "120s"]).ok();
    let quorum_ms = output.number("quorum_ms");
    // The chunk's staged file, its header, and the seal: three at least, one after another.
    assert!(
        quorum_ms >= 3 * DELAY_MS,
        "answered after {quorum_ms} ms with followers that take {DELAY_MS} ms for each sync"
    );
    drop(traces);
    cluster.wait_published("slow", 1);
    compare_everywhere(&cluster, &source, "slow", 1);
}

/// Where an fsync is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Staged,
    Wal,
    /// The folder in which the epoch appears: after it was committed.
    Published,
}

/// EIO on the fdatasync of a staged file and of the WAL, and on the fsync of the
/// folder that an epoch is published in, on a follower, on the leader, and on
/// both followers at once: the node ends with an error, the
/// others carry on, nobody acknowledges what a quorum does not hold, and after
/// the restart everything acknowledged is there.
///
/// # Panics
/// When any of that does not hold.
pub fn failed_fsync_is_final(name: &str, rng: &mut Rng) {
    if !is_there() {
        return skip(Need::Strace, "EIO on fdatasync", "strace is missing");
    }
    let mut cluster =
        Cluster::start(name, Options { heartbeat_ms: 300, election_ms: (6000, 8000), ..Options::default() });
    let (mut history, mut known) = (History::default(), Cache::default());
    let mut epoch = 0;
    for place in [Place::Staged, Place::Wal, Place::Published] {
        for victims in ["follower", "leader", "both followers"] {
            if place == Place::Published && victims == "both followers" {
                // They fail behind the commit, which is acknowledged or not.
                continue;
            }
            epoch += 1;
            let leader = cluster.leader();
            let followers = cluster.first(leader).split_off(1);
            let hit: Vec<u64> = match victims {
                "follower" => vec![followers[0]],
                "leader" => vec![leader],
                _ => followers.clone(),
            };
            let source = cluster.source(&format!("eio-{epoch}"));
            random_directory(&source, 1, 3 << 20, rng);
            let mut traces = Vec::new();
            for id in &hit {
                match plant(&cluster, *id, place, epoch) {
                    Some(trace) => traces.push(trace),
                    None => return skip(Need::Strace, "EIO on fdatasync", "strace may not attach here"),
                }
            }
            // Through a node that lives, with patience for an election.
            let through = if hit.contains(&leader) { followers[1] } else { leader };
            let patience = if hit.len() > 1 { "8s" } else { "60s" };
            let answer = cluster.commit(&[through], &source, "eio", epoch, &["--timeout", patience]);
            let what = format!("EIO at the {place:?} fdatasync of {victims}");
            for (id, trace) in hit.iter().zip(traces) {
                let status = cluster.wait_exit(*id, PATIENCE);
                assert!(!status.success(), "{what}: node {id} ended with {status}");
                let calls = trace.detach();
                assert!(
                    calls.iter().any(|call| call.injected),
                    "I12, {what}: nothing was injected on node {id}"
                );
            }
            let outcome = answer.answer();
            match hit.len() {
                1 => assert!(
                    matches!(outcome, Answer::Committed { .. }),
                    "{what}: two nodes were left: {answer}"
                ),
                _ => assert!(
                    !matches!(outcome, Answer::Committed { .. }),
                    "{what}: acknowledged by one node alone: {answer}"
                ),
            }
            let content = fingerprint(&source).unwrap_or_else(|difference| panic!("{difference}"));
            history.push(Event::Commit { name: ("eio".into(), epoch), content, answer: outcome });
            hit.iter().for_each(|id| cluster.restart(*id));
            cluster.wait_ready();
            observe_and_check(&cluster, &["eio"], &mut history, &mut known);
        }
    }
}

/// Makes the next fdatasync of one place fail once.
fn plant(cluster: &Cluster, id: u64, place: Place, epoch: u64) -> Option<Trace> {
    let node = cluster.node(id);
    let group = node.data.join("groups/main");
    let mut args = flags("-e trace=fdatasync,fsync -e inject=fdatasync,fsync:error=EIO:when=1");
    let paths: Vec<PathBuf> = match place {
        Place::Wal => {
            // Until the next record is due nothing is written; a mark may come first, which is as good.
            fs::read_dir(group.join("log"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect()
        }
        Place::Published => vec![node.data.join("epochs/eio")],
        Place::Staged => {
            let applied = wait_until(PATIENCE, "a status", || {
                cluster.status().map_err(|output| output.to_string())
            })["nodes"]
                .as_array()
                .and_then(|nodes| nodes.iter().filter_map(|node| node["applied"].as_u64()).max())
                .unwrap_or(0);
            // The attempt's number is the log index of its Begin: one of the next ones.
            (applied..applied + 60).map(|attempt| group.join(format!("staging/{attempt}/f1"))).collect()
        }
    };
    for path in paths {
        args.push("-P".into());
        args.push(path.into());
    }
    Trace::attach(
        node.pid().expect("it was started"),
        cluster.folder().join(format!("eio-{epoch}-{id}")),
        &args,
    )
}
