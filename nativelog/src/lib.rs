//! The NativeLog: records, the ledger that judges them, the store that keeps them.

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
