//! Giving back to the disk what records have decided: record, snapshot, fsynced purge, and only then the unlink.
//!
//! Two kinds of garbage. *Content* that nobody holds since the record at some index: its blobs, by digest, as the
//! dues list it (only an install looks through the shelves for what may be listed there). *Folders of
//! attempts*: an id is the log index of the Begin, so an id below the purge point that the ledger does not have open
//! has ended by a record. Never what a pin knows, and never while an entry of the log still names it; no content before the log is
//! applied as far as it was (`replay`).

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc;

use checkpoint::Digest;
use checkpoint::store::Reclaimed;

use super::shared::Ground;
use super::slices::SLICE;

/// Pins may be taken between two batches: at most this many contents or attempts a batch.
const BATCH_MAX: usize = 128;

impl Ground<'_> {
    /// Takes note of the folders in staging.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn note_staging(&self) -> io::Result<()> {
        let dir = self.store.layout().staging_dir();
        let names = self.store.disk().read_dir(&dir)?;
        let found: BTreeSet<u64> =
            names.into_iter().filter_map(|(name, _)| name.to_str()?.parse().ok()).collect();
        let all: Vec<u64> = found.iter().copied().collect();
        let mut not_open = Vec::new();
        for slice in all.chunks(SLICE) {
            let ledger = self.ledger();
            // One that begins above is not known yet. What has ended never opens again: nothing changes between slices.
            let Some(applied) = ledger.applied().map(|id| id.index) else { break };
            let ended = |id: &u64| *id <= applied && ledger.attempt(*id).is_none();
            let ended: Vec<(u64, u64)> =
                slice.iter().filter(|id| ended(id)).map(|id| (*id, applied)).collect();
            drop(ledger);
            not_open.extend(ended);
        }
        for attempt in self.dues.note_staging(&found, &not_open) {
            self.dues.weigh(attempt, self.store.staged_bytes(attempt));
        }
        Ok(())
    }

    /// Gives back what the fsynced purge point allows: folders of ended attempts, blobs without references.
    /// Blocks; call it after the log was purged.
    ///
    /// # Errors
    /// The disk refuses. What was not given back is tried again next time.
    pub fn reclaim(&self) -> io::Result<Reclaimed> {
        let purged = *self.log.purged().borrow();
        self.note_staging()?;
        self.sweep(purged)?;
        self.unlink_released(purged)
    }

    fn sweep(&self, purged: u64) -> io::Result<()> {
        let mut ended = Vec::new();
        for slice in self.dues.sweepable(purged).chunks(SLICE) {
            let ledger = self.ledger();
            let closed: Vec<u64> = slice.iter().copied().filter(|id| ledger.attempt(*id).is_none()).collect();
            drop(ledger);
            ended.extend(closed);
        }
        for batch in ended.chunks(BATCH_MAX) {
            // Not held while the writer is waited for. A pin that is taken meanwhile loses nothing: these attempts
            // ended below the purge point, so no snapshot that is still kept has them open.
            let free: Vec<u64> = {
                let pins = self.pins.held();
                batch.iter().copied().filter(|id| !pins.knows_attempt(*id)).collect()
            };
            if free.is_empty() {
                continue;
            }
            let (answer, answered) = mpsc::channel();
            self.log.sweep(free, Box::new(move |result| drop(answer.send(result))));
            let swept = answered.recv().unwrap_or_else(|_| Err(io::Error::other("the log has stopped")));
            self.dues.swept(&swept?);
            self.store.empty_trash();
        }
        Ok(())
    }

    fn unlink_released(&self, purged: u64) -> io::Result<Reclaimed> {
        let mut given = Reclaimed::default();
        if !self.replay.is_over(self.log, &self.ledger()) {
            return Ok(given);
        }
        for batch in self.dues.ripe(purged).chunks(BATCH_MAX) {
            let pins = self.pins.held();
            let batch: Vec<(Digest, u64)> =
                batch.iter().copied().filter(|(digest, _)| !pins.knows(digest)).collect();
            if batch.is_empty() {
                continue;
            }
            let digests: Vec<Digest> = batch.iter().map(|(digest, _)| *digest).collect();
            // Asked under the lock that publish uses: what is sealed meanwhile brings its own bytes.
            let is_free =
                |digest: &Digest| self.ledger().content(digest).is_none_or(|(_, holders)| holders == 0);
            let removed = self.store.remove_blobs(&digests, &is_free).map_err(io::Error::other)?;
            given.files += removed.files;
            given.bytes += removed.bytes;
            // That was durable: the names cannot come back, and nothing is owed any more.
            batch.iter().for_each(|(digest, index)| self.dues.paid(digest, *index));
        }
        Ok(given)
    }
}
