//! The place where damage is planted: a cluster with some history, one node of which is the victim, and the tools.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, Node, Options, PATIENCE};
use crate::commits::{Commits, MIXED, Pending, SMALL, TINY};
use crate::inputs::random_directory;
use crate::oracle::Answer;
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::wait::wait_until;
use crate::wal::Mark;

/// So many epochs stay.
const KEEP: usize = 4;
/// Files of an upload and their bytes.
const UPLOAD: (u32, u64) = (4, 6 << 20);

/// A cluster and its victim.
pub struct Site {
    /// The cluster.
    pub cluster: Cluster,
    /// The node that is damaged in this row.
    pub victim: u64,
    /// What is committed between the rows.
    pub commits: Commits,
    /// Uploads that are stopped in the middle.
    pub uploads: Commits,
    /// The epoch of `commits` whose content is damaged.
    pub damaged_epoch: u64,
    /// Where in the node's output this row begins.
    pub(super) from: usize,
    upload: Option<Pending>,
    aside: Option<(PathBuf, PathBuf)>,
}

impl Site {
    pub(super) fn new(name: &str, options: Options, rng: &mut Rng) -> Site {
        let cluster = Cluster::start(name, options);
        let (mut commits, uploads) = (Commits::new(&cluster, "damage"), Commits::new(&cluster, "upload"));
        for kind in [MIXED, SMALL, TINY] {
            let pending = commits.begin_kind(kind, rng);
            assert!(matches!(commits.end(pending), Answer::Committed { .. }), "nothing stands in the way");
        }
        Site { cluster, victim: 1, commits, uploads, damaged_epoch: 0, from: 0, upload: None, aside: None }
    }

    /// Another victim, and some more history.
    pub(super) fn next_row(&mut self, row: &str, rng: &mut Rng) {
        self.victim = rng.range(1, self.cluster.options.nodes + 1);
        eprintln!("{row}: on node {}", self.victim);
        let pending = self.commits.begin_kind(MIXED, rng);
        assert!(matches!(self.commits.end(pending), Answer::Committed { .. }), "nothing stands in the way");
        self.damaged_epoch = self.commits.epoch;
        self.commits.remove_below(KEEP, rng);
        self.cluster.wait_published(&self.commits.job, self.commits.epoch);
        self.from = self.said_bytes();
        if let Some((aside, _)) = self.aside.take() {
            remove_tree(&aside).expect("our own copy can be removed");
        }
    }

    /// A small epoch through whoever is there.
    pub(super) fn commit(&mut self, rng: &mut Rng) {
        let pending = self.commits.begin_kind(if rng.coin() { TINY } else { MIXED }, rng);
        assert!(matches!(self.commits.end(pending), Answer::Committed { .. }), "a quorum is there");
    }

    /// The victim.
    pub fn node(&self) -> &Node {
        self.cluster.node(self.victim)
    }

    /// A path in the victim's Raft group.
    pub fn group(&self, path: &str) -> PathBuf {
        self.node().data.join("groups/main").join(path)
    }

    /// Ends the victim with SIGKILL.
    pub fn kill(&mut self) {
        self.cluster.kill9(self.victim);
    }

    /// Ends the victim with SIGTERM: its mark and its catalog are clean.
    pub fn end_gently(&mut self) {
        self.cluster.terminate(self.victim);
    }

    /// Starts the victim and waits until it is one of all again.
    pub fn start(&mut self) {
        self.cluster.restart(self.victim);
        self.cluster.wait_node_ready(self.victim);
        self.cluster.wait_alike();
    }

    /// Lives on until the victim has taken two snapshots and purged its log up to the older one.
    pub fn purge(&mut self, rng: &mut Rng) {
        let before = self.purged();
        wait_until(PATIENCE, "the victim to purge its log", || {
            self.commit(rng);
            self.commits.remove_below(KEEP, rng);
            let now = self.purged();
            if now > before { Ok(()) } else { Err(format!("purged {now:?}")) }
        });
    }

    fn purged(&self) -> Option<u64> {
        Mark::of(self.node()).and_then(|mark| mark.purged)
    }

    /// Copies a file or folder of the victim aside.
    pub fn copy_aside(&mut self, path: &Path) {
        let aside = self.cluster.folder().join(format!("aside-{}", self.commits.epoch));
        copy(path, &aside);
        self.aside = Some((aside, path.to_owned()));
    }

    /// Puts back what was copied aside.
    pub fn put_back(&mut self) {
        let (aside, path) = self.aside.take().expect("something was copied aside");
        if path.exists() {
            remove_tree(&path).expect("our own folder goes");
        }
        copy(&aside, &path);
        self.aside = Some((aside, path));
    }

    /// Begins an upload and stops its client when the victim has staged some of it. The folder of its attempt.
    pub fn upload_half(&mut self, rng: &mut Rng) -> PathBuf {
        let before = self.node().newest_attempt();
        let (files, bytes) = UPLOAD;
        let mut pending = self.uploads.begin_made(rng, |at, rng| random_directory(at, files, bytes, rng));
        wait_until(PATIENCE, "half an upload", || {
            let staged = self.node().staged_after(before);
            if staged >= bytes { Ok(()) } else { Err(format!("{staged} bytes staged")) }
        });
        pending.client.stop();
        assert!(pending.client.is_running(), "I12: the upload was over before it was stopped");
        self.upload = Some(pending);
        let attempt = self.node().newest_attempt();
        assert!(attempt > before, "the upload has an attempt of its own");
        self.group(&format!("staging/{attempt}"))
    }

    /// Lets a stopped upload go on to its end. Whether there was one.
    pub(super) fn finish_upload(&mut self, rng: &mut Rng) -> bool {
        let Some(pending) = self.upload.take() else { return false };
        pending.client.cont();
        let answer = self.uploads.end(pending);
        assert!(matches!(answer, Answer::Committed { .. }), "the upload goes on: {answer:?}");
        self.cluster.wait_published(&self.uploads.job, self.uploads.epoch);
        self.uploads.remove_below(2, rng);
        true
    }

    /// What the victim has said since the row began.
    pub fn said(&self) -> String {
        self.node().said_since(self.from)
    }

    pub(super) fn said_bytes(&self) -> usize {
        self.node().log_bytes()
    }
}

/// Changes one bit in each of some bytes of a file, spread over `range`.
///
/// # Panics
/// When the file cannot be changed.
pub fn flip(path: &Path, range: std::ops::Range<u64>, count: u32, rng: &mut Rng) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for _ in 0..count {
        let at = rng.range(range.start, range.end);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)
            .unwrap_or_else(|error| panic!("{} at {at}: {error}", path.display()));
        byte[0] ^= 1 << rng.range(0, 8);
        file.write_all_at(&byte, at).expect("our own file changes");
    }
}

/// Cuts a file to `len` bytes.
///
/// # Panics
/// When that fails.
pub fn cut(path: &Path, len: u64) {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(len)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Length of a file.
///
/// # Panics
/// When it is not there.
pub fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
}

/// `cp -a`.
///
/// # Panics
/// When that fails.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be started");
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}
