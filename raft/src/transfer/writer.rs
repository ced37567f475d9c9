//! What comes of contents, written behind what is there.

use bytes::Bytes;
use checkpoint::store::Incoming;
use tokio::sync::mpsc;

use super::error::TransferError;
use crate::config::RoomProbe;

/// Parts between the connection and the disk.
pub const AHEAD: usize = 2;

/// What comes of one content.
pub enum Part {
    Data(Bytes),
    /// So many zero bytes.
    Zeros(u64),
}

/// The contents, and whether the disk took what came.
pub type Written = (Vec<Incoming>, Result<(), TransferError>);

/// Writes parts, each of the content of this number, behind what is there until no more come. Blocks.
pub fn write(
    mut wanted: Vec<Incoming>,
    mut parts: mpsc::Receiver<(usize, Part)>,
    room: &RoomProbe,
) -> Written {
    while let Some((item, part)) = parts.blocking_recv() {
        if let Some(why) = (room.0)(0) {
            return (wanted, Err(TransferError::Full(why)));
        }
        let written = match part {
            Part::Data(data) => wanted[item].write(&data),
            Part::Zeros(len) => wanted[item].zeros(len),
        };
        if let Err(error) = written {
            return (wanted, Err(TransferError::of_disk(&error)));
        }
    }
    (wanted, Ok(()))
}
