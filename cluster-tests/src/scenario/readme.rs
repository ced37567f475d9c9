//! README as a newcomer follows it: every command block is run as it stands there, from the top to the end.
//!
//! What differs from a newcomer's day: `cargo run` and `cargo build` stand for the binary that is built already, the
//! test command is left out, and the three machines of the `serve` line are three sets of ports on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::binary;
use crate::cli::{clean, create, signal};
use crate::cluster::{PATIENCE, get};
use crate::inputs::random_directory;
use crate::scratch::{Scratch, set_mode};
use crate::seed::Rng;
use crate::wait::{try_until, wait_until};

const README: &str = include_str!("../../../README.md");
/// Where README's machines are, and their first port.
const MACHINES: &str = "10.0.0.";
const FIRST_PORT: u16 = 7411;
/// README's data folder.
const DATA: &str = "/var/lib/epochlog";
/// README's secret.
const SECRET: &str = "/etc/epochlog/secret";
/// Ports of a machine lie so far from those of the next; `dev` has the first of them.
const PORTS_APART: u16 = 100;
/// The one command that is left out: it would run this test.
const TESTS: &str = "cargo test --workspace";

/// Runs every command of every block.
///
/// # Panics
/// When one fails, or says something else than README shows.
pub fn every_block(name: &str, rng: &mut Rng) {
    let mut reader = Reader::new(name, rng);
    let (mut run, mut left_out) = (0, 0);
    for block in blocks(README) {
        for step in steps(&block) {
            let place = format!("README.md:{}: {}", block.line, step.command);
            eprintln!("{place}");
            match step.command.as_str() {
                TESTS => left_out += 1,
                command if command.starts_with("epochlog serve ") => reader.serve(command, &place),
                command if command.starts_with("epochlog dev") => reader.dev(command, &place),
                command => reader.run(command, &step.shown, &place),
            }
            run += 1;
        }
    }
    assert_eq!(left_out, 1, "README names the test command once");
    assert!(run > 8, "README has hardly any command: {run}");
}

/// A fenced block.
struct Block {
    /// Line of its fence.
    line: usize,
    language: String,
    lines: Vec<String>,
}

/// A command, and what README shows of its output.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    shown: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, words) in (1..).zip(text.lines()) {
        match (words.strip_prefix("```"), open.as_mut()) {
            (Some(language), None) => {
                open = Some(Block { line, language: language.to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(words.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The commands of a block, without their comments.
fn steps(block: &Block) -> Vec<Step> {
    let text = block.lines.join("\n").replace("\\\n", " ");
    let prompt = match block.language.as_str() {
        "text" => return Vec::new(),
        "sh" => "",
        "console" => "$ ",
        other => panic!("README.md:{}: a block says sh, console or text, not {other:?}", block.line),
    };
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.strip_prefix(prompt) {
            Some(command) => {
                let command = command.split(" #").next().unwrap_or_default();
                let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
                steps.push(Step { command, shown: Vec::new() });
            }
            None => steps.last_mut().expect("a command comes first").shown.push(line.to_owned()),
        }
    }
    steps
}

/// Who types the commands.
struct Reader {
    folder: Scratch,
    /// Of the first port of all.
    base: u16,
    exported: BTreeMap<String, String>,
    nodes: Vec<Child>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _gone = node.kill();
            let _status = node.wait();
        }
        if std::thread::panicking() {
            for log in ["node-1", "node-2", "node-3", "dev.err"] {
                let said = fs::read(self.folder.join(log)).unwrap_or_default();
                eprintln!("--- {log}\n{}", String::from_utf8_lossy(&said));
            }
        }
    }
}

impl Reader {
    fn new(name: &str, rng: &mut Rng) -> Reader {
        let folder = Scratch::new(name);
        for made in ["bin", "home", "clone"] {
            fs::create_dir(folder.join(made)).expect("the scratch folder can be written");
        }
        let binary = folder.join("bin/epochlog");
        if fs::hard_link(binary::epochlog(), &binary).is_err() {
            fs::copy(binary::epochlog(), &binary).expect("the binary can be copied");
        }
        // What cargo would build is there.
        let cargo = "#!/bin/sh\ncase \"$1 $2\" in\n  'run --release') shift 3; exec epochlog \"$@\" ;;\n  \
                     'build --release') exit 0 ;;\nesac\necho \"cargo $*: README has a new command\" >&2; exit 64\n";
        fs::write(folder.join("bin/cargo"), cargo).expect("the scratch folder can be written");
        set_mode(&folder.join("bin/cargo"), 0o755).expect("our own file takes a mode");
        for source in ["chk-42", "some-directory"] {
            random_directory(&folder.join("clone").join(source), 20, 300_000, rng);
        }
        Reader { folder, base: free_ports(rng), exported: BTreeMap::new(), nodes: Vec::new() }
    }

    /// README's machines and folders as they are here.
    fn here(&self, text: &str) -> String {
        let text = &text.replace(SECRET, &self.folder.join("secret").display().to_string());
        let (mut out, mut rest) = (String::new(), text.as_str());
        while let Some(at) = rest.find(MACHINES) {
            out.push_str(&rest[..at]);
            let from = &rest[at + MACHINES.len()..];
            let end = from.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(from.len());
            let parsed =
                from[..end].split_once(':').map(|(node, port)| (node.parse::<u16>(), port.parse::<u16>()));
            let Some((Ok(node), Ok(port))) = parsed else { panic!("README's machines have ports: {text}") };
            out.push_str(&format!("127.0.0.1:{}", self.port(node) + (port - FIRST_PORT)));
            rest = &from[end..];
        }
        out + rest
    }

    /// The first port of a machine.
    fn port(&self, node: u16) -> u16 {
        self.base + PORTS_APART * node
    }

    fn bash(&self, command: &str) -> Command {
        let mut bash = Command::new("bash");
        clean(&mut bash, &self.folder.join("home"), None);
        let path = std::env::var("PATH").unwrap_or_default();
        bash.env_remove("XDG_STATE_HOME").env_remove("XDG_RUNTIME_DIR");
        bash.env("PATH", format!("{}:{path}", self.folder.join("bin").display())).envs(&self.exported);
        bash.current_dir(self.folder.join("clone")).args(["-c", command]).stdin(Stdio::null());
        bash
    }

    /// Runs a command to its end; what README shows of its output has to come, but for its numbers.
    fn run(&mut self, command: &str, shown: &[String], place: &str) {
        let command = self.here(command);
        if let Some((name, value)) = command.strip_prefix("export ").and_then(|said| said.split_once('=')) {
            self.exported.insert(name.to_owned(), value.to_owned());
            return;
        }
        let output = self.bash(&format!("set -e; {command}")).output().expect("bash can be started");
        let told = told(&output);
        assert!(output.status.success(), "{place}: {}\n{told}", output.status);
        for line in shown {
            let words = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            assert!(
                told.lines().any(|line| line.starts_with(&words)),
                "{place}: {words:?} is not in\n{told}"
            );
        }
    }

    /// The `serve` line, on three machines.
    fn serve(&mut self, command: &str, place: &str) {
        for node in 1..=3_u16 {
            let data = self.folder.join(format!("data-{node}"));
            let own = command
                .replace("--id 1 ", &format!("--id {node} "))
                .replace(&format!(" {MACHINES}1:"), &format!(" {MACHINES}{node}:"))
                .replace(DATA, &data.display().to_string());
            let log = self.folder.join(format!("node-{node}"));
            let mut bash = self.bash(&format!("exec {}", self.here(&own)));
            // Three machines have three ports of this number.
            bash.env("EPOCHLOG_HTTP", format!("127.0.0.1:{}", self.port(node) + 10));
            let started = bash.stdout(create(&log)).stderr(create(&log)).spawn();
            self.nodes.push(started.unwrap_or_else(|error| panic!("{place}: {error}")));
        }
        for node in 1..=3 {
            let http = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(node) + 10));
            wait_until(PATIENCE, &format!("{place}: node {node} to be ready"), || {
                match get(http, "/readyz") {
                    Ok((200, _)) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
    }

    /// `dev`, the commands that it prints, and its end by Ctrl-C.
    fn dev(&mut self, command: &str, place: &str) {
        let (out, err) = (self.folder.join("dev.out"), self.folder.join("dev.err"));
        let mut bash = self.bash(&format!("exec {command} --base-port {}", self.base));
        let started = bash.stdout(create(&out)).stderr(create(&err)).spawn();
        self.nodes.push(started.unwrap_or_else(|error| panic!("{place}: {error}")));
        let printed = wait_until(PATIENCE, &format!("{place}: the next commands"), || {
            let said = read(&out);
            if said.contains("Ctrl-C stops the nodes") { Ok(said) } else { Err(said + &read(&err)) }
        });
        let next: Vec<_> = printed.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(next.len() > 3, "{place}: {printed}");
        for command in next {
            self.run(command, &[], &format!("{place}: {command}"));
        }
        self.exported.clear();
        let mut dev = self.nodes.pop().expect("it was started above");
        signal(&dev, Signal::INT);
        let ended = try_until(Duration::from_secs(20), || match dev.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        if ended.is_err() {
            self.nodes.push(dev);
        }
        let status = ended.unwrap_or_else(|last| panic!("{place}: Ctrl-C does not end it: {last}"));
        assert!(status.success(), "{place}: {status}\n{}", read(&err));
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn told(output: &Output) -> String {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{out}{err}")
}

/// A number from which on the ports of `dev` and of three machines are free on loopback.
fn free_ports(rng: &mut Rng) -> u16 {
    let wanted = || (0..4).flat_map(|machine| (0..40).map(move |port| machine * PORTS_APART + port));
    for _ in 0..100 {
        let base = u16::try_from(rng.range(5_000, 14_000)).expect("in range");
        if wanted().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, base + port)).is_ok()) {
            return base;
        }
    }
    panic!("no hundreds of ports are free on loopback");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_commands_and_what_they_show() {
        let text =
            "x\n```sh\na one \\\n    two   # why\nb\n```\n```text\n a -> b\n```\n```console\n$ c\nout\n```\n";
        let found: Vec<_> = blocks(text).iter().flat_map(steps).collect();
        let step = |command: &str, shown: &[&str]| Step {
            command: command.into(),
            shown: shown.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(found, [step("a one two", &[]), step("b", &[]), step("c", &["out"])]);
    }
}
