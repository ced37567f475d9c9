//! A tiny epoch: one `Whole` record, which opens, fills and seals it at once.
//!
//! It joins the job's writer in the very record that seals it, so that no writer can be fenced
//! between the two: a record that lands has its outcome for ever, and one that never landed has
//! joined nobody. What follows for a tiny commit without a token: when its first try never reached
//! the log and is repeated after a take-over, it joins the new writer, like a commit that begins
//! then. A caller who must be fenced gives `--token`, or `--take-over`, which a repeat finds again.

use std::collections::BTreeMap;

use bytes::Bytes;
use checkpoint::limits::{WHOLE_BYTES_MAX, WHOLE_ENTRIES_MAX};
use checkpoint::plan::{check_entries, encode};
use checkpoint::{Digest, Piece, PlanEntry};
use client::{Failure, wire};
use nativelog::ledger::{Accepted, SealedEpoch, Verdict};
use nativelog::record::{Kind, LogRecord, proto};

use super::driver::Driver;
use super::ground::Ground;
use super::origin::{Next, Opening, Origin};
use super::{no, window};

impl<G: Ground> Driver<'_, G> {
    pub(super) async fn whole<O: Origin>(&mut self, origin: &mut O) -> Result<SealedEpoch, Failure> {
        let mut entries: Vec<PlanEntry> = Vec::new();
        while let Some(page) = self.from(origin.page().await)? {
            entries.extend(page.into_owned());
            if entries.len() > WHOLE_ENTRIES_MAX {
                return Err(no::refused(&self.order.name(), "the plan has more entries than it declared"));
            }
        }
        if !O::HASHED_HERE {
            check_entries(entries.iter().map(PlanEntry::borrowed), &self.ground.limits())
                .map_err(|error| no::refused(&self.order.name(), error.to_string()))?;
        }
        let opening = Opening::silent(self.order.chunk_bytes);
        self.from(origin.open(opening).await)?;
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let root = loop {
            match self.from(origin.next().await)? {
                Next::Seal(root) => break root,
                Next::Alive => {}
                Next::Piece(piece) => {
                    bytes += window::covers(&piece, &BTreeMap::new()).1;
                    if bytes > WHOLE_BYTES_MAX || pieces.len() > 2 * WHOLE_ENTRIES_MAX {
                        return Err(no::refused(
                            &self.order.name(),
                            "there is more content than the plan declared",
                        ));
                    }
                    pieces.push(piece);
                }
            }
        };
        let record = whole_record(self.order.begin(None), &entries, pieces, root)
            .map_err(|why| no::refused(&self.order.name(), why))?;
        match self.propose_seal(record).await?.1 {
            Verdict::Accepted(Accepted::Sealed(sealed)) => {
                self.ended("seal");
                Ok(sealed)
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("a whole epoch was answered {other:?}"))),
            Verdict::Rejected(rejected) => {
                self.own_seal(&rejected).await?;
                Err(no::rejected(&self.order.name(), &rejected))
            }
        }
    }
}

/// One record of a tiny epoch: every file's content end to end.
fn whole_record(
    begin: proto::Begin,
    entries: &[PlanEntry],
    pieces: Vec<Piece>,
    root: Digest,
) -> Result<LogRecord, &'static str> {
    let mut payload = Vec::new();
    let mut files = Vec::new();
    for piece in pieces {
        let at = u32::try_from(payload.len()).map_err(|_| "too much content")?;
        match piece {
            Piece::Pack { files: packed, payload: bytes } => {
                payload.extend_from_slice(&bytes);
                for file in packed {
                    let offset = at.checked_add(file.offset).ok_or("a file lies outside its pack")?;
                    files.push(checkpoint::PackedFile { offset, ..file });
                }
            }
            Piece::Chunk { file, offset: 0, digest, payload: bytes, .. } => {
                let len = u32::try_from(bytes.len()).map_err(|_| "too much content")?;
                payload.extend_from_slice(&bytes);
                files.push(checkpoint::PackedFile { file, offset: at, len, digest });
            }
            Piece::Zero { file, offset: 0, len, digest, .. } => {
                let len = u32::try_from(len).map_err(|_| "too much content")?;
                payload.resize(payload.len() + len as usize, 0);
                files.push(checkpoint::PackedFile { file, offset: at, len, digest });
            }
            Piece::Chunk { .. } | Piece::Zero { .. } => return Err("a tiny epoch has whole files only"),
            Piece::Reuse { .. } => return Err("a tiny epoch refers to no other"),
        }
    }
    files.sort_by_key(|file| file.file);
    let whole = proto::Whole {
        begin: Some(begin),
        entries: encode(entries).into(),
        files: files
            .iter()
            .map(|file| proto::PackedFile {
                file: file.file,
                offset: file.offset,
                len: file.len,
                digest: wire::digest(&file.digest),
            })
            .collect(),
        root: wire::digest(&root),
        wall_ms: 0,
    };
    Ok(LogRecord::new(Kind::Whole(whole), Bytes::from(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::PackedFile;

    #[test]
    fn a_file_outside_its_pack_is_refused() {
        let file = |offset| PackedFile { file: 1, offset, len: 1, digest: checkpoint::digest::content(b"x") };
        let pack = |offset| Piece::Pack { files: vec![file(offset)], payload: Bytes::from_static(b"x") };
        let pieces = vec![pack(0), pack(u32::MAX)];
        assert!(whole_record(proto::Begin::default(), &[], pieces, Digest::NONE).is_err());
    }
}
