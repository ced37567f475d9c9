//! I5: after healing, all live replicas publish the sealed epochs, equal, and
//! point `latest` at the newest.

use std::collections::BTreeMap;

use crate::oracle::History;

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    for (_, seen) in history.observations() {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for (job, epoch) in seen.sealed.keys() {
            newest.insert(job, *epoch);
        }
        for (node, published) in &seen.published {
            for name in seen.sealed.keys().filter(|name| !published.contains_key(*name)) {
                broken("I5", format!("{name:?} is sealed and not published on node {node}"));
            }
            for (job, epoch) in &newest {
                let there = seen.latest.get(node).and_then(|latest| latest.get(*job));
                if there != Some(epoch) {
                    broken(
                        "I5",
                        format!(
                            "`latest` of {job} is {there:?} on node {node}, the newest sealed is {epoch}"
                        ),
                    );
                }
            }
        }
        let Some((first, reference)) = seen.published.first_key_value() else { continue };
        for (node, published) in seen.published.iter().filter(|(_, published)| *published != reference) {
            broken("I5", format!("node {first} publishes {reference:?}, node {node} {published:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, seen, with, yes};
    use crate::oracle::Answer;
    use crate::walk::Fingerprint;

    #[test]
    fn one_replica_with_another_content_is_caught() {
        let odd = with(seen(&[(1, 10)]), |o| {
            o.published.get_mut(&3).unwrap().insert(("j".into(), 1), Fingerprint(99));
        });
        assert!(broken(vec![commit(1, 10, Answer::Unknown), odd]).contains(&"I5"));
    }

    #[test]
    fn a_sealed_epoch_that_is_missing_somewhere_is_caught() {
        let missing = with(seen(&[(1, 10)]), |o| o.published.get_mut(&1).unwrap().clear());
        assert!(broken(vec![commit(1, 10, Answer::Unknown), missing]).contains(&"I5"));
    }

    #[test]
    fn a_latest_that_points_back_is_caught() {
        let back = with(seen(&[(1, 10), (2, 20)]), |o| {
            o.latest.get_mut(&2).unwrap().insert("j".into(), 1);
        });
        assert_eq!(broken(vec![commit(1, 10, yes(10)), commit(2, 20, yes(20)), back]), ["I5"]);
    }
}
