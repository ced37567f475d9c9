//! What flags and environment say.

use std::path::PathBuf;

/// What flags and environment say; it goes over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Node id, at least 1
    #[arg(long, env = "EPOCHLOG_ID", value_name = "N")]
    pub id: Option<u64>,
    /// Name of the cluster
    #[arg(long, env = "EPOCHLOG_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// The node's data folder
    #[arg(long, env = "EPOCHLOG_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of gRPC, for clients [default: 127.0.0.1:7411]
    #[arg(long, env = "EPOCHLOG_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address for the other nodes [default: that of --listen, its port + 20]
    #[arg(long, env = "EPOCHLOG_LISTEN_PEERS", value_name = "HOST:PORT")]
    pub listen_peers: Option<String>,
    /// Address of HTTP [default: 127.0.0.1:7421]
    #[arg(long, env = "EPOCHLOG_HTTP", value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Where clients reach this node [default: what it listens on]
    #[arg(long, env = "EPOCHLOG_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Commit by path only below this directory; may be repeated
    #[arg(long = "source-root", env = "EPOCHLOG_SOURCE_ROOT", value_name = "DIR", value_delimiter = ',')]
    pub source_roots: Vec<PathBuf>,
    /// All nodes of the cluster, this one among them, by their addresses for other nodes; the same on all of them
    #[arg(long, env = "EPOCHLOG_PEERS", value_name = "ID=HOST:PORT", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// File with the secret that all nodes of the cluster share; `epochlog secret new FILE` makes one
    #[arg(long, env = "EPOCHLOG_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// This node alone is the cluster: there is no second copy of anything
    #[arg(long, env = "EPOCHLOG_SINGLE")]
    pub single: bool,
    /// Listen beyond loopback without TLS
    #[arg(long, env = "EPOCHLOG_INSECURE")]
    pub insecure: bool,
}
