//! Temporary directories of a restore. Each is locked for as long as the restore lives that made it; one that is not is
//! what a killed restore has left, and is swept by the next one to the same target.
//!
//! A name alone says nothing: whoever may write to the folder can give any directory any name. So nothing is removed
//! that has not our **mark**, mode 01700, which only its owner can set; and everything is removed from the descriptor
//! that was looked at, whatever has its name by then. What was at the target before has a name that says so
//! ([`Prefix::is_old`]), and gets the mark only when the new directory is in its place for good.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, chmod, fchmod, flock, fstat, mkdirat, openat, unlinkat,
};
use rustix::io::Errno;

use super::RestoreError;
use super::known::{names_in, survey};
use super::steps::{Step, reach, rename_new};
use crate::beneath::is_at;
use crate::digest::checksum;
use crate::disk::remove_held;
use crate::io_error::at;

const MARK: &[u8] = b".epochlog-tmp-";
const RANDOM_CHARS: usize = 16;
// What was there before is called so.
const OLD: &[u8] = b"-old";
// The name is part of the temporary one, if it is not longer.
const NAME_BYTES_MAX: usize = 200;
// The mode of what may be swept.
const MARKED: u32 = 0o1700;
// So often others may take a directory away that was made just now.
const TRIES_MAX: usize = 100;
// Names for what is kept.
const KEPT_MAX: usize = 1000;

pub(super) const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Which temporaries are meant: those beside a target of this name, or those inside of it.
#[derive(Clone, Debug)]
pub(super) struct Prefix(Vec<u8>);

impl Prefix {
    pub(super) fn beside(name: &OsStr) -> Prefix {
        let name = name.as_bytes();
        // The name may be as long as names can be; a sum tells those apart that begin alike.
        if name.len() > NAME_BYTES_MAX {
            let sum: String = checksum(&[name])[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            return Prefix([&b"."[..], &name[..NAME_BYTES_MAX - 20], b"-", sum.as_bytes(), MARK].concat());
        }
        Prefix([&b"."[..], name, MARK].concat())
    }

    pub(super) fn inside() -> Prefix {
        Prefix(MARK.to_vec())
    }

    /// Whether a restore made this name.
    pub(super) fn is_ours(&self, name: &OsStr) -> bool {
        self.is_new(name) || self.is_old(name)
    }

    // Of what is being written.
    fn is_new(&self, name: &OsStr) -> bool {
        let random = name.as_bytes().strip_prefix(&self.0[..]);
        random.is_some_and(|random| random.len() == RANDOM_CHARS && random.iter().all(u8::is_ascii_hexdigit))
    }

    /// Whether it is the name of what was at the target before.
    pub(super) fn is_old(&self, name: &OsStr) -> bool {
        name.as_bytes().strip_suffix(OLD).is_some_and(|name| self.is_new(OsStr::from_bytes(name)))
    }

    fn make(&self) -> OsString {
        let random = RandomState::new().hash_one(std::process::id());
        OsString::from_vec([&self.0[..], format!("{random:0RANDOM_CHARS$x}").as_bytes()].concat())
    }
}

fn old_of(name: &OsStr) -> OsString {
    OsString::from_vec([name.as_bytes(), OLD].concat())
}

/// A temporary directory, made and locked by us.
#[derive(Debug)]
pub(super) struct Temp {
    /// The directory that holds it.
    pub(super) parent: OwnedFd,
    pub(super) name: OsString,
    /// For messages.
    pub(super) path: PathBuf,
    /// Itself.
    pub(super) dir: OwnedFd,
    // It is not to be removed: it has got its place, or somebody wants what is in it.
    stays: bool,
}

impl Temp {
    /// Makes one in `parent`, which is called `path`, to be filled.
    pub(super) fn make(parent: &OwnedFd, path: &Path, prefix: &Prefix) -> Result<Temp, RestoreError> {
        // With the mark from the first moment on; once more for who has a umask that takes it away.
        let temp = Temp::make_as(parent, path, MARKED, &|| prefix.make())?;
        mark_to_go(&temp.dir);
        Ok(temp)
    }

    /// Makes one for what was there before. It has no mark.
    pub(super) fn make_old(parent: &OwnedFd, path: &Path, prefix: &Prefix) -> Result<Temp, RestoreError> {
        Temp::make_as(parent, path, 0o700, &|| old_of(&prefix.make()))
    }

    fn make_as(
        parent: &OwnedFd,
        path: &Path,
        mode: u32,
        name: &dyn Fn() -> OsString,
    ) -> Result<Temp, RestoreError> {
        let parent = parent.try_clone().map_err(at("open", path))?;
        for _ in 0..TRIES_MAX {
            let name = name();
            let path = path.join(&name);
            let made = mkdirat(&parent, &name, Mode::from_raw_mode(mode));
            made.map_err(|e| at("make the directory", &path)(e.into()))?;
            let opened = reach(Step::Open).and_then(|()| open_made(parent.as_fd(), &name));
            let made = opened.map(|dir| {
                // What was opened is what was made, and nobody looks at it just now to sweep it.
                let is_empty = names_in(dir.as_fd()).is_ok_and(|names| names.is_empty());
                (is_empty && lock(&dir) && is_at(&dir, &parent, &name)).then_some(dir)
            });
            match made {
                Ok(Some(dir)) => return Ok(Temp { parent, name, path, dir, stays: false }),
                // By its name: no more than an empty directory can go. Who sweeps may have been quicker.
                Ok(None) | Err(Errno::NOENT) => {
                    let _ = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                }
                Err(e) => {
                    let _ = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                    return Err(at("open", &path)(e.into()).into());
                }
            }
        }
        let why = io::Error::other("others take away what is made there");
        Err(at("make a directory in", path)(why).into())
    }

    /// It gets the name that says that it was there before: for the moment in which the two are exchanged.
    pub(super) fn rename_as_old(&mut self) -> Result<(), Errno> {
        self.rename(old_of(&self.name))
    }

    /// It gets its first name back.
    pub(super) fn rename_as_new(&mut self) -> Result<(), Errno> {
        self.rename(self.new_name())
    }

    /// Its name without the word that it was there before.
    pub(super) fn new_name(&self) -> OsString {
        let name = self.name.as_bytes();
        OsStr::from_bytes(name.strip_suffix(OLD).unwrap_or(name)).to_owned()
    }

    fn rename(&mut self, name: OsString) -> Result<(), Errno> {
        rename_new(self.parent.as_fd(), &self.name, self.parent.as_fd(), &name)?;
        self.is_named(name);
        Ok(())
    }

    /// It has got this name.
    pub(super) fn is_named(&mut self, name: OsString) {
        self.path.set_file_name(&name);
        self.name = name;
    }

    /// It has got its place.
    pub(super) fn is_placed(&mut self) {
        self.stays = true;
    }

    /// Whatever has its name now is kept, under another name that no restore has. Answers where it lies. (Where it
    /// cannot be renamed nobody sweeps it either: it has no mark.)
    pub(super) fn keep(&mut self) -> PathBuf {
        self.stays = true;
        let parent = self.parent.as_fd();
        for n in 0..KEPT_MAX {
            let number = if n == 0 { String::new() } else { format!(".{n}") };
            let name = format!("before-restore{number}.epochlog");
            match rename_new(parent, &self.name, parent, OsStr::new(&name)) {
                Ok(()) => return self.path.with_file_name(name),
                Err(Errno::EXIST) => {}
                Err(_) => break,
            }
        }
        self.path.clone()
    }

    /// Removes it, if it is not to stay. Answers what could not be removed.
    pub(super) fn remove(&self) -> Option<PathBuf> {
        if self.stays { None } else { remove(&self.dir, self.parent.as_fd(), &self.name, &self.path) }
    }
}

// Opens a directory that was made just now. A umask, or an access list of the folder, may have taken rights away from
// its owner; where others have rights it is another one.
fn open_made(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let named = openat(parent, name, OPEN_DIR | OFlags::PATH, Mode::empty())?;
    let mode = fstat(&named)?.st_mode & 0o7777;
    if mode & 0o700 != 0o700 && mode & !0o3700 == 0 {
        chmod(format!("/proc/self/fd/{}", named.as_raw_fd()).as_str(), Mode::RWXU)?;
    }
    openat(&named, c".", OPEN_DIR, Mode::empty())
}

/// From now on it may be swept. Where that mode cannot be it is not.
pub(super) fn mark_to_go(dir: &OwnedFd) {
    let _ = fchmod(dir, Mode::from_raw_mode(MARKED));
}

/// Removes the directory that is open, and its name. Answers it when it could not be removed.
pub(super) fn remove(dir: &OwnedFd, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Option<PathBuf> {
    let error = remove_held(dir, parent, name).err()?;
    tracing::warn!(path = %path.display(), %error, "cannot remove what a restore made or replaced");
    Some(path.to_path_buf())
}

/// Locks it. False when somebody else has; where directories cannot be locked nobody sweeps either.
pub(super) fn lock(dir: &OwnedFd) -> bool {
    flock(dir, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)
}

/// What is found of earlier restores.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// What killed ones were writing.
    pub(super) stale: Vec<OsString>,
    /// In use by another one now.
    pub(super) in_use: Vec<OsString>,
}

/// The temporaries in `parent`. Changes nothing.
pub(super) fn find(parent: BorrowedFd<'_>, prefix: &Prefix) -> io::Result<Stale> {
    let mut found = Stale::default();
    for name in names_in(parent)?.into_iter().filter(|name| prefix.is_ours(name)) {
        match judge(parent, &name) {
            Judged::InUse => found.in_use.push(name),
            Judged::Stale(_) if prefix.is_new(&name) => found.stale.push(name),
            Judged::Stale(_) | Judged::Unsure | Judged::NotOurs => {}
        }
    }
    Ok(found)
}

// What has one of our names.
enum Judged {
    // It has our mark, and nobody holds it: locked now.
    Stale(OwnedFd),
    // A restore lives that has it.
    InUse,
    // A directory of this user without the mark: nobody knows whether somebody wants it.
    Unsure,
    NotOurs,
}

fn judge(parent: BorrowedFd<'_>, name: &OsStr) -> Judged {
    let Ok(dir) = openat(parent, name, OPEN_DIR, Mode::empty()) else { return Judged::NotOurs };
    let Ok(stat) = fstat(&dir) else { return Judged::NotOurs };
    let locked = match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Judged::InUse,
        result => result.is_ok(),
    };
    if stat.st_uid != rustix::process::geteuid().as_raw() || !is_at(&dir, parent, name) {
        return Judged::NotOurs;
    }
    if locked && stat.st_mode & 0o7777 == MARKED { Judged::Stale(dir) } else { Judged::Unsure }
}

/// Removes what killed restores have left in `parent`, which is called `path`. Before the new directory is in its place
/// (`is_done`) only what they were writing. After it also what they had replaced, if nothing lies in it that no restore
/// wrote. Answers what has such a name and stays.
pub(super) fn sweep(parent: BorrowedFd<'_>, path: &Path, prefix: &Prefix, is_done: bool) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for name in names_in(parent).unwrap_or_default() {
        let (full, is_old) = (path.join(&name), prefix.is_old(&name));
        if !prefix.is_ours(&name) || is_old && !is_done {
            continue;
        }
        match judge(parent, &name) {
            // It is locked until it is gone.
            Judged::Stale(dir) if !is_old || holds_nothing_of_others(&dir, &full) => {
                let swept = reach(Step::Sweep).map(|()| remove(&dir, parent, &name, &full));
                left.extend(swept.unwrap_or(Some(full)));
            }
            Judged::Stale(_) | Judged::Unsure if is_done => left.push(full),
            Judged::Stale(_) | Judged::Unsure | Judged::InUse | Judged::NotOurs => {}
        }
    }
    left
}

// Directories that a killed removal has emptied are no loss.
fn holds_nothing_of_others(dir: &OwnedFd, path: &Path) -> bool {
    survey(dir, path, &|_| false).is_ok_and(|found| found.others.entries == found.hollow)
}

#[cfg(test)]
mod tests {
    use super::super::steps::at_steps;
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn parent(dir: &Path) -> OwnedFd {
        File::open(dir).unwrap().into()
    }

    // As a killed restore leaves it.
    fn marked(path: &Path) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(MARKED)).unwrap();
    }

    #[test]
    fn what_nobody_holds_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, prefix) = (parent(dir.path()), Prefix::beside(OsStr::new("t")));
        let held = Temp::make(&parent, dir.path(), &prefix).unwrap();
        let killed = Temp::make(&parent, dir.path(), &prefix).unwrap();
        fs::create_dir(dir.path().join(&killed.name).join("d")).unwrap();
        let (stale, _) = (killed.name.clone(), drop(killed));
        let old = dir.path().join(old_of(&stale));
        marked(&old);
        let others = [".t.epochlog-tmp-", ".t.epochlog-tmp-notes", ".u.epochlog-tmp-0123456789abcdef"];
        others.iter().for_each(|name| marked(&dir.path().join(name)));
        std::os::unix::fs::symlink(".", dir.path().join(".t.epochlog-tmp-0123456789abcdef")).unwrap();
        let found = find(parent.as_fd(), &prefix).unwrap();
        assert_eq!((found.stale, found.in_use), (vec![stale.clone()], vec![held.name.clone()]));
        assert!(sweep(parent.as_fd(), dir.path(), &prefix, false).is_empty());
        assert!(!dir.path().join(&stale).exists() && old.exists());
        assert!(held.path.exists() && dir.path().join(".t.epochlog-tmp-0123456789abcdef").is_symlink());
        assert!(sweep(parent.as_fd(), dir.path(), &prefix, true).is_empty());
        assert!(!old.exists());
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
        assert_eq!(held.remove(), None);
        assert!(!held.path.exists());
    }

    #[test]
    fn a_name_alone_makes_nothing_stale() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, prefix) = (parent(dir.path()), Prefix::beside(OsStr::new("t")));
        // Somebody who may write to the folder has renamed these: no restore gave them the mark.
        let planted =
            ["", "-old"].map(|end| dir.path().join(format!(".t.epochlog-tmp-0123456789abcdef{end}")));
        planted.iter().for_each(|path| fs::create_dir_all(path.join("precious")).unwrap());
        assert!(sweep(parent.as_fd(), dir.path(), &prefix, false).is_empty());
        let mut left = sweep(parent.as_fd(), dir.path(), &prefix, true);
        left.sort();
        assert_eq!(left, planted, "what stays is told");
        assert!(planted.iter().all(|path| path.join("precious").is_dir()));
        // An old directory with something of others stays as well, marked or not.
        fs::set_permissions(&planted[1], Permissions::from_mode(MARKED)).unwrap();
        fs::write(planted[1].join("notes"), b"mine").unwrap();
        assert_eq!(sweep(parent.as_fd(), dir.path(), &prefix, true).len(), 2);
        assert_eq!(fs::read(planted[1].join("notes")).unwrap(), b"mine");
        // Emptied directories in it are no loss.
        fs::remove_file(planted[1].join("notes")).unwrap();
        assert_eq!(sweep(parent.as_fd(), dir.path(), &prefix, true), planted[..1]);
        assert!(!planted[1].exists());
    }

    #[test]
    fn what_is_swapped_in_after_the_look_is_neither_swept_nor_filled() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, prefix) = (parent(dir.path()), Prefix::beside(OsStr::new("t")));
        let [stale, precious, away] =
            [".t.epochlog-tmp-0123456789abcdef", "precious", "away"].map(|name| dir.path().join(name));
        marked(&stale);
        fs::create_dir_all(precious.join("inner")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let before = mode(&precious);
        let (from, to, spare) = (precious.clone(), stale.clone(), away.clone());
        let swap = move |step: Step| {
            if step == Step::Sweep {
                fs::rename(&to, &spare).unwrap();
                fs::rename(&from, &to).unwrap();
            }
            Ok(())
        };
        let swept = at_steps(swap, || sweep(parent.as_fd(), dir.path(), &prefix, false)).unwrap();
        assert_eq!(swept, std::slice::from_ref(&stale));
        assert!(stale.join("inner").is_dir());
        fs::rename(&stale, &precious).unwrap();
        // The same between the making of a temporary and its opening.
        let (at, from, mut swapped) = (dir.path().to_owned(), precious.clone(), None);
        let swap = move |_: Step| {
            if swapped.is_none() {
                let made = |path: &PathBuf| path.to_string_lossy().contains(".t.epochlog-tmp-");
                let all = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path());
                let made: Vec<_> = all.filter(made).collect();
                fs::remove_dir(&made[0]).unwrap();
                fs::rename(&from, &made[0]).unwrap();
                swapped = Some(made);
            }
            Ok(())
        };
        let temp = at_steps(swap, || Temp::make(&parent, dir.path(), &prefix)).unwrap().unwrap();
        assert!(!temp.path.join("inner").exists(), "another directory was taken for ours");
        assert_eq!(mode(&temp.path), MARKED);
        assert_eq!(temp.remove(), None);
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let moved: Vec<_> = left.filter(|path| path.join("inner").is_dir()).collect();
        assert_eq!(moved.len(), 1, "it was removed");
        assert_eq!(mode(&moved[0]), before);
    }

    #[test]
    fn one_that_cannot_be_opened_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::inside();
        let make = || Temp::make(&parent(dir.path()), dir.path(), &prefix);
        at_steps(|_| Err(Errno::MFILE), make).unwrap().unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_that_begin_alike_have_temporaries_of_their_own() {
        let names = ["a", "b"].map(|end| format!("{}{end}", "x".repeat(250)));
        let [one, other] = names.map(|name| Prefix::beside(OsStr::new(&name)));
        assert!(one.is_ours(&one.make()) && !other.is_ours(&one.make()));
        assert!(old_of(&one.make()).len() <= 255);
    }

    #[test]
    fn what_is_kept_gets_a_name_that_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let kept = [0, 1, 2].map(|_| {
            let mut temp = Temp::make_old(&parent(dir.path()), dir.path(), &Prefix::inside()).unwrap();
            let kept = temp.keep();
            assert_eq!(temp.remove(), None);
            kept
        });
        let names = ["before-restore.epochlog", "before-restore.1.epochlog", "before-restore.2.epochlog"];
        assert_eq!(kept, names.map(|name| dir.path().join(name)));
        assert!(kept.iter().all(|path| path.is_dir()));
        assert!(sweep(parent(dir.path()).as_fd(), dir.path(), &Prefix::inside(), true).is_empty());
    }
}
