//! The command line as a user runs it: a child process, its exit code and its
//! JSON. Runs in the foreground with a deadline, or in the background to be
//! stopped, continued and killed in the middle.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::oracle::Answer;
use crate::wait::try_until;

/// A client that hangs longer than this is killed and counts as a fault.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; `None` when a signal or our deadline ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// The objects on stdout (and on stderr), one a line.
    pub lines: Vec<Value>,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// The last `summary` object.
    ///
    /// # Panics
    /// When there is none.
    pub fn summary(&self) -> &Value {
        // A commit that is not on all nodes as asked fails, and tells in the same object what it has done.
        let failed = || self.typed("error").filter(|error| error.get("root").is_some());
        self.typed("summary").or_else(failed).unwrap_or_else(|| panic!("no summary: {self}"))
    }

    /// The last object of this `type`.
    pub fn typed(&self, kind: &str) -> Option<&Value> {
        self.lines.iter().rev().find(|line| line["type"] == kind)
    }

    /// The stable name of the error, `""` without one.
    pub fn error_code(&self) -> &str {
        self.typed("error").and_then(|error| error["code"].as_str()).unwrap_or_default()
    }

    /// A number of the summary.
    ///
    /// # Panics
    /// When it is not there.
    pub fn number(&self, name: &str) -> u64 {
        self.summary()[name].as_u64().unwrap_or_else(|| panic!("no number {name} in the summary: {self}"))
    }

    /// Asserts exit code 0.
    ///
    /// # Panics
    /// On any other.
    pub fn ok(self) -> Output {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Asserts this exit code and this error code (when not empty).
    ///
    /// # Panics
    /// On any other.
    pub fn refused(self, code: i32, error: &str) -> Output {
        assert_eq!(self.code, Some(code), "expected exit {code} {error}: {self}");
        assert!(error.is_empty() || self.error_code() == error, "expected {error}: {self}");
        self
    }

    /// What a commit answered.
    ///
    /// # Panics
    /// When the answer contradicts itself: exit code and words must agree.
    pub fn answer(&self) -> Answer {
        let word = self.lines.iter().rev().find_map(|line| line["committed"].as_str());
        match (self.code, word) {
            (Some(0 | 3), _) => {
                let summary = self.summary();
                assert_eq!(summary["committed"], "yes", "{self}");
                Answer::Committed {
                    root: summary["root"].as_str().unwrap_or_default().to_owned(),
                    position: (
                        summary["position"]["term"].as_u64().unwrap_or(0),
                        summary["position"]["index"].as_u64().unwrap_or(0),
                    ),
                }
            }
            (Some(_), Some("no")) => Answer::NotCommitted,
            (None | Some(124 | 130), _) => Answer::Unknown,
            (Some(7), Some("unknown")) => Answer::Unknown,
            (Some(1 | 101), Some("unknown")) => Answer::Unknown,
            _ => panic!("a commit must say committed, not committed or unknown: {self}"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit {:?} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.code, self.took, self.stdout, self.stderr
        )
    }
}

/// A command line that is running.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
}

/// What every command line of a cluster shares.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The binary.
    pub binary: PathBuf,
    /// Where outputs are captured; also HOME, so that no context of the caller counts.
    pub folder: PathBuf,
    /// Run as this user and group.
    pub user: Option<(u32, u32)>,
}

impl Shell {
    /// Starts `epochlog ARGS`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, args: &[&OsStr]) -> Running {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let [stdout, stderr] = ["out", "err"].map(|end| self.folder.join(format!("cli-{number}.{end}")));
        let mut command = Command::new(&self.binary);
        clean(&mut command, &self.folder, self.user);
        command.args(args).stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&stderr));
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let words: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
        Running { child, command: words.join(" "), stdout, stderr, started: Instant::now() }
    }
}

/// Whoever runs command lines against a cluster: all that it needs to know of it. Goes to any thread.
#[derive(Debug, Clone)]
pub struct Caller {
    /// How command lines are run.
    pub shell: Shell,
    /// Addresses of the nodes, by id from 1.
    pub addresses: Vec<String>,
}

impl Caller {
    /// All ids, with `first` in front.
    pub fn first(&self, first: u64) -> Vec<u64> {
        let all = 1..=self.addresses.len() as u64;
        std::iter::once(first).chain(all.filter(|id| *id != first)).collect()
    }

    /// Endpoints for a client, in this order of nodes.
    pub fn endpoints(&self, ids: &[u64]) -> String {
        let address = |id: &u64| {
            let index = usize::try_from(*id).ok().and_then(|id| id.checked_sub(1));
            self.addresses[index.expect("node ids count from 1")].as_str()
        };
        ids.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// Starts a command line against these nodes.
    pub fn spawn(&self, nodes: &[u64], args: &[&OsStr]) -> Running {
        let endpoints = self.endpoints(nodes);
        let mut all: Vec<&OsStr> =
            vec!["-e".as_ref(), endpoints.as_ref(), "-o".as_ref(), "json".as_ref(), "--no-progress".as_ref()];
        all.extend(args);
        self.shell.spawn(&all)
    }

    /// Starts a commit of `dir`; `more` are further flags.
    pub fn spawn_commit(&self, nodes: &[u64], dir: &Path, job: &str, epoch: u64, more: &[&str]) -> Running {
        let epoch = epoch.to_string();
        let mut args: Vec<&OsStr> = vec![
            "commit".as_ref(),
            dir.as_ref(),
            "--job".as_ref(),
            job.as_ref(),
            "--epoch".as_ref(),
            epoch.as_ref(),
        ];
        args.extend(more.iter().map(OsStr::new));
        self.spawn(nodes, &args)
    }

    /// Runs a command line against all nodes, beginning with this one.
    pub fn cli<S: AsRef<OsStr>>(&self, first: u64, args: &[S]) -> Output {
        let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        self.spawn(&self.first(first), &args).wait()
    }
}

/// Gives a child process nothing of our environment that could change what it does.
pub(crate) fn clean(command: &mut Command, home: &Path, user: Option<(u32, u32)>) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EPOCHLOG_") {
            command.env_remove(&name);
        }
    }
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME").env_remove("RUST_LOG");
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
}

pub(crate) fn create(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGSTOP.
    pub fn stop(&self) {
        signal(&self.child, Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn cont(&self) {
        signal(&self.child, Signal::CONT);
    }

    /// Sends SIGKILL and waits.
    pub fn kill(mut self) -> Output {
        let _gone = self.child.kill();
        self.wait()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end without a deadline and without polling, for measuring.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn join(mut self) -> Output {
        let _status = self.child.wait().expect("our own child can be waited for");
        let took = self.started.elapsed();
        Output { took, ..self.wait() }
    }

    /// Waits for its end; kills it at [`DEADLINE`].
    ///
    /// # Panics
    /// When it hung.
    pub fn wait(self) -> Output {
        self.wait_for(DEADLINE)
    }

    /// Whether it has come to its end.
    ///
    /// # Panics
    /// When that cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_some()
    }

    /// Waits for its end; kills it after `limit`.
    ///
    /// # Panics
    /// When it hung.
    pub fn wait_for(mut self, limit: Duration) -> Output {
        let ended = try_until(limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        let took = self.started.elapsed();
        if ended.is_err() {
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
        let [stdout, stderr] = [&self.stdout, &self.stderr]
            .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned());
        let lines = objects(&stdout).chain(objects(&stderr)).collect();
        let output = Output {
            code: ended.as_ref().ok().and_then(|status| status.code().filter(|_| status.signal().is_none())),
            stdout,
            stderr,
            lines,
            took,
        };
        assert!(ended.is_ok(), "`epochlog {}` hung for {limit:?}: {output}", self.command);
        output
    }
}

/// The JSON objects in a text: one a line, or the whole text as one pretty object or array.
fn objects(text: &str) -> impl Iterator<Item = Value> {
    let mut found: Vec<Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if found.is_empty() {
        match serde_json::from_str(text) {
            Ok(Value::Array(many)) => found = many,
            Ok(one @ Value::Object(_)) => found.push(one),
            _ => {}
        }
    }
    found.into_iter()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a positive pid");
    kill_process(pid, signal).expect("our own child can be signalled");
}
