//! Restoring: a directory from its manifest and a source of content. It is
//! written beside the target under a temporary name, every byte verified on the
//! way, synced, given its modes, and appears by one rename. Nothing is written
//! outside: all names are reached from the temporary directory's descriptor,
//! through no symlink.

mod filter;
mod target;
mod write;

pub use crate::error::RestoreError;
pub use filter::Pattern;

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::disk::RealDisk;
use crate::error::{IoError, PlanError, SplitError};
use crate::limits::Limits;
use crate::manifest::{Manifest, ManifestEntry};
use crate::plan::Plan;
use crate::split::{Coverage, Splitter};
use crate::store::{VerifyReport, verify_tree};

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Replace a directory that is at the target.
    pub force: bool,
    /// Link local content instead of copying it. For read-only use: whoever writes to such a file damages the
    /// checkpoint.
    pub link: bool,
    /// Restore only entries that match one of these (and the directories above them); `None`: everything.
    pub only: Option<Vec<Pattern>>,
}

/// What was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Regular files at the target.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came from [`ContentSource::fetch`]; the rest lay on this machine.
    pub fetched_bytes: u64,
}

/// Why a source gave no content.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The sink refused: the target's disk. Hand on what the sink returned.
    #[error("cannot write: {0}")]
    Sink(#[from] io::Error),
    /// The source itself failed.
    #[error("{0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// A failure with this text.
    pub fn failed(why: impl Into<String>) -> SourceError {
        SourceError::Failed(why.into().into())
    }
}

/// Where content comes from. What it gives is verified, not trusted.
pub trait ContentSource {
    /// Hands the content of a file, from its first byte to its last, to `sink`. `index` is the entry's place in the
    /// manifest.
    fn fetch(
        &mut self,
        index: usize,
        entry: &ManifestEntry,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError>;

    /// A file on this machine with that content, if there is one: cloned or linked instead of fetched. When it
    /// does not verify, the content is fetched after all.
    fn local(&self, _entry: &ManifestEntry) -> Option<PathBuf> {
        None
    }
}

/// Content from a published tree on this machine.
#[derive(Clone, Debug)]
pub struct LocalTree {
    files: PathBuf,
}

impl LocalTree {
    /// The tree below `files` (see [`crate::store::Layout::files_dir`]).
    pub fn new(files: &Path) -> LocalTree {
        LocalTree { files: files.to_path_buf() }
    }
}

impl ContentSource for LocalTree {
    fn fetch(
        &mut self,
        _index: usize,
        entry: &ManifestEntry,
        _sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        let path = self.files.join(entry.path.as_os_str());
        Err(SourceError::failed(format!("{} does not hold the sealed content", path.display())))
    }

    fn local(&self, entry: &ManifestEntry) -> Option<PathBuf> {
        Some(self.files.join(entry.path.as_os_str()))
    }
}

/// Writes the directory of `manifest` to `target`. `progress` is told how many bytes are there so far.
/// With `force`, files of the old target that are what they should be are taken over instead of fetched.
pub fn restore(
    manifest: &Manifest,
    target: &Path,
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    target::restore(manifest, target, options, source, progress)
}

/// Compares a directory of this machine with a manifest: kinds, modes, digests, targets, names.
pub fn verify_dir(dir: &Path, manifest: &Manifest) -> Result<VerifyReport, IoError> {
    verify_tree(&RealDisk, dir, manifest, &|| ())
}

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
    let plan = Plan::scan(dir, limits)?;
    let mut everything = Coverage::new();
    everything.add_files(0..plan.entries.len() as u32);
    let nothing = |_: &crate::plan::PlanEntry| -> Option<Digest> { None };
    let chunk_bytes = crate::limits::CHUNK_BYTES_DEFAULT;
    let mut splitter = Splitter::new(dir, &plan, chunk_bytes, &everything, &nothing)?;
    if let Some(piece) = splitter.next() {
        piece?;
    }
    Ok(splitter.finish()?)
}
