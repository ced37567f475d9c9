//! One node of epochlog, and the command line of its users.
//!
//! | file | what it holds |
//! |---|---|
//! | `commit`, `commit/*` | one commit from pieces to answer: read it first |
//! | `api`, `api/*` | the public gRPC API, one file a theme |
//! | `node` | the wiring of one node, and nothing else |
//! | `identity` | whose data folder this is |
//! | `config`, `units` | TOML, flags, environment; sizes and durations |
//! | `capture` | a source that holds still while it is read |
//! | `space`, `housekeeping` | free space of the voters; what the leader tidies up |
//! | `http`, `telemetry` | health; log lines |
//! | `cli`, `cli/*` | what users type, one file a command |

pub mod api;
pub mod capture;
pub mod cli;
pub mod commit;
pub mod config;
pub mod housekeeping;
pub mod http;
pub mod identity;
pub mod node;
pub mod space;
pub mod telemetry;
pub mod units;

pub use client::pb;
