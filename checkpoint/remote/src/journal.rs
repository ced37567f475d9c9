//! What an uploader must remember of each object that it writes: under which keys it may have begun, which upload is
//! open, which parts the store has acknowledged. One file per object, `<attempt>-<digest>.upload`, only appended to.
//!
//! A nonce is durable before the first byte goes out under it, and an upload's id before its first part: so after a
//! power cut no key that this uploader may have written is unknown here. Parts and the end are written without a sync;
//! who lost them asks the store and sends them again under the same upload.
//!
//! ```text
//! file    frame*                                  a torn tail is cut off
//! frame   len u32 LE | kind u8 | payload[len] | first 16 bytes of BLAKE3(kind, payload)
//! kind 0  version u8 = 1 | cluster 16 | digest 32 | attempt u64 LE | length u64 LE        the first frame, once
//! kind 1  nonce u64 LE                            a key from now on; what follows is of this one
//! kind 2  upload id                               text
//! kind 3  index u32 LE | crc64 u64 LE | crc32c u32 LE | part id (text)
//! kind 4  (empty)                                 the object is there, verified
//! ```

mod frame;
mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use checkpoint::disk::{DiskFile, Open};
use checkpoint::{Digest, Disk, durable};

use crate::name::ObjectName;
use frame::Frame;

pub(crate) use subject::{PartDone, Subject};

/// Longest journal of one object, bytes: 8,192 parts with ids of up to 1 KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The folder of journals on one node.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    // Objects that somebody in this process is writing.
    open: Arc<Mutex<BTreeSet<(u64, Digest)>>>,
}

/// One key that was tried for an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tried {
    pub nonce: u64,
    pub upload: Option<String>,
    pub parts: BTreeMap<u32, PartDone>,
}

/// The journal of one object, open for writing.
#[derive(Debug)]
pub(crate) struct Entry {
    pub subject: Subject,
    /// The keys so far; the last one counts.
    pub tried: Vec<Tried>,
    pub done: bool,
    file: Box<dyn DiskFile>,
    end: u64,
    _claim: Claim,
}

#[derive(Debug)]
struct Claim {
    open: Arc<Mutex<BTreeSet<(u64, Digest)>>>,
    key: (u64, Digest),
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.open.lock().expect("no thread panics while it holds names").remove(&self.key);
    }
}

/// The objects of one attempt, which nobody is writing.
pub(crate) struct Held {
    /// Their keys.
    pub traces: Vec<Trace>,
    journal: Arc<Journal>,
    attempt: u64,
    claims: BTreeMap<Digest, Claim>,
}

impl Held {
    /// Forgets them.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn forget(self) -> io::Result<()> {
        for digest in self.claims.keys() {
            durable::ignore_missing(self.journal.disk.unlink(&self.journal.path(self.attempt, *digest)))?;
        }
        self.journal.disk.sync_dir(&self.journal.dir)
    }
}

/// A key that this node may have written, for who cleans up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The key.
    pub name: ObjectName,
    /// The upload that was begun under it and may be open still.
    pub upload: Option<String>,
    /// Whether the object is there, verified, under this key.
    pub done: bool,
}

impl Journal {
    /// Opens the folder `dir` below `root`, which is there and durable.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(disk: Arc<dyn Disk>, root: &Path, dir: &Path) -> io::Result<Journal> {
        durable::create_dir_all(&*disk, root, dir)?;
        Ok(Journal { disk, dir: dir.to_path_buf(), open: Arc::default() })
    }

    fn path(&self, attempt: u64, digest: Digest) -> PathBuf {
        self.dir.join(format!("{attempt:020}-{digest}.upload"))
    }

    /// The journal of one object, made when there is none.
    ///
    /// # Errors
    /// Those of the disk; `ResourceBusy` when somebody in this process is writing the object; `InvalidData` when the
    /// file is another object's.
    pub(crate) fn begin(&self, subject: Subject) -> io::Result<Entry> {
        let claim = self.claim(subject.attempt, subject.digest)?;
        let path = self.path(subject.attempt, subject.digest);
        let file = self.disk.open(&path, Open::Create)?;
        // Also of one that was there: who made it may have died before this.
        self.disk.sync_dir(&self.dir)?;
        let (frames, end) = frame::read(&*file, FILE_BYTES_MAX)?;
        if end < file.len()? {
            // What was torn must not come to stand behind a frame that is written over its beginning.
            file.set_len(end)?;
        }
        // What was read is built on: who wrote it may have died before it was durable.
        file.sync_data()?;
        let mut entry = Entry { subject, tried: Vec::new(), done: false, file, end, _claim: claim };
        if frames.is_empty() {
            entry.append(&Frame::Subject(subject))?;
        } else if frames[0] != Frame::Subject(subject) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the journal is of another object"));
        }
        for frame in frames.into_iter().skip(1) {
            entry.take(frame)?;
        }
        Ok(entry)
    }

    /// The attempts of which there is anything here, also what was begun and is no key yet.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn attempts(&self) -> io::Result<BTreeSet<u64>> {
        let names = self.disk.read_dir(&self.dir)?;
        let attempt = |name: &str| name.strip_suffix(".upload")?.split_once('-')?.0.parse::<u64>().ok();
        Ok(names.iter().filter_map(|(name, _)| attempt(name.to_str()?)).collect())
    }

    /// Every key that this node may have written and was not told to forget, oldest attempts first.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn traces(&self) -> io::Result<Vec<Trace>> {
        let mut traces = Vec::new();
        for (name, _) in self.disk.read_dir(&self.dir)? {
            let path = self.dir.join(&name);
            if path.extension().is_none_or(|end| end != "upload") {
                continue;
            }
            let (frames, _) = frame::read(&*self.disk.open(&path, Open::Read)?, FILE_BYTES_MAX)?;
            let mut frames = frames.into_iter();
            // Without its first frame nothing was sent yet.
            let Some(Frame::Subject(subject)) = frames.next() else { continue };
            let (mut tried, mut done) = (Vec::new(), false);
            for frame in frames {
                apply(&mut tried, &mut done, frame)?;
            }
            let last = tried.len();
            traces.extend(tried.into_iter().enumerate().map(|(at, tried)| Trace {
                name: subject.name(tried.nonce),
                upload: tried.upload,
                done: done && at + 1 == last,
            }));
        }
        Ok(traces)
    }

    /// Forgets an object: when nothing is left of its attempt in the store but what the Seal names
    /// ([`crate::Store::clean_up`] does it all).
    ///
    /// # Errors
    /// Those of the disk; `ResourceBusy` when somebody in this process is writing the object.
    pub fn forget(&self, attempt: u64, digest: Digest) -> io::Result<()> {
        let _claim = self.claim(attempt, digest)?;
        durable::ignore_missing(self.disk.unlink(&self.path(attempt, digest)))?;
        self.disk.sync_dir(&self.dir)
    }

    // Nobody else in this process may write, or forget, the object until it is dropped.
    fn claim(&self, attempt: u64, digest: Digest) -> io::Result<Claim> {
        let key = (attempt, digest);
        if !self.open.lock().expect("no thread panics while it holds names").insert(key) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "this object is being written already"));
        }
        Ok(Claim { open: Arc::clone(&self.open), key })
    }

    /// Takes hold of all objects of an attempt: nobody in this process writes one until that is dropped.
    ///
    /// # Errors
    /// As [`Journal::traces`]; `ResourceBusy` when somebody is writing one.
    pub(crate) fn hold(self: &Arc<Journal>, attempt: u64) -> io::Result<Held> {
        let (start, mut claims) = (format!("{attempt:020}-"), BTreeMap::new());
        for (name, _) in self.disk.read_dir(&self.dir)? {
            let digest = name.to_str().and_then(|name| name.strip_prefix(&start)?.strip_suffix(".upload"));
            if let Some(digest) = digest.and_then(|digest| digest.parse().ok()) {
                claims.insert(digest, self.claim(attempt, digest)?);
            }
        }
        let traces = self.traces()?.into_iter().filter(|trace| trace.name.attempt == attempt);
        let traces = traces.filter(|trace| claims.contains_key(&trace.name.digest)).collect();
        Ok(Held { journal: Arc::clone(self), attempt, traces, claims })
    }
}

impl Entry {
    /// The key that counts now.
    pub(crate) fn name(&self) -> Option<ObjectName> {
        self.tried.last().map(|tried| self.subject.name(tried.nonce))
    }

    /// Another key; durable when this returns.
    pub(crate) fn rename(&mut self, nonce: u64) -> io::Result<ObjectName> {
        self.write(Frame::Nonce(nonce), true)?;
        Ok(self.subject.name(nonce))
    }

    /// The upload under the key that counts; durable when this returns.
    pub(crate) fn upload(&mut self, id: String) -> io::Result<()> {
        self.write(Frame::Upload(id), true)
    }

    /// The store has this part.
    pub(crate) fn part(&mut self, index: u32, part: PartDone) -> io::Result<()> {
        self.write(Frame::Part(index, part), false)
    }

    /// The object is there and verified.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.write(Frame::Done, true)
    }

    fn write(&mut self, frame: Frame, sync: bool) -> io::Result<()> {
        self.append(&frame)?;
        if sync {
            self.file.sync_data()?;
        }
        self.take(frame)
    }

    fn append(&mut self, frame: &Frame) -> io::Result<()> {
        let data = frame.encode();
        self.file.write_at(&data, self.end)?;
        self.end += data.len() as u64;
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> io::Result<()> {
        apply(&mut self.tried, &mut self.done, frame)
    }
}

fn apply(tried: &mut Vec<Tried>, done: &mut bool, frame: Frame) -> io::Result<()> {
    let out_of_order = || io::Error::new(io::ErrorKind::InvalidData, "frames of a journal are out of order");
    match frame {
        Frame::Subject(_) => return Err(out_of_order()),
        Frame::Nonce(nonce) => {
            *done = false;
            tried.push(Tried { nonce, ..Tried::default() });
        }
        Frame::Upload(id) => tried.last_mut().ok_or_else(out_of_order)?.upload = Some(id),
        Frame::Part(index, part) => {
            tried.last_mut().ok_or_else(out_of_order)?.parts.insert(index, part);
        }
        Frame::Done => {
            tried.last().ok_or_else(out_of_order)?;
            *done = true;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
