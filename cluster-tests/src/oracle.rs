//! What a run did and what it saw, in the order in which it happened, for the
//! invariants to judge. Pure data: observing real clusters is `observe`'s work.
//!
//! A commit that got no answer is *unknown*, not failed: it may have happened,
//! may be visible already, and has one outcome for ever.

use std::collections::BTreeMap;

use crate::walk::Fingerprint;

/// One epoch of one job.
pub type Name = (String, u64);

/// Term and index of a sealed epoch in the log.
pub type Position = (u64, u64);

/// Root and position of a sealed epoch, as the product prints them.
pub type Sealed = (String, Position);

/// What a commit answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Sealed, with its root and its position (term, index).
    Committed {
        /// The root as the client printed it.
        root: String,
        /// Term and index.
        position: Position,
    },
    /// Surely not sealed by this commit.
    NotCommitted,
    /// Nobody knows yet.
    Unknown,
}

/// One event of a history.
#[derive(Debug, Clone)]
pub enum Event {
    /// A commit was asked for and answered (or given up waiting for).
    Commit {
        /// Which epoch.
        name: Name,
        /// What the source directory held, by our own walk.
        content: Fingerprint,
        /// The answer.
        answer: Answer,
    },
    /// A linearizable reader asked for the newest epoch of a job.
    Latest {
        /// The job.
        job: String,
        /// Its newest epoch, if any.
        epoch: Option<u64>,
    },
    /// Somebody asked for the end of an epoch.
    Removed {
        /// Which epoch.
        name: Name,
        /// Whether the cluster said that it is gone; if not, it may be there or not.
        acknowledged: bool,
    },
    /// The healed cluster was looked at.
    Observed(Observation),
    /// An epoch was restored.
    Restored {
        /// Which epoch.
        name: Name,
        /// The content of the restored directory, by our own walk.
        content: Fingerprint,
        /// The root that the product's `digest` gives for it.
        digest: String,
        /// The root that the manifest names.
        root: String,
    },
}

/// What the healed cluster shows.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The sealed epochs by a linearizable list, with root and position.
    pub sealed: BTreeMap<Name, Sealed>,
    /// What lies published on each node's disk, by our own walk.
    pub published: BTreeMap<u64, BTreeMap<Name, Fingerprint>>,
    /// `latest` on each node's disk, for each job.
    pub latest: BTreeMap<u64, BTreeMap<String, u64>>,
}

/// Everything that happened, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The events.
    pub events: Vec<Event>,
}

impl History {
    /// Adds an event at the end.
    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// All commits with their place in the history.
    pub fn commits(&self) -> impl Iterator<Item = (usize, &Name, Fingerprint, &Answer)> {
        self.events.iter().enumerate().filter_map(|(at, event)| match event {
            Event::Commit { name, content, answer } => Some((at, name, *content, answer)),
            _ => None,
        })
    }

    /// All observations with their place in the history.
    pub fn observations(&self) -> impl Iterator<Item = (usize, &Observation)> {
        self.events.iter().enumerate().filter_map(|(at, event)| match event {
            Event::Observed(seen) => Some((at, seen)),
            _ => None,
        })
    }

    /// All asked removals with their place in the history: name and whether it was acknowledged.
    pub fn removals(&self) -> impl Iterator<Item = (usize, &Name, bool)> {
        self.events.iter().enumerate().filter_map(|(at, event)| match event {
            Event::Removed { name, acknowledged } => Some((at, name, *acknowledged)),
            _ => None,
        })
    }

    /// How many commits got this kind of answer: committed, not committed, unknown.
    pub fn tally(&self) -> [usize; 3] {
        let count =
            |wanted: fn(&Answer) -> bool| self.commits().filter(|(_, _, _, answer)| wanted(answer)).count();
        [
            count(|answer| matches!(answer, Answer::Committed { .. })),
            count(|answer| *answer == Answer::NotCommitted),
            count(|answer| *answer == Answer::Unknown),
        ]
    }
}
