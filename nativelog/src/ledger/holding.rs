//! The content table after a record that holds or frees much of it, worked out before the ledger is locked for it: a
//! million contents take a second.
//!
//! Only who applies changes the ledger, so the table that was copied is still the one in force when the result takes
//! its place, in the same moment as the rest of what the record does. A result for another position or another
//! record is not used.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::JobName;

use super::attempt::Attempt;
use super::change::Change;
use super::content::{Contents, HeldBy, Holds};
use super::effect::Released;
use super::gathering::MANY;
use super::held::{Gone, Held};
use super::objects::Named;
use super::tables::Ledger;
use super::tree::Tree;
use crate::record::{Header, Kind, LogId};

/// What a record is about to do to the content table. See [`Ledger::holding`].
pub struct Holding {
    applied: Option<LogId>,
    record: Bytes,
    contents: Arc<Contents>,
    seals: Option<Seals>,
    /// Content that is in the log no more.
    lost_from_log: Option<u32>,
    /// What epochs and attempts let go of, in the order in which they do.
    frees: Vec<LetsGo>,
}

/// What a seal takes hold of.
struct Seals {
    tree: Arc<Tree>,
    manifest: Option<Named>,
    /// Content in quarantine, ascending.
    lost: Vec<u32>,
}

/// What one of them lets go of.
struct LetsGo {
    contents: Vec<u32>,
    objects: Vec<u32>,
}

impl LetsGo {
    fn len(&self) -> usize {
        self.contents.len() + self.objects.len()
    }
}

fn holds<'a>(tree: &'a Tree, manifest: Option<Named>, lost: &'a [u32]) -> Holds<'a> {
    Holds { parts: &tree.content, links: &tree.links, manifest, lost }
}

impl Holding {
    /// Copies the table and changes the copy: this takes long, and needs no ledger. `None` when the content cannot be
    /// held, which the judge says in its words.
    pub fn hold(self) -> Option<Held> {
        let Holding { applied, record, contents, seals, lost_from_log, frees } = self;
        let mut contents = Contents::clone(&contents);
        let index = applied.map_or(0, |applied| applied.index + 1);
        let mut sealed = HeldBy::default();
        if let Some(Seals { tree, manifest, lost }) = seals {
            sealed = contents.hold_all(holds(&tree, manifest, &lost), index)?;
        }
        if let Some(content) = lost_from_log {
            contents.lose_log(content);
        }
        let released =
            frees.iter().map(|LetsGo { contents: ids, objects }| contents.release_all(ids, objects, index));
        let released = released.collect();
        Some(Held { applied, record, contents: Arc::new(contents), sealed, released })
    }
}

impl Ledger {
    /// Whether a record may take long to judge or to apply: [`Ledger::paging`], [`Ledger::gathering`] and
    /// [`Ledger::holding`] do most of it beforehand.
    pub fn takes_long(&self, header: &Header) -> bool {
        self.long_page(header).is_some() || self.ungathered(header).is_some() || self.holds_much(header)
    }

    fn holds_much(&self, header: &Header) -> bool {
        let of = |attempt: &Attempt| attempt.held.len() + attempt.objects.len();
        let held = |ids: &BTreeSet<u64>| -> usize { ids.iter().map(|id| of(&self.open[id])).sum() };
        let of_job = |name: &str| self.jobs.get(&JobName::try_from(name).ok()?);
        let contents: usize = match &header.kind {
            Some(Kind::Seal(seal)) => self
                .open
                .get(&seal.attempt)
                .map_or(0, |attempt| attempt.files.len() + held(&self.known_job(&attempt.terms.job).open)),
            Some(Kind::Whole(_) | Kind::Begin(_) | Kind::OpenWriter(_)) => self.open.values().map(of).sum(),
            Some(Kind::Quarantine(_)) => self.open.values().map(of).sum(),
            Some(Kind::Abort(abort)) => self.open.get(&abort.attempt).map_or(0, of),
            Some(Kind::Expire(expire)) => of_job(&expire.job).map_or(0, |job| {
                expire
                    .epochs
                    .iter()
                    .filter_map(|epoch| job.epochs.get(epoch))
                    .map(|epoch| epoch.content.len())
                    .sum()
            }),
            _ => 0,
        };
        contents > MANY
    }

    /// What this record, were it the next, would do to the content table, when that is much.
    pub fn holding(&self, header: &Header) -> Option<Holding> {
        if !self.holds_much(header) {
            return None;
        }
        let of_attempt = |id: &u64| {
            let Attempt { held, objects, .. } = &self.open[id];
            LetsGo { contents: held.iter().copied().collect(), objects: objects.values().copied().collect() }
        };
        let (mut seals, mut lost_from_log, mut frees) = (None, None, Vec::new());
        match self.judge(header).ok()? {
            Change::Seal(sealing) => {
                let behind = self.left_behind(&sealing.terms.job, sealing.terms.epoch, sealing.attempt);
                frees.extend(sealing.attempt.iter().chain(&behind).map(of_attempt));
                let lost = self.quarantine.keys().copied().collect();
                seals = Some(Seals { tree: sealing.tree, manifest: sealing.manifest, lost });
            }
            Change::Expire { job, epochs } => {
                let epochs = epochs.iter().map(|epoch| &self.known_job(&job).epochs[epoch]);
                frees.extend(epochs.map(|epoch| LetsGo {
                    contents: epoch.content.to_vec(),
                    objects: epoch.stored.iter().map(|stored| stored.manifest).collect(),
                }));
            }
            Change::Abort { attempt } => frees.push(of_attempt(&attempt)),
            Change::OpenWriter { job, .. } => {
                frees.extend(self.jobs.get(&job).into_iter().flat_map(|job| job.open.iter().map(of_attempt)));
            }
            Change::Quarantine { content, .. } => {
                frees.extend(self.leaning_on(content).iter().map(of_attempt))
            }
            Change::LogLost { content, ends, .. } => {
                lost_from_log = Some(content);
                frees.extend(ends.iter().map(of_attempt));
            }
            Change::Begin { replaces, gives_way, .. } => {
                frees.extend(replaces.iter().chain(&gives_way).map(of_attempt));
            }
            _ => return None,
        }
        let sealed = seals.as_ref().map_or(0, |seals| seals.tree.content.len());
        let much = sealed + frees.iter().map(LetsGo::len).sum::<usize>();
        if much <= MANY {
            return None;
        }
        let (applied, record, contents) = (self.applied, header.wire().clone(), self.content.clone());
        Some(Holding { applied, record, contents, seals, lost_from_log, frees })
    }

    /// Takes what [`Holding::hold`] made. The next step uses it, or forgets it.
    pub fn keep_held(&mut self, held: Held) {
        self.held = Some(Box::new(held));
    }

    /// Hands out what was let go of since the last step began. To drop a million entries takes long: do it when the
    /// ledger is not locked.
    #[must_use]
    pub fn take_gone(&mut self) -> Gone {
        std::mem::take(&mut self.gone)
    }

    /// Before a record is judged: what was worked out for another is of no use.
    pub(super) fn check_held(&mut self, header: &Header) {
        self.held.take_if(|held| held.applied != self.applied || held.record != header.wire());
    }

    /// The record was judged good: the table that was worked out for it takes the place of the one before.
    pub(super) fn place_held(&mut self) {
        if let Some(held) = &self.held {
            let before = std::mem::replace(&mut self.content, held.contents.clone());
            self.gone.contents.push(before);
        }
    }

    /// The epoch that is sealed at `index` takes hold of its content.
    pub(super) fn hold_sealed(&mut self, tree: &Tree, manifest: Option<Named>, index: u64) -> HeldBy {
        match &mut self.held {
            Some(held) => std::mem::take(&mut held.sealed),
            None => {
                let lost: Vec<u32> = self.quarantine.keys().copied().collect();
                let sealed = Arc::make_mut(&mut self.content).hold_all(holds(tree, manifest, &lost), index);
                sealed.expect("judged to have the lengths that are held")
            }
        }
    }

    /// What the log brought of this content is lost.
    pub(super) fn lost_from_log(&mut self, content: u32) {
        // The table that was worked out has it already, and may not have the content any more.
        if self.held.is_none() {
            Arc::make_mut(&mut self.content).lose_log(content);
        }
    }

    /// An epoch or an attempt lets go of content and objects by the record at `index`; answers with the content that nobody
    /// holds any more, sorted.
    pub(super) fn release<'a>(
        &mut self,
        ids: impl IntoIterator<Item = &'a u32>,
        objects: impl IntoIterator<Item = &'a u32>,
        index: u64,
    ) -> Vec<Released> {
        match &mut self.held {
            Some(held) => held.released.pop_front().expect("one for each that lets go"),
            None => Arc::make_mut(&mut self.content).release_all(ids, objects, index),
        }
    }
}
