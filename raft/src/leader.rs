//! This node as leader: a [`Leadership`] in each term that it leads, and another one in the same term where it had stepped
//! down and nobody followed; and who leads else.
//!
//! A leadership is *ready* when the ledger has applied everything up to its first entry of the
//! term and the cluster has its identity; before that the ledger could accept what the log already
//! decided otherwise. It is *over* as soon as the vote names another leader. Nothing that belongs
//! to one leadership is ever proposed in another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nativelog::ledger::{Admission, NoRoom, NotAdmitted, Ticket};
use nativelog::machine::Machine;
use nativelog::record::LogRecord;
use nativelog::store::Vote;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::begins::{Askers, Sight};
use crate::consensus::Consensus;
use crate::error::ProposeError;
use crate::life::Life;
use crate::quorum::Quorum;

/// Pause before it is asked again who leads, and whether this node does.
const AGAIN: Duration = Duration::from_millis(20);

/// One term in which this node leads.
pub(crate) struct Leadership {
    lead: Vote,
    ready: watch::Sender<bool>,
    over: watch::Sender<bool>,
    admission: Arc<Mutex<Admission>>,
    askers: Askers,
}

impl Leadership {
    fn new(lead: Vote, admission: Arc<Mutex<Admission>>) -> Arc<Leadership> {
        Arc::new(Leadership {
            lead,
            ready: watch::Sender::new(false),
            over: watch::Sender::new(false),
            admission,
            askers: Askers::default(),
        })
    }

    /// The vote that made it: every record of this leadership is tied to it.
    pub fn lead(&self) -> Vote {
        self.lead
    }

    /// True when proposals may be judged.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.is_over()
    }

    /// True once another leadership has begun anywhere this node knows of.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Returns when the leadership is over.
    pub async fn ended(&self) {
        let mut over = self.over.subscribe();
        // An error means that the sender, which is ours, is gone: over as well.
        let _ = over.wait_for(|over| *over).await;
    }

    /// Proposals may be judged from now on.
    pub fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Waits until proposals may be judged; false when it is over or `time` has passed before.
    pub async fn wait_ready(&self, time: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::select! {
            is = tokio::time::timeout(time, ready.wait_for(|ready| *ready)) => matches!(is, Ok(Ok(_))),
            () = self.ended() => false,
        }
    }

    /// Records that wait for room.
    pub fn askers(&self) -> &Askers {
        &self.askers
    }

    /// Judges `record` against the ledger and what this leadership has on its way into it; whether there is room for what
    /// it asks for says `sight`. Without one there is none: where it asks, somebody has to look.
    pub fn admit(
        &self,
        machine: &Machine,
        record: &LogRecord,
        sight: Option<&Sight>,
    ) -> Result<Ticket, Box<NotAdmitted>> {
        let mut admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = machine.ledger();
        let unseen = || NoRoom { why: "nobody has looked for room".into(), soon: true, attempt: 0 };
        let has_room = |ask| sight.map_or_else(|| Err(unseen()), |sight| sight(&ledger, ask));
        admission.admit_if(&ledger, &record.header, has_room).map_err(Box::new)
    }

    /// The record of `ticket` was applied, or surely never entered the log.
    pub fn release(&self, ticket: Ticket) {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner).release(ticket);
    }
}

/// What this node has on its way into the log, by the term in which it leads. One that stepped down and that nobody
/// followed leads on in the same term: what it had proposed before may still be committed, and is on its way all the same.
#[derive(Default)]
struct OnTheWay(Mutex<Option<(Vote, Arc<Mutex<Admission>>)>>);

impl OnTheWay {
    /// Of the leadership `lead`, be it its first in that term or not.
    fn of(&self, lead: Vote) -> Arc<Mutex<Admission>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, admission)) if *of == lead => admission.clone(),
            _ => last.insert((lead, Arc::default())).1.clone(),
        }
    }
}

/// Who leads.
pub(crate) enum Leader {
    /// This node, ready.
    Here(Arc<Leadership>),
    /// Another one.
    There(u64),
}

/// Knows whether this node leads, and who does else.
pub(crate) struct Leading {
    node: u64,
    consensus: Consensus,
    life: Arc<Life>,
    /// Knows whether this node is cut off.
    pub quorum: Arc<Quorum>,
    /// This node's leadership, while it leads.
    leadership: watch::Sender<Option<Arc<Leadership>>>,
    on_the_way: OnTheWay,
    /// While true, it leads nobody, whatever the consensus says.
    hushed: watch::Sender<bool>,
}

impl Leading {
    /// For `node`, which does not lead yet.
    pub fn new(node: u64, consensus: Consensus, quorum: Arc<Quorum>, life: Arc<Life>) -> Arc<Leading> {
        let (leadership, hushed) = (watch::Sender::new(None), watch::Sender::new(false));
        let on_the_way = OnTheWay::default();
        Arc::new(Leading { node, consensus, life, quorum, leadership, on_the_way, hushed })
    }

    /// While true, this node leads nobody: it steps down.
    pub fn hush(&self, hushed: bool) {
        self.hushed.send_replace(hushed);
    }

    /// This node's leadership, while it leads.
    pub fn now(&self) -> Option<Arc<Leadership>> {
        self.leadership.borrow().clone()
    }

    /// This node's leadership, as it changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Leadership>>> {
        self.leadership.subscribe()
    }

    /// This node's leadership, once proposals may be judged.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when this node does not lead, or is not ready before `time` has passed; faults.
    pub async fn ready(&self, time: Duration) -> Result<Arc<Leadership>, ProposeError> {
        self.life.running()?;
        self.quorum.reached()?;
        let leadership = self.now().ok_or_else(|| ProposeError::unavailable("this node does not lead"))?;
        if leadership.wait_ready(time).await {
            return Ok(leadership);
        }
        Err(ProposeError::unavailable("this leader is not ready"))
    }

    /// Finds a leader before `until`.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when there is none, at once when this node is cut off; faults.
    pub async fn find(&self, until: Instant) -> Result<Leader, ProposeError> {
        loop {
            self.life.running()?;
            self.quorum.reached()?;
            if let Some(leadership) = self.now() {
                let time = until.saturating_duration_since(Instant::now());
                let ready = tokio::select! {
                    ready = leadership.wait_ready(time) => ready,
                    why = self.quorum.lost() => return Err(ProposeError::unavailable(why)),
                };
                if ready {
                    return Ok(Leader::Here(leadership));
                }
            } else if let Some(leader) = self.consensus.leader().filter(|leader| *leader != self.node) {
                return Ok(Leader::There(leader));
            }
            if Instant::now() >= until {
                return Err(ProposeError::unavailable(
                    "no leader: fewer than a majority of the nodes answer",
                ));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Follows the vote and opens and ends leaderships.
    pub async fn follow(self: Arc<Self>) {
        let mut changes = self.consensus.changes();
        let mut hushed = self.hushed.subscribe();
        loop {
            let quiet = *hushed.borrow_and_update();
            self.set(changes.leads(self.node).filter(|_| !quiet));
            tokio::select! {
                going_on = changes.changed() => if !going_on { break },
                // The sender is ours.
                _ = hushed.changed() => {}
            }
        }
        self.set(None);
    }

    /// Ends whatever leadership there is: the replica stops.
    pub fn end(&self) {
        self.set(None);
    }

    fn set(&self, lead: Option<Vote>) {
        let before = self.now();
        if before.as_ref().map(|leadership| leadership.lead) == lead {
            return;
        }
        if let Some(before) = before {
            tracing::info!(node = self.node, term = before.lead.term, "leadership is over");
            before.over.send_replace(true);
        }
        if let Some(lead) = lead {
            tracing::info!(node = self.node, term = lead.term, "this node leads");
        }
        self.leadership.send_replace(lead.map(|lead| Leadership::new(lead, self.on_the_way.of(lead))));
    }

    /// Waits until the ledger has applied everything up to the first entry of this leadership; false when this node
    /// stops before. Who calls it gives up when the leadership is over.
    pub async fn caught_up(&self) -> bool {
        while self.life.running().is_ok() {
            match self.consensus.confirmed().await {
                Ok(()) => return true,
                Err(why) => tracing::debug!(%why, "the new leader is not ready yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_stays_so_in_its_term() {
        let on_the_way = OnTheWay::default();
        let lead = |term| Vote { term, node: 1, committed: true };
        let first = Leadership::new(lead(3), on_the_way.of(lead(3)));
        // It steps down, nobody follows, and it leads on.
        let second = Leadership::new(lead(3), on_the_way.of(lead(3)));
        assert!(Arc::ptr_eq(&first.admission, &second.admission));
        let next = Leadership::new(lead(5), on_the_way.of(lead(5)));
        assert!(!Arc::ptr_eq(&first.admission, &next.admission));
    }
}
