//! Changes the ledger. Everything here was judged before and cannot fail: an assertion that does
//! is a bug of ours, and stops the replica rather than let it differ from the others.

use std::sync::Arc;

use checkpoint::JobName;

use super::Ledger;
use super::attempt::{Attempt, FileState};
use super::effect::{Effect, PublishEpoch, Released};
use super::job::{COMMITS_REMEMBERED, Ended, Ending, EpochRecord, Job, Outcome, PinRecord};
use super::judge::{Change, PackedEntry, Sealing};
use super::rows::RowKey;
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
            Change::Tick { elapsed_ms } => self.log_ms = self.log_ms.saturating_add(elapsed_ms),
            Change::OpenWriter { job, commit } => return self.open_writer(job, commit, id),
            Change::Begin { terms } => {
                let (job, commit) = (terms.job.clone(), terms.commit);
                let attempt = Attempt::new(terms, self.log_ms, bytes);
                self.open.insert(id.index, attempt);
                self.job_mut(&job).open.insert(id.index);
                self.remember(&job, commit, id.index, Outcome::Attempt { id: id.index });
                self.changes.row(RowKey::Attempt(id.index));
            }
            Change::Resume { attempt, commit, .. } => {
                self.named(attempt, bytes);
                let job = self.open[&attempt].terms.job.clone();
                self.remember(&job, commit, id.index, Outcome::Attempt { id: attempt });
            }
            Change::Page { attempt, entries, checker } => {
                let open = self.named(attempt, bytes);
                open.add_page(entries, checker);
                let page = open.page_ends.len() as u32 - 1;
                self.changes.row(RowKey::Page(attempt, page));
            }
            Change::Range { attempt, file, offset, len, digest } => {
                self.named(attempt, bytes).cover(file, offset, len, digest);
                self.changes.row(RowKey::Piece(attempt, file, offset));
            }
            Change::Pack { attempt, files } => {
                let open = self.named(attempt, bytes);
                for packed in &files {
                    open.cover_whole(packed.file, FileState::Packed(packed.digest));
                }
                for packed in &files {
                    self.changes.row(RowKey::File(attempt, packed.file));
                }
                return vec![unpack(attempt, id.index, files)];
            }
            Change::Reuse { attempt, files } => self.reuse(attempt, files, bytes),
            Change::Seal(sealing) => return self.seal(*sealing, id),
            Change::Abort { attempt } => return vec![self.end(attempt, Ending::Aborted)],
            Change::Pin { job, epoch, owner, reason, until_ms } => {
                let pin = PinRecord { reason, until_ms };
                self.epoch_mut(&job, epoch).pins.insert(owner.clone(), pin);
                self.changes.row(RowKey::Pin(job, epoch, owner));
            }
            Change::Unpin { job, epoch, owner } => {
                self.epoch_mut(&job, epoch).pins.remove(&owner);
                self.changes.row(RowKey::Pin(job, epoch, owner));
            }
            Change::Quarantine { content, found } => return self.put_in_quarantine(content, found, id.index),
            Change::Healed { content } => return self.end_quarantine(&[content]),
            Change::Expire { job, epochs } => {
                return epochs.into_iter().map(|epoch| self.expire(&job, epoch)).collect();
            }
        }
        Vec::new()
    }

    /// A newer writer ends every attempt of the older one.
    fn open_writer(&mut self, name: JobName, commit: checkpoint::CommitId, id: LogId) -> Vec<Effect> {
        let job = self.job_mut(&name);
        assert!(job.token < id.index || id.index == 0, "tokens rise with the log");
        job.token = id.index;
        let fenced: Vec<u64> = job.open.iter().copied().collect();
        self.remember(&name, commit, id.index, Outcome::Writer { token: id.index });
        fenced.into_iter().map(|attempt| self.end(attempt, Ending::Fenced)).collect()
    }

    fn reuse(&mut self, attempt: u64, files: Vec<(u32, checkpoint::Digest, u32)>, bytes: u64) {
        self.named(attempt, bytes);
        let open = self.open.get_mut(&attempt).expect("judged open");
        for (file, digest, content) in files {
            open.cover_whole(file, FileState::Reused(digest));
            if open.held.insert(content) {
                self.content.hold_id(content);
                self.changes.row(RowKey::Content(content));
            }
            self.changes.row(RowKey::File(attempt, file));
        }
    }

    fn seal(&mut self, sealing: Sealing, id: LogId) -> Vec<Effect> {
        let sealed = sealing.answer(id);
        let envelope = sealing.envelope(&sealed);
        let healed = self.healed_by(&sealing);
        let Sealing { attempt, terms, manifest, sources, content, unpack: packed, sealed_log_ms, .. } =
            sealing;
        let (name, epoch, ended) = (sealed.job.clone(), sealed.epoch, sealed.attempt);
        // The epoch takes hold of its content before the attempt lets go of what it reused.
        let mut held: Vec<u32> =
            content.iter().map(|(digest, bytes)| self.content.hold(digest, *bytes)).collect();
        held.sort_unstable();
        self.changes.rows.extend(held.iter().map(|id| RowKey::Content(*id)));
        let sealed = Arc::new(sealed);
        let job = self.job_mut(&name);
        assert!(job.mark.is_none_or(|mark| mark < epoch), "marks only rise");
        job.mark = Some(epoch);
        let record = EpochRecord {
            sealed: sealed.clone(),
            base: terms.base,
            labels: terms.labels,
            depends_on: terms.depends_on,
            sealed_log_ms,
            content: held.into(),
            pins: Default::default(),
        };
        let before = job.epochs.insert(epoch, record);
        assert!(before.is_none(), "an epoch is sealed once");
        self.changes.row(RowKey::Epoch(name.clone(), epoch));
        self.changes.row(RowKey::EpochContent(name.clone(), epoch));

        let behind = self.left_behind(&name, epoch, attempt);
        let ending = Ending::Sealed { sealed, plan_digest: terms.plan_digest };
        let mut effects = Vec::new();
        match attempt {
            // Nothing to discard: what the attempt staged becomes the epoch.
            Some(attempt) => drop(self.end(attempt, ending)),
            None => {
                self.remember(&name, terms.commit, id.index, Outcome::Attempt { id: ended });
                self.remember_ended(ended, Ended { job: name.clone(), how: ending });
                if !packed.is_empty() {
                    effects.push(unpack(ended, id.index, packed));
                }
            }
        }
        effects.push(Effect::Publish(PublishEpoch {
            attempt: ended,
            job: name,
            epoch,
            envelope,
            manifest,
            sources,
        }));
        effects.extend(behind.into_iter().map(|attempt| self.end(attempt, Ending::Subsumed { by: epoch })));
        effects.extend(self.end_quarantine(&healed));
        effects
    }

    fn expire(&mut self, name: &JobName, epoch: u64) -> Effect {
        let gone = self.job_mut(name).epochs.remove(&epoch).expect("judged sealed");
        let released = self.release(&gone.content);
        self.changes.row(RowKey::Epoch(name.clone(), epoch));
        self.changes.row(RowKey::EpochContent(name.clone(), epoch));
        for owner in gone.pins.into_keys() {
            self.changes.row(RowKey::Pin(name.clone(), epoch, owner));
        }
        Effect::Expire { job: name.clone(), epoch, released }
    }

    /// Ends an open attempt: it lets go of its content and leaves how it ended.
    pub(super) fn end(&mut self, id: u64, how: Ending) -> Effect {
        let gone = self.open.remove(&id).expect("an attempt ends while it is open");
        let released = self.release(&gone.held);
        self.job_mut(&gone.terms.job).open.remove(&id);
        self.changes.attempt_gone(id);
        self.remember_ended(id, Ended { job: gone.terms.job, how });
        Effect::Discard { attempt: id, released }
    }

    /// Lets go of content; answers with what nobody holds any more, sorted.
    fn release<'a>(&mut self, ids: impl IntoIterator<Item = &'a u32>) -> Vec<Released> {
        let mut released = Vec::new();
        for id in ids {
            self.changes.row(RowKey::Content(*id));
            if let Some(content) = self.content.release(*id) {
                self.forget_quarantine(*id);
                released.push(Released { digest: content.digest, bytes: content.bytes });
            }
        }
        released.sort_unstable();
        released
    }

    fn remember_ended(&mut self, id: u64, ended: Ended) {
        let job = self.job_mut(&ended.job);
        job.ended.insert(id);
        let oldest = if job.ended.len() > COMMITS_REMEMBERED { job.ended.pop_first() } else { None };
        self.ended.insert(id, ended);
        self.changes.row(RowKey::Ended(id));
        if let Some(oldest) = oldest {
            self.ended.remove(&oldest);
            self.changes.row(RowKey::Ended(oldest));
        }
    }

    fn remember(&mut self, name: &JobName, commit: checkpoint::CommitId, at: u64, outcome: Outcome) {
        let forgotten = self.job_mut(name).commits.remember(commit, at, outcome);
        self.changes.row(RowKey::Commit(name.clone(), commit));
        if let Some(forgotten) = forgotten {
            self.changes.row(RowKey::Commit(name.clone(), forgotten));
        }
    }

    /// An accepted record named this attempt.
    fn named(&mut self, id: u64, bytes: u64) -> &mut Attempt {
        self.changes.row(RowKey::Attempt(id));
        let attempt = self.open.get_mut(&id).expect("judged open");
        attempt.log_bytes += bytes;
        attempt.last_ms = self.log_ms;
        attempt
    }

    fn job_mut(&mut self, name: &JobName) -> &mut Job {
        self.changes.row(RowKey::Job(name.clone()));
        self.jobs.entry(name.clone()).or_default()
    }

    fn epoch_mut(&mut self, name: &JobName, epoch: u64) -> &mut EpochRecord {
        let job = self.jobs.get_mut(name).expect("judged to be there");
        job.epochs.get_mut(&epoch).expect("judged sealed")
    }
}

fn unpack(attempt: u64, index: u64, files: Vec<PackedEntry>) -> Effect {
    let files = files.into_iter().map(|file| (file.path, file.mode, file.offset, file.len)).collect();
    Effect::Unpack { attempt, index, files }
}
