//! The WAL: segments of frames, addressed by one offset that grows over all of them.
//!
//! `log/<offset of its first byte, 16 hex digits>.wal`. A segment is made under a temporary name,
//! with its first frame fsynced, and renamed: a `.wal` file always starts with a whole frame that
//! says what went before it. The one that is written now ends in zeros, which are written over.
//!
//! ```text
//!  segment: frames │ kept: bare frames alone, when the disk is full │      spare: the next segment, bare frames alone
//! ```
//!
//! Records come in their order, and what makes room is one of them. So a frame with content leaves `kept_bytes` of zeros
//! behind it and a whole spare beside it, or waits for room; a bare one (no content: expiry, an ended attempt, a tick, a
//! vote, a purge) is written over the zeros, and when they are used up into the spare.
//!
//! **Guarantees.** A segment is deleted only when the purge that covers it is fsynced, and every entry of every
//! later segment can be read without it: the next segment's first frame names the last entry before it, the purge
//! point and the vote. Deletion goes from the oldest on; one that a power cut interrupted is finished at start.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes};
use checkpoint::disk::{Disk, DiskDir, DiskFile, Open, lacks_room};
use checkpoint::durable::ignore_missing;

use super::failed::Failed;
use super::frame::{
    FrameKind, decode_body, encode_frame, get_optional_log_id, get_vote, put_optional_log_id, put_vote,
};
use super::index::Slot;
use super::options::Options;
use super::owner::{Identity, Vote};
use super::room::Room;
use super::spare::SpareSegment;
use crate::record::{Body, LogId};

/// File name of the segment whose first byte has this offset.
pub fn segment_name(base: u64) -> String {
    format!("{base:016x}.wal")
}

/// The offset that a segment's file name says.
pub fn segment_base(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".wal")?;
    (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok())?
}

/// Body of a segment's first frame: the state before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentStart {
    /// Who owns the log.
    pub owner: Identity,
    /// The last entry before this segment.
    pub last: Option<LogId>,
    /// The purge point then.
    pub purged: Option<LogId>,
    /// The vote then.
    pub vote: Option<Vote>,
}

impl SegmentStart {
    /// The frame body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64_le(self.owner.node);
        out.put_slice(&self.owner.incarnation);
        put_optional_log_id(&mut out, self.last);
        put_optional_log_id(&mut out, self.purged);
        put_vote(&mut out, self.vote);
        out
    }

    /// Parses a frame body.
    pub fn decode(mut b: &[u8]) -> Option<SegmentStart> {
        if b.len() < 24 {
            return None;
        }
        let node = b.get_u64_le();
        let mut incarnation = [0; 16];
        b.copy_to_slice(&mut incarnation);
        let last = get_optional_log_id(&mut b)?;
        let purged = get_optional_log_id(&mut b)?;
        let vote = get_vote(&mut b)?;
        Some(SegmentStart { owner: Identity { node, incarnation }, last, purged, vote })
    }
}

/// What a frame brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Entries among which one brings content or a plan.
    Content,
    /// Nothing of the kind: it may use what is kept.
    Bare,
}

/// A segment on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The offset of its first byte.
    pub base: u64,
    /// The last entry before it.
    pub before: Option<LogId>,
}

/// How many of `segments` lie wholly below the purge point: those in front of the last one that follows nothing
/// but purged entries.
pub fn purged_segments(segments: impl DoubleEndedIterator<Item = Segment>, purged: LogId) -> usize {
    let covered = |segment: &Segment| segment.before.is_none_or(|before| before.index <= purged.index);
    let covered: Vec<bool> = segments.map(|segment| covered(&segment)).collect();
    covered.iter().rposition(|covered| *covered).unwrap_or(0)
}

/// The writing end. Only the writer thread has it.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The same, open for ever: no sync of its names waits for a handle.
    names: Box<dyn DiskDir>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Oldest first; the last one is written now.
    segments: VecDeque<Segment>,
    end: u64,
    durable: u64,
    /// The offset up to which the file has bytes: zeros from `end` on.
    zeroed: u64,
    /// How far ahead that is to be.
    ahead: u64,
    /// How far ahead it is behind a frame with content, whatever that waits for.
    kept: u64,
    spare: SpareSegment,
    segment_bytes: u64,
}

/// Zeros are written in pieces of so many bytes at most.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Makes the segment that starts at `base` in `dir` (open as `names`), durable; of the blocks of `spare`, if there is one.
/// Its file, and the end of its first frame.
pub fn start_segment(
    disk: &Arc<dyn Disk>,
    (dir, names): (&Path, &dyn DiskDir),
    spare: Option<&mut SpareSegment>,
    room: &Room,
    base: u64,
    start: &SegmentStart,
) -> Result<(Box<dyn DiskFile>, u64), Failed> {
    let name = dir.join(segment_name(base));
    // Always the same: of one that is refused no second name stays.
    let temporary = dir.join("next.new");
    let frame = encode_frame(FrameKind::Segment, base, base, &start.encode());
    let ready = match spare {
        Some(spare) => spare.take(names, &temporary)?,
        None => None,
    };
    let file = match ready {
        Some(file) => room.wait_for("write", &temporary, || file.write_at(&frame, 0)).map(|()| file),
        None => room.wait_for("make", &temporary, || {
            let file = disk.open(&temporary, Open::Create)?;
            file.set_len(0)?;
            file.write_at(&frame, 0)?;
            Ok(file)
        }),
    };
    let file = file.map_err(Failed::Refused)?;
    file.sync_all().map_err(Failed::Final)?;
    room.wait_for("name", &name, || disk.rename(&temporary, &name)).map_err(Failed::Refused)?;
    names.sync().map_err(Failed::Final)?;
    Ok((file, base + frame.len() as u64))
}

fn warn_of_spare(dir: &Path, made: io::Result<()>) {
    if let Err(error) = made.or_else(|error| if lacks_room(&error) { Ok(()) } else { Err(error) }) {
        tracing::warn!(dir = %dir.display(), %error, "no segment of the log is kept for a full disk yet");
    }
}

impl Wal {
    /// Goes on writing at `end`, in the last of `segments`; all below `end` is durable, and what its file has behind it are
    /// zeros.
    pub fn resume(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segments: Vec<Segment>,
        end: u64,
        options: &Options,
    ) -> io::Result<Wal> {
        let last = segments.last().ok_or_else(|| io::Error::other("a WAL has a segment"))?;
        let path = dir.join(segment_name(last.base));
        let file = disk.open(&path, Open::Write)?;
        let names = disk.open_dir(&dir)?;
        // A frame that found no room may have left a hole before the zeros behind it: what has no blocks is not kept.
        let (len, blocks) = (file.len()?, disk.stat(&path)?.blocks);
        let zeroed = if blocks.saturating_mul(512) >= len { (last.base + len).max(end) } else { end };
        let (segments, durable) = (segments.into(), end);
        let (ahead, kept, segment_bytes) = (options.ahead_bytes, options.kept_bytes, options.segment_bytes);
        let spare = SpareSegment::new(disk.clone(), &dir, kept);
        Ok(Wal {
            disk,
            dir,
            names,
            path,
            file,
            segments,
            end,
            durable,
            zeroed,
            ahead,
            kept,
            spare,
            segment_bytes,
        })
    }

    fn base(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.base)
    }

    /// Closes the segment and starts the next one, in the spare if it may and there is one.
    ///
    /// # Errors
    /// Refused: the segment goes on.
    pub fn rotate(&mut self, room: &Room, start: &SegmentStart, in_spare: bool) -> Result<(), Failed> {
        self.sync().map_err(Failed::Final)?;
        let (base, written) = (self.end, self.end - self.base());
        let had_spare = self.spare.is_whole();
        let names = (&*self.dir, &*self.names);
        let spare = in_spare.then_some(&mut self.spare);
        let (file, end) = start_segment(&self.disk, names, spare, room, base, start)?;
        let zeros = if had_spare && !self.spare.is_whole() { self.spare.bytes() } else { 0 };
        let closed = std::mem::replace(&mut self.file, file);
        self.end = end;
        (self.durable, self.zeroed) = (end, end.max(base + zeros));
        self.path = self.dir.join(segment_name(base));
        self.segments.push_back(Segment { base, before: start.last });
        // Also what a write left that found no room for all of its zeros: readers know a closed segment's end by its length.
        let cut = closed.len().and_then(|len| if len > written { closed.set_len(written) } else { Ok(()) });
        cut.map_err(Failed::Final)
    }

    /// Has a spare, if there is room for one.
    pub fn keep_spare(&mut self) {
        warn_of_spare(&self.dir, self.spare.make());
    }

    /// Appends a frame, not durable yet. Returns the offset of its body in the whole WAL; `None` when a bare one finds no
    /// room here, and is to go into the spare: into the next segment.
    pub fn append(
        &mut self,
        room: &Room,
        kind: FrameKind,
        load: Load,
        body: &[u8],
    ) -> io::Result<Option<u64>> {
        let frame = encode_frame(kind, self.end, self.durable, body);
        let (offset, behind) = (self.end - self.base(), self.end + frame.len() as u64);
        self.write_ahead(behind)?;
        if load == Load::Content {
            let path = self.path.clone();
            room.wait_for("keep room behind", &path, || self.keep(behind))?;
        }
        let spared = load == Load::Bare && self.spare.is_whole();
        let (mut cut, mut no_room) = (false, false);
        room.wait_for("write", &self.path, || match self.file.write_at(&frame, offset) {
            Err(error) if lacks_room(&error) && spared => {
                no_room = true;
                Ok(())
            }
            // The zeros may have the room that it needs; there is nothing else above it.
            Err(error) if lacks_room(&error) && load == Load::Bare => {
                self.file.set_len(offset)?;
                cut = true;
                self.file.write_at(&frame, offset)
            }
            written => written,
        })?;
        if no_room {
            // Part of it may have been written: nothing but zeros is to lie behind the frames of a closed segment.
            self.file.set_len(offset)?;
            self.file.sync_all()?;
            self.zeroed = self.end;
            return Ok(None);
        }
        self.zeroed = if cut { behind } else { self.zeroed.max(behind) };
        let body_at = self.end + super::frame::FRAME_HEADER_BYTES as u64;
        self.end = behind;
        Ok(Some(body_at))
    }

    /// What is kept is there behind a frame that ends at `behind`.
    fn keep(&mut self, behind: u64) -> io::Result<()> {
        self.write_zeros(behind, behind + self.kept)?;
        match self.spare.make() {
            Err(error) if lacks_room(&error) => Err(error),
            // Not for want of room: no content waits for that.
            made => {
                warn_of_spare(&self.dir, made);
                Ok(())
            }
        }
    }

    /// Before a frame that ends at `behind`, and behind which less than what is kept are zeros: more of them, as far as
    /// there is room.
    fn write_ahead(&mut self, behind: u64) -> io::Result<()> {
        if behind.saturating_add(self.kept) <= self.zeroed {
            return Ok(());
        }
        let most = self.base() + self.segment_bytes + self.kept;
        let upto = (behind + self.ahead).min(most).max(behind + self.kept);
        match self.write_zeros(behind, upto) {
            Err(error) if lacks_room(&error) => Ok(()),
            written => written,
        }
    }

    /// Zeros up to `upto`, at least from `behind` on. What is between the zeros of before and `behind` is left to the frame.
    fn write_zeros(&mut self, behind: u64, upto: u64) -> io::Result<()> {
        let base = self.base();
        let mut at = behind.max(self.zeroed);
        while at < upto {
            let some = &ZEROS[..usize::try_from(upto - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()))];
            self.file.write_at(some, at - base)?;
            at += some.len() as u64;
            self.zeroed = at;
        }
        Ok(())
    }

    /// Deletes the segments that lie wholly below a durable purge point, durably. True when there were some. One
    /// that cannot be deleted stays, and those after it, until the next purge.
    pub fn delete_purged(&mut self, purged: LogId) -> io::Result<bool> {
        let mut deleted = false;
        for _ in 0..purged_segments(self.segments.iter().copied(), purged) {
            let path = self.dir.join(segment_name(self.first()));
            if let Err(error) = ignore_missing(self.disk.unlink(&path)) {
                tracing::warn!(path = %path.display(), %error, "a purged segment of the log stays for now");
                break;
            }
            self.segments.pop_front();
            deleted = true;
        }
        if deleted {
            self.names.sync()?;
        }
        Ok(deleted)
    }

    /// The offset of the oldest byte on disk.
    pub fn first(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.base)
    }

    /// Bytes of all segments on disk.
    pub fn bytes(&self) -> u64 {
        self.end - self.first()
    }

    /// The last entry before the segment that is written now.
    pub fn before_segment(&self) -> Option<LogId> {
        self.segments.back().and_then(|segment| segment.before)
    }

    /// fdatasync of everything appended.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.durable < self.end {
            self.file.sync_data()?;
            self.durable = self.end;
        }
        Ok(())
    }

    /// Bytes in the segment that is written now.
    pub fn segment_len(&self) -> u64 {
        self.end - self.base()
    }

    /// Everything below is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }
}

/// Segments that readers keep open.
const OPEN_SEGMENTS_MAX: usize = 16;

/// The reading end: any bytes of the WAL by their offset.
pub struct SegmentReader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>,
}

impl SegmentReader {
    /// A reader of the segments in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        SegmentReader { disk, dir, open: Mutex::new(BTreeMap::new()) }
    }

    fn lookup(&self, position: u64) -> io::Result<(u64, Arc<dyn DiskFile>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((base, file)) = open.range(..=position).next_back()
            && position - base < file.len()?
        {
            return Ok((*base, file.clone()));
        }
        let base =
            list_segments(&self.disk, &self.dir)?.into_iter().rfind(|base| *base <= position).ok_or_else(
                || io::Error::new(io::ErrorKind::NotFound, format!("no WAL segment holds offset {position}")),
            )?;
        let file: Arc<dyn DiskFile> =
            Arc::from(self.disk.open(&self.dir.join(segment_name(base)), Open::Read)?);
        while open.len() >= OPEN_SEGMENTS_MAX {
            open.pop_first();
        }
        open.insert(base, file.clone());
        Ok((base, file))
    }

    /// Lets go of the segments below `base`, which are deleted: an open file would keep their space.
    pub fn forget_below(&self, base: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|first, _| *first >= base);
    }

    /// Reads `len` bytes at `position`.
    pub fn read(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let (base, file) = self.lookup(position)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, position - base)?;
        Ok(bytes)
    }

    /// The header of an entry.
    pub fn body(&self, slot: &Slot) -> io::Result<Body> {
        let bytes = self.read(slot.header_position, slot.header_len as usize)?;
        decode_body(slot.tag, &bytes).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the WAL header of {} does not decode", slot.id),
            )
        })
    }

    /// An inline payload.
    pub fn inline(&self, position: u64, len: u64) -> io::Result<Bytes> {
        Ok(self.read(position, len as usize)?.into())
    }
}

/// First offsets of all segments in `dir`, ascending.
pub fn list_segments(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Vec<u64>> {
    let mut bases: Vec<u64> = disk
        .read_dir(dir)?
        .into_iter()
        .filter_map(|(name, _)| name.to_str().and_then(segment_base))
        .collect();
    bases.sort_unstable();
    Ok(bases)
}
