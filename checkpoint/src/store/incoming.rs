//! Content that is brought from elsewhere: a catch-up, or the repair of what has rotted.
//!
//! It is written to `incoming/<digest>` front to back, so that what is there when a process dies is where
//! the next one goes on, and becomes a blob ([`Store::shelve`]) only after all of it was checked and synced.
//!
//! **What is trusted after a restart.** Before the file grows beyond a multiple of [`SYNC_BYTES`], everything that was
//! done to it below is synced. So a file that is longer than such a multiple holds what came
//! up to there, whatever else a power cut has torn; what lies beyond is brought again. A file of the full
//! length is read and counts when its digest fits. Hence a digest that does not fit in the end is never the
//! fault of this disk's past, but of who sent it. Within one process every byte counts.
//!
//! **Zeros** are not written, whether they come as bytes or by their length: aligned runs of 64 KiB stay holes. They
//! are there because the file has nothing in their place: what an earlier process left beyond what is trusted is cut off
//! first, and a cut is synced like a write before the file grows beyond the next multiple (it could be lost, and
//! what comes behind it not). The file's length is behind while a hole is its end, and is set when all has come, or when
//! who brings it pauses.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::{Digest, FileHasher};
use crate::disk::{DiskFile, Open, hash_range, is_rot, write_around};
use crate::durable::{ignore_missing, remove_tree};
use crate::epoch::EntryKind;
use crate::io_error::{IoError, at};
use crate::manifest::Manifest;

use super::arriving::{Arriving, Pause};
use super::blobs::{self, Held};
use super::shelves::Shelves;
use super::{Store, StoreError};

/// Content that comes is synced whenever this many bytes more have come.
pub const SYNC_BYTES: u64 = 8 << 20;
// What comes is written in whole blocks of this many bytes, aligned to it, but for the end.
const BLOCK_BYTES: usize = 256 << 10;

/// Content of a sealed file, as its manifest names it. Never empty: empty files are made, not brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Permission bits of the blob.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
}

/// Content on its way in: a file in `incoming/` that grows at its end. Only one of each digest at a time.
#[derive(Debug)]
pub struct Incoming {
    pub(super) shelves: Arc<Shelves>,
    content: Content,
    // None while nothing was written, and again once everything was.
    file: Option<Box<dyn DiskFile>>,
    // Of all bytes that came: those in the file and those in `tail`.
    hasher: FileHasher,
    // A multiple of a block, until the end has come. Zeros that end it may be none of the file's yet.
    written: u64,
    tail: Vec<u8>,
    // The file's length; more when a write went wrong.
    len: u64,
    // A multiple of SYNC_BYTES, beyond which the file may grow once all that was done to it is synced.
    synced: u64,
    // Something was done to it since.
    unsynced: bool,
    // Its name was synced by this process: of an earlier one nobody knows. A file of zeros alone is long without any sync.
    named: bool,
    // A write went wrong: what lies beyond `written` must not stay there, for it may come to be a hole.
    torn: bool,
    // It has become a blob, or was thrown away.
    pub(super) ended: bool,
}

/// Why content that was brought did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// It is not what its digest says: whoever sent it has it wrong. What came was removed.
    #[error("the content that came has digest {found}, not {wanted}")]
    Corrupt {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// The disk refused, or not all of it has come. What came stays.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<IoError> for IncomingError {
    fn from(e: IoError) -> IncomingError {
        IncomingError::Store(e.into())
    }
}

impl Incoming {
    /// What it will be.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Bytes that are here already: bring those from here on.
    pub fn have(&self) -> u64 {
        self.written + self.tail.len() as u64
    }

    /// The digest of what has come.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.finish()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.shelves.layout.incoming_file(self.content.digest)
    }

    /// Adds bytes at the end. After an error [`Incoming::have`] says how many of them were taken.
    ///
    /// # Errors
    /// The disk refuses, or it would grow past its size: then nothing is taken.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), StoreError> {
        self.check_room(data.len() as u64)?;
        while !data.is_empty() {
            self.flush_block()?;
            let taken = if self.tail.is_empty() && data.len() >= BLOCK_BYTES {
                let to_sync = (SYNC_BYTES - self.written % SYNC_BYTES) as usize;
                let whole = (data.len() / BLOCK_BYTES * BLOCK_BYTES).min(to_sync);
                self.put(&data[..whole])?;
                whole
            } else {
                let some = data.len().min(BLOCK_BYTES - self.tail.len());
                self.tail.extend_from_slice(&data[..some]);
                some
            };
            self.hasher.data(&data[..taken]);
            data = &data[taken..];
        }
        self.end_if_whole()
    }

    /// Adds `len` zero bytes at the end, as [`Incoming::write`] does; however many, they take no room and no time.
    ///
    /// # Errors
    /// As there.
    pub fn zeros(&mut self, mut len: u64) -> Result<(), StoreError> {
        self.check_room(len)?;
        while len > 0 {
            self.flush_block()?;
            let block = BLOCK_BYTES as u64;
            let taken = if self.tail.is_empty() && len >= block {
                self.cut()?;
                self.written += len / block * block;
                len / block * block
            } else {
                let some = len.min(block - self.tail.len() as u64);
                self.tail.resize(self.tail.len() + some as usize, 0);
                some
            };
            self.hasher.zeros(taken);
            len -= taken;
        }
        self.end_if_whole()
    }

    fn check_room(&self, len: u64) -> Result<(), StoreError> {
        let room = self.content.size - self.have();
        if len <= room {
            return Ok(());
        }
        let e =
            io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes came where {room} are missing"));
        Err(at("write", &self.path())(e).into())
    }

    fn end_if_whole(&mut self) -> Result<(), StoreError> {
        if self.have() == self.content.size {
            self.flush()?;
            // Many that are complete wait for the others of their batch: without a handle each.
            self.file = None;
            self.tail = Vec::new();
        }
        Ok(())
    }

    fn flush_block(&mut self) -> Result<(), StoreError> {
        if self.tail.len() == BLOCK_BYTES { self.put_tail() } else { Ok(()) }
    }

    /// Writes what waits for the rest of its block; the file is as long as what has come.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        self.put_tail()?;
        if self.torn || self.len < self.written {
            let end = self.written;
            self.grow(end, |file| file.set_len(end))?;
        }
        Ok(())
    }

    fn put_tail(&mut self) -> Result<(), StoreError> {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let result = self.put(&tail);
            self.tail = tail;
            result?;
            self.tail.clear();
        }
        Ok(())
    }

    // What a write that went wrong has left behind `written` goes: of zeros that come there nothing is written over it.
    fn cut(&mut self) -> Result<(), StoreError> {
        if self.torn {
            let end = self.written;
            self.grow(end, |file| file.set_len(end))?;
        }
        Ok(())
    }

    // Writes what is no hole behind what is there; at most up to the next multiple of SYNC_BYTES.
    fn put(&mut self, data: &[u8]) -> Result<(), StoreError> {
        self.cut()?;
        let written = write_around(data, self.written, |part, place| {
            self.grow(place + part.len() as u64, |file| file.write_at(part, place))
        });
        // Also when what went wrong came before the write itself: another part may be there already.
        self.torn |= written.is_err() && self.len > self.written;
        written?;
        self.written += data.len() as u64;
        Ok(())
    }

    // Does something to the file that makes it end at `end`, or behind it.
    fn grow(
        &mut self,
        end: u64,
        how: impl FnOnce(&dyn DiskFile) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let path = self.path();
        let file = match &mut self.file {
            Some(file) => &**file,
            none => {
                let disk = &self.shelves.disk;
                // What is small is written at once, and goes through the cache like all small files.
                let file = if self.content.size < BLOCK_BYTES as u64 {
                    disk.open(&path, Open::Create)
                } else {
                    disk.open_direct(&path, Open::Create)
                };
                &**none.insert(file.map_err(at("open", &path))?)
            }
        };
        if self.torn {
            self.unsynced = true;
            self.len = self.written.min(self.len);
            file.set_len(self.len).map_err(at("cut", &path))?;
            self.torn = false;
        }
        let below = end.saturating_sub(1) / SYNC_BYTES * SYNC_BYTES;
        if below > self.synced {
            if self.unsynced {
                file.sync_data().map_err(at("sync", &path))?;
                if !self.named {
                    let dir = self.shelves.layout.incoming_dir();
                    self.shelves.sync_dir(&dir)?;
                    self.named = true;
                }
            }
            (self.synced, self.unsynced) = (below, false);
        }
        self.torn = true;
        self.unsynced = true;
        how(file).map_err(at("write", &path))?;
        self.torn = false;
        self.len = self.len.max(end);
        Ok(())
    }

    /// Throws away what came.
    pub(super) fn remove(&mut self) -> Result<(), IoError> {
        self.ended = true;
        self.file = None;
        let path = self.path();
        ignore_missing(self.shelves.disk.unlink(&path)).map_err(at("remove", &path))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let kept = !self.ended && self.flush().is_ok();
        let mut arriving = self.shelves.arriving();
        if kept && self.written > 0 {
            let hasher = std::mem::take(&mut self.hasher);
            let pause = Pause { written: self.written, hasher, named: self.named };
            arriving.insert(self.content.digest, Arriving::Paused(Box::new(pause)));
        } else {
            arriving.remove(&self.content.digest);
        }
    }
}

impl Store {
    /// The content that has to be brought before `manifest` can be published: each digest once, without a good
    /// blob here of any mode (publishing clones one of another mode). Blobs that are here are read and checked
    /// (once in a process).
    ///
    /// # Errors
    /// The disk refuses.
    pub fn lacking(&self, manifest: &Manifest) -> Result<Vec<Content>, StoreError> {
        let files = manifest.entries.iter().filter(|entry| entry.kind == EntryKind::File);
        self.lacking_of(files.map(|file| Content { digest: file.digest, mode: file.mode, size: file.size }))
    }

    /// As [`Store::lacking`], for `contents` by themselves.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn lacking_of(&self, contents: impl Iterator<Item = Content>) -> Result<Vec<Content>, StoreError> {
        let (shelves, mut seen, mut lacking) = (&*self.shelves, BTreeSet::new(), Vec::new());
        for content in contents {
            let Content { digest, mode, size } = content;
            if size == 0 || !seen.insert(digest) {
                continue;
            }
            let (known, layout) = (&shelves.known, &shelves.layout);
            let held = blobs::find_good(&*shelves.disk, known, layout, digest, mode, size)?;
            if !matches!(held, Held::Good(..)) {
                lacking.push(content);
            }
        }
        Ok(lacking)
    }

    /// Opens the place of content that is brought, with what came before.
    ///
    /// # Errors
    /// The disk refuses, or this digest is being brought already (`WouldBlock`).
    pub fn incoming(&self, content: Content) -> Result<Incoming, StoreError> {
        let path = self.layout().incoming_file(content.digest);
        let paused = match self.shelves.arriving().entry(content.digest) {
            Entry::Vacant(vacant) => {
                vacant.insert(Arriving::Open);
                None
            }
            Entry::Occupied(mut there) => match there.insert(Arriving::Open) {
                Arriving::Open => {
                    let e = io::Error::new(io::ErrorKind::WouldBlock, "it is being brought already");
                    return Err(at("open", &path)(e).into());
                }
                Arriving::Paused(pause) => Some(*pause),
            },
        };
        let mut incoming = Incoming {
            shelves: self.shelves.clone(),
            content,
            file: None,
            hasher: FileHasher::new(),
            written: 0,
            tail: Vec::new(),
            len: 0,
            synced: 0,
            unsynced: false,
            named: false,
            torn: false,
            // Until it has taken over what is there, it leaves that alone.
            ended: true,
        };
        incoming.resume(paused).map_err(at("open", &path))?;
        incoming.ended = false;
        Ok(incoming)
    }

    /// Forgets what was begun and never finished: empties `incoming/`, but for what is just being brought.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn clear_incoming(&self) -> Result<(), StoreError> {
        let (disk, dir) = (self.disk(), self.layout().incoming_dir());
        let mut arriving = self.shelves.arriving();
        for (name, _) in disk.read_dir(&dir).map_err(at("list", &dir))? {
            let digest: Option<Digest> = name.to_str().and_then(|name| name.parse().ok());
            if let Some(digest) = digest
                && matches!(arriving.get(&digest), Some(Arriving::Open))
            {
                continue;
            }
            let path = dir.join(name);
            remove_tree(&**disk, &path).map_err(at("remove", &path))?;
        }
        arriving.retain(|_, arriving| matches!(arriving, Arriving::Open));
        Ok(())
    }
}

impl Incoming {
    // Goes on after what lies in the file.
    fn resume(&mut self, paused: Option<Pause>) -> io::Result<()> {
        let (path, size) = (self.path(), self.content.size);
        let stat = match self.shelves.disk.stat(&path) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if stat.mode & 0o200 == 0 {
            // Stopped just before it became a blob.
            self.shelves.disk.set_mode(&path, 0o600)?;
        }
        let file = self.shelves.disk.open_direct(&path, Open::Write)?;
        match paused {
            Some(pause) if stat.len >= pause.written && pause.written <= size => {
                (self.hasher, self.written, self.named) = (pause.hasher, pause.written, pause.named);
            }
            _ => self.trust(&*file, stat.len)?,
        }
        if self.written < stat.len {
            file.set_len(self.written)?;
        }
        // Whether the cut is durable is not known; what lies below the last multiple is.
        (self.len, self.unsynced) = (self.written, true);
        self.synced = self.written.saturating_sub(1) / SYNC_BYTES * SYNC_BYTES;
        // Back to a whole block, so that the next writes are aligned.
        let over = self.written % BLOCK_BYTES as u64;
        if self.written < size && over > 0 {
            let mut tail = vec![0; over as usize];
            file.read_exact_at(&mut tail, self.written - over)?;
            self.written -= over;
            self.tail = tail;
        }
        self.file = (self.have() < size).then_some(file);
        Ok(())
    }

    // What an earlier process has left: all of it if it is what it should be, else what was synced.
    fn trust(&mut self, file: &dyn DiskFile, len: u64) -> io::Result<()> {
        // Only what the device gives back counts.
        file.sync_data()?;
        file.drop_cache()?;
        let synced = len.saturating_sub(1) / SYNC_BYTES * SYNC_BYTES;
        let mut hasher = FileHasher::new();
        if len > self.content.size || hash_kept(file, 0, synced, &mut hasher)? != synced {
            return Ok(());
        }
        let prefix = hasher.clone();
        if len == self.content.size
            && hash_kept(file, synced, len, &mut hasher)? == len
            && hasher.finish() == self.content.digest
        {
            (self.hasher, self.written) = (hasher, len);
        } else {
            (self.hasher, self.written) = (prefix, synced);
        }
        Ok(())
    }
}

/// As [`hash_range`]. Of a range of which the device has lost something there is nothing: it comes anew.
fn hash_kept(file: &dyn DiskFile, offset: u64, end: u64, hasher: &mut FileHasher) -> io::Result<u64> {
    match hash_range(file, offset, end, hasher) {
        Err(e) if is_rot(&e) => Ok(offset),
        done => done,
    }
}
