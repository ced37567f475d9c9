//! What cannot or must not be reproduced is refused by name, in time.

use std::os::unix::net::UnixListener;
use std::path::Path;

use checkpoint::manifest::{Manifest, ManifestEntry};
use checkpoint::plan::{PlanError, RuleError};
use checkpoint::split::digest_dir;
use checkpoint::{Choice, Digest, EntryKind, Limits, Pattern, Plan, RelPath};

use crate::support::*;

fn refusal(dir: &Path) -> (String, String) {
    match Plan::scan(dir, &Limits::default()) {
        Err(PlanError::Rules(RuleError::Refused { path, why })) => (path, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_no_checkpoint_can_hold_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    write(dir, "fine", b"x", 0o644);
    let _socket = UnixListener::bind(dir.join("sock")).unwrap();
    assert_eq!(refusal(dir).0, "sock");
    std::fs::remove_file(dir.join("sock")).unwrap();

    // A fifo must not hang the scan.
    let made = std::process::Command::new("mkfifo").arg(dir.join("pipe")).status().unwrap();
    assert!(made.success());
    let (path, why) = refusal(dir);
    assert_eq!(path, "pipe");
    assert!(why.contains("a fifo"), "{why}");
    std::fs::remove_file(dir.join("pipe")).unwrap();

    for (mode, word) in [(0o4755, "setuid"), (0o1644, "sticky"), (0o200, "owner")] {
        chmod(&dir.join("fine"), mode);
        let (path, why) = refusal(dir);
        assert!(path == "fine" && why.contains(word), "{path} {why}");
    }
    chmod(&dir.join("fine"), 0o644);
    std::fs::create_dir(dir.join("closed")).unwrap();
    chmod(&dir.join("closed"), 0o300);
    assert_eq!(refusal(dir).0, "closed");
    chmod(&dir.join("closed"), 0o700);
    chmod(&dir.join("fine"), 0o2755);
    let why = refusal(dir).1;
    assert!(why.contains("chmod") && why.contains("--exclude"), "it says how to go on: {why}");
    chmod(&dir.join("fine"), 0o644);
    assert!(Plan::scan(&dir.join("fine"), &Limits::default()).is_err());
    assert!(Plan::scan(&dir.join("absent"), &Limits::default()).is_err());
}

#[test]
fn directories_lose_their_set_gid_and_sticky_bits_and_it_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    write(dir, "b/c/f", b"x", 0o644);
    write(dir, "a/f", b"x", 0o644);
    chmod(&dir.join("b"), 0o755);
    chmod(&dir.join("b/c"), 0o755);
    let plain = take_all(dir);
    assert_eq!(plain.plan.bits_lost, None);
    chmod(&dir.join("b"), 0o2755);
    chmod(&dir.join("b/c"), 0o1755);
    let taken = take_all(dir);
    let lost = taken.plan.bits_lost.as_ref().unwrap();
    assert_eq!((lost.directories, lost.first.to_string().as_str()), (2, "b"));
    assert_eq!(taken.manifest.root(), plain.manifest.root());
    assert_eq!(digest_dir(dir, &Limits::default()).unwrap().root(), plain.manifest.root());
    // The top too.
    chmod(dir, 0o3755);
    assert_eq!(take_all(dir).plan.bits_lost.unwrap().first, RelPath::root());
}

#[test]
fn what_cannot_be_held_can_be_left_out() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    write(dir, "state/1.sst", b"x", 0o644);
    write(dir, "state/LOG", b"x", 0o4755);
    std::fs::create_dir_all(dir.join("run/deep")).unwrap();
    let _socket = UnixListener::bind(dir.join("run/deep/sock")).unwrap();
    let patterns = |all: &[&str]| all.iter().map(|one| Pattern::new(one.as_bytes())).collect();
    let scan = |include: &[&str], exclude: &[&str]| {
        let choice = Choice { include: patterns(include), exclude: patterns(exclude) };
        let plan = Plan::scan_chosen(dir, &Limits::default(), &choice)?;
        Ok::<_, PlanError>(plan.entries.iter().map(|e| e.path.to_string()).collect::<Vec<_>>())
    };
    scan(&[], &[]).unwrap_err();
    assert_eq!(scan(&[], &["run", "state/LOG"]).unwrap(), [".", "state", "state/1.sst"]);
    assert_eq!(scan(&[], &["**/sock", "**/LOG"]).unwrap(), [".", "run", "run/deep", "state", "state/1.sst"]);
    assert_eq!(scan(&["**/*.sst"], &[]).unwrap(), [".", "state", "state/1.sst"]);
    assert_eq!(scan(&["state"], &["**/LOG"]).unwrap(), [".", "state", "state/1.sst"]);
    assert_eq!(scan(&["nothing"], &[]).unwrap(), ["."]);
}

#[test]
fn limits_hold() {
    let temp = tempfile::tempdir().unwrap();
    for n in 0..20 {
        write(temp.path(), &format!("d/{n}"), &[7; 100], 0o644);
    }
    let scan = |limits| Plan::scan(temp.path(), &limits);
    assert!(scan(Limits { files_max: 22, ..Limits::default() }).is_ok());
    assert!(matches!(
        scan(Limits { files_max: 21, ..Limits::default() }),
        Err(PlanError::Rules(RuleError::Limit { limit: 21, .. }))
    ));
    assert!(scan(Limits { bytes_max: 2000, ..Limits::default() }).is_ok());
    assert!(matches!(
        scan(Limits { bytes_max: 1999, ..Limits::default() }),
        Err(PlanError::Rules(RuleError::Limit { .. }))
    ));
    assert!(scan(Limits { depth_max: 1, ..Limits::default() }).is_err());
}

#[test]
fn a_deep_tree_is_fine() {
    let temp = tempfile::tempdir().unwrap();
    let deep = "d/".repeat(200) + "file";
    write(temp.path(), &deep, b"deep", 0o644);
    let taken = take_all(temp.path());
    assert_eq!(taken.manifest.entries.len(), 202);
    assert_eq!(taken.manifest.entries.last().unwrap().path.to_string(), deep);
}

#[test]
fn hostile_manifests_are_not_decoded() {
    fn file(path: &str) -> ManifestEntry {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let digest = checkpoint::digest::content(b"x");
        ManifestEntry { path, kind: EntryKind::File, mode: 0o644, size: 1, digest, target: Vec::new() }
    }
    let root =
        ManifestEntry { kind: EntryKind::Directory, mode: 0o755, size: 0, digest: Digest::NONE, ..file("") };
    let link = |path: &str| ManifestEntry {
        kind: EntryKind::Symlink,
        mode: 0o777,
        size: 0,
        digest: Digest::NONE,
        target: b"/etc".to_vec(),
        ..file(path)
    };
    let bytes = |entries: &[ManifestEntry]| Manifest { entries: entries.to_vec() }.encode();
    let good = bytes(&[root.clone(), file("ab"), link("cd")]);
    Manifest::decode(&good).unwrap();
    for bad in [
        bytes(&[]),
        bytes(&[file("a")]),
        bytes(&[root.clone(), file("a"), file("a")]),
        bytes(&[root.clone(), file("b"), file("a")]),
        bytes(&[root.clone(), link("a"), file("a/b")]),
        bytes(&[root.clone(), file("a/b")]),
        bytes(&[root.clone(), ManifestEntry { mode: 0o4755, ..file("a") }]),
        bytes(&[root.clone(), ManifestEntry { size: 1 << 60, ..file("a") }]),
    ] {
        assert!(Manifest::decode(&bad).is_err());
    }
    // Names that no RelPath can hold, put into the bytes by hand.
    for name in [b"..", b"/x", b"./", b"x\0", b"x/"] {
        let mut bad = good.clone();
        let at = bad.windows(2).position(|two| two == b"ab").unwrap();
        bad[at..at + 2].copy_from_slice(name);
        assert!(Manifest::decode(&bad).is_err(), "{name:?}");
    }
    // Cut anywhere, or with anything behind it, it is nothing.
    for len in 0..good.len() {
        assert!(Manifest::decode(&good[..len]).is_err());
    }
    assert!(Manifest::decode(&[&good[..], b"\0"].concat()).is_err());
}

proptest::proptest! {
    #[test]
    fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(0u8.., 0..200)) {
        let tree = [b"epochlog tree 1\n\x02\0\0\0d\xed\x01\0\0".as_slice(), &bytes].concat();
        if let Ok(manifest) = Manifest::decode(&tree) {
            proptest::prop_assert_eq!(manifest.encode(), tree);
        }
        let _ = checkpoint::manifest::decode_file(&[b"EPOCHLOG\x01\0\0\0".as_slice(), &bytes].concat());
    }
}
