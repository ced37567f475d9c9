//! What the nodes say about themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use checkpoint::{Digest, JobName};
use client::{Failure, pb};
use nativelog::ledger::{Go, QuarantineInfo, Walk};
use nativelog::machine::Machine;

use super::read::quarantined_pb;
use crate::epochs;
use crate::limits::QUARANTINED_MAX;
use crate::node::Node;
use crate::stores::{Access, Kept};
use crate::units;

/// How long another node may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a node that has not answered since this one started.
pub(super) const UNTOLD: &str = "it has not told this node yet where clients reach it";

/// This node's status, or that of all.
pub async fn status(node: &Node, request: pb::StatusRequest) -> pb::StatusReply {
    let own = own(node, request.light);
    // A node that can reach neither leader nor majority knows of none: what it believes is old.
    let cut_off = node.replica.cut_off();
    let leader = node.replica.leader().filter(|_| cut_off.is_none());
    let mut reply = pb::StatusReply {
        cluster_name: node.config.cluster.clone(),
        leader,
        term: own.1,
        nodes: vec![own.0],
        // Every other node asks for the light one every few seconds, and for nothing but its space.
        quarantined: match request.light {
            true => Vec::new(),
            false => epochs::elsewhere(node.replica.machine(), quarantined).await,
        },
    };
    if request.all {
        let others = node.voters().into_iter().filter(|id| *id != node.config.id);
        let answers = futures::future::join_all(others.map(|id| ask(node, id))).await;
        for (status, term, leads) in answers {
            // A node that was cut off knows an older term and leader.
            if term > reply.term {
                reply.term = term;
                reply.leader = leads;
            } else if term == reply.term && reply.leader.is_none() {
                reply.leader = leads;
            }
            reply.nodes.push(status);
        }
        reply.nodes.sort_by_key(|status| status.id);
        // Others may believe in it a while longer.
        let is_gone = |id: u64| node.replica.silence(id).is_some() || node.replica.is_wiped(id);
        reply.leader = reply.leader.filter(|id| !is_gone(*id));
        let furthest = reply.nodes.iter().map(|status| status.applied).max().unwrap_or(0);
        for status in &mut reply.nodes {
            status.lag = furthest.saturating_sub(status.applied);
        }
    }
    reply
}

/// Content in quarantine, and the epochs that hold it: of each job the newest first.
fn quarantined(machine: &Machine) -> Vec<pb::Quarantined> {
    let infos: Vec<QuarantineInfo> = machine.ledger().quarantine().take(QUARANTINED_MAX).collect();
    if infos.is_empty() {
        return Vec::new();
    }
    let mut held: BTreeMap<Digest, Vec<(JobName, u64)>> =
        infos.iter().map(|info| (info.digest, Vec::new())).collect();
    let mut left = held.len() * QUARANTINED_MAX;
    epochs::walk(machine, Walk::all(), |epoch| {
        for digest in epoch.quarantined() {
            if let Some(by) = held.get_mut(&digest).filter(|by| by.len() < QUARANTINED_MAX) {
                by.push((epoch.sealed().job.clone(), epoch.sealed().epoch));
                left -= 1;
            }
        }
        if left == 0 { Go::Stop } else { Go::On }
    });
    let named = |info: QuarantineInfo| {
        let by = held.remove(&info.digest).unwrap_or_default();
        let epochs = by.into_iter().map(|(job, epoch)| format!("{job}@{epoch}")).collect();
        pb::Quarantined { epochs, ..quarantined_pb(info) }
    };
    infos.into_iter().map(named).collect()
}

/// Asks another node. One whose folder was wiped counts for nothing, whatever it says of itself.
async fn ask(node: &Node, id: u64) -> (pb::NodeStatus, u64, Option<u64>) {
    let (status, term, leads) = asked(node, id).await;
    if !node.replica.is_wiped(id) {
        return (status, term, leads);
    }
    let why = "its data folder is not the one that the cluster knows".into();
    (pb::NodeStatus { role: "wiped".into(), why, ..status }, 0, None)
}

async fn asked(node: &Node, id: u64) -> (pb::NodeStatus, u64, Option<u64>) {
    let address = node.peer(id).map(|(address, _)| address).unwrap_or_default();
    let unreachable = |why: String| {
        let status = pb::NodeStatus {
            id,
            role: "unreachable".into(),
            grpc: address.clone(),
            voter: true,
            why,
            ..pb::NodeStatus::default()
        };
        (status, 0, None)
    };
    let Some((_, mut stub)) = node.peer(id) else { return unreachable(UNTOLD.into()) };
    // Whoever has been silent for a while is not waited for by everybody who asks.
    if let Some(silence) = node.replica.silence(id) {
        return unreachable(format!("no answer for {}", units::seconds_of(silence)));
    }
    let asked = stub.status(pb::StatusRequest { all: false, light: false });
    match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => {
            let (status, term, leads) = unreachable("no answer in time".into());
            // It has pulsed meanwhile: a majority with it is one.
            (pb::NodeStatus { late: node.replica.silence(id).is_none(), ..status }, term, leads)
        }
        Ok(Err(status)) => unreachable(Failure::from_status(&status).why),
        Ok(Ok(reply)) => {
            let reply = reply.into_inner();
            match reply.nodes.into_iter().find(|status| status.id == id) {
                Some(status) => (status, reply.term, reply.leader),
                None => unreachable("another node answers at its address".into()),
            }
        }
    }
}

fn stores_pb(node: &Node) -> Vec<pb::StoreStatus> {
    let away = node.stores.away().map(|(name, why)| pb::StoreStatus {
        name: name.to_owned(),
        usable: false,
        why: node.outward(why),
    });
    node.stores.all().map(|kept| store_pb(node, kept)).chain(away).collect()
}

/// What a store was like when it was asked last.
fn store_pb(node: &Node, kept: &Kept) -> pb::StoreStatus {
    let (usable, why) = match kept.access() {
        Access::NotAsked => (false, String::new()),
        Access::Usable => (true, String::new()),
        Access::Unusable(why) => (false, node.outward(why)),
    };
    pb::StoreStatus { name: kept.name().to_owned(), usable, why }
}

/// This node's own status and term.
fn own(node: &Node, light: bool) -> (pb::NodeStatus, u64) {
    // A total of 0 says that it could not be told.
    let space = node.space().unwrap_or_default();
    let vitals = node.vitals();
    let marks = vitals.marks;
    let mut status = pb::NodeStatus {
        id: node.config.id,
        grpc: node.config.advertise.clone(),
        http: node.config.http.to_string(),
        pid: std::process::id(),
        applied: marks.applied.saturating_sub(1),
        flushed: node.replica.log().flushed().borrow().saturating_sub(1),
        published: marks.performed.saturating_sub(1),
        disk_free: space.free,
        disk_total: space.total,
        disk_reserve: space.reserve,
        disk_inodes_short: space.inodes_short,
        snapshot: marks.snapshot.saturating_sub(1),
        purged: vitals.purged,
        wal_bytes: vitals.wal_bytes,
        unpublished: vitals.unpublished.len() as u64,
        not_looked: vitals.not_looked,
        fetched_bytes: vitals.transfer.fetched_bytes,
        lacking_bytes: vitals.transfer.lacking_bytes.saturating_add(node.replica.hydration().bytes),
        garbage_bytes: vitals.garbage.all_bytes(),
        stalled: node.outward(vitals.stalled.unwrap_or_default()),
        short_of_space: node.outward(vitals.short.unwrap_or_default()),
        version: env!("CARGO_PKG_VERSION").into(),
        voter: true,
        stores: stores_pb(node),
        ..pb::NodeStatus::default()
    };
    if light {
        return (status, 0);
    }
    let full = node.replica.status();
    status.role = if full.role == "leader" && node.replica.cut_off().is_some() {
        "no quorum".into()
    } else {
        full.role
    };
    status.ledger_digest = full.ledger_digest;
    status.applied = full.applied.map_or(0, |applied| applied.index);
    // Words for people: what keeps epochs from being directories here, if nothing worse.
    let unpublished = vitals.unpublished.first().map(|epoch| {
        let more = vitals.unpublished.len() - 1;
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        format!("{}@{} is no directory here: {}{more}", epoch.job, epoch.epoch, epoch.why)
    });
    let contradictions: Vec<_> = node.replica.contradictions().into_values().collect();
    let contradicted = (!contradictions.is_empty()).then(|| contradictions.join("; "));
    let cut_off = node.replica.cut_off().map(|cut_off| cut_off.why);
    let not_looked = (vitals.not_looked > 0)
        .then(|| format!("epochs that it has not looked for since it started: {}", vitals.not_looked));
    let why = full.fatal.or(contradicted).or(cut_off).or(unpublished).or(not_looked);
    status.why = node.outward(why.unwrap_or_default());
    (status, full.term)
}
