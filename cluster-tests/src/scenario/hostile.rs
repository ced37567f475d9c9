//! Directories and names that must be refused by name, before anything is
//! written, and without stopping anything.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::cluster::{Cluster, Options};
use crate::inputs::random_directory;
use crate::needs::{Need, is_root, skip};
use crate::scenario::identical::commit_and_compare;
use crate::scratch::set_mode;
use crate::seed::Rng;

/// Limits small enough to be met.
const LIMITS: &str = "[limits]\nmax_files = 1000\nmax_epoch_size = \"64 MiB\"\n";

/// A cluster with limits that a test can meet.
pub fn cluster(name: &str, by_path: bool) -> Cluster {
    Cluster::start(name, Options { by_path, more: LIMITS.into(), ..Options::default() })
}

/// Every directory that cannot be reproduced is refused, by path and streamed.
///
/// # Panics
/// When one is accepted, hangs, or stops the cluster.
pub fn directories(cluster: &Cluster, rng: &mut Rng) {
    let mut epoch = 0;
    for (kind, make) in kinds() {
        let source = cluster.source(&format!("hostile-{kind}"));
        random_directory(&source, 2, 1000, rng);
        let Some(culprit) = make(&source) else {
            skip(Need::Root, &format!("hostile directory: {kind}"), "it cannot be made here");
            continue;
        };
        epoch += 1;
        let output = cluster.commit(&[cluster.leader()], &source, "hostile", epoch, &[]);
        let output = match kind {
            "too-many" | "too-large" => output.refused(9, "QuotaExceeded"),
            _ => output.refused(1, "Refused"),
        };
        let named = culprit.to_string_lossy();
        assert!(
            output.to_string().contains(named.as_ref()),
            "{kind}: the answer should name {named}: {output}"
        );
        assert_eq!(
            output.typed("error").map(|error| &error["committed"]),
            Some(&"no".into()),
            "{kind}: {output}"
        );
    }
    assert!(cluster.list("hostile").is_empty(), "something hostile is listed");
    let missing = cluster.source("not-there");
    let output = cluster.commit(&[1], &missing, "hostile", 100, &[]);
    assert_eq!(
        (output.code, output.error_code()),
        (Some(2), "Usage"),
        "a source that is not there: {output}"
    );
    still_serves(cluster, rng);
}

type Maker = fn(&Path) -> Option<PathBuf>;

/// What is wrong, and how it is made; the maker gives what the answer must name.
fn kinds() -> Vec<(&'static str, Maker)> {
    vec![
        ("fifo", |at| node(at, "a-fifo", FileType::Fifo)),
        ("socket", |at| UnixListener::bind(at.join("a-socket")).ok().map(|_| "a-socket".into())),
        ("device", |at| node(at, "a-device", FileType::CharacterDevice)),
        ("setuid", |at| with_mode(at, "a-setuid-file", 0o4755)),
        ("setgid", |at| with_mode(at, "a-setgid-file", 0o2755)),
        ("sticky", |at| with_mode(at, "a-sticky-file", 0o1644)),
        ("unreadable", |at| with_mode(at, "an-unreadable-file", 0o200)),
        ("long-path", |at| deep(at, 13, &"n".repeat(250), "the path is longer than 3072 bytes")),
        ("deep-path", |at| deep(at, 600, "d", "512 components")),
        ("too-many", |at| {
            (0..1001).try_for_each(|number| File::create(at.join(format!("f{number}"))).map(drop)).ok()?;
            Some("too many entries, at most 1000 entries".into())
        }),
        ("too-large", |at| {
            File::create(at.join("huge")).and_then(|file| file.set_len(65 << 20)).ok()?;
            Some("too many bytes, at most 67108864 bytes".into())
        }),
        ("fifo-behind-depth", |at| {
            fs::create_dir(at.join("inner")).ok()?;
            symlink("/etc", at.join("inner/link")).ok()?;
            node(at, "inner/a-fifo", FileType::Fifo)
        }),
    ]
}

fn node(at: &Path, name: &str, kind: FileType) -> Option<PathBuf> {
    let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(1, 3) } else { 0 };
    if kind == FileType::CharacterDevice && !is_root() {
        return None;
    }
    mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(0o644), device).ok()?;
    Some(name.into())
}

fn with_mode(at: &Path, name: &str, mode: u32) -> Option<PathBuf> {
    fs::write(at.join(name), b"x").ok()?;
    set_mode(&at.join(name), mode).ok()?;
    Some(name.into())
}

/// A path of `count` components, which is refused in these words.
fn deep(at: &Path, count: usize, component: &str, words: &str) -> Option<PathBuf> {
    let mut path = at.to_owned();
    for _ in 0..count {
        path.push(component);
    }
    fs::create_dir_all(&path).ok()?;
    Some(words.into())
}

/// Names of jobs and epochs that are none are refused as usage.
///
/// # Panics
/// When one is accepted.
pub fn names(cluster: &Cluster, rng: &mut Rng) {
    let source = cluster.source("named");
    random_directory(&source, 1, 100, rng);
    let long = "j".repeat(129);
    for job in ["../up", ".hidden", "a/b", "", "with space", "nul\u{1}", long.as_str(), "caf\u{e9}"] {
        let output = cluster.commit(&[1], &source, job, 1, &[]);
        assert_eq!(output.code, Some(2), "job {job:?}: {output}");
    }
    let folder = cluster.folder().join("node-1/data/epochs");
    assert!(!folder.join("../up").exists() && !folder.join(".hidden").exists());
    let target = cluster.folder().join("restored/existing");
    fs::create_dir(&target).expect("the scratch folder can be written");
    fs::write(target.join("mine"), b"precious").expect("the scratch folder can be written");
    cluster.commit(&[1], &source, "named", 1, &["--wait", "all"]).ok();
    let args = ["restore".as_ref(), "named@1".as_ref(), "--to".as_ref(), target.as_os_str()];
    cluster.cli(&args).refused(1, "Refused");
    assert_eq!(fs::read(target.join("mine")).ok().as_deref(), Some(&b"precious"[..]));
}

/// The cluster takes an ordinary epoch and publishes it everywhere.
///
/// # Panics
/// When it does not.
pub fn still_serves(cluster: &Cluster, rng: &mut Rng) {
    let number = rng.range(1, 1 << 40);
    let source = cluster.source(&format!("ordinary-{number}"));
    random_directory(&source, 3, 200_000, rng);
    commit_and_compare(cluster, &source, &format!("ordinary-{number}"), 1);
}
