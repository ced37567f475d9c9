//! Restores appear whole, verified, or not at all.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use checkpoint::restore::{
    ContentSource, LocalTree, Pattern, RestoreError, RestoreOptions, Sink, SourceError, restore,
};
use checkpoint::verify::verify_dir;
use checkpoint::{Manifest, ManifestEntry};

use crate::support::*;

// Content as a stream from elsewhere, perhaps damaged.
struct Remote {
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
    fetched: Vec<String>,
    damage: fn(&mut Vec<u8>),
}

impl Remote {
    fn new(dir: &Path) -> Remote {
        let contents = walk(dir).into_iter().map(|(path, (_, _, data))| (path, data)).collect();
        Remote { contents, fetched: Vec::new(), damage: |_| {} }
    }
}

impl ContentSource for Remote {
    fn fetch(
        &mut self,
        _index: usize,
        entry: &ManifestEntry,
        sink: &mut dyn Sink,
    ) -> Result<(), SourceError> {
        let mut data = self.contents[entry.path.as_bytes()].clone();
        (self.damage)(&mut data);
        self.fetched.push(entry.path.to_string());
        for part in data.chunks(70_001) {
            sink.data(part)?;
        }
        Ok(())
    }
}

fn source() -> (tempfile::TempDir, PathBuf, PathBuf, Manifest) {
    let temp = tempfile::tempdir().unwrap();
    let (source, target) = (temp.path().join("source"), temp.path().join("target"));
    std::fs::create_dir_all(&source).unwrap();
    mixed_tree(&source);
    let manifest = (*take_all(&source).manifest).clone();
    (temp, source, target, manifest)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_fetched_directory_is_identical() {
    let (temp, source, target, manifest) = source();
    let mut remote = Remote::new(&source);
    let seen = std::cell::Cell::new(0);
    let done = restore(&manifest, &target, &RestoreOptions::default(), &mut remote, &|bytes| seen.set(bytes))
        .unwrap();
    assert_eq!(walk(&source), walk(&target));
    assert!(verify_dir(&target, &manifest).unwrap().is_good());
    assert_eq!((done.bytes, done.fetched_bytes), (manifest.bytes(), manifest.bytes()));
    assert_eq!((done.files, seen.get()), (manifest.files(), manifest.bytes()));
    assert_eq!(names(temp.path()), ["source", "target"]);
    let again = restore(&manifest, &target, &RestoreOptions::default(), &mut remote, &|_| {});
    assert!(matches!(again, Err(RestoreError::Exists(_))));
    open_up(temp.path());
}

#[test]
fn damaged_content_never_appears() {
    let damages: [fn(&mut Vec<u8>); 3] =
        [|data| data[0] ^= 1, |data| data.truncate(data.len() - 1), |data| data.push(0)];
    for damage in damages {
        let (temp, source, target, manifest) = source();
        let mut remote = Remote::new(&source);
        remote.damage = damage;
        let result = restore(&manifest, &target, &RestoreOptions::default(), &mut remote, &|_| {});
        assert!(
            matches!(result, Err(RestoreError::Corrupt { .. } | RestoreError::Source { .. })),
            "{result:?}"
        );
        assert_eq!(names(temp.path()), ["source"]);
        open_up(temp.path());
    }
}

#[test]
fn a_copy_that_does_not_verify_is_rejected_and_another_one_fetched() {
    // Each file is damaged once.
    struct Rotten(Remote, BTreeMap<usize, bool>, Vec<std::ops::Range<usize>>);
    impl ContentSource for Rotten {
        fn expect(&mut self, entries: &[std::ops::Range<usize>]) {
            self.2 = entries.to_vec();
        }
        fn fetch(
            &mut self,
            index: usize,
            entry: &ManifestEntry,
            sink: &mut dyn Sink,
        ) -> Result<(), SourceError> {
            assert!(self.2.iter().any(|range| range.contains(&index)), "{index} was not to be expected");
            let good = self.1.get(&index).copied().unwrap_or(false);
            self.0.damage = match index % 3 {
                _ if good => |_| {},
                0 => |data| data[0] ^= 1,
                1 => |data| data.truncate(data.len() - 1),
                _ => |data| data.push(0),
            };
            self.0.fetch(index, entry, sink)
        }
        fn reject(&mut self, index: usize, why: &str) -> bool {
            assert!(!why.is_empty());
            self.1.insert(index, true).is_none()
        }
    }
    let (temp, source, target, manifest) = source();
    let mut rotten = Rotten(Remote::new(&source), BTreeMap::new(), Vec::new());
    let done = restore(&manifest, &target, &RestoreOptions::default(), &mut rotten, &|_| {}).unwrap();
    assert_eq!(walk(&source), walk(&target));
    assert_eq!(done.fetched_bytes, manifest.bytes());
    assert!(rotten.2.len() < rotten.1.len(), "ranges go over what has no content");
    open_up(temp.path());
}

#[test]
fn only_what_differs_is_fetched() {
    let (temp, source, target, manifest) = source();
    let mut remote = Remote::new(&source);
    restore(&manifest, &target, &RestoreOptions::default(), &mut remote, &|_| {}).unwrap();
    // Changed, with another mode, missing, too much.
    write(&target, "small", b"smalL content", 0o644);
    chmod(&target.join("large"), 0o600);
    std::fs::remove_file(target.join("a/same1")).unwrap();
    write(&target, "extra/x", b"x", 0o644);
    let kept = std::fs::metadata(target.join("exact")).unwrap().ino();
    remote.fetched.clear();
    let force = RestoreOptions { force: true, delete_others: true, ..RestoreOptions::default() };
    restore(&manifest, &target, &force, &mut remote, &|_| {}).unwrap();
    assert_eq!(walk(&source), walk(&target));
    remote.fetched.sort();
    assert_eq!(remote.fetched, ["a/same1", "small"]);
    // Whoever has the old file open for writing, or owns it, has nothing of the new one.
    assert_ne!(std::fs::metadata(target.join("exact")).unwrap().ino(), kept);
    assert_eq!(names(temp.path()), ["source", "target"]);
    // A restore that fails leaves the old directory as it was.
    write(&target, "small", b"mine", 0o644);
    let before = walk(&target);
    remote.damage = |data| data.clear();
    restore(&manifest, &target, &force, &mut remote, &|_| {}).unwrap_err();
    assert_eq!(walk(&target), before);
    assert_eq!(names(temp.path()), ["source", "target"]);
    // Something that is no directory is not replaced.
    std::fs::write(temp.path().join("file"), b"x").unwrap();
    let result = restore(&manifest, &temp.path().join("file"), &force, &mut remote, &|_| {});
    assert!(matches!(result, Err(RestoreError::Target { .. })));
    open_up(temp.path());
}

#[test]
fn local_content_is_copied_or_shared_or_else_fetched() {
    let (temp, source, target, manifest) = source();
    let ino = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let mut local = LocalTree::new(&source);
    let done = restore(&manifest, &target, &RestoreOptions::default(), &mut local, &|_| {}).unwrap();
    assert_eq!(walk(&source), walk(&target));
    assert_eq!(done.fetched_bytes, 0);
    assert_ne!(ino(&source.join("small")), ino(&target.join("small")));
    let linked = temp.path().join("linked");
    let link = RestoreOptions { link: true, ..RestoreOptions::default() };
    // Blocks are shared, never inodes: where that cannot be it is refused, and nothing is left.
    match restore(&manifest, &linked, &link, &mut local, &|_| {}) {
        Ok(_) => assert_eq!(walk(&source), walk(&linked)),
        Err(RestoreError::Link(why)) => assert!(!why.is_empty() && !linked.exists()),
        Err(other) => panic!("{other}"),
    }
    for name in ["large", "small", "exact"].iter().filter(|_| linked.exists()) {
        assert_ne!(ino(&source.join(name)), ino(&linked.join(name)));
    }
    let no_replica = restore(&manifest, &linked, &link, &mut Remote::new(&source), &|_| {});
    assert!(matches!(no_replica, Err(RestoreError::Link(_) | RestoreError::Exists(_))));

    struct Both(LocalTree, Remote);
    impl ContentSource for Both {
        fn fetch(
            &mut self,
            index: usize,
            entry: &ManifestEntry,
            sink: &mut dyn Sink,
        ) -> Result<(), SourceError> {
            self.1.fetch(index, entry, sink)
        }
        fn local(&self, entry: &ManifestEntry) -> Option<PathBuf> {
            self.0.local(entry)
        }
    }
    let mut both = Both(LocalTree::new(&source), Remote::new(&source));
    write(&source, "small", b"smalL content", 0o644);
    let to = temp.path().join("two");
    restore(&manifest, &to, &RestoreOptions::default(), &mut both, &|_| {}).unwrap();
    assert_eq!(both.1.fetched, ["small"]);
    assert!(verify_dir(&to, &manifest).unwrap().is_good());
    open_up(temp.path());
}

#[test]
fn a_part_can_be_restored() {
    let (temp, source, target, manifest) = source();
    let mut local = LocalTree::new(&source);
    let only = Some(vec![Pattern::new(b"a/same*"), Pattern::new(b"**/inner")]);
    let options = RestoreOptions { only, ..RestoreOptions::default() };
    restore(&manifest, &target, &options, &mut local, &|_| {}).unwrap();
    let seen: Vec<_> = walk(&target).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    assert_eq!(seen, ["", "a", "a/same1", "a/same2", "a/same3", "closed", "closed/inner", "closed/inner/f"]);
    open_up(temp.path());
}
