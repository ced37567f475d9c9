//! What a commit is told when nobody can be asked, and when nodes break off, hang or refuse at the wrong moment.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use checkpoint::JobName;
use checkpoint::pattern::{Choice, Pattern};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::*;
use crate::connect::Options;
use crate::neighbour;
use crate::pb::commit_reply::Kind as Reply;
use crate::testing::{self, Answers, Served};

/// Nobody listens there.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn committed(born: Option<u64>) -> (Failure, Failure) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { timeout: Duration::from_millis(300) };
    let client = Client::new(vec![nobody().await], options);
    let commit = || Commit { born, ..Commit::new(JobName::try_from("job").unwrap()) };
    let asked = client.commit(dir.path(), commit(), &|_| {}).await.unwrap_err();
    let stopped = client.commit_until(dir.path(), commit(), &|_| {}, std::future::ready(()));
    (asked, stopped.await.unwrap_err())
}

#[tokio::test]
async fn a_new_commit_that_reached_nobody_is_not_committed() {
    let (asked, stopped) = committed(None).await;
    assert_eq!(asked.committed, Certainty::No, "{asked}");
    assert_eq!(stopped.committed, Certainty::No, "{stopped}");
}

#[tokio::test]
async fn a_repeat_that_reached_nobody_is_unknown() {
    let (asked, stopped) = committed(Some(7)).await;
    assert_eq!((asked.code, asked.committed), (Code::Timeout, Certainty::Unknown), "{asked}");
    assert_eq!(stopped.committed, Certainty::Unknown, "{stopped}");
    // Not even when its directory is gone.
    let client = Client::new(vec![nobody().await], Options::default());
    let commit = Commit { born: Some(7), ..Commit::new(JobName::try_from("job").unwrap()) };
    let gone = client.commit(Path::new("/nowhere/at/all"), commit, &|_| {}).await.unwrap_err();
    assert_eq!(gone.committed, Certainty::Unknown, "{gone}");
}

/// What a node says to one call of Commit; then it breaks off, or hangs.
#[derive(Default)]
struct Act {
    says: Vec<Reply>,
    /// It hangs; this goes when its client goes.
    hangs: Option<oneshot::Sender<()>>,
}

fn says<const N: usize>(says: [Reply; N]) -> Act {
    Act { says: says.into(), hangs: None }
}

/// A node that has learned what to say.
#[derive(Clone, Default)]
struct Actor {
    acts: Arc<Mutex<VecDeque<Act>>>,
    starts: Arc<Mutex<Vec<pb::Start>>>,
    /// What it says to the calls of Expire; then it breaks off.
    expires: Arc<Mutex<VecDeque<Failure>>>,
}

impl Actor {
    fn new<const N: usize>(acts: [Act; N]) -> Actor {
        Actor { acts: Arc::new(Mutex::new(acts.into())), ..Actor::default() }
    }

    async fn endpoint(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let socket = neighbour::listen(listener.local_addr().unwrap().port()).unwrap();
        testing::serve(self.clone(), listener);
        // It takes every directory; ends with the process.
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                neighbour::serve(stream.unwrap(), |_| neighbour::Answer::Kept).unwrap();
            }
        });
        endpoint
    }

    fn starts(&self) -> Vec<pb::Start> {
        self.starts.lock().unwrap().clone()
    }
}

impl Served for Actor {
    async fn commit(
        &self,
        mut requests: Streaming<pb::CommitRequest>,
    ) -> Result<Answers<pb::CommitReply>, Status> {
        let first = requests.message().await?.and_then(|first| first.kind);
        let Some(pb::commit_request::Kind::Start(start)) = first else {
            return Err(Status::invalid_argument("the first message is no Start"));
        };
        self.starts.lock().unwrap().push(start);
        tokio::spawn(async move { while let Ok(Some(_)) = requests.message().await {} });
        let Act { says, hangs } = self.acts.lock().unwrap().pop_front().unwrap_or_default();
        let says = tokio_stream::iter(says).map(|kind| Ok(pb::CommitReply { kind: Some(kind) }));
        let answers: Answers<pb::CommitReply> = match hangs {
            None => Box::pin(says),
            Some(goes) => Box::pin(says.chain(tokio_stream::pending()).map(move |reply| {
                let _goes = &goes;
                reply
            })),
        };
        Ok(answers)
    }

    fn reached(&self) -> Result<pb::ReachedReply, Status> {
        Ok(pb::ReachedReply { applied: 7 })
    }

    fn list(&self) -> Result<pb::ListReply, Status> {
        Ok(pb::ListReply::default())
    }

    fn expire(&self) -> Result<pb::ExpireReply, Status> {
        let says = self.expires.lock().unwrap().pop_front();
        Err(says.map_or_else(|| Status::unavailable("broken off"), |failure| failure.to_status()))
    }
}

fn planned(captured: pb::Captured) -> Reply {
    Reply::Planned(pb::Planned { captured: captured.into(), ..pb::Planned::default() })
}

fn opened(epoch: u64) -> Reply {
    Reply::Opened(pb::Opened { attempt: 1, epoch, ..pb::Opened::default() })
}

fn failed(code: Code, committed: Certainty) -> Reply {
    Reply::Failed(Failure::new(code, "it says no").why("of this").committed(committed).to_pb())
}

fn stream_it() -> Reply {
    Reply::StreamIt(pb::StreamIt { why: "permission denied".into() })
}

fn done() -> Act {
    says([Reply::Committed(pb::Committed::default())])
}

/// A commit of an empty directory at these nodes.
async fn commit_at(nodes: &[&Actor], epoch: Option<u64>) -> Result<Done, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let mut endpoints = Vec::new();
    for node in nodes {
        endpoints.push(node.endpoint().await);
    }
    let client = Client::new(endpoints, Options { timeout: Duration::from_secs(3) });
    let commit = Commit { epoch, ..Commit::new(JobName::try_from("job").unwrap()) };
    client.commit(dir.path(), commit, &|_| {}).await
}

#[tokio::test]
async fn a_commit_ends_with_the_node_that_held_its_directory_captured() {
    use Certainty::{No, Unknown};
    use pb::Captured::{Cloned, InPlace, Linked};
    let (goes, _client_is_there) = oneshot::channel();
    let hanging = Act { says: vec![planned(Cloned), opened(5)], hangs: Some(goes) };
    for (first, committed) in [
        (says([planned(Cloned)]), Unknown),
        (says([planned(Linked), opened(5)]), Unknown),
        (hanging, Unknown),
        (says([planned(Cloned), opened(5), failed(Code::NoQuorum, No)]), No),
        (says([planned(Cloned), failed(Code::Unavailable, No)]), No),
        (says([planned(Cloned), failed(Code::Timeout, Unknown)]), Unknown),
        (says([planned(Linked), opened(5), stream_it()]), No),
        // Its id is new, whatever the node knows.
        (says([planned(Cloned), failed(Code::TooOld, Unknown)]), No),
    ] {
        let said = format!("{:?}, hangs: {}", first.says, first.hangs.is_some());
        // Whoever read the directory now would have what the program has made of it meanwhile.
        let (one, other) = (Actor::new([first, done()]), Actor::new([done()]));
        let failure = commit_at(&[&one, &other], None).await.unwrap_err();
        assert_eq!(failure.committed, committed, "{said}: {failure:?}");
        assert!(failure.why.contains("the capture went with it"), "{said}: {failure:?}");
        assert_eq!((one.starts().len(), other.starts().len()), (1, 0), "{said}");
        // What is unknown is asked for again; what is not there is committed anew, as the next epoch.
        assert_eq!(failure.fix.contains("--commit-id"), committed == Unknown, "{said}: {failure:?}");
        assert!(committed == Unknown || !failure.fix.contains("--epoch"), "{said}: {failure:?}");
    }
    // Read in place it is left alone until there is an answer, and another node may read it.
    let (one, other) = (Actor::new([says([planned(InPlace), opened(5)])]), Actor::new([done()]));
    commit_at(&[&one, &other], None).await.unwrap();
    assert_eq!((one.starts().len(), other.starts().len()), (1, 1));
}

#[tokio::test]
async fn a_commit_that_is_streamed_in_the_end_asks_for_the_epoch_that_its_caller_gave() {
    for asked in [None, Some(9)] {
        let first = says([planned(pb::Captured::InPlace), opened(9), stream_it()]);
        let node = Actor::new([first, done()]);
        commit_at(&[&node], asked).await.unwrap();
        let starts = node.starts();
        assert_eq!(starts.len(), 2);
        assert!(!starts[0].handed.is_empty() && starts[1].handed.is_empty());
        // Number 9 was given up, and may be another's by now.
        assert_eq!((starts[0].epoch, starts[1].epoch), (asked, asked));
    }
}

#[test]
fn what_is_stopped_before_it_is_streamed_is_not_committed() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    // The scan does not come to its turn.
    let (free, wait) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || wait.recv());
    let failure = runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (goes, gone) = oneshot::channel();
        let node = Actor::new([Act { says: vec![stream_it()], hangs: Some(goes) }]);
        let client = Client::new([node.endpoint().await], Options::default());
        let commit = Commit::new(JobName::try_from("job").unwrap());
        // Once the client has heard it, and has left that call.
        let stop = async { drop(gone.await) };
        client.commit_until(dir.path(), commit, &|_| {}, stop).await.unwrap_err()
    });
    assert_eq!((failure.code, failure.committed), (Code::Interrupted, Certainty::No), "{failure:?}");
    drop(free);
}

#[tokio::test]
async fn whoever_is_stopped_hears_that_a_node_still_reads_his_directory() {
    for by_path in [true, false] {
        let (goes, _client_is_there) = oneshot::channel();
        let node = Actor::new([Act { says: vec![planned(pb::Captured::InPlace)], hangs: Some(goes) }]);
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new([node.endpoint().await], Options::default());
        let commit = Commit { by_path, ..Commit::new(JobName::try_from("job").unwrap()) };
        let stop = async {
            while node.starts().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let failure = client.commit_until(dir.path(), commit, &|_| {}, stop).await.unwrap_err();
        assert_eq!(failure.code, Code::Interrupted, "{failure:?}");
        assert_eq!(failure.why.contains("goes on reading the directory"), by_path, "{failure:?}");
    }
}

#[tokio::test]
async fn a_pattern_that_no_command_can_repeat_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new([nobody().await], Options::default());
    let choice = Choice { exclude: vec![Pattern::new(b"a"), Pattern::new(b"\xff*")], ..Choice::default() };
    let commit = Commit { choice, ..Commit::new(JobName::try_from("job").unwrap()) };
    let failure = client.commit(dir.path(), commit, &|_| {}).await.unwrap_err();
    assert_eq!((failure.code, failure.committed), (Code::Usage, Certainty::No), "{failure:?}");
    assert!(failure.why.contains("UTF-8"), "{failure:?}");
}

#[tokio::test]
async fn an_endpoint_that_takes_the_connection_and_says_nothing_costs_its_share_of_the_time() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Actor::new([done()]);
    let endpoints = [mute.local_addr().unwrap().to_string(), node.endpoint().await];
    // Each anew: who was left for its silence once is asked last.
    let client = || Client::new(endpoints.clone(), Options { timeout: Duration::from_secs(60) });
    let dir = tempfile::tempdir().unwrap();
    let commit = Commit::new(JobName::try_from("job").unwrap());
    let (lists, commits) = (client(), client());
    let list = lists.list(pb::ListRequest::default());
    let commit = commits.commit(dir.path(), commit, &|_| {});
    let within = Duration::from_secs(8);
    let (listed, committed) =
        tokio::join!(tokio::time::timeout(within, list), tokio::time::timeout(within, commit));
    listed.expect("a list waits no longer for one that is silent").unwrap();
    committed.expect("nor does a commit").unwrap();
}

#[tokio::test]
async fn what_became_of_an_rm_whose_answer_was_lost_is_unknown_until_a_node_says_that_it_is_gone() {
    let gone = || Failure::new(Code::NotFound, "no such epoch");
    let no_quorum = || Failure::new(Code::NoQuorum, "no quorum");
    let expire = async |says: Vec<Failure>| {
        let node = Actor { expires: Arc::new(Mutex::new(says.into())), ..Actor::default() };
        let client = Client::new([node.endpoint().await], Options { timeout: Duration::from_secs(1) });
        let request = pb::ExpireRequest { job: "job".into(), epochs: vec![3, 4], ..Default::default() };
        client.expire(request).await
    };
    let unknown = expire(vec![]).await.unwrap_err();
    assert_eq!(unknown.code, Code::Timeout, "{unknown:?}");
    assert_eq!(unknown.sentence, "no answer, it is UNKNOWN whether it was removed");
    assert_eq!(unknown.what, "rm job@3 job@4");
    assert!(unknown.fix.contains("repeat the command"), "{unknown:?}");
    // A node that has no quorum has done nothing, and an earlier call needs no other answer than this.
    let no = expire(vec![no_quorum()]).await.unwrap_err();
    assert_eq!((no.code, no.sentence.as_str()), (Code::NoQuorum, "no quorum, nothing was removed"));
    let never = expire(vec![gone()]).await.unwrap_err();
    assert_eq!(never.code, Code::NotFound, "{never:?}");
    // The call whose answer was lost has done it.
    let broken = Failure::new(Code::Unavailable, "it stops");
    let removed = expire(vec![broken, gone()]).await.unwrap();
    assert_eq!(removed.epochs, [3, 4]);
}
