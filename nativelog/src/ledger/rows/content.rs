//! Rows of sealed content, by its id.

use std::num::NonZeroU32;

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::content::Content;

pub(super) fn put(value: &mut Writer, content: &Content) {
    value.digest(&content.digest).u64(content.bytes).u64(content.brought).u32(content.refs.get());
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Content, DecodeError> {
    let (digest, bytes, brought) = (value.digest()?, value.u64()?, value.u64()?);
    let refs = NonZeroU32::new(value.u32()?).ok_or(DecodeError("content that nobody holds"))?;
    Ok(Content { digest, bytes, brought, refs })
}
