//! An install of a snapshot from elsewhere, which waits for room.
//!
//! An error of it is the end of this node, and a full disk would be so again after every start. So it waits as the log's
//! writer does: nothing was swapped, nothing above is applied meanwhile, and votes go on. Not around a sync: after one that
//! failed every other fails too, and not for want of room.
//!
//! **Never.** A stop while it waits is no fault: openraft takes every error for one, so none is told while there is a
//! consensus that could hear it. Nor may openraft hear that a snapshot is installed that is not: it would purge the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nativelog::machine::Machine;
use nativelog::snapshot::{Capture, SnapshotError};
use tokio::task::spawn_blocking;

use crate::life::Life;

/// An install that lacks room is tried again after this long.
const AGAIN: Duration = Duration::from_millis(200);
/// A stop takes less. One that takes longer may be waiting for this very install.
const STOP: Duration = Duration::from_secs(10);

/// Installs `capture` as soon as there is room for it, in the life of a replica.
///
/// # Errors
/// It cannot be installed; or the replica has ended, which nobody is left to hear.
pub(super) async fn install_when_there_is_room(
    machine: &Arc<Machine>,
    life: Option<&Life>,
    capture: &Capture,
) -> io::Result<()> {
    let mut said = false;
    loop {
        let (installing, coming) = (machine.clone(), capture.clone());
        let installed =
            spawn_blocking(move || installing.install(&coming)).await.map_err(io::Error::other)?;
        match installed {
            Err(error) if error.lacks_room() => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "a snapshot from elsewhere waits for room; nothing is applied meanwhile");
                }
            }
            done => return done.map_err(failed),
        }
        let again = async {
            give_back(machine).await;
            tokio::time::sleep(AGAIN).await;
        };
        let Some(life) = life else {
            again.await;
            continue;
        };
        tokio::select! {
            () = again => {}
            () = life.ended() => {
                tracing::info!("this node stops while a snapshot from elsewhere waits for room; it is fetched anew");
                let _ = tokio::time::timeout(STOP, life.over()).await;
                return Err(io::Error::other("this node has stopped"));
            }
        }
    }
}

/// What is garbage already makes room for an install. The keeper's rounds ask for a snapshot, and would have to wait for
/// that very install.
async fn give_back(machine: &Arc<Machine>) {
    let machine = machine.clone();
    match spawn_blocking(move || machine.reclaim()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "garbage cannot make room for a snapshot yet"),
        Err(error) => tracing::error!(%error, "what gives garbage back panicked"),
    }
}

/// The error as openraft wants it.
pub(super) fn failed(error: SnapshotError) -> io::Error {
    match error {
        SnapshotError::Io { what, source } => io::Error::new(source.kind(), format!("{what}: {source}")),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::pin;
    use std::sync::mpsc;

    use checkpoint::disk::Disk;
    use checkpoint::store::{Layout, Store};
    use checkpoint::testing::{CrashDisk, OpKind};
    use nativelog::record::{Body, Entry, LogId};
    use nativelog::store::{Identity, LogStore, Options};
    use tokio::time::timeout;

    use super::*;

    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    const DEADLINE: Duration = Duration::from_secs(20);
    /// It has tried again some times.
    const WHILE: Duration = Duration::from_millis(700);

    struct Node {
        disk: CrashDisk,
        machine: Arc<Machine>,
        log: LogStore,
    }

    impl Node {
        fn start() -> Node {
            let disk = CrashDisk::new();
            let (shared, data): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new("/data"));
            shared.create_dir(data).unwrap();
            let store = Arc::new(Store::open(shared.clone(), data).unwrap());
            let owner = Identity { node: 1, incarnation: [1; 16] };
            let (log, _) = LogStore::open(shared, &Layout::new(data), owner, Options::default()).unwrap();
            let machine = Machine::start(store, log.clone(), Path::new("/dev/null/no-catalog")).unwrap();
            Node { disk, machine, log }
        }

        /// What another node, which has applied three entries, would send.
        fn capture() -> Capture {
            let node = Node::start();
            let entry = |index| Entry { id: LogId { term: 1, node: 2, index }, body: Body::Blank };
            let entries: Vec<Entry> = (0..3).map(entry).collect();
            let (answer, answered) = mpsc::channel();
            node.log.append(entries.clone(), Box::new(move |result| drop(answer.send(result))));
            answered.recv().unwrap().unwrap();
            for entry in &entries {
                node.machine.apply(entry).unwrap();
            }
            let capture = node.machine.freeze(None).unwrap().capture();
            node.stop();
            capture
        }

        fn is_installed(&self, capture: &Capture) -> bool {
            self.machine.ledger().applied() == Some(capture.meta.position)
        }

        fn fail(&self, errno: i32) {
            (0..1000).for_each(|_| self.disk.fail_next(OpKind::Write, ".snap", errno));
        }

        fn stop(&self) {
            self.log.shutdown();
            self.machine.shutdown();
        }
    }

    #[tokio::test]
    async fn an_install_waits_for_room_and_is_done_when_there_is_some() {
        let (node, capture) = (Node::start(), Node::capture());
        node.fail(ENOSPC);
        let mut install = pin!(install_when_there_is_room(&node.machine, None, &capture));
        assert!(timeout(WHILE, &mut install).await.is_err(), "a full disk is no fault");
        assert!(!node.is_installed(&capture));
        node.disk.clear_failures();
        timeout(DEADLINE, install).await.expect("there is room").unwrap();
        assert!(node.is_installed(&capture));
        node.stop();
    }

    #[tokio::test]
    async fn what_is_not_for_want_of_room_is_told_at_once() {
        let (node, capture) = (Node::start(), Node::capture());
        node.fail(EIO);
        let install = install_when_there_is_room(&node.machine, None, &capture);
        let error = timeout(DEADLINE, install).await.expect("it waits for nothing").unwrap_err();
        assert!(error.to_string().contains("write"), "{error}");
        node.stop();
    }

    #[tokio::test]
    async fn a_stop_while_an_install_waits_is_no_fault() {
        let (node, capture) = (Node::start(), Node::capture());
        node.fail(ENOSPC);
        let life = Life::new(1);
        let mut install = pin!(install_when_there_is_room(&node.machine, Some(&life), &capture));
        assert!(timeout(WHILE, &mut install).await.is_err());
        life.close();
        let told = timeout(WHILE, &mut install).await;
        assert!(told.is_err(), "the consensus would take this for a fault: {told:?}");
        // The consensus has ended, and this is to end as well.
        life.end();
        timeout(DEADLINE, install).await.expect("nobody is left to wait for").unwrap_err();
        assert!(!node.is_installed(&capture));
        node.stop();
    }
}
