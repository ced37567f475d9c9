//! Tests of the ledger: stories (scripts with expected answers) and random histories.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod directory;
mod history;
mod random;
mod room;
mod sealing;
mod story;
