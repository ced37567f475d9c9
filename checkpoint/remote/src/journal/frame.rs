//! The frames of a journal.

use std::io;

use checkpoint::Digest;
use checkpoint::digest::checksum;
use checkpoint::disk::DiskFile;
use uuid::Uuid;

use super::subject::{PartDone, Subject};
use crate::content::Sums;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;
const SUM_BYTES: usize = 16;
const SUBJECT_BYTES: usize = 1 + 16 + 32 + 8 + 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Subject(Subject),
    Nonce(u64),
    Upload(String),
    Part(u32, PartDone),
    Done,
}

impl Frame {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kind = match self {
            Frame::Subject(subject) => {
                payload.push(VERSION);
                payload.extend_from_slice(subject.cluster.as_bytes());
                payload.extend_from_slice(subject.digest.as_bytes());
                payload.extend_from_slice(&subject.attempt.to_le_bytes());
                payload.extend_from_slice(&subject.len.to_le_bytes());
                0
            }
            Frame::Nonce(nonce) => {
                payload.extend_from_slice(&nonce.to_le_bytes());
                1
            }
            Frame::Upload(id) => {
                payload.extend_from_slice(id.as_bytes());
                2
            }
            Frame::Part(index, part) => {
                payload.extend_from_slice(&index.to_le_bytes());
                payload.extend_from_slice(&part.sums.crc64.to_le_bytes());
                payload.extend_from_slice(&part.sums.crc32c.to_le_bytes());
                payload.extend_from_slice(part.id.as_bytes());
                3
            }
            Frame::Done => 4,
        };
        let mut data = Vec::with_capacity(HEAD_BYTES + payload.len() + SUM_BYTES);
        data.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        data.push(kind);
        data.extend_from_slice(&payload);
        data.extend_from_slice(&checksum(&[&[kind], &payload]));
        data
    }

    // `None`: the frame is whole, but of no kind that this version knows.
    fn decode(kind: u8, payload: &[u8]) -> Option<Frame> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        match kind {
            0 if payload.len() == SUBJECT_BYTES && payload[0] == VERSION => Some(Frame::Subject(Subject {
                cluster: Uuid::from_slice(&payload[1..17]).ok()?,
                digest: Digest::from_slice(&payload[17..49])?,
                attempt: u64::from_le_bytes(payload[49..57].try_into().ok()?),
                len: u64::from_le_bytes(payload[57..65].try_into().ok()?),
            })),
            1 => Some(Frame::Nonce(u64::from_le_bytes(payload.try_into().ok()?))),
            2 => Some(Frame::Upload(text(payload)?)),
            3 if payload.len() >= 16 => {
                let crc64 = u64::from_le_bytes(payload[4..12].try_into().ok()?);
                let crc32c = u32::from_le_bytes(payload[12..16].try_into().ok()?);
                let part = PartDone { id: text(&payload[16..])?, sums: Sums { crc64, crc32c } };
                Some(Frame::Part(u32::from_le_bytes(payload[..4].try_into().ok()?), part))
            }
            4 if payload.is_empty() => Some(Frame::Done),
            _ => None,
        }
    }
}

/// The whole frames of a file and where they end. A frame that is not whole ends them: it was being written when the
/// power went.
///
/// # Errors
/// Those of the disk; `InvalidData` for a longer file, or a whole frame that this version does not know.
pub(super) fn read(file: &dyn DiskFile, bytes_max: u64) -> io::Result<(Vec<Frame>, u64)> {
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a journal of {len} bytes")));
    }
    let mut data = vec![0; len as usize];
    file.read_exact_at(&mut data, 0)?;
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some((kind, payload)) = whole(&data[at..]) {
        let frame = Frame::decode(kind, payload);
        frames.push(frame.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of kind {kind} at byte {at} is of no version that this program knows"),
            )
        })?);
        at += HEAD_BYTES + payload.len() + SUM_BYTES;
    }
    Ok((frames, at as u64))
}

fn whole(data: &[u8]) -> Option<(u8, &[u8])> {
    let len = u32::from_le_bytes(data.get(..4)?.try_into().ok()?) as usize;
    let kind = *data.get(4)?;
    let end = HEAD_BYTES.checked_add(len)?;
    let payload = data.get(HEAD_BYTES..end)?;
    let sum = data.get(end..end.checked_add(SUM_BYTES)?)?;
    (sum == checksum(&[&[kind], payload])).then_some((kind, payload))
}
