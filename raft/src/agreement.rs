//! Whether this node's history is that of the cluster.
//!
//! What is committed is never taken back, and equal positions mean equal ledgers. Where a leader's log or ledger
//! contradicts what this node has applied, one of the two has lost what it had acknowledged: a data folder was put
//! back from a copy, or a disk gave out old bytes. Nobody can know which of them. The consensus library takes
//! whatever is below its commit for equal without looking, so a node that went on would follow for ever, with another
//! ledger. Instead it stops, with its folder as it is, and tells the leader why, which shows it in its status: a node
//! that is down cannot.
//!
//! | what a leader says | compared with |
//! |---|---|
//! | entries, and the one before them | positions of this log, as far as it is applied; the last that is applied |
//! | how far is committed, in heartbeats too | the same |
//! | its ledger's digest at some position | this ledger's at that position, under equal rules |
//!
//! **Guarantees**: once a contradiction is found nothing is appended, truncated, installed or applied here.
//!
//! Leaders, by term and number, never fall along a log, and a leader's has all that is committed: so where an entry of it
//! is of a later leader than one that is applied here at or behind its index, or of an earlier one than one at or before
//! it, the two differ, whatever this log still holds. Below a snapshot from elsewhere it may hold entries that were never committed, until
//! they are purged: they say nothing.
//!
//! What stops a replica (`ending`) watches it from above; it knows neither the consensus nor the life of a replica.
//!
//! **Never**: believes a leader of an older term. Its entries may differ from what was committed since.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;
use nativelog::ledger::DIGEST_FORM;
use nativelog::machine::Machine;
use nativelog::record::LogId;
use nativelog::store::LogStore;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::network::convert::{from_position, position};
use crate::proto;

/// Indexes at which ledgers are compared are multiples of this.
const EVERY: u64 = 64;
/// Own digests that are kept, the newest.
const KEPT: usize = 256;
/// Digests of leaders at positions that are not applied here yet, at most.
const AWAITED: usize = 64;
/// See the module.
pub(crate) struct Agreement {
    node: u64,
    machine: Arc<Machine>,
    log: LogStore,
    /// Entries that are applied here.
    applied: watch::Receiver<u64>,
    here: Mutex<Here>,
    ledgers: Mutex<Ledgers>,
    found: watch::Sender<Option<String>>,
    /// What nodes answered to this one as leader that contradict it.
    told: Mutex<BTreeMap<u64, String>>,
}

/// What is applied here.
#[derive(Debug, Clone, Copy)]
struct Here {
    last: Option<LogId>,
    /// The position of a snapshot that the log here is no part of: what it holds up to there says nothing.
    snapshot: Option<LogId>,
}

/// A ledger at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LedgerAt {
    at: LogId,
    rules: u32,
    /// See [`DIGEST_FORM`].
    form: u32,
    digest: Digest,
}

#[derive(Default)]
struct Ledgers {
    /// Own, in order of positions.
    own: VecDeque<LedgerAt>,
    /// Of leaders, by index, ahead of what is applied here.
    awaited: BTreeMap<u64, (u64, LedgerAt)>,
}

impl Agreement {
    /// For `node`, of which nobody has said anything yet.
    pub fn new(node: u64, machine: Arc<Machine>, log: LogStore) -> Arc<Agreement> {
        let applied = machine.applied();
        let here = Here { last: machine.ledger().applied(), snapshot: None };
        let newest = machine.newest_snapshot().map(|newest| newest.position);
        let agreement = Agreement {
            node,
            machine,
            log,
            applied,
            here: Mutex::new(here),
            ledgers: Mutex::default(),
            found: watch::Sender::new(None),
            told: Mutex::default(),
        };
        // It may have been installed just before the last end, and the log not be purged yet.
        newest.into_iter().for_each(|newest| agreement.installs(newest));
        Arc::new(agreement)
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot of this position is about to take over.
    pub fn installs(&self, position: LogId) {
        // A log with that entry has the same as every other up to there.
        if self.log.log_id_at(position.index) != Some(position) {
            self.here().snapshot = Some(position);
        }
    }

    /// It has taken over.
    pub fn installed(&self, position: LogId) {
        self.here().last = Some(position);
    }

    fn ledgers(&self) -> MutexGuard<'_, Ledgers> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The term that binds this node.
    pub fn term(&self) -> u64 {
        self.log.vote().map_or(0, |vote| vote.term)
    }

    /// Ok while no contradiction was found.
    ///
    /// # Errors
    /// The contradiction, in words.
    pub fn holds(&self) -> Result<(), String> {
        self.found.borrow().clone().map_or(Ok(()), Err)
    }

    /// Returns with the contradiction, in words, once there is one.
    pub async fn contradicted(&self) -> String {
        let mut found = self.found.subscribe();
        let why = found.wait_for(Option::is_some).await;
        // The sender is ours.
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    fn contradiction(&self, leader: u64, what: &str) -> String {
        let node = self.node;
        let why = format!(
            "node {leader} leads and {what}: one of the two has lost what it had acknowledged, maybe because its \
             data folder was put back from a copy. Node {node} stops, its folder is as it was. Compare `epochlog ls` \
             and the folders of nodes {leader} and {node} before anything is removed"
        );
        self.found.send_if_modified(|found| {
            let first = found.is_none();
            found.get_or_insert_with(|| why.clone());
            first
        });
        why
    }

    /// Whether a leader's append or heartbeat may be taken in. `vote` tells the vote that binds this node.
    ///
    /// # Errors
    /// With [`Code::DataLoss`]: it contradicts what is applied here, or something did before.
    pub fn heed(
        &self,
        from: u64,
        vote: impl Fn() -> (u64, u64),
        request: &proto::AppendRequest,
    ) -> Result<(), Status> {
        self.holds().map_err(Status::data_loss)?;
        let ids = request.entries.iter().filter_map(|entry| entry.position.as_ref());
        let of_the_log = request.previous.iter().chain(ids).map(from_position);
        let differs = of_the_log
            .chain(request.committed.as_ref().map(from_position))
            .find_map(|given| self.differs(given).map(|own| (own, given)));
        // Looked at last: by then this node may have gone on to a term in which it applied something else. What it
        // applied in a term follows an entry of that term, which is in the log before the library tells the term.
        // A term may have two leaders, of which the one with the higher number overrides the other.
        let led = request.vote.as_ref().is_some_and(|led| {
            let led = (led.term, led.node);
            led >= vote() && self.log.log_state().1.is_none_or(|last| led >= (last.term, last.node))
        });
        match differs.filter(|_| led) {
            Some((own, given)) => {
                let what = format!("has entry {given} in its log where node {} has applied {own}", self.node);
                Err(Status::data_loss(self.contradiction(from, &what)))
            }
            None => Ok(()),
        }
    }

    /// What is applied here and cannot be in a log with this entry.
    fn differs(&self, given: LogId) -> Option<LogId> {
        // First: it moves after a snapshot that is installed is known here.
        let applied = *self.applied.borrow();
        let Here { last, snapshot } = *self.here();
        let lead = |id: &LogId| (id.term, id.node);
        let out_of_turn = |own: &LogId| {
            given.index <= own.index && lead(&given) > lead(own)
                || given.index >= own.index && lead(&given) < lead(own)
        };
        let there = match snapshot {
            Some(snapshot) if given.index < snapshot.index => None,
            Some(snapshot) if given.index == snapshot.index => Some(snapshot),
            _ if given.index >= applied => None,
            _ => self.log.log_id_at(given.index),
        };
        there.filter(|own| *own != given).or_else(|| last.filter(out_of_turn))
    }

    /// Whether the log may be cut after this entry.
    ///
    /// # Errors
    /// Something that is applied would go: what is applied is committed.
    pub fn may_truncate(&self, after: Option<LogId>) -> io::Result<()> {
        self.holds().map_err(io::Error::other)?;
        let (keeps, applied) = (after.map_or(0, |after| after.index + 1), *self.applied.borrow());
        if keeps >= applied {
            return Ok(());
        }
        let why = format!("{keeps} entries would stay of a log of which {applied} are applied here");
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Looks at the ledger after this entry was applied.
    ///
    /// # Errors
    /// A leader's ledger was another one at this position.
    pub fn applied(&self, id: LogId) -> Result<(), String> {
        self.here().last = Some(id);
        let index = id.index;
        if !index.is_multiple_of(EVERY) {
            return self.holds();
        }
        let Some(now) = self.now() else { return self.holds() };
        let awaited = {
            let mut ledgers = self.ledgers();
            ledgers.own.push_back(now);
            if ledgers.own.len() > KEPT {
                ledgers.own.pop_front();
            }
            let later = ledgers.awaited.split_off(&(index + 1));
            std::mem::replace(&mut ledgers.awaited, later).remove(&index)
        };
        if let Some((leader, given)) = awaited {
            self.compare(leader, given, now)?;
        }
        self.holds()
    }

    fn now(&self) -> Option<LedgerAt> {
        let ledger = self.machine.ledger();
        let (at, rules, digest) = (ledger.applied()?, ledger.rules(), ledger.digest());
        Some(LedgerAt { at, rules, form: DIGEST_FORM, digest })
    }

    /// What this node as leader says of its ledger: at the newest position that others will look at too.
    pub fn own(&self) -> Option<proto::LedgerAt> {
        let newest = *self.ledgers().own.back()?;
        Some(proto::LedgerAt {
            position: Some(position(newest.at)),
            rules: newest.rules,
            form: newest.form,
            digest: newest.digest.as_bytes().to_vec().into(),
        })
    }

    /// A leader says what its ledger is; what cannot be compared yet waits until it can.
    ///
    /// # Errors
    /// With [`Code::DataLoss`]: this ledger is another one.
    pub fn compare_with(&self, from: u64, given: &proto::LedgerAt) -> Result<(), Status> {
        let at = given.position.as_ref().map(from_position);
        let digest = Digest::from_slice(&given.digest);
        let (Some(at), Some(digest)) = (at, digest) else {
            return Err(Status::invalid_argument("a ledger without its position or digest"));
        };
        let given = LedgerAt { at, rules: given.rules, form: given.form, digest };
        let own = {
            let mut ledgers = self.ledgers();
            let newest = ledgers.own.back().map(|own| own.at.index);
            if at.index.is_multiple_of(EVERY) && newest.is_none_or(|newest| newest < at.index) {
                ledgers.awaited.insert(at.index, (from, given));
                if ledgers.awaited.len() > AWAITED {
                    ledgers.awaited.pop_first();
                }
            }
            ledgers.own.iter().rev().find(|own| own.at.index == at.index).copied()
        };
        match own {
            Some(own) => self.compare(from, given, own).map_err(Status::data_loss),
            None => Ok(()),
        }
    }

    fn compare(&self, leader: u64, given: LedgerAt, own: LedgerAt) -> Result<(), String> {
        // The rules follow from the records, but a binary may not know those of the other, nor make digests alike.
        let comparable = given.rules == own.rules && given.form == own.form;
        if given == own || (given.at == own.at && !comparable) {
            return Ok(());
        }
        let (at, node) = (own.at, self.node);
        let what = match given.at == own.at {
            true => format!(
                "at {at} its ledger is {} where that of node {node} is {}",
                given.digest.short(),
                own.digest.short()
            ),
            false => format!("has entry {} in its log where node {node} has applied {at}", given.at),
        };
        Err(self.contradiction(leader, &what))
    }

    /// What a node answered to this one as leader.
    pub fn heard(&self, node: u64, answer: Result<(), &Status>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(()) => drop(told.remove(&node)),
            Err(status) if status.code() == Code::DataLoss => {
                if told.insert(node, status.message().to_owned()).is_none() {
                    tracing::error!(node, why = status.message(), "a node contradicts this leader");
                }
            }
            Err(_) => {}
        }
    }

    /// What nodes said that contradict this one, by node, until they follow again.
    pub fn told(&self) -> BTreeMap<u64, String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use checkpoint::store::layout::Layout;
    use checkpoint::{RealDisk, Store};
    use nativelog::compose;
    use nativelog::record::{Body, Entry};
    use nativelog::store::{Identity, Options};

    impl Agreement {
        /// Over a log and a ledger below `dir`, both empty.
        pub fn of_an_empty_log(node: u64, dir: &Path) -> Arc<Agreement> {
            let disk = Arc::new(RealDisk);
            let store = Arc::new(Store::open(disk.clone(), dir).unwrap());
            let owner = Identity { node, incarnation: [node as u8; 16] };
            let (log, _) = LogStore::open(disk, &Layout::new(dir), owner, Options::default()).unwrap();
            let machine = Machine::start(store, log.clone(), &dir.join("catalog")).unwrap();
            Agreement::new(node, machine, log)
        }

        /// Ticks up to the entry at `last`, all of term 2.
        fn applies(&self, last: u64) {
            // Not borrowed while entries are applied: that would wait for itself.
            let next = *self.applied.borrow();
            for index in next..=last {
                let id = LogId { term: 2, node: 1, index };
                let entry = Entry { id, body: Body::Record(compose::tick(1)) };
                self.log.append(vec![entry.clone()], Box::new(|done| done.unwrap()));
                self.machine.apply(&entry).unwrap();
                self.applied(id).unwrap();
            }
        }
    }

    fn append(term: u64, previous: LogId, committed: Option<LogId>) -> proto::AppendRequest {
        proto::AppendRequest {
            vote: Some(proto::Vote { term, node: 1, committed: true }),
            previous: Some(position(previous)),
            committed: committed.map(position),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_applied_is_compared_with_every_word_of_a_leader_that_binds() {
        let dir = tempfile::tempdir().unwrap();
        let agreement = Agreement::of_an_empty_log(2, dir.path());
        agreement.applies(9);
        let id = |term, index| LogId { term, node: 1, index };
        let heed = |request: &proto::AppendRequest| agreement.heed(1, || (3, 1), request);
        heed(&append(3, id(2, 9), Some(id(2, 5)))).unwrap();
        heed(&append(3, id(3, 10), Some(id(3, 11)))).unwrap();
        // Of a leader that was deposed: what it has was overtaken. Within its own term, too.
        heed(&append(2, id(1, 9), None)).unwrap();
        let of_its_term = append(3, LogId { node: 0, ..id(2, 9) }, None);
        agreement.heed(1, || (3, 2), &of_its_term).unwrap();
        agreement.may_truncate(Some(id(2, 9))).unwrap();
        assert!(agreement.may_truncate(Some(id(2, 8))).is_err());
        agreement.holds().unwrap();

        let why = heed(&append(3, id(2, 9), Some(id(3, 7)))).unwrap_err();
        assert_eq!(why.code(), Code::DataLoss);
        assert!(why.message().contains("T3-N1.7") && why.message().contains("T2-N1.7"), "{why}");
        // From here on nothing is taken in, whatever it is.
        assert!(heed(&append(3, id(2, 9), None)).is_err());
        assert!(agreement.applied(id(2, 10)).is_err());
        agreement.log.shutdown();
    }

    #[test]
    fn terms_tell_where_the_log_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let id = |term, index| LogId { term, node: 1, index };
        let differs = |given: LogId| {
            let agreement = Agreement::of_an_empty_log(2, dir.path());
            // Purged, as after a start from a snapshot.
            agreement.installs(id(5, 20));
            agreement.installed(id(5, 20));
            let heard = agreement.heed(1, || (6, 1), &append(6, given, None));
            agreement.log.shutdown();
            heard.is_err()
        };
        for equal in [id(5, 20), id(5, 19), id(3, 7), id(5, 21), id(6, 21)] {
            assert!(!differs(equal), "{equal}");
        }
        for other in [id(6, 20), id(6, 7), id(4, 20), id(4, 30)] {
            assert!(differs(other), "{other}");
        }
    }

    #[test]
    fn what_was_never_committed_below_a_snapshot_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let agreement = Agreement::of_an_empty_log(2, dir.path());
        let id = |term, index| LogId { term, node: 1, index };
        agreement.applies(4);
        let tail = (5..9).map(|index| Entry { id: id(2, index), body: Body::Blank }).collect();
        agreement.log.append(tail, Box::new(|done| done.unwrap()));
        // The others went on from entry 4 in term 3, and have sent a snapshot.
        agreement.installs(id(3, 8));
        let ledger = agreement.machine.ledger().clone();
        assert_eq!(ledger.applied(), Some(id(2, 4)));
        agreement.installed(id(3, 8));
        agreement.heed(1, || (3, 1), &append(3, id(3, 7), Some(id(3, 9)))).unwrap();
        agreement.heed(1, || (3, 1), &append(3, id(3, 8), Some(id(3, 8)))).unwrap();
        assert!(agreement.heed(1, || (3, 1), &append(3, LogId { node: 2, ..id(3, 8) }, None)).is_err());
        agreement.log.shutdown();
    }

    #[test]
    fn ledgers_are_compared_where_both_were_looked_at_early_or_late() {
        let dir = tempfile::tempdir().unwrap();
        let agreement = Agreement::of_an_empty_log(2, dir.path());
        agreement.applies(EVERY + 6);
        let own = agreement.own().unwrap();
        assert_eq!(own.position.unwrap().index, EVERY);
        agreement.compare_with(1, &own).unwrap();
        let newer = proto::LedgerAt { rules: own.rules + 1, digest: vec![7; 32].into(), ..own.clone() };
        agreement.compare_with(1, &newer).unwrap();
        agreement
            .compare_with(1, &proto::LedgerAt { form: own.form + 1, rules: own.rules, ..newer })
            .unwrap();
        // The leader is ahead: it waits until this node is there.
        let at = proto::Position { index: 2 * EVERY, ..own.position.unwrap() };
        let ahead = proto::LedgerAt { position: Some(at), digest: vec![7; 32].into(), ..own.clone() };
        agreement.compare_with(1, &ahead).unwrap();
        agreement.applies(2 * EVERY - 1);
        let id = LogId { term: 2, node: 1, index: 2 * EVERY };
        agreement.machine.apply(&Entry { id, body: Body::Blank }).unwrap();
        let why = agreement.applied(id).unwrap_err();
        assert!(why.contains("at T2-N1.128 its ledger is 07070707"), "{why}");
        assert!(agreement.compare_with(1, &proto::LedgerAt::default()).is_err());
        agreement.log.shutdown();
    }

    #[test]
    fn a_node_that_follows_again_contradicts_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let agreement = Agreement::of_an_empty_log(1, dir.path());
        agreement.heard(2, Err(&Status::unavailable("not there")));
        assert!(agreement.told().is_empty());
        agreement.heard(2, Err(&Status::data_loss("another ledger")));
        assert_eq!(agreement.told()[&2], "another ledger");
        agreement.heard(2, Err(&Status::unavailable("not there")));
        assert_eq!(agreement.told().len(), 1);
        agreement.heard(2, Ok(()));
        assert!(agreement.told().is_empty());
        agreement.log.shutdown();
    }
}
