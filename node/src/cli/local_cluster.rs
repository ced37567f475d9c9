//! Nodes as child processes on loopback, for `demo` and `dev`. They end when we do.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Code, Failure, Options, pb};
use rustix::process::{Pid, Signal, kill_process};

use super::secret;

/// One node of the cluster.
pub struct LocalNode {
    /// Its id.
    pub id: u64,
    /// `HOST:PORT` of gRPC.
    pub grpc: String,
    /// `HOST:PORT` for the other nodes.
    pub peers: String,
    /// `HOST:PORT` of HTTP.
    pub http: String,
    /// Its data folder.
    pub data: PathBuf,
    /// Its log lines.
    pub log: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

/// Settings of a local cluster.
pub struct Settings {
    /// Folder of everything.
    pub dir: PathBuf,
    /// Number of nodes.
    pub nodes: u64,
    /// First gRPC port, HTTP ten above, for the other nodes twenty above; free ports when absent.
    pub base_port: Option<u16>,
    /// Commits by path below these.
    pub source_roots: Vec<PathBuf>,
    /// Heartbeat, and bounds of the election timeout.
    pub timing: (&'static str, &'static str, &'static str),
}

/// A cluster of child processes. Dropping it kills them.
pub struct LocalCluster {
    /// The nodes, by rising id.
    pub nodes: Vec<LocalNode>,
}

fn cannot(what: impl Into<String>, error: impl ToString) -> Failure {
    Failure::new(Code::Internal, "the local cluster cannot be started")
        .what(what)
        .why(error.to_string())
        .fix("see to the folder and its disk, then repeat the command")
}

impl LocalCluster {
    /// Writes the configurations and starts all nodes.
    pub fn start(settings: &Settings) -> Result<LocalCluster, Failure> {
        let ports = ports(settings)?;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let members: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(at, [_, _, peers])| format!("{}={}", at + 1, address(*peers)))
            .collect();
        let secret_file = settings.dir.join("secret");
        if !secret_file.exists() {
            secret::make(&secret_file).map_err(|error| cannot(secret_file.display().to_string(), error))?;
        }
        let mut cluster = LocalCluster { nodes: Vec::new() };
        for (id, [grpc, http, peers]) in (1..).zip(ports) {
            let data = settings.dir.join(format!("node-{id}"));
            let mut node = LocalNode {
                id,
                grpc: address(grpc),
                http: address(http),
                peers: address(peers),
                log: settings.dir.join(format!("node-{id}.log")),
                config: settings.dir.join(format!("node-{id}.toml")),
                data,
                child: None,
            };
            let text = config_text(&node, &members, &secret_file, settings);
            fs::write(&node.config, text)
                .map_err(|error| cannot(node.config.display().to_string(), error))?;
            node.spawn()?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// The endpoints, `first` before the others.
    pub fn endpoints(&self, first: u64) -> Vec<String> {
        let mut nodes: Vec<&LocalNode> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| (node.id != first, node.id));
        nodes.iter().map(|node| node.grpc.clone()).collect()
    }

    /// A client that talks to `first` before the others.
    pub fn client(&self, first: u64, timeout: Duration) -> Client {
        Client::new(self.endpoints(first), Options { timeout })
    }

    /// A node by its id.
    pub fn node(&self, id: u64) -> &LocalNode {
        self.nodes.iter().find(|node| node.id == id).expect("ids are those of our own nodes")
    }

    /// A node by its id.
    pub fn node_mut(&mut self, id: u64) -> &mut LocalNode {
        self.nodes.iter_mut().find(|node| node.id == id).expect("ids are those of our own nodes")
    }

    /// Waits until there is a leader and `reachable` nodes answer; tells the leader.
    pub async fn wait_ready(
        &mut self,
        reachable: usize,
        patience: Duration,
    ) -> Result<(u64, pb::StatusReply), Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let mut why = "no node answers".to_owned();
            for at in 0..self.nodes.len() {
                self.nodes[at].check_alive()?;
                let client =
                    Client::new([self.nodes[at].grpc.clone()], Options { timeout: Duration::from_secs(3) });
                match client.status(true).await {
                    Ok(status) => {
                        let up = status.nodes.iter().filter(|node| node.role != "unreachable").count();
                        match status.leader {
                            Some(leader) if up >= reachable => return Ok((leader, status)),
                            Some(_) => why = format!("only {up} nodes answer"),
                            None => why = "there is no leader yet".into(),
                        }
                    }
                    Err(failure) => why = failure.why,
                }
            }
            if Instant::now() >= deadline {
                return Err(cannot(
                    "wait for a leader",
                    format!("{why}; see {}", self.nodes[0].log.display()),
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks all nodes to stop, and waits for them, not for long: what is committed is on their disks.
    pub fn stop(&mut self) {
        for node in &self.nodes {
            node.signal(Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        for node in &mut self.nodes {
            let Some(child) = &mut node.child else { continue };
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            node.kill();
        }
    }
}

impl LocalNode {
    /// Starts the process; its log lines go to a file.
    pub fn spawn(&mut self) -> Result<(), Failure> {
        let what = format!("start node {}", self.id);
        let exe = std::env::current_exe().map_err(|error| cannot(what.clone(), error))?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| cannot(self.log.display().to_string(), error))?;
        let mut command = Command::new(exe);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        let child = command
            .args(["serve", "--with-parent", "--config"])
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| cannot(what, error))?;
        self.child = Some(child);
        Ok(())
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal, if the process is there.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself: then there is nobody to tell.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// An error when the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = fs::read(&self.log).unwrap_or_default();
                Err(Failure::new(Code::Internal, format!("node {} has ended ({status})", self.id))
                    .what(format!("node {}", self.id))
                    .why(last_words(&String::from_utf8_lossy(&log)))
                    .fix(format!("its log says more: {}", self.log.display())))
            }
            Err(error) => Err(cannot(format!("node {}", self.id), error)),
        }
    }

    /// The published directory of an epoch.
    pub fn published(&self, job: &str, epoch: u64) -> PathBuf {
        self.data.join("epochs").join(job).join(epoch.to_string()).join("files")
    }
}

/// Why a node has ended, from the end of its log: the error that it closed with, else its last line.
fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let Some(at) = lines.iter().rposition(|line| line.starts_with("error: ")) else {
        return (*lines.last().unwrap_or(&"it has said nothing")).to_owned();
    };
    let sentence = &lines[at]["error: ".len()..];
    match lines[at..].iter().find_map(|line| line.strip_prefix("  why   ")) {
        Some(why) => format!("{sentence}: {why}"),
        None => sentence.to_owned(),
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Our variables are for the command, not for the nodes it starts.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("EPOCHLOG_") && name != "EPOCHLOG_LOG")
}

fn config_text(node: &LocalNode, members: &[String], secret_file: &Path, settings: &Settings) -> String {
    let text = |value: String| toml::Value::String(value);
    let list =
        |values: Vec<String>| toml::Value::Array(values.into_iter().map(toml::Value::String).collect());
    let section = |pairs: Vec<(&str, toml::Value)>| {
        toml::Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let roots = settings.source_roots.iter().map(|root| root.display().to_string()).collect();
    let (heartbeat, low, high) = settings.timing;
    let id = i64::try_from(node.id).expect("few nodes");
    let mut file = toml::Table::new();
    let node_section = vec![
        ("id", toml::Value::Integer(id)),
        ("cluster", text("local".into())),
        ("data_dir", text(node.data.display().to_string())),
        ("source_roots", list(roots)),
    ];
    file.insert("node".into(), section(node_section));
    let listen_section = vec![
        ("grpc", text(node.grpc.clone())),
        ("peers", text(node.peers.clone())),
        ("http", text(node.http.clone())),
    ];
    file.insert("listen".into(), section(listen_section));
    let mut cluster_section = vec![
        ("initial_members", list(members.to_vec())),
        ("secret_file", text(secret_file.display().to_string())),
    ];
    if members.len() == 1 {
        cluster_section.push(("single", toml::Value::Boolean(true)));
    }
    file.insert("cluster".into(), section(cluster_section));
    let timeouts = list(vec![low.to_owned(), high.to_owned()]);
    file.insert(
        "raft".into(),
        section(vec![("heartbeat", text(heartbeat.into())), ("election_timeout", timeouts)]),
    );
    file.to_string()
}

/// Ports of each node: gRPC, HTTP, for the other nodes.
fn ports(settings: &Settings) -> Result<Vec<[u16; 3]>, Failure> {
    let count = usize::try_from(settings.nodes).expect("few nodes");
    if let Some(base) = settings.base_port {
        let ports = (0..count)
            .map(|at| {
                let first = base.checked_add(u16::try_from(at).ok()?)?;
                Some([first, first.checked_add(10)?, first.checked_add(20)?])
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                Failure::new(Code::Usage, "the base port is too high")
                    .what(format!("--base-port {base}"))
                    .fix("name one below 65000")
            })?;
        // Told before anything runs: else the nodes of whoever listens there would be taken for ours.
        for port in ports.iter().flatten() {
            TcpListener::bind(("127.0.0.1", *port)).map_err(|error| {
                Failure::new(Code::Usage, "a port is taken")
                    .what(format!("listen on 127.0.0.1:{port}"))
                    .why(error.to_string())
                    .fix("stop what listens there, another `epochlog dev` maybe; or choose others with --base-port")
            })?;
        }
        return Ok(ports);
    }
    let bind = || TcpListener::bind("127.0.0.1:0").map_err(|error| cannot("find free ports", error));
    // All are held until all are found, so that none is found twice.
    let held = (0..3 * count).map(|_| bind()).collect::<Result<Vec<_>, _>>()?;
    let found: Vec<u16> = held.iter().filter_map(|port| Some(port.local_addr().ok()?.port())).collect();
    Ok(found.chunks_exact(3).map(|ports| [ports[0], ports[1], ports[2]]).collect())
}

/// The canonical path, or the path itself where that cannot be told.
pub fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_node_are_a_sentence() {
        let log = "{\"level\":\"INFO\"}\nerror: the node did not start: its folder is in use\n  what  serve\n  why   /d is in \
                   use by another process\n  do    stop it\n";
        assert_eq!(
            last_words(log),
            "the node did not start: its folder is in use: /d is in use by another process"
        );
        assert_eq!(last_words("a\nb\n"), "b");
        assert_eq!(last_words(""), "it has said nothing");
    }

    #[test]
    fn a_port_that_is_taken_is_told_before_a_node_runs() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_port = Some(taken.local_addr().unwrap().port());
        let dir = std::path::PathBuf::from("/nowhere");
        let settings =
            Settings { dir, nodes: 1, base_port, source_roots: vec![], timing: ("1s", "6s", "7s") };
        let failure = ports(&settings).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.fix.contains("--base-port"), "{failure:?}");
    }
}
