//! What lies in an object store, compared with the log: garbage that goes, and what is lost and put back. The store is a
//! folder that all nodes share.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

mod support;

use support::trio::Trio;
use support::{Node, port, wait_for};

fn data(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + seed + at / 251) as u8).collect()
}

/// Two large files and some small ones: two objects, a pack, and the manifest.
fn source(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("huge"), data(1, 9 << 20)).unwrap();
    fs::write(source.join("large"), data(2, 300 << 10)).unwrap();
    for n in 0..20 {
        fs::write(source.join(format!("small-{n}")), data(n, 1000 + n)).unwrap();
    }
    source
}

fn store_in(folder: &Path) -> String {
    fs::create_dir_all(folder).unwrap();
    format!(
        "[disk.main]\ntype = \"shared_filesystem\"\npath = {folder:?}\n[job.default]\n\
         checkpoint_settings = \"replication_type=nativelog;shared_disk=main\"\n"
    )
}

/// All files of a folder, below it, without the marker of a store.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut all, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(all.insert(entry.path())),
            }
        }
    }
    all.retain(|path| path.file_name().unwrap() != "epochlog.json");
    all
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The one object whose content is that of a file.
fn object_of(store: &Path, file: &Path) -> PathBuf {
    let digest = checkpoint::digest::content(&fs::read(file).unwrap()).to_string();
    files(store).into_iter().find(|path| name(path).starts_with(&digest)).unwrap()
}

/// A node of its own cluster with this store.
fn start(dir: &Path, more: &str) -> Node {
    let mut node = Node::start(dir, &port(), Path::new("/"));
    // It read its configuration; now it is started with more of it.
    let _ = node.child.kill();
    let _ = node.child.wait();
    let text = fs::read_to_string(&node.config).unwrap();
    fs::write(&node.config, format!("{text}{more}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    node.child = command.args(["serve", "--config"]).arg(&node.config).stderr(Stdio::null()).spawn().unwrap();
    node
}

fn ask(node: &Node, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["-e", &node.endpoint, "--timeout", "30s"]).args(args).output().unwrap()
}

fn counts(plan: &Value) -> [u64; 6] {
    let of = |what: &str, class: &str| plan[what][class]["count"].as_u64().unwrap();
    let objects = ["referenced", "released", "open", "garbage", "foreign"].map(|class| of("objects", class));
    let [referenced, released, open, garbage, foreign] = objects;
    [referenced, released, open, garbage, foreign, of("uploads", "garbage")]
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_told_first_and_exactly_that_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store) = (source(dir.path()), dir.path().join("store"));
    let node = start(dir.path(), &store_in(&store));
    node.client().await;
    let gc = ["-o", "json", "gc", "--objects", "main"];
    let unknown = ask(&node, &["gc", "--objects", "other"]);
    assert_eq!(unknown.status.code(), Some(4), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("its configuration names main"), "{unknown:?}");
    let none = ask(&node, &gc);
    assert_eq!((none.status.code(), &json(&none)["code"]), (Some(4), &"NotFound".into()), "{none:?}");

    let commit = ask(&node, &["commit", source.to_str().unwrap(), "--job", "job"]);
    assert_eq!(commit.status.code(), Some(0), "{commit:?}");
    let needed = files(&store);
    assert_eq!(needed.len(), 4, "{needed:?}");
    // Left by attempts that have ended; of a log that has come further; of nobody.
    let one = needed.first().unwrap();
    let (digest, _) =
        name(one).split_once('.').map(|(digest, rest)| (digest.to_owned(), rest.to_owned())).unwrap();
    let beside = |name: String| one.with_file_name(name);
    let garbage = [
        beside(format!("{digest}.{:020}.{:016x}", 1, 7)),
        beside(format!("{}#1", name(one))),
        beside(format!("{digest}.{:020}.{:016x}#3", 1, 8)),
    ];
    let foreign = [
        beside(format!("{digest}.{:020}.{:016x}", 1_000_000_000, 7)),
        beside("readme.txt".to_owned()),
        beside(format!("{digest}.{:020}.{:016x}#1", 1_000_000_000, 7)),
    ];
    garbage.iter().chain(&foreign).for_each(|path| fs::write(path, b"12345").unwrap());

    let told = ask(&node, &gc);
    let plan = json(&told);
    assert_eq!((told.status.code(), counts(&plan)), (Some(0), [4, 0, 0, 1, 2, 2]), "{plan}");
    assert_eq!((&plan["objects"]["garbage"]["bytes"], &plan["acted"]), (&5.into(), &false.into()));
    let key = format!("{}/{}", &digest[..2], name(&garbage[0]));
    assert_eq!(plan["garbage"], serde_json::json!([key]), "the cluster's uuid is nobody's business");
    assert_eq!(files(&store).len(), 10, "nothing was changed");
    let table = ask(&node, &["gc", "--objects", "main"]);
    let (text, said) = (String::from_utf8_lossy(&table.stdout), String::from_utf8_lossy(&table.stderr));
    assert!(text.contains("garbage     1        5 B"), "{text}");
    assert!(said.contains("nothing was changed: repeat with --yes") && said.contains("readme.txt"), "{said}");

    let acted = ask(&node, &[&gc[..], &["--yes"]].concat());
    let done = json(&acted);
    assert_eq!(
        (acted.status.code(), &done["deleted"], &done["uploads_ended"]),
        (Some(0), &1.into(), &2.into()),
        "{done}"
    );
    let kept: BTreeSet<PathBuf> = needed.iter().cloned().chain(foreign.clone()).collect();
    assert_eq!(files(&store), kept);
    let marker = fs::read_to_string(store.join("epochlog.json")).unwrap();
    assert!(!marker.contains("\"deletes\":0"), "it is told in the store who has deleted: {marker}");
    assert_eq!(counts(&json(&ask(&node, &gc))), [4, 0, 0, 0, 2, 0]);

    // A copy of all folders has deleted there.
    let mut other: Value = serde_json::from_str(&marker).unwrap();
    other["deletes"] = 4711.into();
    fs::write(store.join("epochlog.json"), other.to_string()).unwrap();
    fs::write(&garbage[0], b"12345").unwrap();
    let refused = ask(&node, &[&gc[..], &["--yes"]].concat());
    let told = json(&refused);
    assert_eq!((refused.status.code(), &told["code"]), (Some(1), &"Refused".into()), "{told}");
    assert!(garbage[0].exists(), "nothing was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_attempt_has_uploaded_stays_until_it_is_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store) = (dir.path().join("big"), dir.path().join("store"));
    fs::create_dir(&source).unwrap();
    (0..6).for_each(|n| fs::write(source.join(format!("f{n}")), data(n, 40 << 20)).unwrap());
    let node = start(dir.path(), &store_in(&store));
    node.client().await;
    let mut commit = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    commit.args(["-e", &node.endpoint, "commit"]).arg(&source).args(["--job", "job", "--stream"]);
    let mut commit = commit.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let whole = |path: &PathBuf| !name(path).contains('#');
    wait_for("an object", async || files(&store).iter().any(whole).then_some(())).await;
    commit.kill().unwrap();
    commit.wait().unwrap();
    let gc = ["-o", "json", "gc", "--objects", "main", "--yes"];
    let told = ask(&node, &gc);
    let first = json(&told);
    assert_eq!((told.status.code(), &first["deleted"]), (Some(0), &0.into()), "{first}");
    let [referenced, _, open, garbage, foreign, ended] = counts(&first);
    assert_eq!((garbage, foreign, ended), (0, 0, 0), "{first}");
    assert!(referenced + open >= 1, "{first}");

    let aborted = ask(&node, &["abort", "job@1", "--yes"]);
    assert_eq!(aborted.status.code(), Some(0), "{aborted:?}");
    // What no record had named is garbage by now; what one had is released, and for the leader to delete.
    wait_for("all garbage to go", async || {
        let told = json(&ask(&node, &gc));
        let [referenced, released, open, garbage, _, ended] = counts(&told);
        assert_eq!((referenced, open), (0, 0), "{told}");
        (garbage + ended == 0 && files(&store).len() as u64 == released).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_has_lost_is_put_back_by_a_node_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store) = (source(dir.path()), dir.path().join("store"));
    let trio = Trio::start_with(dir.path(), &store_in(&store));
    let follower = (trio.leader().await + 1) % 3;
    let args = ["commit", source.to_str().unwrap(), "--job", "job", "--wait", "all"];
    let done = trio.ask_within("60s", follower, &args);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let all = files(&store);
    assert_eq!(all.len(), 4, "{all:?}");
    // Any node tells what the leader finds.
    let plan = json(&trio.ask(follower, &["-o", "json", "gc", "--objects", "main"]));
    assert_eq!(counts(&plan), [4, 0, 0, 0, 0, 0], "{plan}");
    let verify = ["-o", "json", "verify", "--objects", "main"];
    let with = |more: &[&'static str]| [&verify[..], more].concat();
    let good = trio.ask(follower, &with(&["--deep"]));
    let told = json(&good);
    assert_eq!(
        (good.status.code(), &told["referenced"], &told["missing"]),
        (Some(0), &4.into(), &0.into()),
        "{told}"
    );
    assert!(told["read_bytes"].as_u64().unwrap() > 9 << 20, "{told}");

    // One is gone, one is short, one has another byte, which only who reads it sees.
    let (huge, large) = (object_of(&store, &source.join("huge")), object_of(&store, &source.join("large")));
    let manifest = checkpoint::split::digest_dir(&source, &checkpoint::Limits::default()).unwrap().root();
    let manifest = all.iter().find(|path| name(path).starts_with(&manifest.to_string())).unwrap();
    let pack = all.iter().find(|path| ![&huge, &large, manifest].contains(path)).unwrap();
    fs::remove_file(pack).unwrap();
    fs::write(&large, &fs::read(&large).unwrap()[1..]).unwrap();
    let mut bytes = fs::read(&huge).unwrap();
    bytes[5 << 20] ^= 1;
    fs::write(&huge, bytes).unwrap();
    let found = trio.ask(follower, &verify);
    let told = json(&found);
    assert_eq!(found.status.code(), Some(6), "{told}");
    assert_eq!(
        (&told["missing"], &told["short"], &told["damaged"]),
        (&1.into(), &1.into(), &0.into()),
        "{told}"
    );
    let deep = json(&trio.ask(follower, &with(&["--deep"])));
    assert_eq!(
        (&deep["missing"], &deep["short"], &deep["damaged"]),
        (&1.into(), &1.into(), &1.into()),
        "{deep}"
    );

    // The node that is asked has lost one of them from its shelves, too: another one has it.
    let digest = checkpoint::digest::content(&fs::read(source.join("large")).unwrap()).to_string();
    let blobs = |node: usize| {
        let all = files(&dir.path().join(format!("n{}", node + 1)));
        let is_blob =
            |path: &PathBuf| path.to_string_lossy().contains("/blobs/") && name(path).starts_with(&digest);
        all.into_iter().filter(is_blob).collect::<Vec<_>>()
    };
    assert!(!blobs(follower).is_empty());
    blobs(follower).iter().for_each(|blob| fs::remove_file(blob).unwrap());
    let mended = trio.ask_within("60s", follower, &with(&["--deep", "--repair"]));
    let told = json(&mended);
    assert_eq!(mended.status.code(), Some(0), "{told}");
    assert_eq!(
        (&told["rehomed"], &told["nowhere"]),
        (&22.into(), &0.into()),
        "a pack of 20, and two: {told}"
    );
    let good = trio.ask(follower, &with(&["--deep"]));
    let told = json(&good);
    assert_eq!((good.status.code(), &told["referenced"]), (Some(0), &4.into()), "{told}");
    let now = files(&store);
    assert!(
        [&huge, &large, pack].iter().all(|old| object_of_digest(&now, old).is_some_and(|new| new != **old)),
        "{now:?}"
    );
    assert!(!now.contains(pack), "no key is written twice");
    let listed = String::from_utf8_lossy(&trio.ask(follower, &["ls"]).stdout).into_owned();
    assert!(!listed.contains("rehome"), "no job is left of it: {listed}");
    let attempts = trio.ask(follower, &["ls", "--open"]);
    assert!(attempts.stdout.is_empty(), "{attempts:?}");

    // What no node holds is said plainly; a manifest cannot be named anew.
    (0..3).flat_map(blobs).for_each(|blob| fs::remove_file(blob).unwrap());
    let lost = object_of_digest(&now, &large).unwrap();
    now.iter().filter(|path| name(path).starts_with(&digest)).for_each(|path| fs::remove_file(path).unwrap());
    assert!(!lost.exists());
    fs::remove_file(manifest).unwrap();
    let nowhere = trio.ask_within("60s", follower, &["verify", "--objects", "main", "--repair"]);
    let text = String::from_utf8_lossy(&nowhere.stdout).into_owned();
    assert_eq!(nowhere.status.code(), Some(6), "{text}");
    assert!(
        text.contains("0 of 1 contents lie in a new object now, 1 are on no node: THEY ARE LOST"),
        "{text}"
    );
    assert!(text.contains("it is the manifest of job@1"), "{text}");
}

/// The newest object of the same bytes as an old one.
fn object_of_digest(all: &BTreeSet<PathBuf>, old: &Path) -> Option<PathBuf> {
    let old = name(old);
    let (digest, _) = old.split_once('.')?;
    all.iter().rfind(|path| name(path).starts_with(digest)).cloned()
}
