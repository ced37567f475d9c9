//! Rows of an open attempt: what Begin fixed, the pages of its plan, the files and ranges that are covered.

use checkpoint::digest::is_subtree;
use checkpoint::limits::CHUNK_BYTES_MIN;
use checkpoint::plan::{PlanChecker, PlanHasher};
use checkpoint::{Limits, RelPath};

use super::epoch::{put_labels, take_labels};
use crate::ledger::attempt::{Attempt, Checking, Fit, NewPage, Terms};
use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::files::{FileState, Linked, Stub, Whole};
use crate::ledger::objects::Extent;

pub(super) fn put(value: &mut Writer, attempt: &Attempt) {
    let terms = &attempt.terms;
    value.name(&terms.job).u64(terms.epoch).u64(terms.token).raw(terms.commit.as_bytes());
    value.u64(terms.declared_bytes).u32(terms.chunk_bytes).option(terms.base);
    value.digest(&terms.plan_digest).u32(terms.plan_pages).u32(terms.plan_entries);
    put_labels(value, &terms.labels, &terms.depends_on);
    value.u64(attempt.log_bytes).u64(attempt.begun_ms).u64(attempt.last_ms);
    put_checking(value, attempt.checking.as_deref());
    // Behind the rest, and not at all where there are no holes and no store: rows from before they were kept are what they were.
    if terms.stored_bytes < terms.declared_bytes || terms.store.is_some() {
        value.u64(terms.stored_bytes);
    }
    if let Some(store) = terms.store {
        value.u64(store);
    }
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
    if u64::from(plan_entries) > plan.files_max || plan_pages > plan_entries {
        return Err(DecodeError("a plan of too many entries or pages"));
    }
    let terms = Terms {
        job,
        epoch,
        token,
        commit,
        declared_bytes,
        stored_bytes: declared_bytes,
        chunk_bytes,
        base,
        labels,
        depends_on,
        plan_digest,
        plan_pages,
        plan_entries,
        store: None,
    };
    let mut attempt = Attempt::new(terms, plan, 0, value.u64()?);
    attempt.begun_ms = value.u64()?;
    attempt.last_ms = value.u64()?;
    attempt.checking = take_checking(value, plan)?;
    if !value.rest.is_empty() {
        attempt.terms.stored_bytes = value.u64()?;
        if !value.rest.is_empty() {
            attempt.terms.store = Some(value.u64()?);
        }
        if attempt.terms.stored_bytes > declared_bytes
            || (attempt.terms.stored_bytes == declared_bytes && attempt.terms.store.is_none())
        {
            return Err(DecodeError("stored bytes of a plan without holes are not written"));
        }
    }
    Ok(attempt)
}

/// What the pages of a plan come to that is not all here: else there is nothing to check.
fn put_checking(value: &mut Writer, checking: Option<&Checking>) {
    value.u8(u8::from(checking.is_some()));
    let Some(Checking { checker, digest }) = checking else { return };
    value.u64(checker.entries()).u64(checker.bytes()).digest(&digest.finish());
    let last = checker.last().unwrap_or_default();
    value.u8(u8::from(checker.last().is_some())).string(last);
    // Each is the beginning of the next.
    let open = checker.open();
    value.string(open.last().map_or(&[][..], |innermost| innermost.as_bytes()));
    value.u32(open.len() as u32);
    for dir in open {
        value.u32(dir.as_bytes().len() as u32);
    }
}

fn take_checking(value: &mut Reader<'_>, plan: Limits) -> Result<Option<Box<Checking>>, DecodeError> {
    if value.u8()? == 0 {
        return Ok(None);
    }
    let wrong = DecodeError("a plan that is none");
    let (so_far, digest) = ((value.u64()?, value.u64()?), PlanHasher::resume(value.digest()?));
    let path = |bytes| RelPath::parse(bytes).map_err(|_| wrong.clone());
    let some = value.u8()? != 0;
    let last = path(value.string()?)?;
    let innermost = value.string()?;
    let mut open = Vec::new();
    for _ in 0..value.u32()? {
        open.push(path(innermost.get(..value.u32()? as usize).ok_or(wrong.clone())?)?);
    }
    let checker = PlanChecker::resume(plan, so_far, some.then_some(last), open).ok_or(wrong)?;
    Ok(Some(Box::new(Checking { checker, digest })))
}

/// Whether as many pages are here as the plan needs, or as what it comes to so far says.
pub(super) fn is_whole(attempt: &Attempt) -> bool {
    match &attempt.checking {
        None => attempt.plan_is_complete() && attempt.files.len() == attempt.terms.plan_entries as usize,
        Some(checking) => {
            !attempt.plan_is_complete() && attempt.files.len() as u64 == checking.checker.entries()
        }
    }
}

/// `None` when the page is not here yet.
pub(super) fn put_page(value: &mut Writer, attempt: &Attempt, page: u32) -> Option<()> {
    let kept = attempt.pages.get(page as usize)?;
    value.u64(kept.index).u32(kept.bytes).digest(&kept.digest);
    for stub in attempt.stubs(page) {
        value.u64(stub.bits());
    }
    Some(())
}

pub(super) fn take_page(attempt: &mut Attempt, page: u32, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    if attempt.plan_is_complete() || page as usize != attempt.pages.len() {
        return Err(DecodeError("more or other pages than the plan has"));
    }
    let (index, bytes, digest) = (value.u64()?, value.u32()?, value.digest()?);
    let mut stubs = Vec::with_capacity(value.rest.len() / 8);
    while !value.rest.is_empty() {
        stubs.push(Stub::from_bits(value.u64()?).ok_or(DecodeError("an entry that is none"))?);
    }
    if stubs.is_empty() || attempt.files.len() + stubs.len() > attempt.terms.plan_entries as usize {
        return Err(DecodeError("more or fewer entries than the plan has"));
    }
    attempt.add_page(NewPage { stubs: stubs.into(), bytes, digest }, index);
    Ok(())
}

/// `None` when the file is not covered whole by one record.
pub(super) fn put_file(value: &mut Writer, attempt: &Attempt, file: u32) -> Option<()> {
    attempt.files.get(file)?;
    match attempt.files.state(file) {
        FileState::Packed(digest) => value.u8(1).digest(digest),
        FileState::Reused(digest) => value.u8(2).digest(digest),
        FileState::Linked(Linked { digest, extent }) => {
            value.u8(3).digest(digest).u32(extent.object).u64(extent.offset)
        }
        FileState::Bare | FileState::Staged(_) => return None,
    };
    Some(())
}

pub(super) fn take_file(attempt: &mut Attempt, file: u32, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    let kind = value.u8()?;
    let digest = value.digest()?;
    let how = match kind {
        1 => Whole::Packed,
        2 => Whole::Reused,
        3 => Whole::Linked(Extent { object: value.u32()?, offset: value.u64()? }),
        _ => return Err(DecodeError("a covered file of no known kind")),
    };
    if !is_open_file(attempt, file) || !matches!(attempt.files.state(file), FileState::Bare) {
        return Err(DecodeError("a file that cannot be covered"));
    }
    attempt.cover_whole(file, how, digest);
    Ok(())
}

/// `None` when no range of the file starts there.
pub(super) fn put_piece(value: &mut Writer, attempt: &Attempt, file: u32, offset: u64) -> Option<()> {
    attempt.files.get(file)?;
    let FileState::Staged(staged) = attempt.files.state(file) else {
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
    let stub = attempt.files.get(file).filter(|stub| stub.has_bytes()).ok_or(wrong.clone())?;
    let size = stub.size();
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
    attempt.files.get(file).is_some_and(|stub| stub.has_bytes())
}
