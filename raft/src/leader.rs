//! This node as leader: one [`Leadership`] per term that it leads.
//!
//! A leadership is *ready* when the ledger has applied everything up to its first entry of the
//! term and the cluster has its identity; before that the ledger could accept what the log already
//! decided otherwise. It is *over* as soon as the vote names another leader. Nothing that belongs
//! to one leadership is ever proposed in another.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nativelog::ledger::{Admission, NotAdmitted, Ticket};
use nativelog::machine::Machine;
use nativelog::record::LogRecord;
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::membership;
use crate::replica::Inner;
use crate::types::Lead;

/// One term in which this node leads.
pub struct Leadership {
    lead: Lead,
    ready: watch::Sender<bool>,
    over: watch::Sender<bool>,
    admission: Mutex<Admission>,
}

impl Leadership {
    fn new(lead: Lead) -> Arc<Leadership> {
        Arc::new(Leadership {
            lead,
            ready: watch::Sender::new(false),
            over: watch::Sender::new(false),
            admission: Mutex::default(),
        })
    }

    /// `(term, node)` that every record of this leadership is tied to.
    pub fn lead(&self) -> Lead {
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

    /// Waits until proposals may be judged; false when it is over or `time` has passed before.
    pub async fn wait_ready(&self, time: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::select! {
            is = tokio::time::timeout(time, ready.wait_for(|ready| *ready)) => matches!(is, Ok(Ok(_))),
            () = self.ended() => false,
        }
    }

    /// Judges `record` against the ledger and what this leadership has on its way into it.
    pub fn admit(&self, machine: &Machine, record: &LogRecord) -> Result<Ticket, Box<NotAdmitted>> {
        let mut admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        admission.admit(&machine.ledger(), &record.header).map_err(Box::new)
    }

    /// The record of `ticket` was applied, or surely never entered the log.
    pub fn release(&self, ticket: Ticket) {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner).release(ticket);
    }
}

/// Follows the vote and opens and ends leaderships.
pub(crate) async fn follow(inner: Weak<Inner>) {
    let Some(mut metrics) = inner.upgrade().map(|inner| inner.raft.server_metrics()) else { return };
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            let now = metrics.borrow_watched().clone();
            inner.peers.learn(now.membership_config.nodes().map(|(node, at)| (*node, at.addr.as_str())));
            let lead = now.vote.leader_id;
            let leads = now.vote.committed && lead.node_id == inner.config.node && now.state.is_leader();
            set(&inner, leads.then_some(lead));
        }
        if metrics.changed().await.is_err() {
            break;
        }
    }
    if let Some(inner) = inner.upgrade() {
        set(&inner, None);
    }
}

/// Ends whatever leadership there is: the replica stops.
pub(crate) fn end(inner: &Arc<Inner>) {
    set(inner, None);
}

fn set(inner: &Arc<Inner>, lead: Option<Lead>) {
    let before = inner.leadership.borrow().clone();
    if before.as_ref().map(|leadership| leadership.lead) == lead {
        return;
    }
    if let Some(before) = before {
        tracing::info!(node = inner.config.node, term = before.lead.term, "leadership is over");
        before.over.send_replace(true);
    }
    let now = lead.map(Leadership::new);
    inner.leadership.send_replace(now.clone());
    if let Some(now) = now {
        tracing::info!(node = inner.config.node, term = now.lead.term, "this node leads");
        tokio::spawn(begin(Arc::downgrade(inner), now));
    }
}

/// Makes a new leadership ready, then keeps the members' identities in the log complete.
async fn begin(inner: Weak<Inner>, leadership: Arc<Leadership>) {
    let work = async {
        loop {
            let Some(inner) = inner.upgrade().filter(|inner| inner.running().is_ok()) else { return };
            let raft = inner.raft.clone();
            drop(inner);
            match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                Ok(_) => break,
                Err(why) => tracing::debug!(%why, "the new leader is not ready yet"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        membership::identify(&inner, &leadership, || {
            leadership.ready.send_replace(true);
        })
        .await;
    };
    tokio::select! {
        () = work => {}
        () = leadership.ended() => {}
    }
}
