//! The NativeLog: records, the ledger that judges them, the store that keeps them, the machine that obeys.
//!
//! | room | what it holds |
//! |---|---|
//! | `record`, `shape`, `compose` | what a record is; what can be said of one without a ledger; how one is made |
//! | `ledger`, `ledger/*` | the pure state machine: who holds what, and what a record does; no IO, no clock |
//! | `store`, `store/*` | the log on disk: WAL, payloads in place, the durable mark |
//! | `plans` | the pages of open plans, in files |
//! | `dues`, `dues/*` | what this node owes: unpublished epochs, bad copies, garbage, pins |
//! | `performer`, `performer/*` | the thread that carries out what the ledger decided |
//! | `snapshot`, `snapshot/*` | the ledger at a position, as a file |
//! | `catalog` | what people list, in sled, behind the ledger |
//! | `machine`, `machine/*` | ledger, performer, snapshots and catalog of one replica, and its marks |
//! | `background` | threads that leave the processors to commits |
//!
//! Read `tests/scripts/begin_chunk_seal.txt` first, then `ledger.rs`, then `store.rs`; `docs/` has the rules and the formats.

pub mod background;
pub mod catalog;
pub mod compose;
mod dues;
pub mod ledger;
pub mod machine;
pub mod performer;
mod plans;
pub mod record;
pub mod shape;
pub mod snapshot;
pub mod store;

pub use record::{Body, Entry, LogId, LogRecord};
