//! A node's configuration: TOML, flags and environment to one checked `Config`.
//!
//! Nothing is ever ignored: an unknown key is an error that names the nearest known one, and a
//! section of a feature that this version does not have is refused as such.

mod file;
pub mod shown;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use raft::{Secret, SecretError};

use crate::units;
use file::{File, SizeText, check_keys};

/// A configuration that cannot be used, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// How much space stays free on a node's disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reserve {
    /// Per cent of the file system.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
}

impl Reserve {
    /// The reserve on a file system of `total` bytes, in bytes.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Reserve::Percent(percent) => (total as f64 * percent / 100.0) as u64,
            Reserve::Bytes(bytes) => bytes,
        }
    }

    /// Parses `5%` or a size.
    pub fn parse(text: &str) -> Result<Reserve, String> {
        match text.trim().strip_suffix('%') {
            None => units::parse_size(text).map(Reserve::Bytes),
            Some(percent) => match percent.trim().parse::<f64>() {
                Ok(percent) if (0.0..=90.0).contains(&percent) => Ok(Reserve::Percent(percent)),
                _ => Err(format!("{text:?} is not a share from 0% to 90%")),
            },
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// A checked configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Node id, at least 1.
    pub id: u64,
    /// The cluster's name; nodes of another name are not talked to.
    pub cluster: String,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Where clients reach this node, `HOST:PORT`; it tells the others.
    pub advertise: String,
    /// Commits by path only below these, canonical.
    pub source_roots: Vec<PathBuf>,
    /// Address of gRPC, for clients.
    pub grpc: SocketAddr,
    /// Address for peers, which is opened where there is a secret.
    pub peers: SocketAddr,
    /// Address of HTTP.
    pub http: SocketAddr,
    /// First members: node id and `HOST:PORT` for peers.
    pub members: Vec<(u64, String)>,
    /// The file with the secret that all nodes of the cluster share.
    pub secret_file: Option<PathBuf>,
    /// Pause between the leader's heartbeats.
    pub heartbeat: Duration,
    /// Bounds of the whole time without a leader until another one stands.
    pub election_timeout: (Duration, Duration),
    /// Chunk size of commits that do not ask for one, bytes.
    pub chunk_bytes: u32,
    /// Space that stays free.
    pub reserve: Reserve,
    /// Limits of an epoch.
    pub limits: checkpoint::Limits,
    /// An attempt that nobody goes on with ends after so much log time.
    pub attempt_ttl: Duration,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Listening beyond loopback without TLS has been asked for.
    pub insecure: bool,
}

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
    /// First members of a new cluster, this node among them, by their addresses for other nodes
    #[arg(long, env = "EPOCHLOG_PEERS", value_name = "ID=HOST:PORT", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// File with the secret that all nodes of the cluster share; `epochlog secret new FILE` makes one
    #[arg(long, env = "EPOCHLOG_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Listen beyond loopback without TLS
    #[arg(long, env = "EPOCHLOG_INSECURE")]
    pub insecure: bool,
}

impl Config {
    /// Reads and checks the file, if any, with the overrides over it.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| fail(format!("{}: {error}", path.display())))?
            }
        };
        Config::parse(&text, overrides).map_err(|error| match file {
            Some(path) => fail(format!("{}: {}", path.display(), error.0)),
            None => error,
        })
    }

    /// The same from text.
    pub fn parse(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
        let at_line = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            fail(format!("line {line}: {}", error.message()))
        };
        check_keys(&text.parse().map_err(at_line)?)?;
        build(toml::from_str(text).map_err(at_line)?, overrides)
    }

    /// The secret of the cluster; a node without peers has one that nobody knows.
    ///
    /// # Errors
    /// The file holds none, or is open to everybody.
    pub fn secret(&self) -> Result<Secret, SecretError> {
        self.secret_file.as_deref().map_or_else(|| Ok(Secret::of_nobody()), Secret::read)
    }
}

fn fail(why: impl Into<String>) -> ConfigError {
    ConfigError(why.into())
}

fn build(file: File, over: &Overrides) -> Result<Config, ConfigError> {
    let id = over.id.or(file.node.id).ok_or_else(|| fail("node.id is missing: give --id N or [node] id"))?;
    if id == 0 {
        return Err(fail("node.id must be at least 1"));
    }
    let data_dir = over
        .data_dir
        .clone()
        .or(file.node.data_dir)
        .ok_or_else(|| fail("node.data_dir is missing: give --data-dir DIR or [node] data_dir"))?;
    let insecure = over.insecure;
    let grpc = listen("listen.grpc", over.listen.clone().or(file.listen.grpc), "127.0.0.1:7411", insecure)?;
    let peers = over.listen_peers.clone().or(file.listen.peers);
    let peers = listen("listen.peers", peers, &beside(grpc)?, insecure)?;
    if peers == grpc {
        return Err(fail(format!(
            "listen.peers and listen.grpc are both {grpc}: peers need an address of their own"
        )));
    }
    let http = listen("listen.http", over.http.clone().or(file.listen.http), "127.0.0.1:7421", insecure)?;
    let advertise = over.advertise.clone().or(file.node.advertise).unwrap_or_else(|| grpc.to_string());
    if over.advertise.is_none() && grpc.ip().is_unspecified() && advertise == grpc.to_string() {
        return Err(fail("node.advertise is missing: others cannot reach a node at an unspecified address"));
    }
    let written = if over.peers.is_empty() { &file.cluster.initial_members } else { &over.peers };
    let members = members(written, id, &advertise, peers.port())?;
    let secret_file = over.secret_file.clone().or(file.cluster.secret_file);
    let secret_file = secret_file.filter(|file| !file.as_os_str().is_empty());
    if members.len() > 1 && secret_file.is_none() {
        return Err(fail(
            "cluster.secret_file is missing: nodes prove to each other that they belong to the cluster; make a secret with \
             `epochlog secret new FILE`, copy the file to every node, and give --secret-file FILE",
        ));
    }
    let roots = if over.source_roots.is_empty() { file.node.source_roots } else { over.source_roots.clone() };
    let source_roots = roots
        .into_iter()
        .map(|root| {
            std::fs::canonicalize(&root)
                .map_err(|error| fail(format!("source root {}: {error}", root.display())))
        })
        .collect::<Result<_, _>>()?;
    let heartbeat = duration("raft.heartbeat", file.raft.heartbeat.as_deref(), "500ms")?;
    let (low, high) = match &file.raft.election_timeout {
        None => ("3900ms", "4400ms"),
        Some((low, high)) => (low.as_str(), high.as_str()),
    };
    let election_timeout = (
        duration("raft.election_timeout", Some(low), low)?,
        duration("raft.election_timeout", Some(high), high)?,
    );
    let (low, high) = election_timeout;
    if heartbeat.is_zero() || low < heartbeat * 2 || high <= low || high < heartbeat * 6 {
        return Err(fail(
            "raft.election_timeout must rise, from at least twice raft.heartbeat to at least six times as much",
        ));
    }
    let mut limits = checkpoint::Limits::default();
    if let Some(text) = &file.limits.max_epoch_size {
        limits.bytes_max =
            units::parse_size(&text.text()).map_err(|why| fail(format!("limits.max_epoch_size: {why}")))?;
    }
    if let Some(files) = file.limits.max_files {
        limits.files_max = files;
    }
    let highest = checkpoint::Limits::default();
    if limits.bytes_max > highest.bytes_max || limits.files_max > highest.files_max {
        return Err(fail(
            "[limits]: max_epoch_size is at most 1 TiB and max_files at most 1_000_000 in this version",
        ));
    }
    Ok(Config {
        id,
        cluster: over.cluster.clone().or(file.node.cluster).unwrap_or_else(|| "epochlog".into()),
        data_dir,
        advertise,
        source_roots,
        grpc,
        peers,
        http,
        members,
        secret_file,
        heartbeat,
        election_timeout,
        chunk_bytes: chunk_bytes(file.storage.chunk_size.as_ref())?,
        reserve: match &file.storage.reserve_free {
            None => Reserve::Percent(5.0),
            Some(text) => {
                Reserve::parse(&text.text()).map_err(|why| fail(format!("storage.reserve_free: {why}")))?
            }
        },
        limits,
        attempt_ttl: duration("limits.attempt_ttl", file.limits.attempt_ttl.as_deref(), "1 hour")?,
        log_format: match file.log.format.as_deref() {
            None | Some("auto") => LogFormat::Auto,
            Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => return Err(fail(format!("log.format: {other:?} is not auto, text or json"))),
        },
        insecure,
    })
}

fn duration(key: &str, text: Option<&str>, default: &str) -> Result<Duration, ConfigError> {
    units::parse_duration(text.unwrap_or(default)).map_err(|why| fail(format!("{key}: {why}")))
}

fn chunk_bytes(text: Option<&SizeText>) -> Result<u32, ConfigError> {
    use checkpoint::limits::{CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
    let Some(text) = text else { return Ok(CHUNK_BYTES_DEFAULT) };
    let bytes = units::parse_size(&text.text()).map_err(|why| fail(format!("storage.chunk_size: {why}")))?;
    match u32::try_from(bytes) {
        Ok(bytes) if bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) => {
            Ok(bytes)
        }
        _ => Err(fail("storage.chunk_size must be a power of two from 64 KiB to 4 MiB")),
    }
}

fn listen(
    key: &str,
    given: Option<String>,
    default: &str,
    insecure: bool,
) -> Result<SocketAddr, ConfigError> {
    let text = given.unwrap_or_else(|| default.to_owned());
    let address = text
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| fail(format!("{key}: {text:?} is not HOST:PORT")))?;
    if !address.ip().is_loopback() && !insecure {
        return Err(fail(format!(
            "{key}: {text} is not loopback, and this version has no TLS: listen on 127.0.0.1, or give --insecure on a trusted network"
        )));
    }
    Ok(address)
}

/// How far the port for peers is above the one for clients, if nobody says.
const PEERS_ABOVE: u16 = 20;

/// The address for peers beside the one for clients.
fn beside(grpc: SocketAddr) -> Result<String, ConfigError> {
    let port = grpc.port().checked_add(PEERS_ABOVE);
    let port =
        port.ok_or_else(|| fail("listen.peers is missing: no port is 20 above the one of listen.grpc"))?;
    Ok(SocketAddr::new(grpc.ip(), port).to_string())
}

/// Parses `ID=HOST:PORT`; a cluster of one when nothing is written. `port` is this node's for peers.
fn members(
    written: &[String],
    id: u64,
    advertise: &str,
    port: u16,
) -> Result<Vec<(u64, String)>, ConfigError> {
    let mut members = BTreeMap::new();
    for text in written {
        let parsed = text.split_once('=').and_then(|(id, address)| {
            let (host, port) = address.rsplit_once(':')?;
            port.parse::<u16>().ok()?;
            (!host.is_empty()).then_some((id.trim().parse::<u64>().ok()?, address.to_owned()))
        });
        let Some((member, address)) = parsed else {
            return Err(fail(format!("{text:?} is not a member like \"1=10.0.0.1:7431\"")));
        };
        if member == 0 || members.insert(member, address).is_some() {
            return Err(fail(format!("member id {member} must be at least 1 and stand once")));
        }
    }
    if members.is_empty() {
        let host = advertise.rsplit_once(':').map_or(advertise, |(host, _)| host);
        members.insert(id, format!("{host}:{port}"));
    }
    match members.get(&id) {
        None => return Err(fail(format!("node {id} is not among the initial members"))),
        Some(address) if address == advertise => {
            return Err(fail(format!(
                "{id}={address} is where clients reach this node: initial members are named by their addresses for peers, \
                 port {port} here"
            )));
        }
        Some(_) => {}
    }
    Ok(members.into_iter().collect())
}
