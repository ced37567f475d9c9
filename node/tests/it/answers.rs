//! Answers are true and get through: what cannot be written is an error, one outcome is one object, and nobody else's text
//! reaches a terminal as it is.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Node, port, source};
use client::Commit;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_epochlog");

/// Runs the words of a shell in which `$E` is the program.
fn sh(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).env("E", BINARY).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), b"a").unwrap();
    let show = format!("config show --id 1 --data-dir {}", dir.path().display());
    let digest = format!("digest {}", dir.path().display());
    for command in [digest.as_str(), &show, "completions bash"] {
        for form in ["table", "json"] {
            let full = sh(&format!("$E {command} -o {form} > /dev/full"));
            assert_eq!(full.status.code(), Some(9), "{command} -o {form}: {}", stderr(&full));
            assert!(stderr(&full).contains("its output cannot be written"), "{}", stderr(&full));
            let closed = sh(&format!("$E {command} -o {form} >&-"));
            assert_eq!(closed.status.code(), Some(1), "{command} -o {form}: {}", stderr(&closed));
            assert!(stderr(&closed).contains("its output cannot be written"), "{}", stderr(&closed));
            // To throw it away is somebody's wish.
            let wished = sh(&format!("$E {command} -o {form} > /dev/null"));
            assert_eq!((wished.status.code(), stderr(&wished).as_str()), (Some(0), ""), "{command}");
            let read = sh(&format!("{{ $E {command} -o {form}; echo $? >&2; }} | head -c 1 > /dev/null"));
            assert_eq!(stderr(&read), "0\n", "{command} -o {form}");
        }
    }
    let help = sh("$E --help > /dev/full");
    assert_eq!(help.status.code(), Some(9), "{}", stderr(&help));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_status_ends_when_nobody_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    for form in ["table", "jsonl"] {
        let mut watch = Command::new(BINARY)
            .args(["-e", &node.endpoint, "-o", form, "status", "--watch"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(watch.stdout.take().unwrap());
        assert!(reader.read_line(&mut String::new()).unwrap() > 0);
        drop(reader);
        let deadline = Instant::now() + Duration::from_secs(15);
        let ended = crate::support::wait_for("its end", async || {
            assert!(Instant::now() < deadline, "{form}: nobody reads on, and it still looks");
            watch.try_wait().unwrap()
        })
        .await;
        assert_eq!(ended.code(), Some(0), "{form}");
    }
    let full = sh(&format!("$E -e {} status --watch > /dev/full", node.endpoint));
    assert_eq!(full.status.code(), Some(9), "{}", stderr(&full));
}

#[test]
fn a_command_line_that_is_not_understood_is_an_object_too() {
    for line in
        ["$E -o json ls --limit many", "$E comit --output=jsonl", "EPOCHLOG_OUTPUT=json $E restore job"]
    {
        let output = sh(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{line}");
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&value["type"], &value["code"]), (&"error".into(), &"Usage".into()), "{line}: {value}");
    }
    let far = sh("$E list");
    assert!(!stderr(&far).contains("digest"), "{}", stderr(&far));
    assert!(stderr(&sh("$E stauts")).contains("status"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_elses_text_reaches_a_terminal_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    std::fs::write(source.join("n\u{202e}ame\n\x1b[2J"), b"x").unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let mut order = Commit::new("job".parse().unwrap());
    order.labels = vec![("x".into(), "\x1b[31mred\u{202e}\u{9b}2J\nlabel  forged=1".into())];
    order.depends_on = vec!["j\x07@1".into()];
    node.client().await.commit(&source, order, &|_| {}).await.unwrap();
    for words in ["show job", "show job --files", "show job --tree", "ls job", "-o json show job --files"] {
        let output = sh(&format!("$E -e {} {words}", node.endpoint));
        assert_eq!(output.status.code(), Some(0), "{words}: {}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let odd: Vec<char> =
            text.chars().filter(|c| *c != '\n' && checkpoint::epoch::is_unshown(*c)).collect();
        assert!(odd.is_empty(), "{words}: {odd:?}");
        assert!(!text.lines().any(|line| line.starts_with("label  forged")), "{words}: {text}");
    }
}
