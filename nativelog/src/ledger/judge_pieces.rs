//! Judges what fills an attempt: pages of the plan, chunks, packs, zeros, references.
//!
//! Each is idempotent. The same range with the same digest again is `Done`; the same range with
//! another digest, or a range that overlaps another, is `Overlap`.

use std::collections::BTreeSet;

use checkpoint::Digest;
use checkpoint::digest::is_subtree;
use checkpoint::limits::CHUNK_BYTES_MIN;

use super::attempt::{Attempt, Fit, NewPage};
use super::change::{Change, PackedEntry};
use super::fields::{digest, malformed};
use super::files::Stub;
use super::held::PageSays;
use super::paging::miscounted;
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::proto;

impl Ledger {
    pub(super) fn judge_part(&self, part: &proto::Part) -> Result<Change, Rejected> {
        let attempt = self.open_attempt(part.attempt)?;
        let terms = &attempt.terms;
        let here = attempt.pages.len() as u32;
        if part.page >= terms.plan_pages {
            return Err(malformed(format!("the plan has {} pages", terms.plan_pages)));
        }
        if part.page > here {
            return Err(Rejected::new(Reason::Incomplete, format!("page {here} of the plan comes first")));
        }
        let content = self.page_digest(part);
        if let Some(there) = attempt.pages.get(part.page as usize) {
            if there.digest == content {
                return Ok(again(part.attempt));
            }
            return Err(Rejected::new(Reason::Conflict, "this page of the plan is here with other entries"));
        }
        if part.entries.is_empty() {
            return Err(malformed("a page of a plan is not empty"));
        }
        let PageSays { stubs, checking } = self.page_says(attempt, part)?;
        let last = here + 1 == terms.plan_pages;
        if last {
            if attempt.files.len() + stubs.len() < terms.plan_entries as usize {
                return Err(miscounted(terms.plan_entries));
            }
            let (bytes, digest) = checking.finish().map_err(|error| malformed(error.to_string()))?;
            judge_plan(bytes, digest, terms.declared_bytes, &terms.plan_digest)?;
        }
        let bytes = u32::try_from(part.entries.len()).map_err(|_| malformed("a page of 4 GiB"))?;
        let page = NewPage { stubs, bytes, digest: content };
        Ok(Change::Page { attempt: part.attempt, page, checking: (!last).then(|| Box::new(checking)) })
    }

    pub(super) fn judge_chunk(&self, chunk: &proto::Chunk, payload_bytes: u64) -> Result<Change, Rejected> {
        let attempt = self.attempt_with_plan(chunk.attempt)?;
        let size = file_of(attempt, chunk.file)?.size();
        let digest = digest(&chunk.digest)?;
        let len = u64::from(chunk.len);
        if chunk.offset.checked_add(len).is_none_or(|end| len == 0 || end > size) {
            return Err(malformed("the chunk lies beyond the end of its file"));
        }
        if chunk.len > attempt.terms.chunk_bytes || payload_bytes != len {
            return Err(malformed("the chunk is longer than the attempt's chunk size, or than its payload"));
        }
        if !is_run(size, chunk.offset, len) {
            return Err(malformed("the chunk is not one aligned run of its file"));
        }
        judge_size(chunk.file, size, chunk.file_bytes)?;
        judge_range(attempt, chunk.attempt, chunk.file, chunk.offset, len, digest)
    }

    pub(super) fn judge_zero(&self, zero: &proto::Zero) -> Result<Change, Rejected> {
        let attempt = self.attempt_with_plan(zero.attempt)?;
        let size = file_of(attempt, zero.file)?.size();
        let digest = digest(&zero.digest)?;
        if zero.offset.checked_add(zero.len).is_none_or(|end| zero.len == 0 || end > size) {
            return Err(malformed("the zeros lie beyond the end of their file"));
        }
        if zero.len > self.limits().zero_bytes_max {
            return Err(malformed("a record holds at most 64 MiB of zeros"));
        }
        if !is_run(size, zero.offset, zero.len) {
            return Err(malformed("the zeros are not one aligned run of their file"));
        }
        judge_size(zero.file, size, zero.file_bytes)?;
        judge_range(attempt, zero.attempt, zero.file, zero.offset, zero.len, digest)
    }

    pub(super) fn judge_pack(&self, pack: &proto::Pack, payload_bytes: u64) -> Result<Change, Rejected> {
        let attempt = self.attempt_with_plan(pack.attempt)?;
        let rules = self.limits();
        if pack.files.is_empty()
            || pack.files.len() > rules.pack_files_max
            || payload_bytes > rules.pack_bytes_max
        {
            return Err(malformed("a pack holds 1 to 4096 files and at most 1 MiB"));
        }
        let (mut files, mut twice) = (Vec::with_capacity(pack.files.len()), twice());
        for packed in &pack.files {
            if twice(packed.file) {
                return Err(malformed(format!("file {} is in the pack twice", packed.file)));
            }
            let size = file_of(attempt, packed.file)?.size();
            let packed = packed_entry(packed, size, payload_bytes)?;
            if packed.len > 0 && is_new(attempt, packed.file, 0, size, &packed.digest)? {
                files.push(packed);
            }
        }
        if files.is_empty() {
            return Ok(again(pack.attempt));
        }
        Ok(Change::Pack { attempt: pack.attempt, files })
    }

    pub(super) fn judge_reuse(&self, reuse: &proto::Reuse) -> Result<Change, Rejected> {
        let attempt = self.attempt_with_plan(reuse.attempt)?;
        if reuse.files.is_empty() || reuse.files.len() > self.limits().reuse_files_max {
            return Err(malformed("a record reuses content for 1 to 1024 files"));
        }
        let (mut files, mut twice) = (Vec::with_capacity(reuse.files.len()), twice());
        for reused in &reuse.files {
            if twice(reused.file) {
                return Err(malformed(format!("file {} is named twice", reused.file)));
            }
            let size = file_of(attempt, reused.file)?.size();
            let digest = digest(&reused.digest)?;
            if size == 0 {
                return Err(malformed("an empty file needs no content"));
            }
            if !is_new(attempt, reused.file, 0, size, &digest)? {
                continue;
            }
            let Some((id, content)) = self.content.find(&digest) else {
                return Err(Rejected::new(Reason::NotFound, format!("no sealed content {}", digest.short())));
            };
            if self.is_quarantined(&digest) {
                let detail =
                    format!("content {} is in quarantine: its bytes have to be sent", digest.short());
                return Err(Rejected::new(Reason::NotFound, detail));
            }
            if content.bytes != size {
                return Err(malformed(format!("the content has {} bytes, the file {size}", content.bytes)));
            }
            self.judge_home(&attempt.terms, id, &digest)?;
            files.push((reused.file, digest, id));
        }
        if files.is_empty() {
            return Ok(again(reuse.attempt));
        }
        Ok(Change::Reuse { attempt: reuse.attempt, files })
    }

    /// The open attempt that a piece names, with its whole plan.
    pub(super) fn attempt_with_plan(&self, id: u64) -> Result<&Attempt, Rejected> {
        let attempt = self.open_attempt(id)?;
        if !attempt.plan_is_complete() {
            let detail =
                format!("{} of {} pages of the plan are here", attempt.pages.len(), attempt.terms.plan_pages);
            return Err(Rejected::new(Reason::Incomplete, detail));
        }
        Ok(attempt)
    }
}

/// Tells of each number whether it was there before. An honest record names its files by rising number: those need no set.
pub(super) fn twice() -> impl FnMut(u32) -> bool {
    let (mut rising, mut seen) = (Vec::new(), BTreeSet::new());
    move |file| {
        if rising.last().is_none_or(|last| *last < file) {
            rising.push(file);
            return false;
        }
        rising.binary_search(&file).is_ok() || !seen.insert(file)
    }
}

/// Whether a range is one subtree of the file's digest tree, in units of the smallest chunk: a
/// chunk with zeros in it travels as smaller ones and zero runs.
fn is_run(size: u64, offset: u64, len: u64) -> bool {
    let unit = u64::from(CHUNK_BYTES_MIN);
    offset.is_multiple_of(unit)
        && (len.is_multiple_of(unit) || offset + len == size)
        && is_subtree(size, offset, len)
}

/// Whether a whole plan, of files of so many bytes together, is the one that Begin declared.
pub(super) fn judge_plan(bytes: u64, digest: Digest, declared: u64, wanted: &Digest) -> Result<(), Rejected> {
    if bytes != declared {
        return Err(malformed("the plan's files do not add up to the declared bytes"));
    }
    if digest != *wanted {
        return Err(malformed("the plan is not the one whose digest was declared"));
    }
    Ok(())
}

/// A packed file against its size in the plan and the payload's length.
pub(super) fn packed_entry(
    packed: &proto::PackedFile,
    size: u64,
    payload_bytes: u64,
) -> Result<PackedEntry, Rejected> {
    let digest = digest(&packed.digest)?;
    if u64::from(packed.len) != size {
        return Err(malformed(format!("file {} has {size} bytes", packed.file)));
    }
    if u64::from(packed.offset) + u64::from(packed.len) > payload_bytes {
        return Err(malformed(format!("file {} lies beyond the payload", packed.file)));
    }
    Ok(PackedEntry { file: packed.file, digest, offset: packed.offset, len: packed.len })
}

pub(super) fn again(attempt: u64) -> Change {
    Change::Repeat { accepted: Accepted::Done, attempt: Some(attempt) }
}

pub(super) fn file_of(attempt: &Attempt, file: u32) -> Result<Stub, Rejected> {
    match attempt.files.get(file) {
        Some(stub) if stub.is_file() => Ok(stub),
        Some(_) => Err(malformed(format!("entry {file} of the plan is no file"))),
        None => Err(malformed(format!("the plan has no entry {file}"))),
    }
}

/// The door checked the digest as that of a part, or of the whole, of a file of the size that the record names.
/// It must be this file's: else a part could pass for a whole, and the file's digest would be none of its bytes'.
fn judge_size(file: u32, size: u64, named: u64) -> Result<(), Rejected> {
    if named != size {
        return Err(malformed(format!("file {file} has {size} bytes, the record says {named}")));
    }
    Ok(())
}

pub(super) fn is_new(
    attempt: &Attempt,
    file: u32,
    offset: u64,
    len: u64,
    digest: &Digest,
) -> Result<bool, Rejected> {
    match attempt.fit(file, offset, len, digest) {
        Fit::New => Ok(true),
        Fit::Repeat => Ok(false),
        Fit::Overlap => {
            let detail = format!("bytes {offset}..{} of file {file} are covered otherwise", offset + len);
            Err(Rejected::new(Reason::Overlap, detail))
        }
    }
}

fn judge_range(
    attempt: &Attempt,
    id: u64,
    file: u32,
    offset: u64,
    len: u64,
    digest: Digest,
) -> Result<Change, Rejected> {
    if is_new(attempt, file, offset, len, &digest)? {
        Ok(Change::Range { attempt: id, file, offset, len, digest })
    } else {
        Ok(again(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_comes_again_is_found_in_whatever_order() {
        for numbers in [&[1, 2, 3, 3][..], &[1, 5, 3, 4, 3], &[1, 5, 3, 5], &[2, 1, 1], &[9, 0, 4, 10, 11, 4]]
        {
            let mut twice = twice();
            let found: Vec<bool> = numbers.iter().map(|number| twice(*number)).collect();
            let wanted: Vec<bool> =
                (0..numbers.len()).map(|at| numbers[..at].contains(&numbers[at])).collect();
            assert_eq!(found, wanted, "{numbers:?}");
        }
    }
}
