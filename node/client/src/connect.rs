//! Endpoints and channels: one lazily made channel an endpoint, tried in the order given, the last
//! one that worked first.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checkpoint::limits::CHUNK_BYTES_MAX;
use tonic::transport::{Channel, Endpoint};
use uncopied::Outlet;

use crate::failure::{Code, Failure};
use crate::pb;
use crate::pb::epochlog_client::EpochlogClient;

/// The largest request that a node takes, in bytes: a chunk of 4 MiB and its header.
pub const REQUEST_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize + (512 << 10);
/// The largest answer that a client takes, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Time to connect to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For how long an index that the log has reached is given to new ids.
const REACHED_KEPT: Duration = Duration::from_secs(600);
/// HTTP/2 window of one stream, bytes.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// The calls of one endpoint.
pub type Stub = EpochlogClient<Outlet<Channel>>;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time without progress after which a call gives up.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { timeout: Duration::from_secs(30) }
    }
}

/// A client of one cluster. Cheap to keep, made once: channels are reused.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<String>,
    preferred: AtomicUsize,
    channels: Mutex<BTreeMap<String, Channel>>,
    /// The highest log index known to have been reached, and when that was learned.
    reached: Mutex<Option<(u64, Instant)>>,
    pub(crate) options: Options,
}

impl Client {
    /// A client of the cluster that has nodes at these `HOST:PORT` endpoints. Connects when it has to.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>, options: Options) -> Client {
        Client {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            preferred: AtomicUsize::new(0),
            channels: Mutex::default(),
            reached: Mutex::default(),
            options,
        }
    }

    /// Another handle to the same cluster, over the same connections.
    pub fn same(&self) -> Client {
        let channels = self.channels.lock().expect("no thread panics while it holds the channels").clone();
        Client {
            endpoints: self.endpoints.clone(),
            preferred: AtomicUsize::new(self.preferred.load(Ordering::Relaxed)),
            channels: Mutex::new(channels),
            reached: Mutex::new(self.last_reached()),
            options: self.options.clone(),
        }
    }

    /// The endpoints, the one that answered last first.
    pub fn endpoints(&self) -> Vec<String> {
        let first = self.preferred.load(Ordering::Relaxed);
        let count = self.endpoints.len();
        (0..count).map(|i| self.endpoints[(first + i) % count].clone()).collect()
    }

    pub(crate) fn prefer(&self, endpoint: &str) {
        if let Some(at) = self.endpoints.iter().position(|known| known == endpoint) {
            self.preferred.store(at, Ordering::Relaxed);
        }
    }

    /// The gRPC stub of one endpoint.
    pub fn stub(&self, endpoint: &str) -> Result<Stub, Failure> {
        let mut channels = self.channels.lock().expect("no thread panics while it holds the channels");
        let channel = match channels.get(endpoint) {
            Some(channel) => channel.clone(),
            None => {
                let channel = channel(endpoint)?;
                channels.insert(endpoint.to_owned(), channel.clone());
                channel
            }
        };
        Ok(EpochlogClient::new(Outlet(channel))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(REQUEST_BYTES_MAX))
    }

    /// Calls one endpoint after the other until one answers, again and again until the timeout.
    /// Only calls that may be repeated go through here.
    pub async fn anywhere<T, F, R>(&self, what: &str, call: F) -> Result<T, Failure>
    where
        F: Fn(Stub) -> R,
        R: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let mut reasons = BTreeMap::new();
        loop {
            let mut last = None;
            let endpoints = self.endpoints();
            for (at, endpoint) in endpoints.iter().enumerate() {
                let left = deadline.saturating_duration_since(Instant::now());
                let share = share(left, endpoints.len() - at);
                let answer = match tokio::time::timeout(share, call(self.stub(endpoint)?)).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        Err(Failure::new(Code::Timeout, "no answer").why("no answer in time").to_status())
                    }
                };
                match answer {
                    Ok(answer) => {
                        self.prefer(endpoint);
                        return Ok(answer.into_inner());
                    }
                    Err(status) => {
                        let failure = Failure::from_status(&status);
                        if !failure.is_transient() {
                            return Err(failure);
                        }
                        reasons.insert(endpoint.clone(), failure.why.clone());
                        last = Some(failure);
                    }
                }
            }
            if Instant::now() + Duration::from_millis(100) >= deadline || self.endpoints.is_empty() {
                return Err(unavailable(what, &reasons, last));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Who is in the cluster and how far. With `all`, the node asks the others.
    pub async fn status(&self, all: bool) -> Result<pb::StatusReply, Failure> {
        self.anywhere("status", |mut stub| async move {
            stub.status(pb::StatusRequest { all, light: false }).await
        })
        .await
    }

    /// Sealed epochs.
    pub async fn list(&self, request: pb::ListRequest) -> Result<pb::ListReply, Failure> {
        self.anywhere("list epochs", |mut stub| {
            let request = request.clone();
            async move { stub.list(request).await }
        })
        .await
    }

    /// One epoch.
    pub async fn show(&self, request: pb::ShowRequest) -> Result<pb::ShowReply, Failure> {
        self.anywhere("show an epoch", |mut stub| {
            let request = request.clone();
            async move { stub.show(request).await }
        })
        .await
    }

    /// Ends epochs by hand.
    pub async fn expire(&self, request: pb::ExpireRequest) -> Result<pb::ExpireReply, Failure> {
        self.anywhere("remove epochs", |mut stub| {
            let request = request.clone();
            async move { stub.expire(request).await }
        })
        .await
    }

    /// Forgets a job that has no epochs and no open attempts: its numbers start anew.
    pub async fn remove_job(&self, request: pb::RemoveJobRequest) -> Result<pb::RemoveJobReply, Failure> {
        self.anywhere("remove a job", |mut stub| {
            let request = request.clone();
            async move { stub.remove_job(request).await }
        })
        .await
    }

    /// A log index that the cluster has reached: ids that are made from now on are born after it. It may be a few
    /// minutes old, which does no harm: an id is found for a day.
    pub async fn reached(&self) -> Result<u64, Failure> {
        if let Some(known) = self.lately_reached() {
            return Ok(known);
        }
        let ask = |mut stub: Stub| async move { stub.reached(pb::ReachedRequest::default()).await };
        let applied = self.anywhere("see how far the log is", ask).await?.applied;
        self.saw(applied);
        Ok(applied)
    }

    /// The same, when it was learned a short while ago.
    pub(crate) fn lately_reached(&self) -> Option<u64> {
        self.last_reached().filter(|(_, learned)| learned.elapsed() < REACHED_KEPT).map(|(index, _)| index)
    }

    fn last_reached(&self) -> Option<(u64, Instant)> {
        *self.reached.lock().expect("no thread panics while it holds an index")
    }

    /// The log has reached this index.
    pub(crate) fn saw(&self, index: u64) {
        let mut reached = self.reached.lock().expect("no thread panics while it holds an index");
        if reached.is_none_or(|(known, _)| known <= index) {
            *reached = Some((index, Instant::now()));
        }
    }

    /// Opens a writer of `job` and fences all older ones; repeated with the same id and the same `born`, it answers
    /// the same token. `born` is what [`Client::reached`] said before the id was first used.
    pub async fn open_writer(&self, job: &str, commit_id: [u8; 16], born: u64) -> Result<u64, Failure> {
        let request = pb::OpenWriterRequest {
            job: job.to_owned(),
            commit_id: commit_id.to_vec().into(),
            born: Some(born),
        };
        let reply = self
            .anywhere("open a writer", |mut stub| {
                let request = request.clone();
                async move { stub.open_writer(request).await }
            })
            .await?;
        Ok(reply.token)
    }

    /// Re-reads published directories; `each` sees every answer as it comes.
    pub async fn verify(
        &self,
        request: pb::VerifyRequest,
        each: &mut dyn FnMut(pb::VerifyReply),
    ) -> Result<(), Failure> {
        let mut stream = self
            .anywhere("verify", |mut stub| {
                let request = request.clone();
                async move { stub.verify(request).await }
            })
            .await?;
        while let Some(reply) = stream.message().await? {
            each(reply);
        }
        Ok(())
    }
}

/// Least time for an endpoint before the next one is asked.
const SHARE_MIN: Duration = Duration::from_secs(3);

/// How long one of so many endpoints may take, so that one that hangs leaves time for the others.
pub(crate) fn share(left: Duration, endpoints: usize) -> Duration {
    let parts = u32::try_from(endpoints.max(1)).unwrap_or(u32::MAX);
    (left / parts).max(SHARE_MIN).min(left)
}

fn channel(endpoint: &str) -> Result<Channel, Failure> {
    let uri = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| {
        Failure::new(Code::Usage, format!("{endpoint:?} is not HOST:PORT")).why(error.to_string())
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect_lazy())
}

const UNREACHED: &str = "check that the nodes run and that --endpoints names them, then repeat the command";

/// The failure when no endpoint gave an answer.
pub(crate) fn unavailable(what: &str, reasons: &BTreeMap<String, String>, last: Option<Failure>) -> Failure {
    let mut why: Vec<String> = reasons.iter().map(|(endpoint, why)| format!("{endpoint} {why}")).collect();
    if why.is_empty() {
        why.push("no endpoint was given".into());
    }
    let code = last.as_ref().map_or(Code::Unavailable, |last| last.code);
    // A node that answered has said what to do; a connection that failed has not.
    let (sentence, fix) = match last {
        Some(last) if !last.fix.is_empty() => (last.sentence, last.fix),
        Some(last) if code != Code::Unavailable => (last.sentence, UNREACHED.to_owned()),
        _ => ("no node of the cluster could be reached".to_owned(), UNREACHED.to_owned()),
    };
    Failure::new(code, sentence).what(what.to_owned()).why(why.join("; ")).fix(fix)
}
