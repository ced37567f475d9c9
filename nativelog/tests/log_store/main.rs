//! The log store against power cuts, torn writes, flipped bits and failing fsyncs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod committed;
mod crash_points;
mod damage;
mod kept;
mod looking;
mod meanwhile;
mod names;
mod order;
mod purging;
mod ranges;
mod readers;
mod repairing;
mod replacing;
mod room;
mod scene;
mod serving;
mod sweeping;
mod tight;
mod unknown;
