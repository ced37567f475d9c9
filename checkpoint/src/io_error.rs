//! An input or output that failed: where, what was tried and why. Every room has errors of its own; this is the one they
//! have in common.

use std::io;
use std::path::{Path, PathBuf};

/// An input or output that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {what}: {source}", path.display())]
pub struct IoError {
    /// Where.
    pub path: PathBuf,
    /// What was tried, a verb.
    pub what: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

impl IoError {
    /// The same once more, for another who is concerned.
    pub(crate) fn again(&self) -> IoError {
        let source = match self.source.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        IoError { path: self.path.clone(), what: self.what, source }
    }
}

/// Says where and what to an error of the operating system.
pub(crate) fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IoError + 'a {
    move |source| IoError { path: path.to_path_buf(), what, source }
}
