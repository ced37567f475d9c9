//! What a new epoch can refer to instead of sending it: the files of the newest epoch that is published here.
//!
//! They are looked up in its manifest where it lies, page by page of the new plan, both in the order of paths: an epoch of
//! a million files takes a window of 64 KiB here, for every commit that is under way.

use std::sync::Arc;

use checkpoint::store::{StoreError, Walk};
use checkpoint::{Digest, EntryKind, JobName, PlanEntry, RelPath, Store};
use nativelog::background::{self, BULK};
use nativelog::ledger::Ledger;
use nativelog::machine::Machine;

/// So many are looked up while apply waits.
const LOOKED_UP_AT_ONCE: usize = 4096;

/// A file that is asked for: its index, path and size in bytes.
type Wanted = (u32, RelPath, u64);

/// The files of one epoch.
pub struct Known(Option<Reading>);

struct Reading {
    machine: Arc<Machine>,
    job: JobName,
    /// Where the new epoch's content goes, if not into the log.
    store: Option<u64>,
    files: Files,
}

/// A walk through files in the order of their paths.
struct Files {
    walk: Walk,
    /// The first one that was not asked for yet, once it was met.
    ahead: Option<(RelPath, u64, Digest)>,
}

impl Known {
    /// No epoch, no files.
    pub fn nothing() -> Known {
        Known(None)
    }

    /// Those of the newest epoch that is published here, for an epoch whose content goes into the store of this id, or into
    /// the log; none when its manifest cannot be read.
    pub async fn of(shelves: Arc<Store>, machine: Arc<Machine>, job: JobName, store: Option<u64>) -> Known {
        let of = job.clone();
        let open = move || {
            let Some(newest) = shelves.epochs(&of)?.into_iter().max() else { return Ok(None) };
            shelves.manifest_file(&of, newest)
        };
        let opened = background::run("newest-files", BULK, open).await;
        let file = read(&job, opened).flatten();
        let files = file.map(|file| Files { walk: file.walk(), ahead: None });
        Known(files.map(|files| Reading { machine, job, store, files }))
    }

    /// Of a run of entries, which continues the last one, those that this epoch has with the same size and whose content
    /// the ledger would refer to: their index, `first` and so on, and the content.
    pub async fn among(&mut self, first: u32, entries: &[PlanEntry]) -> Vec<(u32, Digest)> {
        let Some(Reading { machine, job, store, mut files }) = self.0.take() else { return Vec::new() };
        let with_content = |(_, entry): &(u32, &PlanEntry)| entry.kind == EntryKind::File && entry.size > 0;
        let wanted: Vec<Wanted> = (first..)
            .zip(entries)
            .filter(with_content)
            .map(|(file, entry)| (file, entry.path.clone(), entry.size))
            .collect();
        let ledger = machine.clone();
        let look = move || {
            let found = files.among(&wanted)?;
            // What the ledger says of one may be old by the next slice, or when a reference to it is judged: then that
            // is refused.
            let known = looked_up(
                &found,
                || ledger.ledger(),
                |ledger, (_, digest)| may_refer(ledger, digest, store) && !ledger.is_quarantined(digest),
            );
            let known: Vec<(u32, Digest)> = known.into_iter().copied().collect();
            Ok::<_, StoreError>((files, known))
        };
        let looked = background::run("newest-files", BULK, look).await;
        let Some((files, known)) = read(&job, looked) else { return Vec::new() };
        self.0 = Some(Reading { machine, job, store, files });
        known
    }
}

/// Whether an epoch may refer to this content: what lies in a store alone is on no quorum, and only an epoch of that very
/// store may hold it.
fn may_refer(ledger: &Ledger, digest: &Digest, store: Option<u64>) -> bool {
    let Some(homes) = ledger.homes(digest) else { return false };
    homes.log || homes.extents.iter().any(|extent| Some(extent.object.key.store) == store)
}

/// What was read, when it could be.
fn read<T>(job: &JobName, read: Option<Result<T, StoreError>>) -> Option<T> {
    match read {
        Some(Ok(read)) => Some(read),
        Some(Err(error)) => {
            tracing::warn!(%job, %error, "the newest manifest cannot be read: nothing more is reused");
            None
        }
        None => {
            tracing::error!(%job, "reading the newest manifest panicked: nothing more is reused");
            None
        }
    }
}

impl Files {
    /// Those of `wanted` that are among them with the same size, and their contents. Paths rise, over all calls.
    fn among(&mut self, wanted: &[Wanted]) -> Result<Vec<(u32, Digest)>, StoreError> {
        let mut found = Vec::new();
        for (file, path, size) in wanted {
            if self.ahead.as_ref().is_none_or(|(ahead, ..)| ahead < path) && !self.skip_to(path)? {
                break;
            }
            if let Some((_, _, digest)) =
                self.ahead.as_ref().filter(|(at, bytes, _)| (at, bytes) == (path, size))
            {
                found.push((*file, *digest));
            }
        }
        Ok(found)
    }

    /// Goes on to the first file at this path or behind it. False when there is none.
    fn skip_to(&mut self, path: &RelPath) -> Result<bool, StoreError> {
        self.ahead = None;
        while self.ahead.is_none() {
            let stepped = self.walk.step(|_, entry, digest| {
                let is_it = entry.kind == EntryKind::File && entry.path >= path.borrowed();
                is_it.then(|| (entry.path.to_rel_path(), entry.size, digest))
            })?;
            let Some(ahead) = stepped else { return Ok(false) };
            self.ahead = ahead;
        }
        Ok(true)
    }
}

/// Those that are wanted, looked up in slices under a guard that is taken anew for each. Nothing is copied under it.
fn looked_up<T, G>(all: &[T], hold: impl Fn() -> G, is_wanted: impl Fn(&G, &T) -> bool) -> Vec<&T> {
    let mut found = Vec::with_capacity(all.len());
    for some in all.chunks(LOOKED_UP_AT_ONCE) {
        let guard = hold();
        found.extend(some.iter().filter(|one| is_wanted(&guard, one)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    use checkpoint::digest::content;
    use checkpoint::manifest::{Envelope, Position, encode_file};
    use checkpoint::{Manifest, ManifestEntry, RealDisk};

    fn path(name: &str) -> RelPath {
        RelPath::parse(name.as_bytes()).unwrap()
    }

    /// An epoch with these files, whose content is their name.
    fn published(store: &Store, job: &JobName, names: &[&str]) {
        let entry = |name: &str, kind, size: usize| ManifestEntry {
            path: path(name),
            kind,
            mode: 0o700,
            size: size as u64,
            digest: if kind == EntryKind::File { content(name.as_bytes()) } else { Digest::NONE },
            target: Vec::new(),
        };
        let mut entries = vec![entry("", EntryKind::Directory, 0), entry("d", EntryKind::Directory, 0)];
        entries.extend(names.iter().map(|name| entry(name, EntryKind::File, name.len())));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest { entries };
        let envelope = Envelope {
            job: job.clone(),
            epoch: 1,
            attempt: 1,
            position: Position { term: 1, node: 1, index: 2 },
            root: manifest.root(),
            labels: Vec::new(),
            depends_on: Vec::new(),
            base: None,
            sealed_log_ms: 0,
        };
        std::fs::create_dir_all(store.layout().epoch_dir(job, 1)).unwrap();
        let bytes = encode_file(&envelope, &manifest.encode());
        std::fs::write(store.layout().manifest_file(job, 1), bytes).unwrap();
    }

    #[test]
    fn files_of_the_same_path_and_size_are_found_page_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let job: JobName = "job".parse().unwrap();
        published(&store, &job, &["a", "b", "d/x", "d/y", "f", "z"]);
        let walk = || store.manifest_file(&job, 1).unwrap().unwrap().walk();
        let wanted = |first: u32, names: &[(&str, u64)]| -> Vec<Wanted> {
            (first..).zip(names).map(|(file, (name, size))| (file, path(name), *size)).collect()
        };
        let mut files = Files { walk: walk(), ahead: None };
        // "0" is before all, "b" has another size, "c" is new, "d" was a folder, "e" is new.
        let page = wanted(7, &[("0", 1), ("a", 1), ("b", 2), ("c", 1), ("d", 1), ("d/x", 3), ("e", 1)]);
        assert_eq!(files.among(&page).unwrap(), [(8, content(b"a")), (12, content(b"d/x"))]);
        // The next page goes on where that one was.
        let page = wanted(14, &[("f", 1), ("g", 1), ("z", 1), ("zz", 1), ("zzz", 1)]);
        assert_eq!(files.among(&page).unwrap(), [(14, content(b"f")), (16, content(b"z"))]);
        assert!(files.among(&wanted(19, &[("zzzz", 1)])).unwrap().is_empty());
        let mut none = Files { walk: walk(), ahead: None };
        assert!(none.among(&[]).unwrap().is_empty());
        assert_eq!(none.among(&wanted(0, &[("z", 1)])).unwrap(), [(0, content(b"z"))]);
    }

    /// Notes for how many it was held.
    struct Guard<'a> {
        for_so_many: Cell<usize>,
        held: &'a RefCell<Vec<usize>>,
    }

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.held.borrow_mut().push(self.for_so_many.get());
        }
    }

    #[test]
    fn a_large_manifest_is_looked_up_under_many_short_guards() {
        let count = 2 * LOOKED_UP_AT_ONCE + 5;
        let (all, held) = ((0..count).collect::<Vec<_>>(), RefCell::new(Vec::new()));
        let taken = Cell::new(0);
        let hold = || {
            assert_eq!(
                taken.replace(taken.get() + 1),
                held.borrow().len(),
                "one is let go of before the next"
            );
            Guard { for_so_many: Cell::new(0), held: &held }
        };
        let is_wanted = |guard: &Guard<'_>, one: &usize| {
            guard.for_so_many.set(guard.for_so_many.get() + 1);
            one.is_multiple_of(3)
        };
        let found = looked_up(&all, hold, is_wanted);
        assert!(found.into_iter().copied().eq((0..count).step_by(3)));
        assert_eq!(held.into_inner(), [LOOKED_UP_AT_ONCE, LOOKED_UP_AT_ONCE, 5]);
    }
}
