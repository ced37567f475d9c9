//! How answers and failures look: tables for people, JSON for programs.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use client::Failure;
use serde_json::{Value, json};

use super::Global;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people
    Table,
    /// One JSON object a line
    Json,
    /// The same, with progress, and a last `summary` or `error` line
    Jsonl,
}

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
    stdout: Mutex<()>,
}

impl Output {
    /// As the flags say.
    pub fn new(global: &Global) -> Output {
        let bars = global.output == Format::Table
            && !global.quiet
            && !global.no_progress
            && std::io::stderr().is_terminal();
        Output {
            format: global.output,
            quiet: global.quiet,
            bars,
            verbose: global.verbose,
            stdout: Mutex::new(()),
        }
    }

    /// Whether programs read this.
    pub fn is_json(&self) -> bool {
        self.format != Format::Table
    }

    /// A line of data.
    pub fn line(&self, text: impl AsRef<str>) {
        let _one_line_at_a_time = self.stdout.lock();
        // A closed pipe (`| head`) is no failure.
        let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
    }

    /// An object of data.
    pub fn json(&self, value: &Value) {
        self.line(value.to_string());
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
            let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// A failure: four lines on stderr, or one JSON object on stdout.
    pub fn failure(&self, failure: &Failure) {
        if self.is_json() {
            self.json(&failure_json(failure));
        } else {
            let _ = write!(std::io::stderr().lock(), "{}", block(failure));
        }
    }
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
    let mut block = format!("error: {}\n", failure.sentence);
    for (name, text) in [("what", &failure.what), ("why ", &failure.why), ("do  ", &failure.fix)] {
        if !text.is_empty() {
            block.push_str(&format!("  {name}  {}\n", text.replace('\n', " ")));
        }
    }
    block
}

/// Rows with columns as wide as their widest cell, two spaces apart; the last column is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                let pad = widths[column] + 2 - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
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
    fn columns_line_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        insta::assert_snapshot!(table(&[row(["EPOCH", "AGE", "ROOT"]), row(["42", "3s", "9f31c2d0"])]), @r"
        EPOCH  AGE  ROOT
        42     3s   9f31c2d0
        ");
    }
}
