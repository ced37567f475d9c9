//! A header and the bytes it came as.
//!
//! **Guarantees.** What a replica stores, sends on and counts of a header are the very bytes that it was given:
//! whatever they hold that this binary does not know is there for a later one, and `log_bytes` is the same on
//! every replica. Encoded once, by who composed it.

use std::ops::Deref;

use bytes::Bytes;
use checkpoint::limits::PART_BYTES_MAX;
use prost::Message;

use super::proto::Record;

/// Largest encoded header, in bytes: a page of a plan, and labels beside it.
pub const HEADER_BYTES_MAX: usize = PART_BYTES_MAX + HEADER_SLACK;
/// What a header may hold beside a page of a plan: labels at their limits do not fit, a pack's list does.
const HEADER_SLACK: usize = 128 << 10;

/// What labels and the names of epochs to depend on may take together, as [`texts_bytes`] counts them. Beside them a Begin or
/// a Whole has the longest name of a job, a page of a plan, 64 packed files and the time that its leader adds: all that fits, so
/// that what is begun is not refused for its size later.
pub const TEXTS_BYTES_MAX: usize = HEADER_SLACK - (16 << 10);
/// What the encoding adds to a text, at most.
const TEXT_FRAME_BYTES: usize = 8;

/// Bytes that such texts take in a header, at most.
pub fn texts_bytes<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(|text| text.len() + TEXT_FRAME_BYTES).sum()
}

/// A decoded header with its encoded form; reads as the [`Record`] it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    record: Record,
    wire: Bytes,
}

/// Bytes that are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// More than [`HEADER_BYTES_MAX`]; nothing was decoded.
    #[error("a header of {0} bytes is over the limit")]
    TooLong(usize),
    /// Not protobuf of a record.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

impl Header {
    /// Encodes `record`.
    pub fn new(record: Record) -> Header {
        let wire = record.encode_to_vec().into();
        Header { record, wire }
    }

    /// Decodes what came from the wire or from disk, and keeps a copy of it: `bytes` may be a slice of a whole frame,
    /// which would stay in memory as long as the header.
    ///
    /// # Errors
    /// Too many bytes, or none of a record.
    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        if bytes.len() > HEADER_BYTES_MAX {
            return Err(HeaderError::TooLong(bytes.len()));
        }
        let wire = Bytes::copy_from_slice(bytes);
        // Byte fields of the record are slices of `wire`.
        let record = Record::decode(wire.clone())?;
        Ok(Header { record, wire })
    }

    /// The encoded form.
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The decoded form.
    pub fn into_record(self) -> Record {
        self.record
    }

    /// Bytes that the record takes in the log: its header and its payload.
    pub fn record_bytes(&self) -> u64 {
        (self.wire.len() as u64).saturating_add(self.record.payload_bytes)
    }
}

impl Deref for Header {
    type Target = Record;
    fn deref(&self) -> &Record {
        &self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 60 of the record, five bytes: no version knows it.
    const UNKNOWN: [u8; 8] = [0xe2, 0x03, 5, 1, 2, 3, 4, 5];

    #[test]
    fn what_this_binary_does_not_know_stays_in_the_header() {
        let plain = crate::compose::tick(5).header;
        let bytes = [&plain.wire()[..], &UNKNOWN].concat();
        let header = Header::decode(&bytes).unwrap();
        assert_eq!(header.kind, plain.kind);
        assert_eq!(&header.wire()[..], &bytes[..]);
        assert_eq!(header.record_bytes(), plain.record_bytes() + 8);
    }

    #[test]
    fn the_largest_whole_epoch_fits_with_its_texts_and_the_time_of_its_seal() {
        use crate::record::{Kind, LogRecord, proto};
        use checkpoint::limits::{JOB_NAME_BYTES_MAX, LABELS_MAX, WHOLE_ENTRIES_MAX};
        let digest = || Bytes::from(vec![7; 32]);
        let value = "v".repeat(TEXTS_BYTES_MAX / LABELS_MAX - 2 * TEXT_FRAME_BYTES - 1);
        let label = || proto::Label { key: "k".into(), value: value.clone() };
        let labels: Vec<_> = std::iter::repeat_with(label).take(LABELS_MAX).collect();
        let texts = labels.iter().flat_map(|label| [label.key.as_str(), label.value.as_str()]);
        assert_eq!(texts_bytes(texts), TEXTS_BYTES_MAX);
        let begin = proto::Begin {
            job: "j".repeat(JOB_NAME_BYTES_MAX),
            epoch: Some(u64::MAX),
            token: Some(u64::MAX),
            commit_id: Bytes::from(vec![7; 16]),
            declared_bytes: u64::MAX,
            chunk_bytes: u32::MAX,
            base: Some(u64::MAX),
            labels,
            plan_digest: digest(),
            plan_pages: u32::MAX,
            plan_entries: u32::MAX,
            attempt: Some(u64::MAX),
            born: u64::MAX,
            depends_on: Vec::new(),
            stored_bytes: Some(u64::MAX),
            store: Some(u64::MAX),
        };
        let file = || proto::PackedFile { file: u32::MAX, offset: u32::MAX, len: u32::MAX, digest: digest() };
        let whole = proto::Whole {
            begin: Some(begin),
            entries: vec![7; PART_BYTES_MAX].into(),
            files: std::iter::repeat_with(file).take(WHOLE_ENTRIES_MAX).collect(),
            root: digest(),
            wall_ms: 0,
        };
        let stamped = LogRecord::new(Kind::Whole(whole), Bytes::new()).sealed_at(u64::MAX);
        assert!(stamped.header.wire().len() <= HEADER_BYTES_MAX, "{}", stamped.header.wire().len());
    }

    #[test]
    fn a_header_over_the_limit_is_not_even_decoded() {
        let long = vec![0; HEADER_BYTES_MAX + 1];
        assert_eq!(Header::decode(&long), Err(HeaderError::TooLong(HEADER_BYTES_MAX + 1)));
    }
}
