//! Where the replica of a leader asks whether there is room for what begins.
//!
//! A leader whose own disk is the one without room hands over to a voter with whom the same record has some, at most once
//! in [`HAND_OVER_PAUSE`]: the new leader judges it anew, by the same measure, so that it does not come back for that record.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::Ask;
use nativelog::machine::Garbage;
use raft::{Rooms, Sight};

use crate::node::Node;
use crate::voters::{judge, successor};

/// A node lets go for want of room once in so long: leadership does not go round between those who begin.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(30);

/// Answers for a node once there is one: its replica is started before.
#[derive(Default)]
pub struct Gate {
    node: OnceLock<Weak<Node>>,
    /// What had no room when it was judged last.
    unmet: Arc<Mutex<Option<Ask>>>,
    handed_over: Mutex<Option<Instant>>,
}

impl Gate {
    /// From now on this node answers.
    pub fn opens_for(&self, node: &Arc<Node>) {
        self.node.get_or_init(|| Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    /// After the voters were asked anew: what they told before is not reason enough.
    async fn hand_over(&self, node: &Node) {
        let unmet = self.unmet.lock().unwrap_or_else(PoisonError::into_inner).take();
        let to = unmet.and_then(|ask| successor(&node.voters_space(), ask));
        let Some(to) = to.filter(|_| node.replica.is_leader() && self.may_hand_over()) else { return };
        tracing::warn!(to, "leadership is handed over: this node alone has no room for what begins");
        if let Err(error) = node.replica.transfer_leader(to).await {
            tracing::warn!(%error, "leadership cannot be handed over");
        }
    }

    fn may_hand_over(&self) -> bool {
        let mut last = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= HAND_OVER_PAUSE);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

impl Rooms for Gate {
    fn look(&self) -> Sight {
        // Before there is a node, and when it has gone, nobody is listened to.
        let Some(node) = self.node() else { return Box::new(|_, _| Ok(())) };
        let (voters, unmet) = (node.voters_space(), self.unmet.clone());
        Box::new(move |ledger, ask| {
            let judged = judge(&voters, ledger, ask);
            if judged.is_err() {
                *unmet.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
            }
            judged
        })
    }

    fn ask_anew(&self) -> BoxFuture<'_, ()> {
        async {
            let Some(node) = self.node() else { return };
            if node.replica.machine().garbage() != Garbage::default() {
                node.reclaim();
            }
            node.ask_voters().await;
            self.hand_over(&node).await;
        }
        .boxed()
    }
}
