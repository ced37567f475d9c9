//! What `latest` has to avoid.

use std::collections::BTreeSet;

use checkpoint::JobName;
use checkpoint::store::Store;

use crate::ledger::Ledger;

/// What `latest` has to avoid, by job: epochs of `ledger` with content in quarantine; also none, where another ledger,
/// `before`, had some, be it of a job that is no more.
pub fn to_avoid(ledger: &Ledger, before: &Ledger) -> Vec<(JobName, BTreeSet<u64>)> {
    if ledger.quarantine().next().is_none() && before.quarantine().next().is_none() {
        return Vec::new();
    }
    let jobs: BTreeSet<&JobName> = ledger.jobs().chain(before.jobs()).collect();
    let each = jobs.into_iter().map(|job| (job.clone(), ledger.quarantined_epochs(job)));
    each.filter(|(job, avoid)| !avoid.is_empty() || !before.quarantined_epochs(job).is_empty()).collect()
}

/// `latest` points to no epoch with content in quarantine. Takes the store's names: no ledger may be held.
pub fn avoid_quarantined(store: &Store, avoid: Vec<(JobName, BTreeSet<u64>)>) {
    for (job, avoid) in avoid {
        if let Err(error) = store.avoid(&job, avoid) {
            tracing::warn!(%job, %error, "`latest` cannot be moved");
        }
    }
}
