//! A source that does not stay still is noticed and named.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::split::SplitError;
use checkpoint::{Choice, Coverage, Digest, Limits, Pattern, Plan, Splitter};

use crate::support::*;

// Reads the directory, does `change` after `after` pieces; the root in the end, or what the splitter says.
fn read(dir: &Path, after: usize, change: impl FnOnce()) -> Result<Digest, SplitError> {
    read_chosen(dir, &Choice::default(), after, change)
}

fn read_chosen(
    dir: &Path,
    choice: &Choice,
    after: usize,
    change: impl FnOnce(),
) -> Result<Digest, SplitError> {
    let plan = Plan::scan_chosen(dir, &Limits::default(), choice).unwrap();
    let covered = Coverage::new();
    let mut splitter = Splitter::new(dir, &plan, CHUNK, &covered, &|_| None).unwrap();
    for _ in 0..after {
        splitter.next().unwrap().unwrap();
    }
    change();
    for piece in splitter.by_ref() {
        piece?;
    }
    splitter.finish_root()
}

fn changed(dir: &Path, after: usize, change: impl FnOnce()) -> (String, String) {
    match read(dir, after, change).unwrap_err() {
        SplitError::SourceChanged { path, why } => (path, why),
        other => panic!("{other}"),
    }
}

fn source() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "a", &noise(10 * CHUNK as usize, 1), 0o644);
    write(temp.path(), "b/small", b"small", 0o644);
    temp
}

#[test]
fn growing_shrinking_and_changing_are_told_apart() {
    // Before, while and after the file is read.
    for after in [0, 1, 5, 10] {
        let temp = source();
        let a = temp.path().join("a");
        let grow = || OpenOptions::new().append(true).open(&a).unwrap().write_all(b"more").unwrap();
        let (path, why) = changed(temp.path(), after, grow);
        assert!(path == "a" && why.contains("grew"), "{path}: {why}");

        let temp = source();
        let a = temp.path().join("a");
        let shrink = || OpenOptions::new().write(true).open(&a).unwrap().set_len(CHUNK.into()).unwrap();
        let (path, why) = changed(temp.path(), after, shrink);
        assert!(path == "a" && why.contains("shrank"), "{path}: {why}");

        let temp = source();
        let a = temp.path().join("a");
        // The clock of a file system has ticks: the change must fall into a later one than the making.
        let made = std::fs::metadata(&a).unwrap().modified().unwrap();
        let modify = || loop {
            OpenOptions::new().write(true).open(&a).unwrap().write_all_at(b"x", 77).unwrap();
            if std::fs::metadata(&a).unwrap().modified().unwrap() != made {
                break;
            }
        };
        let (path, why) = changed(temp.path(), after, modify);
        assert!(path == "a" && why.contains("modified"), "{path}: {why}");

        let temp = source();
        let a = temp.path().join("a");
        let (path, why) = changed(temp.path(), after, || std::fs::remove_file(&a).unwrap());
        assert!(path == "a" && why.contains("vanished"), "{path}: {why}");

        let temp = source();
        let a = temp.path().join("a");
        let replace = || {
            std::fs::write(temp.path().join("new"), noise(10 * CHUNK as usize, 1)).unwrap();
            std::fs::rename(temp.path().join("new"), &a).unwrap();
        };
        let (path, why) = changed(temp.path(), after, replace);
        assert!(path == "a" && why.contains("another file"), "{path}: {why}");
    }
}

#[test]
fn a_file_that_became_a_link_or_a_fifo_is_not_followed() {
    let temp = source();
    let (path, why) = changed(temp.path(), 0, || {
        std::fs::remove_file(temp.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", temp.path().join("a")).unwrap();
    });
    assert!(path == "a" && why.contains("no regular file"), "{path}: {why}");
    let temp = source();
    let (path, _) = changed(temp.path(), 0, || {
        std::fs::remove_file(temp.path().join("a")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(temp.path().join("a")).status().unwrap().success());
    });
    assert_eq!(path, "a");
    let temp = source();
    let (path, _) = changed(temp.path(), 0, || {
        std::fs::rename(temp.path().join("b"), temp.path().join("c")).unwrap();
        std::os::unix::fs::symlink("c", temp.path().join("b")).unwrap();
    });
    assert_eq!(path, "b/small");
}

#[test]
fn a_new_name_is_noticed_in_the_end() {
    let temp = source();
    for after in [0, 10] {
        let (path, _) = changed(temp.path(), after, || write(temp.path(), "b/new", b"", 0o644));
        assert_eq!(path, "b/new");
        std::fs::remove_file(temp.path().join("b/new")).unwrap();
    }
    let both = || {
        write(temp.path(), "c", b"", 0o644);
        std::fs::rename(temp.path().join("b/small"), temp.path().join("b/other")).unwrap();
    };
    let (path, _) = changed(temp.path(), 10, both);
    assert!(["c", "b/small", "b/other"].contains(&path.as_str()), "{path}");
}

#[test]
fn links_that_come_and_go_are_no_change() {
    let temp = source();
    let dir = temp.path();
    std::os::unix::fs::symlink("b/small", dir.join("link")).unwrap();
    let elsewhere = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    let root = take_all(dir).manifest.root();
    for after in [0, 1, 5, 10] {
        let outside = || {
            for name in ["a", "b/small"] {
                std::fs::hard_link(dir.join(name), elsewhere.path().join("h")).unwrap();
                std::fs::remove_file(elsewhere.path().join("h")).unwrap();
            }
            // And one that stays.
            std::fs::hard_link(dir.join("a"), elsewhere.path().join(format!("a-{after}"))).unwrap();
        };
        assert_eq!(read(dir, after, outside).unwrap(), root, "after {after}");
        let inside = || {
            for (name, link) in [("a", "b/h"), ("b/small", "h"), ("link", "h")] {
                std::fs::hard_link(dir.join(name), dir.join(link)).unwrap();
                std::fs::remove_file(dir.join(link)).unwrap();
            }
            // Away and back again: nothing is another.
            std::fs::rename(dir.join("b"), dir.join("c")).unwrap();
            std::fs::rename(dir.join("c"), dir.join("b")).unwrap();
        };
        assert_eq!(read(dir, after, inside).unwrap(), root, "after {after}");
        // The directory itself moves, and another takes its name.
        let moved = dir.with_extension("moved");
        let away = || {
            std::fs::rename(dir, &moved).unwrap();
            std::fs::create_dir(dir).unwrap();
        };
        assert_eq!(read(dir, after, away).unwrap(), root, "after {after}");
        std::fs::remove_dir(dir).unwrap();
        std::fs::rename(&moved, dir).unwrap();
    }
}

/// Writes over the first bytes, and puts the mtime back.
fn overwrite(path: &Path, with: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let made = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(with, 0).unwrap();
    file.set_modified(made).unwrap();
}

#[test]
fn what_is_overwritten_with_its_mtime_put_back_is_found_also_while_links_churn() {
    let temp = source();
    let dir = temp.path();
    let elsewhere = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for name in ["a", "b/small"] {
                    std::fs::hard_link(dir.join(name), elsewhere.path().join("h")).unwrap();
                    std::fs::remove_file(elsewhere.path().join("h")).unwrap();
                }
            }
        });
        let ended = std::panic::catch_unwind(|| {
            for round in 0..20u8 {
                let root = take_all(dir).manifest.root();
                assert_eq!(read(dir, 5, || ()).unwrap(), root, "links alone are no change");
                let (path, why) = changed(dir, 5, || overwrite(&dir.join("a"), &[round; 100]));
                assert!(path == "a" && why.contains("content"), "{path}: {why}");
                let (path, why) = changed(dir, 11, || overwrite(&dir.join("b/small"), &[round; 5]));
                assert!(path == "b/small" && why.contains("content"), "{path}: {why}");
            }
        });
        over.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
}

#[test]
#[expect(unsafe_code, reason = "a mapping is what is shown")]
fn a_write_through_a_mapping_is_found() {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let temp = source();
    let a = temp.path().join("a");
    if !needs::is_on_disk(temp.path()) {
        let why = "on tmpfs nobody can find it, as README says";
        return needs::skip(needs::Need::Disk, "a write through a mapping is found", why);
    }
    let file = OpenOptions::new().read(true).write(true).open(&a).unwrap();
    let len = 10 * CHUNK as usize;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: the address is the kernel's choice, and the file keeps its length.
    let mapped = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, &file, 0).unwrap() };
    // SAFETY: within the mapping, which nobody else uses.
    let store = |at: usize, byte: u8| unsafe { mapped.cast::<u8>().add(at).write_volatile(byte) };
    for after in [1, 5] {
        // In memory alone: further writes to these pages move no time by themselves.
        (0..len).step_by(4096).for_each(|at| store(at, 1));
        let (path, why) = changed(temp.path(), after, || {
            store(0, 2);
            store(len - 1, 2);
        });
        assert!(path == "a" && (why.contains("modified") || why.contains("content")), "{path}: {why}");
    }
    // That pages are in memory alone is no change.
    (0..len).step_by(4096).for_each(|at| store(at, 3));
    read(temp.path(), 5, || ()).unwrap();
    // SAFETY: nobody uses it any more.
    unsafe { munmap(mapped, len).unwrap() };
}

#[test]
fn what_is_left_out_may_change() {
    let temp = source();
    let dir = temp.path();
    write(dir, "b/x.log", b"1", 0o644);
    write(dir, "logs/1", b"1", 0o644);
    let patterns = |all: &[&str]| all.iter().map(|one| Pattern::new(one.as_bytes())).collect();
    let without = Choice { exclude: patterns(&["**/*.log", "logs"]), ..Choice::default() };
    let only = Choice { include: patterns(&["a", "**/small"]), ..Choice::default() };
    for choice in [without, only] {
        let root = read_chosen(dir, &choice, 0, || ()).unwrap();
        let churn = || {
            write(dir, "b/x.log", b"22", 0o644);
            write(dir, "b/y.log", b"22", 0o644);
            write(dir, "logs/2", b"22", 0o644);
        };
        assert_eq!(read_chosen(dir, &choice, 5, churn).unwrap(), root);
        let small = || write(dir, "logs/c/small", b"new", 0o644);
        let found = read_chosen(dir, &choice, 5, small);
        // What is left out is not looked at. Where nothing was wanted, something may be by now.
        match choice.include.is_empty() {
            true => assert_eq!(found.unwrap(), root),
            false => assert!(found.unwrap_err().to_string().starts_with("logs/c/small: ")),
        }
        std::fs::remove_dir_all(dir.join("logs/c")).unwrap();
        let b = || write(dir, "b/small", b"other", 0o644);
        read_chosen(dir, &choice, 5, b).unwrap_err();
        write(dir, "b/small", b"small", 0o644);
    }
}

// A directory that held nothing wanted is not in the plan: what comes there while others are read is found all the same.
#[test]
fn what_is_wanted_and_comes_to_a_directory_that_held_nothing_is_found() {
    let choice = Choice { include: vec![Pattern::new(b"a"), Pattern::new(b"**/*.sst")], ..Choice::default() };
    for after in [0, 5, 10] {
        let temp = source();
        let dir = temp.path();
        std::fs::create_dir_all(dir.join("y/empty")).unwrap();
        let root = read_chosen(dir, &choice, after, || write(dir, "y/1.log", b"x", 0o644)).unwrap();
        for path in ["y/2.sst", "y/empty/2.sst", "new/deep/2.sst"] {
            let found = read_chosen(dir, &choice, after, || write(dir, path, b"x", 0o644)).unwrap_err();
            assert!(found.to_string().starts_with(&format!("{path}: ")), "{found}");
            std::fs::remove_file(dir.join(path)).unwrap();
        }
        // The directory itself moves, and another takes its name.
        let moved = dir.with_extension("moved");
        let away = || {
            std::fs::rename(dir, &moved).unwrap();
            write(dir, "y/2.sst", b"x", 0o644);
        };
        assert_eq!(read_chosen(dir, &choice, after, away).unwrap(), root, "after {after}");
        std::fs::remove_dir_all(dir).unwrap();
        std::fs::rename(&moved, dir).unwrap();
    }
}
