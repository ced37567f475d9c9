//! Judges the opening of an attempt: names, limits, fencing, repeats, the choice of the epoch's number.

use checkpoint::JobName;

use super::attempt::{Attempt, Terms};
use super::change::{Change, repeat};
use super::fields::{commit_id, digest, job_name, malformed};
use super::found::{Found, fenced, job_removed};
use super::job::Job;
use super::outcomes::plan_key;
use super::rules::Rules;
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected, SealedEpoch};
use crate::record::{HOLES_SINCE, proto};

/// What a Begin comes to.
pub(super) enum Opening {
    /// A new attempt with these terms, in the place of one whose writer has fallen silent, and of those that
    /// give way to it.
    New { terms: Terms, replaces: Option<u64>, gives_way: Vec<u64> },
    /// This commit's own, which is open already.
    Resumed { attempt: u64, epoch: u64, token: u64 },
    /// The epoch is sealed, by this very commit.
    Sealed(SealedEpoch),
}

/// Bytes that the plan's files take on a disk, as a record of this version tells: a binary that knows no later one than it
/// does not see the field, and would keep another ledger.
pub(super) fn stored_bytes(begin: &proto::Begin, version: u32) -> u64 {
    let told = begin.stored_bytes.filter(|_| version >= HOLES_SINCE);
    told.map_or(begin.declared_bytes, |stored| stored.min(begin.declared_bytes))
}

/// Whether the record opens an attempt to be filled, or is the whole epoch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    InPieces,
    Whole,
}

impl Ledger {
    pub(super) fn judge_begin(&self, begin: &proto::Begin, version: u32) -> Result<Change, Rejected> {
        Ok(match self.judge_opening(begin, version, Form::InPieces)? {
            Opening::New { terms, replaces, gives_way } => Change::Begin { terms, replaces, gives_way },
            Opening::Resumed { attempt, epoch, token } => Change::Repeat {
                accepted: Accepted::Begun { attempt, epoch, resumed: true, token },
                attempt: Some(attempt),
            },
            Opening::Sealed(sealed) => repeat(Accepted::Sealed(sealed)),
        })
    }

    pub(super) fn judge_opening(
        &self,
        begin: &proto::Begin,
        version: u32,
        form: Form,
    ) -> Result<Opening, Rejected> {
        let name = job_name(&begin.job)?;
        let mut terms = plain_terms(begin, name.clone(), self.limits())?;
        terms.stored_bytes = stored_bytes(begin, version);
        terms.store = self.begin_store(begin, version)?;
        if form == Form::Whole && terms.store.is_some() {
            return Err(malformed("a whole epoch lies in the log"));
        }
        let none = Job::default();
        let job = match self.jobs.get(&name) {
            Some(job) => job,
            None => {
                self.judge_new_job()?;
                &none
            }
        };
        // A commit's own outcome comes first: it stays what it was, whoever writes now.
        let own = match self.found(&name, &terms.commit, begin.born) {
            Ok(Some(Found::Writer { token })) => {
                let detail = "this commit id opened a writer";
                return Err(Rejected::new(Reason::Conflict, detail).current(token));
            }
            Ok(Some(Found::Sealed { sealed, plan })) => {
                return own_outcome(sealed, plan, begin, &terms).map(Opening::Sealed);
            }
            Ok(Some(Found::JobRemoved)) => return Err(job_removed()),
            Ok(Some(Found::Open(id, attempt))) => Some((id, attempt)),
            Ok(Some(Found::Lapsed) | None) => None,
            Err(too_old) => match begin.epoch.and_then(|epoch| job.epochs.get(&epoch)) {
                // Whose number it is can be told: an epoch that is there knows its commit, and this life of the job has
                // seen all that the commit ever did.
                Some(_) if job.number <= begin.born => None,
                // In an earlier life it may have been this commit's.
                Some(there) => {
                    return Err(too_old.root(there.sealed.root).position(there.sealed.position));
                }
                None => return Err(too_old),
            },
        };
        terms.token = current_token(job, begin.token)?;
        let mut replaces = None;
        terms.epoch = match (own, begin.epoch) {
            (own, _) if begin.attempt.is_some_and(|wanted| own.is_none_or(|(id, _)| id != wanted)) => {
                return Err(self.not_own(begin.attempt.unwrap_or_default(), form));
            }
            (Some((id, attempt)), wanted) => {
                if wanted.is_some_and(|epoch| epoch != attempt.terms.epoch)
                    || terms.plan_digest != attempt.terms.plan_digest
                {
                    return Err(other_plan(id, "this commit has an open attempt with another epoch or plan"));
                }
                if form == Form::InPieces && terms.store != attempt.terms.store {
                    return Err(other_plan(
                        id,
                        "this commit has an open attempt whose content lies elsewhere",
                    ));
                }
                if form == Form::InPieces {
                    let Terms { epoch, token, .. } = attempt.terms;
                    return Ok(Opening::Resumed { attempt: id, epoch, token });
                }
                attempt.terms.epoch
            }
            (None, None) => self.next_epoch(job)?,
            (None, Some(epoch)) => {
                judge_number(job, epoch)?;
                replaces = self.judge_others(job, epoch)?;
                epoch
            }
        };
        if let Some(base) = terms.base {
            if base >= terms.epoch {
                return Err(malformed("a base is an earlier epoch"));
            }
            if !job.epochs.contains_key(&base) {
                return Err(
                    Rejected::new(Reason::NotFound, format!("base {base} is not sealed")).current(base)
                );
            }
        }
        let gives_way = match form {
            Form::InPieces => {
                self.judge_store_room(terms.store)?;
                self.judge_room(job, u64::from(terms.plan_entries), replaces)?
            }
            Form::Whole => Vec::new(),
        };
        Ok(Opening::New { terms, replaces, gives_way })
    }

    /// The attempts that end so that another one with this many entries has room: the longest silent first, of the
    /// job for what the job lacks, then of all for what the cluster lacks; none that was heard of lately.
    fn judge_room(&self, job: &Job, entries: u64, replaces: Option<u64>) -> Result<Vec<u64>, Rejected> {
        let rules = self.limits();
        let entries_of = |id: &u64| u64::from(self.open[id].terms.plan_entries);
        let replaced = replaces.as_ref().map_or(0, entries_of);
        let of_job: u64 = job.open.iter().map(entries_of).sum();
        let mut places =
            (job.open.len() + 1 - usize::from(replaces.is_some())).saturating_sub(rules.attempts_open_max);
        let mut own = (of_job + entries).saturating_sub(replaced + rules.planned_of_job_max);
        let mut all = (self.planned + entries).saturating_sub(replaced + rules.planned_max);
        if places == 0 && own == 0 && all == 0 {
            return Ok(Vec::new());
        }
        let mut silent: Vec<(u64, u64)> = self
            .open
            .iter()
            .filter(|(id, attempt)| {
                Some(**id) != replaces && self.log_ms - attempt.last_ms >= rules.gives_way_ms
            })
            .map(|(id, attempt)| (attempt.last_ms, *id))
            .collect();
        silent.sort_unstable();
        let mut gives_way = Vec::new();
        for of_job in [true, false] {
            for (_, id) in &silent {
                let wanted = if of_job { job.open.contains(id) && (places > 0 || own > 0) } else { all > 0 };
                if !wanted || gives_way.contains(id) {
                    continue;
                }
                places = places.saturating_sub(1);
                own = own.saturating_sub(entries_of(id));
                all = all.saturating_sub(entries_of(id));
                gives_way.push(*id);
            }
        }
        let of_all = own == 0 && places == 0;
        let (lacks, named) = match (places, own, all) {
            (0, 0, 0) => return Ok(gives_way),
            (0, ..) => {
                let whose = if of_all { "all open attempts" } else { "the open attempts of the job" };
                let (has, most) = if of_all {
                    (self.planned, rules.planned_max)
                } else {
                    (of_job, rules.planned_of_job_max)
                };
                let lacks =
                    format!("the plan has {entries} entries, and {whose} have {has} of at most {most}");
                let open = self.open.keys().filter(|id| of_all || job.open.contains(*id));
                (lacks, open.max_by_key(|id| entries_of(id)).map(|id| (*id, "most")))
            }
            _ => {
                let lacks = format!("the job has {} open attempts", job.open.len());
                let longest = job.open.iter().min_by_key(|id| self.open[*id].last_ms);
                (lacks, longest.map(|id| (*id, "the longest silent")))
            }
        };
        let named_as = |(id, what): (u64, &str)| {
            let Terms { job, epoch, .. } = &self.open[&id].terms;
            format!(" ({what}: {job}@{epoch})")
        };
        let who = named.map(named_as).unwrap_or_default();
        let detail = format!("{lacks}{who}, and too few have been silent for 5 minutes");
        Err(Rejected::new(Reason::Quota, detail).current(named.map_or(0, |(id, _)| id)))
    }

    /// An attempt has one writer, the commit that began it, whatever the others' plans say: equal names and sizes
    /// are no equal content. Another commit's attempt at this epoch is in the way until its writer has been
    /// silent for long; then it is the answer, and makes room.
    fn judge_others(&self, job: &Job, epoch: u64) -> Result<Option<u64>, Rejected> {
        let mut open = job.open.iter().map(|id| (*id, &self.open[id]));
        let Some((id, attempt)) = open.find(|(_, attempt)| attempt.terms.epoch == epoch) else {
            return Ok(None);
        };
        match self.log_ms - attempt.last_ms >= self.limits().writer_silent_ms {
            true => Ok(Some(id)),
            false => Err(self.busy(id, attempt)),
        }
    }

    fn busy(&self, id: u64, attempt: &Attempt) -> Rejected {
        let detail = format!(
            "epoch {} is being written by commit {}, silent for {} s of {}",
            attempt.terms.epoch,
            attempt.terms.commit,
            (self.log_ms - attempt.last_ms) / 1000,
            self.limits().writer_silent_ms / 1000
        );
        Rejected::new(Reason::Busy, detail).current(id)
    }

    /// Why a commit cannot go on with this attempt.
    fn not_own(&self, id: u64, form: Form) -> Rejected {
        match self.open_attempt(id) {
            _ if form == Form::Whole => malformed("a whole epoch resumes no attempt"),
            Ok(attempt) => self.busy(id, attempt),
            Err(ended) => ended,
        }
    }

    /// The next number above the mark and above every open attempt; the first is 1.
    fn next_epoch(&self, job: &Job) -> Result<u64, Rejected> {
        let open = job.open.iter().map(|id| self.open[id].terms.epoch).max();
        let highest = job.mark.max(open).unwrap_or(0);
        highest.checked_add(1).ok_or_else(|| Rejected::new(Reason::Quota, "the job is out of epoch numbers"))
    }
}

fn other_plan(attempt: u64, detail: &str) -> Rejected {
    Rejected::new(Reason::Conflict, format!("{detail}: abort it first")).current(attempt)
}

/// What the same commit sealed before. Only a seal is final: a commit whose attempt was aborted, fenced or
/// subsumed may be tried again.
fn own_outcome(
    sealed: SealedEpoch,
    plan: u64,
    begin: &proto::Begin,
    terms: &Terms,
) -> Result<SealedEpoch, Rejected> {
    if begin.epoch.is_some_and(|epoch| epoch != sealed.epoch) || plan != plan_key(&terms.plan_digest) {
        let detail = "this commit sealed another epoch or plan";
        return Err(Rejected::new(Reason::Conflict, detail).root(sealed.root).position(sealed.position));
    }
    Ok(sealed)
}

fn current_token(job: &Job, token: Option<u64>) -> Result<u64, Rejected> {
    match token {
        None => Ok(job.token),
        Some(token) if token < job.token => Err(fenced(job.token)),
        Some(token) if token > job.token => Err(malformed("no writer of the job has this token")),
        Some(token) => Ok(token),
    }
}

/// Whether an epoch's number may still be written.
fn judge_number(job: &Job, epoch: u64) -> Result<(), Rejected> {
    if let Some(there) = job.epochs.get(&epoch) {
        let detail = "the epoch is sealed";
        return Err(Rejected::new(Reason::Conflict, detail)
            .root(there.sealed.root)
            .position(there.sealed.position));
    }
    match job.mark {
        Some(mark) if epoch <= mark => {
            let detail = "the job has sealed this epoch or a later one";
            Err(Rejected::new(Reason::TooLate, detail).current(mark))
        }
        _ => Ok(()),
    }
}

/// The terms that need no ledger: shape and limits. Token and epoch are left at 0.
fn plain_terms(begin: &proto::Begin, job: JobName, rules: &Rules) -> Result<Terms, Rejected> {
    let commit = commit_id(&begin.commit_id)?;
    let plan_digest = digest(&begin.plan_digest)?;
    if !begin.chunk_bytes.is_power_of_two()
        || !(rules.chunk_bytes_min..=rules.chunk_bytes_max).contains(&begin.chunk_bytes)
    {
        return Err(malformed("a chunk size is a power of two from 64 KiB to 4 MiB"));
    }
    if begin.plan_pages == 0 || begin.plan_pages > begin.plan_entries {
        return Err(malformed("a plan has at least one page, and no page is empty"));
    }
    if begin.plan_pages > 1 + begin.plan_entries / rules.page_entries_min {
        return Err(malformed("the plan is cut into too many pages"));
    }
    let labels_fit = begin.labels.len() <= rules.labels_max
        && begin
            .labels
            .iter()
            .all(|l| !l.key.is_empty() && l.key.len().max(l.value.len()) <= rules.label_bytes_max);
    if !labels_fit {
        return Err(malformed("labels: at most 256, keys and values at most 4096 bytes"));
    }
    if begin.depends_on.len() > rules.depends_on_max
        || begin.depends_on.iter().any(|d| d.len() > rules.label_bytes_max)
    {
        return Err(malformed("dependencies: at most 64, at most 4096 bytes each"));
    }
    if u64::from(begin.plan_entries) > rules.plan.files_max {
        return Err(Rejected::new(Reason::Quota, "the plan has more than 1,000,000 entries"));
    }
    if begin.declared_bytes > rules.plan.bytes_max {
        return Err(Rejected::new(Reason::Quota, "the plan has more than 1 TiB"));
    }
    if begin.declared_bytes / u64::from(begin.chunk_bytes) > rules.ranges_max {
        return Err(Rejected::new(Reason::Quota, "the plan has too many chunks: take a larger chunk size"));
    }
    Ok(Terms {
        job,
        epoch: 0,
        token: 0,
        commit,
        declared_bytes: begin.declared_bytes,
        stored_bytes: begin.declared_bytes,
        chunk_bytes: begin.chunk_bytes,
        base: begin.base,
        labels: begin.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
        depends_on: begin.depends_on.clone(),
        plan_digest,
        plan_pages: begin.plan_pages,
        plan_entries: begin.plan_entries,
        store: None,
    })
}
