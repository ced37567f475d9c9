//! What a seal is compared with, worked out before it comes: its plan is read and its tree put together, seconds of work
//! for a million entries, while nobody waits for the ledger.
//!
//! What an attempt has covered changes no more, so a node that others do not wait for begins while content comes in, and
//! any other with the last piece. Whoever applies or proposes the seal finds it done, or waits for who is at it.
//!
//! A page that cannot be read then is left to whoever does it when everything is there, and so is all behind it.
//!
//! **Guarantees.** Two are never at the same attempt. Before its seal one attempt at a time is worked out, and only as long
//! as all such trees together have at most [`EARLY_ENTRIES_MAX`] entries: a writer that never seals costs no more.

use super::state::Machine;
use super::turns::Turn;
use crate::ledger::{PageLost, PlanPages};
use crate::plans::Patient;
use crate::record::{Header, Kind};

/// Entries of all trees that are put together before their seals come; some 50 MB of memory.
const EARLY_ENTRIES_MAX: usize = 250_000;

/// An attempt whose seal can be prepared now. See [`Machine::early`].
pub struct Early(Turn);

impl Machine {
    /// Works out beforehand what a seal has to be compared with. The ledger is held for slices of it only. Blocks for as
    /// long as it takes.
    ///
    /// # Errors
    /// A page of the plan is lost here: without it this replica knows less than the others, and stops.
    pub fn prepare(&self, header: &Header) -> Result<(), PageLost> {
        // Most seals need nothing, and wait for nobody.
        let Some(attempt) = self.ledger().ungathered(header) else { return Ok(()) };
        let turn = self.gatherings.turn(attempt);
        let gathered = self.gather(&turn, &Patient(&self.plans), &|| false);
        gathered.inspect_err(|lost| self.log.fail(lost.to_string()))
    }

    /// The attempt of this record, which was just applied and accepted, when its seal will have much to be compared with
    /// and some of that can be put together now: for [`Machine::prepare_early`]. Where somebody waits for the record, as
    /// at a leader, not before the last piece: that one reads the plan before it proposes the seal, and has less memory
    /// to spare.
    pub fn early(&self, header: &Header, awaited: bool) -> Option<Early> {
        let attempt = match header.kind.as_ref()? {
            Kind::Part(part) => part.attempt,
            Kind::Chunk(chunk) => chunk.attempt,
            Kind::Pack(pack) => pack.attempt,
            Kind::Zero(zero) => zero.attempt,
            Kind::Reuse(reuse) => reuse.attempt,
            _ => return None,
        };
        let early = {
            let ledger = self.ledger();
            let due = ledger.will_take_long(attempt) || (!awaited && ledger.has_much_more(attempt));
            due && ledger.gathered_with(attempt) <= EARLY_ENTRIES_MAX
        };
        if early { self.gatherings.alone(attempt).map(Early) } else { None }
    }

    /// As [`Machine::prepare`], before a seal is there. What cannot be read now is left to it.
    pub fn prepare_early(&self, early: Early) {
        if let Err(lost) = self.gather(&early.0, &*self.plans, &|| self.log.stops()) {
            tracing::debug!(%lost, "a seal is not prepared before it comes");
        }
    }

    fn gather(&self, turn: &Turn, pages: &dyn PlanPages, stops: &dyn Fn() -> bool) -> Result<(), PageLost> {
        let attempt = turn.attempt();
        // A statement of its own: the ledger is free again then.
        let begun = self.write().gathering(attempt);
        let Some(mut gathering) = begun else { return Ok(()) };
        while let Some(page) = gathering.next() {
            let ready = gathering.is_ready(&self.ledger());
            if !ready {
                let went_on = self.write().keep_half(gathering);
                let Some(again) = went_on else { return Ok(()) };
                gathering = again;
                continue;
            }
            let entries = match page.read(pages) {
                Ok(entries) => entries,
                Err(lost) => {
                    let over = self.write().keep_unread(gathering);
                    drop(over);
                    return Err(lost);
                }
            };
            if stops() || gathering.take(&self.ledger(), entries).is_none() {
                return Ok(());
            }
        }
        let ended = self.ledger().attempt(attempt).is_none();
        if ended || stops() {
            return Ok(());
        }
        let gathered = gathering.finish();
        let needless = self.write().keep_tree(gathered);
        drop(needless);
        Ok(())
    }
}
