//! Epochs whose content lies in an object store, on nodes that are processes. The store is a folder that all of them
//! share; what stores of other kinds do is tested where they are kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::trio::Trio;
use crate::support::{Node, get, port, wait_for};

fn root_of(dir: &Path) -> String {
    let limits = checkpoint::Limits::default();
    checkpoint::split::digest_dir(dir, &limits).unwrap().root().to_string()
}

/// Large files, small ones, equal ones, zeros, names of all kinds.
fn source(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    let data =
        |seed: usize, len: usize| (0..len).map(|at| (at * 31 + seed + at / 251) as u8).collect::<Vec<_>>();
    fs::create_dir_all(source.join("sub/empty")).unwrap();
    fs::write(source.join("huge"), data(1, 20 << 20)).unwrap();
    fs::write(source.join("sub/large"), data(2, 300 << 10)).unwrap();
    for n in 0..200 {
        fs::write(source.join(format!("sub/small-{n:03}")), data(n / 2, 1000 + n)).unwrap();
    }
    fs::write(source.join("zeros"), vec![0; 1 << 20]).unwrap();
    fs::write(source.join("none"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", source.join("dangling")).unwrap();
    source
}

/// `[disk.main]` in this folder, and every job in it.
fn store_in(folder: &Path) -> String {
    fs::create_dir_all(folder).unwrap();
    format!(
        "[disk.main]\ntype = \"shared_filesystem\"\npath = {folder:?}\n[job.default]\n\
         checkpoint_settings = \"replication_type=nativelog;shared_disk=main\"\n\
         [job.logged]\ncheckpoint_settings = \"replication_type=nativelog\"\n"
    )
}

/// All files of a folder, below it.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(all.insert(entry.path())),
            }
        }
    }
    all
}

/// Objects in a store: its files without the marker.
fn objects(folder: &Path) -> BTreeSet<PathBuf> {
    files(folder).into_iter().filter(|path| path.file_name().unwrap() != "epochlog.json").collect()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_into_a_store_makes_the_same_directory_on_all_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store) = (source(dir.path()), dir.path().join("store"));
    let roots = format!("[node]\nsource_roots = [{:?}]\n", dir.path());
    let trio = Trio::start_with(dir.path(), &format!("{}{roots}", store_in(&store)));
    let follower = (trio.leader().await + 1) % 3;
    let root = root_of(&source);
    // By path, through a follower.
    let args = ["-o", "json", "commit", source.to_str().unwrap(), "--job", "job", "--wait", "all"];
    let done = trio.ask_within("60s", follower, &args);
    let first = json(&done);
    assert_eq!(done.status.code(), Some(0), "{first}");
    assert_eq!(
        (&first["mode"], &first["store"]),
        (&"mixed".into(), &"main".into()),
        "zeros are in the log: {first}"
    );
    assert_eq!((&first["by_path"], &first["root"]), (&true.into(), &root.as_str().into()));
    for id in 1..=3 {
        let published = dir.path().join(format!("n{id}/epochs/job/1/files"));
        assert_eq!(root_of(&published), root, "node {id}");
    }
    // The plan has some 5 KiB; beyond it there are at most 1 KiB and 64 bytes a file.
    let plan =
        checkpoint::plan::encode(&checkpoint::Plan::scan(&source, &Default::default()).unwrap().entries)
            .len();
    let log_bytes = first["log_bytes"].as_u64().unwrap() as usize;
    assert!(log_bytes <= plan + 1024 + 64 * 204, "{log_bytes} for a plan of {plan}");
    // Two large files, one pack of the small ones, the manifest.
    let there = objects(&store);
    assert_eq!(there.len(), 4, "{there:?}");

    // Over a stream, with a change: what is known is not sent again, by whatever node.
    fs::write(source.join("sub/small-000"), b"another").unwrap();
    let other = (follower + 1) % 3;
    let mut streamed = args.to_vec();
    streamed.push("--stream");
    let done = trio.ask_within("60s", other, &streamed);
    let second = json(&done);
    assert_eq!(done.status.code(), Some(0), "{second}");
    assert_eq!((&second["epoch"], &second["new_files"]), (&2.into(), &1.into()), "{second}");
    assert_eq!(objects(&store).len(), 4 + 2, "a pack of one, and the manifest");
    for id in 1..=3 {
        let published = dir.path().join(format!("n{id}/epochs/job/2/files"));
        assert_eq!(root_of(&published), root_of(&source), "node {id}");
    }
    // Unchanged: one write.
    let done = trio.ask_within("60s", other, &args);
    assert_eq!((&json(&done)["new_bytes"], done.status.code()), (&0.into(), Some(0)), "{done:?}");
    assert_eq!(objects(&store).len(), 4 + 2 + 1);

    // An epoch of the log may not refer to what lies in the store alone.
    let logged = ["-o", "json", "commit", source.to_str().unwrap(), "--job", "logged"];
    let done = trio.ask_within("60s", follower, &logged);
    let logged = json(&done);
    assert_eq!((&logged["mode"], done.status.code()), (&"log".into(), Some(0)), "{logged}");
    assert!(logged["log_bytes"].as_u64().unwrap() > 20 << 20, "{logged}");
    assert_eq!(objects(&store).len(), 4 + 2 + 1);

    let listed = trio.ask(0, &["ls", "job"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("mixed") && text.contains("3/3"), "{text}");
    let shown = trio.ask(0, &["show", "job@1"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("mixed, in the store main"), "{shown:?}");
    assert!(!objects(&store).iter().any(|path| path.to_string_lossy().contains('#')), "no leftovers");
}

/// A node of its own cluster with this store.
fn start(dir: &Path, endpoint: &str, more: &str) -> Node {
    let mut node = Node::start(dir, endpoint, Path::new("/"));
    // It read its configuration; now it is started with more of it.
    let _ = node.child.kill();
    let _ = node.child.wait();
    let text = fs::read_to_string(&node.config).unwrap();
    fs::write(&node.config, format!("{text}{more}")).unwrap();
    node.child = serve(&node.config, Stdio::null());
    node
}

fn serve(config: &Path, stderr: Stdio) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["serve", "--config"]).arg(config).stderr(stderr).spawn().unwrap()
}

fn ask(node: &Node, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["-e", &node.endpoint, "--timeout", "20s"]).args(args).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_uploader_goes_on_with_what_it_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store, endpoint) = (dir.path().join("big"), dir.path().join("store"), port());
    fs::create_dir(&source).unwrap();
    for n in 0..6u8 {
        let data: Vec<u8> = (0..40usize << 20).map(|at| (at * 31 + at / 251) as u8 ^ n).collect();
        fs::write(source.join(format!("f{n}")), data).unwrap();
    }
    let mut node = start(dir.path(), &endpoint, &store_in(&store));
    node.client().await;
    let mut commit = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    commit.args(["-e", &endpoint, "--timeout", "60s", "-o", "json", "commit"]).arg(&source);
    let commit = commit.args(["--job", "job", "--stream"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let commit = commit.spawn().unwrap();
    // One object is there, others are not.
    let whole = |path: &PathBuf| !path.to_string_lossy().contains('#');
    wait_for("an object", async || objects(&store).iter().any(whole).then_some(())).await;
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    let before: BTreeSet<PathBuf> = objects(&store).into_iter().filter(whole).collect();
    node.child = serve(&node.config, Stdio::null());
    let done = tokio::task::spawn_blocking(|| commit.wait_with_output()).await.unwrap().unwrap();
    let told = json(&done);
    assert_eq!(done.status.code(), Some(0), "{told}");
    assert_eq!(told["root"], root_of(&source).as_str());
    let after = objects(&store);
    assert!(after.is_superset(&before), "what was there is used");
    assert_eq!(after.len(), 7, "six files and the manifest, nothing twice: {after:?}");
    assert!(after.iter().all(whole), "no leftovers: {after:?}");
    wait_for("the directory", async || {
        let published = node.data.join("epochs/job/1/files");
        published.exists().then(|| assert_eq!(root_of(&published), root_of(&source)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_on_one_prefix_uploads_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store) = (source(dir.path()), dir.path().join("store"));
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    let first = start(&one, &port(), &store_in(&store));
    first.client().await;
    let commit = ["-o", "json", "commit", source.to_str().unwrap(), "--job"];
    let done = ask(&first, &[&commit[..], &["job"]].concat());
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let there = files(&store);
    let second = start(&two, &port(), &store_in(&store));
    second.client().await;
    let refused = ask(&second, &[&commit[..], &["job"]].concat());
    let told = json(&refused);
    assert_eq!((&told["code"], &told["committed"]), (&"Refused".into(), &"no".into()), "{told}");
    assert!(told["why"].as_str().unwrap().contains("belongs to cluster"), "{told}");
    assert_eq!(files(&store), there, "nothing was written");
    // Log mode goes on, and status says what is wrong.
    let logged = ask(&second, &[&commit[..], &["logged"]].concat());
    assert_eq!(logged.status.code(), Some(0), "{logged:?}");
    let status = ask(&second, &["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("the object store main cannot be used"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_holds_up_nothing_else_and_its_secret_is_nowhere() {
    const CANARY: &str = "canary-0815-secret";
    let dir = tempfile::tempdir().unwrap();
    let (source, endpoint, away) = (source(dir.path()), port(), port());
    let more = format!(
        "[disk.main]\ntype = \"s3_plain\"\nendpoint = \"http://{away}/bucket/prefix/\"\naccess_key_id = \"canary-0815-id\"\n\
         secret_access_key = \"{CANARY}\"\nregion = \"x\"\n[job.default]\ncheckpoint_settings = \"shared_disk=main\"\n\
         [job.logged]\ncheckpoint_settings = \"replication_type=nativelog\"\n[log]\nformat = \"json\"\n"
    );
    let mut node = start(dir.path(), &endpoint, &more);
    let _ = node.child.kill();
    let _ = node.child.wait();
    let lines = dir.path().join("lines");
    node.child = serve(&node.config, fs::File::create(&lines).unwrap().into());
    node.client().await;
    assert!(get(&node.http, "/readyz").0.contains("200"), "it is ready all the same");
    let commit = ["-o", "json", "commit", source.to_str().unwrap(), "--job"];
    let logged = ask(&node, &[&commit[..], &["logged"]].concat());
    assert_eq!(logged.status.code(), Some(0), "{logged:?}");
    let failed = ask(&node, &[&commit[..], &["job"]].concat());
    let told = json(&failed);
    assert_eq!((&told["code"], &told["committed"]), (&"Unavailable".into(), &"no".into()), "{told}");
    assert!(told["why"].as_str().unwrap().contains("store"), "{told}");
    let status = wait_for("status to say so", async || {
        let status = ask(&node, &["status"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        text.contains("the object store main cannot be used").then_some(text)
    })
    .await;
    let shown = Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["config", "show", "--origin", "--config"])
        .arg(&node.config)
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("main.aws_secret_access_key = \"***"),
        "{shown:?}"
    );
    node.terminate();
    tokio::time::timeout(Duration::from_secs(20), async { node.child.wait() }).await.unwrap().unwrap();
    // Neither said nor written.
    let mut said = vec![status, told.to_string(), format!("{shown:?}"), format!("{logged:?}")];
    said.push(fs::read_to_string(&lines).unwrap());
    for text in &said {
        assert!(!text.contains("canary-0815"), "{text}");
    }
    for file in files(&node.data) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"canary-0815"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_a_store_is_fit_for_and_a_start_says_whether_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let node = start(dir.path(), &port(), &store_in(&store));
    node.client().await;
    let epochlog = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
        command.args(args).arg("--config").arg(&node.config).output().unwrap()
    };
    let none = epochlog(&["store", "check", "other"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("the configuration names main"), "{none:?}");
    // The metrics of a folder: no requests, and usable.
    let metrics = wait_for("the store to be asked", async || {
        let (_, body) = get(&node.http, "/metrics");
        body.contains("epochlog_object_store_usable{store=\"main\"} 1").then_some(body)
    })
    .await;
    assert!(metrics.contains("epochlog_object_store_bytes_total"), "{metrics}");
}
