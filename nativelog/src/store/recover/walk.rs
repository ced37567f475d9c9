//! Walks over the WAL, oldest segment first, and tells damage from a torn tail. Changes nothing on disk.
//!
//! It starts at the last segment that follows nothing but purged entries, as the mark says: what lies before is on its
//! way out, whatever state it is in. Whether entries that are not there were purged is asked at the end, because a
//! mark with one slot damaged may know less than the WAL: the frame of a purge, or the start of a later segment,
//! is durable before anything is deleted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::Disk;

use super::error::{OpenError, io_error};
use super::rebuild::{Rebuild, Unsure};
use super::segment::{Next, SegmentScan};
use crate::record::LogId;
use crate::store::frame::FrameKind;
use crate::store::index::Index;
use crate::store::mark::Mark;
use crate::store::wal::{Segment, list_segments, purged_segments};

/// What the WAL holds.
pub struct Walked {
    /// The index.
    pub index: Index,
    /// All segments on disk, oldest first, also those that are on their way out.
    pub segments: Vec<Segment>,
    /// The offset behind the last whole frame.
    pub end: u64,
    /// Why what follows there is no frame, if something follows.
    pub torn: Option<&'static str>,
    /// How much follows there, bytes.
    pub torn_bytes: u64,
    /// The mark's offset: above it nothing was promised.
    pub durable: u64,
    /// Entries above the mark with payloads in files.
    pub unsure: Unsure,
}

/// Walks over all of the WAL in `dir`.
pub fn walk(disk: &Arc<dyn Disk>, dir: &Path, mark: &Mark, cache_bytes: usize) -> Result<Walked, OpenError> {
    let reading = |what: &str| io_error(format!("{what} the log in {}", dir.display()));
    let mut segments = Vec::new();
    for base in list_segments(disk, dir).map_err(reading("list"))? {
        let scan = SegmentScan::open(disk, dir, base).map_err(reading("open"))?;
        let start = scan.start().map_err(reading("read"))?;
        segments.push((base, start));
    }
    // A segment whose start cannot be read follows nothing that could be purged.
    let followed = segments.iter().map(|(base, start)| {
        let unknown = Some(LogId { index: u64::MAX, ..LogId::default() });
        Segment { base: *base, before: start.map_or(unknown, |start| start.last) }
    });
    let segments: Vec<Segment> = followed.collect();
    let first = mark.purged.map_or(0, |purged| purged_segments(segments.iter().copied(), purged));
    let rebuild = Rebuild {
        index: Index::new(mark.owner.node, cache_bytes),
        dir: dir.to_path_buf(),
        mark: *mark,
        purged: None,
        unsure: BTreeMap::new(),
    };
    let Some(base) = segments.get(first).map(|segment| segment.base) else {
        return Err(rebuild.damaged(0, "there is no segment"));
    };
    let mut walk = Walk { disk, dir, rebuild, end: base, torn: None };
    for (number, segment) in segments.iter().enumerate().skip(first) {
        walk.segment(segment.base, number == first, number + 1 == segments.len())?;
    }
    let Walk { rebuild, end, torn, .. } = walk;
    let (index, unsure) = rebuild.finish(base, end)?;
    let (torn, torn_bytes) = torn.map_or((None, 0), |(why, bytes)| (Some(why), bytes));
    Ok(Walked { index, segments, end, torn, torn_bytes, durable: mark.durable, unsure })
}

struct Walk<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    rebuild: Rebuild,
    end: u64,
    torn: Option<(&'static str, u64)>,
}

impl Walk<'_> {
    fn segment(&mut self, base: u64, is_first: bool, is_last: bool) -> Result<(), OpenError> {
        let reading = |what: &str| io_error(format!("{what} the log in {}", self.dir.display()));
        if base != self.end {
            let why = format!("the next segment starts at {base}: one is missing, or was cut");
            return Err(self.rebuild.damaged(self.end, why));
        }
        let scan = SegmentScan::open(self.disk, self.dir, base).map_err(reading("open"))?;
        if is_last {
            scan.drop_cache().map_err(reading("sync"))?;
        }
        loop {
            match scan.frame_at(self.end).map_err(reading("read"))? {
                Next::End => return Ok(()),
                Next::Frame { header, body } => {
                    if (header.kind == FrameKind::Segment) != (self.end == base) {
                        let why = "a segment does not start with its own start frame";
                        return Err(self.rebuild.damaged(self.end, why));
                    }
                    self.rebuild.frame(is_first, &header, &body)?;
                    self.end += header.frame_bytes();
                }
                Next::Bad(why) => {
                    let durable = self.rebuild.mark.durable;
                    if self.end < durable || !is_last || self.end == base {
                        let why = format!("{why}, below what was durable ({durable})");
                        return Err(self.rebuild.damaged(self.end, why));
                    }
                    if let Some(later) = scan.whole_frame_after(self.end).map_err(reading("read"))? {
                        let why = format!("{why}, but a whole frame follows at {later}");
                        return Err(self.rebuild.damaged(self.end, why));
                    }
                    self.torn = Some((why, scan.end() - self.end));
                    return Ok(());
                }
            }
        }
    }
}
