//! A real disk of which some operations wait at a gate, as those of a disk do that hangs.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use checkpoint::RealDisk;
use checkpoint::disk::{Disk, DiskFile, Open};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Lets operations through, or not.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Closed,
    Refusing,
}

impl Gate {
    fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.moved.notify_all();
    }

    /// Whoever comes waits.
    pub fn close(&self) {
        self.set(State::Closed);
    }

    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Whoever waits, and whoever comes, fails for want of space.
    pub fn refuse(&self) {
        self.set(State::Refusing);
    }

    fn pass(&self) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let state = self.moved.wait_while(state, |state| *state == State::Closed).unwrap();
        match *state {
            State::Refusing => Err(io::Error::from_raw_os_error(ENOSPC)),
            State::Open | State::Closed => Ok(()),
        }
    }
}

/// The disk of one node.
#[derive(Debug, Clone, Default)]
pub struct SlowDisk {
    /// Whatever makes appended entries durable waits here.
    pub log: Arc<Gate>,
    /// Whoever begins to build an epoch's directory waits here.
    pub publish: Arc<Gate>,
    /// The last bytes of large blobs are wrong on their way out, though whoever verifies a blob finds it good.
    pub spoils_sent: Arc<AtomicBool>,
    /// Inodes of which every read fails from the next open on: the device has lost their bytes.
    pub lost: Arc<Mutex<BTreeSet<u64>>>,
}

/// Blobs are sent in exact reads of this many bytes, and the last one is shorter; whoever verifies one takes what comes.
const WHOLE_READ: usize = 1 << 20;

#[derive(Debug)]
struct SlowFile {
    file: Box<dyn DiskFile>,
    log: Arc<Gate>,
    /// Of a blob.
    spoils: Option<Arc<AtomicBool>>,
    lost: bool,
}

impl SlowDisk {
    fn slow(&self, path: &Path, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        let is_blob = path.components().any(|part| part.as_os_str() == "blobs");
        let spoils = is_blob.then(|| self.spoils_sent.clone());
        let file = file?;
        let is_lost = |lost: &BTreeSet<u64>| RealDisk.stat(path).is_ok_and(|stat| lost.contains(&stat.ino));
        let lost = is_lost(&self.lost.lock().unwrap());
        Ok(Box::new(SlowFile { file, log: self.log.clone(), spoils, lost }))
    }
}

impl checkpoint::disk::DiskLayer for SlowDisk {
    fn below(&self) -> &dyn Disk {
        &RealDisk
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.slow(path, RealDisk.open(path, how))
    }

    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.slow(path, RealDisk.open_direct(path, how))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.ends_with("epoch") && path.components().any(|part| part.as_os_str() == "staging") {
            self.publish.pass()?;
        }
        RealDisk.create_dir(path)
    }
}

impl SlowFile {
    fn reading(&self) -> io::Result<()> {
        if self.lost { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }
}

impl checkpoint::disk::FileLayer for SlowFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reading()?;
        self.file.read_at(buf, offset)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reading()?;
        self.file.read_exact_at(buf, offset)?;
        let spoils = self.spoils.as_ref().is_some_and(|spoils| spoils.load(Ordering::Relaxed));
        if spoils && offset > 0 && buf.len() < WHOLE_READ {
            buf[0] ^= 0x40;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.log.pass()?;
        self.file.sync_data()
    }
}
