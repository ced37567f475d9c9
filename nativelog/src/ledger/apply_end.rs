//! Ends open attempts, and forgets what was in quarantine and is gone: what every change that lets go of content does.

use super::effect::Effect;
use super::key::RowKey;
use super::outcomes::Ending;
use super::tables::Ledger;
use crate::record::LogId;

impl Ledger {
    /// Ends an open attempt by the record at `at`: it lets go of its content and leaves how it ended.
    pub(super) fn end(&mut self, id: u64, how: Ending, at: LogId) -> Effect {
        let gone = self.open.remove(&id).expect("an attempt ends while it is open");
        let released = self.release(&gone.held, gone.objects.values(), at.index);
        self.forget_quarantine(&gone.held);
        self.planned -= u64::from(gone.terms.plan_entries);
        self.job_mut(&gone.terms.job).open.remove(&id);
        self.changes.row(RowKey::Attempt(id));
        self.remember(&gone.terms.job, &gone.terms.commit, (id, how), at);
        self.gone.attempts.push(gone);
        Effect::Discard { attempt: id, released }
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
}
