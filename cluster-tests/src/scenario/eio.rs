//! EIO, once, in every call of a node that makes something durable: where it publishes, takes snapshots, purges its log,
//! comes home and repairs. The node ends at once and says which file and which call; the others go on; on a well disk
//! it comes home, and nothing acknowledged is lost.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cli::Running;
use crate::cluster::{Cluster, Node, Options, PATIENCE};
use crate::commits::Commits;
use crate::inputs::random_directory;
use crate::load::Load;
use crate::needs::{Need, skip};
use crate::scenario::damage::site::flip;
use crate::scenario::years::wait_purged_past;
use crate::seed::Rng;
use crate::trace::{Call, Trace, is_there};
use crate::wait::{try_until, wait_until};
use crate::wal::{Mark, last_index};

/// From the failed call to the end of the process.
const END: Duration = Duration::from_secs(1);
/// Attempts and snapshots get their numbers from the log: the next ones.
const NEXT: u64 = 400;

/// What makes a node do what is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// Epochs of some chunks come and go.
    Commits,
    /// Epochs of many files come and go.
    ManyFiles,
    /// The node was away past the purge and comes home.
    Install,
    /// A blob has rotted, and `verify --repair` finds it.
    Repair,
}

/// One call that fails.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What it is, for people.
    pub name: &'static str,
    /// When it is called.
    pub during: During,
    /// The files or folders it is called for.
    pub paths: fn(&Where<'_>) -> Vec<PathBuf>,
}

/// What a row may name.
#[derive(Debug)]
pub struct Where<'a> {
    node: &'a Node,
    /// The last index of the log when the trap is laid.
    last: u64,
    /// Digests of the content that the node has or lacks.
    digests: &'a [String],
}

impl Where<'_> {
    fn group(&self, path: &str) -> PathBuf {
        self.node.data.join("groups/main").join(path)
    }

    fn attempts(&self, path: impl Fn(u64) -> String) -> Vec<PathBuf> {
        (self.last..self.last + NEXT).map(|attempt| self.group(&path(attempt))).collect()
    }

    fn contents(&self, path: impl Fn(&str) -> String) -> Vec<PathBuf> {
        self.digests.iter().map(|digest| self.group(&path(digest))).collect()
    }
}

/// Every kind of file and folder that a node makes durable after its start. The log's own are in `order`.
pub const ROWS: [Row; 14] = [
    Row {
        name: "publish: the job's folder",
        during: During::Commits,
        paths: |at| vec![at.node.data.join("epochs/eio")],
    },
    Row {
        name: "publish: the tree",
        during: During::Commits,
        paths: |at| at.attempts(|attempt| format!("staging/{attempt}/epoch/files")),
    },
    Row {
        name: "publish: the epoch's folder",
        during: During::Commits,
        paths: |at| at.attempts(|attempt| format!("staging/{attempt}/epoch")),
    },
    Row {
        name: "publish: the manifest",
        during: During::Commits,
        paths: |at| at.attempts(|attempt| format!("staging/{attempt}/epoch/manifest")),
    },
    Row {
        name: "publish: a shelf of blobs",
        during: During::Commits,
        paths: |at| (0..=255).map(|shelf| at.group(&format!("blobs/{shelf:02x}"))).collect(),
    },
    Row {
        name: "publish, snapshot: everything",
        during: During::ManyFiles,
        paths: |at| vec![at.node.data.clone()],
    },
    Row {
        name: "snapshot: its file",
        during: During::Commits,
        paths: |at| at.attempts(|index| format!("snapshots/{index:016x}-0.snap.tmp")),
    },
    Row { name: "snapshot: its folder", during: During::Commits, paths: |at| vec![at.group("snapshots")] },
    Row { name: "keep: the mark", during: During::Commits, paths: |at| vec![Mark::path(at.node)] },
    Row { name: "keep: the log's folder", during: During::Commits, paths: |at| vec![at.group("log")] },
    Row {
        name: "install: content",
        during: During::Install,
        paths: |at| at.contents(|digest| format!("incoming/{digest}")),
    },
    Row {
        name: "install: the snapshots' folder",
        during: During::Install,
        paths: |at| vec![at.group("snapshots")],
    },
    Row {
        name: "repair: content",
        during: During::Repair,
        paths: |at| at.contents(|digest| format!("incoming/{digest}")),
    },
    Row {
        name: "repair: a shelf of blobs",
        during: During::Repair,
        paths: |at| (0..=255).map(|shelf| at.group(&format!("blobs/{shelf:02x}"))).collect(),
    },
];

/// One row after the other, in one cluster.
///
/// # Panics
/// When a node does not end, does not say why, or anything acknowledged is lost.
pub fn every_sync(name: &str, rows: &[Row], rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    if !is_there() {
        return skip(Need::Strace, "EIO in every sync", "strace is missing");
    }
    let options = Options { heartbeat_ms: 300, election_ms: (2000, 4000), ..Options::default() };
    let mut cluster = Cluster::start(name, options);
    let mut commits = Commits::new(&cluster, "eio");
    for _ in 0..3 {
        commits.commit(rng, chunks);
    }
    let mut broken = Vec::new();
    for row in rows {
        let Some(seen) = one(&mut cluster, &mut commits, row, rng) else {
            return skip(Need::Strace, "EIO in every sync", "strace may not attach here");
        };
        let line = match &seen {
            Ok(took) => format!("{}: ended {took:.1?} after the call", row.name),
            Err(why) => format!("{}: {why}", row.name),
        };
        progress(line.clone());
        broken.extend(seen.err().map(|_| line));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn chunks(at: &Path, rng: &mut Rng) {
    random_directory(at, 3, 600_000, rng);
}

fn many(at: &Path, rng: &mut Rng) {
    random_directory(at, 400, 300, rng);
}

/// Plants, provokes and judges; `None` when strace may not attach.
fn one(
    cluster: &mut Cluster,
    commits: &mut Commits,
    row: &Row,
    rng: &mut Rng,
) -> Option<Result<Duration, String>> {
    let victim = cluster.follower();
    if row.during == During::Install {
        fall_behind(cluster, commits, victim, rng);
    }
    let digests = digests(cluster, commits);
    let last = cluster.nodes.iter().filter_map(last_index).max().unwrap_or(0);
    let paths = (row.paths)(&Where { node: cluster.node(victim), last, digests: &digests });
    let from = cluster.node(victim).log_bytes();
    let trap = |cluster: &Cluster| {
        let mut args: Vec<OsString> =
            ["-e", "trace=fsync,fdatasync,syncfs,sync_file_range"].map(Into::into).into();
        args.extend(["-e".into(), "inject=fsync,fdatasync,syncfs,sync_file_range:error=EIO:when=1".into()]);
        args.extend(paths.iter().flat_map(|path| ["-P".into(), path.into()]));
        let out = cluster.folder().join(format!("eio-{}", row.name.replace([':', ' ', ',', '\''], "-")));
        Trace::attach(cluster.node(victim).pid().expect("it was started"), out, &args)
    };
    let others = cluster.first(victim).split_off(1);
    // The oldest: what came within the last second lies above the log's mark, and there a start takes rot for its own
    // loss and asks for `epochlog repair`.
    let rotten = commits.committed().into_iter().min().unwrap_or(commits.epoch);
    let mut load = None;
    let mut repair: Option<Running> = None;
    let trace = match row.during {
        During::Commits | During::ManyFiles => {
            let trace = trap(cluster)?;
            let make = if row.during == During::ManyFiles { many } else { chunks };
            let taken = std::mem::replace(commits, Commits::new(cluster, "eio"));
            load = Some(Load::start(taken, Rng::new(rng.draw(), "load"), make));
            trace
        }
        During::Install => {
            // Nobody sends before the trap is laid.
            others.iter().for_each(|id| cluster.stop(*id));
            cluster.restart(victim);
            wait_until(PATIENCE, "the node to live", || cluster.node(victim).get("/healthz"));
            let trace = trap(cluster);
            others.iter().for_each(|id| cluster.cont(*id));
            trace?
        }
        During::Repair => {
            let epoch = rotten;
            let file = cluster.node(victim).published("eio", epoch).join("part-00000");
            flip(&file, 0..600_000, 3, rng);
            let trace = trap(cluster)?;
            let name = format!("eio@{epoch}");
            repair = Some(cluster.spawn(
                &[others[0]],
                &["verify", &name, "--all-nodes", "--repair", "--timeout", "30s"].map(AsRef::as_ref),
            ));
            trace
        }
    };
    // A purge has its own pace.
    let ended: Result<Instant, ()> =
        try_until(2 * PATIENCE, || if cluster.is_running(victim) { Err(()) } else { Ok(Instant::now()) });
    let ended_at = seconds_now();
    if let Some(load) = load {
        *commits = load.stop();
    }
    // Whatever it says: it could not look at the node that ended.
    drop(repair.map(Running::wait));
    let seen = match ended {
        Ok(_) => {
            let status = cluster.wait_exit(victim, PATIENCE);
            let calls = trace.detach();
            assert!(!status.success(), "{}: node {victim} ended with {status}", row.name);
            judge(&calls, ended_at, &cluster.node(victim).said_since(from))
        }
        Err(()) => {
            let calls = trace.detach();
            cluster.kill9(victim);
            Err(match calls.iter().find(|call| call.injected) {
                Some(call) => format!("node {victim} goes on after {} of {}", call.name, call.about),
                None => "I12: no such call was made".into(),
            })
        }
    };
    // The others are a cluster without it.
    commits.commit(rng, chunks);
    cluster.restart(victim);
    cluster.wait_ready();
    if row.during == During::Repair {
        // The repair ended with the node: what has rotted has still to be mended.
        let name = format!("eio@{rotten}");
        cluster.cli(&["verify", &name, "--all-nodes", "--repair", "--timeout", "60s"]).ok();
    }
    cluster.wait_alike();
    commits.check(cluster);
    Some(seen)
}

/// How long the process lived on after the call, or what is wrong.
fn judge(calls: &[Call], ended: f64, said: &str) -> Result<Duration, String> {
    let call = calls.iter().find(|call| call.injected).ok_or("it ended, though nothing failed")?;
    let lived = Duration::from_secs_f64((ended - call.end).max(0.0));
    if lived > END {
        return Err(format!("it lived on for {lived:.1?} after {} of {}", call.name, call.about));
    }
    // Of each thread the first call fails: of two at once the node names the one that it heard of first.
    let file = |call: &Call| {
        let name = Path::new(&call.about).file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.trim_end_matches(".tmp").to_owned()
    };
    let named = |file: String| said.lines().any(|line| line.contains(&file) && line.contains("sync"));
    match calls.iter().filter(|call| call.injected).map(file).any(named) {
        true => Ok(lived),
        false => Err(format!("no line names {} and {}:\n{said}", call.name, file(call))),
    }
}

/// The victim is away until the log is purged past it, and lacks content.
fn fall_behind(cluster: &mut Cluster, commits: &mut Commits, victim: u64, rng: &mut Rng) {
    cluster.kill9(victim);
    for _ in 0..3 {
        commits.commit(rng, chunks);
    }
    commits.remove_below(2, rng);
    wait_purged_past(cluster, victim);
}

/// Digests of the content of all epochs.
fn digests(cluster: &Cluster, commits: &Commits) -> Vec<String> {
    let shown = commits
        .committed()
        .into_iter()
        .map(|epoch| cluster.cli(&["show", &format!("eio@{epoch}"), "--files"]));
    let mut found: Vec<String> = Vec::new();
    for word in shown.flat_map(|output| output.ok().stdout.split('"').map(str::to_owned).collect::<Vec<_>>())
    {
        if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found.push(word);
        }
    }
    found.sort();
    found.dedup();
    found
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
