//! A node's log as the bytes on its disk, read by the prose of `nativelog/docs/format.md` and nothing of its
//! code: where its frames lie, how far it is durable and purged for certain. For planting damage at a chosen place.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Node;

const FRAME_HEADER_BYTES: u64 = 48;
const FRAME_ALIGN: u64 = 8;
const SLOT_BYTES: usize = 4096;

/// The newest slot of the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Counts writes; modulo 2 it is the slot.
    pub sequence: u64,
    /// Everything below this offset of the WAL is durable.
    pub durable: u64,
    /// The last purged index.
    pub purged: Option<u64>,
}

impl Mark {
    /// Reads a node's mark without checking it; `None` without one.
    pub fn of(node: &Node) -> Option<Mark> {
        let bytes = fs::read(Mark::path(node)).ok()?;
        bytes.chunks(SLOT_BYTES).filter_map(Mark::decode).max_by_key(|mark| mark.sequence)
    }

    /// Where it lies.
    pub fn path(node: &Node) -> PathBuf {
        log(node).join("mark")
    }

    /// Offset of its slot in the file.
    pub fn slot(&self) -> u64 {
        self.sequence % 2 * SLOT_BYTES as u64
    }

    fn decode(slot: &[u8]) -> Option<Mark> {
        if slot.get(..8)? != b"ELMARK01" {
            return None;
        }
        let purge = 8 + 8 + 8 + 16 + 8 + 18;
        let purged = if slot.get(purge)? == &1 { Some(u64_at(slot, purge + 17)?) } else { None };
        Some(Mark { sequence: u64_at(slot, 8)?, durable: u64_at(slot, 40)?, purged })
    }
}

/// A frame in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// 1 segment start, 2 entries, 3 truncate, 4 vote, 5 purge, 6 committed.
    pub kind: u8,
    /// Where it starts in its file.
    pub at: u64,
    /// Bytes with header and padding.
    pub len: u64,
}

/// A WAL segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// Offset of its first byte in the whole WAL.
    pub base: u64,
    /// Its frames.
    pub frames: Vec<Frame>,
}

/// The segments of a node, oldest first.
pub fn segments(node: &Node) -> Vec<Segment> {
    let entries = fs::read_dir(log(node)).into_iter().flatten().flatten();
    let mut found: Vec<Segment> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let base = u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok()?;
            Some(Segment { frames: frames(&fs::read(entry.path()).ok()?), path: entry.path(), base })
        })
        .collect();
    found.sort_by_key(|segment| segment.base);
    found
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    let mut at = 0u64;
    loop {
        let start = usize::try_from(at).expect("a segment fits in memory");
        let Some(header) = bytes.get(start..start + 48).filter(|header| &header[..4] == b"ELF1") else {
            return found;
        };
        let body = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        let len = (FRAME_HEADER_BYTES + u64::from(body)).next_multiple_of(FRAME_ALIGN);
        if at + len > bytes.len() as u64 {
            return found;
        }
        found.push(Frame { kind: header[4], at, len });
        at += len;
    }
}

/// Index of the last entry that a node's log holds whole; truncations and purges are not looked at.
pub fn last_index(node: &Node) -> Option<u64> {
    segments(node).iter().rev().find_map(|segment| {
        let bytes = fs::read(&segment.path).ok()?;
        let entries = segment.frames.iter().rev().filter(|frame| frame.kind == 2);
        entries.filter_map(|frame| last_entry(&bytes, *frame)).next()
    })
}

/// Walks the run of entries in a frame.
fn last_entry(bytes: &[u8], frame: Frame) -> Option<u64> {
    let body_len = u64::from(u32_at(bytes, usize::try_from(frame.at + 8).ok()?)?);
    let start = usize::try_from(frame.at + FRAME_HEADER_BYTES).ok()?;
    let body = bytes.get(start..start + usize::try_from(body_len).ok()?)?;
    let (mut at, mut last) = (0, None);
    while let Some(index) = u64_at(body, at + 18) {
        let header = u32_at(body, at + 26)? as usize;
        let payload = if body[at + 1] == 0 { u32_at(body, at + 30)? as usize } else { 0 };
        last = Some(index);
        at += 34 + header + payload;
    }
    last
}

/// Log indexes of the ledger snapshots on a node's disk, oldest first.
pub fn snapshots(node: &Node) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(node.data.join("groups/main/snapshots")).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (index, _number) = name.strip_suffix(".snap")?.split_once('-')?;
            Some((u64::from_str_radix(index, 16).ok()?, entry.path()))
        })
        .collect();
    found.sort();
    found
}

fn log(node: &Node) -> PathBuf {
    let group: &Path = &node.data;
    group.join("groups/main/log")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_frames_are_found_and_a_torn_one_is_none() {
        let frame = |kind: u8, body: usize| {
            let mut bytes = vec![0; (48 + body).next_multiple_of(8)];
            bytes[..4].copy_from_slice(b"ELF1");
            bytes[4] = kind;
            bytes[8..12].copy_from_slice(&u32::try_from(body).unwrap().to_le_bytes());
            bytes
        };
        let mut segment = [frame(1, 70), frame(2, 5)].concat();
        segment.extend(&frame(2, 100)[..90]);
        assert_eq!(
            frames(&segment)[..],
            [Frame { kind: 1, at: 0, len: 120 }, Frame { kind: 2, at: 120, len: 56 }]
        );
    }

    #[test]
    fn the_last_entry_of_a_frame_is_found_behind_inline_payloads() {
        let entry = |placed: u8, index: u64, header: u32, payload: u32| {
            let mut bytes = vec![2, placed];
            [1, 1, index].iter().for_each(|number: &u64| bytes.extend(number.to_le_bytes()));
            bytes.extend(header.to_le_bytes());
            bytes.extend(payload.to_le_bytes());
            bytes.resize(bytes.len() + header as usize + if placed == 0 { payload as usize } else { 0 }, 7);
            bytes
        };
        let body = [entry(0, 8, 3, 100), entry(1, 9, 20, 4096), entry(0, 10, 5, 0)].concat();
        let mut bytes = vec![0; 48];
        bytes[8..12].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(&body);
        let frame = Frame { kind: 2, at: 0, len: bytes.len() as u64 };
        assert_eq!(last_entry(&bytes, frame), Some(10));
    }

    #[test]
    fn a_mark_says_how_far_the_log_is_durable_and_purged() {
        let mut slot = vec![0; SLOT_BYTES];
        slot[..8].copy_from_slice(b"ELMARK01");
        slot[8] = 7;
        slot[40] = 99;
        assert_eq!(Mark::decode(&slot), Some(Mark { sequence: 7, durable: 99, purged: None }));
        slot[66] = 1;
        slot[66 + 17] = 5;
        let mark = Mark::decode(&slot).unwrap();
        assert_eq!((mark.purged, mark.slot()), (Some(5), 4096));
    }
}
