//! Rows of sealed content, by its id.

use super::codec::{DecodeError, Reader, Writer};
use crate::ledger::content::Content;

pub(super) fn put(value: &mut Writer, content: &Content) {
    value.digest(&content.digest).u64(content.bytes).u32(content.refs);
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Content, DecodeError> {
    Ok(Content { digest: value.digest()?, bytes: value.u64()?, refs: value.u32()? })
}
