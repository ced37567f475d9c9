//! One node of epochlog, and the command line of its users.
//!
//! | file | what it holds |
//! |---|---|
//! | `commit`, `commit/*` | one commit from pieces to answer: read it first |
//! | `api`, `api/*` | the public gRPC API, one file a theme |
//! | `node` | the state of one node; it imports nothing that serves |
//! | `serve` | the wiring of one node, and nothing else |
//! | `exit` | the one table of exit codes |
//! | `outward` | what is told to strangers holds no path |
//! | `epochs`, `known`, `reads` | long looks at the ledger, in slices; files that a new epoch can refer to; files found intact lately |
//! | `identity`, `opening` | whose data folder this is; opening what is in it |
//! | `refusal` | why a node does not start, and what to do |
//! | `config`, `units` | TOML, flags, environment; sizes and durations |
//! | `capture` | a source that holds still while it is read |
//! | `limits`, `turns` | every bound of a node; calls that wait for their turn |
//! | `stores`, `stores/*` | object stores: what goes there and what they are like |
//! | `objects`, `objects/*` | what lies there, compared with what the log says; what may go, and what is put back |
//! | `space`, `pressure` | free space of a node; what is done when it runs out |
//! | `voters`, `voters/*`, `gate` | free space of all voters; where a leader asks whether there is room for what begins |
//! | `housekeeping`, `memory`, `handles` | what a node does unasked; memory given back; files it may open |
//! | `vitals`, `metrics`, `metrics/*` | one look at a node; what Prometheus gets |
//! | `guests`, `guests/*` | connections and calls of whoever comes: how many, and who makes room |
//! | `neighbours`, `handed` | the socket for clients of the same machine and user; what they hand over |
//! | `servers`, `http`, `telemetry` | the ports: for clients, for peers, HTTP; health; log lines |
//! | `notify` | what the service manager hears |
//! | `cli`, `cli/*` | what users type, one file a command |

pub mod api;
pub mod capture;
pub mod cli;
pub mod commit;
pub mod config;
mod epochs;
pub mod exit;
mod gate;
pub mod guests;
mod handed;
mod handles;
pub mod housekeeping;
pub mod http;
pub mod identity;
mod known;
pub mod limits;
mod memory;
pub mod metrics;
mod neighbours;
pub mod node;
mod notify;
mod objects;
pub mod opening;
mod outward;
pub mod pressure;
mod reads;
pub mod refusal;
pub mod serve;
pub mod servers;
pub mod space;
pub mod stores;
pub mod telemetry;
mod turns;
pub mod units;
pub mod vitals;
mod voters;

pub use client::pb;
