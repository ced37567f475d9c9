//! The bulk connection: openraft's append stream as a bidirectional tonic stream.
//!
//! Requests leave as fast as the windows allow, answers come in order when the follower has
//! flushed. There is no deadline on the stream: a stream that has something unanswered, hears nothing
//! and carries nothing for [`Peers::append_stall`](super::peers::Peers::append_stall) is cut. A hung follower
//! would otherwise hold back the log for ever (a dead one does not). So would an entry whose payload nobody has: its
//! stream fails, so that openraft lets go of the log, which can be purged then, and sends a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::errors::RPCError;
use openraft::network::{NetStreamAppend, RPCOption};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Network, Purpose, REFUSED_ENTRY, control, convert, unreachable};
use crate::agreement::Agreement;
use crate::config::MESSAGE_BYTES_MAX;
use crate::identity::Check;
use crate::intake::Heard;
use crate::network::peers::Lane;
use crate::terms;
use crate::types::{Command, TypeConfig};

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;
type Opening<'s> = futures::future::BoxFuture<'s, Result<Answers<'s>, RPCError<TypeConfig>>>;

/// Requests of up to 1 MiB between openraft and the connection.
const AHEAD: usize = 2;

impl NetStreamAppend<TypeConfig> for Network {
    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> Opening<'s>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.purpose == Purpose::Heartbeats {
            self.heartbeat_each(input, option)
        } else {
            Box::pin(self.open(input))
        }
    }
}

impl Network {
    /// Heartbeats come one at a time. openraft bounds each by the heartbeat interval itself.
    fn heartbeat_each<'s, S>(&'s mut self, input: S, option: RPCOption) -> Opening<'s>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let network: &'s Network = self;
        let answers = input.then(move |request| control::heartbeat(network, request, option.hard_ttl()));
        Box::pin(async move { Ok(answers.boxed()) })
    }

    async fn open<'s, S>(&'s mut self, input: S) -> Result<Answers<'s>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let target = self.target;
        let failed = |status: Status| unreachable(target, &status);
        if self.peers.is_hushed() {
            return Err(failed(control::quiet()));
        }
        let mut client = self.peers.client(target, &self.address, Lane::Bulk, Check::Full).map_err(failed)?;
        let sent = Arc::new(AtomicU64::new(0));
        let (requests, outgoing) = mpsc::channel(AHEAD);
        let (lost, lacks) = mpsc::channel(1);
        let pump = Pump::start(input, requests, sent.clone(), lost);
        let opening =
            client.stream_append(uncopied::request(ReceiverStream::new(outgoing), MESSAGE_BYTES_MAX));
        // Connecting has its own timeout; a peer that takes the connection and no call is hung.
        let patience = self.peers.connect_timeout() + self.peers.append_stall();
        let opened = tokio::time::timeout(patience, opening).await;
        let replies = opened
            .map_err(|_| failed(Status::deadline_exceeded("the append stream does not open")))?
            .map_err(failed)?
            .into_inner();
        let stall = self.peers.append_stall();
        let heard = self.heard.clone();
        let state = Reading {
            replies,
            pump,
            lacks,
            sent,
            answered: 0,
            done: false,
            target,
            heard: heard.clone(),
            agreement: self.agreement.clone(),
        };
        let state = (state, heard, self.peers.clone());
        Ok(futures::stream::unfold(state, move |(mut state, heard, peers)| async move {
            if state.done {
                return None;
            }
            let next = tokio::select! {
                next = state.next(stall, || peers.carried(target)) => next?,
                () = peers.hushed() => Err(control::quiet()),
            };
            match &next {
                Ok(_) => peers.reach().answered(target),
                Err(status) if status.code() == Code::ResourceExhausted => {
                    heard.is_short(target, status.message());
                }
                Err(status) => {
                    if let Some(index) = refused_entry(status) {
                        heard.refuses(target, index, status.message());
                    }
                }
            }
            let next = next.map_err(|status| unreachable(target, &status));
            state.done = !matches!(next, Ok(Ok(_)));
            Some((next, (state, heard, peers)))
        })
        .boxed())
    }
}

/// The entry that a follower can never take.
fn refused_entry(status: &Status) -> Option<u64> {
    let index = status.metadata().get(REFUSED_ENTRY)?;
    index.to_str().ok()?.parse().ok().filter(|_| status.code() == Code::InvalidArgument)
}

/// Moves requests from openraft to the connection. Ends, and lets go of openraft's stream, as soon
/// as it is dropped: the next stream waits for that.
struct Pump(tokio::task::JoinHandle<()>);

impl Pump {
    fn start<S>(
        mut input: S,
        requests: mpsc::Sender<crate::proto::AppendRequest>,
        sent: Arc<AtomicU64>,
        lost: mpsc::Sender<u64>,
    ) -> Pump
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Pump(tokio::spawn(async move {
            while let Some(request) = input.next().await {
                if let Some(index) = lacks_payload(&request) {
                    let _ = lost.send(index).await;
                    break;
                }
                sent.fetch_add(1, Ordering::Relaxed);
                if requests.send(convert::put_append(request)).await.is_err() {
                    break;
                }
            }
        }))
    }
}

/// The entry that came without its payload, because nobody has it.
fn lacks_payload(request: &AppendEntriesRequest<TypeConfig>) -> Option<u64> {
    let lacks = request.entries.iter().find(|entry| match &entry.payload {
        EntryPayload::Normal(Command(record)) => record.payload.len() as u64 != record.header.payload_bytes,
        EntryPayload::Blank | EntryPayload::Membership(_) => false,
    });
    lacks.map(|entry| entry.log_id.index)
}

fn nobody_has(index: u64) -> Status {
    Status::data_loss(format!("nobody has the payload of entry {index}"))
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Reading {
    replies: tonic::Streaming<crate::proto::AppendReply>,
    #[expect(dead_code, reason = "dropping it ends the pump")]
    pump: Pump,
    /// The entry that cannot be sent.
    lacks: mpsc::Receiver<u64>,
    sent: Arc<AtomicU64>,
    answered: u64,
    done: bool,
    target: u64,
    heard: Arc<Heard>,
    agreement: Arc<Agreement>,
}

impl Reading {
    /// The next answer. Silence is fine while nothing is outstanding, and while bytes are still being carried: a
    /// chunk takes its time on a thin link.
    async fn next(
        &mut self,
        stall: std::time::Duration,
        carried: impl Fn() -> u64,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, Status>> {
        loop {
            let before = carried();
            let outstanding = self.sent.load(Ordering::Relaxed) > self.answered;
            let reply = tokio::select! {
                biased;
                reply = tokio::time::timeout(stall, self.replies.message()) => reply,
                // What was sent before it counts first.
                Some(index) = self.lacks.recv(), if !outstanding => return Some(Err(nobody_has(index))),
            };
            match reply {
                Ok(Ok(Some(reply))) => {
                    self.answered += 1;
                    self.heard.is_behind(self.target, reply.behind);
                    let in_reach = terms::in_reach(self.agreement.term(), terms::of_appended(&reply));
                    return Some(in_reach.and(convert::take_appended(&reply)).map_err(Status::data_loss));
                }
                // The peer has answered all that came, and no more does.
                Ok(Ok(None)) => return self.lacks.try_recv().ok().map(|index| Err(nobody_has(index))),
                Ok(Err(status)) => return Some(Err(status)),
                Err(_) if outstanding && carried() == before => {
                    let why = format!("entries are outstanding and there was no answer for {stall:?}");
                    return Some(Err(Status::deadline_exceeded(why)));
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nativelog::store::Vote;

    use super::*;
    use crate::config::ReplicaConfig;
    use crate::identity::Known;
    use crate::network::greeting;
    use crate::network::peers::Peers;
    use crate::secret::Secret;
    use crate::types::raft_vote;

    #[tokio::test]
    async fn a_peer_that_takes_the_connection_and_says_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let of = |node: u64| {
            let secret = Secret::of("a secret of tests, which everybody may know").unwrap();
            ReplicaConfig { secret, ..ReplicaConfig::new(node, [node as u8; 16], "c", vec![]) }
        };
        let there = Known::new(&of(2));
        let hung = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                greeting::answer(&there, &mut connection).await.unwrap();
                held.push(connection);
            }
        });
        let mut config = of(1);
        config.connect_timeout = Duration::from_millis(200);
        config.append_stall = Duration::from_millis(200);
        let peers = Peers::new(&config, Known::new(&config));
        let dir = tempfile::tempdir().unwrap();
        let agreement = Agreement::of_an_empty_log(1, dir.path());
        let mut network =
            Network { peers, heard: Arc::default(), agreement, target: 2, address, purpose: Purpose::Log };
        let request = AppendEntriesRequest {
            vote: raft_vote(Vote { term: 1, node: 1, committed: true }),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        };
        let requests = futures::stream::iter([request]).chain(futures::stream::pending());
        let began = Instant::now();
        let opened = network.stream_append(Box::pin(requests), RPCOption::new(Duration::from_secs(60))).await;
        let error = match opened {
            Err(error) => error,
            Ok(mut answers) => answers.next().await.expect("an answer").expect_err("it is silent"),
        };
        assert!(matches!(error, RPCError::Unreachable(_)), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        hung.abort();
    }
}
