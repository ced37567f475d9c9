//! What the log hands over to be published: an epoch that was sealed, and where each of its contents is.

use std::sync::Arc;

use crate::manifest::{Envelope, Manifest};

/// Where the content of a manifest's entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Chunks, in the staged file of this entry; what is missing at the end is zeros.
    Staged,
    /// A pack, unpacked into the attempt's tree.
    Unpacked,
    /// Sealed before: a blob.
    Reused,
    /// An object in a store: the staged file of this entry where it was uploaded, elsewhere a blob once it came.
    Linked,
    /// Nothing to come: directories, symlinks, empty files.
    None,
}

/// An epoch to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The attempt that was sealed.
    pub attempt: u64,
    /// Name and origin.
    pub envelope: Envelope,
    /// The tree.
    pub manifest: Arc<Manifest>,
    /// One per entry of the manifest.
    pub sources: Arc<Vec<Source>>,
}
