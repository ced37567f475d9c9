//! What peers said of one thing that is wanted, and what may be concluded.
//!
//! A node has a say only of what it has carried out, and only by its own look: whoever is still at work, and bytes that
//! came wrong, decide nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ask::{Missed, Trouble};
use super::error::TransferError;
use crate::proto::Miss;

/// Whoever comes first to a store has so long before the next one goes there, too.
const HEAD_START: Duration = Duration::from_secs(4);
/// Whoever is to carry out what brings it is waited for so long.
const NOT_YET: Duration = Duration::from_secs(30);

/// What a peer said, or why it did not.
#[derive(Debug, Clone)]
pub enum Said {
    /// It has carried out what would have brought it, and has no good copy.
    No(String),
    /// It has none, and is not there yet.
    NotYet(String),
    /// It has none, and is fetching it from a store.
    Hydrating(String),
    /// It cannot be reached.
    Away(String),
    /// Nothing that decides.
    Trouble(String),
}

impl Said {
    /// The peer misses it.
    pub fn missed(missed: Missed) -> Said {
        match missed.miss {
            Miss::NotYet => Said::NotYet(missed.why),
            Miss::Hydrating => Said::Hydrating(missed.why),
            _ => Said::No(missed.why),
        }
    }

    pub fn of(trouble: Trouble) -> Said {
        match trouble {
            Trouble::Away(why) => Said::Away(why),
            Trouble::Peer(why) => Said::Trouble(why),
            Trouble::Stopped => Said::Trouble("the transfer was ended".into()),
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Said::No(why)
            | Said::NotYet(why)
            | Said::Hydrating(why)
            | Said::Away(why)
            | Said::Trouble(why) => why,
        }
    }
}

/// Nobody who lives has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nowhere {
    /// By peer that looked: what it found.
    pub found: BTreeMap<u64, String>,
    /// Others are still to get there.
    pub not_yet: bool,
}

/// What all peers said of one thing, in one round.
#[derive(Debug, Clone, Default)]
pub struct Answers(BTreeMap<u64, Said>);

impl Answers {
    pub fn add(&mut self, peer: u64, said: Said) {
        self.0.insert(peer, said);
    }

    /// When every peer that lives says that it has no good copy. Where there is a `holder`, it is the one that must have
    /// looked: who catches up itself need not be waited for, or two that do would wait for each other.
    pub fn nowhere(&self, holder: Option<u64>) -> Option<Nowhere> {
        let (mut found, mut not_yet) = (BTreeMap::new(), false);
        for (peer, said) in &self.0 {
            match said {
                Said::No(why) => drop(found.insert(*peer, why.clone())),
                Said::Away(_) if Some(*peer) != holder => {}
                Said::NotYet(_) | Said::Hydrating(_) if holder.is_some_and(|holder| holder != *peer) => {
                    not_yet = true
                }
                Said::NotYet(_) | Said::Hydrating(_) | Said::Away(_) | Said::Trouble(_) => return None,
            }
        }
        (!found.is_empty()).then_some(Nowhere { found, not_yet })
    }

    /// As [`Answers::nowhere`], of content that lies in a store which was not asked: who fetches it from there may take
    /// hours, and is not waited for. Nothing is found of it then, and somebody is still to get there.
    pub fn nowhere_yet(&self, holder: Option<u64>) -> Option<Nowhere> {
        let comes = || self.is_hydrating(holder).then(|| Nowhere { found: BTreeMap::new(), not_yet: true });
        self.nowhere(holder).or_else(comes)
    }

    /// Whether somebody fetches it from a store, and nobody whose word counts may have it at the next question.
    fn is_hydrating(&self, holder: Option<u64>) -> bool {
        let counts = |peer: &u64| holder.is_none_or(|holder| holder == *peer);
        let decides = |(peer, said): (&u64, &Said)| match said {
            Said::Trouble(_) => false,
            Said::NotYet(_) => !counts(peer),
            Said::Away(_) => Some(*peer) != holder,
            Said::No(_) | Said::Hydrating(_) => true,
        };
        self.0.iter().all(decides) && self.0.values().any(|said| matches!(said, Said::Hydrating(_)))
    }

    /// Whether node `me` may ask a store for what lies there and was not to be had for so long. Who fetches it already is
    /// waited for; who is to get it from the log for a while, since it may not need a store at all; and of several that
    /// lack it the first goes first, as long as that may help.
    pub fn leave_to_stores(&self, me: u64, since: Duration) -> bool {
        let mut before = 0;
        for (peer, said) in &self.0 {
            match said {
                Said::Hydrating(_) => return false,
                Said::NotYet(_) if since < NOT_YET => return false,
                Said::No(_) if *peer < me => before += 1,
                _ => {}
            }
        }
        since >= HEAD_START * before
    }

    pub fn why(&self) -> String {
        if self.0.is_empty() {
            return "no other node is known".to_owned();
        }
        let each: Vec<String> =
            self.0.iter().map(|(peer, said)| format!("node {peer}: {}", said.why())).collect();
        each.join("; ")
    }

    /// Why nobody brought it. What must not be owed is waited for until all who live are there.
    pub fn error(&self, what: String, holder: Option<u64>) -> TransferError {
        let why = self.why();
        match self.nowhere(holder) {
            Some(nowhere) if !nowhere.not_yet => TransferError::Nowhere { what, why, lost: Vec::new() },
            _ => TransferError::Lacking { what, why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(all: &[(u64, Said)]) -> Answers {
        Answers(all.iter().cloned().collect())
    }

    #[test]
    fn only_a_look_of_its_own_is_a_peers_word() {
        let no = || Said::No("rotten".into());
        let trouble = || Said::Trouble("it came wrong".into());
        let not_yet = || Said::NotYet("not there yet".into());
        let away = || Said::Away("no connection".into());
        let found = |all: &[(u64, Said)], holder| {
            answers(all)
                .nowhere(holder)
                .map(|nowhere| (nowhere.found.into_keys().collect::<Vec<_>>(), nowhere.not_yet))
        };
        assert_eq!(found(&[(1, no()), (2, no())], None), Some((vec![1, 2], false)));
        assert_eq!(found(&[(1, no()), (2, away())], None), Some((vec![1], false)));
        assert_eq!(found(&[(1, no()), (2, trouble())], None), None);
        assert_eq!(found(&[(1, no()), (2, not_yet())], None), None);
        assert_eq!(found(&[(1, away()), (2, away())], None), None);
        // Behind a snapshot, whose sender has carried it out.
        assert_eq!(found(&[(1, no()), (2, not_yet())], Some(1)), Some((vec![1], true)));
        assert_eq!(found(&[(1, not_yet()), (2, no())], Some(1)), None);
        assert_eq!(found(&[(1, away()), (2, no())], Some(1)), None);
        assert_eq!(found(&[(1, no()), (2, trouble())], Some(1)), None);
        let error = answers(&[(1, no()), (2, not_yet())]).error("a range".into(), Some(1));
        assert!(matches!(error, TransferError::Lacking { .. }), "{error}");
    }

    #[test]
    fn what_the_holder_fetches_from_a_store_is_not_waited_for() {
        let no = || Said::No("no such blob".into());
        let hydrating = || Said::Hydrating("it comes".into());
        let not_yet = || Said::NotYet("not there yet".into());
        let away = || Said::Away("no connection".into());
        let trouble = || Said::Trouble("it came wrong".into());
        let found = |all: &[(u64, Said)], holder| {
            let nowhere = answers(all).nowhere_yet(holder);
            nowhere.map(|nowhere| (nowhere.found.into_keys().collect::<Vec<_>>(), nowhere.not_yet))
        };
        assert_eq!(found(&[(1, hydrating()), (2, no())], Some(1)), Some((vec![], true)));
        assert_eq!(found(&[(1, hydrating()), (2, not_yet()), (3, away())], Some(1)), Some((vec![], true)));
        assert_eq!(found(&[(1, hydrating()), (2, no())], None), Some((vec![], true)));
        // Whoever had looked is named.
        assert_eq!(found(&[(1, no()), (2, hydrating())], Some(1)), Some((vec![1], true)));
        assert_eq!(found(&[(1, no()), (2, no())], None), Some((vec![1, 2], false)));
        // These may have it a moment later.
        assert_eq!(found(&[(1, hydrating()), (2, trouble())], Some(1)), None);
        assert_eq!(found(&[(1, not_yet()), (2, hydrating())], Some(1)), None);
        assert_eq!(found(&[(1, away()), (2, hydrating())], Some(1)), None);
        assert_eq!(found(&[(1, hydrating()), (2, not_yet())], None), None);
        assert_eq!(found(&[(1, not_yet()), (2, no())], Some(1)), None);
    }

    #[test]
    fn one_of_those_who_lack_it_goes_to_the_store_and_the_others_wait_for_that_one() {
        let no = || Said::No("no such blob".into());
        let away = || Said::Away("no connection".into());
        let hydrating = || Said::Hydrating("it comes".into());
        let not_yet = || Said::NotYet("not there yet".into());
        let trouble = || Said::Trouble("it came wrong".into());
        let goes =
            |all: &[(u64, Said)], seconds| answers(all).leave_to_stores(2, Duration::from_secs(seconds));
        assert!(goes(&[], 0), "it is alone");
        assert!(goes(&[(1, away()), (3, no())], 0), "it is the first");
        assert!(!goes(&[(1, no()), (3, away())], 0));
        assert!(goes(&[(1, no()), (3, away())], 4), "the first had its time");
        assert!(!goes(&[(1, hydrating()), (3, no())], 1000));
        assert!(!goes(&[(1, away()), (3, not_yet())], 29));
        assert!(goes(&[(1, away()), (3, not_yet())], 30), "whoever brought it cannot publish it, perhaps");
        assert!(goes(&[(1, trouble()), (3, no())], 0));
        // Of what is on its way from a store nobody has looked in vain.
        assert_eq!(answers(&[(1, hydrating()), (3, no())]).nowhere(None), None);
    }
}
