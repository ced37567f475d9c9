//! Ledger snapshots: what lets the log forget.
//!
//! `snapshots/<index, 16 hex digits>-<number>.snap`: written under a temporary name, fsynced, renamed, folder
//! fsynced. Never above what is performed here. The two newest are kept, and the log is purged only up to
//! the older of them, so that one that turns out damaged costs nothing: the older one and the log serve.
//!
//! `file` is the format, `folder` the files, `spare` the blocks for the next one. Beside the ledger a file carries the
//! debts: what this node alone still owes the records below it ([`crate::dues`]). `docs/snapshot.md` tells it in prose.

mod capture;
mod file;
mod folder;
mod spare;

pub use capture::{Capture, Frozen, SnapshotError, SnapshotMeta};
pub(crate) use folder::{Folder, FoundSnapshot, OpenFault, ledger_of, newest_meta};
