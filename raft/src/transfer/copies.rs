//! Copies of content that lie here, each read whole before it passes for good.
//!
//! **Guarantee.** A large copy that was read is remembered, good or bad, by its inode and time of change: for ten minutes,
//! and not when what was sent of it came wrong. A blob that is bad is trusted no more by those who link to blobs, who
//! remember what they have read.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::Store;
use checkpoint::digest::{self, Digest, FileHasher};
use checkpoint::disk::{DiskFile, Open, Stat, data_bytes};

use super::ask::Missed;
use super::outlet::{Outlet, Sent, Unsent, send, send_part, unread, why_unread};
use crate::config::PART_BYTES;
use crate::proto::Miss;

/// Copies that are remembered, at most.
const VERIFIED_MAX: usize = 100_000;
/// A copy that was verified so long ago may have rotted since: it is read again before it is sent.
const VERIFIED_FOR: Duration = Duration::from_secs(600);

/// Content by inode, time of change and length, and when it was read whole.
type Verified = HashMap<(u64, i128, u64), (Digest, Instant)>;

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

/// What lies on the shelves, or elsewhere.
pub struct Copies {
    store: Arc<Store>,
    /// Of copies that were read whole: the digest that they had then.
    verified: Mutex<Verified>,
    verified_for: Duration,
}

/// Why a look went wrong before it ended, or what it found: a good copy, or why there is none.
pub type Looked = Result<Result<Good, Missed>, Unsent>;

impl Copies {
    /// Those on the shelves of `store`.
    pub fn of(store: Arc<Store>) -> Copies {
        Copies { store, verified: Mutex::default(), verified_for: VERIFIED_FOR }
    }

    /// A good blob of this content; every one that is here is looked at.
    pub fn shelved(&self, wanted: &Blob, out: &mut dyn Outlet) -> Looked {
        let likely = self.store.blob_path(wanted.digest);
        let mut looked = Missed { miss: Miss::NotFound, why: "no such blob".into() };
        if let Some(path) = &likely {
            match self.blob(path, wanted, out)? {
                Ok(good) => return Ok(Ok(good)),
                Err(bad) => looked = bad,
            }
        }
        let all = match self.store.blob_paths(wanted.digest) {
            Ok(all) => all,
            Err(error) => return Ok(Err(why_unread("the shelf", &error))),
        };
        for path in all.into_iter().filter(|path| Some(path) != likely.as_ref()) {
            match self.blob(&path, wanted, out)? {
                Ok(good) => return Ok(Ok(good)),
                Err(bad) => looked = also(looked, bad),
            }
        }
        Ok(Err(looked))
    }

    fn blob(&self, path: &Path, wanted: &Blob, out: &mut dyn Outlet) -> Looked {
        let looked = self.good(path, false, wanted, out)?;
        if looked.as_ref().is_err_and(|missed| missed.miss == Miss::Corrupt) {
            self.store.distrust(wanted.digest);
        }
        Ok(looked)
    }

    /// A file that should have this content and is no blob. It may end early: the rest is zeros.
    pub fn staged(&self, path: &Path, wanted: &Blob, out: &mut dyn Outlet) -> Looked {
        self.good(path, true, wanted, out)
    }

    /// Bytes that this copy takes without its holes; it may be a bad one. What was not looked at by `until` counts as data.
    /// `None` when it is none of this content, or cannot be told.
    pub fn stored(&self, path: &Path, staged: bool, wanted: &Blob, until: Instant) -> Option<u64> {
        let (file, stat) = self.open(path, staged, wanted).ok()?;
        let next = |at| match Instant::now() < until {
            true => file.next_data(at, stat.len),
            false => Ok(Some((at, stat.len))),
        };
        data_bytes(stat.len, next).ok()
    }

    fn good(&self, path: &Path, staged: bool, wanted: &Blob, out: &mut dyn Outlet) -> Looked {
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
        let before = self.verified().get(&key).copied().filter(|(_, at)| at.elapsed() < self.verified_for);
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
        let disk = self.store.disk();
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
}

/// What two looks come to. When one of them was none, no word may be given.
pub fn also(looked: Missed, next: Missed) -> Missed {
    match (looked.miss, next.miss) {
        (_, Miss::NotYet | Miss::Hydrating) | (Miss::NotFound, _) => next,
        _ => looked,
    }
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
        let mut hasher = FileHasher::new();
        let mut room = vec![0; PART_BYTES];
        let mut at = 0;
        while at < self.size {
            let (start, end) = self.next_data(at)?;
            hasher.zeros(start - at);
            at = start;
            while at < end {
                let want = (end - at).min(PART_BYTES as u64) as usize;
                match self.file.read_at(&mut room[..want], at) {
                    // It was cut meanwhile.
                    Ok(0) => return Ok(hasher.finish()),
                    Ok(n) => {
                        hasher.data(&room[..n]);
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
        Ok(hasher.finish())
    }

    /// The next bytes at or after `at` that may be no zeros: start and end, both its size when there are none.
    fn next_data(&self, at: u64) -> Result<(u64, u64), Unsent> {
        let next = self.file.next_data(at, self.there).map_err(|error| unread("the blob", &error))?;
        Ok(next.unwrap_or((self.size, self.size)))
    }

    /// Sends it from the wanted offset on.
    pub fn send(&self, wanted: &Blob, out: &mut dyn Outlet) -> Sent {
        if let Some(whole) = &self.whole {
            return send(&whole.slice(wanted.offset.min(self.size) as usize..), out);
        }
        let mut at = wanted.offset;
        while at < self.size {
            let (start, end) = self.next_data(at)?;
            if at < start && !out.zeros(start - at) {
                return Err(Unsent::Gone);
            }
            at = start;
            while at < end {
                let len = (end - at).min(PART_BYTES as u64);
                send_part(self.read(at, len).map_err(|error| unread("the blob", &error))?, out)?;
                at += len;
            }
        }
        Ok(())
    }
}

fn rotten(path: &Path) -> Missed {
    tracing::error!(path = %path.display(), "a blob does not verify; it is not served, and `epochlog verify --repair` mends it");
    Missed { miss: Miss::Corrupt, why: "the blob does not verify".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::{FileExt, PermissionsExt};

    use checkpoint::RealDisk;
    use checkpoint::store::Content;

    /// Takes what comes.
    #[derive(Default)]
    struct Taken(Vec<u8>);

    impl Outlet for Taken {
        fn part(&mut self, data: Bytes) -> bool {
            self.0.extend_from_slice(&data);
            true
        }

        fn zeros(&mut self, len: u64) -> bool {
            self.0.resize(self.0.len() + len as usize, 0);
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
    fn a_copy_takes_what_it_holds_and_what_was_not_looked_at_counts_as_data() {
        const LEN: u64 = 5 << 30;
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(Arc::new(RealDisk), dir.path()).unwrap());
        let copies = Copies::of(store);
        let path = dir.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(LEN).unwrap();
        file.write_all_at(&[7; 5000], 1 << 30).unwrap();
        let now = Instant::now();
        let wanted = |size| Blob { digest: digest::content(b""), size, offset: 0, brought: 0, anew: false };
        let stored = |staged, size, until| copies.stored(&path, staged, &wanted(size), until);
        let later = now + Duration::from_secs(600);
        assert_eq!(stored(false, LEN, later), Some(64 << 10));
        assert_eq!(stored(false, LEN, now), Some(LEN));
        assert_eq!(
            stored(true, LEN + 1, later),
            Some(64 << 10),
            "what is not there of a staged file is zeros"
        );
        assert_eq!(stored(false, LEN + 1, later), None, "it is another content");
        assert_eq!(stored(true, LEN - 1, later), None);
    }

    #[test]
    fn what_was_read_long_ago_is_read_again_before_it_is_sent_or_refused() {
        const LONG: Duration = Duration::from_secs(3600);
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(Arc::new(RealDisk), dir.path()).unwrap());
        let good: Vec<u8> = (0..PART_BYTES as u32 / 2).flat_map(u32::to_le_bytes).collect();
        let content = Content { digest: digest::content(&good), mode: 0o644, size: good.len() as u64 };
        let mut incoming = store.incoming(content).unwrap();
        incoming.write(&good).unwrap();
        store.shelve(vec![incoming]).remove(0).unwrap();
        let blob = store.blob_path(content.digest).unwrap();
        let mut copies = Copies::of(store);
        let asked = |copies: &Copies, anew| {
            let mut taken = Taken::default();
            let wanted = Blob { digest: content.digest, size: content.size, offset: 0, brought: 0, anew };
            match copies.shelved(&wanted, &mut taken).unwrap() {
                Ok(found) => {
                    found.send(&wanted, &mut taken).unwrap();
                    Some(taken.0 == good)
                }
                Err(missed) => {
                    assert_eq!(missed.miss, Miss::Corrupt, "{}", missed.why);
                    None
                }
            }
        };

        copies.verified_for = LONG;
        assert_eq!(asked(&copies, false), Some(true));
        flip(&blob);
        assert_eq!(
            asked(&copies, false),
            Some(false),
            "it was good a moment ago, and whoever gets it checks it"
        );
        assert_eq!(asked(&copies, true), None, "and asks to read it again");
        flip(&blob);
        copies.verified().clear();
        assert_eq!(asked(&copies, false), Some(true));
        flip(&blob);
        copies.verified_for = Duration::ZERO;
        assert_eq!(asked(&copies, false), None, "it is read again");
        copies.verified_for = LONG;
        flip(&blob);
        assert_eq!(asked(&copies, false), None, "it was rotten a moment ago");
        copies.verified_for = Duration::ZERO;
        assert_eq!(asked(&copies, false), Some(true), "it is read again, and good");
    }
}
