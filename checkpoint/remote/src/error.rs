//! What goes wrong with a store: what was tried, why it failed, what to do.

use std::fmt;
use std::io;

/// What kind of trouble it is: who calls decides by this, never by words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The configuration cannot be used.
    Configuration,
    /// The object is not there.
    Missing,
    /// The store knows us not, or we may not.
    Denied,
    /// No answer, or only *busy*, for longer than the limits allow. Whether the store did what was asked is unknown;
    /// of keys that are written once that does no harm.
    Away,
    /// The store answered that it does not do this, and would say so again.
    Refused,
    /// What came back, or what the store says that it has, is not what was written.
    Damaged,
    /// What is to be uploaded is not what it was when it was planned.
    Changed,
    /// The prefix belongs to another cluster, or a copy of this one has deleted here.
    Foreign,
    /// The disk of this machine: the journal, or the source.
    Disk,
}

/// An error of this crate. No secret stands in it.
#[derive(Debug)]
pub struct StoreError {
    trouble: Trouble,
    what: String,
    why: String,
    advice: String,
}

impl StoreError {
    /// `what` was tried, `why` it failed, `advice` what to do.
    pub(crate) fn new(
        trouble: Trouble,
        what: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> StoreError {
        StoreError { trouble, what: what.into(), why: why.into(), advice: advice.into() }
    }

    pub(crate) fn configuration(
        what: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        StoreError::new(Trouble::Configuration, what, why, advice)
    }

    /// The disk of this machine said so while `what` was tried.
    pub fn disk(what: impl Into<String>, error: &io::Error) -> StoreError {
        StoreError::new(
            Trouble::Disk,
            what,
            error.to_string(),
            "see to that disk of this machine, then repeat: nothing was committed",
        )
    }

    /// Of the journal of uploads: that somebody is writing there passes.
    pub(crate) fn journal(what: impl Into<String>, error: &io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::ResourceBusy => {
                StoreError::new(Trouble::Away, what, error.to_string(), "wait for the other to end")
            }
            _ => StoreError::disk(what, error),
        }
    }

    /// The kind.
    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// What was tried.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why it failed.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What to do.
    pub fn advice(&self) -> &str {
        &self.advice
    }

    /// Whether repeating later may help without anybody changing anything.
    pub fn may_pass(&self) -> bool {
        self.trouble == Trouble::Away
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.advice)
    }
}

impl std::error::Error for StoreError {}
