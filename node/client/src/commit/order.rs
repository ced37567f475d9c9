//! What to commit, and the command that repeats it.

use checkpoint::epoch::{CommitId, JobName};
use checkpoint::limits::Limits;
use checkpoint::pattern::{Choice, Pattern};

use crate::failure::{Certainty, Code, Failure};

/// What to commit, and how.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The job.
    pub job: JobName,
    /// The epoch; the next one when absent.
    pub epoch: Option<u64>,
    /// The writer's token; absent joins the job's current writer.
    pub token: Option<u64>,
    /// Names this commit: a repeat under the same id finds its own outcome.
    pub commit_id: CommitId,
    /// A log index at which that id was not in use yet; 0 when nobody knows one. Absent: the id was never sent before,
    /// and the client finds one. Whoever repeats a commit in another process gives the same id with the same index:
    /// without it, an outcome that the log has forgotten could not be told from none.
    pub born: Option<u64>,
    /// Labels, `key=value`.
    pub labels: Vec<(String, String)>,
    /// Names of epochs this one depends on.
    pub depends_on: Vec<String>,
    /// Wait until every voter has published it, not only until it is durable on a quorum.
    pub wait_all: bool,
    /// Fence all older writers first.
    pub take_over: bool,
    /// An epoch of this number that is there already is a success, whatever it holds.
    pub if_not_exists: bool,
    /// Which entries of the directory.
    pub choice: Choice,
    /// The caller promises that files never change in place.
    pub immutable: bool,
    /// Let a node on this machine read the directory itself.
    pub by_path: bool,
    /// Limits of the plan.
    pub limits: Limits,
}

impl Commit {
    /// A commit of the next epoch of `job` with a fresh commit id.
    pub fn new(job: JobName) -> Commit {
        Commit {
            job,
            epoch: None,
            token: None,
            commit_id: CommitId::from_bytes(rand::random()),
            born: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
            wait_all: false,
            take_over: false,
            if_not_exists: false,
            choice: Choice::default(),
            immutable: false,
            by_path: true,
            limits: Limits::default(),
        }
    }

    /// What is wrong with patterns that no command could repeat.
    pub(super) fn unwritable(&self) -> Option<Failure> {
        let mut patterns = self.choice.include.iter().chain(&self.choice.exclude).map(Pattern::text);
        let odd = patterns.find(|pattern| std::str::from_utf8(pattern).is_err())?;
        Some(
            Failure::new(Code::Usage, "a pattern cannot be used, the epoch was NOT committed")
                .why(format!("{:?} is not UTF-8", String::from_utf8_lossy(&odd)))
                .fix("write ? for each byte that is no text: it stands for any byte of a name")
                .committed(Certainty::No),
        )
    }

    /// The command that repeats this commit of `dir`: idempotent, under the same commit id.
    pub fn command(&self, dir: &str, endpoints: &[String]) -> String {
        let mut words = vec!["epochlog".to_owned()];
        if !endpoints.is_empty() {
            words.extend(["-e".to_owned(), quoted(&endpoints.join(","))]);
        }
        words.extend(["commit".to_owned(), quoted(dir), "--job".to_owned(), self.job.to_string()]);
        if let Some(epoch) = self.epoch {
            words.extend(["--epoch".to_owned(), epoch.to_string()]);
        }
        // Before it has a birth, no node has seen the id: a new one will do.
        match self.born {
            Some(0) => words.extend(["--commit-id".to_owned(), self.commit_id.to_string()]),
            Some(born) => words.extend(["--commit-id".to_owned(), format!("{}.{born}", self.commit_id)]),
            None => {}
        }
        if let Some(token) = self.token {
            words.extend(["--token".to_owned(), token.to_string()]);
        }
        for (key, value) in &self.labels {
            words.extend(["--label".to_owned(), quoted(&format!("{key}={value}"))]);
        }
        for name in &self.depends_on {
            words.extend(["--depends-on".to_owned(), quoted(name)]);
        }
        for (flag, patterns) in [("--include", &self.choice.include), ("--exclude", &self.choice.exclude)] {
            let text = |pattern: &Pattern| quoted(&String::from_utf8_lossy(&pattern.text()));
            words.extend(patterns.iter().flat_map(|pattern| [flag.to_owned(), text(pattern)]));
        }
        // With a token the take-over is done: the token stands for it.
        let flags = [
            (self.wait_all, "--wait all"),
            (self.take_over && self.token.is_none(), "--take-over"),
            (self.if_not_exists, "--if-not-exists"),
            (self.immutable, "--immutable"),
            (!self.by_path, "--stream"),
        ];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
        words.join(" ")
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        true => word.to_owned(),
        // A leading dash would read as a flag; only a path can have one.
        false if word.starts_with('-') => quoted(&format!("./{word}")),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_repeat_holds_all_that_matters() {
        let mut commit = Commit::new("etl".parse().expect("a good name"));
        commit.commit_id = CommitId::from_bytes([0xab; 16]);
        assert!(!commit.command("d", &[]).contains("--commit-id"), "nobody has seen it yet");
        commit.born = Some(31);
        commit.epoch = Some(7);
        commit.labels = vec![("note".into(), "it's late".into())];
        commit.wait_all = true;
        commit.take_over = true;
        commit.choice.exclude = vec![Pattern::new(b"**/*.log"), Pattern::new(b"-x")];
        let endpoints = ["a:1".to_owned(), "b:2".to_owned()];
        let id = "ab".repeat(16);
        assert_eq!(
            commit.command("my dir", &endpoints),
            format!(
                "epochlog -e a:1,b:2 commit 'my dir' --job etl --epoch 7 --commit-id {id}.31 \
                 --label 'note=it'\\''s late' --exclude '**/*.log' --exclude ./-x --wait all --take-over"
            )
        );
        // The take-over is done.
        commit.token = Some(9);
        let again = commit.command("-d", &[]);
        assert!(again.starts_with("epochlog commit ./-d --job etl"), "{again}");
        assert!(again.contains("--token 9") && !again.contains("--take-over"), "{again}");
    }
}
