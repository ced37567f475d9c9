//! The wiring of one node: folder, log, ledger, replica, servers. It wires and does nothing else.
//!
//! The order at start is the order of trust: whose folder it is, then the log, then the ledger, then
//! the consensus, and only then anybody is listened to. A fault ends the process at once, so that
//! nothing is acknowledged after it.

use std::sync::Arc;
use std::time::Duration;

use raft::{Replica, ReplicaConfig, RoomJudge};
use tokio::sync::watch;
use tonic_health::server::HealthReporter;

use crate::config::Config;
use crate::exit::Exit;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::notify::{self, News};
use crate::opening::{Opened, open, replica_config};
use crate::refusal::ServeError;
use crate::stores::{NodeDepot, tidy};
use crate::{housekeeping, neighbours, servers};

/// Open calls have so long to end when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Runs a node until a signal or a fault ends it.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let secret = config.secret()?;
    let grpc = servers::listen("gRPC", config.grpc).await?;
    let peers = match config.secret_file {
        Some(_) => Some(servers::listen("gRPC for peers", config.peers).await?),
        None => None,
    };
    let http = servers::listen("HTTP", config.http).await?;
    notify::tell(&News::Status("opens its data folder"));
    let metrics = Arc::new(Metrics::new());
    let (opening, counting) = (config.clone(), metrics.clone());
    let opened = tokio::task::spawn_blocking(move || open(&opening, &counting)).await;
    let Opened { claim, store, stores, log, machine } = opened.expect("opening does not panic")?;
    let gate = Arc::new(Gate::default());
    let settings = ReplicaConfig {
        judge: RoomJudge(gate.clone()),
        stores: raft::Stores(Arc::new(NodeDepot::new(stores.clone(), machine.clone()))),
        ..replica_config(&config, secret, &claim)
    };
    let replica = Replica::start(settings, log, machine.clone()).await?;
    let node = Arc::new(Node::new(config, store, stores, replica.clone(), metrics));
    gate.opens_for(&node);
    let (stop, stopping) = watch::channel(false);
    let health = HealthReporter::new();
    servers::say_serving(&health).await;
    let grpc_server = tokio::spawn(servers::grpc(node.clone(), grpc, health.clone(), stopping.clone()));
    let peer_server = tokio::spawn(servers::peers(node.clone(), peers, stopping.clone()));
    let http_server = tokio::spawn(servers::http(node.clone(), http, stopping.clone()));
    neighbours::serve(&node);
    replica.initialize_when_ready();
    node.stores.ask_all(&machine);
    let tidy = tokio::spawn(tidy::run(node.stores.clone(), replica.clone()));
    let chores = tokio::spawn(housekeeping::run(node.clone(), claim));
    tracing::info!(node = node.config.id, grpc = %node.config.grpc, http = %node.config.http, "the node serves");
    let Config { id, cluster, grpc, .. } = &node.config;
    notify::tell(&News::Ready(&format!("node {id} of {cluster} serves at {grpc}")));

    let mut fatal = replica.fatal();
    let ended = tokio::select! {
        name = signal() => {
            tracing::info!(signal = name, "the node stops");
            Ok(())
        }
        why = fatal.wait_for(Option::is_some) => {
            let why = why.ok().and_then(|why| why.clone()).unwrap_or_default();
            // Nothing more may be acknowledged: no farewell, no flush.
            tracing::error!(why, "fault: this node stops now");
            notify::tell(&News::Status(&format!("fault: {why}")));
            servers::say_not_serving(&health).await;
            std::process::exit(Exit::Other.code());
        }
        why = replica.wiped() => Err(ServeError::Wiped(why)),
        ended = grpc_server => Err(ServeError::Server(format!("the gRPC server ended: {}", outcome(ended)))),
        ended = peer_server => Err(ServeError::Server(format!("the server for peers ended: {}", outcome(ended)))),
        ended = http_server => Err(ServeError::Server(format!("the HTTP server ended: {}", outcome(ended)))),
    };
    notify::tell(&News::Stopping("hands over and stops"));
    servers::say_not_serving(&health).await;
    replica.shutdown().await;
    stop.send_replace(true);
    chores.abort();
    tidy.abort();
    let folder_closed = tokio::task::spawn_blocking(move || machine.shutdown());
    if tokio::time::timeout(STOP_PATIENCE, folder_closed).await.is_err() {
        tracing::warn!("the performer did not end in time; it goes on at the next start");
    }
    ended?;
    // A fault on the way out counts as one before: something may not be on the disk.
    let fault = node.fatal().or_else(|| replica.log().fatal().borrow().clone());
    fault.map_or(Ok(()), |why| Err(ServeError::Server(format!("fault during shutdown: {why}"))))
}

fn outcome(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "without a reason".into(),
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    }
}

/// Waits for SIGTERM or SIGINT.
async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}
