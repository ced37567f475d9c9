//! Free space: here, and on the other voters as they tell it. A commit is not begun where one of the
//! live voters would run below its reserve; a verdict never depends on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Certainty, Code, Failure, pb};

use raft::VoterSpace;

use crate::config::Reserve;
use crate::node::Node;
use crate::pressure;
use crate::units;

/// What a voter told longer ago is not counted: it is not live.
const FRESH: Duration = Duration::from_secs(10);
/// How long a voter may take to tell.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a commit waits for space that is about to come back.
const GIVING_BACK_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before it is looked for again.
const GIVING_BACK_PAUSE: Duration = Duration::from_millis(200);
/// One in so many inodes stays free, where they are counted.
const INODES_RESERVED: u64 = 50;

/// Free space of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes that are free for this user.
    pub free: u64,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that stay free.
    pub reserve: u64,
    /// There are bytes, but hardly any inodes.
    pub inodes_short: bool,
    /// Bytes that no epoch refers to any more: they come back by themselves.
    pub garbage: u64,
    /// Bytes that a catch-up still has to bring.
    pub lacking: u64,
}

impl Space {
    /// Space of the file system that holds `path`.
    pub fn of(path: &Path, reserve: Reserve) -> std::io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total,
            reserve: reserve.bytes(total),
            // Some file systems make inodes as they go and count none.
            inodes_short: stat.f_files > 0 && stat.f_favail < stat.f_files / INODES_RESERVED,
            garbage: 0,
            lacking: 0,
        })
    }

    /// Whether `needed` more bytes leave the reserve alone.
    pub fn has_room_for(&self, needed: u64) -> bool {
        !self.inodes_short && self.free >= self.reserve.saturating_add(needed)
    }

    /// Whether they will, once what is garbage was given back.
    pub fn will_have_room_for(&self, needed: u64) -> bool {
        let later = Space {
            free: self.free.saturating_add(self.garbage),
            inodes_short: self.inodes_short && self.garbage == 0,
            ..*self
        };
        later.has_room_for(needed)
    }

    /// As another node tells it; `None` when it could not tell.
    pub fn told(status: &pb::NodeStatus) -> Option<Space> {
        (status.disk_total > 0).then_some(Space {
            free: status.disk_free,
            total: status.disk_total,
            reserve: status.disk_reserve,
            inodes_short: status.disk_inodes_short,
            garbage: status.garbage_bytes,
            lacking: status.lacking_bytes,
        })
    }

    /// With what a catch-up still brings, and `more`.
    fn with(self, more: u64) -> Space {
        Space { free: self.free.saturating_sub(self.lacking).saturating_sub(more), ..self }
    }
}

/// What the other voters told, and when.
#[derive(Debug, Default)]
pub struct Spaces {
    told: Mutex<BTreeMap<u64, Told>>,
}

/// What one voter told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    when: Instant,
    space: Space,
    /// Why it takes no content.
    short: Option<String>,
    /// What had been brought to all by then.
    held: u64,
}

impl Told {
    /// Whether it counts.
    fn is_fresh(&self) -> bool {
        self.when.elapsed() < FRESH
    }

    /// As it is when `held` bytes were brought: what was since it told takes room there too.
    fn by_now(&self, held: u64) -> Space {
        self.space.with(held.saturating_sub(self.held))
    }

    fn for_replica(&self) -> VoterSpace {
        let in_flight_bytes = pressure::in_flight_bytes(&self.space);
        VoterSpace { live: self.is_fresh(), short: self.short.clone(), in_flight_bytes }
    }
}

/// A voter that has told nothing yet.
const SILENT: VoterSpace = VoterSpace { live: false, short: None, in_flight_bytes: u64::MAX };

/// A voter that has no room for a commit.
#[derive(Debug, PartialEq, Eq)]
struct NoRoom {
    node: u64,
    space: Space,
    /// Why it takes no content, as it told; its bytes may look like enough.
    short: Option<String>,
}

impl Spaces {
    /// Asks all other voters, and tells the replica; one that does not answer keeps what it told before, until that
    /// is old.
    pub async fn refresh(&self, node: &Node) {
        let others: Vec<u64> = node.voters().into_iter().filter(|id| *id != node.config.id).collect();
        // Before they are asked: what is committed meanwhile counts once too often rather than never.
        let held = node.replica.machine().ledger().brought_bytes();
        let answers = others.iter().filter_map(|id| {
            let id = *id;
            let (_, mut stub) = node.peer(id)?;
            Some(async move {
                let asked = stub.status(pb::StatusRequest { all: false, light: true });
                let reply = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?.into_inner();
                let status = reply.nodes.into_iter().find(|status| status.id == id)?;
                // One that could not tell: what it told before counts, until that is old.
                let short = Some(status.short_of_space.clone()).filter(|why| !why.is_empty());
                Some((id, Told { when: Instant::now(), space: Space::told(&status)?, short, held }))
            })
        });
        let answers = futures::future::join_all(answers).await;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extend(answers.into_iter().flatten());
        let spaces = others.into_iter().map(|id| (id, told.get(&id).map_or(SILENT, Told::for_replica)));
        node.replica.heed(spaces.collect());
    }

    /// The live voter with most room above its reserve, if any has room at all.
    pub fn roomiest(&self) -> Option<u64> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter()
            .filter(|(_, told)| told.is_fresh() && told.space.has_room_for(0))
            .max_by_key(|(_, told)| told.space.free - told.space.reserve)
            .map(|(id, _)| *id)
    }

    /// A live voter that is short of space, or has no room for `needed` bytes when `held` are committed by now.
    fn without_room(&self, needed: u64, held: u64) -> Option<NoRoom> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let live = told.iter().filter(|(_, told)| told.is_fresh());
        live.map(|(node, told)| NoRoom { node: *node, space: told.by_now(held), short: told.short.clone() })
            .find(|voter| voter.short.is_some() || !voter.space.has_room_for(needed))
    }
}

impl Node {
    /// Free space here; reads memory and asks the file system.
    pub fn space(&self) -> std::io::Result<Space> {
        let space = Space::of(&self.config.data_dir, self.config.reserve)?;
        let lacking = self.replica.transfer().borrow().lacking_bytes;
        Ok(Space { garbage: self.replica.machine().garbage().bytes, lacking, ..space })
    }

    /// Refuses a commit of `stored` bytes for which a live voter has no room. Where it has none only because something that
    /// was removed is still to be given back, that is waited for, a little.
    pub async fn check_space(&self, stored: u64, what: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + GIVING_BACK_PATIENCE;
        let mut asked = false;
        loop {
            let (needed, held) = {
                let ledger = self.replica.machine().ledger();
                // What open attempts may still bring is spoken for.
                (stored.saturating_add(ledger.reserved_bytes()), ledger.brought_bytes())
            };
            let Some(voter) = self.without_room(needed, held) else { return Ok(()) };
            // What they told a while ago is not reason enough.
            if !std::mem::replace(&mut asked, true) {
                self.spaces.refresh(self).await;
                continue;
            }
            if !voter.space.will_have_room_for(needed) || Instant::now() >= deadline {
                return Err(no_space(what, &voter, needed));
            }
            if voter.node == self.config.id {
                self.reclaim();
            }
            tokio::time::sleep(GIVING_BACK_PAUSE).await;
            self.spaces.refresh(self).await;
        }
    }

    fn without_room(&self, needed: u64, held: u64) -> Option<NoRoom> {
        let here = self.space().ok().map(|space| space.with(0)).filter(|space| !space.has_room_for(needed));
        let here = here.map(|space| NoRoom { node: self.config.id, space, short: None });
        here.or_else(|| self.spaces.without_room(needed, held))
    }
}

fn no_space(what: &str, NoRoom { node, space, short }: &NoRoom, needed: u64) -> Failure {
    let mut why = format!(
        "node {node} has {} free, {} stay reserved, {} are needed",
        units::size(space.free),
        units::size(space.reserve),
        units::size(needed)
    );
    if let Some(short) = short.as_ref().filter(|_| space.has_room_for(needed)) {
        why.clone_from(short);
    } else if space.inodes_short {
        why = format!("node {node} has hardly any inodes left; {why}");
    }
    if space.garbage > 0 {
        why.push_str(&format!("; {} that were removed are being given back", units::size(space.garbage)));
    }
    Failure::new(Code::NoSpace, "no space, the epoch was NOT committed")
        .what(what)
        .why(why)
        .fix(format!(
            "make room on node {node}, or remove old epochs with `epochlog rm`. Your directory is untouched."
        ))
        .committed(Certainty::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64, total: u64, reserve: u64) -> Space {
        Space { free, total, reserve, ..Space::default() }
    }

    #[test]
    fn the_reserve_is_never_spent() {
        let space = space(100, 1000, 50);
        assert!(space.has_room_for(50));
        assert!(!space.has_room_for(51));
        assert!(!space.has_room_for(u64::MAX));
        assert!(!Space { inodes_short: true, ..space }.has_room_for(1));
    }

    #[test]
    fn garbage_is_room_to_come_never_room() {
        let space = Space { garbage: 30, ..space(60, 1000, 50) };
        assert!(!space.has_room_for(20));
        assert!(space.will_have_room_for(40));
        assert!(!space.will_have_room_for(41));
        assert!(Space { inodes_short: true, ..space }.will_have_room_for(40));
        assert!(!Space { inodes_short: true, garbage: 0, ..space }.will_have_room_for(1));
    }

    #[test]
    fn what_was_committed_since_a_voter_told_is_counted() {
        let spaces = Spaces::default();
        let there = space(200, 1000, 50);
        let told = Told { when: Instant::now(), space: there, short: None, held: 500 };
        let tell = |told: &Told| spaces.told.lock().unwrap().insert(2, told.clone());
        let no_room = |space| Some(NoRoom { node: 2, space, short: None });
        tell(&told);
        assert_eq!(spaces.without_room(100, 500), None);
        assert_eq!(spaces.without_room(100, 550), None);
        assert_eq!(spaces.without_room(100, 551), no_room(Space { free: 149, ..there }));
        assert_eq!(spaces.without_room(100, 400), None, "what was removed is not room yet");
        assert_eq!(spaces.without_room(151, 400), no_room(there));
        let lacking = Space { lacking: 60, ..there };
        tell(&Told { space: lacking, ..told.clone() });
        assert_eq!(spaces.without_room(100, 500), no_room(Space { free: 140, ..lacking }));
        let short = Some("it makes room".to_owned());
        tell(&Told { short: short.clone(), ..told });
        assert_eq!(spaces.without_room(0, 500), Some(NoRoom { node: 2, space: there, short }));
    }

    #[test]
    fn only_what_was_told_lately_counts() {
        let spaces = Spaces::default();
        let full = space(1, 1000, 50);
        let old = Instant::now().checked_sub(FRESH * 2).unwrap();
        spaces.told.lock().unwrap().insert(2, Told { when: old, space: full, short: None, held: 0 });
        assert_eq!(spaces.without_room(1, 0), None);
        let now = Instant::now();
        spaces.told.lock().unwrap().insert(3, Told { when: now, space: full, short: None, held: 0 });
        assert_eq!(spaces.without_room(1, 0), Some(NoRoom { node: 3, space: full, short: None }));
    }

    #[test]
    fn the_roomiest_is_live_and_above_its_reserve() {
        let spaces = Spaces::default();
        let tell = |id, when, free| {
            let told = Told { when, space: space(free, 1000, 50), short: None, held: 0 };
            spaces.told.lock().unwrap().insert(id, told)
        };
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
        let refused = |space, short: Option<&str>| {
            no_space("commit a@1", &NoRoom { node: 2, space, short: short.map(str::to_owned) }, 5 << 20)
        };
        let failure = refused(space(1 << 20, 1 << 30, 1 << 21), None);
        assert_eq!(failure.code, Code::NoSpace);
        assert_eq!(failure.why, "node 2 has 1.0 MiB free, 2.0 MiB stay reserved, 5.0 MiB are needed");
        let soon = refused(Space { garbage: 3 << 20, ..space(0, 1, 0) }, None);
        assert!(soon.why.ends_with("3.0 MiB that were removed are being given back"), "{}", soon.why);
        let gives_way = pressure::gives_way(2);
        assert_eq!(refused(space(1 << 30, 1 << 31, 1 << 21), Some(&gives_way)).why, gives_way);
        assert!(refused(space(0, 1, 0), Some(&gives_way)).why.starts_with("node 2 has 0 B free"));
    }
}
