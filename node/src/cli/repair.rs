//! `repair`: a new log for this node in place of one that is damaged, from the other nodes. The node is stopped.
//!
//! It deletes nothing: the damaged log is kept beside the new one, and what is good on the shelves is used. Stopped
//! anywhere, the damaged log is still the log, and the next try goes on with what came.

use std::sync::Arc;

use checkpoint::store::layout::Layout;
use checkpoint::{Disk, RealDisk, Store};
use client::{Cause, Code, Failure};
use nativelog::machine::Machine;
use nativelog::snapshot::SnapshotError;
use nativelog::store::{LogStore, OpenError, Options};
use raft::{RejoinError, RejoinStep, Rejoined, TransferError};
use serde_json::json;

use super::output::Output;
use super::progress::Progress;
use super::serve::NodeArgs;
use crate::config::Config;
use crate::identity::{self, Claim};
use crate::refusal::{ServeError, UNREPAIRABLE, WIPED};
use crate::{handles, opening, telemetry, units};

const WHAT: &str = "repair";

/// Arguments of `repair`.
#[derive(Debug, clap::Args)]
pub struct RepairArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs the command.
pub async fn run(args: &RepairArgs, output: &Output, verbose: u8) -> Result<(), Failure> {
    let config = args.node.load(WHAT)?;
    if verbose > 0 {
        telemetry::start(config.log_format, verbose);
    }
    handles::raise();
    let opening = config.clone();
    let found = tokio::task::spawn_blocking(move || look(&opening)).await;
    let found = found.expect("looking does not panic").map_err(|error| error.failure(WHAT))?;
    let (claim, why) = match found {
        Found::Good => {
            output.note("the log of this node opens, and its ledger can be rebuilt: nothing to repair here");
            output
                .note("start the node; `epochlog verify --repair` mends what has rotted in published epochs");
            if output.is_json() {
                output.outcome(json!({ "type": "summary", "repaired": false }));
            }
            return Ok(());
        }
        Found::Empty => {
            return Err(Failure::new(Code::Usage, "there is nothing to repair")
                .what(WHAT)
                .why(format!("{}: this folder has never been part of a cluster", config.data_dir.display()))
                .fix(format!(
                    "`epochlog serve` starts a node of a new cluster. In a cluster that is there: {WIPED}"
                )));
        }
        Found::Damaged(claim, why) => (claim, why),
    };
    if config.members.iter().all(|(id, _)| *id == config.id) {
        return Err(Failure::new(Code::NoQuorum, "the node was NOT repaired")
            .what(WHAT)
            .why(format!("{why}; and no other node is configured to fetch anything from"))
            .fix("name the other nodes with --peers or [cluster] initial_members; nothing was changed"));
    }
    output.note(format!("to be repaired: {why}"));
    let rejoined = rejoin(&config, &claim, output).await?;
    if output.is_json() {
        output.outcome(json!({
            "type": "summary",
            "repaired": true,
            "node": config.id,
            "position": { "term": rejoined.position.term, "index": rejoined.position.index },
            "fetched_bytes": rejoined.fetched_bytes,
        }));
    } else {
        output.line(format!(
            "repaired node {}: its log begins after {}, {} fetched from the other nodes",
            config.id,
            rejoined.position,
            units::size(rejoined.fetched_bytes)
        ));
        output.note("the damaged log is kept beside the new one as log.damaged.*; start the node with `epochlog serve`");
    }
    Ok(())
}

/// What lies in the folder.
enum Found {
    /// It would start.
    Good,
    /// There is nothing in it: a new node, or one that was wiped.
    Empty,
    /// It would not, and a new log helps. The folder is ours as long as the claim lives.
    Damaged(Claim, String),
}

/// Looks at a node that does not run; whatever a new log cannot help with is refused as a start would. Blocks.
fn look(config: &Config) -> Result<Found, ServeError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&config.data_dir);
    // Never the beginning of a node: that is for `serve`.
    if identity::look(&config.data_dir, config.id, &config.cluster)?.is_none() {
        return match layout.log_dir().exists() {
            true => Err(identity::IdentityError::NoIdentity { dir: config.data_dir.clone() }.into()),
            false => Ok(Found::Empty),
        };
    }
    let claim = identity::claim(&config.data_dir, config.id, &config.cluster)?;
    let log = match LogStore::open(disk.clone(), &layout, claim.identity, Options::default()) {
        Ok((log, _)) => log,
        Err(error @ OpenError::Damaged { .. }) => return Ok(Found::Damaged(claim, error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let store = open_store(disk, config)?;
    let started = Machine::start(store, log.clone(), &layout.catalog_dir());
    let found = match started {
        Ok(machine) => {
            let (purged, last) = log.log_state();
            let empty = purged.is_none() && last.is_none() && log.vote().is_none();
            machine.shutdown();
            if empty { Found::Empty } else { Found::Good }
        }
        Err(error @ nativelog::machine::StartError::NotCovered { .. }) => {
            log.shutdown();
            Found::Damaged(claim, error.to_string())
        }
        Err(error) => return Err(error.into()),
    };
    Ok(found)
}

fn open_store(disk: Arc<dyn Disk>, config: &Config) -> Result<Arc<Store>, ServeError> {
    let store = Store::open(disk, &config.data_dir);
    Ok(Arc::new(store?))
}

async fn rejoin(config: &Config, claim: &Claim, output: &Output) -> Result<Rejoined, Failure> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&config.data_dir);
    let store = open_store(disk.clone(), config).map_err(|error| error.failure(WHAT))?;
    let secret = config.secret().map_err(|error| ServeError::from(error).failure(WHAT))?;
    let settings = opening::replica_config(config, secret, claim);
    let progress = Progress::start(output, WHAT);
    let told = std::sync::Mutex::new(String::new());
    let tell = |step: RejoinStep| tell(&progress, &told, step);
    raft::rejoin(settings, disk, layout, store, claim.identity, tell).await.map_err(|error| refused(&error))
}

fn tell(progress: &Progress, told: &std::sync::Mutex<String>, step: RejoinStep) {
    let once = |text: String| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *told != text {
            progress.note(&text);
            *told = text;
        }
    };
    match step {
        RejoinStep::Asking { above_term, why } => {
            once(format!("looking for a leader of a term above {above_term}: {why}"));
        }
        RejoinStep::Fetching(transfer) => {
            let total = transfer.fetched_bytes.saturating_add(transfer.lacking_bytes);
            progress.at(transfer.fetched_bytes, total);
        }
        RejoinStep::Replacing { position } => {
            once(format!("everything is here and on the disk; the new log begins after {position}"));
        }
    }
}

/// What went wrong, and what to do. The damaged log is as it was.
fn refused(error: &RejoinError) -> Failure {
    const KEPT: &str = "nothing was changed but for what was fetched, which is used by the next try";
    let (code, fix) = match error {
        RejoinError::NoCluster | RejoinError::Unknown(_) | RejoinError::Log(OpenError::VoteLost { .. }) => {
            (Code::Corrupt, UNREPAIRABLE.to_owned())
        }
        RejoinError::Identity | RejoinError::Log(OpenError::Owner { .. }) => {
            (Code::Usage, "correct node.id or node.data_dir; nothing was changed".to_owned())
        }
        RejoinError::NoLeader { .. } => (
            Code::NoQuorum,
            format!("start the other nodes: a majority of them must be up; then repeat. {KEPT}"),
        ),
        // What the system says here is known by its cause, wherever it was met.
        RejoinError::Log(OpenError::Io { source, .. })
        | RejoinError::Snapshot(SnapshotError::Io { source, .. })
            if Cause::of(source).is_want() =>
        {
            let cause = Cause::of(source);
            (cause.code, format!("{}. {KEPT}", cause.fix))
        }
        RejoinError::Transfer(TransferError::Full(_)) => {
            (Code::NoSpace, format!("make room on this node's disk, then repeat. {KEPT}"))
        }
        RejoinError::Log(_) | RejoinError::Snapshot(_) | RejoinError::Transfer(TransferError::Here(_)) => {
            (Code::Internal, format!("see to this node's disk (writable, not full), then repeat. {KEPT}"))
        }
        RejoinError::State(_) | RejoinError::Transfer(_) => {
            (Code::Unavailable, format!("see to the other nodes and the network, then repeat. {KEPT}"))
        }
    };
    Failure::new(code, "the node was NOT repaired").what(WHAT).why(error.to_string()).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_to_a_repair_is_told_by_its_cause() {
        let os = std::io::Error::from_raw_os_error;
        let log = |number| RejoinError::Log(OpenError::Io { what: "write".into(), source: os(number) });
        let full = SnapshotError::Io { what: "write".into(), source: os(28) };
        let here = |why: &str| RejoinError::Transfer(TransferError::Here(why.into()));
        let no_room = RejoinError::Transfer(TransferError::Full("node 2 is short of space".into()));
        for (error, code) in [
            (log(28), Code::NoSpace),
            (log(13), Code::PermissionDenied),
            (log(5), Code::Internal),
            (RejoinError::Snapshot(full), Code::NoSpace),
            (no_room, Code::NoSpace),
            (here("a thread of this node panicked"), Code::Internal),
            (RejoinError::Transfer(TransferError::Stopped), Code::Unavailable),
        ] {
            let failure = refused(&error);
            assert_eq!(failure.code, code, "{failure:?}");
            assert!(failure.fix.contains("nothing was changed") && !failure.why.is_empty(), "{failure:?}");
        }
    }
}
