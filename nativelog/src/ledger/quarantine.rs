//! Content in quarantine: sealed, held, and not to be had on a quorum of the nodes.
//!
//! It is kept, with everything that holds it, and comes back by a record when a quorum has verified copies again, or at
//! once when a sealed attempt brings its bytes anew: then every replica gets them. Until then nobody is offered it: it
//! cannot be reused, an attempt that leans on it ends, and an epoch that holds it is not a job's newest.
//!
//! A look takes time and a record may be late: each record names what its look was at, and is refused when that is not
//! what is there any more.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::{Digest, JobName};

use super::content::Quarantined;
use super::effect::Effect;
use super::job::EpochRecord;
use super::judge::{Change, Sealing, digest, malformed, repeat};
use super::outcomes::Ending;
use super::rows::RowKey;
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::{LogId, proto};

/// Content in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineInfo {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Log index of the newest record that said so.
    pub at: u64,
    /// Who looked, and what they found.
    pub found: Vec<(u64, String)>,
}

impl Ledger {
    /// Content that is in quarantine.
    pub fn quarantine(&self) -> impl Iterator<Item = QuarantineInfo> {
        self.quarantine.iter().map(|(id, quarantined)| self.quarantine_info(*id, quarantined))
    }

    fn quarantine_info(&self, id: u32, quarantined: &Quarantined) -> QuarantineInfo {
        let content = self.content.get(id);
        QuarantineInfo {
            digest: content.digest,
            bytes: content.bytes,
            at: quarantined.at,
            found: quarantined.found.iter().map(|(node, what)| (*node, what.clone())).collect(),
        }
    }

    /// Whether this content is in quarantine.
    pub fn is_quarantined(&self, digest: &Digest) -> bool {
        !self.quarantine.is_empty()
            && self.content.find(digest).is_some_and(|(id, _)| self.quarantine.contains_key(&id))
    }

    /// What an epoch holds that is in quarantine.
    pub fn quarantined_in(&self, job: &JobName, epoch: u64) -> Vec<QuarantineInfo> {
        let record = self.jobs.get(job).and_then(|job| job.epochs.get(&epoch));
        let held = record.into_iter().flat_map(|record| self.quarantined_of(record));
        held.map(|id| self.quarantine_info(id, &self.quarantine[&id])).collect()
    }

    /// The epochs of a job that hold content in quarantine.
    pub fn quarantined_epochs(&self, job: &JobName) -> BTreeSet<u64> {
        let epochs = self.jobs.get(job).into_iter().flat_map(|job| &job.epochs);
        epochs.filter(|(_, record)| self.holds_quarantined(record)).map(|(epoch, _)| *epoch).collect()
    }

    /// Content is in quarantine here and there; few, so that each is looked for in the epoch.
    fn quarantined_of(&self, record: &EpochRecord) -> impl Iterator<Item = u32> {
        self.quarantine.keys().copied().filter(|id| record.content.binary_search(id).is_ok())
    }

    pub(super) fn holds_quarantined(&self, record: &EpochRecord) -> bool {
        self.quarantined_of(record).next().is_some()
    }

    pub(super) fn judge_quarantine(&self, quarantine: &proto::Quarantine) -> Result<Change, Rejected> {
        let digest = digest(&quarantine.digest)?;
        let (findings, rules) = (&quarantine.found, self.limits());
        let known = |node: &u64| self.members.is_empty() || self.members.contains_key(node);
        if findings.is_empty() || findings.len() > rules.findings_max {
            return Err(malformed("a quarantine names 1 to 1024 nodes"));
        }
        let mut found = BTreeMap::new();
        for finding in findings {
            if finding.what.len() > rules.finding_bytes_max || finding.what.chars().any(char::is_control) {
                return Err(malformed("what was found has at most 256 bytes and no control characters"));
            }
            if !known(&finding.node) || found.insert(finding.node, finding.what.clone()).is_some() {
                return Err(malformed("a quarantine names nodes of the cluster, each once"));
            }
        }
        let Some((content, there)) = self.content.find(&digest) else {
            return Err(no_content(&digest));
        };
        if there.brought != quarantine.brought {
            let detail = format!(
                "they looked for what entry {} had brought; content {} was brought by entry {}",
                quarantine.brought,
                digest.short(),
                there.brought
            );
            return Err(Rejected::new(Reason::Conflict, detail));
        }
        if self.quarantine.get(&content).is_some_and(|there| there.found == found) {
            return Ok(repeat(Accepted::Done));
        }
        Ok(Change::Quarantine { content, digest, found })
    }

    pub(super) fn judge_healed(&self, healed: &proto::Healed) -> Result<Change, Rejected> {
        let digest = digest(&healed.digest)?;
        if healed.verified_on.is_empty() || healed.verified_on.len() > self.limits().findings_max {
            return Err(malformed("the end of a quarantine names 1 to 1024 nodes"));
        }
        let Some((content, _)) = self.content.find(&digest) else {
            return Err(no_content(&digest));
        };
        match self.quarantine.get(&content) {
            None => Ok(repeat(Accepted::Done)),
            Some(there) if there.at != healed.since => {
                let detail = format!(
                    "content {} is in quarantine by entry {}, not {}",
                    digest.short(),
                    there.at,
                    healed.since
                );
                Err(Rejected::new(Reason::Conflict, detail))
            }
            Some(_) => Ok(Change::Healed { content }),
        }
    }

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

    /// The open attempts that reuse this content, in order: its quarantine ends them.
    pub(super) fn leaning_on(&self, content: u32) -> Vec<u64> {
        let leaning = self.open.iter().filter(|(_, attempt)| attempt.held.contains(&content));
        leaning.map(|(id, _)| *id).collect()
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

    /// These were let go of: what nobody holds any more is in no quarantine.
    pub(super) fn forget_quarantine<'a>(&mut self, contents: impl IntoIterator<Item = &'a u32>) {
        if self.quarantine.is_empty() {
            return;
        }
        for id in contents {
            if self.quarantine.contains_key(id) && self.content.slot(*id).is_none() {
                self.touch(RowKey::Quarantine(*id));
                self.quarantine.remove(id);
            }
        }
    }

    /// Content in quarantine whose bytes a sealed attempt brings: a quorum has them already, all others will.
    pub(super) fn healed_by(&self, sealing: &Sealing) -> Vec<u32> {
        // Few are in quarantine, and a seal may bring a million: each of the few is looked for among them. They are in the
        // table after the seal, too: an epoch holds each, for no open attempt may lean on one.
        let brings = |digest: &Digest| {
            let parts = &sealing.tree.content;
            parts.binary_search_by(|part| part.digest.cmp(digest)).is_ok_and(|at| parts[at].brought)
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

fn no_content(digest: &Digest) -> Rejected {
    Rejected::new(Reason::NotFound, format!("nobody holds content {}", digest.short()))
}
