//! What the writer thread is asked to do, in the order it was asked.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::index::Place;
use super::{Done, Placed, Swept, Vote};
use crate::record::{Entry, Header, LogId};

/// What the writer is asked to do.
pub enum Command {
    /// Append entries.
    Append {
        /// The entries, contiguous.
        entries: Vec<Entry>,
        /// Told when they are durable.
        done: Done,
    },
    /// Save a vote.
    Vote {
        /// The vote.
        vote: Vote,
        /// Told when it is durable.
        done: Done,
    },
    /// Drop what is above.
    Truncate {
        /// The last position that stays.
        after: Option<LogId>,
    },
    /// Drop what is at or below.
    Purge {
        /// The last position that goes.
        upto: LogId,
    },
    /// Remember a committed position.
    Committed {
        /// The position.
        committed: Option<LogId>,
    },
    /// Move folders of attempts to the trash.
    Sweep {
        /// The attempts.
        attempts: Vec<u64>,
        /// Told which of them are gone.
        done: Swept,
    },
    /// Write bytes that came without an entry.
    Place {
        /// The bytes.
        ranges: Vec<Placed>,
        /// Told when they are durable.
        done: Done,
    },
    /// Replace a payload that has rotted.
    Repair(Repair),
    /// Write what is queued and end.
    Stop,
}

/// A good payload for one that has rotted in its file.
pub struct Repair {
    /// The entry.
    pub id: LogId,
    /// Where its payload lies.
    pub place: Place,
    /// Its header.
    pub header: Arc<Header>,
    /// The payload, checked.
    pub payload: Bytes,
    /// Told when it is durable.
    pub done: Done,
}

impl Command {
    /// Answers that it will not be done; true for the command to stop.
    pub fn refuse(self, why: &str) -> bool {
        let error = || io::Error::other(why.to_string());
        match self {
            Command::Append { done, .. }
            | Command::Vote { done, .. }
            | Command::Place { done, .. }
            | Command::Repair(Repair { done, .. }) => done(Err(error())),
            Command::Sweep { done, .. } => done(Err(error())),
            Command::Stop => return true,
            Command::Truncate { .. } | Command::Purge { .. } | Command::Committed { .. } => {}
        }
        false
    }
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    closed: Option<String>,
}

/// Commands on their way to the writer. Its bound in bytes is that of the permits that every
/// proposer and every incoming stream holds until it is answered. Every command is answered, also when the writer
/// has ended.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl Queue {
    /// Adds a command; never waits for the writer.
    pub fn push(&self, command: Command) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = waiting.closed.clone() {
            drop(waiting);
            command.refuse(&why);
            return;
        }
        waiting.commands.push_back(command);
        drop(waiting);
        self.wake.notify_one();
    }

    /// Takes all commands, waiting at most `patience` for the first.
    pub fn take(&self, patience: Duration) -> VecDeque<Command> {
        let guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut guard, _) = self
            .wake
            .wait_timeout_while(guard, patience, |waiting| waiting.commands.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut guard.commands)
    }

    /// Nobody takes commands any more: refuses those that wait, and all that come.
    pub fn close(&self, why: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed.get_or_insert_with(|| why.to_string());
        let left = std::mem::take(&mut waiting.commands);
        drop(waiting);
        for command in left {
            command.refuse(why);
        }
    }
}
