//! I2: for linearizable readers the newest epoch of a job never goes back, and
//! never lies below an epoch that was acknowledged before the read, unless that
//! very epoch was asked to end.

use std::collections::BTreeMap;

use crate::oracle::{Answer, Event, History};

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &history.events {
        let (job, epoch) = match event {
            Event::Commit { name: (job, epoch), answer: Answer::Committed { .. }, .. } => (job, *epoch),
            Event::Latest { job, epoch } => {
                let epoch = epoch.unwrap_or(0);
                let newest = known.get(job.as_str()).copied().unwrap_or(0);
                if epoch < newest {
                    broken(
                        "I2",
                        format!("the newest epoch of {job} was read as {epoch} after {newest} was known"),
                    );
                }
                (job, epoch)
            }
            Event::Removed { name: (job, epoch), .. } => {
                if known.get(job.as_str()) == Some(epoch) {
                    known.remove(job.as_str());
                }
                continue;
            }
            _ => continue,
        };
        let newest = known.entry(job).or_default();
        *newest = epoch.max(*newest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, yes};
    use crate::oracle::Event;

    fn latest(epoch: Option<u64>) -> Event {
        Event::Latest { job: "j".into(), epoch }
    }

    #[test]
    fn a_reader_that_goes_back_is_caught() {
        assert_eq!(broken(vec![latest(Some(3)), latest(Some(2))]), ["I2"]);
        assert_eq!(broken(vec![latest(Some(3)), latest(None)]), ["I2"]);
    }

    #[test]
    fn a_reader_below_an_acknowledged_epoch_is_caught() {
        assert_eq!(broken(vec![commit(5, 50, yes(50)), latest(Some(4))]), ["I2"]);
    }
}
