//! Rows of a sealed epoch: what it is, the content it holds, its pins.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::JobName;

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::job::{EpochRecord, PinRecord, StoredEpoch};
use crate::ledger::verdict::SealedEpoch;

/// Keys and values, as given.
type Labels = Vec<(String, String)>;

pub(super) fn put(value: &mut Writer, record: &EpochRecord) {
    put_sealed(value, &record.sealed);
    value.raw(record.commit.as_bytes()).u64(record.plan);
    value.option(record.base).u64(record.sealed_log_ms);
    put_labels(value, &record.labels, &record.depends_on);
    // Behind the rest, and not at all when it was not told: rows from before it was kept are what they were. The same for
    // where it lies, behind that.
    if record.sealed_wall_ms > 0 || record.stored.is_some() {
        value.u64(record.sealed_wall_ms);
    }
    if let Some(StoredEpoch { store, manifest, mixed }) = &record.stored {
        value.u64(*store).u32(*manifest).u8(u8::from(*mixed));
    }
}

/// The epoch, as yet without content and pins.
pub(super) fn take(value: &mut Reader<'_>, job: &JobName, epoch: u64) -> Result<EpochRecord, DecodeError> {
    let sealed = Arc::new(take_sealed(value, job.clone(), epoch)?);
    let (commit, plan) = (value.commit()?, value.u64()?);
    let base = value.option()?;
    let sealed_log_ms = value.u64()?;
    let (labels, depends_on) = take_labels(value)?;
    let is_told = !value.rest.is_empty();
    let sealed_wall_ms = if is_told { value.u64()? } else { 0 };
    let stored = if value.rest.is_empty() { None } else { Some(take_stored(value)?) };
    if is_told && sealed_wall_ms == 0 && stored.is_none() {
        return Err(DecodeError("a time that was not told is not written"));
    }
    let (content, pins) = (Arc::default(), BTreeMap::new());
    Ok(EpochRecord {
        sealed,
        commit,
        plan,
        base,
        labels,
        depends_on,
        sealed_log_ms,
        sealed_wall_ms,
        content,
        pins,
        stored,
    })
}

fn take_stored(value: &mut Reader<'_>) -> Result<StoredEpoch, DecodeError> {
    let (store, manifest) = (value.u64()?, value.u32()?);
    let mixed = match value.u8()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError("an epoch of no known mode")),
    };
    Ok(StoredEpoch { store, manifest, mixed })
}

pub(super) fn put_content(value: &mut Writer, ids: &[u32]) {
    for id in ids {
        value.u32(*id);
    }
}

pub(super) fn take_content(value: &mut Reader<'_>) -> Result<Arc<[u32]>, DecodeError> {
    let mut ids = Vec::with_capacity(value.rest.len() / 4);
    while !value.rest.is_empty() {
        ids.push(value.u32()?);
    }
    if !ids.is_sorted_by(|a, b| a < b) {
        return Err(DecodeError("content ids out of order"));
    }
    Ok(ids.into())
}

pub(super) fn put_pin(value: &mut Writer, pin: &PinRecord) {
    value.option(pin.until_ms).string(pin.reason.as_bytes());
}

pub(super) fn take_pin(value: &mut Reader<'_>) -> Result<PinRecord, DecodeError> {
    let until_ms = value.option()?;
    Ok(PinRecord { until_ms, reason: value.text()? })
}

/// What an epoch was sealed as; job and number are the key's, or stand before it.
pub(super) fn put_sealed(value: &mut Writer, sealed: &SealedEpoch) {
    value.digest(&sealed.root).position(sealed.position).u64(sealed.attempt);
    value
        .u64(sealed.files)
        .u64(sealed.bytes)
        .u64(sealed.new_bytes)
        .u64(sealed.new_files)
        .u64(sealed.log_bytes);
}

pub(super) fn take_sealed(
    value: &mut Reader<'_>,
    job: JobName,
    epoch: u64,
) -> Result<SealedEpoch, DecodeError> {
    Ok(SealedEpoch {
        job,
        epoch,
        root: value.digest()?,
        position: value.position()?,
        attempt: value.u64()?,
        files: value.u64()?,
        bytes: value.u64()?,
        new_bytes: value.u64()?,
        new_files: value.u64()?,
        log_bytes: value.u64()?,
        already: false,
        expired: false,
    })
}

/// What a Begin says of an epoch for people and programs.
pub(super) fn put_labels(value: &mut Writer, labels: &[(String, String)], depends_on: &[String]) {
    value.u32(labels.len() as u32);
    for (key, label) in labels {
        value.string(key.as_bytes()).string(label.as_bytes());
    }
    value.u32(depends_on.len() as u32);
    for name in depends_on {
        value.string(name.as_bytes());
    }
}

pub(super) fn take_labels(value: &mut Reader<'_>) -> Result<(Labels, Vec<String>), DecodeError> {
    let mut labels = Vec::new();
    for _ in 0..value.u32()? {
        labels.push((value.text()?, value.text()?));
    }
    let mut depends_on = Vec::new();
    for _ in 0..value.u32()? {
        depends_on.push(value.text()?);
    }
    Ok((labels, depends_on))
}
