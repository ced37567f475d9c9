//! Writes that move no time of a file while it is read. Those through a mapping are made to move one. What one write
//! does that began before the scan nothing tells: so it is asked whether somebody has the file open for writing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{fdatasync, fstatfs};

// Where it is not enough to send pages on their way: an overlay has none of its own and leaves those of the layer
// below alone; the others are free not to start.
const OVERLAY: u32 = 0x794c_7630;
const F2FS: u32 = 0xf2f5_2010;
const NFS: u32 = 0x6969;
const FUSE: u32 = 0x6573_5546;

// Of `fcntl`, the same on all machines with Linux that we know; `libc` does not have it.
const F_SETSIG: libc::c_int = 10;

/// Of each device that a source lies on, whether its file system must be waited for; asked once.
#[derive(Debug, Default)]
pub(super) struct Devices(RefCell<BTreeMap<u64, bool>>);

impl Devices {
    fn must_wait(&self, fd: &OwnedFd, device: u64) -> bool {
        let ask = || fstatfs(fd).is_ok_and(|found| must_wait(found.f_type as u32));
        *self.0.borrow_mut().entry(device).or_insert_with(ask)
    }

    /// Whoever has the file mapped writes to a page that is in memory alone as often as he likes, and no time moves.
    /// A page that is being written back is closed to that: the next write through a mapping is a fault, and that
    /// moves the times. On file systems that write nothing back (tmpfs) nothing helps.
    pub(super) fn close_to_mapped_writes(&self, fd: &OwnedFd, device: u64) -> io::Result<()> {
        // Not everywhere: fdatasync also waits for the disk and for the journal, some 20,000 fresh files one by one.
        if self.must_wait(fd, device) { Ok(fdatasync(fd)?) } else { write_back(fd) }
    }
}

fn must_wait(file_system: u32) -> bool {
    [OVERLAY, F2FS, NFS, FUSE].contains(&file_system)
}

#[expect(unsafe_code, reason = "there is no safe wrapper of this call")]
fn write_back(fd: &OwnedFd) -> io::Result<()> {
    // First wait for what is on its way already: a page that is, and was written to since, would be left out.
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call takes a descriptor that is open, and numbers; it touches no memory of ours.
    let failed = unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, flags) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether somebody has the file open for writing. `false` where that cannot be told: of other owners' files, and where
/// the file system has no leases.
pub(super) fn has_writer(fd: &OwnedFd) -> bool {
    // Whoever opens the file in the moment that the lease is ours makes the kernel send a signal. That is SIGIO, which
    // ends a process, unless we choose another: one that nobody hears. Each time, a lease that ends takes that along.
    if control(fd, F_SETSIG, libc::SIGURG).is_err() {
        return false;
    }
    match control(fd, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            // At once: whoever opens it waits for that. Should it fail, the lease goes with the descriptor.
            let _ = control(fd, libc::F_SETLEASE, libc::F_UNLCK);
            false
        }
        Err(error) => error.raw_os_error() == Some(libc::EAGAIN),
    }
}

#[expect(unsafe_code, reason = "there is no safe wrapper of these commands")]
fn control(fd: &OwnedFd, command: libc::c_int, with: libc::c_int) -> io::Result<()> {
    // SAFETY: the commands take a descriptor that is open, and a number; they touch no memory of ours.
    let failed = unsafe { libc::fcntl(fd.as_raw_fd(), command, with) } == -1;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant, SystemTime};

    use rustix::fs::fstat;
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    const TMPFS: u32 = 0x0102_1994;

    /// An overlay, which goes with this.
    struct Overlay(tempfile::TempDir);

    impl Overlay {
        /// `None` where nobody may make one.
        fn new() -> Option<Overlay> {
            let temp = tempfile::tempdir().unwrap();
            let folder = |name: &str| {
                std::fs::create_dir(temp.path().join(name)).unwrap();
                temp.path().join(name).to_str().unwrap().to_owned()
            };
            let (lower, upper, work) = (folder("lower"), folder("upper"), folder("work"));
            let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            let mount = ["-t", "overlay", "overlay", "-o", &layers, &folder("merged")].map(str::to_owned);
            let mounted = Command::new("mount").args(mount).output();
            mounted.is_ok_and(|said| said.status.success()).then(|| Overlay(temp))
        }

        fn dir(&self) -> std::path::PathBuf {
            self.0.path().join("merged")
        }
    }

    impl Drop for Overlay {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.dir()).status();
        }
    }

    fn modified(path: &Path) -> SystemTime {
        std::fs::metadata(path).unwrap().modified().unwrap()
    }

    #[expect(unsafe_code, reason = "a mapping is what is shown")]
    fn sees_mapped_writes(dir: &Path) -> bool {
        let path = dir.join("mapped");
        std::fs::write(&path, [0; 4096]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the address is the kernel's choice, and the file keeps its length.
        let mapped =
            unsafe { mmap(std::ptr::null_mut(), 4096, protection, MapFlags::SHARED, &file, 0).unwrap() };
        // SAFETY: within the mapping, which nobody else uses.
        let store = |byte: u8| unsafe { mapped.cast::<u8>().write_volatile(byte) };
        store(1);
        let source = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let device = fstat(&source).unwrap().st_dev;
        Devices::default().close_to_mapped_writes(&source, device).unwrap();
        let before = modified(&path);
        // The clock of the file system has ticks.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            std::fs::write(dir.join("clock"), b"").unwrap();
            std::fs::write(dir.join("clock"), b"tick").unwrap();
            if modified(&dir.join("clock")) > before {
                break;
            }
            assert!(Instant::now() < deadline, "the clock stands still");
        }
        store(2);
        let is_seen = modified(&path) != before;
        // SAFETY: nobody uses it any more.
        unsafe { munmap(mapped, 4096).unwrap() };
        is_seen
    }

    #[test]
    fn a_write_through_a_mapping_moves_a_time_also_on_an_overlay() {
        let temp = tempfile::tempdir().unwrap();
        let story = "a write through a mapping";
        if needs::is_on_disk(temp.path()) {
            assert!(sees_mapped_writes(temp.path()));
        } else {
            needs::skip(needs::Need::Disk, story, "on tmpfs no time moves, as README says");
        }
        match Overlay::new() {
            Some(overlay) => assert!(sees_mapped_writes(&overlay.dir())),
            None => needs::skip(needs::Need::Mounts, story, "nobody may mount an overlay here"),
        }
        assert!([OVERLAY, F2FS, NFS, FUSE].into_iter().all(must_wait) && !must_wait(TMPFS));
    }

    // The kernel tells the holder of a lease by SIGIO, unless another signal is chosen: that would end this process.
    #[test]
    fn who_opens_the_file_while_it_is_looked_at_disturbs_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a");
        std::fs::write(&path, b"content").unwrap();
        let source = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    drop(std::fs::File::options().write(true).open(&path).unwrap());
                }
            });
            // A lease that is kept holds up for 45 s who opens the file.
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut looked = [0, 0];
            while looked.iter().any(|times| *times < 1000) && Instant::now() < deadline {
                looked[usize::from(has_writer(&source))] += 1;
            }
            over.store(true, Ordering::Relaxed);
            assert!(looked.iter().all(|times| *times >= 1000), "{looked:?}");
        });
    }
}
