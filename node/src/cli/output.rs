//! How answers and failures look: text for people, JSON for programs.
//!
//! With JSON a command has one outcome: one object, which is printed when it ends. Where it fails after all, the object
//! tells the failure, and what is known besides. An answer that cannot be written is a failure, too: whoever asked has
//! nothing.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use checkpoint::IoError;
use client::Failure;
use serde_json::{Value, json};

use super::global::{Format, Global};
use super::{screen, signals};
use crate::exit::Exit;

/// Set before anything else runs when the process has got no stdout: the runtime puts `/dev/null` there, which takes
/// everything and keeps nothing.
pub static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Where a command's answers go.
#[derive(Debug)]
pub struct Output {
    /// The form that was asked for.
    pub format: Format,
    /// Only data and errors.
    pub quiet: bool,
    /// Progress bars may be drawn.
    pub bars: bool,
    /// Details are wanted.
    pub verbose: u8,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What came of the command, for programs.
    outcome: Option<Value>,
    /// There is no stdout.
    closed: bool,
    /// Why nothing more is written.
    broken: Option<io::Error>,
}

impl Output {
    /// As the flags say.
    pub fn new(global: &Global) -> Output {
        let bars = global.output == Format::Table
            && !global.quiet
            && !global.no_progress
            && io::stderr().is_terminal();
        Output {
            format: global.output,
            quiet: global.quiet,
            bars,
            verbose: global.verbose,
            state: Mutex::new(State { closed: STDOUT_CLOSED.load(Ordering::Relaxed), ..State::default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether programs read this.
    pub fn is_json(&self) -> bool {
        self.format != Format::Table
    }

    /// Whether nobody gets what is written: whoever goes on for ever ends then.
    pub fn is_broken(&self) -> bool {
        self.state().broken.is_some()
    }

    fn write(&self, text: &str, redraw: bool) {
        let mut state = self.state();
        if state.broken.is_none() {
            let written = match state.closed {
                true => Err(io::Error::other("it is closed")),
                false => screen::write(text, redraw),
            };
            state.broken = written.err();
        }
    }

    /// A line of data, or several.
    pub fn line(&self, text: impl AsRef<str>) {
        self.write(&screen::lines(text.as_ref()), false);
    }

    /// The same in place of all that the terminal shows.
    pub fn redraw(&self, text: &str) {
        self.write(&screen::lines(text), true);
    }

    /// An object of data.
    pub fn json(&self, value: &Value) {
        self.write(&screen::json(&value.to_string()), false);
    }

    /// What came of the command, for programs. Printed once, when the command ends.
    pub fn outcome(&self, value: Value) {
        self.state().outcome = Some(value);
    }

    /// Progress, for programs that asked for it.
    pub fn progress(&self, value: &Value) {
        if self.format == Format::Jsonl {
            self.json(value);
        }
    }

    /// A note for people, on stderr.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.is_json() {
            // Whether notes can be read is nobody's failure.
            let _ = writeln!(io::stderr().lock(), "{}", screen::lines(text.as_ref()));
        }
    }

    /// The end of the command: tells what came of it. The number is the exit code.
    pub fn end(&self, ended: Result<(), Failure>) -> i32 {
        let outcome = self.state().outcome.take().filter(|_| self.is_json());
        match (&ended, outcome) {
            (Ok(()), None) => {}
            (Ok(()), Some(outcome)) => self.json(&outcome),
            (Err(failure), outcome) if self.is_json() => self.json(&merged(outcome, failure)),
            (Err(failure), _) => tell(failure),
        }
        let unwritten = self.state().broken.take().and_then(unwritten);
        match (ended, unwritten) {
            (Ok(()), None) => Exit::Done.code(),
            (Ok(()), Some(unwritten)) => {
                tell(&unwritten);
                exit_code(&unwritten)
            }
            (Err(failure), unwritten) => {
                // The object that should tell it went nowhere.
                if self.is_json() && unwritten.is_some() {
                    tell(&failure);
                }
                exit_code(&failure)
            }
        }
    }
}

/// What it means that stdout cannot be written. A reader that has gone (`| head`) has what it wanted.
pub fn unwritten(source: io::Error) -> Option<Failure> {
    (source.kind() != ErrorKind::BrokenPipe).then(|| {
        let error = IoError { path: "standard output".into(), what: "write", source };
        Failure::from_io(&error)
            .sentence("the command was carried out, but its output cannot be written")
            .what("what it should have printed is lost")
    })
}

/// The exit code of a command that has failed.
pub fn exit_code(failure: &Failure) -> i32 {
    match Exit::of(failure) {
        Exit::Interrupted => signals::exit_code(),
        exit => exit.code(),
    }
}

/// Tells people of a failure.
pub fn tell(failure: &Failure) {
    // Where not even this can be written the exit code is all there is.
    let _ = write!(io::stderr().lock(), "{}", block(failure));
}

/// A failure, and what is known besides.
fn merged(outcome: Option<Value>, failure: &Failure) -> Value {
    let (mut all, told) = (outcome.unwrap_or_else(|| json!({})), failure_json(failure));
    if let (Some(all), Value::Object(told)) = (all.as_object_mut(), told) {
        all.extend(told);
    }
    all
}

/// A failure as an object.
pub fn failure_json(failure: &Failure) -> Value {
    let mut value = json!({
        "type": "error",
        "code": failure.code.name(),
        "error": failure.sentence,
        "what": failure.what,
        "why": failure.why,
        "do": failure.fix,
    });
    if let Some(committed) = failure.committed.name() {
        value["committed"] = committed.into();
    }
    if let Some(epoch) = failure.epoch {
        value["epoch"] = epoch.into();
    }
    value
}

/// A failure as a block of at most four lines.
pub fn block(failure: &Failure) -> String {
    let line = |text: &str| screen::cell(&text.replace('\n', " "));
    let mut block = format!("error: {}\n", line(&failure.sentence));
    for (name, text) in [("what", &failure.what), ("why ", &failure.why), ("do  ", &failure.fix)] {
        if !text.is_empty() {
            block.push_str(&format!("  {name}  {}\n", line(text)));
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{Certainty, Code};

    fn failure() -> Failure {
        Failure::new(Code::NoQuorum, "no quorum, the epoch was NOT committed")
            .what("commit etl@57 got 1 of 2 needed acknowledgements within 30s")
            .why("node 2 (10.0.0.2:7411) connection refused")
            .fix("start node 2, then repeat the command: it is idempotent. Your directory is untouched.")
            .committed(Certainty::No)
    }

    #[test]
    fn an_error_block_has_four_lines() {
        insta::assert_snapshot!(block(&failure()), @r"
        error: no quorum, the epoch was NOT committed
          what  commit etl@57 got 1 of 2 needed acknowledgements within 30s
          why   node 2 (10.0.0.2:7411) connection refused
          do    start node 2, then repeat the command: it is idempotent. Your directory is untouched.
        ");
        let hostile = failure().why("a\nerror: faked\x1b[2J");
        assert_eq!(block(&hostile).lines().count(), 4, "{}", block(&hostile));
        assert!(!block(&hostile).contains('\x1b'));
    }

    #[test]
    fn a_line_without_text_is_left_out() {
        assert_eq!(block(&Failure::new(Code::NotFound, "no such job")), "error: no such job\n");
    }

    #[test]
    fn a_json_error_names_code_and_certainty() {
        let value = failure_json(&failure());
        assert_eq!(value["type"], "error");
        assert_eq!(value["code"], "NoQuorum");
        assert_eq!(value["committed"], "no");
        assert!(failure_json(&Failure::new(Code::NotFound, "x")).get("committed").is_none());
    }

    #[test]
    fn a_failure_after_an_answer_is_one_object_with_both() {
        let answer = json!({ "type": "summary", "root": "9f31", "committed": "yes" });
        let value =
            merged(Some(answer), &Failure::new(Code::Partial, "committed, but").committed(Certainty::Yes));
        assert_eq!((&value["type"], &value["code"]), (&"error".into(), &"Partial".into()));
        assert_eq!((&value["root"], &value["committed"]), (&"9f31".into(), &"yes".into()));
        assert_eq!(merged(None, &failure()), failure_json(&failure()));
    }

    #[test]
    fn only_a_reader_that_has_gone_has_what_it_wanted() {
        assert!(unwritten(io::Error::from_raw_os_error(32)).is_none());
        let full = unwritten(io::Error::from_raw_os_error(28)).unwrap();
        assert_eq!(full.code, Code::NoSpace);
        assert!(full.why.contains("standard output"), "{full:?}");
        assert_eq!(exit_code(&unwritten(io::Error::other("it is closed")).unwrap()), 1);
    }
}
