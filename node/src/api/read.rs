//! Calls that read: List and Show.

use std::time::Duration;

use checkpoint::JobName;
use client::{Code, Failure, pb, wire};
use nativelog::ledger::{EpochInfo, Ledger};

use super::commit::TIME_LABEL;
use super::{current, job_name, status};
use crate::node::Node;

/// Epochs in one answer, and their bytes.
const EPOCHS_MAX: usize = 10_000;
const EPOCHS_BYTES_MAX: usize = client::MESSAGE_BYTES_MAX / 4;
/// Labels that one question may name.
const FILTERS_MAX: usize = 64;
/// Entries in one answer, and their bytes.
const ENTRIES_MAX: usize = 50_000;
const ENTRIES_BYTES_MAX: usize = client::MESSAGE_BYTES_MAX / 2;

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
    let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
    let (mut epochs, mut bytes, mut cut) = (Vec::new(), 0, false);
    {
        let ledger = node.replica.machine().ledger();
        let jobs: Vec<JobName> = match wanted {
            Some(job) => vec![job],
            None => ledger.jobs().cloned().collect(),
        };
        'all: for job in &jobs {
            let newest = ledger.newest(job).map(|found| found.sealed.epoch);
            let found = ledger.epochs(job).filter(|info| is_wanted(&ledger, info, &request)).take(limit);
            for info in found {
                let epoch = epoch_pb(&ledger, &info, newest);
                bytes += prost::Message::encoded_len(&epoch);
                if epochs.len() >= EPOCHS_MAX || bytes > EPOCHS_BYTES_MAX {
                    cut = true;
                    break 'all;
                }
                epochs.push(epoch);
            }
        }
    }
    if request.published_on {
        status::fill_published_on(node, &mut epochs).await;
    }
    Ok(pb::ListReply { epochs, stale: request.stale, voters: voters(node), cut })
}

fn is_wanted(ledger: &Ledger, info: &EpochInfo, request: &pb::ListRequest) -> bool {
    (request.younger_ms == 0 || age_ms(ledger, info) <= request.younger_ms)
        && request.labels.iter().all(|wanted| has_label(&info.labels, wanted))
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
    let epoch = {
        let ledger = node.replica.machine().ledger();
        let info = find(&ledger, &job, request.which.as_ref())?;
        epoch_pb(&ledger, &info, ledger.newest(&job).map(|found| found.sealed.epoch))
    };
    let (mut entries, mut cut) = (Vec::new(), false);
    if request.entries {
        (entries, cut) = entries_of(node, &job, epoch.epoch).await?;
    }
    let mut epochs = vec![epoch];
    status::fill_published_on(node, &mut epochs).await;
    Ok(pb::ShowReply { epoch: epochs.pop(), entries, stale: request.stale, voters: voters(node), cut })
}

fn voters(node: &Node) -> u32 {
    u32::try_from(node.voters().len()).unwrap_or(u32::MAX)
}

async fn entries_of(
    node: &Node,
    job: &JobName,
    epoch: u64,
) -> Result<(Vec<pb::ManifestEntry>, bool), Failure> {
    let (store, wanted) = (node.store.clone(), job.clone());
    let read = tokio::task::spawn_blocking(move || store.manifest(&wanted, epoch)).await;
    let manifest = match read.expect("reading a manifest does not panic") {
        Ok(Some((_, manifest))) => manifest,
        Ok(None) => {
            return Err(Failure::new(Code::Unavailable, "this node has not published the epoch yet")
                .what(format!("show {job}@{epoch}"))
                .why(format!("node {} is behind", node.config.id))
                .fix("repeat the command, or ask another node"));
        }
        Err(error) => {
            return Err(Failure::new(Code::Corrupt, "the manifest cannot be read")
                .what(format!("show {job}@{epoch}"))
                .why(format!("node {}: {error}", node.config.id))
                .fix("ask another node; look at the disk of this one"));
        }
    };
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for entry in &manifest.entries {
        bytes += entry.path.as_bytes().len() + entry.target.len() + 64;
        if entries.len() >= ENTRIES_MAX || bytes > ENTRIES_BYTES_MAX {
            return Ok((entries, true));
        }
        entries.push(wire::manifest_entry(entry));
    }
    Ok((entries, false))
}

/// The epoch that is meant.
pub fn find(ledger: &Ledger, job: &JobName, which: Option<&pb::Which>) -> Result<EpochInfo, Failure> {
    use pb::which::Kind;
    let kind = which.and_then(|which| which.kind).unwrap_or(Kind::Back(0));
    let (found, what) = match kind {
        Kind::Exactly(epoch) => (ledger.epoch(job, epoch), format!("{job}@{epoch}")),
        Kind::Back(back) => {
            let back_usize = usize::try_from(back).unwrap_or(usize::MAX);
            let what = if back == 0 { job.to_string() } else { format!("{job}@-{back}") };
            (ledger.epochs(job).nth(back_usize), what)
        }
        Kind::AtOrBelow(epoch) => {
            (ledger.epochs(job).find(|info| info.sealed.epoch <= epoch), format!("{job} at or below {epoch}"))
        }
    };
    found.ok_or_else(|| {
        let newest = ledger.newest(job).map(|found| found.sealed.epoch);
        let why = match newest {
            Some(newest) => format!("the newest committed epoch of {job} is {newest}"),
            None => format!("job {job} has no committed epoch"),
        };
        Failure::new(Code::NotFound, "there is no such epoch")
            .what(what)
            .why(why)
            .fix("`epochlog ls` lists what there is")
    })
}

/// One epoch as the API tells it; who has published it is for others to fill in.
pub fn epoch_pb(ledger: &Ledger, info: &EpochInfo, newest: Option<u64>) -> pb::Epoch {
    let sealed = &info.sealed;
    let is_newest = newest == Some(sealed.epoch);
    let mut flags = Vec::new();
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
        age_ms: age_ms(ledger, info),
        labels: info
            .labels
            .iter()
            .map(|(key, value)| pb::Label { key: key.clone(), value: value.clone() })
            .collect(),
        depends_on: info.depends_on.clone(),
        newest: is_newest,
        published_on: Vec::new(),
        flags,
    }
}

/// Age for people: by the wall clock of who committed, where that is told; else by log time.
pub fn age_ms(ledger: &Ledger, info: &EpochInfo) -> u64 {
    let told = info.labels.iter().find(|(key, _)| key == TIME_LABEL);
    let at = told.and_then(|(_, value)| value.parse::<jiff::Timestamp>().ok());
    let by_clock =
        at.map(|at| Duration::try_from(jiff::Timestamp::now().duration_since(at)).unwrap_or_default());
    match by_clock {
        Some(age) => u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        None => ledger.log_ms().saturating_sub(info.sealed_log_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
