//! A disk on which a failed sync is final.
//!
//! **Guarantees.** The first fsync, fdatasync or syncfs that fails, whoever asked for it, is told to the [`Fault`] with
//! its file and call, and every later one fails: after an error the kernel may call pages clean that are not on the device,
//! so a second try that succeeds proves nothing. What was not synced is not relied on, so nothing is made durable any more.
//!
//! **Never.** A write that finds no room, and a file or directory that cannot be opened, are no faults: they fail alone.
//! Whatever the sync of an open one answers is one, also what an open could answer too: a lack of memory, say, while
//! dirty pages were written back.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskDir, DiskFile, Open};

type Tell = Box<dyn FnOnce(&str) + Send>;

/// The first sync that failed, and who wants to know. Clones share it.
#[derive(Clone, Default)]
pub struct Fault {
    inner: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    why: Option<String>,
    tell: Vec<Tell>,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fault").field(&self.why()).finish()
    }
}

impl Fault {
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call, file and the system's answer, once a sync has failed.
    pub fn why(&self) -> Option<String> {
        self.state().why.clone()
    }

    /// Calls `tell` with that, once: now, when a sync has failed already.
    pub fn tell(&self, tell: impl FnOnce(&str) + Send + 'static) {
        let mut state = self.state();
        match state.why.clone() {
            None => state.tell.push(Box::new(tell)),
            Some(why) => {
                drop(state);
                tell(&why);
            }
        }
    }

    fn raise(&self, why: String) {
        let tell = {
            let mut state = self.state();
            if state.why.is_some() {
                return;
            }
            state.why = Some(why.clone());
            std::mem::take(&mut state.tell)
        };
        tracing::error!(why, "a failed sync is final");
        tell.into_iter().for_each(|tell| tell(&why));
    }

    fn sync(&self, call: &str, path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if let Some(why) = self.why() {
            return Err(io::Error::other(format!("an earlier sync failed ({why})")));
        }
        let result = sync();
        if let Err(error) = &result {
            self.raise(format!("{call} {} failed: {error}", path.display()));
        }
        result
    }
}

/// See the module.
#[derive(Debug)]
pub struct StrictDisk {
    disk: Arc<dyn Disk>,
    fault: Fault,
}

impl StrictDisk {
    /// Over `disk`.
    pub fn over(disk: Arc<dyn Disk>) -> StrictDisk {
        StrictDisk { disk, fault: Fault::default() }
    }

    /// What has failed.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(StrictFile { file, path: path.to_owned(), fault: self.fault.clone() })
    }
}

impl super::DiskLayer for StrictDisk {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path, how)?))
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open_direct(path, how)?))
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        let dir = self.disk.open_dir(path)?;
        Ok(Box::new(StrictDir { dir, path: path.to_owned(), fault: self.fault.clone() }))
    }
    // It syncs nothing, and the disk below may know a shorter way.
    fn write_new(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.disk.write_new(path, data, mode)
    }
}

#[derive(Debug)]
struct StrictDir {
    dir: Box<dyn DiskDir>,
    path: PathBuf,
    fault: Fault,
}

impl DiskDir for StrictDir {
    fn sync(&self) -> io::Result<()> {
        self.fault.sync("fsync of the names in", &self.path, || self.dir.sync())
    }
    fn sync_fs(&self) -> io::Result<()> {
        self.fault.sync("syncfs", &self.path, || self.dir.sync_fs())
    }
}

#[derive(Debug)]
struct StrictFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    fault: Fault,
}

impl super::FileLayer for StrictFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn sync_data(&self) -> io::Result<()> {
        self.fault.sync("fdatasync", &self.path, || self.file.sync_data())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.fault.sync("fsync", &self.path, || self.file.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CrashDisk, OpKind};
    use std::sync::mpsc;

    #[test]
    fn the_first_sync_that_fails_is_told_with_file_and_call_and_ends_all_others() {
        type Call = fn(&dyn Disk) -> io::Result<()>;
        let calls: [(OpKind, &str, Call); 4] = [
            (OpKind::SyncData, "fdatasync /f failed", |disk| {
                disk.open(Path::new("/f"), Open::Write)?.sync_data()
            }),
            (OpKind::SyncAll, "fsync /f failed", |disk| {
                disk.open_direct(Path::new("/f"), Open::Write)?.sync_all()
            }),
            (OpKind::SyncDir, "fsync of the names in / failed", |disk| disk.sync_dir(Path::new("/"))),
            (OpKind::SyncFs, "syncfs / failed", |disk| disk.sync_fs(Path::new("/"))),
        ];
        // Whatever it answers: EIO, EINTR, ENOMEM, EACCES, ENFILE, EMFILE, ENOSPC.
        let errors = [5, 4, 12, 13, 23, 24, 28];
        let each = calls.into_iter().flat_map(|call| errors.map(|errno| (call, errno)));
        for ((kind, said, call), errno) in each {
            let crash = CrashDisk::new();
            let strict = StrictDisk::over(Arc::new(crash.clone()));
            strict.write_new(Path::new("/f"), b"bytes", 0o600).unwrap();
            let (told, hears) = mpsc::channel();
            strict.fault().tell(move |why| told.send(why.to_owned()).unwrap());
            call(&strict).unwrap();
            crash.fail_next(kind, "/", errno);
            assert!(call(&strict).is_err());
            let why = hears.try_recv().unwrap_or_else(|_| panic!("{said}: {errno} is no fault"));
            assert!(why.starts_with(said), "{why}");
            for (_, _, later) in calls {
                assert!(later(&strict).unwrap_err().to_string().contains(said));
            }
            // Who asks later hears it too.
            let (told, hears) = mpsc::channel();
            strict.fault().tell(move |why| told.send(why.to_owned()).unwrap());
            assert_eq!(hears.try_recv().unwrap(), why);
        }
    }

    #[test]
    fn what_cannot_be_opened_and_a_full_disk_are_no_faults() {
        let crash = CrashDisk::new();
        let strict = StrictDisk::over(Arc::new(crash.clone()));
        assert!(strict.sync_dir(Path::new("/gone")).is_err());
        for errno in [5, 12, 24] {
            crash.fail_next(OpKind::Open, "/", errno);
            assert_eq!(strict.sync_dir(Path::new("/")).unwrap_err().raw_os_error(), Some(errno));
            crash.fail_next(OpKind::Open, "/", errno);
            assert_eq!(strict.sync_fs(Path::new("/")).unwrap_err().raw_os_error(), Some(errno));
        }
        crash.fail_next(OpKind::Write, "/f", 28);
        assert!(strict.write_new(Path::new("/f"), b"bytes", 0o600).is_err());
        assert_eq!(strict.fault().why(), None);
    }
}
