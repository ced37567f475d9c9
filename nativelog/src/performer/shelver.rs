//! The thread that puts the trees of waiting epochs into files while they take too much memory.

use std::sync::PoisonError;
use std::time::Duration;

use super::orders::{Orders, Shared, TREES_BYTES_MAX, Task, Work, tree_bytes};
use super::waiting::Shelf;
use crate::ledger::{Effect, PublishEpoch};

/// Pause after the disk has refused.
const AGAIN: Duration = Duration::from_secs(5);
/// A smaller tree is not worth a file.
const TREE_BYTES_MIN: usize = 64 << 10;

/// Works until the performer ends.
pub fn run(shared: &Shared, shelf: &Shelf) {
    let mut refused = false;
    while let Some((index, at, epoch)) = next(shared, refused) {
        refused = match shelf.put(index, &epoch) {
            Ok(shelved) => {
                let mut shelved = Some(Task::Shelved(shelved));
                let mut orders = shared.orders();
                if let Some(task) = waiting(&mut orders, index).and_then(|work| work.tasks.get_mut(at)) {
                    let bytes = tree_bytes(task);
                    std::mem::swap(task, shelved.as_mut().expect("it was just put there"));
                    orders.trees -= bytes;
                }
                drop(orders);
                // The tree in memory, or a file that came too late.
                drop(shelved.take());
                false
            }
            Err(error) => {
                tracing::warn!(%error, "the tree of an epoch that waits stays in memory");
                true
            }
        };
    }
}

fn waiting(orders: &mut Orders, index: u64) -> Option<&mut Work> {
    let at = orders.queue.binary_search_by_key(&index, |work| work.index).ok()?;
    orders.queue.get_mut(at)
}

/// The last tree in the queue that is in memory, once they take too much; `None` when it is time to stop. What is
/// next to be done stays in memory.
fn next(shared: &Shared, mut pause: bool) -> Option<(u64, usize, PublishEpoch)> {
    let mut orders = shared.orders();
    loop {
        if orders.stop {
            return None;
        }
        if pause {
            pause = false;
            let waited = shared.crowded.wait_timeout(orders, AGAIN);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        if orders.trees > TREES_BYTES_MAX
            && let Some(found) = last_tree(&orders)
        {
            return Some(found);
        }
        orders = shared.crowded.wait(orders).unwrap_or_else(PoisonError::into_inner);
    }
}

fn last_tree(orders: &Orders) -> Option<(u64, usize, PublishEpoch)> {
    orders.queue.iter().skip(1).rev().find_map(|work| {
        work.tasks.iter().enumerate().find_map(|(at, task)| match task {
            Task::Effect(Effect::Publish(epoch)) if tree_bytes(task) >= TREE_BYTES_MIN => {
                Some((work.index, at, epoch.clone()))
            }
            _ => None,
        })
    })
}
