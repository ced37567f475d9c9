//! Full disks: of the leader, of one follower, of all nodes; filled by epochs, and by a file of somebody else down to
//! the last byte. Nobody stops, nothing acknowledged is lost, removing works, and service goes on when there is room. One
//! full disk alone is not everybody's: commits go on, its node is shown, falls behind and comes home; also when another
//! node dies meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::Output;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::commits::{Commits, Pending};
use crate::disks::{Kind, SmallDisk};
use crate::inputs::random_directory;
use crate::needs::{Need, skip};
use crate::oracle::Answer;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Pause between two looks at who is full.
const LOOK: Duration = Duration::from_millis(200);

/// Parameters of [`full`].
#[derive(Debug, Clone, Copy)]
pub struct FullDisk {
    /// The file system.
    pub kind: Kind,
    /// Its size.
    pub disk_bytes: u64,
    /// Bytes of one epoch.
    pub epoch_bytes: u64,
    /// Somebody else takes the last byte while an epoch comes in, too.
    pub during_upload: bool,
}

/// Whose disk is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The leader's.
    Leader,
    /// One follower's.
    Follower,
    /// Those of both followers: with them goes the majority.
    Followers,
    /// All.
    All,
}

/// How often leadership is moved until the node with the small disk has it.
const ELECTIONS_MAX: u32 = 30;

/// A cluster with small disks. The disks are unmounted before the cluster's folder goes.
struct Full {
    disks: Vec<(u64, SmallDisk)>,
    cluster: Cluster,
    commits: Commits,
    pids: Vec<Option<u32>>,
}

impl Drop for Full {
    fn drop(&mut self) {
        self.cluster.kill9_all();
    }
}

/// Fills the disk twice and frees it twice.
///
/// # Panics
/// When a node ends, something acknowledged is lost, or service does not go on.
pub fn full(name: &str, disk: FullDisk, whose: Whose, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let Some(mut full) = Full::start(name, disk, whose) else { return };
    let filled = match whose {
        Whose::Leader | Whose::Follower => full.alone(disk, whose, rng),
        Whose::Followers | Whose::All => full.by_epochs(disk, rng),
    };
    progress(format!("{whose:?}, {:?}: {filled}", disk.kind));
    full.still_all_there(rng);
    // Leadership may have moved since.
    if whose == Whose::Leader {
        full.make_leader(1);
    }
    progress(format!("{whose:?}, {:?}: {}", disk.kind, full.by_a_foreign_file(disk, whose, rng)));
    full.still_all_there(rng);
}

/// One node is full and behind, and the leader, which has everything, dies: what is removed through the third one frees
/// the full one, and commits go on with these two.
///
/// # Panics
/// When a node ends, something acknowledged is lost, or service does not go on.
pub fn and_another_one_dies(name: &str, disk: FullDisk, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let Some(mut full) = Full::start(name, disk, Whose::Follower) else { return };
    full.fill_alone(disk, Whose::Follower, rng);
    let dead = full.cluster.leader();
    let third = (2..=full.cluster.options.nodes).find(|id| *id != dead).expect("three nodes");
    // What is acknowledged may still be on its way to the third one.
    let newest = full.commits.epoch;
    let path = full.cluster.node(third).published("full", newest);
    wait_until(
        PATIENCE,
        "the third node to have all",
        || if path.is_dir() { Ok(()) } else { Err("not yet") },
    );
    full.cluster.kill9(dead);
    // The oldest: the full one has them.
    wait_until(2 * PATIENCE, "removals with the full node's word", || {
        full.commits.remove_below(2, rng);
        match full.commits.committed().len() {
            0..=2 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    });
    wait_until(2 * PATIENCE, "the full node to have room", || match full.is_full(1) {
        true => Err(full.cluster.node(1).log_tail()),
        false => Ok(()),
    });
    let tries = full.goes_on(disk.epoch_bytes, rng);
    progress(format!("node 1 full, node {dead} dead: freed by what was removed, went on at try {tries}"));
    full.cluster.restart(dead);
    full.pids.clear();
    full.still_all_there(rng);
}

impl Full {
    fn start(name: &str, disk: FullDisk, whose: Whose) -> Option<Full> {
        let options =
            Options { reserve: format!("{} KiB", disk.disk_bytes / 8 / 1024), ..Options::default() };
        let mut cluster = Cluster::prepare(name, options);
        let small = match whose {
            Whose::Leader | Whose::Follower => 1..=1,
            Whose::Followers => 1..=cluster.options.nodes - 1,
            Whose::All => 1..=cluster.options.nodes,
        };
        let mut disks = Vec::new();
        for id in small {
            match SmallDisk::mount(disk.kind, &cluster.node(id).data, disk.disk_bytes) {
                Ok(mounted) => disks.push((id, mounted)),
                Err(why) => {
                    skip(Need::Mounts, &format!("full disk of {whose:?} on {:?}", disk.kind), &why);
                    return None;
                }
            }
        }
        for id in 1..=cluster.options.nodes {
            cluster.restart(id);
        }
        cluster.wait_ready();
        let commits = Commits::new(&cluster, "full");
        let mut full = Full { disks, cluster, commits, pids: Vec::new() };
        match whose {
            Whose::Leader => full.make_leader(1),
            Whose::Follower if full.cluster.leader() == 1 => full.make_leader(2),
            Whose::Followers => full.make_leader(full.cluster.options.nodes),
            _ => {}
        }
        Some(full)
    }

    /// Moves leadership until this node has it. From here on nobody may end.
    ///
    /// A node that was just started stands for election before one that has followed: that one still waits for the
    /// lease of the old leader to end. So this one starts anew, while the leader is away.
    fn make_leader(&mut self, id: u64) {
        for _ in 0..ELECTIONS_MAX {
            let leader = self.cluster.leader();
            if leader == id {
                self.cluster.wait_ready();
                self.cluster.wait_alike();
                self.pids = self.cluster.nodes.iter().map(|node| node.pid()).collect();
                return;
            }
            self.cluster.kill9(leader);
            self.cluster.kill9(id);
            self.cluster.restart(id);
            wait_until(PATIENCE, "another leader", || match self.cluster.status() {
                Ok(status) if status["leader"].as_u64().is_some_and(|other| other != leader) => Ok(()),
                Ok(status) => Err(status.to_string()),
                Err(output) => Err(output.to_string()),
            });
            self.cluster.restart(leader);
            self.cluster.wait_ready();
        }
        panic!("node {id} was not elected in {ELECTIONS_MAX} elections");
    }

    /// Epoch after epoch until the one small disk is full, and some more: whatever is refused is refused by it alone.
    fn fill_alone(&mut self, disk: FullDisk, whose: Whose, rng: &mut Rng) -> usize {
        let most = 4 * disk.disk_bytes / disk.epoch_bytes;
        let (mut beyond, mut refused) = (0, 0);
        for _ in 0..most {
            if let Some(output) = self.refused(disk.epoch_bytes, rng) {
                refused += 1;
                // A leader that is full hands over, and a commit may meet it just then.
                let may = if whose == Whose::Leader { 1 } else { 0 };
                assert!(refused <= may, "one full disk of {whose:?} is everybody's: {output}");
            }
            beyond += u64::from(beyond > 0 || self.is_full(1));
            if beyond > 3 {
                self.nobody_ended();
                return self.commits.committed().len();
            }
        }
        panic!("{most} epochs of {} bytes fit on {} bytes", disk.epoch_bytes, disk.disk_bytes);
    }

    /// Whether `status` says that this node is full.
    fn is_full(&self, id: u64) -> bool {
        self.full().contains(&id)
    }

    /// The nodes of which `status` says that they are full; none where it says nothing.
    fn full(&self) -> Vec<u64> {
        let Ok(status) = self.cluster.status() else { return Vec::new() };
        let wrong = status["wrong"].as_array().cloned().unwrap_or_default();
        let is_full = |id: &u64| {
            let line = format!("node {id} is full: ");
            wrong.iter().any(|wrong| wrong.as_str().is_some_and(|wrong| wrong.starts_with(&line)))
        };
        (1..=self.cluster.options.nodes).filter(is_full).collect()
    }

    /// The one small disk is full, and commits go on; it comes home when enough was removed.
    fn alone(&mut self, disk: FullDisk, whose: Whose, rng: &mut Rng) -> String {
        let all = self.fill_alone(disk, whose, rng);
        self.commits.remove_below(2, rng);
        wait_until(2 * PATIENCE, "the full node to have room", || match self.is_full(1) {
            true => Err(self.cluster.node(1).log_tail()),
            false => Ok(()),
        });
        let tries = self.goes_on(disk.epoch_bytes, rng);
        format!(
            "{all} epochs went on beside it, and it came home after all but two were removed (try {tries})"
        )
    }

    /// Epoch after epoch until one is refused; removing the older half makes room for more.
    fn by_epochs(&mut self, disk: FullDisk, rng: &mut Rng) -> String {
        // A full follower is no full quorum: some more may be taken until everybody knows.
        let most = 4 * disk.disk_bytes / disk.epoch_bytes;
        let refused = (0..most).find_map(|_| self.refused(disk.epoch_bytes, rng).filter(is_no_space));
        let refused = refused.unwrap_or_else(|| {
            let epoch = disk.epoch_bytes;
            panic!("I12: none of {most} epochs of {epoch} bytes had no space on {} bytes", disk.disk_bytes)
        });
        let fitted = self.commits.committed().len();
        assert!(fitted >= 2, "only {fitted} epochs fit before {refused}");
        self.nobody_ended();
        self.commits.remove_below(fitted / 2, rng);
        let tries = self.goes_on(disk.epoch_bytes, rng);
        format!("refused after {fitted} epochs, went on after half of them were removed (try {tries})")
    }

    /// A foreign file takes the last byte, perhaps while an epoch comes in; removing an epoch works all the same, and
    /// when the file is gone everything goes on by itself.
    fn by_a_foreign_file(&mut self, disk: FullDisk, whose: Whose, rng: &mut Rng) -> String {
        let pending = disk
            .during_upload
            .then(|| self.commits.begin_made(rng, |at, rng| epoch(at, disk.epoch_bytes, rng)));
        let foreign: Vec<_> = self.disks.iter().map(|(_, disk)| disk.fill()).collect();
        let during = pending.map(|pending| self.commits.end(pending));
        // Space that came back a moment later, too: of staged files, of the node's own ballast.
        let free: Vec<u64> = self.disks.iter().map(|(_, disk)| disk.free()).collect();
        let refused = match whose {
            Whose::Leader | Whose::Follower => "not asked for".to_owned(),
            Whose::Followers | Whose::All => wait_until(2 * PATIENCE, "a refusal for want of space", || {
                match self.refused(disk.epoch_bytes, rng) {
                    Some(output) if is_no_space(&output) => Ok(output.error_code().to_owned()),
                    Some(output) => Err(output.to_string()),
                    None => Err("it was committed".to_owned()),
                }
            }),
        };
        if whose == Whose::Leader {
            self.hands_leadership_over();
        }
        self.nobody_ended();
        let oldest = *self.commits.committed().first().expect("epochs are there");
        wait_until(PATIENCE, "the removal of an epoch on a full disk", || {
            self.commits.remove(oldest, rng);
            if self.commits.committed().contains(&oldest) { Err("no answer") } else { Ok(()) }
        });
        for (id, disk) in &self.disks {
            let path = self.cluster.node(*id).published("full", oldest);
            wait_until(PATIENCE, &format!("node {id} to give back what was removed"), || {
                if path.exists() || disk.free() == 0 {
                    Err(format!("{} bytes free", disk.free()))
                } else {
                    Ok(())
                }
            });
        }
        self.nobody_ended();
        foreign.into_iter().for_each(|file| file.remove());
        let tries = self.goes_on(disk.epoch_bytes, rng);
        format!(
            "a foreign file left {free:?} bytes; a running commit answered {during:?}, refusal: {refused}; \
             went on after the file was gone (try {tries})"
        )
    }

    /// Commits an epoch; the refusal, if it is one. What is refused has no space, and is told so. Only while leadership
    /// moves, or where a node whose disk is full holds up the log, may it be no answer.
    fn refused(&mut self, bytes: u64, rng: &mut Rng) -> Option<Output> {
        let before = self.term();
        let mut pending = self.begun(bytes, rng);
        // All the while: the end of the commit gives back what it held, and nobody is full any more.
        let mut held_up = !self.full().is_empty();
        let begun = Instant::now();
        // One that hangs is for who waits for it.
        while !pending.client.has_ended() && begun.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
            held_up |= !self.full().is_empty();
        }
        let output = self.ended(pending)?;
        if output.code != Some(9) {
            let moved = before.is_none() || self.term() != before;
            held_up |= !self.full().is_empty();
            assert!(moved || held_up, "leader and disks are as they were: {output}");
        }
        Some(output)
    }

    /// Commits an epoch; what the client said when it is not committed.
    fn tried(&mut self, bytes: u64, rng: &mut Rng) -> Option<Output> {
        let pending = self.begun(bytes, rng);
        self.ended(pending)
    }

    fn begun(&mut self, bytes: u64, rng: &mut Rng) -> Pending {
        self.commits.begin_made(rng, |at, rng| epoch(at, bytes, rng))
    }

    fn ended(&mut self, pending: Pending) -> Option<Output> {
        let (answer, output) = self.commits.end_with_output(pending);
        if matches!(answer, Answer::Committed { .. }) {
            return None;
        }
        let no_space = is_no_space(&output) && answer == Answer::NotCommitted;
        assert!(
            no_space || matches!(output.code, Some(7 | 124)),
            "neither committed nor out of space: {output}"
        );
        Some(output)
    }

    /// The term in which somebody leads.
    fn term(&self) -> Option<u64> {
        let status = self.cluster.status().ok()?;
        status["leader"].as_u64().and(status["term"].as_u64())
    }

    /// Commits until one is published everywhere; how many tries that took.
    fn goes_on(&mut self, bytes: u64, rng: &mut Rng) -> u32 {
        let mut tries = 0;
        wait_until(2 * PATIENCE, "service to go on", || {
            tries += 1;
            match self.tried(bytes, rng) {
                Some(output) => Err(output.to_string()),
                None => Ok(()),
            }
        });
        self.cluster.wait_published("full", self.commits.epoch);
        tries
    }

    /// The leader that is short of space hands over to a node that is not.
    fn hands_leadership_over(&self) {
        wait_until(PATIENCE, "the leader to hand over", || match self.cluster.leader() {
            1 => Err("node 1 leads, its disk is full"),
            _ => Ok(()),
        });
    }

    fn nobody_ended(&mut self) {
        for id in 1..=self.cluster.options.nodes {
            assert!(
                self.cluster.is_running(id),
                "node {id} ended on a full disk\n{}",
                self.cluster.node(id).log_tail()
            );
        }
        let now: Vec<_> = self.cluster.nodes.iter().map(|node| node.pid()).collect();
        assert!(self.pids.is_empty() || self.pids == now, "nobody was started again");
    }

    fn still_all_there(&mut self, rng: &mut Rng) {
        self.nobody_ended();
        self.cluster.wait_ready();
        self.cluster.wait_alike();
        self.commits.check(&self.cluster);
        self.commits.repeat_unknown(&self.cluster, rng);
        self.commits.restore_some(&self.cluster, rng);
    }
}

/// Whether it is for want of space, and told as that.
fn is_no_space(output: &Output) -> bool {
    (output.code, output.error_code()) == (Some(9), "NoSpace")
}

/// Two large files and some small ones.
fn epoch(at: &Path, bytes: u64, rng: &mut Rng) {
    random_directory(at, 2, bytes / 2, rng);
    std::fs::write(at.join("small"), b"a pack").expect("the scratch folder can be written");
}
