//! The system calls by which names change hands. Nothing is replaced by any of them that was not looked at. Before each a
//! restore may be killed, so a test can end it there, let the call fail, or do what somebody else might do meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, RenameFlags, fsync, linkat, renameat, renameat_with, statat, syncfs, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

#[cfg(test)]
pub(super) use hook::{at_steps, reach};

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A temporary directory was made and is opened now.
    Open,
    /// What a killed restore left was judged, and is removed now.
    Sweep,
    /// What was written is made durable.
    SyncNew,
    /// Two names are exchanged.
    Exchange,
    /// A name gets another one that nobody has.
    Rename,
    /// The same where the file system has no such rename.
    RenameByHand,
    /// The old directory has made way, and is looked through once more.
    Look,
    /// The new names are made durable.
    SyncNames,
    /// Nothing can fail any more: the old directory goes.
    Done,
}

#[cfg(not(test))]
pub(super) fn reach(_step: Step) -> Result<(), Errno> {
    Ok(())
}

/// Makes a file or directory durable.
pub(super) fn sync(step: Step, file: impl AsFd) -> Result<(), Errno> {
    let synced = retry_on_intr(|| {
        reach(step)?;
        fsync(&file)
    });
    match synced {
        // A file system that syncs no directories.
        Err(Errno::INVAL) => retry_on_intr(|| syncfs(&file)),
        result => result,
    }
}

/// Exchanges two names.
pub(super) fn exchange(dir: BorrowedFd<'_>, one: &OsStr, other: &OsStr) -> Result<(), Errno> {
    reach(Step::Exchange)?;
    renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE)
}

/// A rename that replaces nothing.
pub(super) fn rename_new(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    new_name: &OsStr,
) -> Result<(), Errno> {
    let renamed =
        reach(Step::Rename).and_then(|()| renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE));
    match renamed {
        Err(Errno::INVAL | Errno::NOSYS) => rename_by_hand(from, name, to, new_name),
        result => result,
    }
}

// File systems that have no such rename. A link replaces nothing either. A directory has no second name, but replaces
// no more than an empty directory; only where there are no links at all a file can replace one that is made just then.
fn rename_by_hand(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    new_name: &OsStr,
) -> Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        reach(Step::RenameByHand)?;
        match linkat(from, name, to, new_name, AtFlags::empty()) {
            Ok(()) => {
                return unlinkat(from, name, AtFlags::empty()).inspect_err(|_| {
                    // It has its first name still.
                    let _ = unlinkat(to, new_name, AtFlags::empty());
                });
            }
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {}
            Err(e) => return Err(e),
        }
    }
    match statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {
            reach(Step::RenameByHand)?;
            renameat(from, name, to, new_name)
        }
        Ok(_) => Err(Errno::EXIST),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod hook {
    use std::cell::RefCell;

    use super::{Errno, Step};

    type Hook = Box<dyn FnMut(Step) -> Result<(), Errno>>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Calls `hook` at each step that this thread reaches while `work` runs. One that panics stands for a kill.
    pub(in crate::restore) fn at_steps<T>(
        hook: impl FnMut(Step) -> Result<(), Errno> + 'static,
        work: impl FnOnce() -> T,
    ) -> std::thread::Result<T> {
        HOOK.with(|there| *there.borrow_mut() = Some(Box::new(hook)));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        HOOK.with(|there| *there.borrow_mut() = None);
        result
    }

    pub(in crate::restore) fn reach(step: Step) -> Result<(), Errno> {
        // Not borrowed while it runs: it may panic, or look at what a restore does.
        let Some(mut hook) = HOOK.with(|there| there.borrow_mut().take()) else { return Ok(()) };
        let result = hook(step);
        HOOK.with(|there| *there.borrow_mut() = Some(hook));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_replaces_nothing_where_renames_cannot_promise_that() {
        let dir = tempfile::tempdir().unwrap();
        let from = fs::File::open(dir.path()).unwrap();
        let names = ["new", "mine"].map(OsStr::new);
        let path = |name: &OsStr| dir.path().join(name);
        fs::write(path(names[0]), b"new").unwrap();
        // Somebody makes a file of that name in the last moment, which no look beforehand sees.
        let late = path(names[1]);
        let hook = move |step: Step| match step {
            Step::Rename => Err(Errno::INVAL),
            _ => {
                fs::write(&late, b"mine").unwrap();
                Ok(())
            }
        };
        let rename = || rename_new(from.as_fd(), names[0], from.as_fd(), names[1]);
        assert_eq!(at_steps(hook, rename).unwrap(), Err(Errno::EXIST));
        assert_eq!(names.map(|name| fs::read(path(name)).unwrap()), [b"new".to_vec(), b"mine".to_vec()]);
        fs::remove_file(path(names[1])).unwrap();
        let refuses = |step: Step| if step == Step::Rename { Err(Errno::INVAL) } else { Ok(()) };
        at_steps(refuses, rename).unwrap().unwrap();
        assert_eq!(fs::read(path(names[1])).unwrap(), b"new");
        assert!(!path(names[0]).exists());
    }

    #[test]
    fn a_sync_outlives_signals_and_file_systems_without_one_for_directories() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::File::open(dir.path()).unwrap();
        for (errno, good) in [(Errno::INTR, true), (Errno::INVAL, true), (Errno::IO, false)] {
            let mut once = Some(errno);
            let hook = move |_: Step| once.take().map_or(Ok(()), Err);
            let synced = at_steps(hook, || sync(Step::SyncNames, &dir)).unwrap();
            assert_eq!(synced.is_ok(), good, "{errno:?}: {synced:?}");
        }
    }
}
