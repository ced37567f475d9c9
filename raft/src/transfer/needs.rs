//! What transfers need of rooms above them.

use futures::future::BoxFuture;
use nativelog::LogRecord;
use nativelog::ledger::Verdict;

/// Gives back what this node's own records allow, because something that comes needs room.
pub(crate) trait MakeRoom: Send + Sync {
    /// Returns when it is given back; the error says why not all is.
    fn make_room(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Brings this node's own records to the leader.
pub(crate) trait Records: Send + Sync {
    /// Returns when the log has answered; the error says why it has not, or that nobody knows.
    fn propose(&self, record: LogRecord) -> BoxFuture<'_, Result<Verdict, String>>;
}
