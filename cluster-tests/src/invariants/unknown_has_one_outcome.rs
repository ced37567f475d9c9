//! An *unknown* commit has one outcome, for ever: once the healed cluster shows
//! it or does not, every later look says the same, until somebody repeats it or
//! asks for its end.

use std::collections::BTreeMap;

use crate::oracle::{Answer, Event, History, Name, Sealed};

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    // For each unknown commit: what the first look after it said.
    let mut outcome: BTreeMap<&Name, Option<Option<&Sealed>>> = BTreeMap::new();
    for event in &history.events {
        match event {
            Event::Commit { name, answer: Answer::Unknown, .. } => {
                // What was seen sealed stays so; what was not may come by the repetition.
                let known = outcome.entry(name).or_insert(None);
                if *known == Some(None) {
                    *known = None;
                }
            }
            Event::Commit { name, answer, .. } => {
                if let Some(known) = outcome.get(name).copied().flatten().flatten() {
                    match answer {
                        Answer::Committed { position, .. } if *position != known.1 => {
                            broken(
                                "one outcome",
                                format!(
                                    "{name:?} was found at {:?}, its repetition says {position:?}",
                                    known.1
                                ),
                            );
                        }
                        Answer::NotCommitted => {
                            broken(
                                "one outcome",
                                format!("{name:?} was found sealed, its repetition says not committed"),
                            );
                        }
                        _ => {}
                    }
                } else {
                    outcome.remove(name);
                }
            }
            Event::Removed { name, .. } => {
                outcome.remove(name);
            }
            Event::Observed(seen) => {
                for (name, known) in &mut outcome {
                    let now = seen.sealed.get(*name);
                    match known {
                        Some(before) if *before != now => {
                            broken(
                                "one outcome",
                                format!("{name:?} was {before:?} and is {now:?} without a repetition"),
                            );
                        }
                        _ => *known = Some(now),
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, seen, yes};
    use crate::oracle::Answer;

    #[test]
    fn an_unknown_that_appears_late_is_caught() {
        assert_eq!(
            broken(vec![commit(1, 10, Answer::Unknown), seen(&[]), seen(&[(1, 10)])]),
            ["one outcome"]
        );
    }

    #[test]
    fn an_unknown_that_vanishes_is_caught() {
        assert_eq!(
            broken(vec![commit(1, 10, Answer::Unknown), seen(&[(1, 10)]), seen(&[])]),
            ["one outcome"]
        );
    }

    #[test]
    fn a_repetition_that_contradicts_is_caught() {
        let again =
            |answer| broken(vec![commit(1, 10, Answer::Unknown), seen(&[(1, 10)]), commit(1, 10, answer)]);
        assert_eq!(again(Answer::NotCommitted), ["one outcome"]);
        assert_eq!(again(yes(11)), ["one outcome"]);
        assert_eq!(again(yes(10)), [""; 0]);
    }

    #[test]
    fn a_repetition_may_commit_what_was_not() {
        let events =
            vec![commit(1, 10, Answer::Unknown), seen(&[]), commit(1, 10, yes(10)), seen(&[(1, 10)])];
        assert_eq!(broken(events), [""; 0]);
    }
}
