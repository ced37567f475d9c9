//! Whose data folder this is. Written once, after `log/` exists, and fsynced; a folder whose log is
//! gone, or that belongs to another node, is never used: a wiped node must not vote under its old id. Nor is one that
//! holds other things: whoever mistypes a path finds nothing of a node among his files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use checkpoint::store::layout::Layout;
use nativelog::store::{Identity, replacement_dir};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::units;

/// Format of the data folder that this version writes and reads.
const FORMAT: u32 = 1;
const FILE: &str = "identity";
const LOCK: &str = "lock";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder belongs to another node.
    #[error("{dir} belongs to node {found}, the configuration says node {wanted}")]
    OtherNode {
        /// The data folder.
        dir: PathBuf,
        /// Node id in the folder.
        found: u64,
        /// Node id in the configuration.
        wanted: u64,
    },
    /// The folder belongs to a cluster of another name.
    #[error("{dir} belongs to the cluster {found:?}, the configuration says {wanted:?}")]
    OtherCluster {
        /// The data folder.
        dir: PathBuf,
        /// The cluster's name in the folder.
        found: String,
        /// The cluster's name in the configuration.
        wanted: String,
    },
    /// The folder is no node's, and not empty.
    #[error("{dir} holds other things: {found}")]
    OtherThings {
        /// The data folder.
        dir: PathBuf,
        /// Some of what lies there.
        found: String,
    },
    /// The log is gone or not this node's.
    #[error("{dir} has an identity but {why}")]
    LogLost {
        /// The data folder.
        dir: PathBuf,
        /// What is wrong with the log.
        why: String,
    },
    /// A log lies in a folder without identity.
    #[error("{dir} has a log but no identity")]
    NoIdentity {
        /// The data folder.
        dir: PathBuf,
    },
    /// Another version or a damaged file.
    #[error("{file}: {why}")]
    Unreadable {
        /// The identity file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another process uses the folder.
    #[error("{dir} is in use by another process")]
    InUse {
        /// The data folder.
        dir: PathBuf,
    },
    /// The disk said no.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        error: io::Error,
    },
}

/// The identity file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    node: u64,
    /// 32 hexadecimal digits.
    incarnation: String,
    /// The cluster's name; folders of the first versions have none until their next start.
    name: Option<String>,
    /// 32 hexadecimal digits, once the cluster has told its uuid.
    cluster: Option<String>,
}

/// A data folder that is ours as long as this lives.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    /// What the folder says, or a fresh identity when it is new.
    pub identity: Identity,
    /// The cluster's uuid as far as the folder knows it.
    pub cluster: Option<[u8; 16]>,
    /// The folder had no identity: [`Claim::write`] must follow once the log exists.
    pub is_new: bool,
    /// The folder does not say the cluster's name yet.
    pub is_nameless: bool,
    name: String,
    _lock: File,
}

/// What a data folder says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose it is.
    pub identity: Identity,
    /// The cluster's name, when the folder says it.
    pub name: Option<String>,
    /// The cluster's uuid, as far as it is known.
    pub cluster: Option<[u8; 16]>,
}

/// Looks at a folder that `node` of the cluster `name` would use, and touches nothing. `None`: there is no node in it yet.
///
/// # Errors
/// Why the node must not use it.
pub fn look(dir: &Path, node: u64, name: &str) -> Result<Option<Found>, IdentityError> {
    if let Ok(lock) = File::open(dir.join(LOCK)) {
        // Let go at the end of this block: it is only looked at.
        flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| IdentityError::InUse { dir: dir.to_owned() })?;
    }
    examine(dir, node, name)
}

fn examine(dir: &Path, node: u64, name: &str) -> Result<Option<Found>, IdentityError> {
    let Some(found) = read(dir)? else {
        nothing_else(dir)?;
        return Ok(None);
    };
    if found.identity.node != node {
        let found = found.identity.node;
        return Err(IdentityError::OtherNode { dir: dir.to_owned(), found, wanted: node });
    }
    if let Some(found) = found.name.as_ref().filter(|found| *found != name) {
        let (found, wanted) = (found.clone(), name.to_owned());
        return Err(IdentityError::OtherCluster { dir: dir.to_owned(), found, wanted });
    }
    log_must_be_there(dir)?;
    Ok(Some(found))
}

/// In a folder without identity lies at most what a first start leaves when it breaks off, and what a file system
/// puts into its own top.
fn nothing_else(dir: &Path) -> Result<(), IdentityError> {
    const OURS: [&str; 5] = [LOCK, "identity.new", "groups", "capture", "epochs"];
    const FROM_MOUNTING: &str = "lost+found";
    const NAMED_MAX: usize = 5;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(IdentityError::Io { path: dir.to_owned(), error }),
    };
    let mut others = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| IdentityError::Io { path: dir.to_owned(), error })?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !OURS.contains(&name.as_str()) && name != FROM_MOUNTING {
            others.push(name);
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    others.sort();
    let more = others.len().saturating_sub(NAMED_MAX);
    others.truncate(NAMED_MAX);
    let mut found = others.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if more > 0 {
        found.push_str(&format!(" and {more} more"));
    }
    Err(IdentityError::OtherThings { dir: dir.to_owned(), found })
}

/// Takes the folder for `node` of the cluster `name`, making it when there is none.
///
/// # Errors
/// Why the node must not use it; then nothing was made in it but the lock of a folder that is a node's.
pub fn claim(dir: &Path, node: u64, name: &str) -> Result<Claim, IdentityError> {
    let io_at = |path: &Path| {
        let path = path.to_owned();
        move |error| IdentityError::Io { path, error }
    };
    if read(dir)?.is_none() {
        nothing_else(dir)?;
    }
    fs::create_dir_all(dir).map_err(io_at(dir))?;
    let lock_path = dir.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io_at(&lock_path))?;
    flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| IdentityError::InUse { dir: dir.to_owned() })?;
    let found = examine(dir, node, name)?;
    let is_new = found.is_none();
    let is_nameless = found.as_ref().is_some_and(|found| found.name.is_none());
    let (identity, cluster) = match found {
        Some(found) => (found.identity, found.cluster),
        // A log without identity is looked at when it is open: see `Claim::adopt`.
        None => (Identity { node, incarnation: rand::random() }, None),
    };
    let (dir, name) = (dir.to_owned(), name.to_owned());
    Ok(Claim { dir, identity, cluster, is_new, is_nameless, name, _lock: lock })
}

fn log_dir(dir: &Path) -> PathBuf {
    Layout::new(dir).log_dir()
}

fn log_has_files(log: &Path) -> bool {
    fs::read_dir(log).is_ok_and(|mut entries| entries.next().is_some())
}

fn log_must_be_there(dir: &Path) -> Result<(), IdentityError> {
    let lost = |why: &str| Err(IdentityError::LogLost { dir: dir.to_owned(), why: why.into() });
    // A repair that was stopped before its last step: whoever opens the log takes that step.
    let replacement = replacement_dir(&Layout::new(dir));
    let log = if replacement.is_dir() { replacement } else { log_dir(dir) };
    if !log.is_dir() {
        return lost("its log is missing");
    }
    if !log_has_files(&log) {
        return lost("its log is empty");
    }
    Ok(())
}

fn read(dir: &Path) -> Result<Option<Found>, IdentityError> {
    let file = dir.join(FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IdentityError::Io { path: file, error }),
    };
    let unreadable = |why: String| IdentityError::Unreadable { file: file.clone(), why };
    let found: OnDisk = toml::from_str(&text).map_err(|error| unreadable(error.message().to_owned()))?;
    if found.format != FORMAT {
        return Err(unreadable(format!("format {} is not known to this version", found.format)));
    }
    let sixteen = |hex: &str| {
        hex.parse::<checkpoint::CommitId>()
            .map(|id| *id.as_bytes())
            .map_err(|_| unreadable(format!("{hex:?} is not 32 hexadecimal digits")))
    };
    let incarnation = sixteen(&found.incarnation)?;
    let cluster = found.cluster.as_deref().map(sixteen).transpose()?;
    let identity = Identity { node: found.node, incarnation };
    Ok(Some(Found { identity, name: found.name, cluster }))
}

impl Claim {
    /// A folder without identity in which a log lies: the first start broke off after the log was
    /// made. Its owner becomes ours; the caller makes sure that nothing stands in that log.
    pub fn adopt(&mut self, owner: Identity) -> Result<(), IdentityError> {
        if owner.node != self.identity.node {
            return Err(IdentityError::NoIdentity { dir: self.dir.clone() });
        }
        self.identity = owner;
        Ok(())
    }

    /// Writes the identity durably: the log exists now, or the cluster's uuid has become known.
    pub fn write(&mut self, cluster: Option<[u8; 16]>) -> Result<(), IdentityError> {
        let on_disk = OnDisk {
            format: FORMAT,
            node: self.identity.node,
            incarnation: units::hex(&self.identity.incarnation),
            name: Some(self.name.clone()),
            cluster: cluster.map(|uuid| units::hex(&uuid)),
        };
        let text = toml::to_string(&on_disk).expect("plain fields are TOML");
        let temp = self.dir.join(format!("{FILE}.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temp)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temp, self.dir.join(FILE))?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| IdentityError::Io { path: self.dir.join(FILE), error })?;
        self.cluster = cluster;
        (self.is_new, self.is_nameless) = (false, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_log(dir: &Path) {
        fs::create_dir_all(log_dir(dir)).unwrap();
        fs::write(log_dir(dir).join("segment"), b"x").unwrap();
    }

    #[test]
    fn an_identity_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut claim_1 = claim(dir.path(), 7, "prod").unwrap();
        assert!(claim_1.is_new);
        with_log(dir.path());
        claim_1.write(None).unwrap();
        claim_1.write(Some([9; 16])).unwrap();
        let identity = claim_1.identity;
        drop(claim_1);
        let again = claim(dir.path(), 7, "prod").unwrap();
        assert_eq!(again.identity, identity);
        assert_eq!(again.cluster, Some([9; 16]));
        assert!(!again.is_new);
    }

    /// A node that is started under another name, and one whose folder is older than names.
    #[test]
    fn a_folder_of_a_cluster_of_another_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = claim(dir.path(), 1, "prod").unwrap();
        with_log(dir.path());
        first.write(None).unwrap();
        drop(first);
        for refused in [claim(dir.path(), 1, "other").map(drop), look(dir.path(), 1, "other").map(drop)] {
            let error = refused.unwrap_err();
            assert!(matches!(error, IdentityError::OtherCluster { .. }), "{error}");
            assert!(
                error.to_string().contains("\"prod\"") && error.to_string().contains("\"other\""),
                "{error}"
            );
        }
        let old = format!("format = 1\nnode = 1\nincarnation = \"{}\"\n", "ab".repeat(16));
        fs::write(dir.path().join(FILE), old).unwrap();
        let mut again = claim(dir.path(), 1, "other").unwrap();
        assert!(again.is_nameless && !again.is_new);
        again.write(None).unwrap();
        drop(again);
        assert!(matches!(claim(dir.path(), 1, "prod"), Err(IdentityError::OtherCluster { .. })));
    }

    #[test]
    fn a_folder_with_other_things_is_refused_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), b"mine").unwrap();
        for refused in [claim(dir.path(), 1, "prod").map(drop), look(dir.path(), 1, "prod").map(drop)] {
            let error = refused.unwrap_err();
            assert!(matches!(error, IdentityError::OtherThings { .. }), "{error}");
            assert!(error.to_string().contains("thesis.tex"), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_fresh_file_system_and_a_first_start_that_broke_off_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        for left in ["lost+found", "groups/main", "epochs", "capture"] {
            fs::create_dir_all(dir.path().join(left)).unwrap();
        }
        fs::write(dir.path().join("identity.new"), b"half").unwrap();
        assert_eq!(look(dir.path(), 1, "prod").unwrap(), None);
        assert!(claim(dir.path(), 1, "prod").unwrap().is_new);
    }

    #[test]
    fn a_look_touches_nothing_and_sees_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert_eq!(look(&data, 1, "prod").unwrap(), None);
        assert!(!data.exists());
        let first = claim(&data, 1, "prod").unwrap();
        assert!(matches!(look(&data, 1, "prod"), Err(IdentityError::InUse { .. })));
        drop(first);
        assert_eq!(look(&data, 1, "prod").unwrap(), None);
    }

    #[test]
    fn two_processes_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = claim(dir.path(), 1, "prod").unwrap();
        assert!(matches!(claim(dir.path(), 1, "prod"), Err(IdentityError::InUse { .. })));
    }

    #[test]
    fn a_folder_of_another_node_or_without_its_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = claim(dir.path(), 1, "prod").unwrap();
        with_log(dir.path());
        first.write(None).unwrap();
        drop(first);
        assert!(matches!(
            claim(dir.path(), 2, "prod"),
            Err(IdentityError::OtherNode { found: 1, wanted: 2, .. })
        ));

        fs::remove_file(log_dir(dir.path()).join("segment")).unwrap();
        assert!(matches!(claim(dir.path(), 1, "prod"), Err(IdentityError::LogLost { .. })));
        fs::remove_dir_all(log_dir(dir.path())).unwrap();
        assert!(matches!(claim(dir.path(), 1, "prod"), Err(IdentityError::LogLost { .. })));
    }

    #[test]
    fn a_log_of_another_node_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let mut fresh = claim(dir.path(), 1, "prod").unwrap();
        let other = Identity { node: 2, incarnation: [3; 16] };
        assert!(matches!(fresh.adopt(other), Err(IdentityError::NoIdentity { .. })));
        let own = Identity { node: 1, incarnation: [3; 16] };
        fresh.adopt(own).unwrap();
        assert_eq!(fresh.identity, own);
    }
}
