//! Makes records: what a directory's pieces and a person's orders become in the log.
//!
//! Composing never judges. What is made here passes [`crate::shape::check_shape`] when the
//! pieces are true, and the ledger has the last word.

use bytes::Bytes;
use checkpoint::limits::PART_BYTES_MAX;
use checkpoint::plan::encode;
use checkpoint::{CommitId, Digest, JobName, Piece, PlanEntry};

use crate::record::{Kind, LogRecord, proto};

/// What a commit says at its Begin.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The job.
    pub job: JobName,
    /// The epoch's number; `None` for the next one.
    pub epoch: Option<u64>,
    /// The writer's token; `None` to join the job's current writer.
    pub token: Option<u64>,
    /// The same for every repeat of this commit.
    pub commit: CommitId,
    /// A log index at which that id was not in use yet, the same for every repeat; 0 when none is known.
    pub born: u64,
    /// Chunk size in bytes, a power of two from 64 KiB to 4 MiB.
    pub chunk_bytes: u32,
    /// The epoch this one builds on.
    pub base: Option<u64>,
    /// Free labels.
    pub labels: Vec<(String, String)>,
    /// Free names of what this epoch depends on.
    pub depends_on: Vec<String>,
}

/// An object that is there: uploaded, and verified in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredObject {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Random, durable at the uploader before the first byte.
    pub nonce: u64,
    /// Its length.
    pub bytes: u64,
}

/// A file that lies in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkedFile {
    /// Entry of the plan.
    pub file: u32,
    /// Where in the object, in bytes.
    pub offset: u64,
    /// The file's size, in bytes.
    pub len: u64,
    /// BLAKE3 of the file.
    pub digest: Digest,
}

/// A plan's pages, each within [`PART_BYTES_MAX`] encoded, never empty but for an empty plan.
#[derive(Debug, Clone)]
pub struct Pages {
    pages: Vec<Bytes>,
    entries: u32,
    bytes: u64,
    digest: Digest,
}

impl Pages {
    /// Cuts a plan into pages.
    ///
    /// # Panics
    /// When the plan has 2^32 entries or more: `checkpoint` refuses such a plan.
    pub fn new(entries: &[PlanEntry]) -> Self {
        let (mut pages, mut page) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = encode([entry]);
            if page.len() + entry.len() > PART_BYTES_MAX && !page.is_empty() {
                pages.push(Bytes::from(std::mem::take(&mut page)));
            }
            page.extend_from_slice(&entry);
        }
        if !page.is_empty() {
            pages.push(Bytes::from(page));
        }
        Pages {
            pages,
            entries: u32::try_from(entries.len()).expect("a plan has far fewer than 2^32 entries"),
            bytes: entries.iter().map(|entry| entry.size).sum(),
            digest: checkpoint::plan::plan_digest(entries),
        }
    }

    /// How many Part records the plan takes.
    pub fn count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// The Part record of one page.
    pub fn part(&self, attempt: u64, page: u32) -> LogRecord {
        let entries = self.pages[page as usize].clone();
        part(attempt, page, entries)
    }

    /// The Part records from page `from` on, for a commit that resumes with `from` pages in the log.
    pub fn parts(&self, attempt: u64, from: u32) -> impl Iterator<Item = LogRecord> {
        (from..self.count()).map(move |page| self.part(attempt, page))
    }
}

/// A page of a plan; its entries as `checkpoint::plan` encodes them.
pub fn part(attempt: u64, page: u32, entries: Bytes) -> LogRecord {
    bare(Kind::Part(proto::Part { attempt, page, entries }))
}

/// Forgets a job that has nothing left.
pub fn remove_job(job: &JobName, reason: impl Into<String>) -> LogRecord {
    bare(Kind::RemoveJob(proto::RemoveJob { job: job.as_str().to_owned(), reason: reason.into() }))
}

/// Opens a writer. `born`: a log index at which the commit id was not in use yet, 0 when none is known.
pub fn open_writer(job: &JobName, commit: CommitId, born: u64) -> LogRecord {
    let job = job.as_str().to_owned();
    bare(Kind::OpenWriter(proto::OpenWriter { job, commit_id: commit_bytes(commit), born }))
}

/// Opens an attempt.
pub fn begin(opening: &Opening, plan: &Pages) -> LogRecord {
    bare(Kind::Begin(begin_message(opening, plan)))
}

/// Opens an attempt whose content lies in the store of this id.
pub fn begin_in(opening: &Opening, plan: &Pages, store: u64) -> LogRecord {
    bare(Kind::Begin(proto::Begin { store: Some(store), ..begin_message(opening, plan) }))
}

/// One piece of an attempt; its payload is shared, not copied.
pub fn piece(attempt: u64, piece: Piece) -> LogRecord {
    match piece {
        Piece::Chunk { file, offset, digest, file_bytes, payload } => {
            let len = u32::try_from(payload.len()).expect("a chunk has at most 4 MiB");
            let digest = digest_bytes(digest);
            let chunk = proto::Chunk { attempt, file, offset, len, digest, file_bytes };
            LogRecord::new(Kind::Chunk(chunk), payload)
        }
        Piece::Pack { files, payload } => {
            let files = files.iter().map(packed_to_proto).collect();
            LogRecord::new(Kind::Pack(proto::Pack { attempt, files }), payload)
        }
        Piece::Zero { file, offset, len, digest, file_bytes } => {
            let digest = digest_bytes(digest);
            bare(Kind::Zero(proto::Zero { attempt, file, offset, len, digest, file_bytes }))
        }
        Piece::Reuse { files } => {
            let files = files
                .iter()
                .map(|(file, digest)| proto::ReusedFile { file: *file, digest: digest_bytes(*digest) });
            bare(Kind::Reuse(proto::Reuse { attempt, files: files.collect() }))
        }
    }
}

/// Files whose bytes lie in an object: at most [`LINK_FILES_MAX`](crate::record::LINK_FILES_MAX) a record.
pub fn link(attempt: u64, stored: &StoredObject, files: &[LinkedFile]) -> LogRecord {
    let linked = |LinkedFile { file, offset, len, digest }: &LinkedFile| proto::LinkedFile {
        file: *file,
        offset: *offset,
        len: *len,
        digest: digest_bytes(*digest),
    };
    let (object, object_bytes) = (Some(object(stored)), stored.bytes);
    let files = files.iter().map(linked).collect();
    bare(Kind::Link(proto::Link { attempt, object, object_bytes, files }))
}

/// Binds a name to the prefix whose marker says this uuid and this nonce.
pub fn store(name: impl Into<String>, uuid: [u8; 16], nonce: u64) -> LogRecord {
    let uuid = Bytes::copy_from_slice(&uuid);
    bare(Kind::Store(proto::Store { name: name.into(), uuid, nonce }))
}

/// Begins a batch of deletes in a store; `nonce` is what the marker will say.
pub fn delete_batch(store: u64, nonce: u64) -> LogRecord {
    bare(Kind::DeleteBatch(proto::DeleteBatch { store, nonce }))
}

/// Says that content lies at `offset` of another object of the attempt's store; `old` (digest, attempt, nonce) is the one in
/// which it lay.
pub fn rehome(
    attempt: u64,
    content: Digest,
    old: (Digest, u64, u64),
    stored: &StoredObject,
    offset: u64,
) -> LogRecord {
    let (digest, old) = (digest_bytes(content), Some(object_name(old)));
    let (object, object_bytes) = (Some(object(stored)), stored.bytes);
    bare(Kind::Rehome(proto::Rehome { attempt, digest, old, object, object_bytes, offset }))
}

/// Says that these objects (digest, attempt, nonce) are gone from a store: at most
/// [`DELETED_MAX`](crate::record::DELETED_MAX) a record.
pub fn deleted(store: u64, objects: impl IntoIterator<Item = (Digest, u64, u64)>) -> LogRecord {
    let objects = objects.into_iter().map(object_name).collect();
    bare(Kind::Deleted(proto::Deleted { store, objects }))
}

/// Seals an attempt.
pub fn seal(attempt: u64, root: Digest) -> LogRecord {
    bare(Kind::Seal(proto::Seal { attempt, root: digest_bytes(root), wall_ms: 0, manifest: None }))
}

/// Seals an attempt that has a store: its canonical manifest lies in `manifest`, whose digest is the root.
pub fn seal_with(attempt: u64, root: Digest, manifest: &StoredObject) -> LogRecord {
    let manifest = proto::ManifestObject { object: Some(object(manifest)), bytes: manifest.bytes };
    let seal = proto::Seal { attempt, root: digest_bytes(root), wall_ms: 0, manifest: Some(manifest) };
    bare(Kind::Seal(seal))
}

/// A tiny epoch in one record, of a plan and the pack of its files with bytes (`None` when it has none).
/// `None` when the pieces are not one pack or the limits of a whole epoch are passed.
pub fn whole(opening: &Opening, plan: &Pages, pieces: &[Piece], root: Digest) -> Option<LogRecord> {
    use checkpoint::limits::{WHOLE_BYTES_MAX, WHOLE_ENTRIES_MAX};
    let (files, payload) = match pieces {
        [] => (Vec::new(), Bytes::new()),
        [Piece::Pack { files, payload }] => (files.iter().map(packed_to_proto).collect(), payload.clone()),
        _ => return None,
    };
    let [entries] = plan.pages.as_slice() else { return None };
    if plan.entries as usize > WHOLE_ENTRIES_MAX || payload.len() as u64 > WHOLE_BYTES_MAX {
        return None;
    }
    let entries = entries.clone();
    let begin = Some(begin_message(opening, plan));
    let whole = proto::Whole { begin, entries, files, root: digest_bytes(root), wall_ms: 0 };
    Some(LogRecord::new(Kind::Whole(whole), payload))
}

/// Ends an attempt without an epoch.
pub fn abort(attempt: u64, reason: impl Into<String>) -> LogRecord {
    bare(Kind::Abort(proto::Abort { attempt, reason: reason.into() }))
}

/// Pins an epoch; `for_ms` in log time, 0 for no end.
pub fn pin(job: &JobName, epoch: u64, owner: &str, reason: &str, for_ms: u64) -> LogRecord {
    let (job, owner, reason) = (job.as_str().to_owned(), owner.to_owned(), reason.to_owned());
    bare(Kind::Pin(proto::Pin { job, epoch, owner, reason, for_ms }))
}

/// Takes a pin away.
pub fn unpin(job: &JobName, epoch: u64, owner: &str) -> LogRecord {
    let (job, owner) = (job.as_str().to_owned(), owner.to_owned());
    bare(Kind::Unpin(proto::Unpin { job, epoch, owner }))
}

/// Ends sealed epochs. `published_on`: nodes that the proposer saw with a newer epoch published.
pub fn expire(
    job: &JobName,
    epochs: Vec<u64>,
    by_hand: bool,
    reason: impl Into<String>,
    published_on: Vec<u64>,
) -> LogRecord {
    let (job, reason) = (job.as_str().to_owned(), reason.into());
    bare(Kind::Expire(proto::Expire { job, epochs, by_hand, reason, published_on }))
}

/// Puts content in quarantine; `found`: every node that looked, and what it found; `brought`: log index of the seal that
/// had brought what they looked for.
pub fn quarantine(digest: Digest, brought: u64, found: impl IntoIterator<Item = (u64, String)>) -> LogRecord {
    let found = found.into_iter().map(|(node, what)| proto::Finding { node, what }).collect();
    let (digest, gone_from_stores) = (digest_bytes(digest), false);
    bare(Kind::Quarantine(proto::Quarantine { digest, found, brought, gone_from_stores }))
}

/// The same of content that lies in a store, where it is not to be had from there either.
pub fn quarantine_of_stored(
    digest: Digest,
    brought: u64,
    found: impl IntoIterator<Item = (u64, String)>,
) -> LogRecord {
    let found = found.into_iter().map(|(node, what)| proto::Finding { node, what }).collect();
    let (digest, gone_from_stores) = (digest_bytes(digest), true);
    bare(Kind::Quarantine(proto::Quarantine { digest, found, brought, gone_from_stores }))
}

/// Ends the quarantine of the record at `since`; `verified_on`: nodes that have a good copy.
pub fn healed(digest: Digest, since: u64, verified_on: Vec<u64>) -> LogRecord {
    bare(Kind::Healed(proto::Healed { digest: digest_bytes(digest), verified_on, since }))
}

/// Adds monotonic milliseconds since the leader's previous tick to log time.
pub fn tick(elapsed_ms: u64) -> LogRecord {
    bare(Kind::Tick(proto::Tick { elapsed_ms }))
}

/// Raises the rules' version.
pub fn activate(version: u32) -> LogRecord {
    bare(Kind::Activate(proto::Activate { version }))
}

/// First record of a cluster.
pub fn genesis(cluster: [u8; 16], members: impl IntoIterator<Item = (u64, [u8; 16])>) -> LogRecord {
    let cluster = Bytes::copy_from_slice(&cluster);
    let members = members.into_iter().map(member).collect();
    bare(Kind::Genesis(proto::Genesis { cluster, members }))
}

/// Fixes the incarnation of a node.
pub fn join(node: u64, incarnation: [u8; 16]) -> LogRecord {
    bare(Kind::Join(proto::Join { member: Some(member((node, incarnation))) }))
}

fn begin_message(opening: &Opening, plan: &Pages) -> proto::Begin {
    let label = |(key, value): &(String, String)| proto::Label { key: key.clone(), value: value.clone() };
    proto::Begin {
        job: opening.job.as_str().to_owned(),
        epoch: opening.epoch,
        token: opening.token,
        commit_id: commit_bytes(opening.commit),
        declared_bytes: plan.bytes,
        chunk_bytes: opening.chunk_bytes,
        base: opening.base,
        labels: opening.labels.iter().map(label).collect(),
        depends_on: opening.depends_on.clone(),
        plan_digest: digest_bytes(plan.digest),
        plan_pages: plan.count(),
        plan_entries: plan.entries,
        born: opening.born,
        attempt: None,
        stored_bytes: None,
        store: None,
    }
}

fn object_name((digest, attempt, nonce): (Digest, u64, u64)) -> proto::ObjectName {
    proto::ObjectName { digest: digest_bytes(digest), attempt, nonce }
}

fn object(stored: &StoredObject) -> proto::Object {
    proto::Object { digest: digest_bytes(stored.digest), nonce: stored.nonce }
}

fn packed_to_proto(packed: &checkpoint::PackedFile) -> proto::PackedFile {
    proto::PackedFile {
        file: packed.file,
        offset: packed.offset,
        len: packed.len,
        digest: digest_bytes(packed.digest),
    }
}

fn member((node, incarnation): (u64, [u8; 16])) -> proto::Member {
    proto::Member { node, incarnation: Bytes::copy_from_slice(&incarnation) }
}

fn bare(kind: Kind) -> LogRecord {
    LogRecord::new(kind, Bytes::new())
}

fn commit_bytes(commit: CommitId) -> Bytes {
    Bytes::copy_from_slice(commit.as_bytes())
}

fn digest_bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}
