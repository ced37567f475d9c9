//! Restoring: a directory from its manifest and a source of content. It is written under a temporary name, every byte
//! verified on the way, synced, given its modes, and appears by one rename. Nothing is written outside: all names are
//! reached from the temporary directory's descriptor, through no symlink.
//!
//! **Where.** Beside the target, so that one rename puts it in its place, over an empty directory too. A directory
//! that cannot be renamed (a mount point, the directory that somebody stands in, one whose parent is closed to us) is
//! filled from a temporary directory inside it: content first, then its few top names. What was made of missing
//! parents, and every temporary name, is gone again when a restore fails or is [stopped](Stop); what a killed one was
//! writing is swept by the next one to the same target. Whatever can be refused is refused before anything is made.
//!
//! **What was there before** is removed last, when nothing can fail any more. Until then it has, or gets with the
//! exchange, a name that says so: `.NAME.epochlog-tmp-…-old` beside the target, `.epochlog-tmp-…-old` inside of one that
//! cannot be renamed. A restore that is killed or whose machine loses power leaves the target as it was, or new, with
//! one exception each:
//! - a directory that cannot be renamed may hold a part of the old or of the new names by then, or none; the old ones
//!   that miss lie in its `-old` directory, and the next restore, with or without `force`, takes the rest for a target;
//! - where a file system cannot exchange two names, the target may be missing, and is the `-old` directory beside it.
//!
//! The next restore that succeeds removes an `-old` directory only if the killed one was done with it, and nothing lies
//! in it that no restore wrote; else it stays, and is told in [`Restored::left`].
//!
//! **What an earlier restore wrote** is replaced with `force` alone; anything else wants `delete_others`. Each entry says
//! for itself which it is: a restore sets the time of last modification of what it writes, in its fraction of a second,
//! to a checksum of the seconds, the inode's number and the size (`known.rs`). Why there and not elsewhere:
//! - a list beside the target is litter, lies where we may not write when the target is a mount point, and stays behind
//!   when the directory is renamed;
//! - extended attributes are missing on many file systems and on symlinks, would have to hold the time as well, and
//!   change nothing when a program writes to the file;
//! - comparing with the manifests of known epochs reads every byte there is, and what was restored from an epoch that
//!   has expired since would be known by nobody.
//!
//! The time is kept everywhere, costs one call and no byte, and every program that writes to a file, or brings one of
//! its own, sets another: so changed files and files of others are told one by one. Where times have no fraction, or a
//! copy has dropped it, the answer is *not ours*, which deletes nothing. It is not seen when a file was changed in place
//! and its time is not: after a power cut that has kept the bytes and lost the time, and on tmpfs for what is written
//! through a shared mapping (`mmap`), which sets no time there. By chance a file of somebody else passes once
//! in a million where times are kept to the microsecond, once in a thousand million where to the nanosecond.

mod appear;
mod error;
mod fill;
mod known;
mod options;
mod others;
mod place;
mod source;
mod steps;
mod target;
mod temp;
mod write;

pub use crate::pattern::Pattern;
pub use error::RestoreError;
pub use options::{Replaced, RestoreOptions, Restored, Stop};
pub use others::Others;
pub use source::{ContentSource, LocalTree, Sink, SourceError};
pub use target::restore;
