//! What peers may fetch here, read from the shelves, from staging and from the log.
//!
//! **Guarantee.** Nothing leaves unchecked: a manifest against its root, a blob whole against its digest (every
//! ten minutes for an inode and its time of change), a range against its subtree digest, a packed file and a page of a plan against its
//! digest, a payload against its header. What does not verify is a miss, so that the caller asks elsewhere.
//!
//! Everything here blocks: it runs on threads of its own.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::digest::{self, Digest, Hasher};
use checkpoint::disk::{DiskFile, Open};
use checkpoint::{Envelope, JobName, manifest};
use nativelog::ledger::Page;
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

/// This node's content.
pub struct Source {
    machine: Arc<Machine>,
    /// Inode, time of change and length of blobs that were read whole, and the digest that they had then.
    verified: Mutex<Verified>,
    verified_for: Duration,
}

fn missed(miss: Miss, why: impl Into<String>) -> Unsent {
    Unsent::Missed(Missed { miss, why: why.into() })
}

fn unread(what: &str, error: &io::Error) -> Unsent {
    let miss = if error.kind() == io::ErrorKind::NotFound { Miss::NotFound } else { Miss::Corrupt };
    missed(miss, format!("{what}: {error}"))
}

impl Source {
    /// The content of `machine`.
    pub fn new(machine: Arc<Machine>) -> Source {
        Source { machine, verified: Mutex::default(), verified_for: VERIFIED_FOR }
    }

    /// The manifest file of the published epoch that was `attempt`, with this root. `at` is the position that the
    /// caller goes by.
    pub fn manifest(
        &self,
        job: &JobName,
        epoch: u64,
        (attempt, root): (u64, Digest),
        at: u64,
        out: &mut dyn Outlet,
    ) -> Sent {
        let store = self.machine.store();
        let is_it = |there: &Envelope| (there.attempt, there.root) == (attempt, root);
        if !store.envelope(job, epoch).ok().flatten().is_some_and(|there| is_it(&there)) {
            let ended = {
                let ledger = self.machine.ledger();
                let sealed = ledger.epoch(job, epoch).map(|info| info.sealed.attempt);
                ledger.applied().is_some_and(|id| id.index >= at) && sealed != Some(attempt)
            };
            let miss = if ended { Miss::Ended } else { Miss::NotFound };
            return Err(missed(miss, format!("{job}@{epoch} is not published here")));
        }
        let path = store.layout().manifest_file(job, epoch);
        let bytes =
            store.disk().read_file(&path, MANIFEST_BYTES_MAX).map_err(|e| unread("the manifest", &e))?;
        match manifest::decode_file(&bytes) {
            Ok((envelope, _)) if is_it(&envelope) => send(&bytes.into(), out),
            Ok(_) => Err(missed(Miss::NotFound, "another epoch has taken its place")),
            Err(error) => Err(missed(Miss::Corrupt, error.to_string())),
        }
    }

    /// A blob from `offset` on. One that is bad is trusted no more by those who link to blobs, who remember what they
    /// have read.
    pub fn blob(&self, wanted: Digest, size: u64, offset: u64, out: &mut dyn Outlet) -> Sent {
        let sent = self.read_blob(wanted, size, offset, out);
        if let Err(Unsent::Missed(missed)) = &sent
            && missed.miss == Miss::Corrupt
        {
            self.machine.store().distrust(wanted);
        }
        sent
    }

    fn read_blob(&self, wanted: Digest, size: u64, offset: u64, out: &mut dyn Outlet) -> Sent {
        let store = self.machine.store();
        let path = store.blob_path(wanted).ok_or_else(|| missed(Miss::NotFound, "no such blob"))?;
        let stat = store.disk().stat(&path).map_err(|e| unread("the blob", &e))?;
        if stat.len != size {
            return Err(missed(Miss::Corrupt, format!("the blob has {} bytes, not {size}", stat.len)));
        }
        let file = store.disk().open(&path, Open::Read).map_err(|e| unread("the blob", &e))?;
        if size <= PART_BYTES as u64 {
            let data = read(&*file, 0, size).map_err(|e| unread("the blob", &e))?;
            if digest::content(&data) != wanted {
                return Err(self.rotten(&path));
            }
            return send(&data.slice(offset.min(size) as usize..), out);
        }
        let key = (stat.ino, stat.mtime_ns, stat.len);
        let before = self.verified().get(&key).copied();
        let found = match before.filter(|(_, at)| at.elapsed() < self.verified_for) {
            Some((found, _)) => found,
            None => {
                let found = hash(&*file, out)?;
                let mut verified = self.verified();
                if verified.len() >= VERIFIED_MAX {
                    verified.clear();
                }
                verified.insert(key, (found, Instant::now()));
                found
            }
        };
        // A bad one is remembered, too: all who lack it ask again and again.
        if found != wanted {
            return Err(self.rotten(&path));
        }
        let mut at = offset;
        while at < size {
            let len = (size - at).min(PART_BYTES as u64);
            let data = read(&*file, at, len).map_err(|e| unread("the blob", &e))?;
            if !out.part(data) {
                return Err(Unsent::Gone);
            }
            at += len;
        }
        Ok(())
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rotten(&self, path: &Path) -> Unsent {
        tracing::error!(path = %path.display(), "a blob does not verify; it is not served, and `epochlog verify --repair` mends it");
        missed(Miss::Corrupt, "the blob does not verify")
    }

    /// A covered range of an open attempt, from its staged file; what is missing at the end reads as zeros.
    pub fn range(&self, attempt: u64, at: u64, range: &Range, out: &mut dyn Outlet) -> Sent {
        let store = self.machine.store();
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
            Ok(_) => Err(missed(Miss::Corrupt, format!("staged file {} does not verify", range.file))),
            Err(error) => Err(unread("the staged file", &error)),
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
        let name = self.machine.planned_path(attempt, file);
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
        match self.blob(wanted, size, 0, out) {
            Err(Unsent::Missed(_)) if self.has_lapsed(attempt, at) => Err(missed(Miss::Ended, LAPSED)),
            sent => sent,
        }
    }

    /// A page of an attempt's plan.
    pub fn page(&self, page: &Page, out: &mut dyn Outlet) -> Sent {
        let bytes = self.machine.page(page).map_err(|error| unread("the page", &error))?;
        send(&bytes.into(), out)
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

fn read(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut data = vec![0; len as usize];
    file.read_exact_at(&mut data, offset)?;
    Ok(data.into())
}

fn hash(file: &dyn DiskFile, out: &mut dyn Outlet) -> Result<Digest, Unsent> {
    let mut hasher = Hasher::new();
    let mut room = vec![0; PART_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut room, at) {
            Ok(0) => return Ok(hasher.finish()),
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::{FileExt, PermissionsExt};

    use checkpoint::store::Content;
    use checkpoint::store::layout::Layout;
    use checkpoint::{RealDisk, Store};
    use nativelog::store::{Identity, LogStore, Options};

    /// Takes what comes.
    #[derive(Default)]
    struct Taken(Vec<u8>);

    impl Outlet for Taken {
        fn part(&mut self, data: Bytes) -> bool {
            self.0.extend_from_slice(&data);
            true
        }

        fn working(&mut self) -> bool {
            true
        }
    }

    /// Flips a byte in place: same inode, and the same time of change, as rot does it.
    fn flip(path: &Path) {
        let before = std::fs::metadata(path).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 77).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 77).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        std::fs::set_permissions(path, before.permissions()).unwrap();
    }

    #[test]
    fn what_was_read_long_ago_is_read_again_before_it_is_sent_or_refused() {
        const LONG: Duration = Duration::from_secs(3600);
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk);
        let store = Arc::new(Store::open(disk.clone(), dir.path()).unwrap());
        let owner = Identity { node: 1, incarnation: [1; 16] };
        let (log, _) = LogStore::open(disk, &Layout::new(dir.path()), owner, Options::default()).unwrap();
        let machine = Machine::start(store.clone(), log.clone(), &dir.path().join("catalog")).unwrap();
        let good: Vec<u8> = (0..PART_BYTES as u32 / 2).flat_map(u32::to_le_bytes).collect();
        let content = Content { digest: digest::content(&good), mode: 0o644, size: good.len() as u64 };
        let mut incoming = store.incoming(content).unwrap();
        incoming.write(&good).unwrap();
        store.shelve(vec![incoming]).remove(0).unwrap();
        let blob = store.blob_path(content.digest).unwrap();
        let mut source = Source::new(machine);
        let asked = |source: &Source| {
            let mut taken = Taken::default();
            match source.blob(content.digest, content.size, 0, &mut taken) {
                Ok(()) => Some(taken.0 == good),
                Err(Unsent::Missed(missed)) if missed.miss == Miss::Corrupt => None,
                Err(other) => panic!("{other:?}"),
            }
        };

        source.verified_for = LONG;
        assert_eq!(asked(&source), Some(true));
        flip(&blob);
        assert_eq!(asked(&source), Some(false), "it was good a moment ago, and whoever gets it checks it");
        source.verified_for = Duration::ZERO;
        assert_eq!(asked(&source), None, "it is read again");
        source.verified_for = LONG;
        flip(&blob);
        assert_eq!(asked(&source), None, "it was rotten a moment ago");
        source.verified_for = Duration::ZERO;
        assert_eq!(asked(&source), Some(true), "it is read again, and good");
        log.shutdown();
    }
}
