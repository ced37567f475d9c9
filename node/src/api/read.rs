//! Calls that read: List and Show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use checkpoint::JobName;
use checkpoint::disk::says_nothing;
use checkpoint::store::{StoreError, Walk as Entries};
use client::{Code, Failure, pb, wire};
use nativelog::ledger::{EpochInfo, EpochView, Go, QuarantineInfo, Walk};
use nativelog::machine::Machine;

use super::call::{current, job_name};
use super::published::fill_published_on;
use crate::epochs;
use crate::limits::{
    DEPENDENTS_MAX, ENTRIES_BYTES_MAX, ENTRIES_MAX, EPOCHS_BYTES_MAX, EPOCHS_MAX, FILTERS_MAX,
};
use crate::node::Node;

/// How far the log is here.
pub async fn reached(node: &Node, request: pb::ReachedRequest) -> Result<pb::ReachedReply, Failure> {
    current(node, !request.current, "see how far the log is").await?;
    let applied = node.replica.machine().ledger().applied();
    Ok(pb::ReachedReply { applied: applied.map_or(0, |id| id.index) })
}

/// Lists sealed epochs.
pub async fn list(node: &Node, request: pb::ListRequest) -> Result<pb::ListReply, Failure> {
    let wanted = if request.job.is_empty() { None } else { Some(job_name(&request.job)?) };
    current(node, request.stale, "list epochs").await?;
    if request.labels.len() > FILTERS_MAX {
        return Err(Failure::new(Code::Usage, "too many labels").why(format!("at most {FILTERS_MAX}")));
    }
    let published_on = request.published_on;
    let stale = request.stale;
    let listed = move |machine: &Machine| listed(machine, wanted, &request);
    let (mut epochs, cut) = epochs::elsewhere(node.replica.machine(), listed).await;
    let silent = match published_on {
        true => fill_published_on(node, &mut epochs).await,
        false => Vec::new(),
    };
    Ok(pb::ListReply { epochs, stale, voters: voters(node), cut, silent })
}

/// The epochs that are asked for, and whether there are more than one answer holds.
fn listed(machine: &Machine, job: Option<JobName>, request: &pb::ListRequest) -> (Vec<pb::Epoch>, bool) {
    let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
    let (log_ms, names) = {
        let ledger = machine.ledger();
        let names: BTreeMap<u64, String> = ledger.stores().map(|store| (store.id, store.name)).collect();
        (ledger.log_ms(), names)
    };
    let (mut epochs, mut bytes) = (Vec::new(), 0);
    let mut walk = job.map_or_else(Walk::all, Walk::of);
    // Of the job that the walk is in: its newest good epoch is the first that is met, and all epochs are.
    let (mut in_job, mut newest, mut taken) = (None, None, 0);
    loop {
        let mut found: Vec<Found> = Vec::new();
        let more = walk.slice(&machine.ledger(), |epoch| {
            let sealed = epoch.sealed();
            if in_job.as_ref() != Some(&sealed.job) {
                (in_job, newest, taken) = (Some(sealed.job.clone()), None, 0);
            }
            if newest.is_none() && epoch.is_good() {
                newest = Some(sealed.epoch);
            }
            if is_wanted(&epoch, log_ms, request) {
                let info = epoch.info();
                let store = info.store.and_then(|id| names.get(&id)).cloned();
                found.push(Found { info, newest, quarantined: epoch.findings(), store, log_ms });
                taken += 1;
            }
            if taken < limit { Go::On } else { Go::NextJob }
        });
        for found in found {
            let epoch = epoch_pb(found);
            bytes += prost::Message::encoded_len(&epoch);
            if epochs.len() >= EPOCHS_MAX || bytes > EPOCHS_BYTES_MAX {
                return (epochs, true);
            }
            epochs.push(epoch);
        }
        if !more {
            return (epochs, false);
        }
    }
}

fn is_wanted(epoch: &EpochView<'_>, log_ms: u64, request: &pb::ListRequest) -> bool {
    let since_ms = log_ms.saturating_sub(epoch.sealed_log_ms());
    (request.younger_ms == 0 || age(epoch.sealed_wall_ms(), since_ms) <= request.younger_ms)
        && request.labels.iter().all(|wanted| has_label(epoch.labels(), wanted))
}

/// Whether there is a label with this key, or with this `key=value`.
fn has_label(labels: &[(String, String)], wanted: &str) -> bool {
    labels.iter().any(|(key, value)| {
        key == wanted
            || wanted.strip_prefix(key.as_str()).and_then(|rest| rest.strip_prefix('=')) == Some(value)
    })
}

/// Shows one epoch.
pub async fn show(node: &Node, request: pb::ShowRequest) -> Result<pb::ShowReply, Failure> {
    let job = job_name(&request.job)?;
    current(node, request.stale, &format!("show {job}")).await?;
    let found = find(node.replica.machine(), &job, request.which).await;
    if let (Err(failure), true) = (&found, request.or_gone)
        && failure.code == Code::NotFound
        && let Some(epoch) = spent(node.replica.machine(), &job, request.which)
    {
        let epoch = pb::Epoch { job: job.to_string(), epoch, ..Default::default() };
        return Ok(pb::ShowReply { epoch: Some(epoch), gone: true, ..Default::default() });
    }
    let epoch = epoch_pb(found?);
    let (mut entries, mut cut) = (Vec::new(), false);
    if request.entries {
        (entries, cut) = entries_of(node, &job, epoch.epoch).await?;
    }
    let (mut dependents, mut more_dependents) = (Vec::new(), false);
    if request.dependents {
        let (job, number) = (job.clone(), epoch.epoch);
        let look = move |machine: &Machine| epochs::dependents(machine, &job, number, DEPENDENTS_MAX);
        (dependents, more_dependents) = epochs::elsewhere(node.replica.machine(), look).await;
    }
    let mut shown = vec![epoch];
    let silent = fill_published_on(node, &mut shown).await;
    Ok(pb::ShowReply {
        epoch: shown.pop(),
        entries,
        stale: request.stale,
        voters: voters(node),
        cut,
        silent,
        dependents,
        gone: false,
        more_dependents,
    })
}

/// The number, if it is named and no epoch can have it any more.
fn spent(machine: &Machine, job: &JobName, which: Option<pb::Which>) -> Option<u64> {
    let Some(pb::which::Kind::Exactly(epoch)) = which?.kind else { return None };
    // Both at once: it may be sealed meanwhile.
    let ledger = machine.ledger();
    let is_spent = ledger.high_water(job).is_some_and(|mark| epoch <= mark);
    (is_spent && ledger.epoch(job, epoch).is_none()).then_some(epoch)
}

fn voters(node: &Node) -> u32 {
    u32::try_from(node.voters().len()).unwrap_or(u32::MAX)
}

async fn entries_of(
    node: &Node,
    job: &JobName,
    epoch: u64,
) -> Result<(Vec<pb::ManifestEntry>, bool), Failure> {
    let turns = &node.turns.entries;
    let turn = turns.take().await.map_err(|busy| {
        turns.refused(node.config.id, busy).what(format!("show {job}@{epoch} with its entries"))
    })?;
    let (store, wanted) = (node.store.clone(), job.clone());
    let read = move || {
        let _turn = turn;
        let found = store.manifest_file(&wanted, epoch)?;
        found.map(|found| entries_pb(found.walk())).transpose()
    };
    match tokio::task::spawn_blocking(read).await.expect("reading a manifest does not panic") {
        Ok(Some(entries)) => Ok(entries),
        Ok(None) => Err(Failure::new(Code::Unavailable, "this node has not published the epoch yet")
            .what(format!("show {job}@{epoch}"))
            .why(format!("node {} is behind", node.config.id))
            .fix("repeat the command, or ask another node")),
        // Another node may well read its own.
        Err(StoreError::Io(error)) if says_nothing(&error.source) => {
            Err(Failure { code: Code::Unavailable, ..Failure::from_io(&error) }
                .sentence("the manifest cannot be read now")
                .what(format!("show {job}@{epoch}")))
        }
        Err(error) => Err(Failure::new(Code::Corrupt, "the manifest cannot be read")
            .what(format!("show {job}@{epoch}"))
            .why(format!("node {}: {error}", node.config.id))
            .fix("ask another node; look at the disk of this one")),
    }
}

/// The first entries of a manifest, and whether there are more than one answer holds.
fn entries_pb(walk: Entries) -> Result<(Vec<pb::ManifestEntry>, bool), StoreError> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for entry in walk {
        let (_, entry) = entry?;
        bytes += entry.path.as_bytes().len() + entry.target.len() + 64;
        if entries.len() >= ENTRIES_MAX || bytes > ENTRIES_BYTES_MAX {
            return Ok((entries, true));
        }
        entries.push(wire::manifest_entry(&entry));
    }
    Ok((entries, false))
}

/// An epoch, and what there was to say of it when it was looked at.
#[derive(Debug)]
pub struct Found {
    /// The epoch.
    pub info: EpochInfo,
    /// The newest of its job that holds nothing that is in quarantine.
    newest: Option<u64>,
    /// What it holds that is in quarantine.
    quarantined: Vec<QuarantineInfo>,
    /// The store in which it lies.
    store: Option<String>,
    /// Log time in milliseconds.
    log_ms: u64,
}

impl Found {
    /// Its age for people.
    pub fn age_ms(&self) -> u64 {
        age(self.info.sealed_wall_ms, self.log_ms.saturating_sub(self.info.sealed_log_ms))
    }
}

/// The epoch that is meant.
pub async fn find(machine: &Arc<Machine>, job: &JobName, which: Option<pb::Which>) -> Result<Found, Failure> {
    let (job, kind) = (job.clone(), which.and_then(|which| which.kind));
    epochs::elsewhere(machine, move |machine| look_up(machine, &job, kind)).await
}

fn look_up(machine: &Machine, job: &JobName, kind: Option<pb::which::Kind>) -> Result<Found, Failure> {
    use pb::which::Kind;
    // Not before the epoch: one that is sealed meanwhile is the newest.
    let newest = || epochs::newest(machine, job).map(|found| found.sealed.epoch);
    let (found, newest, what) = match kind.unwrap_or(Kind::Back(0)) {
        Kind::Exactly(epoch) => {
            let found = machine.ledger().epoch(job, epoch);
            (found, newest(), format!("{job}@{epoch}"))
        }
        Kind::Back(back) => {
            let what = if back == 0 { job.to_string() } else { format!("{job}@-{back}") };
            let (found, newest) = epochs::back(machine, job, back);
            (found, newest, what)
        }
        Kind::AtOrBelow(epoch) => {
            let found = machine.ledger().at_or_below(job, epoch);
            (found, newest(), format!("{job} at or below {epoch}"))
        }
    };
    let Some(info) = found else {
        let why = match newest {
            Some(newest) => format!("the newest committed epoch of {job} is {newest}"),
            None => format!("job {job} has no committed epoch"),
        };
        return Err(Failure::new(Code::NotFound, "there is no such epoch")
            .what(what)
            .why(why)
            .fix("`epochlog ls` lists what there is"));
    };
    let ledger = machine.ledger();
    let quarantined = ledger.quarantined_in(job, info.sealed.epoch);
    let store = info.store.and_then(|id| ledger.store(id)).map(|store| store.name);
    Ok(Found { info, newest, quarantined, store, log_ms: ledger.log_ms() })
}

/// Content in quarantine as the API tells it; the epochs that hold it are for others to fill in.
pub fn quarantined_pb(info: QuarantineInfo) -> pb::Quarantined {
    let found = info.found.into_iter().map(|(node, what)| pb::Finding { node, what });
    pb::Quarantined {
        digest: wire::digest(&info.digest),
        bytes: info.bytes,
        found: found.collect(),
        epochs: Vec::new(),
    }
}

/// One epoch as the API tells it; who has published it is for others to fill in.
fn epoch_pb(found: Found) -> pb::Epoch {
    let age_ms = found.age_ms();
    let Found { info, newest, quarantined, store, .. } = found;
    let sealed = &info.sealed;
    let is_newest = newest == Some(sealed.epoch);
    let mut flags = Vec::new();
    if !quarantined.is_empty() {
        flags.push("quarantined".to_owned());
    }
    if is_newest {
        flags.push("latest".to_owned());
    }
    if !info.pins.is_empty() {
        flags.push("pinned".to_owned());
    }
    pb::Epoch {
        job: sealed.job.to_string(),
        epoch: sealed.epoch,
        root: wire::digest(&sealed.root),
        position: Some(pb::Position { term: sealed.position.term, index: sealed.position.index }),
        attempt: sealed.attempt,
        files: sealed.files,
        bytes: sealed.bytes,
        new_bytes: sealed.new_bytes,
        new_files: sealed.new_files,
        log_bytes: sealed.log_bytes,
        sealed_log_ms: info.sealed_log_ms,
        sealed_wall_ms: info.sealed_wall_ms,
        age_ms,
        labels: info.labels.into_iter().map(|(key, value)| pb::Label { key, value }).collect(),
        depends_on: info.depends_on,
        newest: is_newest,
        published_on: Vec::new(),
        flags,
        quarantined: quarantined.into_iter().map(quarantined_pb).collect(),
        mode: info.mode.to_string(),
        store: store.unwrap_or_default(),
    }
}

/// Age of an epoch for people, in milliseconds: by this node's clock and that of the leader that sealed it, and never less than
/// the log time that has passed since (`since_ms`), which is no clock's. So an epoch that was sealed by a clock far ahead, or is
/// looked at by one that is behind, grows old all the same. Where the leader's clock is not known log time is all there is.
pub fn age(sealed_wall_ms: u64, since_ms: u64) -> u64 {
    if sealed_wall_ms == 0 {
        return since_ms;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    now.saturating_sub(sealed_wall_ms).max(since_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_by_the_seal_and_by_log_time_where_that_tells_none() {
        assert_eq!(age(0, 7_000), 7_000);
        assert_eq!(age(u64::MAX, 0), 0, "the clock of a leader may be ahead");
        assert_eq!(age(u64::MAX, 7_000), 7_000, "and the epoch ages all the same");
        assert!(age(1, 0) > 1_700_000_000_000);
    }

    #[test]
    fn a_label_is_wanted_by_key_or_by_key_and_value() {
        let labels = [("step".to_owned(), "42".to_owned()), ("a=b".to_owned(), "c".to_owned())];
        for wanted in ["step", "step=42", "a=b", "a=b=c"] {
            assert!(has_label(&labels, wanted), "{wanted}");
        }
        for other in ["", "ste", "step=", "step=4", "stepp=42", "a"] {
            assert!(!has_label(&labels, other), "{other}");
        }
    }
}
