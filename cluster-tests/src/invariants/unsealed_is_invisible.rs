//! I9: nothing of an unsealed epoch is ever visible: what is listed or published
//! was committed by somebody who was not told "not committed", whole.

use crate::oracle::{Answer, History, Name};
use crate::walk::Fingerprint;

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    for (at, seen) in history.observations() {
        // A commit that is still running when we look has no event yet: it is told by a later one.
        let may_exist = |name: &Name, content: Option<Fingerprint>| {
            history.commits().any(|(_, other, source, answer)| {
                other == name
                    && *answer != Answer::NotCommitted
                    && content.is_none_or(|content| content == source)
            })
        };
        for name in seen.sealed.keys().filter(|name| !may_exist(name, None)) {
            broken("I9", format!("{name:?} is listed in event {at}, and nobody can have committed it"));
        }
        for (node, published) in &seen.published {
            for (name, content) in published {
                if !seen.sealed.contains_key(name) {
                    broken("I9", format!("{name:?} lies published on node {node} and is not sealed"));
                } else if !may_exist(name, Some(*content)) {
                    broken(
                        "I9",
                        format!("{name:?} is {content} on node {node}, which nobody can have committed"),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, seen, with, yes};
    use crate::oracle::Answer;
    use crate::walk::Fingerprint;

    #[test]
    fn an_epoch_that_was_refused_and_shows_up_is_caught() {
        assert_eq!(broken(vec![commit(1, 10, Answer::NotCommitted), seen(&[(1, 10)])]), ["I9"]);
        assert_eq!(broken(vec![seen(&[(1, 10)])]), ["I9"]);
    }

    #[test]
    fn a_published_epoch_that_is_not_sealed_is_caught() {
        let early = with(seen(&[(1, 10)]), |o| {
            for published in o.published.values_mut() {
                published.insert(("j".into(), 2), Fingerprint(20));
            }
        });
        assert!(broken(vec![commit(1, 10, yes(10)), commit(2, 20, Answer::Unknown), early]).contains(&"I9"));
    }

    #[test]
    fn half_of_a_directory_is_caught() {
        let half = with(seen(&[(1, 10)]), |o| {
            for published in o.published.values_mut() {
                published.insert(("j".into(), 1), Fingerprint(5));
            }
        });
        assert!(broken(vec![commit(1, 10, Answer::Unknown), half]).contains(&"I9"));
    }
}
