//! From nothing to a directory at the target: looked at, swept, filled under a temporary name, moved into place, the old
//! one removed last.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, open};

use super::appear::appear;
use super::fill::{Filling, choose};
use super::place::{How, Place, look};
use super::temp::{Temp, sweep};
use super::{ContentSource, Replaced, RestoreError, RestoreOptions, Restored};
use crate::error::{IoError, at};
use crate::manifest::Manifest;

pub(super) fn restore(
    manifest: &Manifest,
    target: &Path,
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    let chosen = choose(manifest, options)?;
    let mode = manifest.entries.first().map_or(0o700, |root| root.mode);
    let place = look(target, options, mode)?;
    options.stop.check()?;
    let parents = Parents::make(&place.parent)?;
    let result = parents
        .sync()
        .map_err(RestoreError::from)
        .and_then(|()| write(&place, manifest, &chosen, options, source, progress));
    if result.is_err() {
        parents.remove();
    }
    let mut restored = result?;
    restored.replaced = place.old.map(|old| Replaced { restored: old.known, others: old.others });
    Ok(restored)
}

fn write(
    place: &Place,
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    let (holder, path) = match &place.how {
        How::Inside(dir) => (dir.try_clone().map_err(at("open", &place.target))?, &place.target),
        _ => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = open(&place.parent, flags, Mode::empty());
            (parent.map_err(|e| at("open", &place.parent)(e.into()))?, &place.parent)
        }
    };
    let mut left = sweep(holder.as_fd(), path, &place.prefix, false);
    let temp = Temp::make(&holder, path, &place.prefix)?;
    let result = check_layer(place, &holder, &temp).and_then(|()| {
        let filling = Filling {
            manifest,
            chosen,
            options,
            root: &temp.dir,
            path: &temp.path,
            old: match &place.how {
                How::Exchange(dir) | How::Inside(dir) => Some(dir),
                How::New | How::Empty => None,
            },
            open_depth: matches!(place.how, How::Inside(_)).then_some(1),
            restored: Restored::default(),
            files: Vec::new(),
        };
        let restored = filling.run(source, progress)?;
        options.stop.check()?;
        left.extend(appear(place, &temp, manifest, chosen, options)?);
        Ok(restored)
    });
    // Now the old directory, if there was one; after an error, what was written so far.
    let removed = temp.remove();
    let mut restored = result?;
    left.extend(removed);
    left.extend(sweep(holder.as_fd(), path, &place.prefix, true));
    restored.left = left;
    Ok(restored)
}

fn check_layer(place: &Place, holder: &OwnedFd, temp: &Temp) -> Result<(), RestoreError> {
    if !matches!(place.how, How::Exchange(_)) {
        return Ok(());
    }
    let probe = c"probe";
    mkdirat(&temp.dir, probe, Mode::RWXU).map_err(|e| at("make a directory in", &temp.path)(e.into()))?;
    let checked = place.check_layer(holder, &temp.name);
    let gone = rustix::fs::unlinkat(&temp.dir, probe, rustix::fs::AtFlags::REMOVEDIR);
    gone.map_err(|e| at("remove a directory in", &temp.path)(e.into()))?;
    checked
}

// Directories above the target that were missing, outermost first.
struct Parents(Vec<PathBuf>);

impl Parents {
    fn make(dir: &Path) -> Result<Parents, RestoreError> {
        let mut missing = Vec::new();
        let mut above = Some(dir);
        while let Some(dir) = above.filter(|dir| !dir.as_os_str().is_empty()) {
            match std::fs::metadata(dir) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(dir.to_path_buf()),
                Err(e) => return Err(at("look at", dir)(e).into()),
            }
            above = dir.parent();
        }
        let mut made = Parents(Vec::new());
        for dir in missing.into_iter().rev() {
            match std::fs::create_dir(&dir) {
                Ok(()) => made.0.push(dir),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    made.remove();
                    return Err(at("make the directory", &dir)(e).into());
                }
            }
        }
        Ok(made)
    }

    // Those above first, so that none is durable without its name.
    fn sync(&self) -> Result<(), IoError> {
        for dir in &self.0 {
            let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
            let above = above.unwrap_or(Path::new("."));
            File::open(above).and_then(|above| above.sync_all()).map_err(at("sync", above))?;
        }
        Ok(())
    }

    fn remove(&self) {
        for dir in self.0.iter().rev() {
            // Somebody else may have put something there.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests;
