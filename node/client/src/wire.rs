//! Between the types of `checkpoint` and the messages of the public API. What comes in is parsed,
//! once; what cannot be is refused with a reason.

use std::ops::Range;

use bytes::Bytes;
use checkpoint::IoError;
use checkpoint::digest::Digest;
use checkpoint::epoch::{EntryKind, RelPath};
use checkpoint::limits::{
    CHUNK_BYTES_MAX, PACK_BYTES_MAX, PACK_FILES_MAX, PART_BYTES_MAX, REUSE_FILES_MAX, WHOLE_BYTES_MAX,
    WHOLE_ENTRIES_MAX,
};
use checkpoint::manifest::ManifestEntry;
use checkpoint::plan::{Plan, PlanEntry, PlanError, RuleError};
use checkpoint::split::{Coverage, PackedFile, Piece, SplitError};

use crate::failure::{Certainty, Code, Failure, SPLIT_OR_RAISE};
use crate::pb;

/// An entry's size beyond path and target, at most, bytes: as a message, and as the log keeps it.
const ENTRY_OVERHEAD_BYTES: usize = 40;

/// The place of an entry as it travels.
///
/// # Panics
/// Beyond 2^32 entries, which no plan has.
pub fn id(place: usize) -> u32 {
    u32::try_from(place).expect("a plan has far fewer than 2^32 entries")
}

/// Cuts a plan into pages, always in the same places: a resumed commit counts on it.
pub fn pages(entries: &[PlanEntry]) -> Vec<Range<usize>> {
    let mut pages = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        let more = entry.path.as_bytes().len() + entry.target.len() + ENTRY_OVERHEAD_BYTES;
        if bytes + more > PART_BYTES_MAX && at > from {
            pages.push(from..at);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    if from < entries.len() {
        pages.push(from..entries.len());
    }
    pages
}

/// Whether a plan travels as one record, by these three numbers of it.
pub fn is_tiny_by(bytes: u64, entries: usize, pages: usize) -> bool {
    bytes <= WHOLE_BYTES_MAX && entries <= WHOLE_ENTRIES_MAX && pages == 1
}

/// Whether a plan travels as one record.
pub fn is_tiny(plan: &Plan) -> bool {
    plan.entries.len() <= WHOLE_ENTRIES_MAX
        && is_tiny_by(plan.bytes(), plan.entries.len(), pages(&plan.entries).len())
}

/// A digest as it travels.
pub fn digest(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

fn from_digest(bytes: &[u8]) -> Result<Digest, String> {
    Digest::from_slice(bytes).ok_or_else(|| format!("a digest has 32 bytes, not {}", bytes.len()))
}

fn kind(kind: EntryKind) -> pb::EntryKind {
    match kind {
        EntryKind::File => pb::EntryKind::File,
        EntryKind::Directory => pb::EntryKind::Directory,
        EntryKind::Symlink => pb::EntryKind::Symlink,
    }
}

fn from_kind(kind: pb::EntryKind) -> Result<EntryKind, String> {
    match kind {
        pb::EntryKind::File => Ok(EntryKind::File),
        pb::EntryKind::Directory => Ok(EntryKind::Directory),
        pb::EntryKind::Symlink => Ok(EntryKind::Symlink),
        pb::EntryKind::Unspecified => Err("an entry without a kind".into()),
    }
}

/// An entry of a plan as it travels.
pub fn plan_entry(entry: &PlanEntry) -> pb::PlanEntry {
    pb::PlanEntry {
        path: Bytes::copy_from_slice(entry.path.as_bytes()),
        kind: kind(entry.kind).into(),
        mode: entry.mode,
        size: entry.size,
        target: Bytes::copy_from_slice(&entry.target),
    }
}

/// An entry of a plan that has travelled.
pub fn from_plan_entry(entry: pb::PlanEntry) -> Result<PlanEntry, String> {
    Ok(PlanEntry {
        kind: from_kind(entry.kind())?,
        path: RelPath::parse(&entry.path).map_err(|error| error.to_string())?,
        mode: entry.mode,
        size: entry.size,
        target: entry.target.to_vec(),
    })
}

/// An entry of a manifest as it travels.
pub fn manifest_entry(entry: &ManifestEntry) -> pb::ManifestEntry {
    pb::ManifestEntry {
        path: Bytes::copy_from_slice(entry.path.as_bytes()),
        kind: kind(entry.kind).into(),
        mode: entry.mode,
        size: entry.size,
        digest: if entry.kind == EntryKind::File { digest(&entry.digest) } else { Bytes::new() },
        target: Bytes::copy_from_slice(&entry.target),
    }
}

/// A piece as it travels; payloads are shared.
pub fn piece(piece: Piece) -> pb::Piece {
    let kind = match piece {
        Piece::Chunk { file, offset, digest: known, file_bytes, payload } => {
            pb::piece::Kind::Chunk(pb::Chunk { file, offset, digest: digest(&known), payload, file_bytes })
        }
        Piece::Pack { files, payload } => {
            let files = files.iter().map(|packed| pb::PackedFile {
                file: packed.file,
                offset: packed.offset,
                len: packed.len,
                digest: digest(&packed.digest),
            });
            pb::piece::Kind::Pack(pb::Pack { files: files.collect(), payload })
        }
        Piece::Zero { file, offset, len, digest: known, file_bytes } => {
            pb::piece::Kind::Zero(pb::Zero { file, offset, len, digest: digest(&known), file_bytes })
        }
        Piece::Reuse { files } => {
            let files =
                files.iter().map(|(file, known)| pb::KnownFile { file: *file, digest: digest(known) });
            pb::piece::Kind::Reuse(pb::Reuse { files: files.collect() })
        }
    };
    pb::Piece { kind: Some(kind) }
}

/// A piece that has travelled, within the limits of one record.
pub fn from_piece(piece: pb::Piece) -> Result<Piece, String> {
    match piece.kind.ok_or("a piece without content")? {
        pb::piece::Kind::Chunk(chunk) => {
            if chunk.payload.is_empty() || chunk.payload.len() > CHUNK_BYTES_MAX as usize {
                return Err(format!("a chunk of {} bytes", chunk.payload.len()));
            }
            let digest = from_digest(&chunk.digest)?;
            let pb::Chunk { file, offset, file_bytes, payload, .. } = chunk;
            Ok(Piece::Chunk { file, offset, digest, file_bytes, payload })
        }
        pb::piece::Kind::Pack(pack) => {
            if pack.payload.len() > PACK_BYTES_MAX || pack.files.len() > PACK_FILES_MAX {
                return Err(format!("a pack of {} bytes, {} files", pack.payload.len(), pack.files.len()));
            }
            let files = pack.files.into_iter().map(|packed| {
                Ok(PackedFile {
                    file: packed.file,
                    offset: packed.offset,
                    len: packed.len,
                    digest: from_digest(&packed.digest)?,
                })
            });
            Ok(Piece::Pack { files: files.collect::<Result<_, String>>()?, payload: pack.payload })
        }
        pb::piece::Kind::Zero(zero) => Ok(Piece::Zero {
            file: zero.file,
            offset: zero.offset,
            len: zero.len,
            digest: from_digest(&zero.digest)?,
            file_bytes: zero.file_bytes,
        }),
        pb::piece::Kind::Reuse(reuse) => {
            if reuse.files.len() > REUSE_FILES_MAX {
                return Err(format!("{} references in one piece", reuse.files.len()));
            }
            let files = reuse.files.into_iter().map(|known| Ok((known.file, from_digest(&known.digest)?)));
            Ok(Piece::Reuse { files: files.collect::<Result<_, String>>()? })
        }
    }
}

/// What the log has of an attempt, as it travels.
pub fn covered(coverage: &Coverage) -> pb::Covered {
    pb::Covered {
        files: coverage.files().map(|ids| pb::IdRange { from: ids.start, to: ids.end }).collect(),
        ranges: coverage
            .ranges()
            .map(|(file, offset, len)| pb::ByteRange { file, from: offset, to: offset + len })
            .collect(),
    }
}

/// The same, from what has travelled. Page counts stay with the node.
pub fn coverage(covered: &pb::Covered) -> Coverage {
    let mut coverage = Coverage::default();
    for ids in &covered.files {
        coverage.add_files(ids.from..ids.to.max(ids.from));
    }
    for range in &covered.ranges {
        coverage.add_range(range.file, range.from, range.to.saturating_sub(range.from));
    }
    coverage
}

/// A source that could not be read to its end, for people.
pub fn split_failure(what: &str, error: &SplitError) -> Failure {
    match error {
        SplitError::SourceChanged { .. } => Failure::new(
            Code::SourceChanged,
            "the source changed, the epoch was NOT committed",
        )
        .fix("commit a directory that stays still, or take a snapshot of it first; then repeat the command"),
        SplitError::Io(error) => unread(error),
    }
    .what(what)
    .why(error.to_string())
    .committed(Certainty::No)
}

/// A directory that cannot be planned, for people.
pub fn plan_failure(what: &str, error: &PlanError) -> Failure {
    match error {
        PlanError::SourceChanged { .. } => {
            Failure::new(Code::SourceChanged, "the source changed, the epoch was NOT committed")
                .fix("commit a directory that stays still; then repeat the command")
        }
        PlanError::Rules(RuleError::Limit { .. }) => {
            Failure::new(Code::QuotaExceeded, "over a limit, the epoch was NOT committed").fix(SPLIT_OR_RAISE)
        }
        PlanError::Io(error) => unread(error),
        PlanError::Rules(RuleError::Refused { .. }) => {
            Failure::new(Code::Refused, "refused, the epoch was NOT committed").fix(
                "remove what cannot be reproduced, or leave it out with --exclude; then repeat the command",
            )
        }
    }
    .what(what)
    .why(error.to_string())
    .committed(Certainty::No)
}

/// A source that the operating system does not let be read. Where a node may not, by path, the client streams.
fn unread(error: &IoError) -> Failure {
    let failure = Failure::from_io(error).sentence("the source cannot be read, the epoch was NOT committed");
    if failure.code != Code::PermissionDenied {
        return failure;
    }
    let fix = format!("{}; or leave it out with --exclude", failure.fix);
    failure.fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> PlanEntry {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        PlanEntry { path, kind: EntryKind::File, mode: 0o644, size: 3, target: Vec::new() }
    }

    #[test]
    fn pages_hold_all_entries_once_and_stay_below_their_limit() {
        let entries: Vec<_> = (0..20_000).map(|at| entry(&format!("directory/file-{at:08}"))).collect();
        let pages = pages(&entries);
        assert!(pages.len() > 2);
        let mut next = 0;
        for page in pages {
            assert_eq!(page.start, next);
            let encoded: usize =
                entries[page.clone()].iter().map(|e| prost::Message::encoded_len(&plan_entry(e)) + 6).sum();
            assert!(encoded <= PART_BYTES_MAX);
            assert!(checkpoint::plan::encode(&entries[page.clone()]).len() <= PART_BYTES_MAX);
            next = page.end;
        }
        assert_eq!(next, entries.len());
    }

    #[test]
    fn pieces_survive_the_way() {
        let digest = checkpoint::digest::content(b"abc");
        let pieces = [
            Piece::Chunk {
                file: 1,
                offset: 1 << 20,
                digest,
                file_bytes: 1 << 21,
                payload: Bytes::from_static(b"abc"),
            },
            Piece::Pack {
                files: vec![PackedFile { file: 2, offset: 0, len: 3, digest }],
                payload: Bytes::from_static(b"abc"),
            },
            Piece::Zero { file: 3, offset: 0, len: 1 << 30, digest, file_bytes: 1 << 40 },
            Piece::Reuse { files: vec![(4, digest), (5, digest)] },
        ];
        for known in pieces {
            assert_eq!(from_piece(piece(known.clone())), Ok(known));
        }
    }

    #[test]
    fn a_source_that_cannot_be_read_is_told_by_its_cause() {
        for (number, code, advice) in [
            (2, Code::Usage, "correct the name"),
            (13, Code::PermissionDenied, "a user who may"),
            (5, Code::Refused, "look at that disk"),
            (24, Code::Refused, "ulimit -n"),
        ] {
            let error = || {
                let source = std::io::Error::from_raw_os_error(number);
                IoError { path: "/d/f".into(), what: "open", source }
            };
            for failure in
                [plan_failure("commit j", &error().into()), split_failure("commit j", &error().into())]
            {
                assert_eq!((failure.code, failure.committed), (code, Certainty::No), "{failure:?}");
                assert!(failure.fix.contains(advice), "{failure:?}");
                assert!(failure.why.starts_with("/d/f: cannot open"), "{failure:?}");
            }
        }
    }

    #[test]
    fn coverage_survives_the_way() {
        let mut known = Coverage::default();
        known.add_files(0..4);
        known.add_range(7, 1 << 20, 1 << 20);
        assert_eq!(coverage(&covered(&known)), known);
    }

    #[test]
    fn hostile_messages_are_refused() {
        let bad_path = pb::PlanEntry { path: Bytes::from_static(b"../etc"), kind: 1, ..Default::default() };
        assert!(from_plan_entry(bad_path).unwrap_err().contains(".."));
        assert!(from_plan_entry(pb::PlanEntry { kind: 9, ..Default::default() }).is_err());
        assert!(from_piece(pb::Piece { kind: None }).is_err());
        let short = pb::Chunk {
            digest: Bytes::from_static(b"x"),
            payload: Bytes::from_static(b"y"),
            ..Default::default()
        };
        assert!(from_piece(pb::Piece { kind: Some(pb::piece::Kind::Chunk(short)) }).is_err());
        let endless = pb::Covered { files: vec![pb::IdRange { from: 9, to: 1 }], ranges: vec![] };
        assert!(!coverage(&endless).has_file(5));
    }
}
