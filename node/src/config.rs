//! A node's configuration: TOML, flags and environment to one checked `Config`.
//!
//! Nothing is ever ignored: an unknown key is an error that names the nearest known one, and a
//! section of a feature that this version does not have is refused as such.

mod error;
mod file;
mod modes;
mod nearest;
mod overrides;
pub mod settings;
pub mod shown;
mod stores;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use raft::{Secret, SecretError};
use remote::StoreConfig;

use crate::units;
pub use error::ConfigError;
use error::fail;
use file::{File, SizeText};
pub use modes::{Mode, Modes};
pub use overrides::Overrides;
use settings::default_of;

/// The least reserve that is one, bytes; none at all may be wanted.
const RESERVE_BYTES_MIN: u64 = 4096;

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
            None => match units::parse_size(text) {
                // "5" is a share whose sign was forgotten, not five bytes.
                Ok(bytes @ 1..RESERVE_BYTES_MIN) => Err(format!(
                    "{text:?} would be {bytes} bytes: write a share like \"5%\", or a size like \"10 GiB\""
                )),
                Ok(bytes) => Ok(Reserve::Bytes(bytes)),
                Err(_) => Err(format!("{text:?} is neither a share like \"5%\" nor a size like \"10 GiB\"")),
            },
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

/// Where content that lies in a store, and not here, is looked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hydrate {
    /// On the other nodes.
    Peers,
    /// In the store.
    Store,
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
    /// Where content in stores is looked for first.
    pub hydrate: Hydrate,
    /// Object stores.
    pub stores: Vec<StoreConfig>,
    /// Where the epochs of which job lie.
    pub modes: Modes,
    /// Limits of an epoch.
    pub limits: checkpoint::Limits,
    /// An attempt that nobody goes on with ends after so much log time.
    pub attempt_ttl: Duration,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Listening beyond loopback without TLS has been asked for.
    pub insecure: bool,
    /// A cluster of this node alone has been asked for.
    pub single: bool,
}

impl Config {
    /// Reads and checks the file, if any, with the overrides over it.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        Config::parse(&read(path)?, overrides).map_err(|error| named(path, error))
    }

    /// The same as [`Config::draft`].
    pub fn load_draft(
        path: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<(Config, Vec<&'static str>), ConfigError> {
        Config::draft(&read(path)?, overrides).map_err(|error| named(path, error))
    }

    /// The same from text.
    pub fn parse(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
        let (config, missing) = Config::draft(text, overrides)?;
        match missing.is_empty() {
            true => Ok(config),
            false => Err(fail(missing.iter().map(|key| lacking(key)).collect::<Vec<_>>().join("; "))),
        }
    }

    /// The same, also when keys that must be given are missing: then it is to be looked at, not to be started with.
    pub fn draft(text: &str, overrides: &Overrides) -> Result<(Config, Vec<&'static str>), ConfigError> {
        build(file::parse(text)?, overrides)
    }

    /// The secret of the cluster; a node without peers has one that nobody knows.
    ///
    /// # Errors
    /// The file holds none, or is open to everybody.
    pub fn secret(&self) -> Result<Secret, SecretError> {
        self.secret_file.as_deref().map_or_else(|| Ok(Secret::of_nobody()), Secret::read)
    }
}

fn read(path: Option<&Path>) -> Result<String, ConfigError> {
    let Some(path) = path else { return Ok(String::new()) };
    std::fs::read_to_string(path).map_err(|error| fail(format!("{}: {error}", path.display())))
}

fn named(path: Option<&Path>, error: ConfigError) -> ConfigError {
    path.map_or(error.clone(), |path| fail(format!("{}: {}", path.display(), error.0)))
}

/// A node without others is refused unless that is wanted: three that are started so never become one cluster.
const ALONE: &str = "a node that is a cluster of its own has no second copy of anything: name all nodes with \
                     --peers 1=HOST:PORT,2=HOST:PORT,..., or say --single if one node is what you want";

/// What to do about a key that must be given.
fn lacking(key: &str) -> String {
    match key {
        "node.id" => "node.id is missing: give --id N or [node] id".into(),
        "node.data_dir" => "node.data_dir is missing: give --data-dir DIR or [node] data_dir".into(),
        "cluster.secret_file" => "cluster.secret_file is missing: nodes prove to each other that they belong to the \
                                  cluster; make a secret with `epochlog secret new FILE`, copy the file to every \
                                  node, and give --secret-file FILE"
            .into(),
        _ => format!("cluster.initial_members is missing, and {ALONE}"),
    }
}

/// The configuration, and the keys that are missing in it.
fn build(file: File, over: &Overrides) -> Result<(Config, Vec<&'static str>), ConfigError> {
    let mut missing = Vec::new();
    let id = over.id.or(file.node.id);
    if id == Some(0) {
        return Err(fail("node.id must be at least 1"));
    }
    let id = id.unwrap_or_else(|| {
        missing.push("node.id");
        0
    });
    let data_dir = over.data_dir.clone().or(file.node.data_dir).unwrap_or_else(|| {
        missing.push("node.data_dir");
        PathBuf::new()
    });
    let insecure = over.insecure || file.listen.insecure;
    let grpc = listen("listen.grpc", over.listen.clone().or(file.listen.grpc), insecure)?;
    let peers = match over.listen_peers.clone().or(file.listen.peers) {
        Some(text) => text,
        None => beside(grpc)?,
    };
    let peers = listen("listen.peers", Some(peers), insecure)?;
    if peers == grpc {
        return Err(fail(format!(
            "listen.peers and listen.grpc are both {grpc}: peers need an address of their own"
        )));
    }
    let http = listen("listen.http", over.http.clone().or(file.listen.http), insecure)?;
    let advertise = over.advertise.clone().or(file.node.advertise).unwrap_or_else(|| grpc.to_string());
    if over.advertise.is_none() && grpc.ip().is_unspecified() && advertise == grpc.to_string() {
        return Err(fail("node.advertise is missing: clients cannot reach a node at an unspecified address"));
    }
    let written = if over.peers.is_empty() { &file.cluster.initial_members } else { &over.peers };
    let single = over.single || file.cluster.single;
    let me = (id > 0).then_some(Me { id, advertise: &advertise, port: peers.port() });
    let members = members(written, single, me)?;
    if members.is_empty() && !(single && id == 0) {
        missing.push("cluster.initial_members");
    }
    let secret_file = over.secret_file.clone().or(file.cluster.secret_file);
    let secret_file = secret_file.filter(|file| !file.as_os_str().is_empty());
    if members.len() > 1 && secret_file.is_none() {
        missing.push("cluster.secret_file");
    }
    let roots = if over.source_roots.is_empty() { file.node.source_roots } else { over.source_roots.clone() };
    let source_roots = roots
        .into_iter()
        .map(|root| {
            std::fs::canonicalize(&root)
                .map_err(|error| fail(format!("source root {}: {error}", root.display())))
        })
        .collect::<Result<_, _>>()?;
    let heartbeat = duration("raft.heartbeat", file.raft.heartbeat.as_deref())?;
    let election_timeout = election_timeout(file.raft.election_timeout.as_ref())?;
    let (low, high) = election_timeout;
    if heartbeat.is_zero() || low < heartbeat * 2 || high <= low || high < heartbeat * 6 {
        return Err(fail(
            "raft.election_timeout must rise, from at least twice raft.heartbeat to at least six times as much",
        ));
    }
    let limits = limits(&file.limits)?;
    let stores = stores::stores(&file.disk, &file.worker)?;
    let modes = Modes::read(&file.job, &stores)?;
    let or_default = |key, given: Option<String>| given.unwrap_or_else(|| default_of(key).to_owned());
    let size_or = |key, given: Option<SizeText>| or_default(key, given.map(|size| size.text()));
    let config = Config {
        id,
        cluster: or_default("node.cluster", over.cluster.clone().or(file.node.cluster)),
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
        chunk_bytes: chunk_bytes(&size_or("storage.chunk_size", file.storage.chunk_size))?,
        reserve: Reserve::parse(&size_or("storage.reserve_free", file.storage.reserve_free))
            .map_err(|why| fail(format!("storage.reserve_free: {why}")))?,
        hydrate: match or_default("storage.hydrate", file.storage.hydrate).as_str() {
            "peers" => Hydrate::Peers,
            "store" => Hydrate::Store,
            other => return Err(fail(format!("storage.hydrate: {other:?} is not peers or store"))),
        },
        stores,
        modes,
        limits,
        attempt_ttl: duration("limits.attempt_ttl", file.limits.attempt_ttl.as_deref())?,
        log_format: match or_default("log.format", file.log.format).as_str() {
            "auto" => LogFormat::Auto,
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => return Err(fail(format!("log.format: {other:?} is not auto, text or json"))),
        },
        insecure,
        single,
    };
    Ok((config, missing))
}

fn duration(key: &str, text: Option<&str>) -> Result<Duration, ConfigError> {
    units::parse_duration(text.unwrap_or_else(|| default_of(key)))
        .map_err(|why| fail(format!("{key}: {why}")))
}

fn election_timeout(given: Option<&(String, String)>) -> Result<(Duration, Duration), ConfigError> {
    let key = "raft.election_timeout";
    let (low, high) = match given {
        Some((low, high)) => (low.as_str(), high.as_str()),
        None => {
            let mut both = default_of(key).split('"').skip(1).step_by(2);
            (both.next().unwrap_or_default(), both.next().unwrap_or_default())
        }
    };
    Ok((duration(key, Some(low))?, duration(key, Some(high))?))
}

fn limits(section: &file::LimitsSection) -> Result<checkpoint::Limits, ConfigError> {
    let highest = checkpoint::Limits::default();
    let mut limits = highest;
    if let Some(text) = &section.max_epoch_size {
        limits.bytes_max =
            units::parse_size(&text.text()).map_err(|why| fail(format!("limits.max_epoch_size: {why}")))?;
    }
    if let Some(files) = section.max_files {
        limits.files_max = files;
    }
    if limits.bytes_max > highest.bytes_max || limits.files_max > highest.files_max {
        return Err(fail(
            "[limits]: max_epoch_size is at most 1 TiB and max_files at most 1_000_000 in this version",
        ));
    }
    Ok(limits)
}

fn chunk_bytes(text: &str) -> Result<u32, ConfigError> {
    use checkpoint::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
    let bytes = units::parse_size(text).map_err(|why| fail(format!("storage.chunk_size: {why}")))?;
    match u32::try_from(bytes) {
        Ok(bytes) if bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) => {
            Ok(bytes)
        }
        _ => Err(fail("storage.chunk_size must be a power of two from 64 KiB to 4 MiB")),
    }
}

fn listen(key: &str, given: Option<String>, insecure: bool) -> Result<SocketAddr, ConfigError> {
    let text = given.unwrap_or_else(|| default_of(key).to_owned());
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

/// This node: its id, where clients reach it, and its port for peers.
struct Me<'a> {
    id: u64,
    advertise: &'a str,
    port: u16,
}

/// The members of the cluster of `me`; empty when nobody has named them or has said that one node is meant. A list of
/// one may have lost the rest.
fn members(written: &[String], single: bool, me: Option<Me<'_>>) -> Result<Vec<(u64, String)>, ConfigError> {
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
        if member == 0 {
            return Err(fail(format!("{text:?}: the id of a member is at least 1")));
        }
        if let Some(other) = members.insert(member, address.clone()) {
            return Err(fail(format!("member id {member} is given twice: {other} and {address}")));
        }
    }
    let Some(Me { id, advertise, port }) = me else { return Ok(members.into_iter().collect()) };
    if members.is_empty() && single {
        let host = advertise.rsplit_once(':').map_or(advertise, |(host, _)| host);
        members.insert(id, format!("{host}:{port}"));
    }
    if !members.is_empty() && !members.contains_key(&id) {
        return Err(fail(format!(
            "node {id} is not among the initial members: cluster.initial_members says {}",
            written.join(", ")
        )));
    }
    if members.get(&id).is_some_and(|address| address == advertise) {
        return Err(fail(format!(
            "{id}={advertise} is where clients reach this node: initial members are named by their addresses for peers, \
             port {port} here"
        )));
    }
    if single && members.len() > 1 {
        return Err(fail(format!(
            "cluster.single says that this node is alone, cluster.initial_members says {}: remove one of the two",
            written.join(", ")
        )));
    }
    if !single && members.len() == 1 {
        return Err(fail(format!("cluster.initial_members says {} alone, and {ALONE}", written.join(", "))));
    }
    Ok(members.into_iter().collect())
}
