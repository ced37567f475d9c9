//! Well-formed commits with hostile content, made by hand from the public
//! messages: plans that no scan would give, pieces that no splitter would cut.

use checkpoint::digest::{content, subtree, zeros};
use client::pb;
use client::pb::commit_reply::Kind as Reply;
use client::pb::commit_request::Kind as Request;
use pb::piece::Kind as Piece;

/// Chunk size of a forged commit, in bytes.
const CHUNK_BYTES: u32 = 64 << 10;
/// Size of the one file of a forged commit with an honest plan.
const FILE_BYTES: u64 = 1 << 20;

/// How a forged commit ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With this reason.
    Refused(String),
    /// Whatever was accepted of it.
    Accepted(&'static str),
}

/// A commit that must not get through.
#[derive(Debug, Clone)]
pub(super) struct Forged {
    entries: Vec<pb::PlanEntry>,
    /// Sent once the attempt is open; a plan that is hostile itself must not get there.
    pieces: Option<Vec<Piece>>,
    handed: Option<client::neighbour::Ticket>,
    /// Changes Start at the end.
    lie: Lie,
}

/// A change to an honest Start.
type Lie = fn(&mut pb::Start);

fn honest(_: &mut pb::Start) {}

/// The id of what is forged as this epoch.
pub(super) fn commit_id(epoch: u64) -> checkpoint::CommitId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&epoch.to_be_bytes());
    id[8..].copy_from_slice(&epoch.to_be_bytes());
    checkpoint::CommitId::from_bytes(id)
}

impl Forged {
    /// A directory that was handed over and lies where it is not to be read.
    pub(super) fn handed(ticket: client::neighbour::Ticket) -> Forged {
        Forged { entries: Vec::new(), pieces: None, handed: Some(ticket), lie: honest }
    }

    fn plan(entries: Vec<pb::PlanEntry>) -> Forged {
        Forged { entries, pieces: None, handed: None, lie: honest }
    }

    fn pieces(pieces: Vec<Piece>) -> Forged {
        Forged {
            entries: vec![root(), file("f", FILE_BYTES)],
            pieces: Some(pieces),
            handed: None,
            lie: honest,
        }
    }

    /// Sends it and waits until it is refused, or does not look as if it would be.
    pub(super) async fn send(&self, endpoint: &str, job: &str, epoch: u64) -> Outcome {
        let mut stub = match pb::epochlog_client::EpochlogClient::connect(endpoint.to_owned()).await {
            Ok(stub) => stub,
            Err(error) => panic!("{endpoint} does not take connections: {error}"),
        };
        let mut start = pb::Start {
            job: job.to_owned(),
            epoch: Some(epoch),
            commit_id: commit_id(epoch).as_bytes().to_vec().into(),
            wait_ms: 10_000,
            handed: self.handed.map_or_else(Default::default, |ticket| ticket.to_vec().into()),
            declared_bytes: self.entries.iter().map(|entry| entry.size).fold(0, u64::saturating_add),
            plan_digest: digest_of(&self.entries).into(),
            plan_entries: u32::try_from(self.entries.len()).expect("forged plans are small"),
            plan_pages: u32::from(self.handed.is_none()),
            chunk_bytes: CHUNK_BYTES,
            ..pb::Start::default()
        };
        (self.lie)(&mut start);
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let say = async |kind| drop(sender.send(pb::CommitRequest { kind: Some(kind) }).await);
        say(Request::Start(start)).await;
        if self.handed.is_none() {
            say(Request::Page(pb::PlanPage { page: 0, entries: self.entries.clone() })).await;
            if self.pieces.is_none() {
                // What looks tiny is decided only with its seal.
                say(Request::Seal(pb::Seal { root: vec![7; 32].into() })).await;
            }
        }
        let mut replies = match stub.commit(tokio_stream::wrappers::ReceiverStream::new(receiver)).await {
            Ok(replies) => replies.into_inner(),
            Err(status) => return Outcome::Refused(status.to_string()),
        };
        loop {
            match replies.message().await {
                Err(status) => return Outcome::Refused(status.to_string()),
                Ok(None) => return Outcome::Refused("the node ended the stream".into()),
                Ok(Some(reply)) => match (reply.kind, &self.pieces) {
                    (Some(Reply::Failed(failed)), _) => return Outcome::Refused(format!("{failed:?}")),
                    (Some(Reply::StreamIt(why)), _) => return Outcome::Refused(why.why),
                    (Some(Reply::Committed(_)), _) => return Outcome::Accepted("committed"),
                    (Some(Reply::Opened(_)), None) => return Outcome::Accepted("an attempt was opened"),
                    (Some(Reply::Opened(_)), Some(pieces)) => {
                        for piece in pieces {
                            say(Request::Piece(pb::Piece { kind: Some(piece.clone()) })).await;
                        }
                        // Whatever became of the pieces: the seal must never be taken.
                        say(Request::Seal(pb::Seal { root: vec![7; 32].into() })).await;
                    }
                    _ => {}
                },
            }
        }
    }
}

/// Sends a message that takes little on the wire and hundreds of times that in memory: sub-messages without content.
pub(super) async fn send_swollen(endpoint: &str) -> Outcome {
    let stub = pb::epochlog_client::EpochlogClient::connect(endpoint.to_owned()).await;
    let mut stub = stub.expect("the node takes connections");
    let page = pb::PlanPage { page: 0, entries: vec![pb::PlanEntry::default(); 1_000_000] };
    let request = pb::CommitRequest { kind: Some(Request::Page(page)) };
    let replies = stub.commit(tokio_stream::iter([request])).await;
    match replies.expect("the call is opened").into_inner().message().await {
        Ok(Some(pb::CommitReply { kind: Some(Reply::Failed(failed)) })) => Outcome::Refused(failed.why),
        Err(status) => Outcome::Refused(status.to_string()),
        Ok(_) => Outcome::Accepted("it was decoded"),
    }
}

fn entry(path: &[u8], kind: pb::EntryKind, mode: u32, size: u64, target: &[u8]) -> pb::PlanEntry {
    pb::PlanEntry {
        path: path.to_vec().into(),
        kind: kind.into(),
        mode,
        size,
        target: target.to_vec().into(),
    }
}

fn root() -> pb::PlanEntry {
    entry(b"", pb::EntryKind::Directory, 0o755, 0, b"")
}

fn file(path: impl AsRef<[u8]>, size: u64) -> pb::PlanEntry {
    entry(path.as_ref(), pb::EntryKind::File, 0o644, size, b"")
}

fn directory(path: &str) -> pb::PlanEntry {
    entry(path.as_bytes(), pb::EntryKind::Directory, 0o755, 0, b"")
}

fn link(path: &str, target: &[u8]) -> pb::PlanEntry {
    entry(path.as_bytes(), pb::EntryKind::Symlink, 0o777, 0, target)
}

/// The digest by which a plan names itself, for paths that the crate's own type
/// refuses to hold (`checkpoint/docs/format.md`): else a plan might be refused
/// for its digest and not for what is hostile in it.
fn digest_of(entries: &[pb::PlanEntry]) -> Vec<u8> {
    let mut so_far = content(b"epochlog plan 2\n");
    for entry in entries {
        let short = |data: &[u8]| [&(data.len() as u16).to_le_bytes()[..], data].concat();
        let (letter, rest) = match entry.kind() {
            pb::EntryKind::File => (b'f', entry.size.to_le_bytes().to_vec()),
            pb::EntryKind::Symlink => (b'l', short(&entry.target)),
            _ => (b'd', Vec::new()),
        };
        let parts = [&[letter][..], &(entry.mode as u16).to_le_bytes(), &short(&entry.path), &rest];
        so_far = content(&[so_far.as_bytes(), &parts.concat()[..]].concat());
    }
    so_far.as_bytes().to_vec()
}

/// Plans that must be refused before an attempt is opened.
pub(super) fn plans() -> Vec<(String, Forged)> {
    let big = 200_000; // no tiny epoch: those are committed in one message
    let with = |more: Vec<pb::PlanEntry>| Forged::plan([vec![root()], more].concat());
    let mut plans: Vec<(String, Forged)> = Vec::new();
    let paths: [&[u8]; 12] = [
        b"..",
        b"../escape",
        b"a/../../escape",
        b"/etc/absolute",
        b"nul\0byte",
        b".",
        b"./a",
        b"a//b",
        b"a/",
        b"a/.",
        b"a/..",
        b"d/../f",
    ];
    for path in paths {
        plans.push((
            format!("path {:?}", path.escape_ascii().to_string()),
            with(vec![directory("a"), directory("d"), file(path, big)]),
        ));
        plans
            .push((format!("path {:?} alone", path.escape_ascii().to_string()), with(vec![file(path, big)])));
    }
    let kinds: Vec<(&str, Vec<pb::PlanEntry>)> = vec![
        ("a duplicate path", vec![file("f", big), file("f", big)]),
        ("a file and a directory of one name", vec![directory("f"), file("f", big)]),
        ("a path through a symlink", vec![link("l", b"/etc"), file("l/passwd", big)]),
        ("a path through a file", vec![file("f", big), file("f/inside", big)]),
        ("a path without its parent", vec![file("a/b", big)]),
        ("unsorted paths", vec![file("z", big), file("a", big)]),
        ("a component of 256 bytes", vec![file("n".repeat(256), big)]),
        ("a path of 4,000 bytes", vec![file(vec!["n".repeat(200); 20].join("/"), big)]),
        ("a setuid file", vec![entry(b"f", pb::EntryKind::File, 0o4755, big, b"")]),
        ("a mode with file type bits", vec![entry(b"f", pb::EntryKind::File, 0o100_644, big, b"")]),
        ("a mode of 32 ones", vec![entry(b"f", pb::EntryKind::File, u32::MAX, big, b"")]),
        ("a file nobody can read", vec![entry(b"f", pb::EntryKind::File, 0o200, big, b"")]),
        ("a symlink with a NUL in its target", vec![file("f", big), link("l", b"a\0b")]),
        ("a symlink to nothing at all", vec![file("f", big), link("l", b"")]),
        ("a symlink of 5,000 bytes", vec![file("f", big), link("l", &[b'x'; 5000])]),
        ("a symlink of 70,000 bytes", vec![file("f", big), link("l", &[b'x'; 70_000])]),
        ("a directory with a size", vec![entry(b"d", pb::EntryKind::Directory, 0o755, big, b"")]),
        ("a file with a target", vec![entry(b"f", pb::EntryKind::File, 0o644, big, b"target")]),
        ("an unknown kind", vec![entry(b"f", pb::EntryKind::Unspecified, 0o644, big, b"")]),
        ("a file of 2^60 bytes", vec![file("f", 1 << 60)]),
        ("files of 2^64 bytes together", vec![file("f", u64::MAX), file("g", u64::MAX)]),
        ("a file over the limit", vec![file("f", 65 << 20)]),
        ("files over the limit", (0..1001).map(|number| file(format!("f{number:04}"), 1000)).collect()),
        ("a second root", vec![root(), file("f", big)]),
    ];
    plans.extend(kinds.into_iter().map(|(what, entries)| (what.to_owned(), with(entries))));
    plans.push(("a plan without a root".into(), Forged::plan(vec![file("f", big)])));
    plans.push(("an empty plan".into(), Forged::plan(Vec::new())));
    plans.extend(lies());
    plans
}

/// An honest plan, and a Start that does not fit it.
fn lies() -> Vec<(String, Forged)> {
    let lies: Vec<(&str, Lie)> = vec![
        ("a wrong plan digest", |start| start.plan_digest = vec![1; 32].into()),
        ("a plan digest of 5 bytes", |start| start.plan_digest = vec![1; 5].into()),
        ("a commit id of 3 bytes", |start| start.commit_id = vec![1; 3].into()),
        ("chunks of 1 byte", |start| start.chunk_bytes = 1),
        ("chunks of 3 GiB", |start| start.chunk_bytes = 3 << 30),
        ("chunks of no power of two", |start| start.chunk_bytes = 100_000),
        ("4 billion entries", |start| start.plan_entries = u32::MAX),
        ("fewer entries than pages hold", |start| start.plan_entries = 1),
        ("2^63 declared bytes", |start| start.declared_bytes = 1 << 63),
        ("a job that climbs", |start| start.job = "../../climb".into()),
        ("a job without a name", |start| start.job = String::new()),
        ("a job with a NUL", |start| start.job = "a\0b".into()),
        ("a label of 1 MiB", |start| {
            start.labels = vec![pb::Label { key: "k".into(), value: "v".repeat(1 << 20) }]
        }),
        ("a token nobody gave out", |start| start.token = Some(u64::MAX)),
    ];
    let entries = vec![root(), file("f", FILE_BYTES)];
    lies.into_iter()
        .map(|(what, lie)| (what.to_owned(), Forged { lie, ..Forged::plan(entries.clone()) }))
        .collect()
}

/// Pieces that must be refused, or at least never sealed.
pub(super) fn pieces() -> Vec<(String, Forged)> {
    let size = CHUNK_BYTES as usize;
    let payload = vec![9; size];
    let chunk_of = |file_bytes: u64, file: u32, offset: u64, payload: &[u8], digest: Vec<u8>| {
        let (digest, payload) = (digest.into(), payload.to_vec().into());
        Piece::Chunk(pb::Chunk { file, offset, digest, payload, file_bytes })
    };
    let chunk = |file, offset, payload: &[u8], digest| chunk_of(FILE_BYTES, file, offset, payload, digest);
    let alone = content(&payload).as_bytes().to_vec();
    let right = |offset: u64| subtree(FILE_BYTES, offset, &payload).as_bytes().to_vec();
    let zero = |file, offset, len, digest: Vec<u8>| {
        Piece::Zero(pb::Zero { file, offset, len, digest: digest.into(), file_bytes: FILE_BYTES })
    };
    let pack = |file, offset, len| {
        let packed =
            pb::PackedFile { file, offset, len, digest: content(&payload).as_bytes().to_vec().into() };
        Piece::Pack(pb::Pack { files: vec![packed], payload: payload.clone().into() })
    };
    let kinds: Vec<(&str, Vec<Piece>)> = vec![
        ("a seal without any content", vec![]),
        ("a chunk at the end of its file", vec![chunk(1, FILE_BYTES, &payload, right(0))]),
        ("a chunk at offset 2^60", vec![chunk(1, 1 << 60, &payload, right(0))]),
        ("a chunk at offset 2^64 - 1", vec![chunk(1, u64::MAX, &payload, right(0))]),
        ("a chunk that begins anywhere", vec![chunk(1, 1000, &payload, right(0))]),
        ("a chunk of another digest", vec![chunk(1, 0, &payload, vec![3; 32])]),
        ("a chunk with a digest of 4 bytes", vec![chunk(1, 0, &payload, vec![3; 4])]),
        ("a chunk with the digest of a file of its own", vec![chunk(1, 0, &payload, alone.clone())]),
        ("a chunk of a file of another size", vec![chunk_of(1 << 16, 1, 0, &payload, alone)]),
        ("a chunk without payload", vec![chunk(1, 0, b"", right(0))]),
        ("a chunk longer than a chunk", vec![chunk(1, 0, &[9; 2 << 16], right(0))]),
        (
            "a chunk shorter than a chunk",
            vec![chunk(1, 0, &payload[..1024], subtree(FILE_BYTES, 0, &payload[..1024]).as_bytes().to_vec())],
        ),
        ("a chunk of a length that no digest tree has", vec![chunk(1, 0, &payload[..1000], right(0))]),
        ("a chunk of the root directory", vec![chunk(0, 0, &payload, right(0))]),
        ("a chunk of no file", vec![chunk(99, 0, &payload, right(0))]),
        ("a chunk of file 2^32 - 1", vec![chunk(u32::MAX, 0, &payload, right(0))]),
        (
            "a chunk twice with other bytes",
            vec![
                chunk(1, 0, &payload, right(0)),
                chunk(1, 0, &[8; 1 << 16], subtree(FILE_BYTES, 0, &[8; 1 << 16]).as_bytes().to_vec()),
            ],
        ),
        ("zeros of 2^60 bytes", vec![zero(1, 0, 1 << 60, vec![3; 32])]),
        ("zeros over the end", vec![zero(1, FILE_BYTES - 1024, 1 << 20, vec![3; 32])]),
        ("zeros that wrap around", vec![zero(1, u64::MAX - 10, 100, vec![3; 32])]),
        ("zeros of a length that no digest tree has", vec![zero(1, 0, 1000, vec![3; 32])]),
        ("zeros of another digest", vec![zero(1, 0, FILE_BYTES, vec![3; 32])]),
        (
            "zeros of the root directory",
            vec![zero(0, 0, 65_536, zeros(FILE_BYTES, 0, 65_536).as_bytes().to_vec())],
        ),
        ("a pack beyond its payload", vec![pack(1, 60_000, 65_536)]),
        ("a pack that wraps around", vec![pack(1, u32::MAX - 10, 100)]),
        ("a pack of no file", vec![pack(77, 0, 65_536)]),
        ("a pack of another size", vec![pack(1, 0, 65_536)]),
        (
            "a pack without files",
            vec![Piece::Pack(pb::Pack { files: vec![], payload: payload.clone().into() })],
        ),
        (
            "a reuse of what was never sealed",
            vec![Piece::Reuse(pb::Reuse {
                files: vec![pb::KnownFile { file: 1, digest: vec![5; 32].into() }],
            })],
        ),
        (
            "a reuse of no file",
            vec![Piece::Reuse(pb::Reuse {
                files: vec![pb::KnownFile { file: 9, digest: vec![5; 32].into() }],
            })],
        ),
        (
            "a seal of another root",
            vec![zero(1, 0, FILE_BYTES, zeros(FILE_BYTES, 0, FILE_BYTES).as_bytes().to_vec())],
        ),
    ];
    kinds.into_iter().map(|(what, pieces)| (what.to_owned(), Forged::pieces(pieces))).collect()
}
