//! A source that does not stay still is noticed and named.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use checkpoint::split::SplitError;
use checkpoint::{Coverage, Limits, Plan, Splitter};

use crate::support::*;

// Reads the directory, does `change` after `after` pieces; what the splitter says in the end.
fn changed(dir: &Path, after: usize, change: impl FnOnce()) -> (String, String) {
    let plan = Plan::scan(dir, &Limits::default()).unwrap();
    let covered = Coverage::new();
    let mut splitter = Splitter::new(dir, &plan, CHUNK, &covered, &|_| None).unwrap();
    for _ in 0..after {
        splitter.next().unwrap().unwrap();
    }
    change();
    let error = loop {
        match splitter.next() {
            Some(Ok(_)) => {}
            Some(Err(e)) => break e,
            None => break splitter.finish().unwrap_err(),
        }
    };
    match error {
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
        // While it is read, its number of links is what changed first.
        assert!(path == "." || path == "a", "{path}: {why}");

        let temp = source();
        let a = temp.path().join("a");
        let replace = || {
            std::fs::write(temp.path().join("new"), noise(10 * CHUNK as usize, 1)).unwrap();
            std::fs::rename(temp.path().join("new"), &a).unwrap();
        };
        let (path, why) = changed(temp.path(), after, replace);
        assert!(path == "." || path == "a", "{path}: {why}");
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
    let (path, _) = changed(temp.path(), 10, || write(temp.path(), "b/new", b"", 0o644));
    assert_eq!(path, "b");
}
