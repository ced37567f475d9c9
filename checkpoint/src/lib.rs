//! Directories as checkpoints.
//!
//! This crate knows what a directory is and nothing of logs: it scans one
//! ([`plan`]), reads it once into pieces ([`split`]), describes it canonically
//! ([`manifest`]), keeps sealed content on a node's shelves ([`store`]) and
//! writes it back ([`restore`]). It is synchronous, and everything that must
//! survive a power cut goes through a [`disk::Disk`].
//!
//! A tour. No room knows one that is named after it:
//!
//! - beneath all: [`limits`] bounds, [`epoch`] names, [`IoError`], `encoding` (bytes of whatever is written),
//!   [`digest`] the BLAKE3 tree;
//! - the disk: [`beneath`] (a way down that no symlink leads astray), [`disk`], [`durable`];
//! - a tree: [`entry`], [`tree_rules`] (which lists of entries are one), [`pattern`] (which of them are meant);
//! - in the order of a directory's way: [`plan`], [`manifest`], [`split`], [`verify`], [`store`], [`restore`].
//!
//! Each room has the errors that it raises.

pub mod beneath;
pub mod digest;
pub mod disk;
pub mod durable;
mod encoding;
pub mod entry;
pub mod epoch;
mod io_error;
pub mod limits;
pub mod manifest;
pub mod pattern;
pub mod plan;
pub mod restore;
pub mod split;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tree_rules;
pub mod verify;

pub use digest::Digest;
pub use disk::{Disk, DiskDir, DiskFile, RealDisk};
pub use entry::PlanEntry;
pub use epoch::{CommitId, EntryKind, JobName, RelPath};
pub use io_error::IoError;
pub use limits::Limits;
pub use manifest::{Envelope, Manifest, ManifestEntry, Position};
pub use pattern::{Choice, Pattern};
pub use plan::Plan;
pub use split::{Coverage, PackedFile, Piece, Splitter};
pub use store::{Publish, Source, Store, Unpacked, Unpublished};
