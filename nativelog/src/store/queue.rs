//! What the writer thread is asked to do, in the order it was asked.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;

use super::brought::Placed;
use super::copied::Copied;
use super::index::Place;
use super::owner::Vote;
use crate::record::{Entry, Header, LogId};

/// Told what became of something that was asked.
pub type Answer<T> = Box<dyn FnOnce(io::Result<T>) + Send>;

/// Called once when everything up to and including the call that it came with is durable.
pub type Done = Answer<()>;

/// Told which attempts' folders are in `trash/` now, or were not there.
pub type Swept = Answer<Vec<u64>>;

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
    /// Note what is written into the file of a rotten payload: it is being copied.
    Copy {
        /// What is wanted.
        repair: Arc<Repair>,
        /// Told the file, and where in it the payload belongs.
        done: Answer<(PathBuf, u64)>,
    },
    /// Put a copy in the place of its file.
    Swap {
        /// What was wanted.
        repair: Arc<Repair>,
        /// The copy.
        copied: Arc<Copied>,
        /// Told what became of it.
        done: Answer<Swapped>,
    },
    /// A copy was given up.
    Leave {
        /// An fsync of it has failed: the log stops.
        fatal: Option<io::Error>,
    },
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
}

/// What became of a copy that was to take the place of its file.
pub enum Swapped {
    /// It has.
    Done,
    /// These ranges were written into the file meanwhile, too many bytes to be copied by the writer.
    Behind(Vec<Range<u64>>),
    /// The file is another one, or what was written is not known any more: everything has to begin anew.
    Changed,
}

impl Command {
    /// Answers that it will not be done; true for the command to stop.
    pub fn refuse(self, why: &str) -> bool {
        let error = || io::Error::other(why.to_string());
        match self {
            Command::Append { done, .. } | Command::Vote { done, .. } | Command::Place { done, .. } => {
                done(Err(error()));
            }
            Command::Sweep { done, .. } => done(Err(error())),
            Command::Copy { done, .. } => done(Err(error())),
            Command::Swap { done, .. } => done(Err(error())),
            Command::Stop => return true,
            Command::Truncate { .. }
            | Command::Purge { .. }
            | Command::Committed { .. }
            | Command::Leave { .. } => {}
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

    /// Adds a command and waits for its answer.
    pub fn ask<T: Send + 'static>(&self, command: impl FnOnce(Answer<T>) -> Command) -> io::Result<T> {
        let (answer, answered) = mpsc::channel();
        self.push(command(Box::new(move |result| drop(answer.send(result)))));
        answered.recv().unwrap_or_else(|_| Err(io::Error::other("the log store has stopped")))
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
