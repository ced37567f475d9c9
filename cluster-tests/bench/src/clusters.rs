//! The clusters that are measured.

use std::path::{Path, PathBuf};

use cluster_tests::cluster::{Cluster, Options};

/// A cluster of this build, below `dir`.
pub fn cluster(dir: &Path) -> Cluster {
    cluster_of(dir, None)
}

/// A cluster of another binary than this build's.
pub fn cluster_of(dir: &Path, binary: Option<PathBuf>) -> Cluster {
    // As in production: the default timeouts.
    let options = Options { shipped_timing: true, below: Some(dir.to_owned()), binary, ..Options::default() };
    Cluster::start("bench", options)
}
