//! What peers may fetch here, read from the shelves, from staging and from the log.
//!
//! **Guarantee.** Nothing leaves unchecked: a manifest against its root and the ledger, content whole against its digest
//! (`copies`), a range against its subtree digest, a packed file and a page of a plan against its digest, a payload
//! against its header. What does not verify is a miss, so that the caller asks elsewhere. A miss is this node's word on
//! what it has only when everything is carried out that could have brought it, and all of it was looked at; until then it
//! is *not yet*.
//!
//! Everything here blocks: it runs on threads of its own.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use checkpoint::digest::{self, Digest};
use checkpoint::disk::Open;
use checkpoint::store::StoreError;
use checkpoint::{Envelope, JobName};
use nativelog::ledger::{EpochInfo, Page};
use nativelog::machine::{Machine, StagedCopies};
use nativelog::record::LogId;

use super::ask::Missed;
use super::copies::{Blob, Copies, also};
use super::hydrating::Hydrating;
use super::outlet::{Outlet, Sent, Unsent, missed, send, unread, why_unread};
use crate::config::PART_BYTES;
use crate::proto::Miss;

const LAPSED: &str = "the attempt has ended without an epoch";

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
    copies: Copies,
    hydrating: Hydrating,
}

/// Whether an envelope is the one of this epoch. The root covers the tree only: all that a manifest file says must be
/// what the ledger says.
pub fn agrees(envelope: &Envelope, info: &EpochInfo) -> bool {
    let sealed = &info.sealed;
    let at = (envelope.position.term, envelope.position.node, envelope.position.index);
    envelope.job == sealed.job
        && envelope.epoch == sealed.epoch
        && envelope.attempt == sealed.attempt
        && envelope.root == sealed.root
        && at == (sealed.position.term, sealed.position.node, sealed.position.index)
        && envelope.labels == info.labels
        && envelope.depends_on == info.depends_on
        && envelope.base == info.base
        && envelope.sealed_log_ms == info.sealed_log_ms
}

impl Source {
    /// The content of `machine`, and what is `hydrating` there.
    pub fn new(machine: Arc<Machine>, hydrating: Hydrating) -> Source {
        let copies = Copies::of(machine.store().clone());
        Source { machine, copies, hydrating }
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
        // Ranges of the file: its entries would take a gigabyte where six peers' calls read a large one.
        let file = match store.manifest_file(job, epoch) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(missed(Miss::NotFound, format!("{job}@{epoch} is not published here"))),
            Err(StoreError::Io(error)) => return Err(unread("the manifest", &error.source)),
            Err(error) => return Err(missed(Miss::Corrupt, error.to_string())),
        };
        if !is_it(file.envelope()) {
            return Err(missed(Miss::NotFound, "another epoch has taken its place"));
        }
        if !self.is_as_sealed(file.envelope()) {
            return Err(missed(Miss::Corrupt, "the manifest says something else than the ledger"));
        }
        for at in (0..file.bytes()).step_by(PART_BYTES) {
            let part = file.range(at, PART_BYTES).map_err(|error| unread("the manifest", &error.source))?;
            if !out.part(part.into()) {
                return Err(Unsent::Gone);
            }
        }
        Ok(())
    }

    /// False when the ledger has the epoch and says something else of it.
    fn is_as_sealed(&self, envelope: &Envelope) -> bool {
        let info = self.machine.ledger().epoch(&envelope.job, envelope.epoch);
        info.filter(|info| info.sealed.attempt == envelope.attempt).is_none_or(|info| agrees(envelope, &info))
    }

    /// A good blob of this content; every one that is here is looked at.
    pub fn is_shelved(&self, wanted: &Blob, out: &mut dyn Outlet) -> bool {
        matches!(self.copies.shelved(wanted, out), Ok(Ok(_)))
    }

    /// Bytes that this content takes here without its holes, good or bad; what was not looked at by `until` counts as data.
    /// `None` when it is not here, or nobody has looked by then.
    pub fn stored(&self, wanted: &Blob, until: Instant) -> Option<u64> {
        if Instant::now() >= until {
            return None;
        }
        let shelved = self.machine.store().blob_path(wanted.digest);
        shelved.and_then(|path| self.copies.stored(&path, false, wanted, until)).or_else(|| {
            let staged = self.machine.staged_copies(&wanted.digest).files;
            staged.iter().find_map(|path| self.copies.stored(path, true, wanted, until))
        })
    }

    /// Content from an offset on: a blob, or what an epoch brought that is no directory here yet.
    pub fn blob(&self, wanted: &Blob, out: &mut dyn Outlet) -> Sent {
        // Before the look: what is carried out meanwhile may be what it misses.
        let (performed, staged) = (self.performed(), self.machine.staged_copies(&wanted.digest));
        match self.copies.shelved(wanted, out)? {
            Ok(good) => good.send(wanted, out),
            Err(looked) => self.staged_blob((performed, staged), looked, wanted, out),
        }
    }

    /// The same, of what is not on the shelves: what is staged, and was when entries below `performed` were carried out.
    fn staged_blob(
        &self,
        (performed, staged): (u64, StagedCopies),
        mut looked: Missed,
        wanted: &Blob,
        out: &mut dyn Outlet,
    ) -> Sent {
        for path in staged.files {
            match self.copies.staged(&path, wanted, out)? {
                Ok(good) => return good.send(wanted, out),
                Err(missed) => looked = also(looked, missed),
            }
        }
        for (attempt, file) in &staged.packed {
            if let Ok(Some(data)) = self.machine.in_pack(*attempt, *file, &wanted.digest) {
                return send(&data.slice(wanted.offset.min(data.len() as u64) as usize..), out);
            }
        }
        // An epoch that waits for a store has none of its packs unpacked again: the look at its tree counts.
        let comes = staged.packed.iter().any(|(attempt, _)| self.machine.unpacks_again(*attempt));
        if staged.unread || comes {
            return Err(missed(Miss::NotYet, "an epoch that has it is still to be published here"));
        }
        // Its epoch may have been published since the first look, and taken it from its tree to the shelves.
        if !staged.packed.is_empty()
            && let Ok(good) = self.copies.shelved(wanted, out)?
        {
            return good.send(wanted, out);
        }
        // Asked last: when it has come meanwhile, the caller hears that at the next question.
        if self.hydrating.comes(&wanted.digest) {
            return Err(missed(Miss::Hydrating, "it is on its way from a store here"));
        }
        self.by_then(performed, wanted.brought, looked)
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

    /// A packed file of an open attempt, from its tree, or from its pack when that could not be unpacked here; or the blob
    /// that became of it.
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
        let mut looked = Missed { miss: Miss::NotFound, why: "it is not in the tree".into() };
        match read {
            Some(Ok(data)) if digest::content(&data) == wanted => return send(&data.into(), out),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(attempt, file, %error, "a packed file cannot be read");
                looked = why_unread("the packed file", &error);
            }
            _ => {}
        }
        match self.machine.in_pack(attempt, file, &wanted) {
            Ok(Some(data)) => return send(&data, out),
            Ok(None) => {}
            Err(error) => looked = also(looked, why_unread("its pack", &error)),
        }
        let blob = Blob { digest: wanted, size, offset: 0, brought: at, anew: false };
        match self.blob(&blob, out) {
            Err(Unsent::Missed(_)) if self.has_lapsed(attempt, at) => Err(missed(Miss::Ended, LAPSED)),
            Err(Unsent::Missed(missed)) => Err(Unsent::Missed(also(looked, missed))),
            sent => sent,
        }
    }

    /// A page of an attempt's plan.
    pub fn page(&self, page: &Page, out: &mut dyn Outlet) -> Sent {
        let performed = self.performed();
        match self.machine.page(page) {
            Ok(bytes) => send(&bytes, out),
            Err(error) => self.by_then(performed, page.index, why_unread("the page", &error)),
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use checkpoint::RealDisk;
    use checkpoint::disk::Disk;
    use checkpoint::store::{Content, Layout, Store};
    use nativelog::store::{Identity, LogStore, Options};

    use super::*;

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

    #[test]
    fn what_came_in_a_pack_and_is_published_between_two_looks_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let layout = Layout::new(dir.path());
        let store = Arc::new(Store::open(disk.clone(), dir.path()).unwrap());
        let owner = Identity { node: 1, incarnation: [1; 16] };
        let (log, _) = LogStore::open(disk, &layout, owner, Options::default()).unwrap();
        let machine = Machine::start(store.clone(), log, &layout.catalog_dir()).unwrap();
        let source = Source::new(machine.clone(), Hydrating::default());

        let data = b"small";
        let content = Content { digest: digest::content(data), mode: 0o644, size: data.len() as u64 };
        let wanted = Blob { digest: content.digest, size: content.size, offset: 0, brought: 0, anew: false };
        let mut taken = Taken::default();
        let mut look = || {
            let staged = StagedCopies { packed: vec![(1, 0)], ..StagedCopies::default() };
            let looked = Missed { miss: Miss::NotFound, why: "no such blob".into() };
            source.staged_blob((1, staged), looked, &wanted, &mut taken)
        };
        assert!(matches!(look(), Err(Unsent::Missed(Missed { miss: Miss::NotFound, .. }))));
        let mut incoming = store.incoming(content).unwrap();
        incoming.write(data).unwrap();
        store.shelve(vec![incoming]).remove(0).unwrap();
        assert!(look().is_ok());
        assert_eq!(taken.0, data);
        machine.shutdown();
    }
}
