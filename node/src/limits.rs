//! Every bound of a node in one place, each with its unit and the reason for it. What a program or a person has to set
//! stands in the configuration (`[limits]`, `chunk_bytes`, `reserve`); all of this does not.
//!
//! | what | where its bounds are |
//! |---|---|
//! | plans, paths, chunks, packs, labels | `checkpoint::limits`: of the format, the same on every node |
//! | entries and bytes of one epoch | `[limits]` of the configuration |
//! | proposals (also those that wait for room on disks) and appends in flight, parts, windows of peers | `raft::config`; they are cut to a part of the ballast |
//! | content served to peers | `raft::transfer`: six calls at once, parts of 1 MiB, two ahead |
//! | the log's payloads and headers in memory | `nativelog::store::Options`, `nativelog::store::cache` |
//! | trees of epochs that wait to be published | `nativelog::performer`: 8 MiB, the rest in files |
//! | connections, calls of a kind, idle time | `guests`: parts of what the process may open |
//! | calls that read, and what they hold; what one call may name, and one answer tell | here |
//!
//! **Memory.** What a call holds while it has its turn, times the turns, is what all callers together cost, however many
//! they are: those that wait hold their request alone, and there is a bound on them too.
//!
//! **Threads.** Whoever has a turn may hold one thread of the runtime's 512 for blocking work; the sum of the turns is
//! [`BLOCKING_MAX`], so that housekeeping, apply and everything else always find one.

use std::time::Duration;

/// How many calls of a kind are worked on at once, and what becomes of the others.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// What they are, as a caller is told.
    pub what: &'static str,
    /// Calls that are worked on.
    pub at_once: usize,
    /// Calls that wait for their turn; more are refused at once.
    pub waiting: usize,
    /// How long one waits before it is refused.
    pub patience: Duration,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Manifests that are sent. Each holds up to four ranges of [`MANIFEST_PART_BYTES`] on their way, and while one is read
/// whole for the first time a buffer of 256 KiB. As many wait here and for the next two as may call at all
/// ([`crate::guests::Kind::most`]): who waits must be one who was let in.
pub const MANIFESTS: Bound = Bound { what: "other restores", at_once: 8, waiting: 160, patience: MINUTE };
/// Bytes of a manifest in one message.
pub const MANIFEST_PART_BYTES: usize = 1 << 20;
/// Contents that are sent. Each holds up to four chunks of 1 MiB on their way, a window of 64 KiB of the manifest, and a
/// thread.
pub const CONTENTS: Bound = Bound { what: "other restores", at_once: 8, waiting: 160, patience: MINUTE };
/// Restores that another node answers, because this one has not published the epoch or its copy is damaged. Each holds up to
/// four messages of 1 MiB on their way.
pub const PASSED_ON: Bound = CONTENTS;
/// Lists of an epoch's entries. Each holds an answer of at most half a message: 32 MiB with what it is made of.
pub const ENTRIES: Bound =
    Bound { what: "other lists of entries", at_once: 2, waiting: 64, patience: MINUTE };
/// Epochs that are read to be verified, and object stores that are looked through. An epoch holds a manifest, some 200 bytes
/// an entry with what it is compared by, and a thread; and all of the disk that it can get, so that more at once would not
/// end sooner. A store holds about 80 bytes for each object of a listing ([`OBJECTS_LISTED_MAX`]), and as much for each that
/// the log knows.
pub const VERIFIES: Bound =
    Bound { what: "other verifications", at_once: 2, waiting: 30, patience: Duration::from_secs(3600) };
/// Commits by path. Each holds a plan of at most [`SMALL_PLAN_ENTRIES`], about 300 bytes an entry with what is known of
/// them, or has room in [`LARGE_PLANS`] as well. Those that wait are told every second that they do; they take no place of
/// a commit that is streamed.
pub const SOURCES: Bound =
    Bound { what: "other commits by path", at_once: 16, waiting: 256, patience: Duration::from_secs(3600) };
/// Entries of the larger plans of commits by path, all together: 150 MB. One that is larger still goes alone.
pub const LARGE_PLANS: Bound = Bound { what: "other commits of many files", at_once: 512 << 10, ..SOURCES };
/// Entries of a plan that needs no room in [`LARGE_PLANS`].
pub const SMALL_PLAN_ENTRIES: u64 = 16 << 10;
/// A directory is scanned until it has more entries than there is room for, then room for so many times as many is waited
/// for, with nothing in hand, and it is scanned anew: all but the last scan together cost a seventh of it at most.
pub const PLAN_STEP: u64 = 8;
/// Bytes of what commits by path have read and not everybody has let go of, over all of them: being filled, queued, in a
/// window, on the way to the leader or the followers, in the log's cache. A splitter waits for what is beyond.
///
/// It is enough for what may be in each of these places: 32 MiB in the cache, which the next payloads push out, 48 MiB of
/// proposals, those among them that wait for room on disks, and one buffer for packs in the hand of each splitter. So whatever waits, something moves: a splitter waits
/// for buffers of pieces that wait for the log, and the log waits for no buffer.
pub const SPLIT_BUFFERS_BYTES: usize = 96 << 20;
/// Bytes of content that was read for clients and is on its way to them. As many as [`CONTENTS`] can have out: the bound is
/// for the day when those become more. Who takes nothing for a minute is left, and gives his back.
pub const READ_BUFFERS_BYTES: usize = 64 << 20;
/// Bytes that a client may send on one call before the node has taken them: two chunks. Of 16 commits that are streamed at
/// once 32 MiB are unread.
pub const CLIENT_STREAM_BYTES: u32 = 2 << 20;
/// The same on one connection: what all streamed commits that may be ([`STREAMED_MAX`]) can leave unread. With less, two
/// that wait for the log would keep a third's signs of life on the client's side, and it would look silent. All
/// connections together hold no more for it: what is unread is of calls that have a place.
pub const CLIENT_CONNECTION_BYTES: u32 = 64 * CLIENT_STREAM_BYTES;
/// Commits that are streamed at a time.
pub const STREAMED_MAX: usize = 64;
const _: () = assert!(CLIENT_CONNECTION_BYTES as usize >= STREAMED_MAX * CLIENT_STREAM_BYTES as usize);
/// Looks at the ledger that may take long, lists of a hundred thousand epochs among them. Each holds a thread and an
/// answer.
pub const LOOKS_AT_ONCE: usize = 16;
/// Answers to `/metrics` that are made. Each holds a thread, also when whoever asked has gone.
pub const SCRAPES_AT_ONCE: usize = 2;

/// Calls that one connection may have open; more wait on the client's side. Above what one program makes of one client,
/// below what all connections together may ([`crate::guests::Kind::most`]).
pub const STREAMS_MAX: u32 = 128;

/// Epochs in one answer.
pub const EPOCHS_MAX: usize = 10_000;
/// Bytes of them.
pub const EPOCHS_BYTES_MAX: usize = client::MESSAGE_BYTES_MAX / 4;
/// Entries of an epoch in one answer.
pub const ENTRIES_MAX: usize = 50_000;
/// Bytes of them.
pub const ENTRIES_BYTES_MAX: usize = client::MESSAGE_BYTES_MAX / 2;
/// Attempts in one answer.
pub const ATTEMPTS_MAX: usize = 10_000;
/// Objects of one listing of a store; what lies behind them is told when these are gone.
pub const OBJECTS_LISTED_MAX: usize = 2_000_000;
/// Keys in one message of a plan to collect garbage.
pub const KEYS_MAX: usize = 1000;
/// Objects that one call may ask another node for.
pub const OBJECTS_ASKED_MAX: usize = 1000;
/// Contents in quarantine that a status names, and epochs of each.
pub const QUARANTINED_MAX: usize = 100;
/// Epochs that depend on one, as an answer names them.
pub const DEPENDENTS_MAX: usize = 20;
/// Jobs with series of their own in `/metrics`.
pub const JOBS_MAX: usize = 500;

/// Epochs that one question may name.
pub const WANTED_MAX: usize = 10_000;
/// Labels that one question may name.
pub const FILTERS_MAX: usize = 64;
/// Ranges of files that one Fetch may name.
pub const RANGES_MAX: usize = 10_000;
/// Epochs that one call may end.
pub const EXPIRE_MAX: usize = 10_000;
/// Bytes of the reason in a record.
pub const REASON_BYTES_MAX: usize = 1024;
/// Epochs that one depends on; the ledger's bound.
pub const DEPENDS_ON_MAX: usize = 64;
/// Patterns of what to take and what to leave out of a source by path.
pub const PATTERNS_MAX: usize = 256;

/// Answers of a commit on their way to the client.
pub const REPLIES_QUEUED_MAX: usize = 64;
/// Chunks of a restore between the disk and the wire.
pub const CHUNKS_QUEUED_MAX: usize = 2;
/// Pieces between a splitter's thread and the log: each at most one chunk or pack.
pub const PIECES_QUEUED_MAX: usize = 2;
/// Bytes of records of one commit that nobody has acknowledged yet; one record may go over it.
pub const WINDOW_BYTES: u64 = 48 << 20;
/// So many records at most.
pub const WINDOW_RECORDS: usize = 4096;
/// Directories that were handed over and wait for their commits; another one takes the place of the oldest.
pub const HANDED_MAX: usize = 64;

/// Threads of the runtime that all of this can hold at a time. Commits by path have their own.
pub const BLOCKING_MAX: usize = MANIFESTS.at_once
    + CONTENTS.at_once
    + ENTRIES.at_once
    + VERIFIES.at_once
    + LOOKS_AT_ONCE
    + SCRAPES_AT_ONCE;

// The runtime has 512 of them. Housekeeping and transfers between peers need a dozen.
const _: () = assert!(BLOCKING_MAX <= 128);
