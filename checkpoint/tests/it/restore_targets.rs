//! Where a directory may be restored to, and what a restore never removes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use checkpoint::restore::{
    ContentSource, Pattern, RestoreError, RestoreOptions, Sink, SourceError, Stop, restore,
};
use checkpoint::verify::verify_dir;
use checkpoint::{Manifest, ManifestEntry};

use crate::support::*;

/// The files of a directory as from elsewhere; `at` is called at each of them.
struct Elsewhere<'a> {
    dir: PathBuf,
    fetched: usize,
    at: &'a mut dyn FnMut(usize),
}

impl ContentSource for Elsewhere<'_> {
    fn fetch(
        &mut self,
        _index: usize,
        entry: &ManifestEntry,
        sink: &mut dyn Sink,
    ) -> Result<(), SourceError> {
        (self.at)(self.fetched);
        self.fetched += 1;
        Ok(sink.data(&std::fs::read(self.dir.join(entry.path.as_os_str())).unwrap())?)
    }
}

struct Site {
    temp: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    manifest: Manifest,
}

fn site() -> Site {
    let temp = tempfile::tempdir().unwrap();
    let (source, target) = (temp.path().join("source"), temp.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    mixed_tree(&source);
    let manifest = (*take_all(&source).manifest).clone();
    Site { temp, source, target, manifest }
}

fn force() -> RestoreOptions {
    RestoreOptions { force: true, ..RestoreOptions::default() }
}

impl Site {
    fn restore_by(
        &self,
        to: &Path,
        options: &RestoreOptions,
        at: &mut dyn FnMut(usize),
    ) -> (Result<checkpoint::restore::Restored, RestoreError>, usize) {
        let mut source = Elsewhere { dir: self.source.clone(), fetched: 0, at };
        let result = restore(&self.manifest, to, options, &mut source, &|_| {});
        (result, source.fetched)
    }

    fn restore(
        &self,
        to: &Path,
        options: &RestoreOptions,
    ) -> Result<checkpoint::restore::Restored, RestoreError> {
        self.restore_by(to, options, &mut |_| {}).0
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.temp.path()).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        open_up(self.temp.path());
    }
}

#[test]
fn missing_parents_are_made_and_an_empty_directory_is_a_target() {
    let site = site();
    let deep = site.temp.path().join("no/such/parent/target");
    site.restore(&deep, &RestoreOptions::default()).unwrap();
    assert_eq!(walk(&deep), walk(&site.source));
    std::fs::create_dir(&site.target).unwrap();
    let done = site.restore(&site.target, &RestoreOptions::default()).unwrap();
    assert_eq!((walk(&site.target), done.replaced), (walk(&site.source), None));
    // What was made of a target's parents goes with a restore that fails.
    let failing = site.temp.path().join("other/such/target");
    let stop = RestoreOptions::default();
    let (result, _) = site.restore_by(&failing, &stop, &mut |_| stop.stop.set());
    assert!(matches!(result, Err(RestoreError::Stopped)), "{result:?}");
    assert_eq!(site.names(), ["no", "source", "target"]);
}

#[test]
fn what_cannot_be_a_target_is_refused_before_the_first_byte() {
    let site = site();
    std::fs::write(site.temp.path().join("file"), b"x").unwrap();
    std::fs::create_dir(site.temp.path().join("empty")).unwrap();
    symlink("empty", site.temp.path().join("link")).unwrap();
    let before = site.names();
    for name in ["file", "link", "file/below", "link/", "/"] {
        let to = site.temp.path().join(name);
        let all = RestoreOptions { delete_others: true, ..force() };
        let (result, fetched) = site.restore_by(&to, &all, &mut |_| {});
        assert!(
            matches!(result, Err(RestoreError::Target { .. } | RestoreError::Io(_))),
            "{name}: {result:?}"
        );
        assert_eq!((fetched, site.names()), (0, before.clone()), "{name}");
    }
    let only = Some(vec![Pattern::new(b"nomatch*")]);
    let none = RestoreOptions { only, ..RestoreOptions::default() };
    assert!(matches!(site.restore(&site.target, &none), Err(RestoreError::NothingMatches)));
    assert!(matches!(site.restore(&site.source, &RestoreOptions::default()), Err(RestoreError::Exists(_))));
    assert_eq!(site.names(), before);
}

#[test]
fn what_an_earlier_restore_wrote_is_replaced_unasked() {
    let site = site();
    site.restore(&site.target, &RestoreOptions::default()).unwrap();
    // Of another epoch, and renamed since.
    let mut later = site.manifest.clone();
    later.entries.retain(|entry| !entry.path.as_bytes().starts_with(b"closed"));
    let moved = site.temp.path().join("moved");
    std::fs::rename(&site.target, &moved).unwrap();
    let mut source = Elsewhere { dir: site.source.clone(), fetched: 0, at: &mut |_| {} };
    let done = restore(&later, &moved, &force(), &mut source, &|_| {}).unwrap();
    assert!(verify_dir(&moved, &later).unwrap().is_good());
    assert_eq!(source.fetched, 0, "all of it was there");
    let replaced = done.replaced.unwrap();
    assert_eq!((replaced.others.entries, done.left), (0, vec![]));
    assert!(replaced.restored >= later.files());
    assert_eq!(site.names(), ["moved", "source"]);
}

#[test]
fn what_no_restore_wrote_is_never_removed_unasked() {
    let site = site();
    site.restore(&site.target, &RestoreOptions::default()).unwrap();
    std::fs::create_dir(site.target.join(".ssh")).unwrap();
    std::fs::write(site.target.join(".ssh/id"), b"key").unwrap();
    std::fs::write(site.target.join("small"), b"my content...").unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), b"not in the target").unwrap();
    symlink(outside.path(), site.target.join("to-outside")).unwrap();
    std::fs::create_dir(site.target.join("none/mine")).unwrap();
    let before = walk(&site.target);
    let (result, fetched) = site.restore_by(&site.target, &force(), &mut |_| {});
    let Err(RestoreError::Others { others, .. }) = result else { panic!("{result:?}") };
    assert_eq!(others.some, ["small", "to-outside", ".ssh/id", "none/mine"]);
    assert_eq!((others.entries, others.bytes, fetched), (4, 16, 0));
    assert_eq!(walk(&site.target), before);
    assert_eq!(site.names(), ["source", "target"]);
    // Asked for, it goes, and is told.
    let all = RestoreOptions { delete_others: true, ..force() };
    let done = site.restore(&site.target, &all).unwrap();
    assert_eq!(done.replaced.unwrap().others, others);
    assert_eq!(walk(&site.target), walk(&site.source));
    assert_eq!(std::fs::read(outside.path().join("precious")).unwrap(), b"not in the target");
    // A directory that no restore has ever seen.
    let home = site.temp.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("notes"), b"mine").unwrap();
    assert!(matches!(site.restore(&home, &force()), Err(RestoreError::Others { .. })));
}

#[test]
fn what_was_agreed_to_goes_and_nothing_more() {
    let site = site();
    site.restore(&site.target, &RestoreOptions::default()).unwrap();
    std::fs::remove_file(site.target.join("large")).unwrap();
    std::fs::write(site.target.join("mine"), b"x").unwrap();
    let result = site.restore(&site.target, &force());
    let Err(RestoreError::Others { others, .. }) = result else { panic!("{result:?}") };
    let agreed = RestoreOptions { accepted: Some(others.clone()), ..force() };
    // Something came before the second look.
    let late = site.target.join("late");
    std::fs::write(&late, b"y").unwrap();
    let (result, fetched) = site.restore_by(&site.target, &agreed, &mut |_| {});
    let Err(RestoreError::Others { others: more, .. }) = result else { panic!("{result:?}") };
    assert_eq!((more.entries, fetched), (2, 0));
    std::fs::remove_file(&late).unwrap();
    // Something comes after it.
    let (result, _) = site.restore_by(&site.target, &agreed, &mut |_| std::fs::write(&late, b"y").unwrap());
    assert!(matches!(result, Err(RestoreError::Others { .. })), "{result:?}");
    assert_eq!(std::fs::read(&late).unwrap(), b"y");
    std::fs::remove_file(&late).unwrap();
    assert_eq!(site.restore(&site.target, &agreed).unwrap().replaced.unwrap().others, others);
    // Who agrees to everything is told what it was in the end.
    std::fs::remove_file(site.target.join("large")).unwrap();
    let all = RestoreOptions { delete_others: true, ..force() };
    let (done, _) = site.restore_by(&site.target, &all, &mut |_| std::fs::write(&late, b"y").unwrap());
    assert_eq!(done.unwrap().replaced.unwrap().others.some, ["late"]);
    assert_eq!(walk(&site.target), walk(&site.source));
}

#[test]
fn blocks_that_cannot_be_shared_are_refused_before_anything_changes() {
    let site = site();
    let stale = ".target.epochlog-tmp-0123456789abcdef";
    killed(&site.temp.path().join(stale));
    let link = RestoreOptions { link: true, ..RestoreOptions::default() };
    assert!(matches!(site.restore(&site.target, &link), Err(RestoreError::Link(_))));
    assert_eq!(site.names(), [stale, "source"]);
}

#[test]
fn a_way_that_leads_back_from_what_is_not_there_is_refused() {
    let site = site();
    // Every look at a part of that path finds nothing; made from the left it would lead elsewhere.
    let to = site.temp.path().join("missing/../source/below/target");
    let result = site.restore(&to, &RestoreOptions::default());
    assert!(matches!(result, Err(RestoreError::Target { .. })), "{result:?}");
    assert!(!site.source.join("below").exists());
    assert_eq!(site.names(), ["source"]);
}

#[test]
fn what_is_written_there_during_the_restore_is_not_lost() {
    let site = site();
    site.restore(&site.target, &RestoreOptions::default()).unwrap();
    std::fs::remove_file(site.target.join("large")).unwrap();
    let late = site.target.join("late");
    let (result, fetched) =
        site.restore_by(&site.target, &force(), &mut |_| std::fs::write(&late, b"mine").unwrap());
    let Err(RestoreError::Others { others, .. }) = result else { panic!("{result:?}") };
    assert_eq!((others.some, fetched), (vec!["late".to_owned()], 1));
    assert_eq!(std::fs::read(&late).unwrap(), b"mine");
    assert_eq!(site.names(), ["source", "target"]);
    // The same in an empty directory.
    let empty = site.temp.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (result, _) = site.restore_by(&empty, &RestoreOptions::default(), &mut |at| {
        if at == 0 {
            std::fs::write(empty.join("late"), b"mine").unwrap();
        }
    });
    assert!(matches!(result, Err(RestoreError::Exists(_))), "{result:?}");
    assert_eq!(std::fs::read(empty.join("late")).unwrap(), b"mine");
}

#[test]
fn a_stopped_restore_leaves_the_target_as_it_was_and_nothing_else() {
    let site = site();
    for stop_at in [0, 3] {
        let options = RestoreOptions::default();
        let stop: Stop = options.stop.clone();
        let mut at = |n| {
            if n == stop_at {
                stop.set();
            }
        };
        let (result, fetched) = site.restore_by(&site.target, &options, &mut at);
        assert!(matches!(result, Err(RestoreError::Stopped)), "{result:?}");
        assert_eq!((fetched, site.names()), (stop_at + 1, vec!["source".to_owned()]));
    }
    site.restore(&site.target, &RestoreOptions::default()).unwrap();
    let options = force();
    options.stop.set();
    assert!(matches!(site.restore(&site.target, &options), Err(RestoreError::Stopped)));
    assert_eq!(walk(&site.target), walk(&site.source));
    assert_eq!(site.names(), ["source", "target"]);
}

/// What a restore leaves that is killed while it writes.
fn killed(at: &Path) {
    std::fs::create_dir_all(at.join("half")).unwrap();
    chmod(at, 0o1700);
}

#[test]
fn what_a_killed_restore_left_is_swept_by_the_next_to_the_same_target() {
    let site = site();
    let stale = ["target", "other"].map(|name| format!(".{name}.epochlog-tmp-0123456789abcdef"));
    for name in &stale {
        killed(&site.temp.path().join(name));
    }
    // A refused one sweeps nothing.
    std::fs::create_dir(&site.target).unwrap();
    std::fs::write(site.target.join("mine"), b"x").unwrap();
    site.restore(&site.target, &RestoreOptions::default()).unwrap_err();
    assert_eq!(site.names().len(), 4);
    std::fs::remove_file(site.target.join("mine")).unwrap();
    site.restore(&site.target, &RestoreOptions::default()).unwrap();
    assert_eq!(site.names(), [stale[1].as_str(), "source", "target"]);
}

#[test]
fn two_restores_to_one_target_do_not_sweep_each_other() {
    let site = site();
    let mut inner = None;
    let (outer, _) = site.restore_by(&site.target, &RestoreOptions::default(), &mut |at| {
        if at == 0 {
            inner = Some(site.restore(&site.target, &RestoreOptions::default()));
        }
    });
    inner.unwrap().unwrap();
    assert!(matches!(outer, Err(RestoreError::Exists(_))), "{outer:?}");
    assert_eq!(walk(&site.target), walk(&site.source));
    assert_eq!(site.names(), ["source", "target"]);
}
