//! What stands before the tree in a manifest file: which epoch this is and
//! where in the log it was sealed. The same on every replica.

use serde::{Deserialize, Serialize};

use super::ManifestError;
use crate::digest::{Digest, checksum};
use crate::encoding::{Reader, SHORT, put_short};
use crate::epoch::JobName;

const MAGIC: &[u8; 8] = b"EPOCHLOG";
const VERSION: u32 = 1;
/// Largest envelope, bytes.
pub(crate) const ENVELOPE_BYTES_MAX: usize = 8 << 20;

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// That leader.
    pub node: u64,
    /// Index.
    pub index: u64,
}

/// Name, origin and labels of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The job.
    pub job: JobName,
    /// The epoch's number.
    pub epoch: u64,
    /// The attempt that was sealed: the log index of its first record.
    pub attempt: u64,
    /// Where the seal stands in the log.
    pub position: Position,
    /// Digest of the tree's canonical bytes.
    pub root: Digest,
    /// Labels, in the order they were given.
    pub labels: Vec<(String, String)>,
    /// What this epoch depends on, as it was given.
    pub depends_on: Vec<String>,
    /// The epoch this one was made from.
    pub base: Option<u64>,
    /// Log time of the seal, milliseconds.
    pub sealed_log_ms: u64,
}

impl Envelope {
    /// The bytes, with magic, version, length and checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        put_short(&mut body, self.job.as_str().as_bytes());
        let Position { term, node, index } = self.position;
        for number in [self.epoch, self.attempt, term, node, index, self.sealed_log_ms] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(self.root.as_bytes());
        body.push(u8::from(self.base.is_some()));
        body.extend_from_slice(&self.base.unwrap_or(0).to_le_bytes());
        body.extend_from_slice(&(self.labels.len() as u32).to_le_bytes());
        for (key, value) in &self.labels {
            put_short(&mut body, key.as_bytes());
            put_short(&mut body, value.as_bytes());
        }
        body.extend_from_slice(&(self.depends_on.len() as u32).to_le_bytes());
        for epoch in &self.depends_on {
            put_short(&mut body, epoch.as_bytes());
        }
        let mut bytes = Vec::with_capacity(body.len() + 32);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        let sum = checksum(&[&bytes]);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// Whether these bytes, however few there are, begin as every manifest file does.
    pub(crate) fn is_begun_by(head: &[u8]) -> bool {
        MAGIC.starts_with(&head[..head.len().min(MAGIC.len())])
    }

    /// Bytes of the whole envelope, from its first 16 bytes.
    pub fn encoded_len(head: &[u8; 16]) -> Result<usize, ManifestError> {
        let mut read = Reader::new(head, 0);
        if read.take(8)? != MAGIC {
            return Err(ManifestError::Malformed { at: 0, why: "not a manifest file" });
        }
        let version = read.u32()?;
        if version != VERSION {
            return Err(ManifestError::Version { found: version, known: VERSION });
        }
        Ok(read.u32()? as usize + 32)
    }

    /// Reads an envelope from the front of `bytes`; the number of bytes it took comes with it.
    pub fn decode(bytes: &[u8]) -> Result<(Envelope, usize), ManifestError> {
        let head = bytes.first_chunk::<16>().ok_or(ManifestError::Malformed { at: 0, why: SHORT })?;
        let len = Envelope::encoded_len(head)?;
        if bytes.len() < len {
            return Err(ManifestError::Malformed { at: bytes.len(), why: SHORT });
        }
        let (body, sum) = bytes[..len].split_at(len - 16);
        if checksum(&[body]) != sum {
            return Err(ManifestError::Damaged("the envelope's checksum does not fit"));
        }
        let mut read = Reader::new(body, 16);
        let job = read.text()?;
        let job = JobName::try_from(job.as_str()).map_err(|_| read.wrong("no job name"))?;
        let [epoch, attempt, term, node, index, sealed_log_ms] =
            [read.u64()?, read.u64()?, read.u64()?, read.u64()?, read.u64()?, read.u64()?];
        let root = Digest::from_bytes(read.array()?);
        let base = match (read.take(1)?, read.u64()?) {
            ([0], 0) => None,
            ([1], base) => Some(base),
            _ => return Err(read.wrong("no base").into()),
        };
        let mut labels = Vec::new();
        for _ in 0..read.u32()? {
            labels.push((read.text()?, read.text()?));
        }
        let mut depends_on = Vec::new();
        for _ in 0..read.u32()? {
            depends_on.push(read.text()?);
        }
        read.end()?;
        let position = Position { term, node, index };
        let envelope =
            Envelope { job, epoch, attempt, position, root, labels, depends_on, base, sealed_log_ms };
        Ok((envelope, len))
    }
}
