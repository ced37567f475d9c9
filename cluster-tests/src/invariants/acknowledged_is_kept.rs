//! I1: a committed epoch is never lost nor changed: every later observation has
//! it, with the root and position of the answer, published everywhere with the
//! content that was committed, until somebody asks for its end.

use crate::oracle::{Answer, History};

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    for (at, name, content, answer) in history.commits() {
        let Answer::Committed { root, position } = answer else { continue };
        let end =
            history.removals().find(|(_, other, _)| *other == name).map_or(usize::MAX, |(end, _, _)| end);
        for (_, seen) in history.observations().filter(|(later, _)| *later > at && *later < end) {
            match seen.sealed.get(name) {
                None => broken("I1", format!("{name:?} was acknowledged and is not listed any more")),
                Some(listed) if !same_root(&listed.0, root) || listed.1 != *position => {
                    broken(
                        "I1",
                        format!(
                            "{name:?} was acknowledged as {root} at {position:?} and is listed as {listed:?}"
                        ),
                    );
                }
                Some(_) => {}
            }
            for (node, published) in &seen.published {
                match published.get(name) {
                    None => {
                        broken("I1", format!("{name:?} was acknowledged and is not published on node {node}"))
                    }
                    Some(there) if *there != content => {
                        broken(
                            "I1",
                            format!(
                                "{name:?} was acknowledged with content {content} and is {there} on node {node}"
                            ),
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Roots may be printed short or whole.
fn same_root(a: &str, b: &str) -> bool {
    !a.is_empty() && !b.is_empty() && (a.starts_with(b) || b.starts_with(a))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, seen, with, yes};
    use crate::oracle::Event;
    use crate::walk::Fingerprint;

    #[test]
    fn a_lost_acknowledged_epoch_is_caught() {
        assert!(broken(vec![commit(1, 10, yes(10)), seen(&[])]).contains(&"I1"));
        let later = vec![commit(1, 10, yes(10)), seen(&[(1, 10)]), seen(&[])];
        assert!(broken(later).contains(&"I1"), "lost later");
    }

    #[test]
    fn a_changed_root_position_or_content_is_caught() {
        let root = with(seen(&[(1, 10)]), |o| o.sealed.get_mut(&("j".into(), 1)).unwrap().0 = "other".into());
        assert_eq!(broken(vec![commit(1, 10, yes(10)), root]), ["I1"]);
        let position = with(seen(&[(1, 10)]), |o| o.sealed.get_mut(&("j".into(), 1)).unwrap().1 = (2, 99));
        assert_eq!(broken(vec![commit(1, 10, yes(10)), position]), ["I1"]);
        let everywhere = with(seen(&[(1, 10)]), |o| {
            for published in o.published.values_mut() {
                published.insert(("j".into(), 1), Fingerprint(11));
            }
        });
        assert!(broken(vec![commit(1, 10, yes(10)), everywhere]).contains(&"I1"));
    }

    #[test]
    fn only_a_removal_excuses_and_only_from_then_on() {
        let gone = |acknowledged| Event::Removed { name: ("j".into(), 1), acknowledged };
        for acknowledged in [true, false] {
            assert_eq!(broken(vec![commit(1, 10, yes(10)), gone(acknowledged), seen(&[])]), [""; 0]);
        }
        assert!(broken(vec![commit(1, 10, yes(10)), seen(&[]), gone(true)]).contains(&"I1"));
    }

    #[test]
    fn an_epoch_that_one_node_never_publishes_is_caught() {
        let missing = with(seen(&[(1, 10)]), |o| o.published.get_mut(&2).unwrap().clear());
        assert!(broken(vec![commit(1, 10, yes(10)), missing]).contains(&"I1"));
    }
}
