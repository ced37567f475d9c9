//! Why a node did not start or had to stop, and what to do about it: one row of words for each row of damage.
//! It never proposes to delete anything that a start may need.

use std::io;
use std::net::SocketAddr;

use checkpoint::store::StoreError;
use client::{Cause, Code, Failure};
use nativelog::machine::StartError;
use nativelog::store::OpenError;
use raft::SecretError;

use crate::identity::IdentityError;

/// Why a node did not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder is not usable by this node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be trusted or read.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The ledger cannot be made from what is on the disk.
    #[error(transparent)]
    Ledger(#[from] StartError),
    /// There is no secret to prove to the others.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The shelves cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object store cannot be opened.
    #[error(transparent)]
    ObjectStore(#[from] remote::StoreError),
    /// An address cannot be listened on.
    #[error("{name} cannot listen on {address}: {error}")]
    Listen {
        /// gRPC, the port for peers, or HTTP.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The log has other members than the configuration.
    #[error("{0}")]
    Contradicts(String),
    /// The cluster knows this node with another data folder.
    #[error("{0}")]
    Wiped(String),
    /// The consensus did not start.
    #[error("the replica: {0}")]
    Replica(String),
    /// A server ended by itself.
    #[error("{0}")]
    Server(String),
}

impl From<raft::StartError> for ServeError {
    fn from(error: raft::StartError) -> ServeError {
        match error {
            raft::StartError::Members(why) => ServeError::Contradicts(why),
            other => ServeError::Replica(other.to_string()),
        }
    }
}

const REPAIR: &str = "run `epochlog repair` with the flags of `serve` while the other nodes run: it keeps what is good, fetches the \
     rest from them and deletes nothing; until then this node does not vote";
/// What is left to do for a node that must not come back: there is no membership change in this version.
macro_rules! gone {
    () => {
        "keep its folder and go on without it: the other nodes hold everything that was committed. This version cannot \
         put another node in its place; before one more fails, set up a new cluster and commit there what \
         `epochlog restore` gives here"
    };
}
pub(crate) const UNREPAIRABLE: &str = concat!("this node cannot be repaired: ", gone!());
const REPLACE: &str =
    concat!("what this node has promised to the others is lost, so it must not come back: ", gone!());
const IDENTITY: &str = concat!(
    "nothing was changed: restore the file `identity` of this node from a backup; without it, ",
    gone!()
);
/// A folder in which nothing is, of a node that may have had another one.
pub(crate) const WIPED: &str = "if its own folder lies on another disk, mount that. If it is lost, so is what this node has promised to the \
     others, and it must not come back; its identity alone does not help. The other nodes hold everything that was committed, \
     and go on without it. This version cannot put another node in its place: before one more fails, set up a new cluster \
     and commit there what `epochlog restore` gives here";
const MEMBERS: &str = "nothing was changed: give --peers (cluster.initial_members) as the log has them, which cannot be \
     changed in this version; or give the node another --data-dir";
const ELSEWHERE: &str =
    "nothing was changed: give the node a folder of its own with --data-dir, a new or an empty one";
const DISK: &str =
    "nothing was changed: see to the disk (mounted, readable, writable, not full), then start the node again";

const STORE: &str = "nothing was changed: correct [disk.NAME] or checkpoint_location of the configuration";
const PORT: &str = "free the port, or choose another with --listen, --listen-peers and --http";
const OTHER: &str = "nothing was changed: start the version of epochlog that ran here last";
const SECRET_OWNER: &str = "nothing was changed: chown the file to the node's user or to root, or make a copy as that user: `install -m 600 FILE COPY`";
const SECRET: &str = "nothing was changed: give it the file that the other nodes have, readable for the node's user alone (chmod 600); \
     `epochlog secret new FILE` makes one for a new cluster";
const FOLDER: &str = "nothing was changed: correct node.id or node.data_dir";
const NAME: &str = "nothing was changed: correct --cluster (node.cluster) or --data-dir (node.data_dir)";

impl ServeError {
    /// As people see it.
    pub fn failure(&self, what: &str) -> Failure {
        let (code, sentence, advice) = self.words();
        let happened = match self {
            ServeError::Server(_) | ServeError::Wiped(_) => "the node stopped",
            _ => "the node did not start",
        };
        let sentence = match sentence.is_empty() {
            true => happened.to_owned(),
            false => format!("{happened}: {sentence}"),
        };
        Failure::new(code, sentence).what(what).why(self.why()).fix(advice)
    }

    /// Code, the end of the first line, and what to do.
    fn words(&self) -> (Code, &'static str, &'static str) {
        match self {
            ServeError::Identity(error) => match error {
                IdentityError::OtherNode { .. } => (Code::Usage, "the folder is another node's", FOLDER),
                IdentityError::OtherCluster { .. } => (Code::Usage, "the folder is another cluster's", NAME),
                IdentityError::OtherThings { .. } => (Code::Usage, "its folder is no node's", ELSEWHERE),
                IdentityError::LogLost { .. } => (Code::Usage, "its log is lost", REPLACE),
                IdentityError::NoIdentity { .. } => (Code::Usage, "its identity is lost", IDENTITY),
                IdentityError::Unreadable { .. } => (Code::Usage, "its identity cannot be read", IDENTITY),
                IdentityError::InUse { .. } => (
                    Code::Usage,
                    "its folder is in use",
                    "nothing was changed: stop the other process, or give this node a folder of its own",
                ),
                IdentityError::Io { error, .. } => of_the_system(error, ""),
            },
            ServeError::Log(error) => match error {
                OpenError::Owner { .. } => (Code::Usage, "the log is another node's", FOLDER),
                OpenError::Damaged { .. } => (Code::Corrupt, "its log is damaged", REPAIR),
                OpenError::VoteLost { .. } => (Code::Corrupt, "its vote is lost", REPLACE),
                OpenError::Io { source, .. } => of_the_system(source, "its log cannot be read"),
            },
            ServeError::Ledger(error) => match error {
                StartError::NotCovered { .. } => (Code::Corrupt, "its snapshots are lost", REPAIR),
                StartError::Version { .. } => (Code::Usage, "its snapshots are of another version", OTHER),
                StartError::Io { source, .. } => of_the_system(source, "its ledger cannot be read"),
            },
            ServeError::Store(StoreError::Io(error)) => {
                of_the_system(&error.source, "its shelves cannot be opened")
            }
            ServeError::Store(_) => (Code::Internal, "its shelves cannot be opened", DISK),
            ServeError::ObjectStore(error) if error.trouble() == remote::Trouble::Disk => {
                (Code::Internal, "its uploads cannot be looked at", DISK)
            }
            ServeError::ObjectStore(_) => (Code::Usage, "an object store cannot be opened", STORE),
            ServeError::Listen { error, .. } => match Cause::of(error) {
                // Ports below 1024, for one.
                cause if cause.is_want() => (cause.code, "", PORT),
                _ => (Code::Usage, "", PORT),
            },
            ServeError::Secret(SecretError::Io { error, .. }) if Cause::of(error).is_want() => {
                of_the_system(error, "its secret cannot be read")
            }
            ServeError::Secret(SecretError::Foreign { .. }) => {
                (Code::Usage, "its secret is somebody else's", SECRET_OWNER)
            }
            ServeError::Secret(_) => (Code::Usage, "its secret cannot be used", SECRET),
            ServeError::Contradicts(_) => (Code::Usage, "the configuration contradicts its log", MEMBERS),
            ServeError::Wiped(_) => (Code::Usage, "its data folder was wiped", WIPED),
            ServeError::Replica(_) | ServeError::Server(_) => (
                Code::Internal,
                "",
                "see the log lines of this node; the other nodes go on without it, and it may be started again",
            ),
        }
    }

    /// What was found, without advice.
    fn why(&self) -> String {
        match self {
            ServeError::Log(OpenError::Damaged { dir, position, why }) => {
                format!("{}, offset {position}: {why}", dir.display())
            }
            ServeError::Log(OpenError::VoteLost { dir, why }) => {
                format!("{} does not say for certain how this node has voted: {why}", dir.display())
            }
            ServeError::Log(OpenError::Owner { dir, found, expected }) if found == expected => {
                format!(
                    "the log in {} and the identity are of two data folders of node {found}",
                    dir.display()
                )
            }
            ServeError::Log(OpenError::Owner { dir, found, expected }) => {
                format!(
                    "{} belongs to node {found}, not to node {expected} with this identity",
                    dir.display()
                )
            }
            ServeError::Ledger(StartError::NotCovered { dir, purged, found }) => format!(
                "the log in {} begins after {purged}, and no snapshot here reaches that far ({found})",
                dir.display()
            ),
            ServeError::Ledger(StartError::Version { path }) => format!("{path} was made by another version"),
            other => other.to_string(),
        }
    }
}

/// An error of the operating system, by its cause: only what is not for want of something is the disk's own trouble.
fn of_the_system(error: &io::Error, sentence: &'static str) -> (Code, &'static str, &'static str) {
    match Cause::of(error) {
        cause if cause.is_want() => (cause.code, sentence, cause.fix),
        _ => (Code::Internal, sentence, DISK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::IoError;
    use std::path::PathBuf;

    #[test]
    fn every_refusal_says_what_why_and_what_to_do() {
        let dir = || PathBuf::from("/d");
        let io = || io::Error::other("broken");
        let os = io::Error::from_raw_os_error;
        let purged = nativelog::record::LogId { term: 1, node: 1, index: 9 };
        let all: Vec<(ServeError, Code, &str)> = vec![
            (IdentityError::OtherNode { dir: dir(), found: 1, wanted: 2 }.into(), Code::Usage, "node.id"),
            (
                IdentityError::LogLost { dir: dir(), why: "its log is missing".into() }.into(),
                Code::Usage,
                "set up a new cluster",
            ),
            (
                IdentityError::OtherCluster { dir: dir(), found: "a".into(), wanted: "b".into() }.into(),
                Code::Usage,
                "--cluster",
            ),
            (IdentityError::OtherThings { dir: dir(), found: "x".into() }.into(), Code::Usage, "--data-dir"),
            (ServeError::Contradicts("x".into()), Code::Usage, "--peers"),
            (ServeError::Wiped("x".into()), Code::Usage, "must not come back"),
            (IdentityError::NoIdentity { dir: dir() }.into(), Code::Usage, "`identity`"),
            (IdentityError::Unreadable { file: dir(), why: "x".into() }.into(), Code::Usage, "backup"),
            (IdentityError::InUse { dir: dir() }.into(), Code::Usage, "other process"),
            (IdentityError::Io { path: dir(), error: io() }.into(), Code::Internal, "disk"),
            (OpenError::Owner { dir: dir(), found: 1, expected: 2 }.into(), Code::Usage, "node.data_dir"),
            (
                OpenError::Damaged { dir: dir(), position: 7, why: "flipped".into() }.into(),
                Code::Corrupt,
                "epochlog repair",
            ),
            (
                OpenError::VoteLost { dir: dir(), why: "both slots".into() }.into(),
                Code::Corrupt,
                "set up a new cluster",
            ),
            (OpenError::Io { what: "read".into(), source: io() }.into(), Code::Internal, "disk"),
            (
                StartError::NotCovered { dir: dir(), purged, found: "none".into() }.into(),
                Code::Corrupt,
                "epochlog repair",
            ),
            (StartError::Version { path: "/d/x.snap".into() }.into(), Code::Usage, "ran here last"),
            (StartError::Io { what: "read".into(), source: io() }.into(), Code::Internal, "disk"),
            (
                StoreError::from(IoError { path: dir(), what: "list", source: io() }).into(),
                Code::Internal,
                "disk",
            ),
            (IdentityError::Io { path: dir(), error: os(28) }.into(), Code::NoSpace, "make room"),
            (
                IdentityError::Io { path: dir(), error: os(13) }.into(),
                Code::PermissionDenied,
                "a user who may",
            ),
            (OpenError::Io { what: "read".into(), source: os(28) }.into(), Code::NoSpace, "make room"),
            (StartError::Io { what: "read".into(), source: os(122) }.into(), Code::QuotaExceeded, "quota"),
            (
                StoreError::from(IoError { path: dir(), what: "write", source: os(30) }).into(),
                Code::PermissionDenied,
                "writable",
            ),
            (
                ServeError::Listen { name: "gRPC", address: ([127, 0, 0, 1], 1).into(), error: os(13) },
                Code::PermissionDenied,
                "--listen",
            ),
            (
                ServeError::Listen { name: "gRPC", address: ([127, 0, 0, 1], 1).into(), error: io() },
                Code::Usage,
                "--listen",
            ),
            (ServeError::Replica("x".into()), Code::Internal, "log lines"),
            (SecretError::Open { path: dir() }.into(), Code::Usage, "chmod 600"),
            (SecretError::Foreign { path: dir(), owner: 7, user: 8 }.into(), Code::Usage, "chown"),
            (SecretError::NoFile { path: dir() }.into(), Code::Usage, "epochlog secret new"),
            (SecretError::Io { path: dir(), error: io() }.into(), Code::Usage, "epochlog secret new"),
            (SecretError::Io { path: dir(), error: os(13) }.into(), Code::PermissionDenied, "a user who may"),
        ];
        // Another folder of the same node.
        let owner = OpenError::Owner { dir: dir(), found: 3, expected: 3 };
        let why = ServeError::from(owner).failure("serve").why;
        assert_eq!(why, "the log in /d and the identity are of two data folders of node 3");
        for (error, code, advice) in all {
            let failure = error.failure("serve");
            assert_eq!(failure.code, code, "{failure:?}");
            let stopped = matches!(error, ServeError::Wiped(_));
            let happened = if stopped { "the node stopped" } else { "the node did not start" };
            assert!(failure.sentence.starts_with(happened), "{failure:?}");
            assert!(failure.fix.contains(advice) && !failure.why.is_empty(), "{failure:?}");
            assert!(!failure.fix.contains("delete the"), "{failure:?}");
        }
    }
}
