//! A cluster of three nodes as processes.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::{make_secret, port, source, wait_for};

/// Three nodes on this machine; dropping them kills them.
pub struct Trio {
    pub nodes: Vec<Child>,
    /// Where clients reach them.
    pub endpoints: Vec<String>,
    /// Where the others do.
    pub peers: Vec<String>,
}

impl Drop for Trio {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

impl Trio {
    /// Starts them over folders in `dir`, with a secret.
    pub fn start(dir: &Path) -> Trio {
        Trio::start_with(dir, "")
    }

    /// The same with more sections of configuration, the same on all.
    pub fn start_with(dir: &Path, more: &str) -> Trio {
        let endpoints: Vec<String> = (0..3).map(|_| port()).collect();
        let peers: Vec<String> = (0..3).map(|_| port()).collect();
        make_secret(&dir.join("secret"));
        let config = dir.join("timing.toml");
        let timing = "[raft]\nheartbeat = \"150ms\"\nelection_timeout = [\"1500ms\", \"2400ms\"]\n";
        std::fs::write(&config, format!("{timing}[storage]\nreserve_free = \"1 MiB\"\n{more}")).unwrap();
        let mut trio = Trio { nodes: Vec::new(), endpoints, peers };
        trio.nodes = (0..3).map(|at| trio.node(dir, at)).collect();
        trio
    }

    /// Starts one of them.
    pub fn node(&self, dir: &Path, at: usize) -> Child {
        let id = at + 1;
        let members: Vec<String> =
            (1..).zip(&self.peers).map(|(id, at): (usize, &String)| format!("{id}={at}")).collect();
        Command::new(env!("CARGO_BIN_EXE_epochlog"))
            .args(["serve", "--cluster", "trio", "--id", &id.to_string(), "--listen", &self.endpoints[at]])
            .args(["--http", &port(), "--peers", &members.join(","), "--listen-peers", &self.peers[at]])
            .arg("--secret-file")
            .arg(dir.join("secret"))
            .arg("--data-dir")
            .arg(dir.join(format!("n{id}")))
            .arg("--config")
            .arg(dir.join("timing.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Runs a command against one node.
    pub fn ask(&self, node: usize, args: &[&str]) -> Output {
        self.ask_within("20s", node, args)
    }

    /// The same with less patience.
    pub fn ask_within(&self, timeout: &str, node: usize, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
        command.args(["-e", &self.endpoints[node], "--timeout", timeout]).args(args).output().unwrap()
    }

    /// Which node leads, once all know.
    pub async fn leader(&self) -> usize {
        wait_for("a leader", async || {
            let told = self.ask(0, &["-o", "json", "status"]);
            let status: serde_json::Value = serde_json::from_slice(&told.stdout).ok()?;
            let reached = status["nodes"].as_array()?.iter().all(|node| node["role"] != "unreachable");
            status["leader"].as_u64().filter(|_| reached).map(|leader| leader as usize - 1)
        })
        .await
    }

    /// Commits an epoch of job `job`, on all nodes.
    pub fn commit(&self, dir: &Path, node: usize) {
        let source = source(dir);
        let args = ["commit", source.to_str().unwrap(), "--job", "job", "--wait", "all"];
        let done = self.ask(node, &args);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
    }
}
