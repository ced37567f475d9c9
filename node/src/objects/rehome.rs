//! Content that a store has lost and that this node holds: uploaded anew, and said to lie there.
//!
//! ```text
//!  the shelves, read and compared ─▶ Begin of an attempt of its own ─▶ the object, under a name of that attempt
//!    ─▶ Rehome for each content, in the log ─▶ Abort
//! ```
//!
//! The attempt is there so that nobody takes the new object for garbage before the log names it; it has an empty plan, and
//! nothing of it is ever published. The old name is never written again: with the last content that lay there it is released.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::digest::FileHasher;
use checkpoint::disk::{Disk, Open};
use checkpoint::{CommitId, EntryKind, PlanEntry, RelPath, Store};
use client::{Code, Failure};
use futures::StreamExt;
use nativelog::background::{self, BULK, UPKEEP};
use nativelog::compose::{self, Opening, Pages, StoredObject};
use nativelog::ledger::{Accepted, Reason, Verdict};
use nativelog::record::LogRecord;
use raft::Outcome;

use super::place::Place;
use super::wrong::{Lying, Wrong};
use crate::node::Node;
use crate::stores::{Content, Object};

/// The job of attempts that put something back. No epoch of it is ever sealed.
const JOB: &str = "epochlog.rehome";
/// How often the log hears that an attempt lives while its object is uploaded.
const LIFE_EVERY: Duration = Duration::from_secs(30);
/// Records on their way at once.
const RECORDS_AT_ONCE: usize = 32;
/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// What became of an object that was lost.
#[derive(Debug, Default)]
pub struct Rehomed {
    /// Contents that lie in another object now, or are needed by nobody any more.
    pub moved: u64,
    /// Contents that this node does not hold.
    pub not_here: u64,
    /// Why those that it holds do not.
    pub failed: Option<Failure>,
}

/// Puts back what this node holds of the contents of an object.
pub async fn rehome(node: &Node, place: &Place, wrong: &Wrong) -> Rehomed {
    let (store, wanted) = (node.store.clone(), wrong.contents.clone());
    let found = background::run("rehome", BULK, move || held(&store, &wanted)).await.unwrap_or_default();
    let not_here = (wrong.contents.len() - found.len()) as u64;
    if found.is_empty() {
        return Rehomed { not_here, ..Rehomed::default() };
    }
    match put_back(node, place, wrong, found).await {
        Ok(moved) => Rehomed { moved, not_here, failed: None },
        Err(failure) => Rehomed { moved: 0, not_here, failed: Some(failure) },
    }
}

/// Those that lie on the shelves and are what they should be. Blocks.
fn held(store: &Store, wanted: &[Lying]) -> Vec<Content> {
    let disk = store.disk();
    let good = |lying: &Lying| {
        let paths = store.blob_paths(lying.digest).unwrap_or_default();
        let path = paths.into_iter().find(|path| is_good(disk, path, lying))?;
        Some(Content { path, len: lying.bytes, digest: lying.digest, files: Vec::new() })
    };
    wanted.iter().filter_map(good).collect()
}

fn is_good(disk: &Arc<dyn Disk>, path: &Path, lying: &Lying) -> bool {
    let read = || -> std::io::Result<bool> {
        if disk.stat(path)?.len != lying.bytes {
            return Ok(false);
        }
        let (file, mut hasher) = (disk.open(path, Open::Read)?, FileHasher::new());
        let mut buffer = vec![0; READ_BYTES.min(lying.bytes) as usize];
        for offset in (0..lying.bytes).step_by(READ_BYTES as usize) {
            let some = &mut buffer[..READ_BYTES.min(lying.bytes - offset) as usize];
            file.read_exact_at(some, offset)?;
            hasher.data(some);
        }
        Ok(hasher.finish() == lying.digest)
    };
    match read() {
        Ok(is_good) => is_good,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a copy of lost content cannot be read");
            false
        }
    }
}

/// How many contents lie in the new object.
async fn put_back(node: &Node, place: &Place, wrong: &Wrong, contents: Vec<Content>) -> Result<u64, Failure> {
    // The reading may have taken long: it has to be this cluster's prefix still.
    place.look().await?;
    let begin = begin(node, place);
    let attempt = match propose(node, place, begin.clone()).await? {
        Verdict::Accepted(Accepted::Begun { attempt, .. }) => attempt,
        Verdict::Rejected(rejected) => return Err(failed(place, rejected.detail)),
        Verdict::Accepted(other) => return Err(failed(place, format!("begin was answered {other:?}"))),
    };
    let done = upload_and_say(node, place, wrong, (attempt, begin), contents).await;
    // What it named and what lies in it stays.
    if let Err(failure) = propose(node, place, compose::abort(attempt, "what it put back is named")).await {
        tracing::warn!(attempt, why = failure.why, "an attempt that put content back stays open for a while");
    }
    // One of another node may be open in it.
    let _ = node.replica.propose(compose::remove_job(&job(), "nothing is put back any more")).await;
    done
}

fn job() -> checkpoint::JobName {
    JOB.parse().expect("it is a name")
}

fn begin(node: &Node, place: &Place) -> LogRecord {
    let born = node.replica.machine().ledger().applied().map_or(0, |id| id.index);
    let opening = Opening {
        job: job(),
        epoch: None,
        token: None,
        commit: CommitId::from_bytes(rand::random()),
        born,
        chunk_bytes: 1 << 20,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let path = RelPath::root();
    let root = PlanEntry { path, kind: EntryKind::Directory, mode: 0o755, size: 0, target: Vec::new() };
    compose::begin_in(&opening, &Pages::new(&[root]), place.known.id)
}

async fn upload_and_say(
    node: &Node,
    place: &Place,
    wrong: &Wrong,
    (attempt, begin): (u64, LogRecord),
    contents: Vec<Content>,
) -> Result<u64, Failure> {
    let object = Object::new(node.store.disk().clone(), contents);
    let upload = place.kept.upload(place.cluster, attempt, object);
    tokio::pin!(upload);
    let (object, stored) = loop {
        match tokio::time::timeout(LIFE_EVERY, &mut upload).await {
            Ok(uploaded) => break uploaded.map_err(|error| place.failure(&error))?,
            // The same commit again: that names the attempt and changes nothing.
            Err(_) => drop(node.replica.propose(begin.clone()).await),
        }
    };
    let stored = StoredObject { digest: stored.digest, nonce: stored.nonce, bytes: stored.bytes };
    let old = (wrong.key.digest, wrong.key.attempt, wrong.key.nonce);
    let records: Vec<LogRecord> = object
        .contents()
        .iter()
        .map(|(offset, content)| compose::rehome(attempt, content.digest, old, &stored, *offset))
        .collect();
    let say = |record: LogRecord| {
        let replica = node.replica.clone();
        async move { replica.propose(record).await }
    };
    let mut said = futures::stream::iter(records.into_iter().map(say)).buffer_unordered(RECORDS_AT_ONCE);
    let mut moved = 0;
    while let Some(outcome) = said.next().await {
        match answered(node, place, outcome)? {
            Verdict::Accepted(_) => moved += 1,
            // It lies elsewhere by now, or nobody needs it any more.
            Verdict::Rejected(no) if matches!(no.reason, Reason::Conflict | Reason::NotFound) => moved += 1,
            Verdict::Rejected(no) => return Err(failed(place, no.detail)),
        }
    }
    let kept = place.kept.clone();
    tokio::spawn(background::run("forget", UPKEEP, move || kept.forget(attempt, &[stored.digest])));
    tracing::info!(
        store = place.kept.name(),
        attempt,
        contents = moved,
        bytes = stored.bytes,
        "content that a store had lost is put back"
    );
    Ok(moved)
}

async fn propose(node: &Node, place: &Place, record: LogRecord) -> Result<Verdict, Failure> {
    answered(node, place, node.replica.propose(record).await)
}

fn answered(node: &Node, place: &Place, outcome: Outcome) -> Result<Verdict, Failure> {
    match outcome {
        Ok((_, verdict)) => Ok(verdict),
        Err(error) => {
            let (code, sentence) = node.no_way();
            Err(Failure::new(code, format!("{sentence}, not all is put back"))
                .what(place.what())
                .why(error.to_string())
                .fix("see `epochlog status`, then repeat the command"))
        }
    }
}

fn failed(place: &Place, why: String) -> Failure {
    Failure::new(Code::Refused, "the log did not take it, not all is put back")
        .what(place.what())
        .why(why)
        .fix("see the reason, then repeat the command")
}

#[cfg(test)]
mod tests {
    use checkpoint::RealDisk;
    use checkpoint::digest::content;

    use super::*;

    #[test]
    fn only_a_copy_that_is_as_it_should_be_is_uploaded() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let data: Vec<u8> = (0..3 * READ_BYTES as usize + 5).map(|at| (at * 31 + at / 251) as u8).collect();
        let path = dir.path().join("copy");
        std::fs::write(&path, &data).unwrap();
        let lying = Lying { offset: 7, bytes: data.len() as u64, digest: content(&data) };
        assert!(is_good(&disk, &path, &lying));
        assert!(!is_good(&disk, &path, &Lying { bytes: lying.bytes - 1, ..lying }));
        let mut other = data;
        other[2 * READ_BYTES as usize] ^= 1;
        std::fs::write(&path, &other).unwrap();
        assert!(!is_good(&disk, &path, &lying));
        assert!(!is_good(&disk, &dir.path().join("none"), &lying));
    }
}
