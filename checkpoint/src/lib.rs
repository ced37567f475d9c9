//! Directories as checkpoints.
//!
//! This crate knows what a directory is and nothing of logs: it scans one
//! ([`plan`]), reads it once into pieces ([`split`]), describes it canonically
//! ([`manifest`]), keeps sealed content on a node's shelves ([`store`]) and
//! writes it back ([`restore`]). It is synchronous, and everything that must
//! survive a power cut goes through a [`disk::Disk`].
//!
//! A tour, in the order of a directory's way:
//! [`epoch`] names, [`limits`] bounds, [`digest`] the BLAKE3 tree, [`pattern`], [`plan`],
//! [`split`], [`manifest`], [`disk`], [`durable`], [`store`], [`restore`].

pub mod beneath;
pub mod digest;
pub mod disk;
pub mod durable;
pub mod epoch;
pub mod error;
pub mod limits;
pub mod manifest;
pub mod pattern;
pub mod plan;
pub mod restore;
pub mod split;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use digest::Digest;
pub use disk::{Disk, DiskDir, DiskFile, RealDisk};
pub use epoch::{CommitId, EntryKind, JobName, RelPath};
pub use limits::Limits;
pub use manifest::{Envelope, Manifest, ManifestEntry, Position};
pub use pattern::{Choice, Pattern};
pub use plan::{Plan, PlanEntry};
pub use split::{Coverage, PackedFile, Piece, Splitter};
pub use store::{Publish, Source, Store, Unpacked, Unpublished};
