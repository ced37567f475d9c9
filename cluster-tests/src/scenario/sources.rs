//! A source that does not stay still while it is read: `SourceChanged`, always.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_file;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Something that happens to a file.
#[derive(Debug, Clone, Copy)]
enum Change {
    Grows,
    Shrinks,
    ChangesInPlace,
    Vanishes,
    IsReplaced,
}

impl Change {
    const ALL: [Change; 5] =
        [Change::Grows, Change::Shrinks, Change::ChangesInPlace, Change::Vanishes, Change::IsReplaced];

    fn happens_to(self, path: &Path) {
        let write = || File::options().append(true).open(path).expect("our own file opens");
        let aside = path.with_extension("aside");
        match self {
            Change::Grows => write().write_all(b"more").expect("our own file grows"),
            Change::Shrinks => {
                let len = fs::metadata(path).expect("our own file is there").len();
                File::options()
                    .write(true)
                    .open(path)
                    .and_then(|file| file.set_len(len - 4096))
                    .expect("our own file shrinks");
            }
            Change::ChangesInPlace => {
                let file = File::options().write(true).open(path).expect("our own file opens");
                file.write_all_at(b"changed", 100).expect("our own file changes");
            }
            Change::Vanishes => fs::remove_file(path).expect("our own file goes"),
            Change::IsReplaced => {
                fs::copy(path, &aside).expect("our own file is copied");
                fs::rename(&aside, path).expect("our own file is replaced");
            }
        }
    }
}

/// Every change, to the file that is being read and to one that comes later,
/// while the client stands still; then two while a node reads by path.
///
/// # Panics
/// When a commit answers anything but `SourceChanged`, or anything of it is visible.
pub fn changed(name: &str, bytes: u64, rng: &mut Rng) {
    let streamed = Cluster::start(name, Options { by_path: false, ..Options::default() });
    for (number, change) in (1..).zip(Change::ALL) {
        one(&streamed, change, "a-first", number * 2, bytes, rng);
        one(&streamed, change, "z-last", number * 2 + 1, bytes, rng);
    }
    drop(streamed);
    let by_path = Cluster::start(name, Options::default());
    one(&by_path, Change::Grows, "a-first", 1, bytes, rng);
    one(&by_path, Change::Vanishes, "z-last", 2, bytes, rng);
}

fn one(cluster: &Cluster, change: Change, file: &str, epoch: u64, bytes: u64, rng: &mut Rng) {
    let source = cluster.source("moving");
    fs::create_dir_all(&source).expect("the scratch folder can be written");
    random_file(&source.join("a-first"), bytes, rng);
    random_file(&source.join("z-last"), 2 << 20, rng);
    let leader = cluster.leader();
    let follower = cluster.first(leader)[1];
    let before = cluster.node(leader).newest_attempt();
    let mut client = cluster.spawn_commit(&[follower], &source, "moving", epoch, &[]);
    wait_until(PATIENCE, "a part of the bytes", || {
        let staged = cluster.node(leader).staged_after(before);
        if staged >= 4 << 20 {
            Ok(())
        } else {
            Err(format!("{staged} bytes staged, client runs: {}", client.is_running()))
        }
    });
    if cluster.options.by_path {
        cluster.stop(follower);
    } else {
        client.stop();
    }
    assert!(client.is_running(), "I12: the commit was over before the file changed");
    change.happens_to(&source.join(file));
    if cluster.options.by_path {
        cluster.cont(follower);
    } else {
        client.cont();
    }
    let output = client.wait();
    let what = format!("{file} {change:?}, by path: {}", cluster.options.by_path);
    assert_eq!((output.code, output.error_code()), (Some(1), "SourceChanged"), "{what}: {output}");
    assert!(output.to_string().contains(file), "{what}: the answer names the file: {output}");
    let error = output.typed("error").expect("it has one");
    assert_eq!(error["committed"], "no", "{what}: {output}");
    assert!(cluster.list("moving").is_empty(), "{what}: something is listed");
    for node in &cluster.nodes {
        assert!(
            !node.published("moving", epoch).exists(),
            "{what}: node {} shows an unsealed epoch",
            node.id
        );
    }
    crate::scratch::remove_tree(&source).expect("our own source can be removed");
}
