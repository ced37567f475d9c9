//! Judges what puts content into quarantine, and what ends that.
//!
//! A look takes time and a record may be late: each record names what its look was at, and is refused when that is not
//! what is there any more.

use std::collections::BTreeMap;

use checkpoint::Digest;

use super::change::{Change, repeat};
use super::fields::{digest, malformed};
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::{STORES_SINCE, proto};

impl Ledger {
    pub(super) fn judge_quarantine(
        &self,
        quarantine: &proto::Quarantine,
        version: u32,
    ) -> Result<Change, Rejected> {
        let digest = digest(&quarantine.digest)?;
        let gone_from_stores = quarantine.gone_from_stores && version >= STORES_SINCE;
        if gone_from_stores {
            self.store_rules()?;
        }
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
        let in_quarantine = self.quarantine.get(&content);
        if in_quarantine.is_some_and(|there| there.found == found) {
            return Ok(repeat(Accepted::Done));
        }
        // Who looks at nodes says nothing of stores: what is in quarantine and has places there was looked for in them.
        let home = self.content.homes().of(content).filter(|_| in_quarantine.is_none() && !gone_from_stores);
        match home {
            None => Ok(Change::Quarantine { content, digest, found }),
            Some(home) if home.log => {
                let ends = self.leaning_on_log(content, home);
                Ok(Change::LogLost { content, digest, ends })
            }
            // It lies in stores only, and nobody has it from the log: all that the record may say is so already. Whoever says
            // it by a ledger of before, in which it was in the log, is to go on.
            Some(_) => Ok(repeat(Accepted::Done)),
        }
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
}

fn no_content(digest: &Digest) -> Rejected {
    Rejected::new(Reason::NotFound, format!("nobody holds content {}", digest.short()))
}
