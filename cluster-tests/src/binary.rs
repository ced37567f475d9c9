//! Finds the binary under test: `EPOCHLOG_BIN`, else the one that cargo builds
//! beside this test, in the same profile, once for each process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The path of the binary `epochlog`.
///
/// # Panics
/// When it cannot be built or is not where cargo puts it.
pub fn epochlog() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match std::env::var_os("EPOCHLOG_BIN") {
        Some(given) => PathBuf::from(given),
        None => build(),
    })
}

/// Cheap when fresh. The folder of the profile is the grandparent of a test
/// binary (`PROFILE/deps/process-...`) and the parent of a program of ours.
fn build() -> PathBuf {
    let me = std::env::current_exe().expect("a process knows its own file");
    let mut profile = me.parent().expect("a file has a folder");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps/ lies in a profile's folder");
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "-p", "node", "--bin", "epochlog", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.arg("--target-dir").arg(profile.parent().expect("a profile lies in the target folder"));
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.stdin(Stdio::null()).status().expect("cargo can be started");
    assert!(status.success(), "the binary under test does not build: {status}");
    let binary = profile.join("epochlog");
    assert!(binary.is_file(), "cargo built no {}", binary.display());
    binary
}
