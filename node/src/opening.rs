//! Opens what is on a node's disk, in the order of trust: whose folder it is, then the log, then the ledger.

use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::IoError;
use checkpoint::store::layout::Layout;
use checkpoint::{Disk, RealDisk, Store};
use client::{Code, Failure};
use nativelog::machine::{Machine, membership_on_disk};
use nativelog::store::{LogStore, Options};
use raft::{Replica, ReplicaConfig, RoomProbe, Secret};

use crate::capture;
use crate::config::{Config, Hydrate};
use crate::identity::{self, Claim, Found, IdentityError};
use crate::metrics::{MeteredDisk, Metrics};
use crate::pressure::{self, Steps};
use crate::refusal::ServeError;
use crate::space::Space;
use crate::stores::Stores;
use crate::units;

/// Everything that is open.
pub struct Opened {
    /// The folder is ours as long as this lives.
    pub claim: Claim,
    /// The shelves.
    pub store: Arc<Store>,
    /// The object stores; nobody has asked them anything.
    pub stores: Arc<Stores>,
    /// The log.
    pub log: LogStore,
    /// The ledger and its performer.
    pub machine: Arc<Machine>,
}

/// Opens what is on disk, and counts into `metrics` what is done to it. Blocks.
pub fn open(config: &Config, metrics: &Metrics) -> Result<Opened, ServeError> {
    let disk: Arc<dyn Disk> = Arc::new(MeteredDisk::over(Arc::new(RealDisk), metrics));
    let layout = Layout::new(&config.data_dir);
    let mut claim = identity::claim(&config.data_dir, config.id, &config.cluster)?;
    if claim.is_new
        && let Some(owner) = LogStore::owner_of(&disk, &layout)?
    {
        claim.adopt(owner)?;
    }
    let store = Store::open(disk, &config.data_dir);
    let store = Arc::new(store?);
    if let Err(error) = capture::sweep(&layout.capture_dir()) {
        tracing::warn!(%error, "old captures stay behind");
    }
    let (log, recovered) = LogStore::open(store.disk().clone(), &layout, claim.identity, Options::default())?;
    tracing::info!(
        new = recovered.created,
        entries = recovered.entries,
        cut_bytes = recovered.cut_bytes,
        read_back = recovered.verified_payloads,
        "the log is open"
    );
    if claim.is_new {
        if log.log_state().1.is_some() || log.vote().is_some() {
            return Err(IdentityError::NoIdentity { dir: config.data_dir.clone() }.into());
        }
        claim.write(None)?;
    } else if claim.is_nameless {
        claim.write(claim.cluster)?;
    }
    let machine = Machine::start(store.clone(), log.clone(), &layout.catalog_dir())?;
    make_ballast(&store, config);
    let stores = Stores::open(&config.stores, store.disk(), &config.data_dir)?;
    Ok(Opened { claim, store, stores: Arc::new(stores), log, machine })
}

/// Before anybody counts what the node takes on its disk.
fn make_ballast(store: &Store, config: &Config) {
    let Ok(space) = Space::of(&config.data_dir, config.reserve) else { return };
    let Some(bytes) = pressure::steps(&space, Steps::default(), false).ballast else { return };
    if bytes > store.ballast()
        && let Err(error) = store.set_ballast(bytes)
    {
        tracing::warn!(%error, bytes, "there is no ballast yet; it is tried again");
    }
}

/// The settings of the replica of the folder that was claimed.
pub(crate) fn replica_config(config: &Config, secret: Secret, claim: &Claim) -> ReplicaConfig {
    let mut replica =
        ReplicaConfig::new(config.id, claim.identity.incarnation, &config.cluster, config.members.clone());
    replica.cluster = claim.cluster;
    replica.secret = secret;
    replica.clients_at.clone_from(&config.advertise);
    replica.heartbeat = config.heartbeat;
    replica.hydrate = match config.hydrate {
        Hydrate::Peers => raft::Hydrate::Peers,
        Hydrate::Store => raft::Hydrate::Store,
    };
    replica.election_timeout = config.election_timeout;
    if let Ok(space) = Space::of(&config.data_dir, config.reserve) {
        let bytes = pressure::in_flight_bytes(&space);
        replica.in_flight_bytes = replica.in_flight_bytes.min(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let (node, dir, reserve) = (config.id, config.data_dir.clone(), config.reserve);
    replica.room = RoomProbe(Arc::new(move |more| {
        let space = Space::of(&dir, reserve).ok()?;
        pressure::takes_no_content(&space, more).then(|| pressure::words(node, &space, None))
    }));
    replica
}

/// What a start would do with the data folder, without touching it.
///
/// # Errors
/// Why it would not start.
pub fn check_folder(config: &Config) -> Result<String, ServeError> {
    let dir = config.data_dir.display();
    let found = identity::look(&config.data_dir, config.id, &config.cluster)?;
    let members: Vec<String> =
        config.members.iter().map(|(node, address)| format!("{node}={address}")).collect();
    let members = members.join(", ");
    Ok(match found {
        Some(found) => {
            let uuid = found.cluster.map_or_else(String::new, |uuid| format!(" ({})", units::hex(&uuid)));
            let (id, name) = (config.id, &config.cluster);
            let then = match agrees_with_log(config, &found)? {
                true => "a start goes on with it: its log is whole and contradicts nothing here",
                false => "a start goes on with it once it has put a repaired log into its place",
            };
            format!("{dir} is the folder of node {id} of the cluster {name:?}{uuid}: {then}")
        }
        None if config.single => format!(
            "{dir} holds no node yet: a start begins a NEW cluster of one node, without a second copy of anything"
        ),
        None => format!(
            "{dir} holds no node yet: a start begins node {} of a NEW cluster, once all of {members} answer and are new too. \
             If this node was part of a cluster before, its folder is lost: it must not be started",
            config.id
        ),
    })
}

/// Looks whether the log says of the members what the configuration does. False when there is none to look at yet.
fn agrees_with_log(config: &Config, found: &Found) -> Result<bool, ServeError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&config.data_dir);
    let Some(log) = LogStore::look(&disk, &layout, found.identity)? else { return Ok(false) };
    let members = membership_on_disk(&disk, &layout, &log)?;
    Replica::check_members(&config.members, members.as_ref())?;
    Ok(true)
}

/// Whether there is a disk for the data folder, and room on it, without touching it.
///
/// # Errors
/// Why not.
pub fn check_disk(config: &Config) -> Result<String, Failure> {
    let mut existing: PathBuf = config.data_dir.clone();
    while !existing.exists() {
        existing.pop();
        // Above a relative path lies the folder in which we are.
        if existing.as_os_str().is_empty() {
            existing = ".".into();
        }
    }
    let unusable = |what, source| Failure::from_io(&IoError { path: existing.clone(), what, source });
    let probe = tempfile::Builder::new().prefix(".epochlog-check").tempfile_in(&existing);
    probe.map_err(|error| unusable("write", error))?;
    let space = Space::of(&existing, config.reserve).map_err(|error| unusable("look at", error))?;
    let line = format!(
        "{} has {} free, {} stay reserved",
        existing.display(),
        units::size(space.free),
        units::size(space.reserve)
    );
    if space.has_room_for(0) {
        return Ok(line);
    }
    Err(Failure::new(Code::NoSpace, "no space")
        .why(line)
        .fix("make room there, or lower storage.reserve_free"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn a_folder_that_a_start_would_make_is_fine_by_any_name() {
        let check = |data_dir: &str, reserve: &str| {
            let text = format!("[storage]\nreserve_free = \"{reserve}\"\n");
            let of = Overrides {
                id: Some(1),
                single: true,
                data_dir: Some(data_dir.into()),
                ..Overrides::default()
            };
            check_disk(&Config::parse(&text, &of).unwrap())
        };
        for name in ["not-there-yet", "./not-there-yet", "/tmp/not-there-yet/nor-this"] {
            assert!(check(name, "1 MiB").is_ok(), "{name}: {:?}", check(name, "1 MiB"));
        }
        assert_eq!(check("not-there-yet", "1000000 TiB").unwrap_err().code, Code::NoSpace);
        let inside_a_file = check("/proc/version/x", "1 MiB").unwrap_err();
        assert_eq!(inside_a_file.code, Code::Usage, "{inside_a_file:?}");
    }
}
