//! The properties that must be true of any history: pure functions, one file each,
//! each with the bad histories that it must catch.

use std::fmt;

use crate::oracle::History;

mod acknowledged_is_kept;
mod latest_is_monotone;
mod removed_is_gone;
mod replicas_agree;
mod restored_is_sealed;
mod unknown_has_one_outcome;
mod unsealed_is_invisible;

/// A broken property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name in the project's list of invariants.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.invariant, self.what)
    }
}

/// Checks every property.
///
/// # Errors
/// All violations found.
pub fn check(history: &History) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    for property in [
        acknowledged_is_kept::check,
        latest_is_monotone::check,
        removed_is_gone::check,
        restored_is_sealed::check,
        replicas_agree::check,
        unsealed_is_invisible::check,
        unknown_has_one_outcome::check,
    ] {
        property(history, &mut |invariant, what| found.push(Violation { invariant, what }));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Checks every property of a history in which something must have happened.
///
/// # Panics
/// On any violation, and on a history without a commit or an observation (I12).
pub fn assert_holds(history: &History) {
    assert!(history.commits().next().is_some(), "I12: a history without commits proves nothing");
    assert!(history.observations().next().is_some(), "I12: a history without observations proves nothing");
    if let Err(found) = check(history) {
        let lines: Vec<_> = found.iter().map(Violation::to_string).collect();
        panic!("{}\nthe history: {:#?}", lines.join("\n"), history.events);
    }
}

#[cfg(test)]
mod tests {
    //! Short ways to write histories down, for the tests of all properties.

    use super::*;
    use crate::oracle::{Answer, Event, Observation};
    use crate::walk::Fingerprint;

    pub(super) fn commit(epoch: u64, content: u64, answer: Answer) -> Event {
        Event::Commit { name: ("j".into(), epoch), content: Fingerprint(content), answer }
    }

    pub(super) fn yes(content: u64) -> Answer {
        Answer::Committed { root: format!("root{content}"), position: (1, content) }
    }

    /// Every epoch, as (number, content), sealed and published on the nodes 1 to 3.
    pub(super) fn seen(epochs: &[(u64, u64)]) -> Event {
        let mut observation = Observation::default();
        for (epoch, content) in epochs {
            observation.sealed.insert(("j".into(), *epoch), (format!("root{content}"), (1, *content)));
        }
        for node in 1..=3 {
            let published = observation.published.entry(node).or_default();
            published
                .extend(epochs.iter().map(|(epoch, content)| (("j".into(), *epoch), Fingerprint(*content))));
            let newest = epochs.iter().map(|(epoch, _)| *epoch).max();
            observation.latest.entry(node).or_default().extend(newest.map(|epoch| ("j".into(), epoch)));
        }
        Event::Observed(observation)
    }

    /// Changes an observation.
    pub(super) fn with(event: Event, change: impl FnOnce(&mut Observation)) -> Event {
        match event {
            Event::Observed(mut observation) => {
                change(&mut observation);
                Event::Observed(observation)
            }
            other => other,
        }
    }

    /// The names of the properties that a history breaks.
    pub(super) fn broken(events: Vec<Event>) -> Vec<&'static str> {
        let mut names: Vec<_> =
            check(&History { events }).err().unwrap_or_default().iter().map(|one| one.invariant).collect();
        names.dedup();
        names
    }

    #[test]
    fn a_good_history_breaks_nothing() {
        let events = vec![
            commit(1, 10, yes(10)),
            commit(2, 20, Answer::Unknown),
            commit(3, 30, Answer::NotCommitted),
            commit(4, 40, Answer::Unknown),
            Event::Latest { job: "j".into(), epoch: Some(2) },
            seen(&[(1, 10), (2, 20)]),
            Event::Restored {
                name: ("j".into(), 1),
                content: Fingerprint(10),
                digest: "root10".into(),
                root: "root10".into(),
            },
            seen(&[(1, 10), (2, 20)]),
            commit(4, 40, yes(40)),
            seen(&[(1, 10), (2, 20), (4, 40)]),
        ];
        assert_eq!(broken(events), [""; 0]);
    }

    #[test]
    #[should_panic(expected = "I12")]
    fn an_empty_history_proves_nothing() {
        assert_holds(&History::default());
    }
}
