//! Where the content of a restore comes from, and where it goes to.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::manifest::ManifestEntry;

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
    /// The tree below `files`.
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
