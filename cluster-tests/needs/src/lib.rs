//! What some tests need of the machine beyond Rust, and the one place where a test may be left out for want of it: the
//! tests of every crate come here.
//!
//! **Guarantees.** No skip is silent: it is said on stderr past the test harness (which keeps what passing tests
//! print), counted, and written into the file that `EPOCHLOG_SKIPS` names, where `.ci/run` finds it. What
//! `EPOCHLOG_REQUIRE` lists (`root,strace`, or `all`) must be there: a skip for want of it is a failure.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The superuser, who may change user and make devices.
    Root,
    /// strace, and the right to attach it to other processes.
    Strace,
    /// Mounting: tmpfs, overlays, and ext4 or XFS in a loop device.
    Mounts,
    /// Network namespaces with bridges and token buckets (`ip`, `tc`).
    Netns,
    /// Limiting what a loop device takes in a second (the group `blkio` of control groups).
    Throttle,
    /// Limiting the memory of a process (the group `memory` of control groups).
    Memory,
    /// Temporary files on a disk: in a tmpfs nobody sees what is written through a mapping.
    Disk,
    /// A SIGHUP that is not ignored: `nohup` hands that on to all that it starts.
    Hangup,
}

const ALL: [Need; 8] = [
    Need::Root,
    Need::Strace,
    Need::Mounts,
    Need::Netns,
    Need::Throttle,
    Need::Memory,
    Need::Disk,
    Need::Hangup,
];

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
            Need::Disk => "disk",
            Need::Hangup => "hangup",
        }
    }
}

/// Whether this process is root: some tests need it, others change user then.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether what is written at `path` goes to a disk.
pub fn is_on_disk(path: &Path) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u32 != TMPFS)
}

/// Whether SIGHUP does something to this process.
///
/// # Panics
/// Without `/proc`.
pub fn heeds_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    !ignores(&status, 1)
}

/// Whether the process of this `/proc/PID/status` ignores a signal.
fn ignores(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).expect("a status has its signals");
    mask >> (signal - 1) & 1 == 1
}

/// Says that a test, or a part of one, is left out here.
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
    fn a_signal_is_ignored_whose_bit_is_set() {
        let status =
            |mask: &str| format!("Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        assert!(ignores(&status("0000000000000001"), 1) && !ignores(&status("0000000000001002"), 1));
        assert!(ignores(&status("0000000000001000"), 13));
    }

    // In a process of its own: the environment is everybody's.
    #[test]
    fn a_skip_is_counted_and_fails_where_it_is_required() {
        let story = "needs_itself";
        if std::env::var_os("EPOCHLOG_NEEDS_INNER").is_some() {
            skip(Need::Netns, story, "as asked");
            assert_eq!(skipped(), 1);
            return;
        }
        let list = std::env::temp_dir().join(format!("epochlog-needs-{}", std::process::id()));
        let inner = |required: &str| {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again.args(["--exact", "tests::a_skip_is_counted_and_fails_where_it_is_required"]);
            again.env("EPOCHLOG_NEEDS_INNER", "1").env("EPOCHLOG_SKIPS", &list);
            again.env("EPOCHLOG_REQUIRE", required).output().unwrap()
        };
        let said = inner("root,disk");
        assert!(said.status.success(), "{said:?}");
        // Also of a test that passes, whose output nobody sees.
        let heard = String::from_utf8(said.stderr).unwrap();
        assert!(heard.contains("*** SKIPPED needs_itself: needs netns: as asked"), "{heard}");
        for required in ["netns", "root, netns", "all", "nonsense"] {
            assert!(!inner(required).status.success(), "{required}");
        }
        // What fails is no skip.
        let noted = std::fs::read_to_string(&list);
        std::fs::remove_file(&list).unwrap();
        assert_eq!(noted.unwrap(), "needs_itself: needs netns: as asked\n");
    }

    #[test]
    fn what_is_required_is_a_list_of_known_names() {
        assert_eq!(required_by(""), Ok(vec![]));
        assert_eq!(required_by("root, strace"), Ok(vec![Need::Root, Need::Strace]));
        assert_eq!(required_by("all"), Ok(ALL.to_vec()));
        assert!(required_by("root,sudo").unwrap_err().contains("sudo"));
    }
}
