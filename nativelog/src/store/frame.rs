//! Frames: what a WAL segment is made of. See `docs/format.md` for the bytes in prose.
//!
//! A frame names its own position and the position that was durable before it was written, so
//! that a frame in a wrong place is not a frame, and damage can be told from a torn tail.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use checkpoint::digest;

use super::owner::Vote;
use crate::record::{Body, Entry, Header, LogId, LogRecord};

const MAGIC: u32 = u32::from_le_bytes(*b"ELF1");
const VERSION: u8 = 1;
/// Bytes of a frame before its body.
pub const FRAME_HEADER_BYTES: usize = 48;
/// Frames start at multiples of this many bytes.
pub const FRAME_ALIGN: u64 = 8;
/// A frame body is never longer: a batch is cut before.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 20;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame of a segment: what went before it.
    Segment = 1,
    /// A batch of entries.
    Entries = 2,
    /// Everything above a position is gone.
    Truncate = 3,
    /// A vote.
    Vote = 4,
    /// Everything up to a position is gone.
    Purge = 5,
    /// A committed position; informational.
    Committed = 6,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => FrameKind::Segment,
            2 => FrameKind::Entries,
            3 => FrameKind::Truncate,
            4 => FrameKind::Vote,
            5 => FrameKind::Purge,
            6 => FrameKind::Committed,
            _ => return None,
        })
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameKind,
    /// Bytes of the body.
    pub body_len: usize,
    /// Offset of this frame in the whole WAL.
    pub position: u64,
    /// Everything below this offset was durable before this frame was written.
    pub durable: u64,
    checksum: [u8; 16],
}

impl FrameHeader {
    /// Parses the fixed part; `None` when these bytes do not start a frame of `position`.
    pub fn parse(bytes: &[u8], position: u64) -> Option<FrameHeader> {
        let mut b = bytes.get(..FRAME_HEADER_BYTES)?;
        if b.get_u32_le() != MAGIC {
            return None;
        }
        let kind = FrameKind::from_byte(b.get_u8())?;
        if b.get_u8() != VERSION || b.get_u16_le() != 0 {
            return None;
        }
        let body_len = b.get_u32_le() as usize;
        if b.get_u32_le() != 0 || body_len > FRAME_BODY_BYTES_MAX {
            return None;
        }
        let (at, durable) = (b.get_u64_le(), b.get_u64_le());
        let mut checksum = [0; 16];
        b.copy_to_slice(&mut checksum);
        (at == position && durable <= at).then_some(FrameHeader {
            kind,
            body_len,
            position,
            durable,
            checksum,
        })
    }

    /// True when `body` is what was written with this header.
    pub fn verify(&self, fixed: &[u8], body: &[u8]) -> bool {
        digest::checksum(&[&fixed[..FRAME_HEADER_BYTES - 16], body]) == self.checksum
    }

    /// Bytes that the whole frame takes in the segment.
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(self.body_len)
    }
}

/// Bytes that a frame with `body_len` bytes takes, padding included.
pub fn frame_bytes(body_len: usize) -> u64 {
    (FRAME_HEADER_BYTES as u64 + body_len as u64).next_multiple_of(FRAME_ALIGN)
}

/// Encodes a frame, padded with zeros to [`FRAME_ALIGN`].
pub fn encode_frame(kind: FrameKind, position: u64, durable: u64, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= FRAME_BODY_BYTES_MAX, "a batch is cut before its frame grows too long");
    let mut out = Vec::with_capacity(frame_bytes(body.len()) as usize);
    out.put_u32_le(MAGIC);
    out.put_u8(kind as u8);
    out.put_u8(VERSION);
    out.put_u16_le(0);
    out.put_u32_le(body.len() as u32);
    out.put_u32_le(0);
    out.put_u64_le(position);
    out.put_u64_le(durable);
    let checksum = digest::checksum(&[&out, body]);
    out.put_slice(&checksum);
    out.put_slice(body);
    out.resize(frame_bytes(body.len()) as usize, 0);
    out
}

pub(super) fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.node);
    out.put_u64_le(id.index);
}

pub(super) fn get_log_id(b: &mut impl Buf) -> Option<LogId> {
    (b.remaining() >= 24).then(|| LogId { term: b.get_u64_le(), node: b.get_u64_le(), index: b.get_u64_le() })
}

pub(super) fn put_optional_log_id(out: &mut Vec<u8>, id: Option<LogId>) {
    out.put_u8(u8::from(id.is_some()));
    put_log_id(out, id.unwrap_or_default());
}

pub(super) fn get_optional_log_id(b: &mut impl Buf) -> Option<Option<LogId>> {
    if b.remaining() < 25 {
        return None;
    }
    let present = b.get_u8() != 0;
    let id = get_log_id(b)?;
    Some(present.then_some(id))
}

pub(super) fn put_vote(out: &mut Vec<u8>, vote: Option<Vote>) {
    let v = vote.unwrap_or_default();
    out.put_u8(u8::from(vote.is_some()));
    out.put_u64_le(v.term);
    out.put_u64_le(v.node);
    out.put_u8(u8::from(v.committed));
}

pub(super) fn get_vote(b: &mut impl Buf) -> Option<Option<Vote>> {
    if b.remaining() < 18 {
        return None;
    }
    let present = b.get_u8() != 0;
    let vote = Vote { term: b.get_u64_le(), node: b.get_u64_le(), committed: b.get_u8() != 0 };
    Some(present.then_some(vote))
}

/// Where an entry's payload lies, as the frame says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Placed {
    /// Behind the header, or there is none.
    Inline = 0,
    /// In the staged file that the header names, at the offset that it names.
    Staged = 1,
    /// In a file of its own, because another record had taken the range.
    Aside = 2,
}

/// One entry inside an [`FrameKind::Entries`] body.
#[derive(Debug, Clone)]
pub struct FramedEntry {
    /// Its position.
    pub id: LogId,
    /// 0 blank, 1 membership, 2 record.
    pub tag: u8,
    /// Where its payload lies.
    pub placed: Placed,
    /// Offset of the header in the body.
    pub header_at: usize,
    /// Bytes of the header.
    pub header_len: usize,
    /// Bytes of the payload, wherever it lies.
    pub payload_len: usize,
}

/// Fixed bytes before each entry's header: tag, placed, log id, two lengths.
const ENTRY_FIXED_BYTES: usize = 2 + 24 + 8;

/// Appends `entry` to a frame body. Returns the offset of its header and the header's length.
pub fn put_entry(out: &mut Vec<u8>, entry: &Entry, placed: Placed) -> (usize, usize) {
    let (tag, header): (u8, Bytes) = match &entry.body {
        Body::Blank => (0, Bytes::new()),
        Body::Membership(bytes) => (1, bytes.clone()),
        Body::Record(record) => (2, record.header.wire().clone()),
    };
    out.put_u8(tag);
    out.put_u8(placed as u8);
    put_log_id(out, entry.id);
    out.put_u32_le(header.len() as u32);
    out.put_u32_le(entry.payload_len() as u32);
    let at = out.len();
    out.put_slice(&header);
    if placed == Placed::Inline
        && let Body::Record(record) = &entry.body
    {
        out.put_slice(&record.payload);
    }
    (at, header.len())
}

/// Parses a frame body into its entries; `None` when it is not one.
pub fn parse_entries(body: &[u8]) -> Option<Vec<FramedEntry>> {
    let mut out = Vec::new();
    let mut at = 0usize;
    while at < body.len() {
        let mut b = body.get(at..at + ENTRY_FIXED_BYTES)?;
        let tag = b.get_u8();
        let placed = match b.get_u8() {
            0 => Placed::Inline,
            1 => Placed::Staged,
            2 => Placed::Aside,
            _ => return None,
        };
        let id = get_log_id(&mut b)?;
        let (header_len, payload_len) = (b.get_u32_le() as usize, b.get_u32_le() as usize);
        let header_at = at + ENTRY_FIXED_BYTES;
        at = header_at.checked_add(header_len)?;
        if placed == Placed::Inline {
            at = at.checked_add(payload_len)?;
        }
        if at > body.len() || tag > 2 {
            return None;
        }
        out.push(FramedEntry { id, tag, placed, header_at, header_len, payload_len });
    }
    Some(out)
}

/// Decodes an entry's header bytes.
pub fn decode_body(tag: u8, header: &[u8]) -> Option<Body> {
    match tag {
        0 => Some(Body::Blank),
        1 => Some(Body::Membership(Bytes::copy_from_slice(header))),
        2 => {
            let header = Header::decode(header).ok()?;
            Some(Body::Record(LogRecord::from_parts(Arc::new(header), Bytes::new())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_another_place_is_not_a_frame() {
        let frame = encode_frame(FrameKind::Vote, 640, 64, b"body");
        let header = FrameHeader::parse(&frame, 640).unwrap();
        assert_eq!((header.kind, header.body_len, header.durable), (FrameKind::Vote, 4, 64));
        assert!(header.verify(&frame, b"body"));
        assert!(FrameHeader::parse(&frame, 648).is_none());
        assert_eq!(frame.len() as u64 % FRAME_ALIGN, 0);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = encode_frame(FrameKind::Purge, 8, 0, b"0123456789");
        let body_end = FRAME_HEADER_BYTES + 10;
        for bit in 0..body_end * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let good = FrameHeader::parse(&bad, 8)
                .and_then(|h| {
                    Some(h.verify(&bad, bad.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + h.body_len)?))
                })
                .unwrap_or(false);
            assert!(!good, "bit {bit} flipped unnoticed");
        }
    }
}
