//! A sealed epoch that is no directory here, and how it becomes one.

use std::sync::Arc;

use checkpoint::{Digest, EntryKind, Envelope, JobName, Manifest, Publish, Source, Store, Unpublished};

/// An epoch that is sealed but no directory here, and what is known of it.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// Its attempt.
    pub attempt: u64,
    /// Its root.
    pub root: Digest,
    /// Whether this node has its tree, see [`Machine::tree_of`](super::Machine::tree_of).
    pub has_tree: bool,
    /// What it has here is read before it is published, and that was not looked at again since: whether anything is to be
    /// brought is not known yet.
    pub verifying: bool,
    /// Why it is no directory.
    pub why: String,
}

/// As [`Machine::adopt`](super::Machine::adopt), where no machine runs.
///
/// # Errors
/// Content that is not there after all.
pub fn adopt(
    store: &Store,
    attempt: u64,
    envelope: Envelope,
    manifest: Arc<Manifest>,
) -> Result<(), Unpublished> {
    let sources = manifest.entries.iter().map(|entry| match entry.kind {
        EntryKind::File if entry.size > 0 => Source::Reused,
        _ => Source::None,
    });
    let sources = Arc::new(sources.collect());
    let mut results = store.publish(&[Publish { attempt, envelope, manifest, sources }]);
    results.pop().expect("publish answers for every epoch")
}
