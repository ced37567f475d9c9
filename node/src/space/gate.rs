//! Where the replica of a leader asks whether there is room for what begins.

use std::sync::{Arc, OnceLock, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::machine::Garbage;
use raft::{Rooms, Sight};

use super::majority::judge;
use crate::node::Node;

/// Answers for a node once there is one: its replica is started before.
#[derive(Default)]
pub struct Gate(OnceLock<Weak<Node>>);

impl Gate {
    /// From now on this node answers.
    pub fn opens_for(&self, node: &Arc<Node>) {
        self.0.get_or_init(|| Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.0.get()?.upgrade()
    }
}

impl Rooms for Gate {
    fn look(&self) -> Sight {
        // Before there is a node, and when it has gone, nobody is listened to.
        let Some(node) = self.node() else { return Box::new(|_, _| Ok(())) };
        let voters = node.voters_space();
        Box::new(move |ledger, ask| judge(&voters, ledger, ask))
    }

    fn ask_anew(&self) -> BoxFuture<'_, ()> {
        async {
            let Some(node) = self.node() else { return };
            if node.replica.machine().garbage() != Garbage::default() {
                node.reclaim();
            }
            node.spaces.refresh(&node).await;
        }
        .boxed()
    }
}
