//! The file of a sealed epoch's tree, so that neither memory nor snapshots hold them.
//!
//! What cannot be published here (a name that this file system cannot hold, a mount point in the way) is tried again and again,
//! perhaps for ever, and needs its tree for that; the ledger has none. It may have a million entries, and such epochs may be
//! many. So the tree of one that has failed goes into the staging folder of its attempt, under a name that any file system
//! holds, and goes with it: not while the epoch is unpublished here.
//!
//! ```text
//! staging/<attempt>/sealed    envelope, sources and tree, and BLAKE3 of them (32 bytes)
//! ```
//!
//! **Guarantees.** Before a snapshot stands above the seal, or another ledger takes over, the file is whole and synced with
//! its name: until then the tree is in memory, and in the log. A file that is relied on is never written again.
//!
//! **Never** is a tree believed that is not what was written. Then it is lost here, as if the epoch had no directory and
//! nobody knew more: a peer has it. Nor is anything let go of, or the node stopped, because a tree cannot be read.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use checkpoint::digest::content;
use checkpoint::durable::{ensure_dir, ignore_missing};
use checkpoint::{Digest, EntryKind, Envelope, Manifest, Source, Store};

use super::book::Needed;
use super::debts::{Debts, Put, Take};
use crate::ledger::{Ledger, PublishEpoch};

const VERSION: u8 = 1;
/// What follows, in bytes.
const DIGEST_BYTES: usize = 32;
/// The largest file: a million entries with longest paths are below.
pub const FILE_BYTES_MAX: u64 = 8 << 30;

/// The bytes of an epoch's file.
pub fn encode(epoch: &PublishEpoch) -> Vec<u8> {
    let mut out = Put(vec![VERSION]);
    let sources: Vec<u8> = epoch.sources.iter().map(|source| tag_of(*source)).collect();
    out.bytes(&epoch.envelope.encode()).bytes(&sources).bytes(&epoch.manifest.encode());
    let digest = content(&out.0);
    out.raw(digest.as_bytes());
    out.0
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<PublishEpoch> {
    let (bytes, digest) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
    if content(bytes).as_bytes() != digest {
        return None;
    }
    let mut read = Take(bytes);
    if read.array::<1>()? != [VERSION] {
        return None;
    }
    let (envelope, _) = Envelope::decode(read.bytes()?).ok()?;
    let sources = read.bytes()?.iter().map(|tag| source_of(*tag)).collect::<Option<Vec<Source>>>()?;
    let manifest = Manifest::decode(read.bytes()?).ok()?;
    if !read.0.is_empty() || sources.len() != manifest.entries.len() {
        return None;
    }
    let (attempt, job, epoch) = (envelope.attempt, envelope.job.clone(), envelope.epoch);
    let (manifest, sources) = (Arc::new(manifest), Arc::new(sources));
    Some(PublishEpoch { attempt, job, epoch, envelope, manifest, sources })
}

fn tag_of(source: Source) -> u8 {
    match source {
        Source::None => 0,
        Source::Staged => 1,
        Source::Unpacked => 2,
        Source::Reused => 3,
        Source::Linked => 4,
    }
}

fn source_of(tag: u8) -> Option<Source> {
    let all = [Source::None, Source::Staged, Source::Unpacked, Source::Reused, Source::Linked];
    all.get(usize::from(tag)).copied()
}

/// Writes the file of an epoch anew. A part of it does not stay.
pub(super) fn write(store: &Store, epoch: &PublishEpoch) -> io::Result<()> {
    let (disk, layout) = (&**store.disk(), store.layout());
    ensure_dir(disk, &layout.attempt_dir(epoch.attempt))?;
    let path = layout.sealed_file(epoch.attempt);
    ignore_missing(disk.unlink(&path))?;
    let written = disk.write_new(&path, &encode(epoch), 0o600);
    if written.is_err()
        && let Err(error) = ignore_missing(disk.unlink(&path))
    {
        tracing::warn!(path = %path.display(), %error, "a part of a tree takes room until it is written anew");
    }
    written
}

/// What lies in the file of an attempt; `None` when that is lost, so that no other try will read it. Of one that the device
/// does not give out now, nobody knows.
pub(super) fn read(store: &Store, attempt: u64) -> io::Result<Option<PublishEpoch>> {
    let path = store.layout().sealed_file(attempt);
    let is_lost =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData);
    let why = match store.disk().read_file(&path, FILE_BYTES_MAX) {
        Ok(bytes) => match decode(&bytes).filter(|epoch| epoch.attempt == attempt) {
            Some(epoch) => return Ok(Some(epoch)),
            None => "it is not what was written".to_owned(),
        },
        Err(error) if is_lost(&error) => error.to_string(),
        Err(error) => return Err(error),
    };
    tracing::warn!(path = %path.display(), why, "the tree of an epoch that could not be published is lost here");
    Ok(None)
}

/// Content that came with this epoch: where it is not published, it lies in the epoch's staging and nowhere else.
pub fn brought(epoch: &PublishEpoch) -> impl Iterator<Item = Digest> {
    let entries = epoch.manifest.entries.iter().zip(epoch.sources.iter());
    let came = entries.filter(|(entry, source)| {
        let is_here = matches!(**source, Source::Staged | Source::Unpacked);
        is_here && entry.kind == EntryKind::File && entry.size > 0
    });
    came.map(|(entry, _)| entry.digest)
}

/// Of those that have expired, by attempt: what they brought and `ledger` still holds. Blocks.
pub fn needed(store: &Store, debts: &Debts, ledger: &Ledger) -> BTreeMap<u64, Needed> {
    let is_held = |digest: &Digest| ledger.content(digest).is_some();
    let expired = debts.unpublished.iter().filter(|epoch| epoch.expired.is_some());
    let attempts = expired.map(|epoch| epoch.origin.attempt);
    attempts.map(|attempt| (attempt, needed_of(attempt, read(store, attempt), is_held))).collect()
}

/// What others need of one that has expired: what it brought, as far as it `is_held`. One whose tree is lost is needed for
/// nothing any more; one whose tree cannot be read may be needed for all that it brought.
pub fn needed_of(
    attempt: u64,
    tree: io::Result<Option<PublishEpoch>>,
    is_held: impl Fn(&Digest) -> bool,
) -> Needed {
    match tree {
        Ok(tree) => Some(tree.iter().flat_map(brought).filter(is_held).collect()),
        Err(error) => {
            tracing::warn!(attempt, %error, "the tree of an epoch that has expired cannot be read: what came with it stays until a start that can read it");
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use checkpoint::{JobName, ManifestEntry, Position, RelPath};

    use super::*;

    pub const ENTRIES: usize = 1000;

    /// So many entries: the root, files that came, one that was there, and no bytes in the rest.
    pub fn example(attempt: u64) -> PublishEpoch {
        let entry = |path, kind, size, digest| ManifestEntry {
            path,
            kind,
            mode: 0o755,
            size,
            digest,
            target: Vec::new(),
        };
        let mut entries = vec![entry(RelPath::root(), EntryKind::Directory, 0, Digest::NONE)];
        let mut sources = vec![Source::None];
        for number in 1..ENTRIES {
            let path = RelPath::parse(format!("f{number:06}").as_bytes()).unwrap();
            let source = match number {
                1 => Source::Reused,
                2 => Source::Staged,
                3 => Source::Unpacked,
                4 => Source::Linked,
                _ => Source::None,
            };
            let data = number.to_string();
            let size = if source == Source::None { 0 } else { data.len() as u64 };
            entries.push(entry(path, EntryKind::File, size, content(&data.as_bytes()[..size as usize])));
            sources.push(source);
        }
        let (job, manifest): (JobName, _) = ("job".parse().unwrap(), Manifest { entries });
        let envelope = Envelope {
            job: job.clone(),
            epoch: 3,
            attempt,
            position: Position { term: 1, node: 1, index: attempt + 2 },
            root: manifest.root(),
            labels: vec![("a".into(), "b".into())],
            depends_on: Vec::new(),
            base: None,
            sealed_log_ms: 0,
        };
        let (manifest, sources) = (Arc::new(manifest), Arc::new(sources));
        PublishEpoch { attempt, job, epoch: 3, envelope, manifest, sources }
    }

    #[test]
    fn an_epoch_comes_back_as_it_was_and_nothing_else_does() {
        let epoch = example(7);
        let whole = encode(&epoch);
        assert_eq!(decode(&whole), Some(epoch));
        for bit in (0..whole.len() * 8).step_by(1009) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
        for len in (0..whole.len()).step_by(997) {
            assert_eq!(decode(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn what_came_with_an_epoch_is_told_from_what_was_there() {
        let came: Vec<Digest> = brought(&example(7)).collect();
        assert_eq!(came, [content(b"2"), content(b"3")]);
    }
}
