//! Judges the end of an attempt: the seal, the whole epoch in one record, the abort.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::plan::{check_entries, plan_digest};
use checkpoint::{Digest, EntryKind, JobName, ManifestEntry, PlanEntry, store::Source};

use super::attempt::Terms;
use super::change::{Change, PackedEntry, Sealing, repeat};
use super::fields::{digest, job_name, malformed};
use super::judge_begin::{Form, Opening};
use super::judge_pieces::{judge_plan, packed_entry};
use super::objects::Named;
use super::outcomes::Ending;
use super::pages::take_entries;
use super::rules::Rules;
use super::tables::Ledger;
use super::tree::Tree;
use super::verdict::{Accepted, Reason, Rejected, SealedEpoch};
use crate::record::{Header, LogId, proto};

/// What a record says that seals an epoch.
struct Sealer {
    attempt: Option<u64>,
    root: Digest,
    wall_ms: u64,
    manifest: Option<Named>,
}

impl Ledger {
    pub(super) fn judge_seal(
        &self,
        seal: &proto::Seal,
        version: u32,
        bytes: u64,
    ) -> Result<Change, Rejected> {
        let root = digest(&seal.root)?;
        if let Some(sealed) = self.sealed_before(seal.attempt) {
            return sealed_alike(sealed, root);
        }
        let attempt = self.attempt_with_plan(seal.attempt)?;
        if attempt.missing > 0 {
            let terms = &attempt.terms;
            let detail = format!(
                "{} files are not complete: {} of {} bytes are here",
                attempt.missing, attempt.covered_bytes, terms.declared_bytes
            );
            return Err(Rejected::new(Reason::Incomplete, detail));
        }
        let tree = match &attempt.tree {
            Some(tree) => tree.clone().map_err(two_lengths)?,
            // A dry run before anybody has read the plan's pages for it; a step finds that earlier.
            None => return Err(Rejected::new(Reason::Incomplete, "the plan was not read yet")),
        };
        let log_bytes = attempt.log_bytes + bytes;
        if tree.root != root {
            return Err(wrong_root(&tree));
        }
        let manifest = self.seal_manifest(seal, version, root)?;
        let by = Sealer { attempt: Some(seal.attempt), root, wall_ms: seal.wall_ms, manifest };
        self.judge_tree(by, attempt.terms.clone(), tree, Vec::new(), log_bytes)
    }

    pub(super) fn judge_whole(
        &self,
        whole: &proto::Whole,
        header: &Header,
        bytes: u64,
    ) -> Result<Change, Rejected> {
        let begin = whole.begin.as_ref().ok_or_else(|| malformed("a whole epoch without its begin"))?;
        let root = digest(&whole.root)?;
        if let Some(sealed) = self.number_sealed_alike(begin, root)? {
            return Ok(repeat(Accepted::Sealed(sealed)));
        }
        let terms = match self.judge_opening(begin, header.version, Form::Whole)? {
            // The seal leaves behind whatever is open at its epoch: also what it replaces.
            Opening::New { terms, .. } => terms,
            Opening::Sealed(sealed) => return sealed_alike(sealed, root),
            Opening::Resumed { .. } => unreachable!("a whole epoch resumes nothing"),
        };
        let (entries, unpack) = whole_entries(whole, &terms, header.payload_bytes, self.limits())?;
        let mut digests: Vec<Digest> = entries.iter().map(digest_without_bytes).collect();
        let mut sources = vec![Source::None; entries.len()];
        for packed in &unpack {
            digests[packed.file as usize] = packed.digest;
            sources[packed.file as usize] = Source::Unpacked;
        }
        let entries = entries.iter().zip(digests).map(|(entry, digest)| ManifestEntry::new(entry, digest));
        let tree = Tree::new(entries.collect(), sources, &[]).map_err(two_lengths)?;
        let by = Sealer { attempt: None, root, wall_ms: whole.wall_ms, manifest: None };
        self.judge_tree(by, terms, Arc::new(tree), unpack, bytes)
    }

    /// A whole epoch whose number is sealed with this very root: whoever sealed it, it is committed.
    fn number_sealed_alike(
        &self,
        begin: &proto::Begin,
        root: Digest,
    ) -> Result<Option<SealedEpoch>, Rejected> {
        let Some(epoch) = begin.epoch else { return Ok(None) };
        let there = self.jobs.get(&job_name(&begin.job)?).and_then(|job| job.epochs.get(&epoch));
        let alike = there.filter(|there| there.sealed.root == root);
        Ok(alike.map(|there| SealedEpoch { already: true, ..SealedEpoch::clone(&there.sealed) }))
    }

    fn judge_tree(
        &self,
        Sealer { attempt, root, wall_ms, manifest }: Sealer,
        terms: Terms,
        tree: Arc<Tree>,
        unpack: Vec<PackedEntry>,
        log_bytes: u64,
    ) -> Result<Change, Rejected> {
        let mark = self.jobs.get(&terms.job).and_then(|job| job.mark);
        assert!(mark.is_none_or(|mark| mark < terms.epoch), "a sealed epoch ends the attempts below it");
        if tree.root != root {
            return Err(wrong_root(&tree));
        }
        // A leader whose clock is behind makes no epoch look older than the one before it. That is all that is asked of it.
        let sealed_wall_ms = match wall_ms {
            0 => 0,
            ms => ms.max(self.last_wall_ms(&terms.job)),
        };
        let sealed = SealedEpoch {
            job: terms.job.clone(),
            epoch: terms.epoch,
            root,
            position: LogId::default(),
            attempt: 0,
            files: tree.files,
            bytes: terms.declared_bytes,
            new_bytes: tree.new_bytes,
            new_files: tree.new_files,
            log_bytes,
            already: false,
            expired: false,
        };
        Ok(Change::Seal(Box::new(Sealing {
            attempt,
            terms,
            tree,
            unpack,
            manifest,
            sealed,
            sealed_log_ms: self.log_ms,
            sealed_wall_ms,
        })))
    }

    /// When the newest epoch of a job that is there was sealed, by the clocks of leaders.
    fn last_wall_ms(&self, job: &JobName) -> u64 {
        let newest = self.jobs.get(job).and_then(|job| job.epochs.last_key_value());
        newest.map_or(0, |(_, record)| record.sealed_wall_ms)
    }

    /// Content that an epoch brings must not be held with another length. A dry run leaves this out: it looks up a
    /// million digests, and no honest bytes fail it.
    pub(super) fn judge_lengths(&self, change: Change) -> Result<Change, Rejected> {
        if let Change::Seal(sealing) = &change
            && self.held.is_none()
            && let Some(digest) = self.content.of_another_length(&sealing.tree.content)
        {
            return Err(two_lengths(digest));
        }
        Ok(change)
    }

    pub(super) fn judge_abort(&self, abort: &proto::Abort) -> Result<Change, Rejected> {
        if abort.reason.len() > self.limits().reason_bytes_max {
            return Err(malformed("a reason has at most 1024 bytes"));
        }
        if self.open.contains_key(&abort.attempt) {
            return Ok(Change::Abort { attempt: abort.attempt });
        }
        match self.outcomes.of_attempt(abort.attempt) {
            None => Err(self.no_attempt(abort.attempt)),
            Some(outcome) => match outcome.how {
                Ending::Sealed { root, .. } => {
                    Err(Rejected::new(Reason::Conflict, "the attempt is sealed: its epoch can only expire")
                        .root(root)
                        .position(outcome.end))
                }
                _ => Ok(repeat(Accepted::Done)),
            },
        }
    }

    /// Open attempts of a job that an epoch, once sealed, leaves behind.
    pub(super) fn left_behind(&self, job: &JobName, epoch: u64, but: Option<u64>) -> Vec<u64> {
        let Some(job) = self.jobs.get(job) else { return Vec::new() };
        let behind = |id: &u64| Some(*id) != but && self.open[id].terms.epoch <= epoch;
        job.open.iter().copied().filter(behind).collect()
    }
}

fn wrong_root(tree: &Tree) -> Rejected {
    Rejected::new(Reason::WrongRoot, "the records make another root").root(tree.root)
}

fn two_lengths(digest: Digest) -> Rejected {
    malformed(format!("content {} has two lengths", digest.short()))
}

fn sealed_alike(sealed: SealedEpoch, root: Digest) -> Result<Change, Rejected> {
    if sealed.root == root {
        return Ok(repeat(Accepted::Sealed(sealed)));
    }
    let detail = "the attempt is sealed with another root";
    Err(Rejected::new(Reason::Conflict, detail).root(sealed.root).position(sealed.position))
}

fn digest_without_bytes(entry: &PlanEntry) -> Digest {
    match entry.kind {
        EntryKind::File => checkpoint::digest::content(&[]),
        _ => Digest::NONE,
    }
}

/// The plan of a whole epoch and its files, each file with bytes named once.
fn whole_entries(
    whole: &proto::Whole,
    terms: &Terms,
    payload_bytes: u64,
    rules: &Rules,
) -> Result<(Vec<PlanEntry>, Vec<PackedEntry>), Rejected> {
    let entries = take_entries(&whole.entries).map_err(|error| malformed(error.to_string()))?;
    if entries.len() > rules.whole_entries_max || payload_bytes > rules.whole_bytes_max {
        return Err(malformed("a whole epoch has at most 64 entries and 64 KiB"));
    }
    if terms.plan_pages != 1 || terms.plan_entries as usize != entries.len() {
        return Err(malformed("a whole epoch has one page, with all entries"));
    }
    check_entries(entries.iter().map(PlanEntry::borrowed), &rules.plan)
        .map_err(|error| malformed(error.to_string()))?;
    let bytes = entries.iter().map(|entry| entry.size).sum();
    judge_plan(bytes, plan_digest(&entries), terms.declared_bytes, &terms.plan_digest)?;
    let mut files = BTreeMap::new();
    for packed in &whole.files {
        let entry = entries.get(packed.file as usize).filter(|entry| entry.kind == EntryKind::File);
        let entry =
            entry.ok_or_else(|| malformed(format!("entry {} of the plan is no file", packed.file)))?;
        let packed = packed_entry(packed, entry.size, payload_bytes)?;
        if packed.len == 0 || files.insert(packed.file, packed).is_some() {
            return Err(malformed("a whole epoch names every file with bytes once, and no other"));
        }
    }
    let with_bytes = entries.iter().filter(|entry| entry.kind == EntryKind::File && entry.size > 0).count();
    if files.len() != with_bytes {
        return Err(Rejected::new(Reason::Incomplete, "a whole epoch lacks a file's bytes"));
    }
    Ok((entries, files.into_values().collect()))
}
