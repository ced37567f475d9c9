//! What the crate promises, from outside.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod support;

mod crash_points;
mod golden_manifest;
mod healing;
mod holes;
mod hostile_paths;
mod incoming;
mod latest;
mod linked;
mod lost;
mod many_links;
mod planted;
mod publishing;
mod reclaiming;
mod restore_targets;
mod restoring;
mod round_trip;
mod source_changes;
mod sparse;
