//! I7, the part that is seen from outside: an epoch whose end was acknowledged is
//! listed no more and published nowhere, whatever dies, and never comes back.

use crate::oracle::History;

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    for (at, name, acknowledged) in history.removals() {
        if !acknowledged {
            continue;
        }
        for (_, seen) in history.observations().filter(|(later, _)| *later > at) {
            if seen.sealed.contains_key(name) {
                broken("I7", format!("{name:?} was removed and is listed"));
            }
            for (node, _) in seen.published.iter().filter(|(_, published)| published.contains_key(name)) {
                broken("I7", format!("{name:?} was removed and lies published on node {node}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, seen, with, yes};
    use crate::oracle::Event;
    use crate::walk::Fingerprint;

    fn gone(acknowledged: bool) -> Event {
        Event::Removed { name: ("j".into(), 1), acknowledged }
    }

    #[test]
    fn a_removed_epoch_that_comes_back_is_caught() {
        let events = vec![commit(1, 10, yes(10)), gone(true), seen(&[]), seen(&[(1, 10)])];
        assert!(broken(events).contains(&"I7"));
    }

    #[test]
    fn a_removed_epoch_that_one_node_still_publishes_is_caught() {
        let left = with(seen(&[]), |o| {
            o.published.entry(3).or_default().insert(("j".into(), 1), Fingerprint(10));
        });
        assert!(broken(vec![commit(1, 10, yes(10)), gone(true), left]).contains(&"I7"));
    }

    #[test]
    fn a_removal_without_an_answer_may_have_happened_or_not() {
        for later in [seen(&[]), seen(&[(1, 10)])] {
            assert_eq!(broken(vec![commit(1, 10, yes(10)), gone(false), later]), [""; 0]);
        }
    }
}
