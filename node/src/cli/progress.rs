//! Progress of long work: a bar on a terminal, lines for programs that asked for `jsonl`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::output::Output;
use super::screen;

/// One piece of long work.
pub struct Progress<'a> {
    bar: ProgressBar,
    output: &'a Output,
    kind: &'static str,
}

impl<'a> Progress<'a> {
    /// Starts with an unknown total.
    pub fn start(output: &'a Output, kind: &'static str) -> Progress<'a> {
        let bar = if output.bars { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(kind);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, output, kind }
    }

    /// So many bytes of so many are done.
    pub fn at(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.output
            .progress(&json!({ "type": "progress", "what": self.kind, "bytes": done, "total_bytes": total }));
    }

    /// News for programs that asked for `jsonl`.
    pub fn tell(&self, news: &serde_json::Value) {
        self.output.progress(news);
    }

    /// A note above the bar.
    pub fn note(&self, text: &str) {
        if self.output.bars {
            self.bar.println(screen::cell(text));
        } else {
            self.output.note(screen::cell(text));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
