//! What `latest` has to avoid.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::JobName;
use checkpoint::store::Store;

use crate::ledger::Ledger;

/// What `latest` has to avoid, by job: epochs with content in quarantine. Looks at every epoch when there is any.
pub fn to_avoid(ledger: &Ledger) -> BTreeMap<JobName, BTreeSet<u64>> {
    if ledger.quarantine().next().is_none() {
        return BTreeMap::new();
    }
    let each = ledger.jobs().map(|job| (job.clone(), ledger.quarantined_epochs(job)));
    each.filter(|(_, avoid)| !avoid.is_empty()).collect()
}

/// What it need not avoid any more once another ledger, which avoids `now`, has taken the place of `before`: nothing is
/// to be avoided in these jobs, be it that they are no more.
pub fn to_avoid_no_more(
    before: &Ledger,
    now: &BTreeMap<JobName, BTreeSet<u64>>,
) -> BTreeMap<JobName, BTreeSet<u64>> {
    let over = to_avoid(before).into_keys().filter(|job| !now.contains_key(job));
    over.map(|job| (job, BTreeSet::new())).collect()
}

/// `latest` points to no epoch with content in quarantine. Takes the store's names: no ledger may be held.
pub fn avoid_quarantined(store: &Store, avoid: &BTreeMap<JobName, BTreeSet<u64>>) {
    for (job, avoid) in avoid {
        if let Err(error) = store.avoid(job, avoid.clone()) {
            tracing::warn!(%job, %error, "`latest` cannot be moved");
        }
    }
}
