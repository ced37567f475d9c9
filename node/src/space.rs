//! Free space: here, and on the other voters as they tell it. A commit is not begun where one of the
//! live voters would run below its reserve; a verdict never depends on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Certainty, Code, Failure, pb};

use crate::config::Reserve;
use crate::node::Node;
use crate::units;

/// What a voter told longer ago is not counted: it is not live.
const FRESH: Duration = Duration::from_secs(10);
/// How long a voter may take to tell.
const PATIENCE: Duration = Duration::from_secs(1);

/// Free space of one node, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for this user.
    pub free: u64,
    /// All of the file system.
    pub total: u64,
    /// What stays free.
    pub reserve: u64,
}

impl Space {
    /// Space of the file system that holds `path`.
    pub fn of(path: &Path, reserve: Reserve) -> std::io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(Space { free, total, reserve: reserve.bytes(total) })
    }

    /// Whether `needed` more bytes leave the reserve alone.
    pub fn has_room_for(&self, needed: u64) -> bool {
        self.free >= self.reserve.saturating_add(needed)
    }
}

/// What the other voters told, and when.
#[derive(Debug, Default)]
pub struct Spaces {
    told: Mutex<BTreeMap<u64, (Instant, Space)>>,
}

impl Spaces {
    /// Asks all other voters; one that does not answer keeps what it told before, until that is old.
    pub async fn refresh(&self, node: &Node) {
        let others = node.voters().into_iter().filter(|id| *id != node.config.id);
        let answers = others.filter_map(|id| {
            let (_, mut stub) = node.peer(id)?;
            Some(async move {
                let asked = stub.status(pb::StatusRequest { all: false, light: true });
                let reply = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?.into_inner();
                let status = reply.nodes.into_iter().find(|status| status.id == id)?;
                // It could not tell: what it told before counts, until that is old.
                if status.disk_total == 0 {
                    return None;
                }
                let space =
                    Space { free: status.disk_free, total: status.disk_total, reserve: status.disk_reserve };
                Some((id, space))
            })
        });
        let answers = futures::future::join_all(answers).await;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, space) in answers.into_iter().flatten() {
            told.insert(id, (Instant::now(), space));
        }
    }

    /// The live voter with most room above its reserve, if any has room at all.
    pub fn roomiest(&self) -> Option<u64> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter()
            .filter(|(_, (when, space))| when.elapsed() < FRESH && space.has_room_for(0))
            .max_by_key(|(_, (_, space))| space.free - space.reserve)
            .map(|(id, _)| *id)
    }

    /// A live voter that has no room for `needed` bytes.
    fn without_room(&self, needed: u64) -> Option<(u64, Space)> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter()
            .filter(|(_, (when, _))| when.elapsed() < FRESH)
            .map(|(id, (_, space))| (*id, *space))
            .find(|(_, space)| !space.has_room_for(needed))
    }
}

impl Node {
    /// Refuses a commit for which a live voter has no room.
    pub async fn check_space(&self, declared: u64, what: &str) -> Result<(), Failure> {
        // What open attempts may still bring is spoken for.
        let needed = declared.saturating_add(self.replica.machine().ledger().reserved_bytes());
        let here = self
            .space()
            .ok()
            .filter(|space| !space.has_room_for(needed))
            .map(|space| (self.config.id, space));
        match here.or_else(|| self.spaces.without_room(needed)) {
            None => Ok(()),
            Some((node, space)) => Err(no_space(what, node, space, needed)),
        }
    }
}

fn no_space(what: &str, node: u64, space: Space, needed: u64) -> Failure {
    Failure::new(Code::NoSpace, "no space, the epoch was NOT committed")
        .what(what)
        .why(format!(
            "node {node} has {} free, {} stay reserved, {} are needed",
            units::size(space.free),
            units::size(space.reserve),
            units::size(needed)
        ))
        .fix(format!(
            "make room on node {node}, or remove old epochs with `epochlog rm`. Your directory is untouched."
        ))
        .committed(Certainty::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_never_spent() {
        let space = Space { free: 100, total: 1000, reserve: 50 };
        assert!(space.has_room_for(50));
        assert!(!space.has_room_for(51));
        assert!(!space.has_room_for(u64::MAX));
    }

    #[test]
    fn only_what_was_told_lately_counts() {
        let spaces = Spaces::default();
        let full = Space { free: 1, total: 1000, reserve: 50 };
        let old = Instant::now().checked_sub(FRESH * 2).unwrap();
        spaces.told.lock().unwrap().insert(2, (old, full));
        assert_eq!(spaces.without_room(1), None);
        spaces.told.lock().unwrap().insert(3, (Instant::now(), full));
        assert_eq!(spaces.without_room(1), Some((3, full)));
    }

    #[test]
    fn the_roomiest_is_live_and_above_its_reserve() {
        let spaces = Spaces::default();
        let space = |free| Space { free, total: 1000, reserve: 50 };
        let tell = |id, when, free| spaces.told.lock().unwrap().insert(id, (when, space(free)));
        let now = Instant::now();
        tell(1, now.checked_sub(FRESH * 2).unwrap(), 1000);
        tell(2, now, 49);
        assert_eq!(spaces.roomiest(), None);
        tell(3, now, 60);
        tell(4, now, 70);
        assert_eq!(spaces.roomiest(), Some(4));
    }

    #[test]
    fn a_refusal_names_node_and_bytes() {
        let failure =
            no_space("commit a@1", 2, Space { free: 1 << 20, total: 1 << 30, reserve: 1 << 21 }, 5 << 20);
        assert_eq!(failure.code, Code::NoSpace);
        assert_eq!(failure.why, "node 2 has 1.0 MiB free, 2.0 MiB stay reserved, 5.0 MiB are needed");
    }
}
