//! From nothing to a directory at the target: looked at, swept, filled under a temporary name, moved into place, the old
//! one removed last.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::appear::appear;
use super::fill::{Filling, choose, may_link};
use super::place::{Above, How, Place, look};
use super::steps::{Step, sync};
use super::temp::{OPEN_DIR, Temp, sweep};
use super::{ContentSource, RestoreError, RestoreOptions, Restored};
use crate::io_error::{IoError, at};
use crate::manifest::Manifest;

/// Writes the directory of `manifest` to `target`, whose parents are made when they are missing. `progress` is told how
/// many bytes are there so far. With `force`, content of the old target is taken over where it is what it should be.
///
/// # Errors
/// Then the target is what it was, and nothing else was left behind.
pub fn restore(
    manifest: &Manifest,
    target: &Path,
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    let chosen = choose(manifest, options)?;
    let mode = manifest.entries.first().map_or(0o700, |root| root.mode);
    let place = look(target, options, mode)?;
    restore_to(&place, manifest, &chosen, options, source, progress)
}

fn restore_to(
    place: &Place,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    options.stop.check()?;
    let nearest = match &place.how {
        How::Inside(dir) => dir,
        How::New | How::Empty(_) | How::Exchange(_) => &place.above.dir,
    };
    may_link(manifest, chosen, options, source, nearest, &place.target)?;
    let parents = Parents::make(&place.above)?;
    let result = parents
        .sync()
        .map_err(RestoreError::from)
        .and_then(|()| write(place, &parents.dir, manifest, chosen, options, source, progress));
    if result.is_err() {
        parents.remove();
    }
    result
}

// Below `parent`, which is the directory that holds the target.
fn write(
    place: &Place,
    parent: &OwnedFd,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    let (holder, path) = match &place.how {
        How::Inside(dir) => (dir.try_clone().map_err(at("open", &place.target))?, &place.target),
        _ => (read(parent).map_err(at("open", &place.parent))?, &place.parent),
    };
    let mut left = sweep(holder.as_fd(), path, &place.prefix, false);
    let mut temp = match Temp::make(&holder, path, &place.prefix) {
        Ok(temp) => temp,
        Err(e) => return Err(and_left(e, left)),
    };
    let filled = check_layer(place, &holder, &temp)
        .and_then(|()| fill(place, &temp, manifest, chosen, options, source, progress));
    let result = filled.and_then(|restored| {
        options.stop.check()?;
        Ok((restored, appear(place, &mut temp, manifest, chosen, options)?))
    });
    // What was written so far, or, where names were moved out of it, what is left of it.
    let removed = temp.remove();
    match result {
        Ok((mut restored, appeared)) => {
            restored.replaced = appeared.replaced;
            // What could not be swept before is tried once more.
            restored.left = appeared.left;
            restored.left.extend(removed);
            restored.left.extend(sweep(holder.as_fd(), path, &place.prefix, true));
            restored.left.sort();
            restored.left.dedup();
            Ok(restored)
        }
        Err(e) => {
            left.extend(removed);
            Err(and_left(e, left))
        }
    }
}

fn and_left(error: RestoreError, mut left: Vec<PathBuf>) -> RestoreError {
    match error {
        error if left.is_empty() => error,
        RestoreError::Left { error, left: more } => {
            left.extend(more);
            RestoreError::Left { error, left }
        }
        error => RestoreError::Left { error: Box::new(error), left },
    }
}

fn fill(
    place: &Place,
    temp: &Temp,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    let filling = Filling {
        manifest,
        chosen,
        options,
        root: &temp.dir,
        path: &temp.path,
        old: match &place.how {
            How::Exchange(dir) | How::Inside(dir) => Some(dir),
            How::New | How::Empty(_) => None,
        },
        open_depth: if matches!(place.how, How::Inside(_)) { 1 } else { 0 },
        restored: Restored::default(),
        files: Vec::new(),
    };
    filling.run(source, progress)
}

// The same directory, to read and to sync it.
fn read(dir: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn check_layer(place: &Place, holder: &OwnedFd, temp: &Temp) -> Result<(), RestoreError> {
    if !matches!(place.how, How::Exchange(_)) {
        return Ok(());
    }
    let probe = c"probe";
    mkdirat(&temp.dir, probe, Mode::RWXU).map_err(|e| at("make a directory in", &temp.path)(e.into()))?;
    let checked = place.check_layer(holder, &temp.name);
    let gone = unlinkat(&temp.dir, probe, AtFlags::REMOVEDIR);
    gone.map_err(|e| at("remove a directory in", &temp.path)(e.into()))?;
    checked
}

// Directories above the target that were missing.
struct Parents {
    // Outermost first: what holds it, its name, and what it is called.
    made: Vec<(OwnedFd, OsString, PathBuf)>,
    // The last of them, or that which was there.
    dir: OwnedFd,
}

impl Parents {
    fn make(above: &Above) -> Result<Parents, RestoreError> {
        let dir = above.dir.try_clone().map_err(at("open", &above.path))?;
        let mut parents = Parents { made: Vec::new(), dir };
        let mut path = above.path.clone();
        for name in &above.missing {
            path.push(name);
            if let Err(e) = parents.step(name, &path) {
                parents.remove();
                return Err(at("make the directory", &path)(e).into());
            }
        }
        Ok(parents)
    }

    fn step(&mut self, name: &OsStr, path: &Path) -> io::Result<()> {
        let holder = self.dir.try_clone()?;
        match mkdirat(&holder, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => self.made.push((holder, name.to_owned(), path.to_path_buf())),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        self.dir = openat(&self.dir, name, OPEN_DIR | OFlags::PATH, Mode::empty())?;
        Ok(())
    }

    // Those above first, so that none is durable without its name.
    fn sync(&self) -> Result<(), IoError> {
        for (holder, _, path) in &self.made {
            let above = path.parent().unwrap_or(path);
            let synced = read(holder).and_then(|dir| Ok(sync(Step::SyncNew, dir)?));
            synced.map_err(at("sync", above))?;
        }
        Ok(())
    }

    fn remove(&self) {
        for (holder, name, _) in self.made.iter().rev() {
            // Somebody else may have put something there.
            let _ = unlinkat(holder, name, AtFlags::REMOVEDIR);
        }
    }
}

#[cfg(test)]
mod tests;
