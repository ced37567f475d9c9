//! The writer thread: serves commands in the order they came.
//!
//! Appends that wait together share their fsyncs (`batch.rs`). What keeps the log small and its files good is in
//! `chores.rs`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::batch::{Batch, complete, load};
use super::failed::answer;
use super::mark::MarkFile;
use super::options::Options;
use super::pen::Pen;
use super::queue::Command;
use super::shared::Shared;
use super::wal::{Load, Wal};

/// The thread's own things.
pub struct Writer {
    pen: Pen,
}

impl Writer {
    /// A writer that goes on where recovery ended.
    pub fn new(shared: Arc<Shared>, wal: Wal, mark: MarkFile, options: Options) -> Self {
        Writer { pen: Pen::new(shared, wal, mark, options) }
    }

    /// What it shares with the callers.
    pub fn shared(&self) -> Arc<Shared> {
        self.pen.shared.clone()
    }

    /// Serves commands until told to stop.
    pub fn run(mut self) {
        self.pen.wal.keep_spare();
        loop {
            let mut commands = self.pen.shared.queue.take(self.pen.options.mark_interval);
            let why = match self.serve(&mut commands) {
                Ok(false) => continue,
                Ok(true) => "the log store has stopped".to_string(),
                Err(error) => {
                    // Final: after a failed fsync the kernel may report the next one as good
                    // although the data are gone.
                    let why = format!("log write failed: {error}");
                    tracing::error!(why, "the log store stops; nothing is acknowledged from here on");
                    self.pen.shared.fail(why.clone());
                    why
                }
            };
            for command in commands {
                command.refuse(&why);
            }
            self.pen.shared.queue.close(&why);
            return;
        }
    }

    /// Serves all of `commands`; true when one of them was to stop.
    fn serve(&mut self, commands: &mut VecDeque<Command>) -> io::Result<bool> {
        let pen = &mut self.pen;
        let mut batch = Batch::default();
        let mut stop = false;
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Append { entries, done } => {
                    // What makes room does not wait with what needs some.
                    if load(&entries) == Load::Content
                        && batch.is_bare()
                        && !pen.has_room_for(entries.iter().map(|entry| entry.bytes() as u64).sum())
                    {
                        pen.write_batch(&mut batch)?;
                    }
                    batch.push(entries, done);
                    if batch.is_full() {
                        pen.write_batch(&mut batch)?;
                    }
                }
                Command::Committed { committed } => pen.committed = Some(committed),
                Command::Vote { vote, done } => {
                    pen.write_batch(&mut batch)?;
                    complete(pen.write_vote(vote), vec![done])?;
                }
                Command::Truncate { after } => {
                    pen.write_batch(&mut batch)?;
                    pen.write_truncate(after)?;
                }
                Command::Purge { upto } => {
                    pen.write_batch(&mut batch)?;
                    pen.write_purge(upto)?;
                }
                Command::Sweep { attempts, done } => {
                    pen.write_batch(&mut batch)?;
                    answer(pen.sweep(&attempts), done)?;
                }
                Command::Place { ranges, done } => {
                    pen.write_batch(&mut batch)?;
                    answer(pen.place(&ranges), done)?;
                }
                Command::Copy { repair, done } => {
                    pen.write_batch(&mut batch)?;
                    answer(pen.begin_copy(&repair), done)?;
                }
                Command::Swap { repair, copied, done } => {
                    pen.write_batch(&mut batch)?;
                    let swapped = pen.swap(&repair, &copied);
                    // Who waits for the answer frees the old file.
                    drop(copied);
                    answer(swapped, done)?;
                }
                Command::Leave { fatal } => {
                    pen.write_batch(&mut batch)?;
                    pen.payloads.end_notes();
                    fatal.map_or(Ok(()), Err)?;
                }
                Command::Stop => {
                    stop = true;
                    break;
                }
            }
        }
        pen.write_batch(&mut batch)?;
        if stop || pen.is_mark_older_than(pen.options.mark_interval) {
            pen.write_mark()?;
        }
        Ok(stop)
    }
}
