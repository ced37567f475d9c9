//! Fields of rows as bytes: big-endian numbers, byte strings behind a 32-bit length. Knows no table.

use checkpoint::{CommitId, Digest, JobName};

use crate::record::LogId;

/// Bytes that are no ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a ledger: {0}")]
pub struct DecodeError(pub &'static str);

/// Writes fields end to end.
#[derive(Default)]
pub(super) struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    pub fn u8(&mut self, number: u8) -> &mut Self {
        self.raw(&[number])
    }
    pub fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    pub fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    pub fn option(&mut self, number: Option<u64>) -> &mut Self {
        self.u8(u8::from(number.is_some())).u64(number.unwrap_or(0))
    }
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.raw(digest.as_bytes())
    }
    pub fn name(&mut self, name: &JobName) -> &mut Self {
        self.raw(name.as_str().as_bytes()).u8(0)
    }
    pub fn string(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("judged to be short")).raw(bytes)
    }
    pub fn position(&mut self, id: LogId) -> &mut Self {
        self.u64(id.term).u64(id.node).u64(id.index)
    }
}

/// Reads fields end to end; never past the end.
pub(super) struct Reader<'a> {
    pub rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError("a row is too short"))?;
        self.rest = rest;
        Ok(taken)
    }
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError("a row is too long")) }
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    pub fn option(&mut self) -> Result<Option<u64>, DecodeError> {
        let some = self.u8()? != 0;
        let number = self.u64()?;
        Ok(some.then_some(number))
    }
    pub fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest::from_bytes(self.array()?))
    }
    pub fn commit(&mut self) -> Result<CommitId, DecodeError> {
        Ok(CommitId::from_bytes(self.array()?))
    }
    pub fn name(&mut self) -> Result<JobName, DecodeError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(DecodeError("a name without an end"))?;
        let name = text(self.take(end)?)?;
        self.take(1)?;
        JobName::try_from(name.as_str()).map_err(|_| DecodeError("a job name that is none"))
    }
    pub fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    pub fn text(&mut self) -> Result<String, DecodeError> {
        text(self.string()?)
    }
    pub fn position(&mut self) -> Result<LogId, DecodeError> {
        Ok(LogId { term: self.u64()?, node: self.u64()?, index: self.u64()? })
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError("a text that is not UTF-8"))
}
