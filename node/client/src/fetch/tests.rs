//! Nodes that send what does not verify, and how many calls a restore takes.

use std::sync::{Arc, Mutex};

use checkpoint::restore::{Pattern, RestoreError, RestoreOptions, Restored, SourceError, restore};
use checkpoint::split::digest_dir;
use checkpoint::{Limits, Manifest};
use tonic::Status;

use super::*;
use crate::connect::Options;
use crate::pb::fetch_reply::Kind;
use crate::testing::{self, Answers, Served};
use crate::wire;

/// Sends the files of a directory; damaged, with digests to fit, unless it is asked for the copy of another node.
#[derive(Clone)]
struct Sender {
    dir: Arc<std::path::PathBuf>,
    manifest: Arc<Manifest>,
    damaged: bool,
    /// Whoever is asked first sends one chunk; after that this is all that there is.
    ends: Option<Code>,
    asked: Arc<Mutex<Vec<pb::FetchRequest>>>,
}

impl Sender {
    fn chunks(&self, request: &pb::FetchRequest) -> Vec<Result<pb::FetchReply, Status>> {
        let mut chunks = Vec::new();
        if !request.content {
            let head = pb::Head { root: wire::digest(&self.manifest.root()), ..pb::Head::default() };
            let parts = [Kind::Head(head), Kind::Manifest(self.manifest.encode().into())];
            return parts.map(|kind| Ok(pb::FetchReply { kind: Some(kind) })).into();
        }
        for index in request.files.iter().flat_map(|range| range.from..range.to) {
            let entry = &self.manifest.entries[index as usize];
            if entry.size == 0 {
                continue;
            }
            let mut payload = std::fs::read(self.dir.join(entry.path.as_os_str())).unwrap();
            if self.damaged && !request.elsewhere {
                payload[0] ^= 1;
            }
            let digest = checkpoint::digest::content(&payload);
            let chunk = pb::FileChunk {
                file: index,
                offset: 0,
                digest: wire::digest(&digest),
                payload: payload.into(),
                zeros: 0,
            };
            chunks.push(Ok(pb::FetchReply { kind: Some(Kind::Chunk(chunk)) }));
        }
        chunks
    }
}

impl Served for Sender {
    fn fetch(&self, request: pb::FetchRequest) -> Result<Answers<pb::FetchReply>, Status> {
        let mut chunks = self.chunks(&request);
        let mut asked = self.asked.lock().unwrap();
        if let Some(code) = self.ends {
            chunks.truncate(usize::from(asked.is_empty()));
            let failed = Failure::new(code, "it ends").why("of this").to_pb();
            chunks.push(Ok(pb::FetchReply { kind: Some(Kind::Failed(failed)) }));
        }
        asked.push(request);
        drop(asked);
        Ok(Box::pin(tokio_stream::iter(chunks)))
    }
}

fn client(endpoints: &[String]) -> Arc<Client> {
    Arc::new(Client::new(endpoints.to_vec(), Options { timeout: Duration::from_secs(10) }))
}

/// Some nodes, and what they have to send.
struct Site {
    scratch: tempfile::TempDir,
    manifest: Arc<Manifest>,
    endpoints: Vec<String>,
    asked: Arc<Mutex<Vec<pb::FetchRequest>>>,
}

impl Site {
    /// A node for each: whether it is damaged.
    async fn new(damaged: &[bool]) -> Site {
        Site::of(damaged.iter().map(|damaged| (*damaged, None))).await
    }

    /// A node for each: whether it is damaged, and what it ends with.
    async fn of(nodes: impl IntoIterator<Item = (bool, Option<Code>)>) -> Site {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("source");
        std::fs::create_dir(&source).unwrap();
        for n in 100..200 {
            std::fs::write(source.join(n.to_string()), n.to_string()).unwrap();
        }
        let manifest = Arc::new(digest_dir(&source, &Limits::default()).unwrap());
        let (asked, dir) = (Arc::<Mutex<Vec<pb::FetchRequest>>>::default(), Arc::new(source));
        let mut endpoints = Vec::new();
        for (damaged, ends) in nodes {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            endpoints.push(listener.local_addr().unwrap().to_string());
            let (dir, manifest, asked) = (dir.clone(), manifest.clone(), asked.clone());
            testing::serve(Sender { dir, manifest, damaged, ends, asked }, listener);
        }
        Site { scratch, manifest, endpoints, asked }
    }

    /// What all of its nodes have.
    fn fetched(&self) -> Fetched {
        let head = pb::Head { job: "job".into(), epoch: 1, ..pb::Head::default() };
        Fetched { head, manifest: (*self.manifest).clone(), endpoint: String::new() }
    }

    fn restore(&self, to: &str, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        let mut content = ReplicaContent::new(client(&self.endpoints), &self.fetched());
        content.end_with(&options.stop);
        let to = self.scratch.path().join(to);
        tokio::task::block_in_place(|| restore(&self.manifest, &to, options, &mut content, &|_| {}))
    }

    fn root(&self, of: &str) -> checkpoint::Digest {
        digest_dir(&self.scratch.path().join(of), &Limits::default()).unwrap().root()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_verify_is_fetched_from_another_replica() {
    for damaged in [&[true, false][..], &[true], &[true, true, false]] {
        let site = Site::new(damaged).await;
        let done = site.restore("to", &RestoreOptions::default());
        assert_eq!(done.unwrap_or_else(|e| panic!("{damaged:?}: {e}")).files, 100);
        assert_eq!(site.root("to"), site.root("source"), "{damaged:?}");
    }
}

#[tokio::test]
async fn one_thread_reads_from_several_replicas_at_once() {
    let site = Site::new(&[false, false]).await;
    let entries = &site.manifest.entries;
    let middle = entries.len() / 2;
    // Each its half, of its own node.
    let half = async |endpoint: usize, half: std::ops::Range<usize>| {
        let one = client(&site.endpoints[endpoint..=endpoint]);
        let mut content = EpochContent::new(one, &site.fetched());
        content.expect(std::slice::from_ref(&half));
        let mut read = Vec::new();
        for index in half.filter(|index| entries[*index].size > 0) {
            let chunk = content.read(index, 0, entries[index].size).await.unwrap();
            assert_eq!(checkpoint::digest::content(&chunk.payload), entries[index].digest);
            read.push(index);
        }
        read
    };
    let (first, second) = tokio::join!(half(0, 0..middle), half(1, middle..entries.len()));
    assert_eq!(first.len() + second.len(), 100);
    assert_eq!(site.asked.lock().unwrap().len(), 2, "one call for each half");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_fetched_by_one_call() {
    let site = Site::new(&[false]).await;
    // Every other file.
    let only = (100..200).step_by(2).map(|n| Pattern::new(n.to_string().as_bytes())).collect();
    let options = RestoreOptions { only: Some(only), ..RestoreOptions::default() };
    assert_eq!(site.restore("part", &options).unwrap().files, 50);
    let asked = site.asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "one call for all ranges");
    assert_eq!(asked[0].files.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nothing_is_not_waited_for_once_the_restore_shall_end() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut site = Site::new(&[false]).await;
    site.endpoints = vec![mute.local_addr().unwrap().to_string()];
    let options = RestoreOptions::default();
    let stop = options.stop.clone();
    let stopper = tokio::spawn(async move {
        let connection = mute.accept().await;
        stop.set();
        connection
    });
    let started = Instant::now();
    assert!(matches!(site.restore("to", &options), Err(RestoreError::Stopped)));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(std::fs::read_dir(site.scratch.path()).unwrap().count(), 1, "nothing but the source is there");
    drop(stopper);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_is_removed_while_it_is_restored_is_not_found_and_one_that_may_be_somewhere_is() {
    use Code::{NotFound, Unavailable};
    for (nodes, code, sentence) in [
        ([NotFound, NotFound], NotFound, "the epoch was removed meanwhile"),
        // Whether it is there still, that one may know.
        ([NotFound, Unavailable], Unavailable, "no node gave the content"),
    ] {
        let site = Site::of(nodes.map(|ends| (false, Some(ends)))).await;
        let error = site.restore("to", &RestoreOptions::default()).unwrap_err();
        let RestoreError::Source { source: SourceError::Failed(failure), .. } = error else {
            panic!("{nodes:?}: {error:?}");
        };
        let failure = failure.downcast::<Failure>().unwrap();
        assert_eq!((failure.code, failure.sentence.as_str()), (code, sentence), "{failure:?}");
        assert!(site.asked.lock().unwrap().len() > 2, "each was asked, one of them after its chunk");
        assert!(!site.scratch.path().join("to").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_waits_no_longer_than_its_share_for_a_node_that_says_nothing() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::new(&[false]).await;
    let endpoints = [mute.local_addr().unwrap().to_string(), site.endpoints[0].clone()];
    let client = Client::new(endpoints, Options { timeout: Duration::from_secs(60) });
    let manifest = client.manifest("job", pb::Which::default(), false);
    let fetched = tokio::time::timeout(Duration::from_secs(8), manifest).await.expect("in time").unwrap();
    assert_eq!((fetched.manifest.root(), &fetched.endpoint), (site.manifest.root(), &site.endpoints[0]));
}
