//! What is due once another ledger takes over.

use std::collections::BTreeMap;

use checkpoint::Digest;
use checkpoint::store::{Store, StoreError};

use super::debts::{Debts, Owed};
use super::overview::{Directories, Overview, directories};
use crate::ledger::Ledger;

/// What this node owes once `new` is its ledger, and the directories that were there. `owed` is what it owed before.
///
/// An earlier life of this node may have applied more than this one has: what it published and let go of stands in no
/// snapshot, and the log that names it is about to go. So the shelves are looked through, here and nowhere else. What is
/// found is *owed*, not removed: it goes when nothing holds it after the log was purged.
///
/// # Errors
/// When what is published or on the shelves cannot be listed.
pub fn succession(store: &Store, owed: Debts, new: &Ledger) -> Result<(Debts, Directories), StoreError> {
    let index = new.applied().map_or(0, |applied| applied.index);
    let there = directories(store)?;
    let overview = Overview::of(new);
    let known = |digest: &Digest| new.content(digest).is_some();
    let surplus = overview.surplus(store, &there);
    let Debts { mut released, unpublished, mut half_unpacked, mut expiring, mut healing } = owed;
    for (digest, bytes) in overview.strays(store, &there, &known)?.unwrap_or_default() {
        released.entry(digest).or_insert(Owed { index, bytes });
    }
    released.retain(|digest, _| !known(digest));
    healing.retain(|digest, _| known(digest));
    let mut unpublished = unpublished;
    unpublished.retain(|failed| {
        let attempt = failed.origin.attempt;
        let sealed = new.epoch(&failed.job, failed.epoch).is_some_and(|info| info.sealed.attempt == attempt);
        let found = there.get(&failed.key()).copied().flatten();
        sealed && found.is_none_or(|found| found.attempt != attempt)
    });
    // What open attempts lacked was brought, with everything else, or is in packs that were set aside.
    let is_unpublished = |id: &u64| unpublished.iter().any(|failed| failed.origin.attempt == *id);
    half_unpacked.retain(|id, _| new.attempt(*id).is_some() || is_unpublished(id));
    expiring.retain(|(job, epoch), _| new.epoch(job, *epoch).is_none());
    // Of a number that is sealed, too: what lies there may be an earlier epoch's.
    expiring.extend(surplus.into_iter().map(|gone| ((gone.job, gone.epoch), gone.until)));
    Ok((Debts { released, unpublished, half_unpacked, expiring, healing }, there))
}

/// Content that is in quarantine in `old`, and in `new` is not, but held: what was published here with a bad copy of it is
/// to be linked to the good one.
pub fn out_of_quarantine(old: &Ledger, new: &Ledger) -> BTreeMap<Digest, Owed> {
    let index = new.applied().map_or(0, |applied| applied.index);
    let over = old
        .quarantine()
        .filter(|there| new.content(&there.digest).is_some() && !new.is_quarantined(&there.digest));
    over.map(|there| (there.digest, Owed { index, bytes: there.bytes })).collect()
}
