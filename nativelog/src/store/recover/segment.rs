//! Reads a segment, frame by frame, and believes nothing that has no checksum.

use std::io;
use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::{Disk, DiskFile, Open};

use crate::store::frame::{FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::store::wal::{SegmentStart, segment_name};

/// Reads one segment front to back.
pub struct SegmentScan {
    base: u64,
    len: u64,
    file: Box<dyn DiskFile>,
}

/// What lies at an offset.
pub enum Next {
    /// A whole frame.
    Frame {
        /// Its fixed part.
        header: FrameHeader,
        /// Its body.
        body: Vec<u8>,
    },
    /// The end of the segment.
    End,
    /// No frame, and why not.
    Bad(&'static str),
}

impl SegmentScan {
    /// Opens the segment that starts at `base`.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, base: u64) -> io::Result<SegmentScan> {
        let file = disk.open(&dir.join(segment_name(base)), Open::Write)?;
        let len = file.len()?;
        Ok(SegmentScan { base, len, file })
    }

    /// Forgets what the cache shows and the device does not have.
    pub fn drop_cache(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.file.drop_cache()
    }

    /// What the segment's first frame says, if it is a whole segment start.
    pub fn start(&self) -> io::Result<Option<SegmentStart>> {
        Ok(match self.frame_at(self.base)? {
            Next::Frame { header, body } if header.kind == FrameKind::Segment => SegmentStart::decode(&body),
            _ => None,
        })
    }

    /// The offset behind its last byte.
    pub fn end(&self) -> u64 {
        self.base + self.len
    }

    /// The frame at `position`, an offset in the whole WAL.
    pub fn frame_at(&self, position: u64) -> io::Result<Next> {
        let left = self.end().saturating_sub(position);
        if left == 0 {
            return Ok(Next::End);
        }
        if self.is_zero_from(position)? {
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

    /// Whether nothing but zeros follows: what was to be written over.
    fn is_zero_from(&self, position: u64) -> io::Result<bool> {
        let mut at = position;
        let mut room = [0; 64 << 10];
        // Nearly always decided by the first few bytes.
        let mut step = FRAME_HEADER_BYTES;
        while at < self.end() {
            let len = step.min((self.end() - at) as usize);
            self.file.read_exact_at(&mut room[..len], at - self.base)?;
            if room[..len].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += len as u64;
            step = room.len();
        }
        Ok(true)
    }

    /// The first whole frame after `position`, if there is one.
    pub fn whole_frame_after(&self, position: u64) -> io::Result<Option<u64>> {
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
