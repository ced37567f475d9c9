//! An epoch with a file that is nearly all hole: it costs what its data cost, from the first scan to the last copy. It is
//! committed although no disk could hold its length, and every node, a node that was away, a mended copy and a restored
//! directory take the room of the source.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_directory;
use crate::needs::{Need, skip};
use crate::scenario::years::wait_purged_past;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Parameters of [`a_hole_costs_nothing`].
#[derive(Debug, Clone, Copy)]
pub struct Sparse {
    /// Length of the file.
    pub bytes: u64,
    /// Runs of data in it, of 64 KiB each.
    pub islands: u64,
    /// The disk of each node, bytes; `None`: where the test runs.
    pub disk_bytes: Option<u64>,
    /// In which it is committed.
    pub commit: Duration,
    /// In which it is published, caught up, mended, restored: each.
    pub each: Duration,
}

/// The file.
const FILE: &str = "sparse";
/// Bytes of one run of data: as much as one costs that lies anywhere else.
const ISLAND_BYTES: usize = 64 << 10;
/// A copy may take so much more than the source: extents, and file systems that round up otherwise.
const SLACK_BYTES: u64 = 1 << 20;
/// So much may go through the log for one commit.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// See above.
///
/// # Panics
/// When anything takes longer, or more room, than it may, or a copy is another one.
pub fn a_hole_costs_nothing(name: &str, size: Sparse, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let cluster = match size.disk_bytes {
        Some(bytes) => Cluster::start_on_disks(name, Options::default(), bytes),
        None => Ok(Cluster::start(name, Options::default())),
    };
    let mut cluster = match cluster {
        Ok(cluster) => cluster,
        Err(why) => return skip(Need::Mounts, name, &why),
    };
    let mut story = Story { size, room: Vec::new() };
    let away = cluster.follower();
    let ways: [&[&str]; 2] = [&[], &["--stream"]];
    for (epoch, way) in (1..).zip(ways) {
        story.commit(&cluster, epoch, way, rng, progress);
    }
    // One that is removed, so that the log is purged past the node that is away.
    let gone = cluster.source("gone");
    random_directory(&gone, 2, 1 << 20, rng);
    cluster.commit(&cluster.first(cluster.leader()), &gone, "gone", 1, &["--wait", "all"]).ok();
    cluster.kill9(away);
    story.commit(&cluster, 3, &[], rng, progress);
    cluster.cli(&["rm", "gone@1", "--yes"]).ok();
    wait_purged_past(&cluster, away);
    let begun = Instant::now();
    cluster.restart(away);
    story.wait_published(&cluster, 3);
    progress(format!("home after {:.1?}", begun.elapsed()));
    story.in_time("a catch-up, with the start of a node", begun, 2 * size.each);
    cluster.wait_node_ready(away);
    story.takes_little_room(&cluster);

    damage(&cluster.node(away).published("holes", 3).join(FILE));
    let begun = Instant::now();
    wait_until(PATIENCE, "a repair that finds nothing more", || {
        let output = cluster.cli(&["verify", "holes@3", "--all-nodes", "--repair"]);
        if output.code == Some(0) { Ok(()) } else { Err(output) }
    });
    story.in_time("a repair", begun, size.each);
    cluster.cli(&["verify", "holes", "--all-nodes"]).ok();
    progress(format!("mended after {:.1?}", begun.elapsed()));
    story.takes_little_room(&cluster);

    for epoch in 1..=3 {
        let begun = Instant::now();
        let to = cluster.restore(away, &format!("holes@{epoch}"));
        story.in_time("a restore", begun, size.each);
        progress(format!("restored after {:.1?}", begun.elapsed()));
        story.is_small("restored", &to, epoch);
        let roots = [&to, &cluster.source(&format!("holes-{epoch}"))].map(|dir| {
            let output = cluster.cli(&["digest".as_ref(), dir.as_os_str()]).ok();
            output.summary()["root"].clone()
        });
        assert_eq!(roots[0], roots[1], "epoch {epoch}");
    }
}

struct Story {
    size: Sparse,
    /// What each epoch's source takes, bytes.
    room: Vec<u64>,
}

impl Story {
    fn commit(
        &mut self,
        cluster: &Cluster,
        epoch: u64,
        way: &[&str],
        rng: &mut Rng,
        progress: &mut dyn FnMut(String),
    ) {
        let source = cluster.source(&format!("holes-{epoch}"));
        self.make(&source, rng);
        let begun = Instant::now();
        let output = cluster.commit(&cluster.first(cluster.leader()), &source, "holes", epoch, way).ok();
        self.in_time(&format!("a commit: {output}"), begun, self.size.commit);
        let log_bytes = output.number("log_bytes");
        assert!(log_bytes < LOG_BYTES_MAX, "{log_bytes} bytes went through the log");
        progress(format!("committed {way:?} after {:.1?}, {log_bytes} through the log", output.took));
        let begun = Instant::now();
        self.wait_published(cluster, epoch);
        self.in_time("publishing", begun, self.size.each);
        self.takes_little_room(cluster);
    }

    /// Runs of data at random places, one at the start and none at the end.
    fn make(&mut self, source: &Path, rng: &mut Rng) {
        fs::create_dir_all(source).expect("the scratch folder can be written");
        let file = File::create(source.join(FILE)).expect("the scratch folder can be written");
        file.set_len(self.size.bytes).expect("a hole takes no room");
        let mut data = vec![0; ISLAND_BYTES];
        for island in 0..self.size.islands {
            rng.fill(&mut data);
            let at = if island == 0 { 0 } else { rng.range(0, self.size.bytes - ISLAND_BYTES as u64) };
            file.write_all_at(&data, at).expect("the scratch folder can be written");
        }
        file.sync_all().expect("the scratch folder can be synced");
        self.room.push(room(&source.join(FILE)));
    }

    fn wait_published(&self, cluster: &Cluster, epoch: u64) {
        for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
            let path = node.published("holes", epoch);
            wait_until(PATIENCE, &format!("holes@{epoch} on node {}", node.id), || {
                if path.is_dir() { Ok(()) } else { Err(node.log_tail()) }
            });
        }
    }

    fn takes_little_room(&self, cluster: &Cluster) {
        for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
            for epoch in 1..=self.room.len() as u64 {
                self.is_small(&format!("on node {}", node.id), &node.published("holes", epoch), epoch);
            }
        }
    }

    fn is_small(&self, whose: &str, dir: &Path, epoch: u64) {
        let (here, source) = (room(&dir.join(FILE)), self.room[epoch as usize - 1]);
        assert!(
            here <= source + SLACK_BYTES,
            "epoch {epoch} {whose} takes {here} bytes, {source} at the source"
        );
    }

    fn in_time(&self, what: &str, begun: Instant, limit: Duration) {
        let took = begun.elapsed();
        assert!(took <= limit, "{what} took {took:.1?}, {limit:.1?} are allowed");
    }
}

/// Bytes that a file takes on its disk.
fn room(file: &Path) -> u64 {
    fs::metadata(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).blocks() * 512
}

/// Turns a byte of the first run over, as rot does it.
fn damage(file: &Path) {
    let mode = fs::metadata(file).expect("it is published").permissions();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("our own file takes a mode");
    let open = File::options().read(true).write(true).open(file).expect("our own file can be opened");
    let mut byte = [0];
    open.read_exact_at(&mut byte, 77).expect("it has so many bytes");
    open.write_all_at(&[byte[0] ^ 1], 77).expect("our own file can be written");
    fs::set_permissions(file, mode).expect("our own file takes a mode");
}
