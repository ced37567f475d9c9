//! What nodes answered to this one as leader that contradicts it: people are to be told, and they can ask only whoever runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::{Code, Status};

/// The contradictions, in words, by node.
#[derive(Default)]
pub struct Told {
    by: Mutex<BTreeMap<u64, String>>,
}

impl Told {
    fn by(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `node` answered.
    pub fn heard(&self, node: u64, answer: Result<(), &Status>) {
        match answer {
            Ok(()) => drop(self.by().remove(&node)),
            Err(status) if status.code() == Code::DataLoss => {
                if self.by().insert(node, status.message().to_owned()).is_none() {
                    tracing::error!(node, why = status.message(), "a node contradicts this leader");
                }
            }
            Err(_) => {}
        }
    }

    /// Those that hold: until the nodes follow again.
    pub fn now(&self) -> BTreeMap<u64, String> {
        self.by().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_follows_again_contradicts_no_more() {
        let told = Told::default();
        told.heard(2, Err(&Status::unavailable("not there")));
        assert!(told.now().is_empty());
        told.heard(2, Err(&Status::data_loss("another ledger")));
        assert_eq!(told.now()[&2], "another ledger");
        told.heard(2, Err(&Status::unavailable("not there")));
        assert_eq!(told.now().len(), 1);
        told.heard(2, Ok(()));
        assert!(told.now().is_empty());
    }
}
