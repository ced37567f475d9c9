//! The ports: gRPC for clients and tools (health, reflection of every service), one for peers alone, and HTTP. Nothing that
//! peers may call is served where clients come in.

use std::net::SocketAddr;
use std::sync::Arc;

use client::pb::epochlog_server::EpochlogServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use uncopied::Inlet;

use crate::api::Api;
use crate::guests::{Admission, Bounds, Door, Guest, Guests};
use crate::node::Node;
use crate::refusal::ServeError;
use crate::{guests, handles, http, limits};

/// Calls of the API whose requests carry payloads.
const WITH_PAYLOADS: &[&str] = &["/epochlog.Epochlog/Commit"];

/// Opens a port.
pub async fn listen(name: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Listen { name, address, error })
}

/// Serves gRPC for clients until `stopping`.
pub async fn grpc(
    node: Arc<Node>,
    listener: TcpListener,
    health: HealthReporter,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let api = EpochlogServer::new(Api::new(node.clone()))
        .max_decoding_message_size(client::REQUEST_BYTES_MAX)
        .max_encoding_message_size(client::MESSAGE_BYTES_MAX);
    let services = Routes::new(Inlet::new(api, WITH_PAYLOADS))
        .add_service(tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(health),
        ))
        .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
        .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?)
        .prepare();
    let guests = Guests::new("grpc", Bounds::of(handles::files()).clients, node.metrics.clone());
    let services = Admission::new(services, guests.clone());
    let (there, asked) = (Arc::downgrade(&guests), Arc::downgrade(&node));
    tokio::spawn(guests::follow(there, move || {
        asked.upgrade().map_or_else(Vec::new, |node| node.addresses())
    }));
    raft::network::server()
        .max_concurrent_streams(limits::STREAMS_MAX)
        .initial_stream_window_size(limits::CLIENT_STREAM_BYTES)
        .initial_connection_window_size(limits::CLIENT_CONNECTION_BYTES)
        .serve_with_incoming_shutdown(services, Door::new(listener, guests).incoming(), async move {
            // An error means that the node is gone altogether.
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
        .map_err(|error| error.to_string())
}

/// Serves peers until `stopping`: whoever proves the secret. Without a listener there are none.
pub async fn peers(
    node: Arc<Node>,
    listener: Option<TcpListener>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let stop = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let Some(listener) = listener else {
        stop.await;
        return Ok(());
    };
    raft::network::server()
        .add_service(node.replica.service())
        .serve_with_incoming_shutdown(node.replica.door(TcpListenerStream::new(listener)), stop)
        .await
        .map_err(|error| error.to_string())
}

/// Every service of the port for clients; reflection adds its own. Old tools ask v1alpha.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(client::pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// What the health service says: of the node as a whole, and of each service.
pub async fn say_serving(health: &HealthReporter) {
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_serving::<EpochlogServer<Api>>().await;
}

/// The node stops, or must: nothing new shall come here.
pub async fn say_not_serving(health: &HealthReporter) {
    health.set_service_status("", ServingStatus::NotServing).await;
    health.set_not_serving::<EpochlogServer<Api>>().await;
}

/// Serves HTTP until `stopping`.
pub async fn http(
    node: Arc<Node>,
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let guests = Guests::new("http", Bounds::of(handles::files()).http, node.metrics.clone());
    let routes = http::routes(node, guests.clone()).into_make_service_with_connect_info::<Guest>();
    axum::serve(Door::new(listener, guests), routes)
        .with_graceful_shutdown(async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
        .map_err(|error| error.to_string())
}
