//! What a node does with the log it finds at start.
//!
//! | found | done |
//! |---|---|
//! | no `log/` | made anew: built under another name, renamed when complete |
//! | both slots of the mark damaged, or no mark | refuse: a vote or an acknowledgement may be lost |
//! | another owner | refuse |
//! | a segment missing, not starting where the one before ends | refuse |
//! | a bad frame below the mark | refuse: it was durable, so this is damage |
//! | a bad frame with a good one after it | refuse: the same |
//! | a bad frame at the end | cut: nothing in it was ever acknowledged |
//! | an entry above the mark whose payload does not verify | refuse: its header is only written after its payload is durable |
//! | the mark's vote is newer than the WAL's | refuse: the WAL lost a vote |
//!
//! To refuse costs a node; to go on could cost an acknowledged epoch, or a second vote in a term.
//! Before anything is read, the last segment is fdatasynced and its cached pages are dropped: after
//! a failed fsync the page cache may hold what the device does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::disk::{Disk, DiskFile, Open};
use checkpoint::durable;
use checkpoint::store::layout::Layout;

use super::frame::{
    FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Placed, decode_body, get_optional_log_id,
    get_vote, parse_entries,
};
use super::index::{Index, Place, Slot};
use super::mark::{Mark, MarkError, MarkFile};
use super::wal::{SegmentStart, Wal, list_segments, segment_name};
use super::{Identity, Options, new_log_dir};
use crate::record::{Body, Kind, LogId, Record};
use crate::shape;

/// Why a log cannot be opened. What is on disk stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log belongs to another node or to another life of this one.
    #[error(
        "the log in {dir} belongs to node {found}, not to node {expected} with this identity; \
         give the node its own data folder"
    )]
    Owner {
        /// The log folder.
        dir: PathBuf,
        /// Node id in the log.
        found: u64,
        /// Node id that was asked for.
        expected: u64,
    },
    /// Acknowledged content is damaged.
    #[error(
        "the log in {dir} is damaged at offset {position}: {why}; this node must not vote with it. \
         Keep the folder, remove the node from the cluster and let it join again empty under a new id: \
         the other nodes hold everything that was acknowledged"
    )]
    Damaged {
        /// The log folder.
        dir: PathBuf,
        /// Offset in the whole WAL.
        position: u64,
        /// What was found.
        why: String,
    },
    /// A read or write failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let what = what.into();
    move |source| OpenError::Io { what, source }
}

/// What opening found, for the log and for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The log was made just now.
    pub created: bool,
    /// Entries found.
    pub entries: u64,
    /// Bytes of an unacknowledged torn tail that were cut.
    pub cut_bytes: u64,
    /// Payloads above the durable mark that were read back from the device and verified.
    pub verified_payloads: u64,
}

/// An opened log, before its writer runs.
pub struct Opened {
    /// The index.
    pub index: Index,
    /// The writing end.
    pub wal: Wal,
    /// The mark.
    pub mark: MarkFile,
    /// What was found.
    pub report: Recovered,
}

fn mark_path(layout: &Layout) -> PathBuf {
    layout.log_dir().join("mark")
}

/// Opens or makes the log.
pub fn open(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    owner: Identity,
    options: &Options,
) -> Result<Opened, OpenError> {
    let dir = layout.log_dir();
    let group = dir.parent().expect("the log folder lies in its group's folder").to_path_buf();
    let created = disk.stat(&dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if created {
        create(disk, layout, &group, owner)
            .map_err(io_error(format!("make the log in {}", dir.display())))?;
    }
    disk.sync_dir(&group).map_err(io_error(format!("sync {}", group.display())))?;
    let mut opened = scan(disk, layout, owner, options)?;
    opened.report.created = created;
    Ok(opened)
}

fn create(disk: &Arc<dyn Disk>, layout: &Layout, group: &std::path::Path, owner: Identity) -> io::Result<()> {
    let dir = new_log_dir(layout);
    if let Ok(names) = disk.read_dir(&dir) {
        for (name, _) in names {
            disk.unlink(&dir.join(name))?;
        }
        disk.remove_dir(&dir)?;
    }
    durable::create_dir_all(disk.as_ref(), layout.data_dir(), &dir)?;
    MarkFile::create(disk, dir.join("mark"), owner)?;
    let start = SegmentStart { owner, last: None, purged: None, vote: None };
    Wal::start_segment(disk.clone(), dir.clone(), 0, &start)?;
    disk.sync_dir(&dir)?;
    disk.rename(&dir, &layout.log_dir())?;
    disk.sync_dir(group)
}

/// Who made the log, if there is one.
pub fn owner_of(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<Option<Identity>, OpenError> {
    if disk.stat(&layout.log_dir()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    Ok(Some(open_mark(disk, layout)?.last().owner))
}

fn open_mark(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<MarkFile, OpenError> {
    let dir = layout.log_dir();
    MarkFile::open(disk, mark_path(layout)).map_err(|error| match error {
        MarkError::Io(source) if source.kind() != io::ErrorKind::NotFound => {
            OpenError::Io { what: format!("read {}", mark_path(layout).display()), source }
        }
        MarkError::Io(_) => OpenError::Damaged { dir, position: 0, why: "the mark file is missing".into() },
        MarkError::Damaged => {
            OpenError::Damaged { dir, position: 0, why: "both slots of the mark file are damaged".into() }
        }
    })
}

/// Reads one segment front to back.
struct SegmentScan {
    base: u64,
    len: u64,
    file: Box<dyn DiskFile>,
}

enum Next {
    Frame { header: FrameHeader, body: Vec<u8> },
    End,
    Bad(&'static str),
}

impl SegmentScan {
    fn open(disk: &Arc<dyn Disk>, layout: &Layout, base: u64) -> io::Result<SegmentScan> {
        let file = disk.open(&layout.log_dir().join(segment_name(base)), Open::Write)?;
        let len = file.len()?;
        Ok(SegmentScan { base, len, file })
    }

    fn end(&self) -> u64 {
        self.base + self.len
    }

    fn frame_at(&self, position: u64) -> io::Result<Next> {
        let left = self.end().saturating_sub(position);
        if left == 0 {
            return Ok(Next::End);
        }
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Next::Bad("the frame is cut off"));
        }
        let mut fixed = [0; FRAME_HEADER_BYTES];
        self.file.read_exact_at(&mut fixed, position - self.base)?;
        let Some(header) = FrameHeader::parse(&fixed, position) else {
            return Ok(Next::Bad("no frame starts here"));
        };
        if header.frame_bytes() > left {
            return Ok(Next::Bad("the frame is longer than the file"));
        }
        let mut body = vec![0; header.body_len];
        self.file.read_exact_at(&mut body, position - self.base + FRAME_HEADER_BYTES as u64)?;
        if !header.verify(&fixed, &body) {
            return Ok(Next::Bad("the frame's checksum does not match"));
        }
        Ok(Next::Frame { header, body })
    }

    /// The first whole frame after `position`, if there is one.
    fn whole_frame_after(&self, position: u64) -> io::Result<Option<u64>> {
        const WINDOW: u64 = 1 << 20;
        let mut at = (position + 1).next_multiple_of(FRAME_ALIGN);
        while at + FRAME_HEADER_BYTES as u64 <= self.end() {
            let len = (self.end() - at).min(WINDOW) as usize;
            let mut window = vec![0; len];
            self.file.read_exact_at(&mut window, at - self.base)?;
            let mut skip = 0usize;
            while skip + FRAME_HEADER_BYTES <= len {
                let candidate = at + skip as u64;
                if FrameHeader::parse(&window[skip..], candidate).is_some()
                    && matches!(self.frame_at(candidate)?, Next::Frame { .. })
                {
                    return Ok(Some(candidate));
                }
                skip += FRAME_ALIGN as usize;
            }
            at += skip as u64;
        }
        Ok(None)
    }
}

/// Everything that is rebuilt while the frames go by.
struct Rebuild {
    index: Index,
    dir: PathBuf,
    /// Frames at or above this offset may not have been acknowledged.
    mark: Mark,
    /// Entries with payloads in files, above the mark: (index, place, header).
    unsure: BTreeMap<u64, (Place, Arc<Record>)>,
}

impl Rebuild {
    fn damaged(&self, position: u64, why: impl Into<String>) -> OpenError {
        OpenError::Damaged { dir: self.dir.clone(), position, why: why.into() }
    }

    fn segment(&mut self, position: u64, first: bool, body: &[u8]) -> Result<(), OpenError> {
        let start = SegmentStart::decode(body).ok_or_else(|| self.damaged(position, "bad segment start"))?;
        if start.owner != self.mark.owner {
            return Err(OpenError::Owner {
                dir: self.dir.clone(),
                found: start.owner.node,
                expected: self.mark.owner.node,
            });
        }
        if first {
            self.index.vote = start.vote;
            if let Some(last) = start.last {
                if self.mark.purged.is_none_or(|purged| purged.index < last.index) {
                    return Err(self.damaged(
                        position,
                        format!("the segments that hold entries up to {last} are missing"),
                    ));
                }
                self.index.purge(last);
            }
        } else if start.last != self.index.last() {
            let found = self.index.last();
            return Err(self.damaged(
                position,
                format!("the segment follows {:?}, but {found:?} was found", start.last),
            ));
        }
        Ok(())
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

    fn frame(&mut self, first: bool, header: &FrameHeader, mut body: &[u8]) -> Result<(), OpenError> {
        let position = header.position;
        let short = |this: &Self| this.damaged(position, "a frame body is too short");
        match header.kind {
            FrameKind::Segment => self.segment(position, first, body)?,
            FrameKind::Entries => self.entries(header, body)?,
            FrameKind::Truncate => {
                let after = get_optional_log_id(&mut body).ok_or_else(|| short(self))?;
                let next = after.map_or(0, |id: LogId| id.index + 1);
                self.index.truncate(next);
                self.unsure.split_off(&next);
            }
            FrameKind::Vote => self.index.vote = get_vote(&mut body).ok_or_else(|| short(self))?,
            FrameKind::Purge => {
                if let Some(upto) = get_optional_log_id(&mut body).ok_or_else(|| short(self))? {
                    self.index.purge(upto);
                    self.unsure = self.unsure.split_off(&(upto.index + 1));
                }
            }
            FrameKind::Committed => {
                self.index.committed = get_optional_log_id(&mut body).ok_or_else(|| short(self))?;
            }
        }
        Ok(())
    }
}

fn scan(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    owner: Identity,
    options: &Options,
) -> Result<Opened, OpenError> {
    let dir = layout.log_dir();
    let reading = |what: &str| io_error(format!("{what} the log in {}", dir.display()));
    let mut mark = open_mark(disk, layout)?;
    let found = mark.last();
    if found.owner != owner {
        return Err(OpenError::Owner { dir, found: found.owner.node, expected: owner.node });
    }
    // The process before may have died between a rename and its sync: what is named here must stay.
    disk.sync_dir(&dir).map_err(reading("sync"))?;
    for (name, _) in disk.read_dir(&dir).map_err(reading("list"))? {
        if name.to_str().is_some_and(|name| name.ends_with(".new")) {
            disk.unlink(&dir.join(&name)).map_err(reading("clean"))?;
        }
    }
    let bases = list_segments(disk, &dir).map_err(reading("list"))?;
    let mut rebuild = Rebuild {
        index: Index::new(options.cache_bytes),
        dir: dir.clone(),
        mark: found,
        unsure: BTreeMap::new(),
    };
    let mut end = match bases.first() {
        Some(base) => *base,
        None => return Err(rebuild.damaged(0, "there is no segment")),
    };
    let mut cut_bytes = 0;
    for (number, base) in bases.iter().enumerate() {
        if *base != end {
            return Err(rebuild.damaged(end, format!("the next segment starts at {base}: one is missing")));
        }
        let segment = SegmentScan::open(disk, layout, *base).map_err(reading("open"))?;
        let is_last = number + 1 == bases.len();
        if is_last {
            segment.file.sync_data().map_err(reading("sync"))?;
            segment.file.drop_cache().map_err(reading("sync"))?;
        }
        loop {
            match segment.frame_at(end).map_err(reading("read"))? {
                Next::End => break,
                Next::Frame { header, body } => {
                    if (header.kind == FrameKind::Segment) != (end == *base) {
                        return Err(rebuild.damaged(end, "a segment does not start with its own start frame"));
                    }
                    rebuild.frame(number == 0, &header, &body)?;
                    end += header.frame_bytes();
                }
                Next::Bad(why) => {
                    let later = segment.whole_frame_after(end).map_err(reading("read"))?;
                    if end < found.durable || !is_last || end == *base {
                        return Err(rebuild
                            .damaged(end, format!("{why}, below what was durable ({})", found.durable)));
                    }
                    if let Some(later) = later {
                        return Err(
                            rebuild.damaged(end, format!("{why}, but a whole frame follows at {later}"))
                        );
                    }
                    cut_bytes = segment.end() - end;
                    tracing::warn!(
                        position = end,
                        cut_bytes,
                        why,
                        "cutting the unacknowledged torn tail of the log"
                    );
                    segment.file.set_len(end - base).map_err(reading("cut"))?;
                    segment.file.sync_all().map_err(reading("cut"))?;
                    break;
                }
            }
        }
    }
    if end < found.durable {
        return Err(rebuild.damaged(end, format!("it ends here, but was durable up to {}", found.durable)));
    }
    if found.vote > rebuild.index.vote {
        return Err(rebuild.damaged(end, format!("the vote {:?} is newer than the log's", found.vote)));
    }
    let verified_payloads = verify_unsure(disk, layout, &rebuild)?;
    let base = *bases.last().expect("there is a segment");
    let wal = Wal::resume(disk.clone(), dir.clone(), base, end).map_err(reading("open"))?;
    let index = rebuild.index;
    mark.write(end, index.vote, index.purged()).map_err(reading("mark"))?;
    let entries = index.next_index() - index.purged().map_or(0, |id| id.index + 1);
    let report = Recovered { created: false, entries, cut_bytes, verified_payloads };
    Ok(Opened { index, wal, mark, report })
}

/// Reads back, past the page cache, every payload whose header lies above the mark.
fn verify_unsure(disk: &Arc<dyn Disk>, layout: &Layout, rebuild: &Rebuild) -> Result<u64, OpenError> {
    let mut files: BTreeMap<PathBuf, Box<dyn DiskFile>> = BTreeMap::new();
    let mut dirs = BTreeSet::new();
    for (index, (place, header)) in &rebuild.unsure {
        let Some(Kind::Chunk(chunk)) = &header.kind else { continue };
        let (path, offset) = match place {
            Place::Aside => (layout.aside_file(chunk.attempt, *index), 0),
            _ => (layout.staged_file(chunk.attempt, chunk.file), chunk.offset),
        };
        let missing = |error: io::Error| {
            rebuild.damaged(
                rebuild.mark.durable,
                format!("payload of entry {index} in {}: {error}", path.display()),
            )
        };
        if !files.contains_key(&path) {
            let file = disk.open(&path, Open::Read).map_err(missing)?;
            file.sync_data().map_err(missing)?;
            file.drop_cache().map_err(missing)?;
            if let Some(dir) = path.parent()
                && dirs.insert(dir.to_path_buf())
            {
                disk.sync_dir(dir).map_err(missing)?;
            }
            if files.len() >= 256 {
                files.clear();
            }
            files.insert(path.clone(), file);
        }
        let mut bytes = vec![0; chunk.len as usize];
        files[&path].read_exact_at(&mut bytes, offset).map_err(missing)?;
        shape::check_shape(header, Some(&bytes))
            .map_err(|why| missing(io::Error::new(io::ErrorKind::InvalidData, why.to_string())))?;
    }
    Ok(rebuild.unsure.len() as u64)
}
