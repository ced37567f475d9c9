//! A source that does not stay still while it is read: `SourceChanged`, always, but never for links that come and go.
//! And one that only its client may read.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_file;
use crate::needs::{Need, is_root, skip};
use crate::scratch::set_mode;
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

/// Links to a file that are made and removed without pause, as databases do, until this is dropped.
struct Links {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Links {
    fn to(file: PathBuf, link: PathBuf) -> Links {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            let mut made = 0;
            while !seen.load(Ordering::Relaxed) {
                fs::hard_link(&file, &link).expect("our own file takes another name");
                fs::remove_file(&link).expect("our own link goes");
                made += 1;
            }
            made
        });
        Links { over, thread: Some(thread) }
    }

    /// How many there were.
    fn end(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("links can be made")
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Commits while links to the source come and go, by path and streamed, with and without `--immutable`; and the
/// digest of a published tree while its node links its files for further epochs.
///
/// # Panics
/// When a commit or a digest is refused, or makes another root.
pub fn linked(name: &str, bytes: u64, rng: &mut Rng) {
    let cluster = Cluster::start(name, Options::default());
    let (source, elsewhere) = (cluster.source("linked"), cluster.source("elsewhere"));
    for folder in [&source, &elsewhere] {
        fs::create_dir_all(folder).expect("the scratch folder can be written");
    }
    random_file(&source.join("a-first"), bytes, rng);
    random_file(&source.join("z-last"), 1000, rng);
    let root = |dir: &Path| {
        let output = cluster.cli(&[OsStr::new("digest"), dir.as_os_str()]).ok();
        output.summary()["root"].as_str().expect("a digest is text").to_owned()
    };
    let sealed = root(&source);
    let first = Links::to(source.join("a-first"), elsewhere.join("h"));
    let last = Links::to(source.join("z-last"), elsewhere.join("l"));
    let ways: [&[&str]; 4] = [&[], &["--immutable"], &["--stream"], &["--stream", "--immutable"]];
    for (epoch, way) in (1..).zip(ways) {
        let output = cluster.commit(&[cluster.follower()], &source, "linked", epoch, way).ok();
        assert_eq!(output.summary()["root"], sealed.as_str(), "{way:?}: {output}");
    }
    assert!(first.end() > 100 && last.end() > 100, "I12: links came and went");

    let node = cluster.follower();
    cluster.wait_published("linked", 1);
    let files = cluster.node(node).published("linked", 1);
    let caller = cluster.caller();
    std::thread::scope(|scope| {
        let commits = scope.spawn(|| {
            for epoch in 10..30 {
                caller.spawn_commit(&[node], &source, "linked", epoch, &["--wait", "all"]).wait().ok();
            }
        });
        while !commits.is_finished() {
            assert_eq!(root(&files), sealed, "the digest of a published tree");
        }
    });
}

/// A directory with files that the node may not read is streamed by the client, which may.
///
/// # Panics
/// When it is not committed, or by path.
pub fn forbidden(name: &str, rng: &mut Rng) {
    if !is_root() {
        return skip(Need::Root, "a source that only its client may read", "nodes run as another user in it");
    }
    let cluster = Cluster::start(name, Options { user: Some((65_534, 65_534)), ..Options::default() });
    let mut caller = cluster.caller();
    caller.shell.user = None;
    // A tiny epoch, one in pieces, and one whose folder cannot even be listed.
    for (epoch, (bytes, folder)) in (1..).zip([(100, 0o755), (3 << 20, 0o755), (100, 0o700)]) {
        let source = cluster.source(&format!("forbidden-{epoch}"));
        fs::create_dir_all(source.join("inner")).expect("the scratch folder can be written");
        random_file(&source.join("a-open"), 2 * bytes, rng);
        random_file(&source.join("inner/secret"), bytes, rng);
        set_mode(&source.join("inner/secret"), 0o600).expect("our own file takes a mode");
        set_mode(&source.join("inner"), folder).expect("our own folder takes a mode");
        let output = caller.spawn_commit(&[1], &source, "forbidden", epoch, &["--wait", "all"]).wait().ok();
        assert_eq!(output.summary()["by_path"], false, "{output}");
        let there = caller.cli(1, &[OsStr::new("digest"), source.as_os_str()]).ok();
        assert_eq!(output.summary()["root"], there.summary()["root"], "{output}");
        // The same commit again finds its own outcome.
        let again = caller.spawn_commit(&[1], &source, "forbidden", epoch, &[]).wait().ok();
        assert_eq!(again.summary()["already"], true, "{again}");
    }
    // Whom nobody lets read it is told so, and gets at it through no node: not through one of root either, which may.
    for_another_user(&format!("{name}-root"), rng);
    let source = cluster.source("forbidden-1");
    let refused = cluster.commit(&[1], &source, "forbidden", 9, &[]).refused(8, "PermissionDenied");
    assert!(refused.to_string().contains("secret") && refused.to_string().contains("--exclude"), "{refused}");
    cluster.commit(&[1], &source, "forbidden", 9, &["--exclude", "inner/secret"]).ok();
}

/// Nodes of root read nothing for another user of the machine that he may not read, and tell him no path: what is his own he
/// streams.
fn for_another_user(name: &str, rng: &mut Rng) {
    let cluster = Cluster::start(name, Options::default());
    let mut stranger = cluster.caller();
    stranger.shell.user = Some((65_534, 65_534));
    let closed = cluster.source("closed");
    fs::create_dir(&closed).expect("the scratch folder can be written");
    random_file(&closed.join("secret"), 3 << 20, rng);
    set_mode(&closed.join("secret"), 0o600).expect("our own file takes a mode");
    for mode in [0o755, 0o711, 0o700] {
        set_mode(&closed, mode).expect("our own folder takes a mode");
        stranger.spawn_commit(&[1], &closed, "leak", 1, &[]).wait().refused(8, "PermissionDenied");
    }
    assert!(cluster.list("leak").is_empty(), "what he may not read is committed");
    // The one who may read it commits it by path.
    let own = cluster.commit(&[1], &closed, "own", 1, &["--wait", "all"]).ok();
    assert_eq!(own.summary()["by_path"], true, "{own}");
    let open = cluster.source("open");
    fs::create_dir(&open).expect("the scratch folder can be written");
    random_file(&open.join("file"), 3 << 20, rng);
    set_mode(&open, 0o755).expect("our own folder takes a mode");
    set_mode(&open.join("file"), 0o644).expect("our own file takes a mode");
    let streamed = stranger.spawn_commit(&[1], &open, "open", 1, &["--wait", "all"]).wait().ok();
    assert_eq!(streamed.summary()["by_path"], false, "{streamed}");
}

/// Files that are overwritten in place once in each commit, their times put back, while links to them come and go:
/// an epoch that is accepted holds each file as it was at one time.
///
/// # Panics
/// When a file of an epoch is torn.
pub fn overwritten(name: &str, commits: u64, rng: &mut Rng) {
    let cluster = Cluster::start(name, Options::default());
    let (source, elsewhere) = (cluster.source("versions"), cluster.source("elsewhere"));
    for folder in [&source, &elsewhere] {
        fs::create_dir_all(folder).expect("the scratch folder can be written");
    }
    let files = [("a", 8 << 20), ("b", 64 << 10), ("c", 8 << 10)].map(|(name, len)| (source.join(name), len));
    let write = |version: u64| {
        for (path, len) in &files {
            let file = File::options().write(true).create(true).truncate(false).open(path);
            let file = file.expect("our own file opens");
            let made = file.metadata().and_then(|there| there.modified()).expect("it has a time");
            let content = vec![version as u8; 16 << 10];
            (0..*len).step_by(content.len()).for_each(|at| {
                let piece = content.len().min((*len - at) as usize);
                file.write_all_at(&content[..piece], at).expect("our own file is written");
            });
            file.set_modified(made).expect("our own file takes a time");
        }
    };
    write(0);
    let links = Links::to(files[0].0.clone(), elsewhere.join("h"));
    let (mut accepted, mut refused, mut usual) = (0, 0, Duration::from_millis(100));
    for epoch in 1..=commits {
        let way: &[&str] = if epoch % 2 == 0 { &["--stream", "--wait", "all"] } else { &["--wait", "all"] };
        let running = cluster.spawn_commit(&[cluster.follower()], &source, "versions", epoch, way);
        std::thread::sleep(rng.moment(usual)); // the moment of the fault: before, while or after they are read
        write(epoch);
        let output = running.wait();
        usual = output.took;
        if output.code != Some(0) {
            refused += 1;
            assert_eq!((output.code, output.error_code()), (Some(1), "SourceChanged"), "{output}");
            continue;
        }
        accepted += 1;
        let published = cluster.node(1).published("versions", epoch);
        for (path, len) in &files {
            let content =
                fs::read(published.join(path.file_name().expect("it has one"))).expect("it is there");
            let whole = content.len() as u64 == *len && content.iter().all(|byte| *byte == content[0]);
            assert!(whole, "epoch {epoch}: {} is torn", path.display());
        }
    }
    assert!(links.end() > 100, "I12: links came and went");
    assert!(accepted > 0 && refused > 0, "I12: {accepted} accepted, {refused} refused of {commits}");
}
