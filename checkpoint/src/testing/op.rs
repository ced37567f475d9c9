//! What is done on a disk, one operation after the other.

use std::path::PathBuf;

/// The kinds of operations that change the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// A file was made by opening it.
    Create,
    /// Bytes were written.
    Write,
    /// The length was set, or blocks were reserved.
    SetLen,
    /// Permission bits were set.
    SetMode,
    /// A directory was made.
    CreateDir,
    /// A name was moved; `path` is the new one.
    Rename,
    /// A name was added; `path` is the new one.
    Link,
    /// A symlink was made.
    Symlink,
    /// A name was removed.
    Unlink,
    /// A directory was removed.
    RemoveDir,
    /// A file was cloned; `path` is the new one.
    Clone,
    /// Content was synced.
    SyncData,
    /// Content and mode were synced.
    SyncAll,
    /// A directory was synced.
    SyncDir,
    /// Everything was synced.
    SyncFs,
    /// A read: not counted, but it can be made to fail.
    Read,
    /// A file that was there, or a directory, was opened: not counted either.
    Open,
}

/// One operation of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it did.
    pub kind: OpKind,
    /// To which path. For a file that is open: the path it was opened by.
    pub path: PathBuf,
    /// Where, for writes and lengths, bytes.
    pub offset: u64,
    /// How much, bytes.
    pub len: u64,
}
