//! A way down a tree of directories and up again by descriptors, one open at a time however deep the tree is. No step
//! follows a symlink or leads into another mounted file system, and a step up ends in the directory that the step down
//! began in, or fails: whatever others rename meanwhile, nothing outside the tree is reached.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fchmod, fstat, openat,
    openat2, statx,
};
use rustix::io::Errno;

use super::WITHOUT_OPENAT2;

const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// See the module.
pub struct Descent {
    here: OwnedFd,
    // Device and inode of the directories above, outermost first.
    above: Vec<(u64, u64)>,
    // Directories are opened up for their owner as they are entered.
    opens_up: bool,
}

impl Descent {
    /// Begins in the directory `name` of `parent`.
    ///
    /// # Errors
    /// `NotFound`; one that [`is_no_directory`] tells, also for a symlink; those of the system.
    pub fn begin(parent: impl AsFd, name: &OsStr) -> io::Result<Descent> {
        let here = step(parent.as_fd(), name.as_bytes(), false)?;
        Ok(Descent { here, above: Vec::new(), opens_up: false })
    }

    /// The same to remove what is found: directories that their owner may not read or write are opened up.
    ///
    /// # Errors
    /// As [`Descent::begin`].
    pub fn begin_to_remove(parent: impl AsFd, name: &OsStr) -> io::Result<Descent> {
        let here = step(parent.as_fd(), name.as_bytes(), true)?;
        Ok(Descent { here, above: Vec::new(), opens_up: true })
    }

    /// The directory that was reached.
    pub fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Steps down.
    ///
    /// # Errors
    /// As [`Descent::begin`]; [`is_mounted`] tells that another file system is mounted there.
    pub fn enter(&mut self, name: &OsStr) -> io::Result<()> {
        let before = fstat(&self.here)?;
        let below = step(self.here.as_fd(), name.as_bytes(), self.opens_up)?;
        // Where openat2 is missing, nothing else has asked.
        if WITHOUT_OPENAT2.load(Ordering::Relaxed) && is_other_mount(&self.here, &below)? {
            return Err(Errno::XDEV.into());
        }
        self.above.push(id_of(&before));
        self.here = below;
        Ok(())
    }

    /// Steps up again.
    ///
    /// # Errors
    /// The directory was moved elsewhere meanwhile.
    pub fn leave(&mut self) -> io::Result<()> {
        let expected = self.above.pop().expect("nobody steps up further than he has stepped down");
        let up = openat(&self.here, c"..", READ, Mode::empty())?;
        if id_of(&fstat(&up)?) != expected {
            return Err(io::Error::other("a directory was moved while the tree was walked"));
        }
        self.here = up;
        Ok(())
    }

    /// Calls `each` with every name here, and whether it stands for a directory, in no order.
    ///
    /// # Errors
    /// Those of the system, and of `each`.
    pub fn names(&self, mut each: impl FnMut(&CStr, bool) -> io::Result<()>) -> io::Result<()> {
        for entry in Dir::read_from(&self.here)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => match stat(self.here(), name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode).is_dir(),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
                known => known.is_dir(),
            };
            each(name, is_dir)?;
        }
        Ok(())
    }
}

/// Whether two open directories were reached by different mounts: another file system, or the same one mounted a second
/// time (a bind mount).
///
/// # Errors
/// Those of the system.
pub fn is_other_mount(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    if fstat(&one)?.st_dev != fstat(&other)?.st_dev {
        return Ok(true);
    }
    Ok(mount_of(one.as_fd()) != mount_of(other.as_fd()))
}

// The number of its mount, where the kernel tells.
fn mount_of(dir: BorrowedFd<'_>) -> Option<u64> {
    match statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(told) if told.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Some(told.stx_mnt_id),
        // Kernels before 5.8, and sandboxes.
        _ => mount_by_proc(dir),
    }
}

fn mount_by_proc(dir: BorrowedFd<'_>) -> Option<u64> {
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd())).ok()?;
    told.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

fn id_of(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn stat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether an error says that the name stands for something else than a directory.
pub fn is_no_directory(error: &io::Error) -> bool {
    is(error, Errno::NOTDIR) || is(error, Errno::LOOP)
}

/// Whether an error says that another file system is mounted at the name.
pub fn is_mounted(error: &io::Error) -> bool {
    is(error, Errno::XDEV)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn step(dir: BorrowedFd<'_>, name: &[u8], opens_up: bool) -> io::Result<OwnedFd> {
    let opened = match open_dir(dir, name, READ) {
        // Its owner took the right to read it from himself; a path descriptor needs none.
        Err(e) if opens_up && is(&e, Errno::ACCESS) => {
            let closed = open_dir(dir, name, READ | OFlags::PATH)?;
            let by_number = format!("/proc/self/fd/{}", closed.as_raw_fd());
            rustix::fs::chmodat(CWD, by_number.as_str(), Mode::RWXU, AtFlags::empty()).map_err(|_| e)?;
            openat(&closed, c".", READ, Mode::empty())?
        }
        opened => opened?,
    };
    if opens_up && fstat(&opened)?.st_mode & 0o700 != 0o700 {
        match fchmod(&opened, Mode::RWXU) {
            // Somebody else's: whoever may remove what lies in it needs no more.
            Ok(()) | Err(Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(opened)
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    if !WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match openat2(dir, name, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => WITHOUT_OPENAT2.store(true, Ordering::Relaxed),
            other => return Ok(other?),
        }
    }
    Ok(openat(dir, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parent(dir: &std::path::Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn no_step_follows_a_symlink_or_comes_back_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("t/a/b")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../out", dir.path().join("t/s")).unwrap();
        fs::write(dir.path().join("t/f"), b"").unwrap();
        let parent = parent(dir.path());
        let mut way = Descent::begin(&parent, OsStr::new("t")).unwrap();
        for name in ["s", "f"] {
            assert!(is_no_directory(&way.enter(OsStr::new(name)).unwrap_err()), "{name}");
        }
        way.enter(OsStr::new("a")).unwrap();
        way.enter(OsStr::new("b")).unwrap();
        way.leave().unwrap();
        way.enter(OsStr::new("b")).unwrap();
        // The directory goes elsewhere: its parent is another one now.
        fs::rename(dir.path().join("t/a/b"), dir.path().join("out/b")).unwrap();
        assert!(way.leave().is_err());
    }

    #[test]
    fn the_number_of_a_mount_is_what_the_kernel_lists() {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // The topmost mount of a place is its last line.
        let listed = |place: &str| {
            let of_place = list.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>());
            of_place.into_iter().find(|line| line[4] == place).map(|line| line[0].parse::<u64>().unwrap())
        };
        let [root, proc] = ["/", "/proc"].map(|place| parent(std::path::Path::new(place)));
        for (dir, place) in [(&root, "/"), (&proc, "/proc")] {
            let listed = listed(place);
            assert_eq!((mount_of(dir.as_fd()), mount_by_proc(dir.as_fd())), (listed, listed), "{place}");
        }
        assert!(is_other_mount(&root, &proc).unwrap());
        assert!(!is_other_mount(&root, &root).unwrap());
    }

    /// Where this process may mount nothing, the numbers above must do.
    #[test]
    fn a_bind_mount_of_the_same_file_system_is_another_mount() {
        let dir = tempfile::tempdir().unwrap();
        let [out, below] = ["out", "t/a"].map(|name| dir.path().join(name));
        fs::create_dir_all(&below).unwrap();
        fs::create_dir(&out).unwrap();
        let mount = |command: &str, args: &[&std::path::Path]| {
            let mut command = std::process::Command::new(command);
            command.args(args).stderr(std::process::Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let mounted = mount("mount", &[std::path::Path::new("--bind"), &out, &below]);
        let [one, other] = [dir.path(), below.as_path()].map(parent);
        assert_eq!(fstat(&one).unwrap().st_dev, fstat(&other).unwrap().st_dev);
        let found = is_other_mount(&one, &other);
        drop(other);
        assert!(!mounted || mount("umount", &[&below]));
        assert_eq!(found.unwrap(), mounted);
    }

    #[test]
    fn names_are_told_with_their_kind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("t/a")).unwrap();
        fs::write(dir.path().join("t/f"), b"").unwrap();
        let way = Descent::begin(parent(dir.path()), OsStr::new("t")).unwrap();
        let mut seen = Vec::new();
        way.names(|name, is_dir| {
            seen.push((name.to_str().unwrap().to_owned(), is_dir));
            Ok(())
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, [("a".to_owned(), true), ("f".to_owned(), false)]);
    }
}
