//! The last step: what is complete and durable gets its name. By one rename, or, inside a directory that cannot be
//! renamed, by one for each of its top names; then a reader may see a few of them for a moment, each complete. What
//! does not work is taken back.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, RenameFlags, fchmod, fstat, fsync, openat, renameat, renameat_with, statat};
use rustix::io::Errno;

use super::known::{mark, names_in, survey};
use super::place::{How, Place};
use super::temp::{OPEN_DIR, Temp, lock};
use super::{RestoreError, RestoreOptions};
use crate::epoch::EntryKind;
use crate::error::at;
use crate::manifest::{Manifest, ManifestEntry};

/// Moves what is in `temp` to its place. Answers what could not be removed after that.
pub(super) fn appear(
    place: &Place,
    temp: &Temp,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
) -> Result<Option<PathBuf>, RestoreError> {
    let moved = |e: Errno| RestoreError::from(at("move into place", &place.target)(e.into()));
    match &place.how {
        How::New => match rename_new(temp.parent.as_fd(), &temp.name, temp.parent.as_fd(), &place.name) {
            Err(Errno::EXIST) => return Err(RestoreError::Exists(place.target.clone())),
            result => result.map_err(moved)?,
        },
        How::Empty => match renameat(&temp.parent, &temp.name, &temp.parent, &place.name) {
            // It is not empty any more.
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(RestoreError::Exists(place.target.clone())),
            result => result.map_err(moved)?,
        },
        How::Exchange(old) => {
            // Not to be taken for something stale while it has the temporary name.
            lock(old);
            exchange(place, temp).map_err(moved)?;
            if let Err(e) = still_known(place, temp.parent.as_fd(), &temp.name, options) {
                return Err(match exchange(place, temp) {
                    Ok(()) => e,
                    Err(_) => not_taken_back(place, &e, temp),
                });
            }
        }
        How::Inside(dir) => return inside(place, dir, temp, manifest, chosen, options),
    }
    fsync(&temp.parent).map_err(|e| at("sync", &place.parent)(e.into()))?;
    Ok(None)
}

// What was written to the old directory while it was restored would be lost unseen.
fn still_known(
    place: &Place,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    options: &RestoreOptions,
) -> Result<(), RestoreError> {
    if options.delete_others {
        return Ok(());
    }
    let found = survey(parent, name, &place.target, &|name| place.stays(name))?;
    if found.others.entries == 0 {
        return Ok(());
    }
    Err(RestoreError::Others { path: place.target.clone(), others: found.others })
}

fn exchange(place: &Place, temp: &Temp) -> Result<(), Errno> {
    let dir = temp.parent.as_fd();
    match renameat_with(dir, &temp.name, dir, &place.name, RenameFlags::EXCHANGE) {
        // File systems that cannot: the old one moves aside first.
        Err(Errno::INVAL | Errno::NOSYS) => {
            let aside = temp.aside();
            renameat(dir, &place.name, dir, &aside)?;
            if let Err(e) = renameat(dir, &temp.name, dir, &place.name) {
                renameat(dir, &aside, dir, &place.name)?;
                return Err(e);
            }
            renameat(dir, &aside, dir, &temp.name)
        }
        result => result,
    }
}

// A rename that replaces nothing.
fn rename_new(from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>, new_name: &OsStr) -> Result<(), Errno> {
    match renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(from, name, to, new_name),
            Ok(_) => Err(Errno::EXIST),
            Err(e) => Err(e),
        },
        result => result,
    }
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
            let mode = fstat(&dir)?.st_mode & 0o7777;
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

fn take_back(from: BorrowedFd<'_>, to: BorrowedFd<'_>, moved: Vec<Moved>) -> Result<(), Errno> {
    for Moved { name, mode } in moved.into_iter().rev() {
        rename_new(from, &name, to, &name)?;
        if let Some(mode) = mode {
            fchmod(openat(to, &name, OPEN_DIR, Mode::empty())?, Mode::from_raw_mode(mode))?;
        }
    }
    Ok(())
}

fn inside(
    place: &Place,
    dir: &OwnedFd,
    temp: &Temp,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
) -> Result<Option<PathBuf>, RestoreError> {
    let gone = Temp::make(dir, &place.target, &place.prefix)?;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let result = move_names(place, dir, temp, &gone, options, &mut old, &mut new)
        .and_then(|()| close(place, dir, manifest, chosen));
    if let Err(e) = result {
        let back = take_back(dir.as_fd(), temp.dir.as_fd(), new)
            .and_then(|()| take_back(gone.dir.as_fd(), dir.as_fd(), old));
        return Err(match back {
            Ok(()) => {
                gone.remove();
                e
            }
            Err(_) => not_taken_back(place, &e, &gone),
        });
    }
    Ok(gone.remove())
}

fn not_taken_back(place: &Place, error: &RestoreError, old: &Temp) -> RestoreError {
    RestoreError::Target {
        path: place.target.clone(),
        why: format!("{error}; what was there before lies in {}", old.keep().display()),
        fix: "move it back from there",
    }
}

fn move_names(
    place: &Place,
    dir: &OwnedFd,
    temp: &Temp,
    gone: &Temp,
    options: &RestoreOptions,
    old: &mut Vec<Moved>,
    new: &mut Vec<Moved>,
) -> Result<(), RestoreError> {
    let path = &place.target;
    if place.old.is_some() {
        for name in names_in(dir.as_fd()).map_err(at("read", path))? {
            if !place.stays(&name) {
                let moved = shift(dir.as_fd(), gone.dir.as_fd(), &name);
                old.push(moved.map_err(|e| at("move away", &path.join(&name))(e.into()))?);
            }
        }
        still_known(place, gone.parent.as_fd(), &gone.name, options)?;
    }
    for name in names_in(temp.dir.as_fd()).map_err(at("read", &temp.path))? {
        match shift(temp.dir.as_fd(), dir.as_fd(), &name) {
            Ok(moved) => new.push(moved),
            Err(Errno::EXIST) => return Err(RestoreError::Exists(path.join(&name))),
            Err(e) => return Err(at("move into place", &path.join(&name))(e.into()).into()),
        }
    }
    Ok(())
}

// The directories that had to be open for the moves get their modes, and the names are made durable.
fn close(place: &Place, dir: &OwnedFd, manifest: &Manifest, chosen: &[usize]) -> Result<(), RestoreError> {
    let set = |dir: &OwnedFd, entry: &ManifestEntry| -> io::Result<()> {
        if fstat(dir)?.st_mode & 0o7777 != entry.mode {
            fchmod(dir, Mode::from_raw_mode(entry.mode))?;
        }
        Ok(fsync(dir)?)
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
