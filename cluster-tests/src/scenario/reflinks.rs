//! A file system whose files can share blocks: what is cloned may change at once, and what shares blocks with a replica
//! is nobody's way to write to it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use client::{Client, Commit, Event, pb};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::disks::{Kind, SmallDisk};
use crate::inputs::random_file;
use crate::needs::{Need, skip};
use crate::scratch::{Scratch, set_mode};
use crate::seed::Rng;
use crate::wait::wait_until;
use crate::walk::compare;

// Everything of the cluster is there, its binary too. The image takes what is written.
const DISK_BYTES: u64 = 2 << 30;
const LARGE_BYTES: u64 = 24 << 20;
const FILES: [&str; 4] = ["large", "small", "twin", "twin-of-another-mode"];

/// Commits a directory that lies on one file system with its node and is overwritten as soon as the node says *cloned*;
/// then restores it by `--link`, and writes into what was restored.
///
/// # Panics
/// When another content was sealed, or the replica is not what was sealed any more.
pub fn cloned_and_linked(name: &str, rng: &mut Rng) {
    let scratch = Scratch::new(name);
    let disk = match SmallDisk::mount(Kind::LoopXfs, &scratch.join("disk"), DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return skip(Need::Mounts, "a file system with reflinks", &why),
    };
    let below = Some(scratch.join("disk"));
    let cluster = Cluster::start(name, Options { nodes: 1, below, ..Options::default() });
    let source = cluster.source("cloned");
    fs::create_dir(&source).expect("the scratch folder can be written");
    random_file(&source.join("large"), LARGE_BYTES, rng);
    random_file(&source.join("small"), 3000, rng);
    // Published by a clone of the blob that the other one is.
    random_file(&source.join("twin"), 2 << 20, rng);
    fs::copy(source.join("twin"), source.join("twin-of-another-mode"))
        .expect("the scratch folder can be written");
    set_mode(&source.join("twin-of-another-mode"), 0o600).expect("our own file takes a mode");

    let root = |dir: &Path| {
        let output = cluster.cli(&["digest", dir.to_str().expect("our own paths are text")]).ok();
        output.summary()["root"].as_str().expect("a digest is text").to_owned()
    };
    let sealed = root(&source);
    commit_and_overwrite(&cluster, &source);
    assert_ne!(root(&source), sealed, "I12: the source was overwritten");
    assert_eq!(cluster.list("cloned")[0]["root"], sealed.as_str(), "what was written since is sealed");
    let published = cluster.node(1).published("cloned", 1);
    assert_eq!(root(&published), sealed);
    let captures = cluster.node(1).data.join("capture");
    wait_until(PATIENCE, "the capture to go", || match fs::read_dir(&captures).map_or(0, Iterator::count) {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });

    let target = cluster.folder().join("restored/linked");
    let to = target.to_str().expect("our own paths are text");
    let before = free(&disk, cluster.folder());
    cluster.cli(&["restore", "cloned@1", "--to", to, "--link"]).ok();
    let taken = before.saturating_sub(free(&disk, cluster.folder()));
    assert!(taken < LARGE_BYTES / 2, "{taken} bytes were written by --link");
    compare(&published, &target).unwrap_or_else(|difference| panic!("restored by --link: {difference}"));
    for file in FILES {
        overwrite(&target.join(file));
    }
    assert_ne!(root(&target), sealed, "I12: what was restored was overwritten");
    assert_eq!(root(&published), sealed, "the replica was written to");
    cluster.cli(&["verify", "cloned@1"]).ok();
}

fn commit_and_overwrite(cluster: &Cluster, source: &Path) {
    let heard = Mutex::new(Vec::new());
    let on = |event: Event| {
        if let Event::Planned { captured, .. } = event {
            // At once: nothing of it is in the log yet.
            FILES.iter().for_each(|file| overwrite(&source.join(file)));
            heard.lock().expect("nobody panicked").push(captured);
        }
    };
    let mut commit = Commit::new("cloned".parse().expect("a job name"));
    commit.wait_all = true;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let client = Client::new([cluster.node(1).address()], client::Options::default());
    let done = runtime.block_on(client.commit(source, commit, &on));
    let done = done.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(done.committed.by_path, "{done:?}");
    assert_eq!(*heard.lock().expect("nobody panicked"), [pb::Captured::Cloned]);
}

/// Other bytes, in place.
fn overwrite(path: &Path) {
    let file = File::options().write(true).open(path).expect("our own file opens");
    let len = file.metadata().expect("it is open").len();
    let other = vec![7; 1 << 16];
    (0..len).step_by(other.len()).for_each(|at| {
        let piece = other.len().min((len - at) as usize);
        file.write_all_at(&other[..piece], at).expect("our own file is written");
    });
}

/// What is free once everything has its place.
fn free(disk: &SmallDisk, folder: &Path) -> u64 {
    let open = File::open(folder).expect("our own folder opens");
    rustix::fs::syncfs(&open).expect("our own disk can be synced");
    disk.free()
}
