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
//! **Guarantees**: once a contradiction is found nothing is appended, truncated, installed or applied here. Nothing that
//! contradicts is ever taken in.
//!
//! Leaders, by term and number, never fall along a log, and a leader's has all that is committed: so where an entry of it
//! is of a later leader than one that is applied here at or behind its index, or of an earlier one than one at or before
//! it, the two differ, whatever this log still holds. Below a snapshot from elsewhere it may hold entries that were never committed, until
//! they are purged: they say nothing.
//!
//! What stops a replica (`ending`) watches it from above; it knows neither the consensus nor the life of a replica.
//!
//! **Never**: believes a leader of an older term. Its entries may differ from what was committed since. Never stops for who is
//! no member in the log of this node: that is somebody of another history, and refused.

mod ledgers;
mod told;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;
use nativelog::ledger::DIGEST_FORM;
use nativelog::machine::Machine;
use nativelog::record::LogId;
use nativelog::store::LogStore;
use tokio::sync::watch;
use tonic::Status;

use crate::identity::Known;
use crate::positions::{from_position, position};
use crate::proto;
use crate::snapshot;
use ledgers::{LedgerAt, Ledgers};
use told::Told;

/// See the module.
pub(crate) struct Agreement {
    node: u64,
    known: Arc<Known>,
    machine: Arc<Machine>,
    log: LogStore,
    /// Entries that are applied here.
    applied: watch::Receiver<u64>,
    here: Mutex<Here>,
    ledgers: Mutex<Ledgers>,
    found: watch::Sender<Option<String>>,
    told: Told,
}

/// What is applied here.
#[derive(Debug, Clone, Copy)]
struct Here {
    last: Option<LogId>,
    /// The position of a snapshot that the log here is no part of: what it holds up to there says nothing.
    snapshot: Option<LogId>,
}

impl Agreement {
    /// For this node, of which nobody has said anything yet.
    pub fn new(known: Arc<Known>, machine: Arc<Machine>, log: LogStore) -> Arc<Agreement> {
        let applied = machine.applied();
        let here = Here { last: machine.ledger().applied(), snapshot: None };
        let newest = machine.newest_snapshot().map(|newest| newest.position);
        let agreement = Agreement {
            node: known.node(),
            known,
            machine,
            log,
            applied,
            here: Mutex::new(here),
            ledgers: Mutex::default(),
            found: watch::Sender::new(None),
            told: Told::default(),
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

    /// Whether a leader's append or heartbeat may be taken in, which is of `from` by its vote. `vote` tells the vote that
    /// binds this node.
    ///
    /// # Errors
    /// With [`DataLoss`](tonic::Code::DataLoss): it contradicts what is applied here, or something did before. With
    /// [`InvalidArgument`](tonic::Code::InvalidArgument): it tells of a ledger, and not of which.
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
        if !led {
            return Ok(());
        }
        if let Some((own, given)) = differs {
            let what = format!("has entry {given} in its log where node {} has applied {own}", self.node);
            return Err(self.contradicts(from, &what));
        }
        request.ledger.as_ref().map_or(Ok(()), |ledger| self.compare_with(from, ledger))
    }

    /// Answers a leader that contradicts what is applied here; stops this node, if it is a member.
    fn contradicts(&self, from: u64, what: &str) -> Status {
        if self.lists(from) {
            return Status::data_loss(self.contradiction(from, what));
        }
        Status::data_loss(format!(
            "node {from} {what}: it is no member in the log of node {}, so nothing of it is taken in",
            self.node
        ))
    }

    /// Whether the log here names `node` as a member. One that names nobody has nothing that could be contradicted.
    fn lists(&self, node: u64) -> bool {
        // Asked of what is kept beside the ledger: a heartbeat does not wait until that is free.
        self.known.incarnation_of(node).is_some()
            || snapshot::logged(&self.log, &self.machine)
                .is_ok_and(|members| members.is_empty() || members.iter().any(|(member, _)| *member == node))
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
        if !ledgers::is_looked_at(id.index) {
            return self.holds();
        }
        let Some(now) = self.now() else { return self.holds() };
        let awaited = self.ledgers().push(now);
        if let Some((leader, given)) = awaited
            && let Some(what) = given.contradicts(&now, self.node)
        {
            return Err(self.contradiction(leader, &what));
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
        let newest = self.ledgers().newest()?;
        Some(proto::LedgerAt {
            position: Some(position(newest.at)),
            rules: newest.rules,
            form: newest.form,
            digest: newest.digest.as_bytes().to_vec().into(),
        })
    }

    /// What a leader says that its ledger is; what cannot be compared yet waits until it can.
    fn compare_with(&self, from: u64, given: &proto::LedgerAt) -> Result<(), Status> {
        let at = given.position.as_ref().map(from_position);
        let digest = Digest::from_slice(&given.digest);
        let (Some(at), Some(digest)) = (at, digest) else {
            return Err(Status::invalid_argument("a ledger without its position or digest"));
        };
        let given = LedgerAt { at, rules: given.rules, form: given.form, digest };
        let listed = self.lists(from);
        let own = self.ledgers().at_or_awaited(given, listed.then_some(from));
        match own.and_then(|own| given.contradicts(&own, self.node)) {
            Some(what) => Err(self.contradicts(from, &what)),
            None => Ok(()),
        }
    }

    /// What a node answered to this one as leader.
    pub fn heard(&self, node: u64, answer: Result<(), &Status>) {
        self.told.heard(node, answer);
    }

    /// What nodes said that contradict this one, by node, until they follow again.
    pub fn told(&self) -> BTreeMap<u64, String> {
        self.told.now()
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
    use prost::Message;
    use tonic::Code;

    use crate::config::ReplicaConfig;
    use ledgers::EVERY;

    impl Agreement {
        /// Over a log and a ledger below `dir`, both empty.
        pub fn of_an_empty_log(node: u64, dir: &Path) -> Arc<Agreement> {
            let disk = Arc::new(RealDisk);
            let store = Arc::new(Store::open(disk.clone(), dir).unwrap());
            let owner = Identity { node, incarnation: [node as u8; 16] };
            let (log, _) = LogStore::open(disk, &Layout::new(dir), owner, Options::default()).unwrap();
            let machine = Machine::start(store, log.clone(), &dir.join("catalog")).unwrap();
            let known = Known::new(&ReplicaConfig::new(node, owner.incarnation, "c", vec![]));
            Agreement::new(known, machine, log)
        }

        /// A first entry with these members.
        fn has_members(&self, nodes: &[u64]) {
            let members = nodes.iter().map(|node| proto::Member { node: *node, address: "a:1".to_owned() });
            let configs = vec![proto::Voters { nodes: nodes.to_vec() }];
            let members = proto::Membership { configs, members: members.collect() };
            self.applies_entry(Entry {
                id: LogId { term: 0, node: 1, index: 0 },
                body: Body::Membership(members.encode_to_vec().into()),
            });
        }

        fn applies_entry(&self, entry: Entry) {
            self.log.append(vec![entry.clone()], Box::new(|done| done.unwrap()));
            self.machine.apply(&entry).unwrap();
            self.applied(entry.id).unwrap();
        }

        /// Ticks up to the entry at `last`, all of term 2.
        fn applies(&self, last: u64) {
            // Not borrowed while entries are applied: that would wait for itself.
            let next = *self.applied.borrow();
            for index in next..=last {
                let id = LogId { term: 2, node: 1, index };
                self.applies_entry(Entry { id, body: Body::Record(compose::tick(1)) });
            }
        }
    }

    /// A heartbeat of node 1, which leads in `term`, with what it says of its ledger.
    fn beat(term: u64, ledger: &proto::LedgerAt) -> proto::AppendRequest {
        let vote = Some(proto::Vote { term, node: 1, committed: true });
        proto::AppendRequest { vote, ledger: Some(ledger.clone()), ..Default::default() }
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
        let heed = |ledger: &proto::LedgerAt| agreement.heed(1, || (2, 1), &beat(2, ledger));
        heed(&own).unwrap();
        let newer = proto::LedgerAt { rules: own.rules + 1, digest: vec![7; 32].into(), ..own.clone() };
        heed(&newer).unwrap();
        heed(&proto::LedgerAt { form: own.form + 1, rules: own.rules, ..newer }).unwrap();
        // Who does not lead any more is not believed, now and later.
        let wrong = proto::LedgerAt { digest: vec![7; 32].into(), ..own.clone() };
        agreement.heed(1, || (3, 2), &beat(2, &wrong)).unwrap();
        assert_eq!(heed(&proto::LedgerAt::default()).unwrap_err().code(), Code::InvalidArgument);
        agreement.holds().unwrap();
        // The leader is ahead: it waits until this node is there.
        let at = proto::Position { index: 2 * EVERY, ..own.position.unwrap() };
        let ahead = proto::LedgerAt { position: Some(at), digest: vec![7; 32].into(), ..own.clone() };
        heed(&ahead).unwrap();
        agreement.applies(2 * EVERY - 1);
        let id = LogId { term: 2, node: 1, index: 2 * EVERY };
        agreement.machine.apply(&Entry { id, body: Body::Blank }).unwrap();
        let why = agreement.applied(id).unwrap_err();
        assert!(why.contains("at T2-N1.128 its ledger is 07070707"), "{why}");
        agreement.log.shutdown();
    }

    #[test]
    fn who_is_no_member_is_refused_and_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let agreement = Agreement::of_an_empty_log(2, dir.path());
        agreement.has_members(&[1, 2, 3]);
        agreement.applies(EVERY + 6);
        let id = |term, index| LogId { term, node: 1, index };
        let other = append(3, id(2, 9), Some(id(3, 7)));
        let wrong = proto::LedgerAt { digest: vec![7; 32].into(), ..agreement.own().unwrap() };
        let at = proto::Position { index: 2 * EVERY, ..wrong.position.unwrap() };
        let ahead = proto::LedgerAt { position: Some(at), ..wrong.clone() };
        for request in [&other, &beat(3, &wrong)] {
            let why = agreement.heed(9, || (2, 1), request).unwrap_err();
            assert!(why.code() == Code::DataLoss && why.message().contains("node 9"), "{why}");
            agreement.holds().unwrap();
        }
        // Nor does it later, when this node is where it said it was.
        agreement.heed(9, || (2, 1), &beat(3, &ahead)).unwrap();
        agreement.applies(2 * EVERY);
        // The same from a member is a contradiction.
        assert!(agreement.heed(3, || (2, 1), &other).is_err());
        assert!(agreement.holds().unwrap_err().contains("node 3 leads"));
        agreement.log.shutdown();
    }
}
