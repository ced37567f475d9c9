//! strace, attached to running nodes: to see the order of their system calls,
//! and to make single calls fail or take long.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::cli::{create, signal};
use crate::wait::{try_until, wait_until};

/// One finished system call.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it began, in seconds.
    pub start: f64,
    /// When it was back, in seconds.
    pub end: f64,
    /// Its name.
    pub name: String,
    /// The file or socket behind its first argument.
    pub about: String,
    /// All arguments, strings in hexadecimal.
    pub args: String,
    /// Whether strace made it fail.
    pub injected: bool,
    /// Whether it gave no error.
    pub ok: bool,
}

impl Call {
    /// Whether it writes to a file or socket.
    pub fn writes(&self) -> bool {
        ["write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg"]
            .contains(&self.name.as_str())
    }

    /// Whether it makes a file durable.
    pub fn syncs(&self) -> bool {
        self.name == "fdatasync" || self.name == "fsync"
    }

    /// Whether these bytes (in hexadecimal) are among its arguments.
    pub fn carries(&self, hex: &str) -> bool {
        self.args.contains(hex)
    }
}

/// A running strace.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    out: PathBuf,
}

impl Trace {
    /// Attaches to a process and all its threads. `None` when strace is missing
    /// or may not attach: the story is then skipped, loudly.
    ///
    /// # Panics
    /// When strace neither attaches nor ends.
    pub fn attach(pid: u32, out: PathBuf, args: &[OsString]) -> Option<Trace> {
        let said = out.with_extension("err");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-yy", "-ttt", "-T", "-xx", "-o"])
            .arg(&out)
            .args(args)
            .arg("-p")
            .arg(pid.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(create(&said));
        let mut child = command.spawn().ok()?;
        let attached = wait_until(Duration::from_secs(20), "strace to attach", || {
            // Looked at first: whoever attached may have ended with the process since, and has said so then.
            let ended = matches!(child.try_wait(), Ok(Some(_)));
            let text = fs::read_to_string(&said).unwrap_or_default();
            match text.contains("attached") {
                true => Ok(true),
                false if ended => Ok(false),
                false => Err(text),
            }
        });
        if attached { Some(Trace { child, out }) } else { None }
    }

    /// Lets go of the process and gives the calls that were seen, in order of their beginning.
    ///
    /// # Panics
    /// When strace does not let go, or its output cannot be read.
    pub fn detach(mut self) -> Vec<Call> {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&self.child, Signal::INT);
        }
        wait_until(Duration::from_secs(20), "strace to let go", || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        read(&self.out)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&self.child, Signal::INT);
            let ended: Result<(), ()> = try_until(Duration::from_secs(5), || match self.child.try_wait() {
                Ok(None) => Err(()),
                _ => Ok(()),
            });
            if ended.is_err() {
                let _gone = self.child.kill();
                let _status = self.child.wait();
            }
        }
    }
}

/// Whether strace is there.
pub fn is_there() -> bool {
    Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The calls in an output file of `strace -f -yy -ttt -T -xx`.
fn read(out: &Path) -> Vec<Call> {
    parse(&String::from_utf8_lossy(
        &fs::read(out).unwrap_or_else(|error| panic!("{}: {error}", out.display())),
    ))
}

fn parse(text: &str) -> Vec<Call> {
    let mut open: Vec<(String, f64, String)> = Vec::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(2, ' ');
        let (Some(pid), Some(rest)) = (words.next(), words.next()) else { continue };
        let Some((time, rest)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            open.push((pid.to_owned(), time, begun.to_owned()));
        } else if rest.starts_with("<... ") {
            let Some(at) = open.iter().rposition(|(owner, _, _)| owner == pid) else { continue };
            let (_, start, begun) = open.swap_remove(at);
            let end = rest.split_once(" resumed>").map_or("", |(_, end)| end);
            calls.extend(call(start, Some(time), &format!("{begun}{end}")));
        } else {
            calls.extend(call(time, None, rest));
        }
    }
    calls.sort_by(|a: &Call, b| a.start.total_cmp(&b.start));
    calls
}

/// One call from its whole line; `back` is known for a call that was interrupted in the output.
fn call(start: f64, back: Option<f64>, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once(") = ")?;
    let took = result
        .rsplit_once('<')
        .and_then(|(_, took)| took.trim_end_matches('>').parse::<f64>().ok())
        .unwrap_or(0.0);
    let about = args.split_once('<').map_or("", |(_, about)| about);
    let about = if about.starts_with("TCP") { about.split_once("]>") } else { about.split_once('>') };
    Some(Call {
        start,
        end: back.unwrap_or(start + took),
        name: name.to_owned(),
        about: unescape(about.map_or("", |(about, _)| about)),
        args: args.replace("\\x", ""),
        injected: result.contains("(INJECTED)"),
        ok: !result.starts_with('-'),
    })
}

/// Undoes `\x2f` for what is readable.
fn unescape(text: &str) -> String {
    let mut pieces = text.split("\\x");
    let mut out = pieces.next().unwrap_or("").to_owned();
    for piece in pieces {
        let (hex, rest) = piece.split_at(piece.len().min(2));
        out.push(u8::from_str_radix(hex, 16).map_or('?', char::from));
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_strace_become_calls() {
        let text = "\
7 100.5 pwrite64(4<\\x2f\\x61\\x2f\\x62>, \"\\x01\\xff\", 2, 0) = 2 <0.25>
8 100.6 fdatasync(5</log/x> <unfinished ...>
7 100.7 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\\x0a\", 1, 0, NULL, 0) = 1 <0.1>
8 101.0 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED) <0.4>
9 101.5 +++ exited with 0 +++
";
        let calls = parse(text);
        assert_eq!(calls.len(), 3);
        assert_eq!(
            (calls[0].name.as_str(), calls[0].about.as_str(), calls[0].end),
            ("pwrite64", "/a/b", 100.75)
        );
        assert!(calls[0].writes() && calls[0].carries("01ff"));
        assert_eq!((calls[1].about.as_str(), calls[1].start, calls[1].end), ("/log/x", 100.6, 101.0));
        assert!(calls[1].injected && calls[1].syncs() && !calls[1].ok);
        assert_eq!(calls[2].about, "TCP:[127.0.0.1:1->127.0.0.1:2");
    }
}
