//! What stands at the end of help: how epochs are named, examples, exit codes.

use crate::exit;

macro_rules! which {
    () => {
        "JOB is the newest epoch of a job, JOB@42 its epoch 42, JOB@-1 the one before the newest, JOB@-2 the one before that."
    };
}

/// At the end of `epochlog --help`.
pub fn of_all() -> String {
    let exits = exit::ALL.map(|(exit, words)| format!("{:>5}  {words}", exit.code()));
    format!("{WHICH}\n\nExit codes:\n{}", exits.join("\n"))
}

/// At the end of `epochlog show --help`.
pub const WHICH: &str = which!();

/// At the end of `epochlog dev --help`.
pub const DEV: &str = "Examples:
  epochlog dev
  epochlog dev --nodes 5 --data ./play --base-port 8411";

/// At the end of `epochlog serve --help`.
pub const SERVE: &str = "Examples:
  epochlog config reference > node.toml        every key, explained, to be changed
  epochlog serve --config node.toml --check    what a start would do
  epochlog serve --config node.toml
  epochlog serve --single --id 1 --data-dir ./data    one node alone, without a second copy of anything";

/// At the end of `epochlog commit --help`.
pub const COMMIT: &str = "The directory must stay as it is until the command returns. By a change of its files the commit is \
refused, never torn. Not seen may be writes through a mapped file (mmap) on tmpfs, writes of other machines on network \
file systems, and what one single write call does that began before the command.

Examples:
  epochlog commit ./chk-42 --job wordcount --epoch 42
  epochlog commit ./ckpt --job train --label step=1000 --immutable
  epochlog commit ./chk-42 --job wordcount --epoch 42 --wait all    also wait until every node has the directory";

/// At the end of `epochlog restore --help`.
pub const RESTORE: &str = concat!(
    which!(),
    "

Examples:
  epochlog restore wordcount --to ./chk
  epochlog restore wordcount@41 --to ./chk
  epochlog restore wordcount --to ./chk --if-exists    for a first start, when there may be no epoch yet"
);

/// At the end of `epochlog ls --help`.
pub const LS: &str = "Examples:
  epochlog ls
  epochlog ls wordcount --limit 0              all epochs of a job
  epochlog ls wordcount --since 1h --label step=1000
  epochlog ls --open                           what is being written, how far it is, and the room that is kept for it";

/// At the end of `epochlog abort --help`.
pub const ABORT: &str = "A commit that was cut off stays open, so that a repeat goes on with it. The room that it has not \
filled is kept for two minutes after it was last heard of; the rest goes when it ends: by itself when nobody has gone on \
with it for an hour (attempt_ttl), or by this command. A writer that still runs is told that it was aborted, and has \
committed nothing; one that has sealed its epoch first keeps it.

Examples:
  epochlog ls --open
  epochlog abort wordcount@42";

/// At the end of `epochlog verify --help`.
pub const VERIFY: &str = "Of an object store this compares a listing with the log: what is missing there or has another \
length, and with --deep what has other bytes. With --repair a node that holds what is lost uploads it anew under another \
name, which the log then says; the old name is never written again. What no node holds is lost, and named.

Examples:
  epochlog verify wordcount --all-nodes
  epochlog verify wordcount@42 --repair
  epochlog verify --objects main
  epochlog verify --objects main --repair";

/// At the end of `epochlog gc --help`.
pub const GC: &str = "What epochs need is never deleted, nor what a commit that is under way has uploaded, nor names that \
are none of this cluster's log. What `rm` has let go the leader deletes by itself. What is left is garbage: uploads of \
commits that were killed or aborted. With --yes exactly what the table counts is deleted.

Examples:
  epochlog gc --objects main
  epochlog gc --objects main --yes";
