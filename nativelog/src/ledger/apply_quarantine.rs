//! Puts content into quarantine, and ends that. See `quarantine.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::Digest;

use super::change::Sealing;
use super::content::Quarantined;
use super::effect::Effect;
use super::job::EpochRecord;
use super::key::RowKey;
use super::outcomes::Ending;
use super::tables::Ledger;
use crate::record::LogId;

impl Ledger {
    pub(super) fn put_in_quarantine(
        &mut self,
        (content, digest): (u32, Digest),
        found: BTreeMap<u64, String>,
        at: LogId,
    ) -> Vec<Effect> {
        self.touch(RowKey::Quarantine(content));
        self.quarantine.insert(content, Quarantined { at: at.index, found });
        // Nobody could serve what they would be sealed over. Their writers begin anew, and send the bytes.
        let leaning = self.leaning_on(content);
        // Before the bytes come anew: the blob that they find by its name may be the rotten one.
        // The table may be the one after this record: what only those who end have held is in it no more.
        let mut effects = vec![Effect::Distrust { digest }];
        effects.extend(leaning.into_iter().map(|attempt| self.end(attempt, Ending::Aborted, at)));
        effects.extend(self.latest_without(&[content]));
        effects
    }

    /// What the log brought of this content is lost. Nobody may have it from the log any more: `ends` did.
    pub(super) fn lose_log(
        &mut self,
        (content, digest): (u32, Digest),
        ends: Vec<u64>,
        at: LogId,
    ) -> Vec<Effect> {
        self.lost_from_log(content);
        let mut effects = vec![Effect::Distrust { digest }];
        effects.extend(ends.into_iter().map(|attempt| self.end(attempt, Ending::Aborted, at)));
        effects
    }

    /// A majority has verified copies. In stores it is not: what lies in one is in no quarantine unless it is gone there.
    pub(super) fn heal(&mut self, content: u32, at: LogId) -> Vec<Effect> {
        if self.content.homes().of(content).is_some() {
            Arc::make_mut(&mut self.content).in_log_only(content, at.index);
        }
        self.end_quarantine(&[content])
    }

    pub(super) fn end_quarantine(&mut self, contents: &[u32]) -> Vec<Effect> {
        let ended: Vec<u32> =
            contents.iter().copied().filter(|id| self.quarantine.contains_key(id)).collect();
        for id in &ended {
            self.touch(RowKey::Quarantine(*id));
            self.quarantine.remove(id);
        }
        let heal = |id: &u32| {
            let content = self.content.get(*id);
            Effect::Heal { digest: content.digest, bytes: content.bytes }
        };
        let mut effects: Vec<Effect> = ended.iter().map(heal).collect();
        effects.extend(self.latest_without(&ended));
        effects
    }

    /// Content in quarantine whose bytes a sealed attempt brings: a quorum has them already, all others will.
    pub(super) fn healed_by(&self, sealing: &Sealing) -> Vec<u32> {
        // Few are in quarantine, and a seal may bring a million: each of the few is looked for among them. They are in the
        // table after the seal, too: an epoch holds each, for no open attempt may lean on one.
        let brings = |digest: &Digest| {
            let parts = &sealing.tree.content;
            parts.binary_search_by(|part| part.digest.cmp(digest)).is_ok_and(|at| parts[at].came.with_it())
        };
        self.quarantine.keys().copied().filter(|id| brings(&self.content.get(*id).digest)).collect()
    }

    /// Where `latest` may not point now, for every job with an epoch that holds one of these.
    fn latest_without(&self, contents: &[u32]) -> Vec<Effect> {
        if contents.is_empty() {
            // Of most seals: a look at every epoch of every job would find nothing.
            return Vec::new();
        }
        let holds = |record: &EpochRecord| contents.iter().any(|id| record.content.binary_search(id).is_ok());
        let touched = self.jobs.iter().filter(|(_, job)| job.epochs.values().any(|record| holds(record)));
        touched
            .map(|(job, _)| Effect::Latest { job: job.clone(), avoid: self.quarantined_epochs(job) })
            .collect()
    }
}
