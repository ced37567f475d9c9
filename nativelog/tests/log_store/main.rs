//! The log store against power cuts, torn writes, flipped bits and failing fsyncs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod crash_points;
mod damage;
mod order;
mod scene;
mod serving;
