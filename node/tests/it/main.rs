//! The program from outside: one node or three, as processes, and whoever talks to them. One binary, since each takes long
//! to link.

#![allow(clippy::unwrap_used, reason = "tests")]

mod answers;
mod api_page;
mod attempts;
mod command_line;
mod config;
mod damaged;
mod eyes;
mod flags;
mod guests;
mod hybrid;
mod looks;
mod neighbours;
mod one_node;
mod outcomes;
mod quorum;
mod repair;
mod restoring;
mod sources;
mod starting;
mod strangers;
mod watching;

mod support;
