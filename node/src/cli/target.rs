//! `JOB[@EPOCH]`: which epoch of which job.

use std::fmt;
use std::str::FromStr;

use checkpoint::JobName;
use client::pb;

/// Which epoch of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest committed one, or so many before it.
    Back(u64),
    /// This one.
    Exactly(u64),
}

/// A job and one of its epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The job.
    pub job: JobName,
    /// The epoch; none was named when absent.
    pub which: Option<Which>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (job, epoch) = match text.split_once('@') {
            None => (text, None),
            Some((job, epoch)) => (job, Some(epoch)),
        };
        let job = job.parse::<JobName>().map_err(|error| error.to_string())?;
        let which = epoch.map(parse_which).transpose()?;
        Ok(Target { job, which })
    }
}

fn parse_which(text: &str) -> Result<Which, String> {
    if text == "latest" {
        return Ok(Which::Back(0));
    }
    let parsed = match text.strip_prefix('-') {
        Some(back) => back.parse().map(Which::Back),
        None => text.parse().map(Which::Exactly),
    };
    parsed.map_err(|_| format!("{text:?} is not an epoch: write a number, latest or -1"))
}

impl Target {
    /// As the API wants it; the newest when none was named.
    pub fn to_pb(&self) -> pb::Which {
        let kind = match self.which.unwrap_or(Which::Back(0)) {
            Which::Back(back) => pb::which::Kind::Back(back),
            Which::Exactly(epoch) => pb::which::Kind::Exactly(epoch),
        };
        pb::Which { kind: Some(kind) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.job)?;
        match self.which {
            None => Ok(()),
            Some(Which::Back(0)) => write!(f, "@latest"),
            Some(Which::Back(back)) => write!(f, "@-{back}"),
            Some(Which::Exactly(epoch)) => write!(f, "@{epoch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_epochs_parse() {
        let which = |text: &str| text.parse::<Target>().unwrap().which;
        assert_eq!(which("wordcount"), None);
        assert_eq!(which("wordcount@42"), Some(Which::Exactly(42)));
        assert_eq!(which("wordcount@latest"), Some(Which::Back(0)));
        assert_eq!(which("wordcount@-1"), Some(Which::Back(1)));
        for bad in ["", "@1", "job@", "job@x", "job@1@2", "a/b@1", ".hidden", "job@--1"] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
        for same in ["wordcount", "wordcount@42", "wordcount@latest", "wordcount@-3"] {
            assert_eq!(same.parse::<Target>().unwrap().to_string(), same);
        }
    }
}
