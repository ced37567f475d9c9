//! What peers may fetch here, read from the shelves, from staging and from the log.
//!
//! **Guarantee.** Nothing leaves unchecked: a manifest against its root, a blob whole against its digest (every
//! ten minutes for an inode and its time of change, and at once when what was sent came wrong), a range against its
//! subtree digest, a packed file against its digest, a payload against its header. What does not verify is a miss, so
//! that the caller asks elsewhere. A miss is this node's word on what it has only when everything is carried out that
//! could have brought it, and all of it was looked at; until then it is *not yet*.
//!
//! Everything here blocks: it runs on threads of its own.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::digest::{self, Digest, Hasher};
use checkpoint::disk::{DiskFile, Open, Stat, says_nothing};
use checkpoint::{JobName, manifest};
use nativelog::machine::Machine;
use nativelog::record::LogId;

use super::ask::Missed;
use crate::config::{MANIFEST_BYTES_MAX, PART_BYTES};
use crate::proto::Miss;

/// Blobs that are remembered as verified, at most.
const VERIFIED_MAX: usize = 100_000;
/// A blob that was verified so long ago may have rotted since: it is read again before it is sent.
const VERIFIED_FOR: Duration = Duration::from_secs(600);

const LAPSED: &str = "the attempt has ended without an epoch";

/// Where parts go.
pub trait Outlet {
    /// Takes the next bytes of the item. False when nobody wants more.
    fn part(&mut self, data: Bytes) -> bool;
    /// Says that work goes on. False when nobody waits for it.
    fn working(&mut self) -> bool;
}

/// Why an item was not sent whole.
#[derive(Debug)]
pub enum Unsent {
    /// It is not to be had here.
    Missed(Missed),
    /// Nobody wants it any more.
    Gone,
}

type Sent = Result<(), Unsent>;
/// Content by inode, time of change and length, and when it was read whole.
type Verified = HashMap<(u64, i128, u64), (Digest, Instant)>;

/// A range of a staged file, as the ledger of the caller says it.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Entry of the plan.
    pub file: u32,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// Where the range starts.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Digest of the subtree.
    pub digest: Digest,
}

/// Content that somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Blob {
    /// BLAKE3 of all of it.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// From where on it is wanted.
    pub offset: u64,
    /// Log index of the seal that brought it.
    pub brought: u64,
    /// What was sent before did not verify on arrival: it is read again, whatever is remembered.
    pub anew: bool,
}

/// This node's content.
pub struct Source {
    machine: Arc<Machine>,
    /// Inode, time of change and length of blobs that were read whole, and the digest that they had then.
    verified: Mutex<Verified>,
}

fn missed(miss: Miss, why: impl Into<String>) -> Unsent {
    Unsent::Missed(Missed { miss, why: why.into() })
}

fn unread(what: &str, error: &io::Error) -> Unsent {
    Unsent::Missed(why_unread(what, error))
}

fn why_unread(what: &str, error: &io::Error) -> Missed {
    let miss = match error.kind() {
        io::ErrorKind::NotFound => Miss::NotFound,
        // This node has too little of something now: that is no look.
        _ if says_nothing(error) => Miss::NotYet,
        _ => Miss::Corrupt,
    };
    Missed { miss, why: format!("{what}: {error}") }
}

impl Source {
    /// The content of `machine`.
    pub fn new(machine: Arc<Machine>) -> Source {
        Source { machine, verified: Mutex::default() }
    }

    /// The manifest file of a published epoch. `at` is the position that the caller goes by.
    pub fn manifest(&self, job: &JobName, epoch: u64, root: Digest, at: u64, out: &mut dyn Outlet) -> Sent {
        let store = self.machine.store();
        if store.published(job, epoch).ok().flatten() != Some(root) {
            let ended = {
                let ledger = self.machine.ledger();
                ledger.applied().is_some_and(|id| id.index >= at) && ledger.epoch(job, epoch).is_none()
            };
            let miss = if ended { Miss::Ended } else { Miss::NotFound };
            return Err(missed(miss, format!("{job}@{epoch} is not published here")));
        }
        let path = store.layout().manifest_file(job, epoch);
        let bytes =
            store.disk().read_file(&path, MANIFEST_BYTES_MAX).map_err(|e| unread("the manifest", &e))?;
        match manifest::decode_file(&bytes) {
            Ok((envelope, _)) if envelope.root == root => send(&bytes.into(), out),
            Ok(_) => Err(missed(Miss::Corrupt, "the manifest has another root")),
            Err(error) => Err(missed(Miss::Corrupt, error.to_string())),
        }
    }

    /// Content from an offset on: a blob, or what an epoch brought that is no directory here yet.
    pub fn blob(&self, wanted: &Blob, out: &mut dyn Outlet) -> Sent {
        // Before the look: what is carried out meanwhile may be what it misses.
        let (performed, staged) = (self.performed(), self.machine.staged_copies(&wanted.digest));
        let looked = match self.shelved(wanted, out)? {
            Ok(good) => return good.send(wanted, out),
            Err(missed) => missed,
        };
        for path in staged.files {
            if let Ok(good) = self.good(&path, true, wanted, out)? {
                return good.send(wanted, out);
            }
        }
        if staged.packed {
            return Err(missed(Miss::NotYet, "an epoch that has it is still to be published here"));
        }
        self.by_then(performed, wanted.brought, looked)
    }

    /// A good blob of this content; every one that is here is looked at.
    pub fn shelved(&self, wanted: &Blob, out: &mut dyn Outlet) -> Result<Result<Good, Missed>, Unsent> {
        let store = self.machine.store();
        let Some(likely) = store.blob_path(wanted.digest) else {
            return Ok(Err(Missed { miss: Miss::NotFound, why: "no such blob".into() }));
        };
        let bad = match self.good(&likely, false, wanted, out)? {
            Ok(good) => return Ok(Ok(good)),
            Err(missed) => missed,
        };
        for other in store.blob_paths(wanted.digest).into_iter().filter(|path| *path != likely) {
            if let Ok(good) = self.good(&other, false, wanted, out)? {
                return Ok(Ok(good));
            }
        }
        Ok(Err(bad))
    }

    /// The file at `path`, if it has this content. One that is `staged` may end early: the rest is zeros.
    fn good(
        &self,
        path: &Path,
        staged: bool,
        wanted: &Blob,
        out: &mut dyn Outlet,
    ) -> Result<Result<Good, Missed>, Unsent> {
        let (file, stat) = match self.open(path, staged, wanted) {
            Ok(opened) => opened,
            Err(missed) => return Ok(Err(missed)),
        };
        let mut good = Good { file, there: stat.len, size: wanted.size, whole: None };
        let found = match self.read_whole(&mut good, &stat, wanted, out) {
            Ok(found) => found,
            Err(Unsent::Missed(missed)) => return Ok(Err(missed)),
            Err(Unsent::Gone) => return Err(Unsent::Gone),
        };
        if found == wanted.digest { Ok(Ok(good)) } else { Ok(Err(rotten(path))) }
    }

    /// The digest of a file. What is small is kept, to be sent as it was read; what is large is remembered, a bad one
    /// too: all who lack it ask again and again.
    fn read_whole(
        &self,
        file: &mut Good,
        stat: &Stat,
        wanted: &Blob,
        out: &mut dyn Outlet,
    ) -> Result<Digest, Unsent> {
        if wanted.size <= PART_BYTES as u64 {
            let data = file.read(0, wanted.size).map_err(|error| unread("the blob", &error))?;
            let found = digest::content(&data);
            file.whole = Some(data);
            return Ok(found);
        }
        let key = (stat.ino, stat.mtime_ns, stat.len);
        let before = self.verified().get(&key).copied().filter(|(_, at)| at.elapsed() < VERIFIED_FOR);
        if let Some((found, _)) = before.filter(|(found, _)| !wanted.anew || *found != wanted.digest) {
            return Ok(found);
        }
        let found = file.hash(out)?;
        let mut verified = self.verified();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(key, (found, Instant::now()));
        Ok(found)
    }

    fn open(&self, path: &Path, staged: bool, wanted: &Blob) -> Result<(Box<dyn DiskFile>, Stat), Missed> {
        let disk = self.machine.store().disk();
        let stat = disk.stat(path).map_err(|error| why_unread("the blob", &error))?;
        if stat.len > wanted.size || !staged && stat.len < wanted.size {
            let why = format!("the blob has {} bytes, not {}", stat.len, wanted.size);
            return Err(Missed { miss: Miss::Corrupt, why });
        }
        let file = disk.open(path, Open::Read).map_err(|error| why_unread("the blob", &error))?;
        Ok((file, stat))
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All effects of entries below this are carried out here.
    fn performed(&self) -> u64 {
        self.machine.marks().performed
    }

    /// What was looked for when entries below `performed` were carried out is missed; it may still come when the one at
    /// `at` is.
    fn by_then(&self, performed: u64, at: u64, looked: Missed) -> Sent {
        if performed > at {
            return Err(Unsent::Missed(looked));
        }
        Err(missed(Miss::NotYet, format!("{}, and entry {at} is not carried out here yet", looked.why)))
    }

    /// A covered range of an open attempt, from its staged file; what is missing at the end reads as zeros.
    pub fn range(&self, attempt: u64, at: u64, range: &Range, out: &mut dyn Outlet) -> Sent {
        let (store, performed) = (self.machine.store(), self.performed());
        let path = store.layout().staged_file(attempt, range.file);
        let data = store.disk().open(&path, Open::Read).and_then(|file| {
            let there = file.len()?.saturating_sub(range.offset).min(range.len);
            let mut data = vec![0; range.len as usize];
            file.read_exact_at(&mut data[..there as usize], range.offset)?;
            Ok(data)
        });
        match data {
            Ok(data) if digest::subtree(range.file_bytes, range.offset, &data) == range.digest => {
                send(&data.into(), out)
            }
            _ if self.has_lapsed(attempt, at) => Err(missed(Miss::Ended, LAPSED)),
            Ok(_) => {
                let why = format!("staged file {} does not verify", range.file);
                self.by_then(performed, at, Missed { miss: Miss::Corrupt, why })
            }
            Err(error) => self.by_then(performed, at, why_unread("the staged file", &error)),
        }
    }

    /// A packed file of an open attempt, from its tree; or the blob that became of it.
    pub fn packed(
        &self,
        attempt: u64,
        at: u64,
        (file, size, wanted): (u32, u64, Digest),
        out: &mut dyn Outlet,
    ) -> Sent {
        let store = self.machine.store();
        let name = {
            let ledger = self.machine.ledger();
            ledger.plan(attempt).and_then(|plan| Some(plan.get(file as usize)?.path.clone()))
        };
        let read = name.map(|name| {
            let path = store.layout().tree_dir(attempt).join(name.as_os_str());
            store.disk().read_file(&path, size)
        });
        match read {
            Some(Ok(data)) if digest::content(&data) == wanted => return send(&data.into(), out),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(attempt, file, %error, "a packed file cannot be read");
            }
            _ => {}
        }
        let blob = Blob { digest: wanted, size, offset: 0, brought: at, anew: false };
        match self.blob(&blob, out) {
            Err(Unsent::Missed(_)) if self.has_lapsed(attempt, at) => Err(missed(Miss::Ended, LAPSED)),
            sent => sent,
        }
    }

    /// The payload of a log entry.
    pub fn payload(&self, id: LogId, out: &mut dyn Outlet) -> Sent {
        let log = self.machine.log();
        if log.log_id_at(id.index) != Some(id) {
            return Err(missed(Miss::NotFound, format!("the log here does not hold entry {id}")));
        }
        let payload = log.payload(id.index).map_err(|e| unread("the payload", &e))?;
        send(&payload, out)
    }

    /// Whether the attempt ended without an epoch: then nobody needs its bytes. Those of a sealed one are needed, and
    /// of one that is not remembered nothing can be said.
    fn has_lapsed(&self, attempt: u64, at: u64) -> bool {
        let ledger = self.machine.ledger();
        ledger.applied().is_some_and(|id| id.index >= at) && ledger.has_lapsed(attempt)
    }
}

fn send(data: &Bytes, out: &mut dyn Outlet) -> Sent {
    for at in (0..data.len()).step_by(PART_BYTES) {
        if !out.part(data.slice(at..data.len().min(at + PART_BYTES))) {
            return Err(Unsent::Gone);
        }
    }
    Ok(())
}

/// A file that has the content that is wanted.
pub struct Good {
    file: Box<dyn DiskFile>,
    /// Bytes in the file; the rest is zeros.
    there: u64,
    size: u64,
    /// All of it, when it is small.
    whole: Option<Bytes>,
}

impl Good {
    fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        let mut data = vec![0; len as usize];
        let there = self.there.saturating_sub(offset).min(len) as usize;
        self.file.read_exact_at(&mut data[..there], offset)?;
        Ok(data.into())
    }

    fn hash(&self, out: &mut dyn Outlet) -> Result<Digest, Unsent> {
        let mut hasher = Hasher::new();
        let mut room = vec![0; PART_BYTES];
        let mut at = 0;
        loop {
            match self.file.read_at(&mut room, at) {
                Ok(0) => {
                    hasher.update_zeros(self.size.saturating_sub(at));
                    return Ok(hasher.finish());
                }
                Ok(n) => {
                    hasher.update(&room[..n]);
                    at += n as u64;
                    if !out.working() {
                        return Err(Unsent::Gone);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unread("the blob", &error)),
            }
        }
    }

    fn send(&self, wanted: &Blob, out: &mut dyn Outlet) -> Sent {
        if let Some(whole) = &self.whole {
            return send(&whole.slice(wanted.offset.min(self.size) as usize..), out);
        }
        for at in (wanted.offset..self.size).step_by(PART_BYTES) {
            let part = self.read(at, (self.size - at).min(PART_BYTES as u64));
            if !out.part(part.map_err(|error| unread("the blob", &error))?) {
                return Err(Unsent::Gone);
            }
        }
        Ok(())
    }
}

fn rotten(path: &Path) -> Missed {
    tracing::error!(path = %path.display(), "a blob does not verify; it is not served, and `epochlog verify --repair` mends it");
    Missed { miss: Miss::Corrupt, why: "the blob does not verify".into() }
}
