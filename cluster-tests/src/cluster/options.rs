//! How a cluster is made, and the configuration that follows from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Node;
use crate::netns::Net;

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of nodes.
    pub nodes: u64,
    /// Run nodes and clients as this user and group (needs root).
    pub user: Option<(u32, u32)>,
    /// Whether nodes may read sources in the cluster's folder by path.
    pub by_path: bool,
    /// Heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    /// Election timeout, in milliseconds.
    pub election_ms: (u64, u64),
    /// Heartbeat and election timeout as they are shipped, whatever the two above say.
    pub shipped_timing: bool,
    /// Node N lives on host N of this network. The caller is [`Net::outside`] then.
    pub net: Option<Arc<Net>>,
    /// Where the cluster's folder is made; default the scratch root.
    pub below: Option<PathBuf>,
    /// Another binary than the one under test, to compare it with.
    pub binary: Option<PathBuf>,
    /// Space that a node keeps free, as its configuration writes it.
    pub reserve: String,
    /// Further lines of configuration, whole sections.
    pub more: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 3,
            user: None,
            by_path: true,
            heartbeat_ms: 150,
            election_ms: (2700, 3600),
            shipped_timing: false,
            net: None,
            below: None,
            binary: None,
            reserve: "64 MiB".into(),
            more: String::new(),
        }
    }
}

impl Options {
    /// The configuration file of a node. A build from before there were secrets has one port for clients and peers.
    pub(super) fn configuration(
        &self,
        node: &Node,
        all: &[Node],
        sources: &Path,
        secret: Option<&Path>,
    ) -> String {
        let for_peers = |peer: &Node| if secret.is_some() { peer.peer_address() } else { peer.address() };
        let members: Vec<_> = all.iter().map(|peer| format!("\"{}={}\"", peer.id, for_peers(peer))).collect();
        let (listen, prove) = secret.map_or_else(Default::default, |secret| {
            let listen = format!("peers = \"{}\"\n", node.peer_address());
            (listen, format!("secret_file = \"{}\"\n", secret.display()))
        });
        let roots = if self.by_path { format!("\"{}\"", sources.display()) } else { String::new() };
        let single = if all.len() == 1 { "single = true\n" } else { "" };
        let (low, high) = self.election_ms;
        let timing = match self.shipped_timing {
            true => String::new(),
            false => format!(
                "[raft]\nheartbeat = \"{}ms\"\nelection_timeout = [\"{low}ms\", \"{high}ms\"]\n",
                self.heartbeat_ms
            ),
        };
        format!(
            "[node]\nid = {}\ncluster = \"test\"\ndata_dir = \"{}\"\nadvertise = \"{}\"\nsource_roots = [{roots}]\n\
             [listen]\n{listen}grpc = \"{}\"\nhttp = \"{}:{}\"\n\
             [cluster]\n{prove}initial_members = [{}]\n{single}\
             {timing}[storage]\nreserve_free = \"{}\"\n{}",
            node.id,
            node.data.display(),
            node.address(),
            node.address(),
            node.host,
            node.http,
            members.join(", "),
            self.reserve,
            self.more,
        )
    }
}
