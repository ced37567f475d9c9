//! Tests of the ledger: stories (scripts with expected answers) and random histories.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod directory;
mod history;
mod hybrid;
mod objects;
mod random;
mod room;
mod sealing;
mod story;
mod tries;
mod words;
