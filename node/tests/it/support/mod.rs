//! One node as a process, for tests that need no cluster.

pub mod trio;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Options};

/// A node; dropping it kills it.
pub struct Node {
    pub child: Child,
    pub endpoint: String,
    pub http: String,
    pub data: PathBuf,
    pub config: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens on, and that nobody else gets: below the ports that connections are made from, each
/// once in a process. Nor does anybody get the address that peers have by default, 20 above.
pub fn port() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let at = next % 20 + next / 20 * 40;
        let address = format!("127.0.0.1:{}", 10_000 + (std::process::id() * 61 + at) % 16_000);
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Waits for what `look` finds.
pub async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Node {
    /// Starts a node of its own cluster in `dir`.
    pub fn start(dir: &Path, endpoint: &str, roots: &Path) -> Node {
        Node::start_with(dir, endpoint, roots, "1 MiB")
    }

    /// The same with a reserve.
    pub fn start_with(dir: &Path, endpoint: &str, roots: &Path, reserve: &str) -> Node {
        Node::start_by(Command::new(env!("CARGO_BIN_EXE_epochlog")), dir, endpoint, roots, reserve)
    }

    /// The same by a command that takes the arguments of the program.
    pub fn start_by(mut command: Command, dir: &Path, endpoint: &str, roots: &Path, reserve: &str) -> Node {
        let (data, config, http) = (dir.join("data"), dir.join("node.toml"), port());
        let text = format!(
            "[node]\nid = 1\ndata_dir = {data:?}\nsource_roots = [{roots:?}]\n[listen]\ngrpc = \"{endpoint}\"\nhttp = \"{http}\"\n\
             [cluster]\nsingle = true\n[raft]\nheartbeat = \"50ms\"\nelection_timeout = [\"200ms\", \"400ms\"]\n[storage]\nreserve_free = {reserve:?}\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = command.args(["serve", "--config"]).arg(&config).stderr(Stdio::null()).spawn().unwrap();
        Node { child, endpoint: endpoint.to_owned(), http, data, config }
    }

    /// A client, once the node leads.
    pub async fn client(&self) -> Client {
        let client = Client::new([self.endpoint.clone()], Options { timeout: Duration::from_secs(20) });
        wait_for("a leader", async || client.status(true).await.ok().and_then(|status| status.leader)).await;
        client
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Status line, headers and body of an HTTP path.
    pub fn get(&self, path: &str) -> (String, String) {
        get(&self.http, path)
    }
}

/// Status line, headers and body of an HTTP path of the node that serves HTTP at this address.
pub fn get(http: &str, path: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A file with the secret of a cluster.
pub fn make_secret(file: &Path) {
    let made =
        Command::new(env!("CARGO_BIN_EXE_epochlog")).args(["secret", "new"]).arg(file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A directory with a bit of everything.
pub fn source(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    std::fs::create_dir_all(source.join("sub/empty")).unwrap();
    std::fs::write(source.join("sub/small"), b"small").unwrap();
    std::fs::write(source.join("large"), vec![7; 3_000_000]).unwrap();
    std::fs::write(source.join("zeros"), vec![0; 3_000_000]).unwrap();
    std::fs::write(source.join("none"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", source.join("dangling")).unwrap();
    source
}
