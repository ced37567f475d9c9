//! One node of a cluster: its folder, its addresses, its process.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// One node: a folder, three ports and, most of the time, a process.
#[derive(Debug)]
pub struct Node {
    /// Its id, from 1.
    pub id: u64,
    /// Where its services listen: loopback, or a host of a network of our own.
    pub host: Ipv4Addr,
    /// Port of the gRPC service.
    pub grpc: u16,
    /// Port for the other nodes.
    pub peers: u16,
    /// Port of the HTTP service.
    pub http: u16,
    /// Its data folder.
    pub data: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// What it has said, over all its lives.
    pub log: PathBuf,
    pub(super) child: Option<Child>,
}

impl Node {
    /// Its address, for clients.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.grpc)
    }

    /// Its address for the other nodes.
    pub fn peer_address(&self) -> String {
        format!("{}:{}", self.host, self.peers)
    }

    /// Its process id, while it has one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The published tree of an epoch, whether it is there or not.
    pub fn published(&self, job: &str, epoch: u64) -> PathBuf {
        self.data.join(format!("epochs/{job}/{epoch}/files"))
    }

    /// The number of the newest attempt that has a staging folder, 0 without one.
    pub fn newest_attempt(&self) -> u64 {
        self.attempts().map(|(attempt, _)| attempt).max().unwrap_or(0)
    }

    /// Bytes that attempts above this number have staged, by blocks: older ones are given back at any time.
    pub fn staged_after(&self, attempt: u64) -> u64 {
        self.attempts().filter(|(other, _)| *other > attempt).map(|(_, path)| disk_bytes(&path)).sum()
    }

    /// The attempts that have a staging folder: those that are open, and those that just ended.
    pub fn staged_attempts(&self) -> Vec<u64> {
        self.attempts().map(|(attempt, _)| attempt).collect()
    }

    fn attempts(&self) -> impl Iterator<Item = (u64, PathBuf)> {
        let folders = fs::read_dir(self.data.join("groups/main/staging")).into_iter().flatten().flatten();
        folders.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
    }

    /// How much it has said.
    pub fn log_bytes(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(usize::MAX))
    }

    /// What it has said since its log had so many bytes.
    pub fn said_since(&self, bytes: usize) -> String {
        let all = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&all[bytes.min(all.len())..]).into_owned()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Answer of `GET path`: status code and body.
    ///
    /// # Errors
    /// When the node does not answer within two seconds.
    pub fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(self.http_place(), path)
    }

    /// Where its HTTP service listens.
    pub fn http_place(&self) -> SocketAddr {
        (self.host, self.http).into()
    }

    /// Whether it was started and is gone without having been killed by us.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.is_some() && !self.process_running()
    }

    pub(super) fn process_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

/// Answer of `GET path` at a place: status code and body.
///
/// # Errors
/// When nobody answers within two seconds.
pub fn get(place: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&place, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", place.ip())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((code, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
}

/// Bytes below a folder, by blocks; what vanishes meanwhile counts nothing.
pub fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = fs::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}
