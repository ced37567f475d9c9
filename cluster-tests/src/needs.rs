//! What some stories need of the machine beyond Rust, and the one place where a story may be left out for want of it.
//!
//! **Guarantees.** No skip is silent: it is said on stderr past the test harness (which keeps what passing tests
//! print), counted, and written into the file that `EPOCHLOG_SKIPS` names, where `.ci/run` finds it. What
//! `EPOCHLOG_REQUIRE` lists (`root,strace`, or `all`) must be there: a skip for want of it is a failure.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The superuser, who may change user and make devices.
    Root,
    /// strace, and the right to attach it to other processes.
    Strace,
    /// Mounting: tmpfs, and ext4 in a loop device.
    Mounts,
    /// Network namespaces with bridges and token buckets (`ip`, `tc`).
    Netns,
    /// Limiting what a loop device takes in a second (the group `blkio` of control groups).
    Throttle,
    /// Limiting the memory of a process (the group `memory` of control groups).
    Memory,
}

const ALL: [Need; 6] = [Need::Root, Need::Strace, Need::Mounts, Need::Netns, Need::Throttle, Need::Memory];

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

impl Need {
    /// Its name in `EPOCHLOG_REQUIRE`.
    pub fn name(self) -> &'static str {
        match self {
            Need::Root => "root",
            Need::Strace => "strace",
            Need::Mounts => "mounts",
            Need::Netns => "netns",
            Need::Throttle => "throttle",
            Need::Memory => "memory",
        }
    }
}

/// Whether this process is root: some stories need it, others change user then.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a story, or a part of one, is not told here.
///
/// # Panics
/// When `EPOCHLOG_REQUIRE` names what is missing, or nothing that exists.
pub fn skip(need: Need, story: &str, why: &str) {
    let required = std::env::var("EPOCHLOG_REQUIRE").unwrap_or_default();
    let required = required_by(&required).unwrap_or_else(|unknown| panic!("EPOCHLOG_REQUIRE={unknown}"));
    assert!(!required.contains(&need), "{story} needs {}, which is required here: {why}", need.name());
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    let line = format!("{story}: needs {}: {why}", need.name());
    // Not eprintln: that would be kept with the rest of a test that passes.
    let _unheard = writeln!(io::stderr(), "*** SKIPPED {line}");
    if let Some(list) = std::env::var_os("EPOCHLOG_SKIPS").map(PathBuf::from) {
        let noted = File::options().create(true).append(true).open(&list);
        noted
            .and_then(|mut list| list.write_all(format!("{line}\n").as_bytes()))
            .unwrap_or_else(|error| panic!("{}: {error}", list.display()));
    }
}

/// How many skips there were in this process.
pub fn skipped() -> usize {
    SKIPPED.load(Ordering::Relaxed)
}

/// What a list of names asks for, or the name that none has.
fn required_by(list: &str) -> Result<Vec<Need>, String> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    let found = names.map(|name| match ALL.iter().find(|need| need.name() == name) {
        _ if name == "all" => Ok(ALL.to_vec()),
        Some(need) => Ok(vec![*need]),
        None => Err(format!("{list}: no test needs {name}")),
    });
    Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_a_list_of_known_names() {
        assert_eq!(required_by(""), Ok(vec![]));
        assert_eq!(required_by("root, strace"), Ok(vec![Need::Root, Need::Strace]));
        assert_eq!(required_by("all"), Ok(ALL.to_vec()));
        assert!(required_by("root,sudo").unwrap_err().contains("sudo"));
    }
}
