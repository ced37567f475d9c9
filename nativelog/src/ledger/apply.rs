//! Changes the ledger. Everything here was judged before and cannot fail: an assertion that does
//! is a bug of ours, and stops the replica rather than let it differ from the others.
//!
//! `apply_named.rs` hands out what a change names, `apply_end.rs` ends attempts, `apply_quarantine.rs` and `log_time.rs`
//! do their part. None of them comes back here.

use std::collections::BTreeSet;
use std::sync::Arc;

use checkpoint::JobName;

use super::attempt::Attempt;
use super::change::{Change, LinkedEntry, PackedEntry, Sealing};
use super::effect::{Effect, PublishEpoch};
use super::files::Whole;
use super::job::{EpochRecord, PinRecord, StoredEpoch};
use super::key::RowKey;
use super::objects::{Extent, Named};
use super::outcomes::{Ending, plan_key};
use super::pages::Page;
use super::tables::Ledger;
use crate::record::LogId;

impl Ledger {
    /// Applies a change that was judged on this very state; `bytes` is the size of its record.
    pub(super) fn apply(&mut self, change: Change, id: LogId, bytes: u64) -> Vec<Effect> {
        match change {
            Change::Repeat { attempt, .. } => {
                if let Some(attempt) = attempt {
                    self.named(attempt, bytes);
                }
            }
            Change::Genesis { cluster, members } => {
                self.cluster = Some(cluster);
                self.members.extend(members);
            }
            Change::Join { node, incarnation } => {
                self.members.insert(node, incarnation);
            }
            Change::Activate { version } => self.rules = version,
            Change::Tick { elapsed_ms } => self.tick(elapsed_ms),
            Change::OpenWriter { job, commit } => return self.open_writer(job, commit, id),
            Change::Begin { terms, replaces, gives_way } => {
                let mut ended: Vec<Effect> =
                    replaces.map(|silent| self.end(silent, Ending::Replaced, id)).into_iter().collect();
                ended.extend(gives_way.into_iter().map(|silent| self.end(silent, Ending::GaveWay, id)));
                self.planned += u64::from(terms.plan_entries);
                self.job_made(&terms.job, id).open.insert(id.index);
                let attempt = Attempt::new(terms, self.limits().plan, self.log_ms, bytes);
                self.touch(RowKey::Attempt(id.index));
                self.open.insert(id.index, attempt);
                return ended;
            }
            Change::Page { attempt, page, checking } => {
                let open = self.named(attempt, bytes);
                open.checking = checking;
                open.add_page(page, id.index);
                let page = open.pages.len() as u32 - 1;
                self.touch(RowKey::Page(attempt, page));
            }
            Change::Range { attempt, file, offset, len, digest } => {
                self.named(attempt, bytes).cover(file, offset, len, digest);
                self.touch(RowKey::Piece(attempt, file, offset));
            }
            Change::Pack { attempt, files } => {
                let open = self.named(attempt, bytes);
                for packed in &files {
                    open.cover_whole(packed.file, Whole::Packed, packed.digest);
                }
                let pages: BTreeSet<u32> = files.iter().map(|packed| open.page_of(packed.file)).collect();
                let pages = pages.into_iter().map(|page| open.page(attempt, page)).collect();
                for packed in &files {
                    self.touch(RowKey::File(attempt, packed.file));
                }
                return vec![unpack(attempt, id.index, files, pages)];
            }
            Change::Reuse { attempt, files } => self.reuse(attempt, files, bytes),
            Change::Link { attempt, object, files } => self.link(attempt, object, files, bytes),
            Change::Seal(sealing) => return self.seal(*sealing, id),
            Change::Abort { attempt } => return vec![self.end(attempt, Ending::Aborted, id)],
            Change::Pin { job, epoch, owner, reason, until_ms } => {
                self.put_pin(job, epoch, owner, PinRecord { reason, until_ms });
            }
            Change::Unpin { job, epoch, owner } => {
                self.drop_pin(job, epoch, owner);
            }
            Change::RemoveJob { job } => {
                self.touch(RowKey::Job(job.clone()));
                let gone = self.jobs.remove(&job).expect("judged to be there");
                self.names.remove(&gone.number);
                return vec![Effect::RemoveJob { job }];
            }
            Change::Quarantine { content, digest, found } => {
                return self.put_in_quarantine((content, digest), found, id);
            }
            Change::LogLost { content, digest, ends } => {
                return self.lose_log((content, digest), ends, id);
            }
            Change::Healed { content } => return self.heal(content, id),
            Change::Expire { job, epochs } => {
                return epochs.into_iter().map(|epoch| self.expire(&job, epoch, id)).collect();
            }
            Change::Store { store } => {
                self.touch(RowKey::Store(id.index));
                self.stores.insert(id.index, store);
            }
            Change::DeleteBatch { store, nonce } => {
                self.touch(RowKey::Store(store));
                self.stores.get_mut(&store).expect("judged to be there").begin_batch(nonce);
            }
            Change::Rehome { attempt, content, object, offset } => {
                self.named(attempt, bytes);
                let object = self.take_object(attempt, object);
                let extent = Extent { object, offset };
                let lost = self.quarantine.contains_key(&content);
                Arc::make_mut(&mut self.content).rehome(content, extent, lost, id.index);
                return self.end_quarantine(&[content]);
            }
            Change::Deleted { objects } => Arc::make_mut(&mut self.content).deleted(&objects),
        }
        Vec::new()
    }

    /// A newer writer ends every attempt of the older one.
    fn open_writer(&mut self, name: JobName, commit: checkpoint::CommitId, id: LogId) -> Vec<Effect> {
        let job = self.job_made(&name, id);
        assert!(job.token < id.index || id.index == 0, "tokens rise with the log");
        job.token = id.index;
        let fenced: Vec<u64> = job.open.iter().copied().collect();
        self.remember(&name, &commit, (id.index, Ending::Writer), id);
        fenced.into_iter().map(|attempt| self.end(attempt, Ending::Fenced, id)).collect()
    }

    fn reuse(&mut self, attempt: u64, files: Vec<(u32, checkpoint::Digest, u32)>, bytes: u64) {
        self.named(attempt, bytes);
        let open = self.open.get_mut(&attempt).expect("judged open");
        let contents = Arc::make_mut(&mut self.content);
        for (file, digest, content) in files {
            open.cover_whole(file, Whole::Reused, digest);
            if open.held.insert(content) {
                contents.hold_id(content);
            }
        }
    }

    /// The number of an object that an open attempt names. The attempt holds it until it ends.
    fn take_object(&mut self, attempt: u64, object: Named) -> u32 {
        let new = match object {
            Named::Known(number) => return number,
            Named::New(new) => new,
        };
        let number = Arc::make_mut(&mut self.content).take_object(new);
        let open = self.open.get_mut(&attempt).expect("judged open");
        let before = open.objects.insert((new.key.digest, new.key.nonce), number);
        assert!(before.is_none(), "judged new to its attempt");
        number
    }

    fn link(&mut self, attempt: u64, object: Named, files: Vec<LinkedEntry>, bytes: u64) {
        self.named(attempt, bytes);
        let object = self.take_object(attempt, object);
        let open = self.open.get_mut(&attempt).expect("judged open");
        for LinkedEntry { file, digest, offset } in files {
            open.cover_whole(file, Whole::Linked(Extent { object, offset }), digest);
        }
    }

    fn seal(&mut self, sealing: Sealing, id: LogId) -> Vec<Effect> {
        let sealed = sealing.answer(id);
        let envelope = sealing.envelope(&sealed);
        let healed = self.healed_by(&sealing);
        let Sealing { attempt, terms, tree, unpack: packed, manifest, sealed_log_ms, sealed_wall_ms, .. } =
            sealing;
        let (name, epoch, ended) = (sealed.job.clone(), sealed.epoch, sealed.attempt);
        // The epoch takes hold of its content before the attempt lets go of what it reused.
        let held = self.hold_sealed(&tree, manifest, id.index);
        let stored = terms.store.map(|store| {
            let manifest = held.manifest.expect("judged to be named");
            StoredEpoch { store, manifest, mixed: held.mixed }
        });
        let sealed = Arc::new(sealed);
        self.touch(RowKey::Epoch(name.clone(), epoch));
        self.touch(RowKey::EpochContent(name.clone(), epoch));
        let job = self.job_made(&name, id);
        assert!(job.mark.is_none_or(|mark| mark < epoch), "marks only rise");
        job.mark = Some(epoch);
        let record = EpochRecord {
            sealed: sealed.clone(),
            commit: terms.commit,
            plan: plan_key(&terms.plan_digest),
            base: terms.base,
            labels: terms.labels,
            depends_on: terms.depends_on,
            sealed_log_ms,
            sealed_wall_ms,
            content: held.content,
            pins: Default::default(),
            stored,
        };
        let before = job.epochs.insert(epoch, Arc::new(record));
        assert!(before.is_none(), "an epoch is sealed once");

        let behind = self.left_behind(&name, epoch, attempt);
        let ending = Ending::Sealed { epoch, root: sealed.root, plan: plan_key(&terms.plan_digest) };
        let subsumed = Ending::Subsumed { by: epoch };
        let mut effects = Vec::new();
        let discards: Vec<Effect>;
        match attempt {
            // Nothing to discard: what the attempt staged becomes the epoch.
            Some(attempt) => {
                drop(self.end(attempt, ending, id));
                discards = behind.into_iter().map(|behind| self.end(behind, subsumed, id)).collect();
            }
            None => {
                // An attempt of the same commit may be among them: what it led to last is the seal.
                discards = behind.into_iter().map(|behind| self.end(behind, subsumed, id)).collect();
                self.remember(&name, &terms.commit, (ended, ending), id);
                if !packed.is_empty() {
                    effects.push(unpack(ended, id.index, packed, Vec::new()));
                }
            }
        }
        effects.push(Effect::Publish(PublishEpoch {
            attempt: ended,
            job: name,
            epoch,
            envelope,
            manifest: tree.manifest.clone(),
            sources: tree.sources.clone(),
        }));
        effects.extend(discards);
        effects.extend(self.end_quarantine(&healed));
        effects
    }

    fn expire(&mut self, name: &JobName, epoch: u64, at: LogId) -> Effect {
        let owners: Vec<String> = self.epoch_mut(name, epoch).pins.keys().cloned().collect();
        for owner in owners {
            self.drop_pin(name.clone(), epoch, owner);
        }
        self.touch(RowKey::Epoch(name.clone(), epoch));
        self.touch(RowKey::EpochContent(name.clone(), epoch));
        let gone = self.job_mut(name).epochs.remove(&epoch).expect("judged sealed");
        let manifest = gone.stored.as_ref().map(|stored| &stored.manifest);
        let released = self.release(&*gone.content, manifest, at.index);
        self.forget_quarantine(&*gone.content);
        Effect::Expire { job: name.clone(), epoch, released }
    }
}

fn unpack(attempt: u64, index: u64, files: Vec<PackedEntry>, pages: Vec<Page>) -> Effect {
    let files = files.into_iter().map(|file| (file.file, file.offset, file.len)).collect();
    Effect::Unpack { attempt, index, files, pages }
}
