//! Rebuilds the index while the frames of the WAL go by.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::OpenError;
use crate::record::{Body, Header, LogId};
use crate::store::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, Placed, decode_body, get_optional_log_id, get_vote,
    parse_entries,
};
use crate::store::index::{Index, Place, Slot};
use crate::store::mark::Mark;
use crate::store::wal::SegmentStart;

/// Entries with payloads in files: where, and their headers.
pub type Unsure = BTreeMap<u64, (Place, Arc<Header>)>;

/// Everything that is rebuilt.
pub struct Rebuild {
    /// Starts after the last entry before the first segment, whether that one is purged or not.
    pub index: Index,
    /// The log folder.
    pub dir: PathBuf,
    /// Frames at or above its offset may not have been acknowledged.
    pub mark: Mark,
    /// The purge point as the frames so far say it.
    pub purged: Option<LogId>,
    /// Entries above the mark with payloads in files.
    pub unsure: Unsure,
}

impl Rebuild {
    /// The error for damage at this offset.
    pub fn damaged(&self, position: u64, why: impl Into<String>) -> OpenError {
        OpenError::Damaged { dir: self.dir.clone(), position, why: why.into() }
    }

    /// Takes the next frame; `is_first` says that it lies in the first segment.
    pub fn frame(&mut self, is_first: bool, header: &FrameHeader, mut body: &[u8]) -> Result<(), OpenError> {
        let position = header.position;
        let short = |this: &Self| this.damaged(position, "a frame body is too short");
        match header.kind {
            FrameKind::Segment => self.segment(position, is_first, body)?,
            FrameKind::Entries => self.entries(header, body)?,
            FrameKind::Truncate => {
                self.truncate(get_optional_log_id(&mut body).ok_or_else(|| short(self))?);
            }
            FrameKind::Vote => self.index.vote = get_vote(&mut body).ok_or_else(|| short(self))?,
            FrameKind::Purge => {
                if let Some(upto) = get_optional_log_id(&mut body).ok_or_else(|| short(self))? {
                    self.index.purge(upto);
                    self.purged = later(self.purged, Some(upto));
                }
            }
            FrameKind::Committed => {
                self.index.committed = get_optional_log_id(&mut body).ok_or_else(|| short(self))?;
            }
        }
        Ok(())
    }

    fn segment(&mut self, position: u64, is_first: bool, body: &[u8]) -> Result<(), OpenError> {
        let start = SegmentStart::decode(body).ok_or_else(|| self.damaged(position, "bad segment start"))?;
        if start.owner != self.mark.owner {
            return Err(OpenError::Owner {
                dir: self.dir.clone(),
                found: start.owner.node,
                expected: self.mark.owner.node,
            });
        }
        if is_first {
            self.index.vote = start.vote;
            self.index.start_after(start.last);
        } else if start.last != self.index.last() {
            let found = self.index.last();
            let why = format!("the segment follows {:?}, but {found:?} was found", start.last);
            return Err(self.damaged(position, why));
        }
        self.purged = later(self.purged, start.purged);
        Ok(())
    }

    fn truncate(&mut self, after: Option<LogId>) {
        let next = after.map_or(0, |id| id.index + 1);
        if next < self.index.first() {
            // It reaches back into entries whose segment is deleted: those that came after it were purged.
            self.index.start_after(later(after, self.purged));
        } else {
            self.index.truncate(next);
        }
        self.unsure.split_off(&next);
    }

    fn entries(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), OpenError> {
        let position = header.position;
        let framed =
            parse_entries(body).ok_or_else(|| self.damaged(position, "an entry batch does not parse"))?;
        let body_at = position + FRAME_HEADER_BYTES as u64;
        for entry in framed {
            let bytes = &body[entry.header_at..entry.header_at + entry.header_len];
            let decoded = decode_body(entry.tag, bytes);
            let decoded = decoded
                .ok_or_else(|| self.damaged(position, format!("entry {} does not decode", entry.id)))?;
            let expected = self.index.last().map_or(entry.id.index, |last| last.index + 1);
            if entry.id.index != expected {
                return Err(
                    self.damaged(position, format!("entry {} where index {expected} belongs", entry.id))
                );
            }
            let header_position = body_at + entry.header_at as u64;
            let place = match entry.placed {
                Placed::Inline => Place::Inline { position: header_position + entry.header_len as u64 },
                Placed::Staged => Place::Staged,
                Placed::Aside => Place::Aside,
            };
            if let Body::Record(record) = &decoded
                && entry.placed != Placed::Inline
                && position >= self.mark.durable
            {
                self.unsure.insert(entry.id.index, (place, record.header.clone()));
            }
            let slot = Slot {
                id: entry.id,
                tag: entry.tag,
                place,
                header_position,
                header_len: entry.header_len as u32,
                payload_len: entry.payload_len as u32,
                body: Some(decoded),
                payload: None,
            };
            self.index.push_recovered(&slot, entry.placed);
        }
        Ok(())
    }

    /// The whole WAL has gone by, from `base` to `end`: checks it against the mark.
    pub fn finish(mut self, base: u64, end: u64) -> Result<(Index, Unsure), OpenError> {
        let Mark { durable, vote, purged, .. } = self.mark;
        if end < durable {
            return Err(self.damaged(end, format!("it ends here, but was durable up to {durable}")));
        }
        if vote > self.index.vote {
            return Err(self.damaged(end, format!("the vote {vote:?} is newer than the log's")));
        }
        let purged = later(self.purged, purged);
        if let Some(before) = self.index.purged()
            && purged.is_none_or(|purged| purged.index < before.index)
        {
            let why = format!("the segments that hold entries up to {before} are missing");
            return Err(self.damaged(base, why));
        }
        if let Some(purged) = purged {
            self.index.purge(purged);
            self.index.claims.purged(purged.index);
            self.index.claims.drop_purged(purged.index);
            self.unsure = self.unsure.split_off(&(purged.index + 1));
        }
        Ok((self.index, self.unsure))
    }
}

/// The position with the higher index.
fn later(a: Option<LogId>, b: Option<LogId>) -> Option<LogId> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.index >= b.index { a } else { b }),
        (a, b) => a.or(b),
    }
}
