//! HTTP: is it alive, is it ready, what does it count. `/readyz` answers one line a check, `/` says what there is.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

use crate::guests::{self, Guests};
use crate::metrics::scrape;
use crate::node::Node;
use crate::{limits, units};

/// A replica that is more entries behind is not ready.
const LAG_ENTRIES_MAX: u64 = 1000;

/// Turns of those who ask what is counted, over all callers.
static SCRAPES: Semaphore = Semaphore::const_new(limits::SCRAPES_AT_ONCE);

/// The routes, for these guests.
pub fn routes(node: Arc<Node>, guests: Arc<Guests>) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(guests, guests::of_http))
        .with_state(node)
}

/// For whoever opens the port in a browser: which node this is, and where to look.
const FRONT: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>epochlog</title></head>
<body>
<h1>epochlog, node NODE</h1>
<ul>
<li><a href=\"/readyz\">/readyz</a>: whether this node is ready, one line a check
<li><a href=\"/healthz\">/healthz</a>: whether it is alive
<li><a href=\"/metrics\">/metrics</a>: what it counts, for Prometheus
</ul>
<p>The whole cluster: <code>epochlog status</code> on a command line.</p>
</body></html>
";

async fn front(State(node): State<Arc<Node>>) -> Html<String> {
    Html(FRONT.replace("NODE", &node.config.id.to_string()))
}

async fn nothing_here() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "nothing here; there are / /healthz /readyz /metrics\n")
}

async fn healthz(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    match node.fatal() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, node.outward(format!("fault: {why}\n"))),
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    // Many jobs take a while to read.
    match in_turn(&SCRAPES, move || scrape::text(&node)).await {
        Ok(text) => ([(CONTENT_TYPE, scrape::CONTENT_TYPE)], text).into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}

/// Does on a thread that may be blocked what takes a while, when its turn has come. Whoever asks and leaves, again and
/// again, has no more of it done at once than one who stays: the turn ends with the work, not with the caller.
async fn in_turn<T: Send + 'static>(
    turns: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let turn = turns.acquire().await.expect("nobody closes it");
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.expect("a scrape does not panic")
}

async fn readyz(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let checks = [storage(&node), log(&node), leader(&node), lag(&node).await];
    let ready = checks.iter().all(|(ok, _)| *ok);
    let text: String =
        checks.iter().map(|(ok, line)| format!("{} {line}\n", if *ok { "ok   " } else { "WRONG" })).collect();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, node.outward(text))
}

fn storage(node: &Node) -> (bool, String) {
    if let Some(why) = node.fatal() {
        return (false, format!("storage: {why}"));
    }
    match node.space() {
        Ok(space) => {
            let (free, reserve) = (units::size(space.free), units::size(space.reserve));
            let inodes = if space.inodes_short { ", hardly any inodes" } else { "" };
            (space.has_room_for(0), format!("storage: {free} free, {reserve} reserved{inodes}"))
        }
        Err(error) => (false, format!("storage: {error}")),
    }
}

fn log(node: &Node) -> (bool, String) {
    let vitals = node.vitals();
    if let Some(why) = vitals.stalled.or(vitals.short) {
        return (false, format!("log: {why}"));
    }
    (true, format!("log: {}", units::size(vitals.wal_bytes)))
}

fn leader(node: &Node) -> (bool, String) {
    if let Some(cut_off) = node.replica.cut_off() {
        return (false, format!("leader: {}", cut_off.why));
    }
    match node.replica.leader() {
        Some(leader) => (true, format!("leader: node {leader}")),
        None => (false, "leader: none".into()),
    }
}

async fn lag(node: &Node) -> (bool, String) {
    let barrier = tokio::time::timeout(Duration::from_secs(1), node.replica.read_barrier()).await;
    let vitals = node.vitals();
    let behind = vitals.marks.applied.saturating_sub(vitals.marks.performed);
    let catching_up = match vitals.transfer.lacking_bytes {
        0 => String::new(),
        lacking => format!(", {} to fetch", units::size(lacking)),
    };
    // It serves all the same: what it has is found with the first look, and whoever asks for one of these waits for that.
    let not_looked = match vitals.not_looked {
        0 => String::new(),
        epochs => format!(", epochs not looked for yet: {epochs}"),
    };
    match barrier {
        Ok(Ok(_)) => (
            behind <= LAG_ENTRIES_MAX,
            format!("replication lag: 0 entries to apply, {behind} to publish{catching_up}{not_looked}"),
        ),
        Ok(Err(error)) => (false, format!("replication lag: {error}{catching_up}")),
        Err(_) => {
            (false, format!("replication lag: not known, the leader does not answer in time{catching_up}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_asks_and_leaves_again_and_again_has_no_more_threads() {
        static TURNS: Semaphore = Semaphore::const_new(2);
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let (end, _ends): (Vec<mpsc::Sender<()>>, Vec<_>) = (0..20)
            .map(|_| {
                let (end, ends) = mpsc::channel::<()>();
                let asked = in_turn(&TURNS, move || {
                    BEGUN.fetch_add(1, Ordering::SeqCst);
                    let _ = ends.recv();
                });
                // He leaves at once.
                (end, asked.now_or_never())
            })
            .unzip();
        assert_eq!(TURNS.available_permits(), 0, "two are at it still");
        drop(end);
        let _both = TURNS.acquire_many(2).await.unwrap();
        assert_eq!(BEGUN.load(Ordering::SeqCst), 2);
    }
}
