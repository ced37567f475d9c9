//! Positions in the log, to the wire and from it. Whoever speaks to peers may use this; it knows their messages and nothing
//! else.

use nativelog::record::LogId;

use crate::proto;

/// A position for the wire.
pub fn position(id: LogId) -> proto::Position {
    proto::Position { term: id.term, node: id.node, index: id.index }
}

/// A position from the wire.
pub fn from_position(at: &proto::Position) -> LogId {
    LogId { term: at.term, node: at.node, index: at.index }
}
