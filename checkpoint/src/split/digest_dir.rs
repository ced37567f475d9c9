//! Any directory read through, for what its manifest would be: no log, no store, nothing handed out.

use std::path::Path;

use super::{Coverage, SplitError, Splitter};
use crate::digest::Digest;
use crate::limits::{CHUNK_BYTES_DEFAULT, Limits};
use crate::manifest::Manifest;
use crate::pattern::Choice;
use crate::plan::{Plan, PlanEntry, PlanError};

/// Why a directory has no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestDirError {
    /// It cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It cannot be read, or changed meanwhile.
    #[error(transparent)]
    Split(#[from] SplitError),
}

/// The manifest of any directory: reads all of it, needs no cluster. Its [`Manifest::root`] is the root digest.
pub fn digest_dir(dir: &Path, limits: &Limits) -> Result<Manifest, DigestDirError> {
    digest_chosen(dir, limits, &Choice::default())
}

/// [`digest_dir`] of the chosen entries.
pub fn digest_chosen(dir: &Path, limits: &Limits, choice: &Choice) -> Result<Manifest, DigestDirError> {
    let plan = Plan::scan_chosen(dir, limits, choice)?;
    let mut everything = Coverage::new();
    everything.add_files(0..plan.entries.len() as u32);
    let nothing = |_: &PlanEntry| -> Option<Digest> { None };
    let mut splitter = Splitter::new(dir, &plan, CHUNK_BYTES_DEFAULT, &everything, &nothing)?;
    if let Some(piece) = splitter.next() {
        piece?;
    }
    Ok(splitter.finish()?)
}
