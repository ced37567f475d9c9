//! The binary itself: help, usage errors, exit codes, error blocks. No cluster is needed.

use std::path::Path;
use std::process::{Command, Output};

/// A port on which nobody listens: it was ours a moment ago.
fn nobody() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    port.local_addr().unwrap().to_string()
}

fn epochlog(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EPOCHLOG_")) {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn help_lists_what_there_is_and_nothing_else() {
    let help = epochlog(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = stdout(&help);
    for command in [
        "demo",
        "dev",
        "serve",
        "commit",
        "restore",
        "ls",
        "show",
        "status",
        "digest",
        "verify",
        "rm",
        "abort",
        "job",
        "repair",
        "config",
        "secret",
        "completions",
    ] {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is missing:\n{text}");
    }
    for later in ["watch", "backup", "members", "gc", "pin"] {
        assert!(!text.contains(&format!("\n  {later} ")), "{later} does not exist yet:\n{text}");
    }
}

#[test]
fn what_every_command_has_stands_apart_and_examples_and_exit_codes_at_the_end() {
    let all = stdout(&epochlog(&["--help"]));
    for line in ["JOB@-1 the one before the newest", "\n    7  no quorum", "\n  124  no answer in time"] {
        assert!(all.contains(line), "{line:?} is not in\n{all}");
    }
    for command in ["commit", "restore", "ls", "abort", "serve", "dev"] {
        let text = stdout(&epochlog(&[command, "--help"]));
        let (own, global) =
            text.split_once("\nGlobal options:").expect("a heading for what every command has");
        assert!(!own.contains("--endpoints") && global.contains("--endpoints"), "{text}");
        assert!(global.contains(&format!("\n  epochlog {command}")), "{command} has no example:\n{text}");
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [
        &["watch"][..],
        &["commit"],
        &["restore", "job@x", "--to", "d"],
        &["restore", "../job", "--to", "d"],
        &["rm", "job", "--yes"],
        &["abort", "job", "--yes"],
        &["abort", "job@-1", "--yes"],
        &["ls", "--open", "--limit", "3"],
        &["job", "rm", "../job", "--yes"],
        &["commit", ".", "--commit-id", "12.x"],
        &["commit", ".", "--epoch", "9007199254740993"],
        &["-e", "127.0.0.1", "ls"],
        &["-e", "https://127.0.0.1:7411", "ls"],
        &["-e", "127.0.0.1:7411,:7411", "ls"],
        &["--timeout", "0s", "ls"],
        &["commit", ".", "--epoch", "18446744073709551615"],
        &["ls", "--limit", "many"],
        &["commit", ".", "--label", "no-equals-sign"],
        &["--output", "yaml", "status"],
        &["serve", "--id", "0", "--data-dir", "/tmp/x"],
        &["serve"],
        &["serve", "--id", "1", "--data-dir", "/no/such/folder"],
        &["restore", "job@1", "--nearest", "3", "--to", "d"],
    ] {
        let output = epochlog(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn nobody_there_is_unavailable_and_says_that_nothing_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = nobody();
    let args = ["-e", &endpoint, "--timeout", "1s", "commit", dir.path().to_str().unwrap(), "--job", "j"];
    let output = epochlog(&args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("NOT committed"), "{text}");
    assert!(text.contains("\n  why   "), "{text}");
    assert!(text.contains(&endpoint), "{text}");
    assert!(text.contains("\n  do    "), "{text}");

    let output = epochlog(&["-e", &endpoint, "--timeout", "1s", "-o", "json", "ls"]);
    assert_eq!(output.status.code(), Some(7));
    let last = stdout(&output).lines().last().unwrap().to_owned();
    let value: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(value["type"], "error");
    assert_eq!(value["code"], "Unavailable");
}

#[test]
fn digest_needs_no_cluster_and_sees_every_difference() {
    let dir = tempfile::tempdir().unwrap();
    let root = |dir: &Path| {
        let output = epochlog(&["digest", dir.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).split(' ').next().unwrap().to_owned()
    };
    std::fs::write(dir.path().join("a"), b"one").unwrap();
    let one = root(dir.path());
    assert_eq!(one.len(), 64);
    assert_eq!(root(dir.path()), one);
    std::fs::write(dir.path().join("a"), b"two").unwrap();
    let two = root(dir.path());
    assert_ne!(two, one);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    assert_ne!(root(dir.path()), two);

    // More than an epoch may have: said before anything of it is read.
    let large = std::fs::File::create(dir.path().join("large")).unwrap();
    large.set_len((1 << 40) + 1).unwrap();
    let over = epochlog(&["digest", dir.path().to_str().unwrap()]);
    assert_eq!(over.status.code(), Some(9), "{}", stderr(&over));
    assert!(stderr(&over).starts_with("error: the directory has no digest"), "{}", stderr(&over));
    assert!(stderr(&over).contains("over the limit"), "{}", stderr(&over));
    std::fs::remove_file(dir.path().join("large")).unwrap();

    // Not there, and no directory: what was typed is wrong, and nothing has to be removed or made readable.
    let file = dir.path().join("a");
    for (named, fix) in
        [("/no/such/directory", "correct the name"), (file.to_str().unwrap(), "name a directory")]
    {
        for command in [&["digest", named][..], &["commit", named], &["commit", named, "--job", "j"]] {
            let output = epochlog(command);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
            assert!(text.contains(named) && text.contains(fix), "{command:?}: {text}");
            assert_eq!(command[0] == "digest", text.contains("no digest"), "{command:?}: {text}");
        }
    }
}

#[test]
fn check_tests_a_configuration_without_touching_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("node.toml");
    let (grpc, http) = (nobody(), nobody());
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"{}\"\n[cluster]\nsingle = true\n[listen]\ngrpc = \"{grpc}\"\nhttp = \"{http}\"\n[storage]\nreserve_free = \"1 MiB\"\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let good = epochlog(&["serve", "--check", "--config", file.to_str().unwrap()]);
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    assert!(!data.exists());

    std::fs::write(&file, "[node]\nid = 1\ndata_dri = \"x\"\n").unwrap();
    let bad = epochlog(&["serve", "--check", "--config", file.to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(stderr(&bad).contains("node.data_dir"), "{}", stderr(&bad));
}

#[test]
fn a_folder_without_its_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let identity = format!("format = 1\nnode = 1\nincarnation = \"{}\"\n", "ab".repeat(16));
    std::fs::write(dir.path().join("identity"), identity).unwrap();
    let data = dir.path().to_str().unwrap();
    let start = |id: &str| {
        let ports = ["--listen", &nobody(), "--http", &nobody()];
        epochlog(&[&["serve", "--single", "--id", id, "--data-dir", data][..], &ports].concat())
    };
    let lost = start("1");
    assert_eq!(lost.status.code(), Some(2), "{}", stderr(&lost));
    assert!(stderr(&lost).contains("its log is missing"), "{}", stderr(&lost));
    let other = start("2");
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("belongs to node 1"), "{}", stderr(&other));
}

#[test]
fn completions_are_written_for_each_shell() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef epochlog"), ("fish", "complete -c epochlog")]
    {
        let script = epochlog(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0), "{}", stderr(&script));
        let text = stdout(&script);
        assert!(text.contains(word) && text.contains("take-over"), "{shell}: {text}");
    }
    assert_eq!(epochlog(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn config_show_tells_where_each_value_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "[node]\nid = 3\ndata_dir = \"/d\"\n[raft]\nheartbeat = \"100ms\"\n").unwrap();
    let path = file.to_str().unwrap();
    let show = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
        command.env("EPOCHLOG_CLUSTER", "prod").args(["config", "show", "-c", path, "--http", "127.0.0.1:9"]);
        let output = command.args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let text = show(&["--origin"]);
    for line in [
        format!("id = 3  # {path}:2"),
        "cluster = \"prod\"  # environment EPOCHLOG_CLUSTER".to_owned(),
        "http = \"127.0.0.1:9\"  # flag --http".to_owned(),
        format!("heartbeat = \"100ms\"  # {path}:5"),
        "chunk_size = \"1 MiB\"  # default".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    assert!(!show(&["--single"]).contains('#'));
    let json: serde_json::Value = serde_json::from_str(&show(&["--origin", "-o", "json"])).unwrap();
    assert_eq!(json["node.id"]["value"], 3);
    assert_eq!(json["listen.http"]["origin"], "flag --http");
    let bad = epochlog(&["config", "show", "--id", "0", "--data-dir", "/d"]);
    assert_eq!(bad.status.code(), Some(2));
    // Without a flag: what holds, and what has to be given.
    let bare = epochlog(&["config", "show"]);
    assert_eq!(bare.status.code(), Some(0), "{}", stderr(&bare));
    for line in ["# id must be given: --id", "# data_dir must be given: --data-dir", "reserve_free = \"5%\""]
    {
        assert!(stdout(&bare).lines().any(|found| found == line), "{line:?} is not in\n{}", stdout(&bare));
    }
}

#[test]
fn the_reference_explains_every_key_and_is_a_file_to_start_from() {
    let dir = tempfile::tempdir().unwrap();
    let reference = epochlog(&["config", "reference"]);
    assert_eq!(reference.status.code(), Some(0), "{}", stderr(&reference));
    let file = dir.path().join("node.toml");
    std::fs::write(&file, &reference.stdout).unwrap();
    let shown = epochlog(&["config", "show", "-c", file.to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    // Every key that is shown is explained.
    let text = stdout(&reference);
    let shown = stdout(&shown);
    let keys = shown.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
    assert!(keys.clone().count() > 10, "{shown}");
    for (key, _) in keys {
        assert!(text.contains(&format!("\n# {key} =")), "{key} is not in\n{text}");
    }
    let json = stdout(&epochlog(&["config", "reference", "-o", "json"]));
    for line in json.lines() {
        let setting: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(setting["words"].as_str().is_some_and(|words| words.ends_with('.')), "{line}");
    }
}

/// A signal while a node that never answers is asked.
fn interrupted(signal: &str, more: &[&str]) -> Output {
    use std::io::Read;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("large"), vec![1; 3_000_000]).unwrap();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = mute.local_addr().unwrap().to_string();
    let child = Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["-e", &endpoint, "commit", dir.path().to_str().unwrap(), "--job", "j", "--epoch", "4"])
        .args(more)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut connection, _) = mute.accept().unwrap();
    connection.read_exact(&mut [0; 60]).unwrap();
    let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    child.wait_with_output().unwrap()
}

#[test]
fn ctrl_c_says_what_is_known_and_how_to_go_on() {
    // Of an earlier try, so that the node is handed the commit at once: that try may have sealed.
    let id = format!("{}.7", "ab".repeat(16));
    for more in [&["-l", "a=b c"][..], &["--stream"][..]] {
        let output = interrupted("-INT", &[more, &["--commit-id", &id]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.starts_with("error: interrupted, ") && text.contains("UNKNOWN"), "{text}");
        assert!(text.contains(&format!("--epoch 4 --commit-id {id}")), "{text}");
        assert_eq!(text.contains("--label 'a=b c'"), more.contains(&"-l"), "{text}");
    }
    // A new one, that no node was handed yet.
    let text = stderr(&interrupted("-INT", &["--stream"]));
    assert!(text.starts_with("error: interrupted, the epoch was NOT committed"), "{text}");
    assert!(text.contains("--epoch 4 --stream") && !text.contains("--commit-id"), "{text}");
    // So does a supervisor's signal, with a code of its own.
    let output = interrupted("-TERM", &["--commit-id", &id]);
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(stderr(&output).contains("UNKNOWN"), "{output:?}");
}

#[test]
fn nodes_with_peers_want_a_secret_that_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("secret"));
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let (grpc, http, peers) = (nobody(), nobody(), nobody());
    let members = format!("1={peers},2=127.0.0.1:1");
    let check = |more: &[&str]| {
        let args = ["serve", "--check", "--id", "1", "--data-dir", data, "--listen", &grpc, "--http", &http];
        epochlog(&[&args[..], &["--listen-peers", &peers, "--peers", &members], more].concat())
    };
    let without = check(&[]);
    assert_eq!(without.status.code(), Some(2));
    assert!(stderr(&without).contains("epochlog secret new FILE"), "{}", stderr(&without));
    let missing = check(&["--secret-file", file]);
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));
    let made = epochlog(&["secret", "new", file]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let good = check(&["--secret-file", file]);
    assert_eq!(good.status.code(), Some(0), "{}{}", stdout(&good), stderr(&good));
    assert!(stdout(&good).contains("gRPC for peers can listen"), "{}", stdout(&good));
    let again = epochlog(&["secret", "new", file]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let open = check(&["--secret-file", file]);
    assert_eq!(open.status.code(), Some(2));
    assert!(stdout(&open).contains("every user of this machine"), "{}", stdout(&open));
    assert_eq!(stdout(&epochlog(&["secret", "new"])).trim().len(), 64);
}
