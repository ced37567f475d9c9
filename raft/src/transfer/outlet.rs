//! Where goes what peers fetch here, and why something does not.

use std::io;

use bytes::Bytes;
use checkpoint::digest::is_zero;
use checkpoint::disk::says_nothing;

use super::ask::Missed;
use crate::config::PART_BYTES;
use crate::proto::Miss;

/// Where parts go.
pub trait Outlet {
    /// Takes the next bytes of the item. False when nobody wants more.
    fn part(&mut self, data: Bytes) -> bool;
    /// Takes `len` zero bytes. False when nobody wants more.
    fn zeros(&mut self, len: u64) -> bool;
    /// Says that work goes on. False when nobody waits for it.
    fn working(&mut self) -> bool;
}

/// Why an item was not sent whole.
#[derive(Debug)]
pub enum Unsent {
    /// It is not to be had here.
    Missed(Missed),
    /// Nobody wants it any more.
    Gone,
}

pub type Sent = Result<(), Unsent>;

pub fn missed(miss: Miss, why: impl Into<String>) -> Unsent {
    Unsent::Missed(Missed { miss, why: why.into() })
}

pub fn unread(what: &str, error: &io::Error) -> Unsent {
    Unsent::Missed(why_unread(what, error))
}

pub fn why_unread(what: &str, error: &io::Error) -> Missed {
    let miss = match error.kind() {
        io::ErrorKind::NotFound => Miss::NotFound,
        // This node has too little of something now: that is no look.
        _ if says_nothing(error) => Miss::NotYet,
        _ => Miss::Corrupt,
    };
    Missed { miss, why: format!("{what}: {error}") }
}

/// Sends all of it.
pub fn send(data: &Bytes, out: &mut dyn Outlet) -> Sent {
    for at in (0..data.len()).step_by(PART_BYTES) {
        send_part(data.slice(at..data.len().min(at + PART_BYTES)), out)?;
    }
    Ok(())
}

/// Sends at most [`PART_BYTES`]; zeros by their length, also where they were written out.
pub fn send_part(data: Bytes, out: &mut dyn Outlet) -> Sent {
    let wanted = if is_zero(&data) { out.zeros(data.len() as u64) } else { out.part(data) };
    if wanted { Ok(()) } else { Err(Unsent::Gone) }
}
