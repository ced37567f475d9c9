//! HTTP: is it alive, is it ready. `/readyz` answers one line a check.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::node::Node;

/// A replica that is more entries behind is not ready.
const LAG_ENTRIES_MAX: u64 = 1000;

/// The routes.
pub fn routes(node: Arc<Node>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(node)
}

async fn healthz(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    match node.fatal() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("fault: {why}\n")),
    }
}

async fn readyz(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let checks = [storage(&node), leader(&node), lag(&node).await];
    let ready = checks.iter().all(|(ok, _)| *ok);
    let text =
        checks.iter().map(|(ok, line)| format!("{} {line}\n", if *ok { "ok   " } else { "WRONG" })).collect();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

fn storage(node: &Node) -> (bool, String) {
    if let Some(why) = node.fatal() {
        return (false, format!("storage: {why}"));
    }
    match node.space() {
        Ok(space) => {
            let line = format!(
                "storage: {} free, {} reserved",
                crate::units::size(space.free),
                crate::units::size(space.reserve)
            );
            (space.free > space.reserve, line)
        }
        Err(error) => (false, format!("storage: {error}")),
    }
}

fn leader(node: &Node) -> (bool, String) {
    match node.replica.leader() {
        Some(leader) => (true, format!("leader: node {leader}")),
        None => (false, "leader: none".into()),
    }
}

async fn lag(node: &Node) -> (bool, String) {
    let barrier = tokio::time::timeout(Duration::from_secs(1), node.replica.read_barrier()).await;
    let marks = node.replica.machine().marks();
    let behind = marks.applied.saturating_sub(marks.performed);
    match barrier {
        Ok(Ok(_)) => {
            (behind <= LAG_ENTRIES_MAX, format!("replication lag: 0 entries to apply, {behind} to publish"))
        }
        Ok(Err(error)) => (false, format!("replication lag: {error}")),
        Err(_) => (false, "replication lag: not known, the leader does not answer in time".into()),
    }
}
