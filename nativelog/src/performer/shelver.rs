//! The thread that puts the trees of waiting epochs into files while they take too much memory.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use super::orders::{Orders, Shared, Task, Work};
use super::waiting::Shelf;
use crate::ledger::{Effect, PublishEpoch};

/// Pause after the disk has refused.
const AGAIN: Duration = Duration::from_secs(5);

/// Works until the performer ends.
pub fn run(shared: &Shared, shelf: &Shelf) {
    let mut refused = false;
    while let Some((index, at, epoch)) = next(shared, refused) {
        refused = match shelf.put(index, &epoch) {
            Ok(shelved) => {
                let mut shelved = Some(Task::Shelved(shelved));
                let mut orders = shared.orders();
                let Orders { queue, trees, .. } = &mut *orders;
                if let Some(task) = waiting(queue, index).and_then(|work| work.tasks.get_mut(at)) {
                    trees.remove_one(index, at, task);
                    std::mem::swap(task, shelved.as_mut().expect("it was just put there"));
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

fn waiting(queue: &mut VecDeque<Work>, index: u64) -> Option<&mut Work> {
    let at = queue.binary_search_by_key(&index, |work| work.index).ok()?;
    queue.get_mut(at)
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
        if let Some(found) = last_tree(&orders) {
            return Some(found);
        }
        orders = shared.crowded.wait(orders).unwrap_or_else(PoisonError::into_inner);
    }
}

fn last_tree(orders: &Orders) -> Option<(u64, usize, PublishEpoch)> {
    let (index, at) = orders.trees.to_shelve()?;
    if orders.queue.front().is_none_or(|first| first.index == index) {
        return None;
    }
    let place = orders.queue.binary_search_by_key(&index, |work| work.index).ok()?;
    match orders.queue.get(place)?.tasks.get(at)? {
        Task::Effect(Effect::Publish(epoch)) => Some((index, at, epoch.clone())),
        Task::Effect(_) | Task::Shelved(_) => None,
    }
}
