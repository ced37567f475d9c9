//! Room for a catch-up on a full disk.
//!
//! Everywhere else a deletion waits for this node's own snapshot and purge. On a full disk that would be for ever: the
//! record that expired an epoch stands in the log behind content for which there is no room. But the record is
//! committed, the ledger that a leader sent says so; nothing that anybody needs goes. A start before that ledger is
//! installed finds epochs of the old one without a directory, asks the peers for them in vain, and is caught up again.
//!
//! **Never.** Staged files are not touched: the log may still name them, and goes the usual way. An epoch above the
//! coming ledger's mark is none of its business.

use std::io;

use checkpoint::Digest;
use checkpoint::store::Reclaimed;

use super::overview::{Overview, directories};
use super::shared::Ground;
use crate::ledger::Ledger;

impl Ground<'_> {
    /// Removes the epochs that `coming`, a ledger that is about to be brought here, has let expire, and the content
    /// that it does not know any more. Does nothing while something is pinned, or for a ledger that is not above
    /// what is applied here. `begun` is called before the first thing goes. Blocks.
    ///
    /// # Errors
    /// The disk refuses, of several things the first of them; what was removed stays removed.
    pub fn give_way(&self, coming: &Ledger, begun: impl FnOnce()) -> io::Result<Reclaimed> {
        let is_news = || self.ledger().applied() < coming.applied();
        let there = directories(self.store).map_err(io::Error::other)?;
        let overview = Overview::of(coming);
        let known = |digest: &Digest| coming.content(digest).is_some();
        let gone = overview.surplus(self.store, &there);
        // Also what a catch-up to another ledger has left; where that is unknown, only what these epochs held.
        let strays = overview.strays(self.store, &there, &known).map_err(io::Error::other)?;
        let theirs =
            || gone.iter().flat_map(|epoch| epoch.contents.clone()).filter(|(digest, _)| !known(digest));
        let strays = strays.unwrap_or_else(|| theirs().collect());
        let pins = self.pins.held();
        if !is_news() || !pins.is_empty() {
            return Ok(Reclaimed::default());
        }
        if !gone.is_empty() || !strays.is_empty() {
            begun();
        }
        // What resists keeps nothing else that makes room.
        let mut failed = None;
        for epoch in &gone {
            if self.dues.is_read(&epoch.job, epoch.epoch) {
                continue;
            }
            let sealed = self.ledger().epoch(&epoch.job, epoch.epoch).map(|info| info.sealed);
            if let Some(sealed) = sealed {
                let why = "it has expired, and made room for what this node lacks";
                self.dues.note_missing(epoch.job.clone(), epoch.epoch, sealed.attempt, sealed.root, why);
            }
            let later = coming.epoch(&epoch.job, epoch.epoch).map(|info| info.sealed.position.index);
            let is_later = || later.is_some_and(|sealed| sealed > epoch.until);
            let gone = self.store.expire_until(&epoch.job, epoch.epoch, epoch.until, &is_later);
            if let Err(error) = gone {
                tracing::warn!(job = %epoch.job, epoch = epoch.epoch, %error, "an expired epoch cannot make room yet");
                failed.get_or_insert(error);
            }
        }
        let strays: Vec<Digest> = strays.into_keys().collect();
        // Asked at every unlink: once this node has applied as much by itself, its own ledger decides again.
        let removed = self.store.remove_blobs(&strays, &|_| is_news());
        failed.map_or(removed, Err).map_err(io::Error::other)
    }
}
