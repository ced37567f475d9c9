//! A cluster of real processes on loopback: started, killed, stopped, started
//! again, asked. It ends only processes that it started itself.
//!
//! Every node has its own folder: `data/`, `epochlog.toml`, `node.log`. When a
//! test fails, the tails of the logs are printed.

mod disks;
mod node;
mod options;

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

pub use node::{Node, disk_bytes, get};
pub use options::Options;

use crate::binary;
use crate::cli::{Caller, Output, Running, Shell, clean, create, signal};
use crate::disks::SmallDisk;
use crate::scratch::{Scratch, set_mode};
use crate::seed::Rng;
use crate::trees::give_to;
use crate::wait::{try_until, wait_until};

/// Time in which a cluster must be ready, a leader found, an epoch published.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes, by id from 1.
    pub nodes: Vec<Node>,
    /// How it was made.
    pub options: Options,
    /// How its command lines are run.
    pub shell: Shell,
    /// What is mounted below the folder, and is unmounted before it goes: of node N at N - 1, that of the sources last.
    disks: Vec<SmallDisk>,
    folder: Scratch,
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(name: &str, options: Options) -> Cluster {
        Cluster::prepare(name, options).started()
    }

    fn started(mut self) -> Cluster {
        for id in 1..=self.options.nodes {
            self.restart(id);
        }
        self.wait_ready();
        self
    }

    /// Makes folders and configuration, starts nothing.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn prepare(name: &str, options: Options) -> Cluster {
        let folder = match &options.below {
            Some(root) => Scratch::below(root, name),
            None => Scratch::new(name),
        };
        // A copy, so that another user may run it and a rebuild does not change it under us.
        let binary = folder.join("epochlog");
        let under_test = options.binary.as_deref().unwrap_or_else(|| binary::epochlog());
        if options.user.is_some() || fs::hard_link(under_test, &binary).is_err() {
            fs::copy(under_test, &binary).expect("the binary can be copied");
        }
        set_mode(&binary, 0o755).expect("our own copy takes a mode");
        let nodes: Vec<Node> = (1..=options.nodes)
            .map(|id| {
                let home = folder.join(format!("node-{id}"));
                fs::create_dir(&home).expect("the scratch folder can be written");
                let [grpc, peers, http] = [free_port(), free_port(), free_port()];
                Node {
                    id,
                    host: options.net.as_ref().map_or(Ipv4Addr::LOCALHOST, |net| net.address(id)),
                    grpc,
                    peers,
                    http,
                    data: home.join("data"),
                    config: home.join("epochlog.toml"),
                    log: home.join("node.log"),
                    child: None,
                }
            })
            .collect();
        let secret = make_secret(&binary, folder.join("secret"));
        for home in ["cli", "sources", "restored"] {
            fs::create_dir(folder.join(home)).expect("the scratch folder can be written");
        }
        let shell = Shell { binary, folder: folder.join("cli"), user: options.user };
        let cluster = Cluster { nodes, options, shell, disks: Vec::new(), folder };
        for node in &cluster.nodes {
            let sources = cluster.folder.join("sources");
            let text = cluster.options.configuration(node, &cluster.nodes, &sources, secret.as_deref());
            fs::write(&node.config, text).expect("the scratch folder can be written");
        }
        if let Some((user, group)) = cluster.options.user {
            give_to(&cluster.folder, user, group).expect("root may give files away");
        }
        cluster
    }

    /// The cluster's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path for a source directory, below the nodes' source roots.
    pub fn source(&self, name: &str) -> PathBuf {
        self.folder.join("sources").join(name)
    }

    /// The node with this id.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[index(id)]
    }

    /// Starts a node's process, whether it ran before or not.
    ///
    /// # Panics
    /// When it is running, or cannot be started.
    pub fn restart(&mut self, id: u64) {
        let (binary, folder, user) = (self.shell.binary.clone(), self.folder.join("cli"), self.options.user);
        let space = self.options.net.as_ref().map(|net| net.namespace(id));
        let node = &mut self.nodes[index(id)];
        assert!(!node.process_running(), "node {id} runs already");
        let mut command = match &space {
            // It becomes the node, under the same process id.
            Some(space) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", space]).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        clean(&mut command, &folder, user);
        command.arg("serve").arg("--config").arg(&node.config);
        // Other than loopback addresses have to be asked for.
        command.args(space.map(|_| "--insecure"));
        command.stdin(Stdio::null()).stdout(create(&node.log)).stderr(create(&node.log));
        node.child =
            Some(command.spawn().unwrap_or_else(|error| panic!("node {id} cannot be started: {error}")));
    }

    /// Ends a node with SIGKILL and waits for its end; nothing when it is down.
    pub fn kill9(&mut self, id: u64) {
        if let Some(mut child) = self.nodes[index(id)].child.take() {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }

    /// Ends all nodes with SIGKILL, all signalled before any is waited for.
    pub fn kill9_all(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _gone = child.kill();
        }
        for id in 1..=self.options.nodes {
            self.kill9(id);
        }
    }

    /// Ends a node with SIGTERM and waits for its end.
    ///
    /// # Panics
    /// When it does not end in time, or not well.
    pub fn terminate(&mut self, id: u64) {
        signal(self.node(id).child.as_ref().expect("only a running node is ended"), Signal::TERM);
        let status = self.wait_exit(id, PATIENCE);
        assert!(
            status.success(),
            "node {id} ended with {status} after SIGTERM\n{}",
            self.node(id).log_tail()
        );
    }

    /// Sends SIGSTOP to a node.
    pub fn stop(&self, id: u64) {
        signal(self.node(id).child.as_ref().expect("only a running node is stopped"), Signal::STOP);
    }

    /// Sends SIGCONT to a node.
    pub fn cont(&self, id: u64) {
        signal(self.node(id).child.as_ref().expect("only a running node is continued"), Signal::CONT);
    }

    /// Whether a node's process is there.
    pub fn is_running(&mut self, id: u64) -> bool {
        self.nodes[index(id)].process_running()
    }

    /// Waits until a node ends by itself.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn wait_exit(&mut self, id: u64, limit: Duration) -> ExitStatus {
        let node = &mut self.nodes[index(id)];
        let mut child = node.child.take().expect("the node was started");
        let ended = try_until(limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        if ended.is_err() {
            node.child = Some(child);
        }
        ended.unwrap_or_else(|last| {
            panic!("node {id} should have ended within {limit:?}: {last}\n{}", self.node(id).log_tail())
        })
    }

    /// Waits until every node that should run is ready.
    ///
    /// # Panics
    /// When one ends or is not ready in time.
    pub fn wait_ready(&mut self) {
        for id in 1..=self.options.nodes {
            if self.node(id).child.is_some() {
                self.wait_node_ready(id);
            }
        }
    }

    /// Waits until one node says at `/readyz` that it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time.
    pub fn wait_node_ready(&mut self, id: u64) {
        let mut ended = None;
        let ready = try_until(PATIENCE, || {
            // A node that waits for another one that has ended waits for ever.
            ended = self.nodes.iter_mut().find_map(|node| node.has_ended().then_some(node.id));
            if ended.is_some() {
                return Ok(());
            }
            match self.node(id).get("/readyz") {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        if let Some(ended) = ended {
            panic!(
                "node {ended} ended while node {id} should become ready:\n{}",
                self.node(ended).log_tail()
            );
        }
        ready.unwrap_or_else(|last| {
            panic!("node {id} is not ready after {PATIENCE:?}: {last}\n{}", self.node(id).log_tail())
        });
    }

    /// What runs command lines against this cluster.
    pub fn caller(&self) -> Caller {
        let addresses = self.nodes.iter().map(Node::address).collect();
        Caller { shell: self.shell.clone(), addresses }
    }

    /// All ids, with `first` in front.
    pub fn first(&self, first: u64) -> Vec<u64> {
        self.caller().first(first)
    }

    /// Starts a command line against these nodes.
    pub fn spawn(&self, nodes: &[u64], args: &[&OsStr]) -> Running {
        self.caller().spawn(nodes, args)
    }

    /// Runs a command line against all nodes.
    pub fn cli<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let all: Vec<u64> = (1..=self.options.nodes).collect();
        self.cli_at(&all, args)
    }

    /// Runs a command line against these nodes.
    pub fn cli_at<S: AsRef<OsStr>>(&self, nodes: &[u64], args: &[S]) -> Output {
        let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        self.spawn(nodes, &args).wait()
    }

    /// Starts a commit of `dir`; `more` are further flags.
    pub fn spawn_commit(&self, nodes: &[u64], dir: &Path, job: &str, epoch: u64, more: &[&str]) -> Running {
        self.caller().spawn_commit(nodes, dir, job, epoch, more)
    }

    /// Commits `dir` and waits for the answer.
    pub fn commit(&self, nodes: &[u64], dir: &Path, job: &str, epoch: u64, more: &[&str]) -> Output {
        self.spawn_commit(nodes, dir, job, epoch, more).wait()
    }

    /// As [`Cluster::commit`], for one that may take longer than other commands.
    pub fn commit_within(
        &self,
        limit: Duration,
        nodes: &[u64],
        dir: &Path,
        job: &str,
        epoch: u64,
        more: &[&str],
    ) -> Output {
        self.spawn_commit(nodes, dir, job, epoch, more).wait_for(limit)
    }

    /// Restores `name` (`job@epoch`) to a new folder through one node and gives its path.
    ///
    /// # Panics
    /// When that fails.
    pub fn restore(&self, node: u64, name: &str) -> PathBuf {
        let to = self.folder.join("restored").join(format!("{name}-from-{node}"));
        let args = [OsStr::new("restore"), OsStr::new(name), OsStr::new("--to"), to.as_os_str()];
        self.cli_at(&[node], &args).ok();
        to
    }

    /// What `status` says.
    ///
    /// # Errors
    /// The whole output, when it failed.
    pub fn status(&self) -> Result<Value, Box<Output>> {
        let output = self.cli(&["status", "--timeout", "5s"]);
        match output.lines.iter().find(|line| line["nodes"].is_array()) {
            Some(status) if output.code == Some(0) => Ok(status.clone()),
            _ => Err(Box::new(output)),
        }
    }

    /// The leader, waited for.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn leader(&self) -> u64 {
        wait_until(PATIENCE, "a leader", || match self.status() {
            Ok(status) => status["leader"]
                .as_u64()
                .filter(|id| self.node(*id).child.is_some())
                .ok_or_else(|| status.to_string()),
            Err(output) => Err(output.to_string()),
        })
    }

    /// A node that is not the leader.
    pub fn follower(&self) -> u64 {
        let leader = self.leader();
        self.first(leader)[1]
    }

    /// Waits until every running node has published an epoch.
    ///
    /// # Panics
    /// When one has not in time.
    pub fn wait_published(&self, job: &str, epoch: u64) {
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            let path = node.published(job, epoch);
            wait_until(PATIENCE, &format!("{job}@{epoch} published on node {}", node.id), || {
                if path.is_dir() {
                    Ok(())
                } else {
                    Err(format!("{} is not there\n{}", path.display(), node.log_tail()))
                }
            });
        }
    }

    /// Waits until all nodes have applied the same entries to the same ledger and published what it says.
    ///
    /// # Panics
    /// When they have not in time.
    pub fn wait_alike(&self) {
        wait_until(PATIENCE, "all nodes to be alike", || {
            let status = self.status().map_err(|output| output.to_string())?;
            let nodes = status["nodes"].as_array().expect("a status lists its nodes");
            let stands = |node: &Value| {
                let digest = node["ledger_digest"].as_str().unwrap_or_default().to_owned();
                (node["applied"].as_u64(), digest)
            };
            let first = stands(&nodes[0]);
            let alike = nodes.len() == self.nodes.len()
                && !first.1.is_empty()
                && nodes.iter().all(|node| {
                    stands(node) == first && node["published"].as_u64() >= node["applied"].as_u64()
                });
            if alike { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// The sealed epochs of a job as `ls` gives them.
    ///
    /// # Panics
    /// When `ls` fails.
    pub fn list(&self, job: &str) -> Vec<Value> {
        let output = wait_until(PATIENCE, "an answer of ls", || {
            let output = self.cli(&["ls", job, "--limit", "0"]);
            match output.code {
                Some(0 | 4) => Ok(output),
                _ => Err(output),
            }
        });
        output.lines.into_iter().filter(|line| line["epoch"].is_u64()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.free_disks();
        self.kill9_all();
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- the last of node {} ({})\n{}", node.id, node.address(), node.log_tail());
            }
        }
    }
}

fn index(id: u64) -> usize {
    usize::try_from(id).ok().and_then(|id| id.checked_sub(1)).expect("node ids count from 1")
}

/// What the nodes share; `None` with a build from before there were secrets.
fn make_secret(binary: &Path, file: PathBuf) -> Option<PathBuf> {
    let mut command = Command::new(binary);
    command
        .args(["secret", "new"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().expect("the binary can be started").success().then_some(file)
}

/// A port that is free on loopback, below the range that outgoing connections use, so that a node
/// finds its port free again after it was killed. None is given twice.
fn free_port() -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || {
        let drawn = Rng::new(u64::from(std::process::id()), "ports").range(15_000, 30_000);
        u16::try_from(drawn).expect("in range")
    };
    let mut port = next.unwrap_or_else(start);
    while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
        port = if port < 32_000 { port + 1 } else { 15_000 };
    }
    *next = Some(if port < 32_000 { port + 1 } else { 15_000 });
    port
}
