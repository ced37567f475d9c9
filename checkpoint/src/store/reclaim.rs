//! Giving space back: blobs that no epoch refers to any more, and the trash. What is removed here was decided
//! by records; nothing is removed because it is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::digest::Digest;
use crate::disk::FileKind;
use crate::durable::{ignore_missing, remove_tree};
use crate::epoch::JobName;
use crate::io_error::{IoError, at};

use super::link::TEMP_PREFIX;
use super::shelves::Names;
use super::{Store, StoreError, blobs, jobs};

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Files whose names were removed.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
}

impl Store {
    /// Removes the blobs (of every mode and number) of those `digests` for which `is_free` says so at the moment
    /// of the unlink, under the lock that publish uses. A blob that is not there is fine. Durable when this
    /// returns.
    ///
    /// # Errors
    /// The disk refuses; what was removed stays removed.
    pub fn remove_blobs(
        &self,
        digests: &[Digest],
        is_free: &dyn Fn(&Digest) -> bool,
    ) -> Result<Reclaimed, StoreError> {
        let mut shelves: BTreeMap<u8, BTreeSet<Digest>> = BTreeMap::new();
        for digest in digests {
            shelves.entry(digest.as_bytes()[0]).or_default().insert(*digest);
        }
        let (mut reclaimed, mut touched) = (Reclaimed::default(), BTreeSet::new());
        let mut result = Ok(());
        for (first, digests) in shelves {
            // One shelf at a time, so that a publish need not wait for all of them.
            let names = self.shelves.lock_names();
            let before = reclaimed.files;
            result = remove_from_shelf(&names, first, &digests, is_free, &mut reclaimed);
            // Also when nothing was left to remove: an earlier process may have died before it synced.
            if result.is_ok() || reclaimed.files > before {
                touched.insert(self.layout().blob_shelf(first));
            }
            if result.is_err() {
                break;
            }
        }
        self.shelves.sync_dirs(&touched)?;
        Ok(result.map(|()| reclaimed)?)
    }

    /// What lies on the shelves besides what is `known`: digest and bytes, as the names say it. This alone decides
    /// nothing: an epoch that is just being published may need it.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn shelved_besides(
        &self,
        known: &dyn Fn(&Digest) -> bool,
    ) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let disk = self.disk();
        let mut found = BTreeMap::new();
        for first in 0..=u8::MAX {
            let shelf = self.layout().blob_shelf(first);
            let names = match disk.read_dir(&shelf) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                names => names.map_err(at("list", &shelf))?,
            };
            for (name, _) in names {
                let Some((digest, ..)) = blobs::parse(&name).filter(|(digest, ..)| !known(digest)) else {
                    continue;
                };
                let path = shelf.join(&name);
                match disk.stat(&path) {
                    Ok(stat) => *found.entry(digest).or_default() += stat.len,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(at("stat", &path)(e).into()),
                }
            }
        }
        Ok(found)
    }

    /// Removes everything in `trash/`. What cannot be removed now can be later.
    pub fn empty_trash(&self) {
        let (disk, trash) = (&**self.disk(), self.layout().trash_dir());
        let is_temp = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes());
        let remove = |name: &std::ffi::OsStr| {
            let path = trash.join(name);
            if let Err(e) = remove_tree(disk, &path) {
                tracing::warn!(path = %path.display(), error = %e, "cannot empty the trash");
            }
        };
        let names = {
            // Temporary names are in use while the names are locked, and only then.
            let _names = self.shelves.lock_names();
            let names = match disk.read_dir(&trash) {
                Ok(names) => names,
                Err(e) => {
                    tracing::warn!(path = %trash.display(), error = %e, "cannot list the trash");
                    return;
                }
            };
            names.iter().filter(|(name, _)| is_temp(name)).for_each(|(name, _)| remove(name));
            names
        };
        names.iter().filter(|(name, _)| !is_temp(name)).for_each(|(name, _)| remove(name));
    }

    /// Jobs and epochs that have a folder here, in order; whether each has a manifest is not looked at.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn published_epochs(&self) -> Result<Vec<(JobName, u64)>, StoreError> {
        let (disk, dir) = (&**self.disk(), self.layout().epochs_dir());
        let mut published = Vec::new();
        for (name, kind) in disk.read_dir(&dir).map_err(at("list", &dir))? {
            let job = name.to_str().and_then(|name| JobName::try_from(name).ok());
            let Some(job) = job.filter(|_| kind == FileKind::Directory) else { continue };
            let epochs = jobs::epochs(disk, &dir.join(&name))?;
            published.extend(epochs.into_iter().map(|epoch| (job.clone(), epoch)));
        }
        Ok(published)
    }
}

fn remove_from_shelf(
    names: &Names<'_>,
    first: u8,
    digests: &BTreeSet<Digest>,
    is_free: &dyn Fn(&Digest) -> bool,
    reclaimed: &mut Reclaimed,
) -> Result<(), IoError> {
    let (disk, shelf) = (&*names.disk, names.layout.blob_shelf(first));
    let found = match disk.read_dir(&shelf) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(at("list", &shelf))?,
    };
    for (name, _) in found {
        let Some(key) = blobs::parse(&name).filter(|(digest, ..)| digests.contains(digest)) else {
            continue;
        };
        let path = shelf.join(&name);
        let stat = disk.stat(&path).map_err(at("stat", &path))?;
        if !is_free(&key.0) {
            continue;
        }
        names.known.leaves(&key, &stat);
        ignore_missing(disk.unlink(&path)).map_err(at("remove", &path))?;
        reclaimed.files += 1;
        reclaimed.bytes += stat.len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::RealDisk;
    use crate::store::Content;

    #[test]
    fn what_comes_and_goes_is_not_among_what_was_found_bad() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        let (data, known) = (b"content", &store.shelves.known);
        let key = (crate::digest::content(data), 0o644, 0);
        let shelve = || {
            let content = Content { digest: key.0, mode: key.1, size: data.len() as u64 };
            let mut incoming = store.incoming(content).unwrap();
            incoming.write(data).unwrap();
            store.shelve(vec![incoming]).remove(0).unwrap();
            store.disk().stat(&store.layout().blob(key.0, key.1, 0)).unwrap()
        };
        let stat = shelve();
        assert!(known.knows(&key, &stat));
        store.remove_blobs(&[key.0], &|_| true).unwrap();
        assert!(!known.knows(&key, &stat));
        assert_eq!(known.doubted(), 0);
        // Who brings what is here had a reason to.
        shelve();
        shelve();
        assert_eq!(known.doubted(), 1);
    }
}
