//! From `incoming/` to the shelves, many contents with the syncs of few: digests
//! are compared, modes set, all contents synced, and only then renamed to the
//! names of blobs, whose folders are synced last.
//!
//! Stopped anywhere, a content lies complete in one of the two places. A name
//! that is taken gets the new inode; the old one keeps its other names, until
//! [`Store::heal`] changes those.

use std::collections::BTreeSet;
use std::io;

use super::Store;
use super::incoming::{Content, Incoming, IncomingError};
use super::shelves::{Names, Shelves};
use super::syncing::SYNC_EACH_MAX;
use crate::io_error::{IoError, at};

// One of the batch: nothing to say as long as nothing went wrong.
struct Arrived {
    incoming: Incoming,
    failed: Option<IncomingError>,
}

impl Store {
    /// Makes blobs of content that has arrived whole, several with the syncs of one: checked, synced with its
    /// mode, renamed to the blob's name, folders synced. A blob that is there is replaced by the new inode (and
    /// never written in place). One answer each, in order. What is not complete stays where it is.
    pub fn shelve(&self, arrived: Vec<Incoming>) -> Vec<Result<(), IncomingError>> {
        let shelves = &*self.shelves;
        let mut batch: Vec<Arrived> =
            arrived.into_iter().map(|incoming| Arrived { incoming, failed: None }).collect();
        each(&mut batch, |incoming| complete(shelves, incoming));
        sync_contents(shelves, &mut batch);
        let names = shelves.lock_names();
        each(&mut batch, |incoming| Ok(name(&names, incoming)?));
        sync_names(&names, &mut batch);
        batch.into_iter().map(|arrived| arrived.failed.map_or(Ok(()), Err)).collect()
    }
}

fn each(batch: &mut [Arrived], mut step: impl FnMut(&mut Incoming) -> Result<(), IncomingError>) {
    for arrived in batch.iter_mut().filter(|arrived| arrived.failed.is_none()) {
        arrived.failed = step(&mut arrived.incoming).err();
    }
}

// All has come, and it is what it should be: it gets its mode.
fn complete(shelves: &Shelves, incoming: &mut Incoming) -> Result<(), IncomingError> {
    let (path, Content { digest, mode, size }) = (incoming.path(), incoming.content());
    incoming.flush()?;
    if incoming.have() < size {
        let why = format!("only {} of its {size} bytes have come", incoming.have());
        return Err(at("shelve", &path)(io::Error::new(io::ErrorKind::InvalidInput, why)).into());
    }
    let found = incoming.digest();
    if found != digest {
        incoming.remove()?;
        return Err(IncomingError::Corrupt { wanted: digest, found });
    }
    Ok(shelves.disk.set_mode(&path, mode).map_err(at("set the mode of", &path))?)
}

fn sync_contents(shelves: &Shelves, batch: &mut [Arrived]) {
    let good = batch.iter().filter(|arrived| arrived.failed.is_none()).count();
    if good <= SYNC_EACH_MAX {
        each(batch, |incoming| {
            let result = shelves.sync_file(&incoming.path());
            result.map_err(|e| lost(incoming, e))
        });
    } else if let Err(e) = shelves.sync_everything() {
        each(batch, |incoming| Err(lost(incoming, e.again())));
    }
}

// After a failed sync nobody knows what the device has: whoever comes next must not find it.
fn lost(incoming: &mut Incoming, e: IoError) -> IncomingError {
    if let Err(e) = incoming.remove() {
        tracing::warn!(error = %e, "cannot remove content whose sync failed");
    }
    e.into()
}

fn name(names: &Names<'_>, incoming: &mut Incoming) -> Result<(), IoError> {
    let Content { digest, mode, .. } = incoming.content();
    let (from, to) = (incoming.path(), names.layout.blob(digest, mode, 0));
    let stat = names.disk.stat(&from).map_err(at("stat", &from))?;
    // Who brings what has a blob here has found that one bad: all inodes of this content are read again before the next
    // one relies on them. What is new here has no other that was ever relied on, and costs what is known nothing.
    match names.disk.stat(&to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        _ => names.known.forget(digest),
    }
    let token = names.known.token(&digest);
    names.disk.rename(&from, &to).map_err(at("make", &to))?;
    incoming.ended = true;
    names.known.remember((digest, mode, 0), &stat, token);
    Ok(())
}

fn sync_names(names: &Names<'_>, batch: &mut [Arrived]) {
    let shelf = |incoming: &Incoming| names.layout.blob_shelf(incoming.content().digest.as_bytes()[0]);
    let good = batch.iter().filter(|arrived| arrived.failed.is_none());
    let shelves: BTreeSet<_> = good.map(|arrived| shelf(&arrived.incoming)).collect();
    if let Err(e) = names.sync_dirs(&shelves) {
        each(batch, |_| Err(e.again().into()));
    }
}
