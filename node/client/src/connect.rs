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

use crate::dial::{Dialer, never_heard, was_refused};
use crate::failure::{Code, Failure};
use crate::pb;
use crate::pb::epochlog_client::EpochlogClient;

/// The largest request that a node takes, in bytes: a chunk of 4 MiB and its header.
pub const REQUEST_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize + (512 << 10);
/// The largest answer that a client takes, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Pause before the endpoints are asked once more.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// For how long all endpoints may refuse a connection before a look is given up: one that starts again listens by then.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);
/// For how long an index that the log has reached is given to new ids.
const REACHED_KEPT: Duration = Duration::from_secs(600);
/// What a node has more than its caller to say that something of a verify does not move: its own, and a peer's.
const VERIFY_FIRST_WORD: Duration = Duration::from_secs(5);
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

    /// Calls one endpoint after the other until one answers, again and again until the timeout, or until all of
    /// them say that they have no quorum. Only calls that may be repeated go through here.
    pub async fn anywhere<T, F, R>(&self, what: &str, call: F) -> Result<T, Failure>
    where
        F: Fn(Stub) -> R,
        R: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.everywhere(what, self.options.timeout, call).await.map_err(|unanswered| unanswered.failure)
    }

    /// As [`anywhere`](Client::anywhere), for who only looks: a machine that says that nobody listens there is an answer,
    /// when all of them say so. Who changes something waits for a node that comes back.
    async fn looking<T, F, R>(&self, what: &str, call: F) -> Result<T, Failure>
    where
        F: Fn(Stub) -> R,
        R: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.everywhere(what, REFUSED_PATIENCE, call).await.map_err(|unanswered| unanswered.failure)
    }

    /// `refused_for`: how long all endpoints may refuse a connection.
    async fn everywhere<T, F, R>(&self, what: &str, refused_for: Duration, call: F) -> Result<T, Unanswered>
    where
        F: Fn(Stub) -> R,
        R: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let mut reasons = BTreeMap::new();
        let mut hung = BTreeMap::<String, u32>::new();
        let mut maybe = false;
        let mut refused_since = None;
        loop {
            let mut last = None;
            let (mut no_quorum, mut refused) = (true, true);
            let round = Instant::now();
            let endpoints = self.endpoints();
            for endpoint in &endpoints {
                let stub = self.stub(endpoint).map_err(|failure| Unanswered { failure, maybe })?;
                let left = deadline.saturating_duration_since(Instant::now());
                let patience = share(left, endpoints.len(), hung.get(endpoint).copied().unwrap_or(0));
                let status = match tokio::time::timeout(patience, call(stub)).await {
                    Ok(Ok(answer)) => {
                        self.prefer(endpoint);
                        return Ok(answer.into_inner());
                    }
                    Ok(Err(status)) => status,
                    Err(_) => {
                        *hung.entry(endpoint.clone()).or_default() += 1;
                        Failure::new(Code::Timeout, "no answer").why("no answer in time").to_status()
                    }
                };
                let failure = Failure::from_status(&status);
                if !failure.is_transient() {
                    // The transport does not say of which of them it speaks.
                    let failure =
                        if status.details().is_empty() { failure.why_of(endpoint) } else { failure };
                    return Err(Unanswered { failure, maybe });
                }
                // A node that has no quorum has put nothing into the log; one that broke off may have.
                maybe |= failure.code != Code::NoQuorum && !never_heard(&status);
                no_quorum &= failure.code == Code::NoQuorum;
                refused &= was_refused(&status);
                reasons.insert(endpoint.clone(), failure.why.clone());
                last = Some(telling(last, failure));
            }
            // Nodes that have no quorum know it for a while already when they say so.
            let since = *refused_since.get_or_insert(round);
            refused_since = refused_since.filter(|_| refused);
            let nobody_there = refused && since.elapsed() >= refused_for;
            let hopeless = endpoints.is_empty() || no_quorum && !maybe || nobody_there;
            if Instant::now() + ROUND_PAUSE >= deadline || hopeless {
                return Err(Unanswered { failure: unavailable(what, &reasons, last), maybe });
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// Who is in the cluster and how far. With `all`, the node asks the others.
    pub async fn status(&self, all: bool) -> Result<pb::StatusReply, Failure> {
        self.looking("status", |mut stub| async move {
            stub.status(pb::StatusRequest { all, light: false }).await
        })
        .await
    }

    /// Sealed epochs.
    pub async fn list(&self, request: pb::ListRequest) -> Result<pb::ListReply, Failure> {
        self.looking("list epochs", |mut stub| {
            let request = request.clone();
            async move { stub.list(request).await }
        })
        .await
    }

    /// One epoch.
    pub async fn show(&self, request: pb::ShowRequest) -> Result<pb::ShowReply, Failure> {
        self.looking("show an epoch", |mut stub| {
            let request = request.clone();
            async move { stub.show(request).await }
        })
        .await
    }

    /// Ends epochs by hand. The failure says whether they are there still, or that nobody knows.
    pub async fn expire(&self, request: pb::ExpireRequest) -> Result<pb::ExpireReply, Failure> {
        let names: Vec<_> = request.epochs.iter().map(|epoch| format!("{}@{epoch}", request.job)).collect();
        let what = format!("rm {}", names.join(" "));
        let expired = self.everywhere(&what, self.options.timeout, |mut stub| {
            let request = request.clone();
            async move { stub.expire(request).await }
        });
        let Unanswered { failure, maybe } = match expired.await {
            Ok(reply) => return Ok(reply),
            Err(unanswered) => unanswered,
        };
        match failure.code {
            // An earlier try did it, whose answer was lost.
            Code::NotFound if maybe => Ok(pb::ExpireReply { position: None, epochs: request.epochs }),
            _ if maybe && failure.is_transient() => Err(Failure {
                code: Code::Timeout,
                sentence: "no answer, it is UNKNOWN whether it was removed".into(),
                fix: "repeat the command: what is gone is not removed twice".into(),
                ..failure
            }),
            Code::NoQuorum => Err(Failure { sentence: "no quorum, nothing was removed".into(), ..failure }),
            Code::Unavailable => {
                let cause = failure.sentence.split(", nothing").next().unwrap_or_default();
                Err(Failure { sentence: format!("{cause}, nothing was removed"), ..failure })
            }
            _ => Err(failure),
        }
    }

    /// Open attempts.
    pub async fn attempts(&self, request: pb::AttemptsRequest) -> Result<pb::AttemptsReply, Failure> {
        self.anywhere("list open attempts", |mut stub| {
            let request = request.clone();
            async move { stub.attempts(request).await }
        })
        .await
    }

    /// Ends the open attempt that the request names by its id: to repeat it is safe, what has ended stays ended.
    pub async fn abort(&self, request: pb::AbortRequest) -> Result<pb::AbortReply, Failure> {
        self.anywhere(&format!("abort {}@{}", request.job, request.epoch), |mut stub| {
            let request = request.clone();
            async move { stub.abort(request).await }
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

    /// Re-reads published directories; `each` sees every answer as it comes. `wait_ms` of the request is the client's
    /// timeout unless it says otherwise.
    ///
    /// # Errors
    /// [`Code::NotLooked`] when the node broke off: what came before stands.
    pub async fn verify(
        &self,
        mut request: pb::VerifyRequest,
        each: &mut dyn FnMut(pb::VerifyReply),
    ) -> Result<(), Failure> {
        if request.wait_ms == 0 {
            request.wait_ms = u64::try_from(self.options.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        }
        let broke_off = |why: String| {
            Failure::new(Code::NotLooked, "the node broke off before it had looked at everything").why(why)
        };
        // A node says that it reads on, and what it gives up after the same time, before that is over.
        let patience = self.options.timeout + VERIFY_FIRST_WORD;
        let mut stream = self
            .anywhere("verify", |mut stub| {
                let request = request.clone();
                async move { stub.verify(request).await }
            })
            .await?;
        loop {
            match tokio::time::timeout(patience, stream.message()).await {
                Ok(Ok(Some(reply))) if reply.working => {}
                Ok(Ok(Some(reply))) => each(reply),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(broke_off(Failure::from_status(&status).why)),
                Err(_) => return Err(broke_off("no answer in time".into())),
            }
        }
    }
}

/// A call that no endpoint has answered.
struct Unanswered {
    failure: Failure,
    /// One of them may have done it all the same.
    maybe: bool,
}

/// Least time for an endpoint before the next one is asked.
const SHARE_MIN: Duration = Duration::from_secs(3);
/// Time without a word after which an endpoint is left for the next one.
const SHARE_MAX: Duration = Duration::from_secs(5);

/// How long one of so many endpoints may go on without a word, so that one that hangs leaves time for the others.
/// Each time that it was left for that (`hung`), twice as long: an answer may take long everywhere.
pub(crate) fn share(left: Duration, endpoints: usize, hung: u32) -> Duration {
    let parts = u32::try_from(endpoints.max(1)).unwrap_or(u32::MAX);
    let most = if parts > 1 { SHARE_MAX.saturating_mul(2u32.saturating_pow(hung)) } else { left };
    (left / parts).max(SHARE_MIN).min(most).min(left)
}

fn channel(endpoint: &str) -> Result<Channel, Failure> {
    let uri = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| {
        Failure::new(Code::Usage, format!("{endpoint:?} is not HOST:PORT")).why(error.to_string())
    })?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect_with_connector_lazy(Dialer))
}

/// Of what two endpoints said, what tells more. A node that has no quorum was reached and knows why; beside it the
/// silence of others is the cause, not the news.
pub(crate) fn telling(before: Option<Failure>, now: Failure) -> Failure {
    let tells = |failure: &Failure| match failure.code {
        Code::NoQuorum => 3,
        // A node's own words, which come with advice; of a connection there is none.
        _ if !failure.fix.is_empty() => 2,
        Code::Timeout => 1,
        _ => 0,
    };
    match before {
        Some(before) if tells(&before) > tells(&now) => before,
        _ => now,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_quorum_and_no_node_are_different_words_in_any_order() {
        let no_quorum =
            || Failure::new(Code::NoQuorum, "no quorum, nothing could be read").fix("use --stale");
        let refused = || Failure::new(Code::Unavailable, "the connection broke").why("connection refused");
        let busy = || Failure::new(Code::Unavailable, "it is being published").fix("repeat");
        let silent = || Failure::new(Code::Timeout, "no answer").why("no answer in time");
        let said = |all: [Failure; 3]| {
            let last = all.into_iter().fold(None, |last, failure| Some(telling(last, failure)));
            unavailable("list epochs", &BTreeMap::from([("a:1".into(), "x".into())]), last)
        };
        for all in [
            [no_quorum(), refused(), silent()],
            [refused(), no_quorum(), busy()],
            [busy(), refused(), no_quorum()],
        ] {
            let failure = said(all);
            assert_eq!(
                (failure.code, failure.sentence.as_str()),
                (Code::NoQuorum, "no quorum, nothing could be read")
            );
            assert!(failure.fix.contains("--stale"), "{failure:?}");
        }
        assert_eq!(said([busy(), refused(), silent()]).sentence, "it is being published");
        assert_eq!(said([refused(), silent(), refused()]).code, Code::Timeout);
        let nobody = said([refused(), refused(), refused()]);
        assert_eq!(
            (nobody.code, nobody.sentence.as_str()),
            (Code::Unavailable, "no node of the cluster could be reached")
        );
    }

    #[tokio::test]
    async fn a_look_ends_when_nobody_listens_and_a_change_waits() {
        let nobody = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let client = |timeout| Client::new([nobody(), nobody()], Options { timeout });
        let (began, long) = (Instant::now(), Duration::from_secs(600));
        let failure = client(long).list(pb::ListRequest::default()).await.unwrap_err();
        assert_eq!(failure.code, Code::Unavailable, "{failure:?}");
        assert!(began.elapsed() < long / 2, "it waited for nobody");
        let (began, time) = (Instant::now(), 2 * REFUSED_PATIENCE);
        let failure = client(time).remove_job(pb::RemoveJobRequest::default()).await.unwrap_err();
        assert_eq!(failure.code, Code::Unavailable, "{failure:?}");
        assert!(began.elapsed() >= time - 2 * ROUND_PAUSE, "a node that starts again would have been missed");
    }

    #[test]
    fn one_endpoint_gets_a_share_and_the_only_one_all() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(30), 3, 0), seconds(5));
        assert_eq!(share(seconds(30), 3, 1), seconds(10));
        assert_eq!(share(seconds(12), 3, 0), seconds(4));
        assert_eq!(share(seconds(2), 3, 0), seconds(2));
        assert_eq!(share(seconds(30), 1, 0), seconds(30));
        assert_eq!(share(seconds(3600), 2, 40), seconds(1800));
    }
}
