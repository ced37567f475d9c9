//! `docs/api.md` as somebody reads it who has nothing but the messages: its names are those of the API, and who does what
//! it says commits a directory and gets it back.

use std::collections::BTreeSet;

use crate::support::{Node, port};
use checkpoint::Digest;
use checkpoint::digest::content;
use client::pb;
use pb::commit_reply::Kind as Reply;
use pb::commit_request::Kind as Request;
use pb::epochlog_client::EpochlogClient;
use pb::fetch_reply::Kind as Fetched;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const PAGE: &str = include_str!("../../docs/api.md");

/// A descriptor set as far as names go: fields of no interest are passed over.
#[derive(Clone, PartialEq, Message)]
struct Descriptors {
    #[prost(message, repeated, tag = "1")]
    files: Vec<DescribedFile>,
}

#[derive(Clone, PartialEq, Message)]
struct DescribedFile {
    #[prost(message, repeated, tag = "4")]
    messages: Vec<DescribedMessage>,
    #[prost(message, repeated, tag = "5")]
    enums: Vec<DescribedList>,
    #[prost(message, repeated, tag = "6")]
    services: Vec<DescribedList>,
}

/// A message: its own name, and those of its fields.
#[derive(Clone, PartialEq, Message)]
struct DescribedMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<Named>,
}

/// An enum or a service: the names of its values or calls.
#[derive(Clone, PartialEq, Message)]
struct DescribedList {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    members: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[test]
fn every_name_of_the_page_is_one_of_the_api() {
    let set = Descriptors::decode(pb::DESCRIPTORS).unwrap();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for file in set.files {
        for message in file.messages {
            known.insert(message.name);
            known.extend(message.fields.into_iter().map(|field| field.name));
        }
        for list in file.enums.into_iter().chain(file.services) {
            known.insert(list.name);
            known.extend(list.members.into_iter().map(|member| member.name));
        }
    }
    // Codes are texts on the wire.
    let codes = ["NoQuorum", "Unavailable", "Busy", "NotFound"];
    assert!(codes.into_iter().all(|code| client::Code::from_name(code).name() == code));
    known.extend(codes.map(str::to_owned));
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    let of_the_command = ["restore"];
    let words = PAGE.split('`').skip(1).step_by(2).filter(is_name);
    let words: BTreeSet<&str> = words.filter(|word| !word.ends_with(".proto")).collect();
    assert!(words.len() > 40, "{words:?}");
    for word in words.into_iter().filter(|word| !of_the_command.contains(word)) {
        for part in word.split('.') {
            assert!(known.contains(part), "there is no {part} in the API: {word}");
        }
    }
    // Each call is told of.
    for call in ["Commit", "OpenWriter", "Reached", "List", "Show", "Expire", "Attempts", "Abort"] {
        assert!(PAGE.contains(&format!("`{call}`")), "{call}");
    }
}

/// A directory by hand: path, and content of a file.
const TREE: [(&str, Option<&[u8]>); 4] =
    [("", None), ("a", None), ("a/empty", Some(b"")), ("b", Some(b"some bytes"))];

/// Kind, mode and path as plan digest and tree have them (`format.md`).
fn line(path: &str, content: Option<&[u8]>) -> Vec<u8> {
    let (kind, mode) = if content.is_some() { (b'f', 0o644_u16) } else { (b'd', 0o755) };
    [&[kind][..], &mode.to_le_bytes(), &(path.len() as u16).to_le_bytes(), path.as_bytes()].concat()
}

fn size(content: &[u8]) -> [u8; 8] {
    (content.len() as u64).to_le_bytes()
}

fn tree() -> Vec<u8> {
    let mut tree = [&b"epochlog tree 1\n"[..], &(TREE.len() as u32).to_le_bytes()].concat();
    for (path, file) in TREE {
        tree.extend(line(path, file));
        if let Some(bytes) = file {
            tree.extend(size(bytes));
            tree.extend(content(bytes).as_bytes());
        }
    }
    tree
}

fn plan_digest() -> Digest {
    TREE.iter().fold(content(b"epochlog plan 2\n"), |so_far, (path, file)| {
        let size = file.map_or_else(Vec::new, |bytes| size(bytes).to_vec());
        content(&[&so_far.as_bytes()[..], &line(path, *file), &size].concat())
    })
}

/// What is sent, in the order of the page.
fn requests(born: u64) -> Vec<Request> {
    let bytes = TREE[3].1.unwrap();
    let start = pb::Start {
        job: "job".into(),
        commit_id: vec![7; 16].into(),
        born: Some(born),
        declared_bytes: bytes.len() as u64,
        plan_digest: plan_digest().as_bytes().to_vec().into(),
        plan_entries: TREE.len() as u32,
        plan_pages: 1,
        wait_ms: 20_000,
        wait: pb::Wait::All.into(),
        ..Default::default()
    };
    let entries = TREE.iter().map(|(path, file)| pb::PlanEntry {
        path: path.as_bytes().into(),
        kind: if file.is_some() { pb::EntryKind::File } else { pb::EntryKind::Directory }.into(),
        mode: if file.is_some() { 0o644 } else { 0o755 },
        size: file.map_or(0, |bytes| bytes.len() as u64),
        ..Default::default()
    });
    let packed = pb::PackedFile {
        file: 3,
        offset: 0,
        len: bytes.len() as u32,
        digest: content(bytes).as_bytes().to_vec().into(),
    };
    let pack = pb::Pack { files: vec![packed], payload: bytes.into() };
    vec![
        Request::Start(start),
        Request::Page(pb::PlanPage { page: 0, entries: entries.collect() }),
        Request::Piece(pb::Piece { kind: Some(pb::piece::Kind::Pack(pack)) }),
        Request::Seal(pb::Seal { root: content(&tree()).as_bytes().to_vec().into() }),
    ]
}

async fn commit(stub: &mut EpochlogClient<Channel>, born: u64) -> pb::Committed {
    let (send, requested) = mpsc::channel(8);
    for request in requests(born) {
        send.send(pb::CommitRequest { kind: Some(request) }).await.unwrap();
    }
    let mut replies = stub.commit(ReceiverStream::new(requested)).await.unwrap().into_inner();
    let mut committed = None;
    loop {
        match replies.message().await.unwrap().expect("an outcome").kind.unwrap() {
            Reply::Committed(done) => committed = Some(done),
            Reply::Published(published) => {
                assert!(published.missing.is_empty(), "{published:?}");
                return committed.unwrap();
            }
            Reply::Failed(failed) => panic!("{failed:?}"),
            _ => {}
        }
    }
}

async fn fetch(stub: &mut EpochlogClient<Channel>, request: pb::FetchRequest) -> Vec<Fetched> {
    let mut replies = stub.fetch(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        all.extend(reply.kind.filter(|kind| !matches!(kind, Fetched::Working(_))));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_what_the_page_says_commits_and_gets_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    let mut stub = EpochlogClient::connect(format!("http://{}", node.endpoint)).await.unwrap();
    let born = stub.reached(pb::ReachedRequest { current: true }).await.unwrap().into_inner().applied;
    let first = commit(&mut stub, born).await;
    assert_eq!((first.epoch, first.already), (1, false));
    // The very same again.
    let again = commit(&mut stub, born).await;
    assert_eq!((again.epoch, again.already, &again.root), (1, true, &first.root));

    let wanted = pb::FetchRequest { job: "job".into(), ..Default::default() };
    let told = fetch(&mut stub, wanted.clone()).await;
    let Some(Fetched::Head(head)) = told.first() else { panic!("{told:?}") };
    let parts = told[1..].iter().map(|kind| match kind {
        Fetched::Manifest(part) => part.to_vec(),
        other => panic!("{other:?}"),
    });
    let manifest = parts.collect::<Vec<_>>().concat();
    assert_eq!(manifest, tree());
    assert_eq!(head.root, content(&manifest).as_bytes()[..]);
    let exactly = pb::Which { kind: Some(pb::which::Kind::Exactly(head.epoch)) };
    let sent = fetch(&mut stub, pb::FetchRequest { which: Some(exactly), content: true, ..wanted }).await;
    let [Fetched::Chunk(chunk)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((chunk.file, chunk.offset, &chunk.payload[..]), (3, 0, TREE[3].1.unwrap()));
    assert_eq!(chunk.digest, content(&chunk.payload).as_bytes()[..]);

    // To repeat it does no harm.
    let expire = pb::ExpireRequest { job: "job".into(), epochs: vec![1], ..Default::default() };
    for _ in 0..2 {
        stub.expire(expire.clone()).await.unwrap();
    }
    let status = stub.show(pb::ShowRequest { job: "job".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(client::Failure::from_status(&status).code, client::Code::NotFound, "{status:?}");
}
