//! How much the epochs lack that are still to be hydrated.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::JobName;
use nativelog::machine::Missing;

/// Attempt, job and number of an epoch.
pub(super) type Named = (u64, JobName, u64);

/// What epochs lack that are sought, looked up once, and again when something of it may have come. What several lack counts
/// for each.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// By attempt, in bytes.
    pub bytes: BTreeMap<u64, u64>,
    /// These may lack less by now.
    pub again: BTreeSet<u64>,
}

impl Counted {
    /// Only these are still sought.
    pub fn keep<'a>(&mut self, sought: impl Iterator<Item = &'a Missing>) {
        let attempts: BTreeSet<u64> = sought.map(|missing| missing.attempt).collect();
        self.bytes.retain(|attempt, _| attempts.contains(attempt));
        self.again.retain(|attempt| attempts.contains(attempt));
    }

    /// Of these, those that are to be looked up now.
    pub fn due<'a>(&mut self, sought: impl Iterator<Item = &'a Missing>) -> Vec<Named> {
        let again = std::mem::take(&mut self.again);
        let is_due = |missing: &&Missing| {
            !self.bytes.contains_key(&missing.attempt) || again.contains(&missing.attempt)
        };
        sought.filter(is_due).map(|missing| (missing.attempt, missing.job.clone(), missing.epoch)).collect()
    }

    /// Of all together.
    pub fn all(&self) -> u64 {
        self.bytes.values().fold(0, |all: u64, one| all.saturating_add(*one))
    }
}

#[cfg(test)]
mod tests {
    use checkpoint::Digest;

    use super::*;

    #[test]
    fn what_an_epoch_lacks_is_looked_up_once_and_again_when_something_may_have_come() {
        let missing = |attempt| Missing {
            job: "job".parse().unwrap(),
            epoch: attempt,
            attempt,
            root: Digest::NONE,
            has_tree: true,
            verifying: false,
            why: String::new(),
        };
        let (sought, mut counted) = ([missing(1), missing(2)], Counted::default());
        let due = |counted: &mut Counted| {
            counted.due(sought.iter()).into_iter().map(|(attempt, ..)| attempt).collect::<Vec<_>>()
        };
        assert_eq!(due(&mut counted), [1, 2]);
        counted.bytes.extend([(1, 10), (2, 20)]);
        assert!(due(&mut counted).is_empty());
        counted.again.insert(2);
        assert_eq!(counted.all(), 30, "their room is spoken for until it is known that they need it no more");
        assert_eq!(due(&mut counted), [2]);
        assert!(due(&mut counted).is_empty());
        counted.bytes.extend([(2, 5)]);
        counted.keep(sought[..1].iter());
        assert_eq!(counted.all(), 10);
    }
}
