//! Rows of an open attempt: what Begin fixed, the pages of its plan, the files and ranges that are covered.

use checkpoint::digest::is_subtree;
use checkpoint::limits::CHUNK_BYTES_MIN;
use checkpoint::{EntryKind, Limits, PlanEntry, RelPath};

use super::codec::{DecodeError, Reader, Writer};
use super::epoch::{put_labels, take_labels};
use crate::ledger::attempt::{Attempt, FileState, Fit, Terms};

pub(super) fn put(value: &mut Writer, attempt: &Attempt) {
    let terms = &attempt.terms;
    value.name(&terms.job).u64(terms.epoch).u64(terms.token).raw(terms.commit.as_bytes());
    value.u64(terms.declared_bytes).u32(terms.chunk_bytes).option(terms.base);
    value.digest(&terms.plan_digest).u32(terms.plan_pages).u32(terms.plan_entries);
    put_labels(value, &terms.labels, &terms.depends_on);
    value.u64(attempt.log_bytes).u64(attempt.begun_ms).u64(attempt.last_ms);
}

/// The attempt, as yet without a plan.
pub(super) fn take(value: &mut Reader<'_>, plan: Limits) -> Result<Attempt, DecodeError> {
    let (job, epoch, token, commit) = (value.name()?, value.u64()?, value.u64()?, value.commit()?);
    let (declared_bytes, chunk_bytes, base) = (value.u64()?, value.u32()?, value.option()?);
    let (plan_digest, plan_pages, plan_entries) = (value.digest()?, value.u32()?, value.u32()?);
    let (labels, depends_on) = take_labels(value)?;
    if !chunk_bytes.is_power_of_two() || chunk_bytes < 1024 {
        return Err(DecodeError("a chunk size that is none"));
    }
    let terms = Terms {
        job,
        epoch,
        token,
        commit,
        declared_bytes,
        chunk_bytes,
        base,
        labels,
        depends_on,
        plan_digest,
        plan_pages,
        plan_entries,
    };
    let mut attempt = Attempt::new(terms, plan, 0, value.u64()?);
    attempt.begun_ms = value.u64()?;
    attempt.last_ms = value.u64()?;
    Ok(attempt)
}

/// `None` when the page is not here yet.
pub(super) fn put_page(value: &mut Writer, attempt: &Attempt, page: u32) -> Option<()> {
    if page as usize >= attempt.page_ends.len() {
        return None;
    }
    attempt.page(page).iter().for_each(|entry| put_entry(value, entry));
    Some(())
}

pub(super) fn take_page(attempt: &mut Attempt, page: u32, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    let mut checker = attempt.checker.clone().ok_or(DecodeError("more pages than the plan has"))?;
    if page as usize != attempt.page_ends.len() {
        return Err(DecodeError("a page of a plan is missing"));
    }
    let mut entries = Vec::new();
    while !value.rest.is_empty() {
        let entry = take_entry(value)?;
        checker.push(&entry).map_err(|_| DecodeError("a plan that is none"))?;
        entries.push(entry);
    }
    attempt.add_page(entries, checker);
    Ok(())
}

fn put_entry(value: &mut Writer, entry: &PlanEntry) {
    let kind = match entry.kind {
        EntryKind::File => 1,
        EntryKind::Directory => 2,
        EntryKind::Symlink => 3,
    };
    value.u8(kind).u32(entry.mode).u64(entry.size);
    value.string(entry.path.as_bytes()).string(&entry.target);
}

fn take_entry(value: &mut Reader<'_>) -> Result<PlanEntry, DecodeError> {
    let kind = match value.u8()? {
        1 => EntryKind::File,
        2 => EntryKind::Directory,
        3 => EntryKind::Symlink,
        _ => return Err(DecodeError("an entry of no known kind")),
    };
    let (mode, size) = (value.u32()?, value.u64()?);
    let path = RelPath::parse(value.string()?).map_err(|_| DecodeError("a path that is none"))?;
    Ok(PlanEntry { path, kind, mode, size, target: value.string()?.to_vec() })
}

/// `None` when the file is not covered whole by one record.
pub(super) fn put_file(value: &mut Writer, attempt: &Attempt, file: u32) -> Option<()> {
    match attempt.files.get(file as usize)? {
        FileState::Packed(digest) => value.u8(1).digest(digest),
        FileState::Reused(digest) => value.u8(2).digest(digest),
        FileState::Bare | FileState::Staged(_) => return None,
    };
    Some(())
}

pub(super) fn take_file(attempt: &mut Attempt, file: u32, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    let state = match value.u8()? {
        1 => FileState::Packed(value.digest()?),
        2 => FileState::Reused(value.digest()?),
        _ => return Err(DecodeError("a covered file of no known kind")),
    };
    if !is_open_file(attempt, file) || attempt.files[file as usize] != FileState::Bare {
        return Err(DecodeError("a file that cannot be covered"));
    }
    attempt.cover_whole(file, state);
    Ok(())
}

/// `None` when no range of the file starts there.
pub(super) fn put_piece(value: &mut Writer, attempt: &Attempt, file: u32, offset: u64) -> Option<()> {
    let FileState::Staged(staged) = attempt.files.get(file as usize)? else {
        return None;
    };
    let (len, digest) = staged.ranges.get(&offset)?;
    value.u64(*len).digest(digest);
    Some(())
}

pub(super) fn take_piece(
    attempt: &mut Attempt,
    file: u32,
    offset: u64,
    value: &mut Reader<'_>,
) -> Result<(), DecodeError> {
    let (len, digest) = (value.u64()?, value.digest()?);
    let wrong = DecodeError("a range that cannot be covered");
    if !is_open_file(attempt, file) {
        return Err(wrong);
    }
    let size = attempt.entries[file as usize].size;
    let unit = u64::from(CHUNK_BYTES_MIN);
    let end = offset.checked_add(len).filter(|end| len > 0 && *end <= size).ok_or(wrong.clone())?;
    let aligned = offset.is_multiple_of(unit) && (len.is_multiple_of(unit) || end == size);
    if !aligned || !is_subtree(size, offset, len) || attempt.fit(file, offset, len, &digest) != Fit::New {
        return Err(wrong);
    }
    attempt.cover(file, offset, len, digest);
    Ok(())
}

fn is_open_file(attempt: &Attempt, file: u32) -> bool {
    attempt.entries.get(file as usize).is_some_and(|entry| entry.kind == EntryKind::File && entry.size > 0)
}
