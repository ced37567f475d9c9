//! The place of ledger snapshots, which this version does not have.
//!
//! Nothing is ever purged from the log here: a replica that comes back, or a new one, is served
//! from the log, whose payloads are the very files that users read. So openraft never asks for a
//! snapshot: the policy is `Never`, no lag makes it send one, and the purge bound is `u64::MAX`.
//!
//! What comes next goes here: `send` (pin staging and blobs until the transfer ends; poll `cancel`,
//! or the task leaks), `receive` (fetch what is lacking, verify and fsync all of it *before*
//! `install_full_snapshot`, which panics on an inconsistent one), a builder that must return a
//! snapshot when forced, open attempts included; then the policy's own trigger and `purge_log`.
//! Until then every entry point answers with [`unsupported`] instead of pretending.

use std::io;

/// The data of a snapshot: none in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotData;

/// The honest answer.
pub fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "ledger snapshots are not in this version")
}
