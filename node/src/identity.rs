//! Whose data folder this is. Written once, after `log/` exists, and fsynced; a folder whose log is
//! gone, or that belongs to another node, is never used: a wiped node must not vote under its old id.

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
    _lock: File,
}

/// Takes the folder for `node`, making it when there is none.
pub fn claim(dir: &Path, node: u64) -> Result<Claim, IdentityError> {
    let io_at = |path: &Path| {
        let path = path.to_owned();
        move |error| IdentityError::Io { path, error }
    };
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
    let (identity, cluster, is_new) = match read(dir)? {
        Some(found) => {
            if found.0.node != node {
                return Err(IdentityError::OtherNode {
                    dir: dir.to_owned(),
                    found: found.0.node,
                    wanted: node,
                });
            }
            log_must_be_there(dir)?;
            (found.0, found.1, false)
        }
        // A log without identity is looked at when it is open: see `Claim::adopt`.
        None => (Identity { node, incarnation: rand::random() }, None, true),
    };
    Ok(Claim { dir: dir.to_owned(), identity, cluster, is_new, _lock: lock })
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

/// Whose folder it is, and the cluster's uuid as far as it is known.
type Found = (Identity, Option<[u8; 16]>);

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
    Ok(Some((Identity { node: found.node, incarnation }, cluster)))
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
            cluster: cluster.map(|uuid| units::hex(&uuid)),
        };
        let text = toml::to_string(&on_disk).expect("four plain fields are TOML");
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
        self.is_new = false;
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
        let mut claim_1 = claim(dir.path(), 7).unwrap();
        assert!(claim_1.is_new);
        with_log(dir.path());
        claim_1.write(None).unwrap();
        claim_1.write(Some([9; 16])).unwrap();
        let identity = claim_1.identity;
        drop(claim_1);
        let again = claim(dir.path(), 7).unwrap();
        assert_eq!(again.identity, identity);
        assert_eq!(again.cluster, Some([9; 16]));
        assert!(!again.is_new);
    }

    #[test]
    fn two_processes_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = claim(dir.path(), 1).unwrap();
        assert!(matches!(claim(dir.path(), 1), Err(IdentityError::InUse { .. })));
    }

    #[test]
    fn a_folder_of_another_node_or_without_its_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = claim(dir.path(), 1).unwrap();
        with_log(dir.path());
        first.write(None).unwrap();
        drop(first);
        assert!(matches!(claim(dir.path(), 2), Err(IdentityError::OtherNode { found: 1, wanted: 2, .. })));

        fs::remove_file(log_dir(dir.path()).join("segment")).unwrap();
        assert!(matches!(claim(dir.path(), 1), Err(IdentityError::LogLost { .. })));
        fs::remove_dir_all(log_dir(dir.path())).unwrap();
        assert!(matches!(claim(dir.path(), 1), Err(IdentityError::LogLost { .. })));
    }

    #[test]
    fn a_log_of_another_node_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let mut fresh = claim(dir.path(), 1).unwrap();
        let other = Identity { node: 2, incarnation: [3; 16] };
        assert!(matches!(fresh.adopt(other), Err(IdentityError::NoIdentity { .. })));
        let own = Identity { node: 1, incarnation: [3; 16] };
        fresh.adopt(own).unwrap();
        assert_eq!(fresh.identity, own);
    }
}
