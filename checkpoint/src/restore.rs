//! Restoring: a directory from its manifest and a source of content. It is written under a temporary name, every byte
//! verified on the way, synced, given its modes, and appears by one rename. Nothing is written outside: all names are
//! reached from the temporary directory's descriptor, through no symlink.
//!
//! **Where.** Beside the target, so that one rename puts it in its place, over an empty directory too. A directory
//! that cannot be renamed (a mount point, the directory that somebody stands in, one whose parent is closed to us) is
//! filled from a temporary directory inside it: content first, then its few top names. What was made of missing
//! parents, and every temporary name, is gone again when a restore fails or is [stopped](Stop); what a killed one was
//! writing is swept by the next one to the same target. Whatever can be refused is refused before anything is made.
//!
//! **What was there before** is removed last, when nothing can fail any more. Until then it has, or gets with the
//! exchange, a name that says so: `.NAME.epochlog-tmp-…-old` beside the target, `.epochlog-tmp-…-old` inside of one that
//! cannot be renamed. A restore that is killed or whose machine loses power leaves the target as it was, or new, with
//! one exception each:
//! - a directory that cannot be renamed may hold a part of the old or of the new names by then, or none; the old ones
//!   that miss lie in its `-old` directory, and the next restore, with or without `force`, takes the rest for a target;
//! - where a file system cannot exchange two names, the target may be missing, and is the `-old` directory beside it.
//!
//! The next restore that succeeds removes an `-old` directory only if the killed one was done with it, and nothing lies
//! in it that no restore wrote; else it stays, and is told in [`Restored::left`].
//!
//! **What an earlier restore wrote** is replaced with `force` alone; anything else wants `delete_others`. Each entry says
//! for itself which it is: a restore sets the time of last modification of what it writes, in its fraction of a second,
//! to a checksum of the seconds, the inode's number and the size (`known.rs`). Why there and not elsewhere:
//! - a list beside the target is litter, lies where we may not write when the target is a mount point, and stays behind
//!   when the directory is renamed;
//! - extended attributes are missing on many file systems and on symlinks, would have to hold the time as well, and
//!   change nothing when a program writes to the file;
//! - comparing with the manifests of known epochs reads every byte there is, and what was restored from an epoch that
//!   has expired since would be known by nobody.
//!
//! The time is kept everywhere, costs one call and no byte, and every program that writes to a file, or brings one of
//! its own, sets another: so changed files and files of others are told one by one. Where times have no fraction, or a
//! copy has dropped it, the answer is *not ours*, which deletes nothing. It is not seen when a file was changed in place
//! and its time is not: after a power cut that has kept the bytes and lost the time, and on tmpfs for what is written
//! through a shared mapping (`mmap`), which sets no time there. By chance a file of somebody else passes once
//! in a million where times are kept to the microsecond, once in a thousand million where to the nanosecond.

mod appear;
mod fill;
mod known;
mod place;
mod steps;
mod target;
mod temp;
mod write;

pub use crate::error::RestoreError;
pub use crate::pattern::Pattern;
pub use known::Others;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::digest::Digest;
use crate::disk::RealDisk;
use crate::error::{IoError, PlanError, SplitError};
use crate::limits::Limits;
use crate::manifest::{Manifest, ManifestEntry};
use crate::pattern::Choice;
use crate::plan::Plan;
use crate::split::{Coverage, Splitter};
use crate::store::{VerifyReport, verify_tree};

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Replace what an earlier restore has written to the target.
    pub force: bool,
    /// With `force`: replace whatever else is there too.
    pub delete_others: bool,
    /// With `force`: replace this too, which [`RestoreError::Others`] has told, and nothing that is more than it.
    pub accepted: Option<Others>,
    /// Share the blocks of local content instead of copying them (reflink), or refuse. Another name for the same inode
    /// would let whoever writes to it damage every epoch that shares it.
    pub link: bool,
    /// Restore only entries that match one of these (and the directories above them); `None`: everything.
    pub only: Option<Vec<Pattern>>,
    /// Ends the restore when it is set.
    pub stop: Stop,
}

impl RestoreOptions {
    fn may_lose(&self, found: &Others) -> bool {
        let accepts = |accepted: &Others| accepted.covers(found);
        found.entries == 0 || self.delete_others || self.accepted.as_ref().is_some_and(accepts)
    }
}

/// Tells a restore from another thread to end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The restore ends soon, and leaves nothing.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<(), RestoreError> {
        if self.is_set() { Err(RestoreError::Stopped) } else { Ok(()) }
    }
}

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Regular files at the target.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came from [`ContentSource::fetch`]; the rest lay on this machine.
    pub fetched_bytes: u64,
    /// What was there before and went.
    pub replaced: Option<Replaced>,
    /// What should have been removed and could not be, of the old directory or of a restore that was killed; and what
    /// such a one may have left that somebody may want.
    pub left: Vec<PathBuf>,
}

/// What a restore has taken the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Entries that an earlier restore wrote, unchanged since.
    pub restored: u64,
    /// Everything else.
    pub others: Others,
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

/// Where content goes to.
pub trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// The target's disk refuses, more came than there should be, or the restore was stopped.
    fn data(&mut self, data: &[u8]) -> io::Result<()>;
    /// Takes `len` zero bytes: a hole.
    ///
    /// # Errors
    /// As [`Sink::data`].
    fn zeros(&mut self, len: u64) -> io::Result<()>;
}

/// Where content comes from. What it gives is verified, not trusted.
pub trait ContentSource {
    /// Told once, before the first fetch: which entries will be fetched, in this order. Between them lie only entries
    /// that have no content.
    fn expect(&mut self, _entries: &[Range<usize>]) {}

    /// Hands the content of a file, from its first byte to its last, to `sink`. `index` is the entry's place in the
    /// manifest.
    fn fetch(&mut self, index: usize, entry: &ManifestEntry, sink: &mut dyn Sink) -> Result<(), SourceError>;

    /// What was fetched of this file last is not the sealed content. True when another copy may be: then the file is
    /// fetched again from its first byte.
    fn reject(&mut self, _index: usize, _why: &str) -> bool {
        false
    }

    /// A file on this machine with that content, if there is one: cloned or copied instead of fetched. When it
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
        _sink: &mut dyn Sink,
    ) -> Result<(), SourceError> {
        let path = self.files.join(entry.path.as_os_str());
        Err(SourceError::failed(format!("{} does not hold the sealed content", path.display())))
    }

    fn local(&self, entry: &ManifestEntry) -> Option<PathBuf> {
        Some(self.files.join(entry.path.as_os_str()))
    }
}

/// Writes the directory of `manifest` to `target`, whose parents are made when they are missing. `progress` is told how
/// many bytes are there so far. With `force`, content of the old target is taken over where it is what it should be.
///
/// # Errors
/// Then the target is what it was, and nothing else was left behind.
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
    digest_chosen(dir, limits, &Choice::default())
}

/// [`digest_dir`] of the chosen entries.
pub fn digest_chosen(dir: &Path, limits: &Limits, choice: &Choice) -> Result<Manifest, DigestDirError> {
    let plan = Plan::scan_chosen(dir, limits, choice)?;
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
