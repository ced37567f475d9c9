//! The last step: what is complete and durable gets its name. By one rename, or, inside a directory that cannot be
//! renamed, by one for each of its top names; then a reader may see a few of them for a moment, each complete. What
//! does not work is taken back, and what was there before is removed only when nothing can fail any more.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, fchmod, fstat, mkdirat, openat, renameat};
use rustix::io::Errno;

use super::known::{Survey, mark, names_in};
use super::place::{How, Place};
use super::steps::{Step, exchange, reach, rename_new, sync};
use super::temp::{self, OPEN_DIR, Temp, lock, mark_to_go};
use super::{Replaced, RestoreError, RestoreOptions};
use crate::beneath::is_at;
use crate::epoch::EntryKind;
use crate::io_error::at;
use crate::manifest::{Manifest, ManifestEntry};

/// What has come of it.
#[derive(Debug, Default)]
pub(super) struct Appeared {
    pub(super) replaced: Option<Replaced>,
    /// What could not be removed.
    pub(super) left: Vec<PathBuf>,
}

/// Moves what is in `temp` to its place.
pub(super) fn appear(
    place: &Place,
    temp: &mut Temp,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
) -> Result<Appeared, RestoreError> {
    if let How::Inside(dir) = &place.how {
        return inside(place, dir, temp, manifest, chosen, options);
    }
    // Until now it had the mode by which it would have been swept.
    let mode = manifest.entries.first().map_or(0o700, |root| root.mode);
    fchmod(&temp.dir, Mode::from_raw_mode(mode)).map_err(|e| at("set the mode of", &temp.path)(e.into()))?;
    sync(Step::SyncNew, &temp.dir).map_err(|e| at("sync", &temp.path)(e.into()))?;
    match &place.how {
        How::Exchange(old) => instead(place, old, temp, options),
        How::Empty(old) => new(place, Some(old), temp),
        How::New | How::Inside(_) => new(place, None, temp),
    }
}

fn moved(place: &Place, error: Errno) -> RestoreError {
    at("move into place", &place.target)(error.into()).into()
}

fn target(place: &Place, why: String, fix: &'static str) -> RestoreError {
    RestoreError::Target { path: place.target.clone(), why, fix }
}

fn not_taken_back(place: &Place, error: &RestoreError, old: &mut Temp) -> RestoreError {
    let why = format!("{error}; what was there before lies in {}", old.keep().display());
    target(place, why, "move it back from there")
}

// Where nothing was, or an empty directory.
fn new(place: &Place, empty: Option<&OwnedFd>, temp: &mut Temp) -> Result<Appeared, RestoreError> {
    let dir = temp.parent.as_fd();
    let renamed = match empty {
        Some(_) => renameat(dir, &temp.name, dir, &place.name),
        None => rename_new(dir, &temp.name, dir, &place.name),
    };
    match renamed {
        // Something is there by now, or in it.
        Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(RestoreError::Exists(place.target.clone())),
        result => result.map_err(|e| moved(place, e))?,
    }
    let Err(error) = in_place(place, temp).and_then(|()| sync_names(place, temp)) else {
        temp.is_placed();
        return Ok(Appeared::default());
    };
    if rename_new(dir, &place.name, dir, &temp.name).is_err() {
        temp.is_placed();
        let why = format!("{error}; and what was restored could not be taken away again");
        return Err(target(place, why, "remove it, then repeat the command"));
    }
    match empty.map_or(Ok(()), |empty| make_again(place, dir, empty)) {
        Ok(()) => Err(error),
        Err(e) => {
            let why = format!("{error}; and the empty directory that was there could not be made again: {e}");
            Err(target(place, why, "make it"))
        }
    }
}

fn make_again(place: &Place, parent: BorrowedFd<'_>, empty: &OwnedFd) -> io::Result<()> {
    let before = fstat(empty)?;
    mkdirat(parent, &place.name, Mode::RWXU)?;
    let made = openat(parent, &place.name, OPEN_DIR, Mode::empty())?;
    let stat = fstat(&made)?;
    if (stat.st_uid, stat.st_gid) != (before.st_uid, before.st_gid) {
        std::os::unix::fs::fchown(&made, Some(before.st_uid), Some(before.st_gid))?;
    }
    Ok(fchmod(&made, Mode::from_raw_mode(before.st_mode & 0o7777))?)
}

fn sync_names(place: &Place, temp: &Temp) -> Result<(), RestoreError> {
    Ok(sync(Step::SyncNames, &temp.parent).map_err(|e| at("sync", &place.parent)(e.into()))?)
}

// What was written is what has the name.
fn in_place(place: &Place, temp: &Temp) -> Result<(), RestoreError> {
    if is_at(&temp.dir, &temp.parent, &place.name) { Ok(()) } else { Err(meddled(place)) }
}

fn meddled(place: &Place) -> RestoreError {
    let why = "somebody else renames directories there at the same time".to_owned();
    target(place, why, "see who does, then repeat the command")
}

// In the place of a directory, which gets the name of an old one.
fn instead(
    place: &Place,
    old: &OwnedFd,
    temp: &mut Temp,
    options: &RestoreOptions,
) -> Result<Appeared, RestoreError> {
    // Not to be taken for something stale while it has that name.
    lock(old);
    swap(place, temp)?;
    let result = in_place(place, temp)
        .and_then(|()| if is_at(old, &temp.parent, &temp.name) { Ok(()) } else { Err(meddled(place)) })
        .and_then(|()| still_known(place, old, options))
        .and_then(|found| sync_names(place, temp).map(|()| found));
    let found = match result {
        Ok(found) => found,
        Err(e) => {
            return Err(match swap_back(place, temp) {
                Ok(()) => e,
                Err(_) => not_taken_back(place, &e, temp),
            });
        }
    };
    // The name is that of the old one from now on.
    temp.is_placed();
    mark_to_go(old);
    let removed = done(place).map(|()| temp::remove(old, temp.parent.as_fd(), &temp.name, &temp.path));
    Ok(appeared(found, removed))
}

fn appeared(found: Survey, removed: Result<Option<PathBuf>, RestoreError>) -> Appeared {
    let something = found.known + found.others.entries > 0;
    let replaced = something.then_some(Replaced { restored: found.known, others: found.others });
    Appeared { replaced, left: removed.ok().flatten().into_iter().collect() }
}

fn done(place: &Place) -> Result<(), RestoreError> {
    reach(Step::Done).map_err(|e| moved(place, e))
}

// What was written to the old directory while it was restored would be lost unseen.
fn still_known(place: &Place, old: &OwnedFd, options: &RestoreOptions) -> Result<Survey, RestoreError> {
    reach(Step::Look).map_err(|e| moved(place, e))?;
    place.survey(old, options)
}

// What is new has its name afterwards, the old directory that of `temp`, which says so.
fn swap(place: &Place, temp: &mut Temp) -> Result<(), RestoreError> {
    temp.rename_as_old().map_err(|e| moved(place, e))?;
    match exchange(temp.parent.as_fd(), &temp.name, &place.name) {
        Err(Errno::INVAL | Errno::NOSYS) => swap_by_hand(place, temp),
        result => result.map_err(|e| moved(place, e)),
    }
}

// File systems that cannot exchange: for a moment nothing is at the target. Who is killed then leaves the old directory
// under its name, unmarked, so that nobody removes it.
fn swap_by_hand(place: &Place, temp: &mut Temp) -> Result<(), RestoreError> {
    let old_name = temp.name.clone();
    temp.rename_as_new().map_err(|e| moved(place, e))?;
    let dir = temp.parent.as_fd();
    rename_new(dir, &place.name, dir, &old_name).map_err(|e| moved(place, e))?;
    let Err(e) = rename_new(dir, &temp.name, dir, &place.name) else {
        temp.is_named(old_name);
        return Ok(());
    };
    let error = moved(place, e);
    if rename_new(dir, &old_name, dir, &place.name).is_ok() {
        return Err(error);
    }
    let old = temp.path.with_file_name(&old_name);
    let why = format!("{error}; what was there before lies in {}", old.display());
    Err(target(place, why, "move it back from there"))
}

fn swap_back(place: &Place, temp: &mut Temp) -> Result<(), Errno> {
    let dir = temp.parent.as_fd();
    match exchange(dir, &temp.name, &place.name) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return result,
    }
    let new_name = temp.new_name();
    rename_new(dir, &place.name, dir, &new_name)?;
    if let Err(e) = rename_new(dir, &temp.name, dir, &place.name) {
        // Better what is new than nothing.
        let _ = rename_new(dir, &new_name, dir, &place.name);
        return Err(e);
    }
    temp.is_named(new_name);
    Ok(())
}

// One name that has moved, and how to take that back.
struct Moved {
    name: OsString,
    // The mode of a directory that had to be opened up for it.
    mode: Option<u32>,
}

// A directory changes its parent only when it may be written to.
fn shift(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<Moved, Errno> {
    let moved = |mode| Moved { name: name.to_owned(), mode };
    match rename_new(from, name, to, name) {
        Err(refused @ (Errno::ACCESS | Errno::PERM)) => {
            let dir = openat(from, name, OPEN_DIR, Mode::empty()).map_err(|_| refused)?;
            let mode = mode_of(&dir)?;
            fchmod(&dir, Mode::from_raw_mode(mode | 0o700))?;
            let result = rename_new(from, name, to, name);
            if result.is_err() {
                fchmod(&dir, Mode::from_raw_mode(mode))?;
            }
            result.map(|()| moved(Some(mode)))
        }
        result => result.map(|()| moved(None)),
    }
}

fn mode_of(dir: &OwnedFd) -> Result<u32, Errno> {
    Ok(fstat(dir)?.st_mode & 0o7777)
}

// As many of them as can be, in the modes that they had.
fn take_back(from: BorrowedFd<'_>, to: BorrowedFd<'_>, moved: Vec<Moved>) -> Result<(), Errno> {
    let mut result = Ok(());
    for Moved { name, mode } in moved.into_iter().rev() {
        let back = shift(from, to, &name).and_then(|again| match mode.or(again.mode) {
            Some(mode) => fchmod(openat(to, &name, OPEN_DIR, Mode::empty())?, Mode::from_raw_mode(mode)),
            None => Ok(()),
        });
        result = result.and(back);
    }
    result
}

fn inside(
    place: &Place,
    dir: &OwnedFd,
    temp: &mut Temp,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
) -> Result<Appeared, RestoreError> {
    let mode = mode_of(dir).map_err(|e| at("look at", &place.target)(e.into()))?;
    let mut gone = Temp::make_old(dir, &place.target, &place.prefix)?;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let result = move_names(place, dir, temp, &gone, options, &mut old, &mut new)
        .and_then(|found| close(place, dir, manifest, chosen).map(|()| found));
    let error = match result {
        Ok(found) => {
            mark_to_go(&gone.dir);
            let removed = done(place).map(|()| gone.remove());
            return Ok(appeared(found, removed));
        }
        Err(e) => e,
    };
    // Names can be moved in it again, if it had such a mode before.
    if mode_of(dir) != Ok(mode) {
        let _ = fchmod(dir, Mode::from_raw_mode(mode));
    }
    let new = take_back(dir.as_fd(), temp.dir.as_fd(), new);
    if take_back(gone.dir.as_fd(), dir.as_fd(), old).is_err() {
        return Err(not_taken_back(place, &error, &mut gone));
    }
    let left = gone.remove();
    if new.is_err() {
        let why = format!("{error}; and some of what was restored could not be taken away again");
        return Err(target(place, why, "remove it, then repeat the command"));
    }
    Err(match left {
        None => error,
        Some(left) => RestoreError::Left { error: Box::new(error), left: vec![left] },
    })
}

fn move_names(
    place: &Place,
    dir: &OwnedFd,
    temp: &Temp,
    gone: &Temp,
    options: &RestoreOptions,
    old: &mut Vec<Moved>,
    new: &mut Vec<Moved>,
) -> Result<Survey, RestoreError> {
    let path = &place.target;
    let mut found = Survey::default();
    if place.old.is_some() {
        for name in names_in(dir.as_fd()).map_err(at("read", path))? {
            if !place.stays(&name) {
                let moved = shift(dir.as_fd(), gone.dir.as_fd(), &name);
                old.push(moved.map_err(|e| at("move away", &path.join(&name))(e.into()))?);
            }
        }
        found = still_known(place, &gone.dir, options)?;
    }
    for name in names_in(temp.dir.as_fd()).map_err(at("read", &temp.path))? {
        match shift(temp.dir.as_fd(), dir.as_fd(), &name) {
            Ok(moved) => new.push(moved),
            Err(Errno::EXIST) => return Err(RestoreError::Exists(path.join(&name))),
            Err(e) => return Err(at("move into place", &path.join(&name))(e.into()).into()),
        }
    }
    Ok(found)
}

// The directories that had to be open for the moves get their modes, and the names are made durable.
fn close(place: &Place, dir: &OwnedFd, manifest: &Manifest, chosen: &[usize]) -> Result<(), RestoreError> {
    let set = |dir: &OwnedFd, entry: &ManifestEntry| -> io::Result<()> {
        if mode_of(dir)? != entry.mode {
            fchmod(dir, Mode::from_raw_mode(entry.mode))?;
        }
        Ok(sync(Step::SyncNames, dir)?)
    };
    let entries = chosen.iter().map(|index| &manifest.entries[*index]);
    for entry in entries.filter(|entry| entry.kind == EntryKind::Directory && entry.path.depth() == 1) {
        let full = place.target.join(entry.path.as_os_str());
        let inner = openat(dir, entry.path.name(), OPEN_DIR, Mode::empty())
            .map_err(|e| at("open", &full)(e.into()))?;
        mark(&inner);
        set(&inner, entry).map_err(at("set the mode of", &full))?;
    }
    if let Some(root) = manifest.entries.first() {
        set(dir, root).map_err(at("set the mode of", &place.target))?;
    }
    Ok(())
}
