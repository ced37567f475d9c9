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
//! | entries, and the one before them | positions of this log, as far as it is applied |
//! | how far is committed, in heartbeats too | the same |
//! | its ledger's digest at some position | this ledger's at that position, under equal rules |
//!
//! **Guarantees**: once a contradiction is found nothing is appended, truncated, installed or applied here.
//!
//! **Never**: believes a leader of an older term. Its entries may differ from what was committed since.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use checkpoint::Digest;
use nativelog::machine::Machine;
use nativelog::record::LogId;
use nativelog::store::LogStore;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::consensus::Consensus;
use crate::life::Life;
use crate::network::convert::{from_position, position};
use crate::proto;

/// Indexes at which ledgers are compared are multiples of this.
const EVERY: u64 = 64;
/// Own digests that are kept, the newest.
const KEPT: usize = 256;
/// Digests of leaders at positions that are not applied here yet, at most.
const AWAITED: usize = 64;
/// How long a node that stops answers the leader with the reason: it asks several times in this time.
const TELL: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Agreement {
    node: u64,
    machine: Arc<Machine>,
    log: LogStore,
    /// Entries that are applied here.
    applied: watch::Receiver<u64>,
    ledgers: Mutex<Ledgers>,
    found: watch::Sender<Option<String>>,
    /// What nodes answered to this one as leader that contradict it.
    told: Mutex<BTreeMap<u64, String>>,
}

/// A ledger at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LedgerAt {
    at: LogId,
    rules: u32,
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
        Arc::new(Agreement {
            node,
            machine,
            log,
            applied,
            ledgers: Mutex::default(),
            found: watch::Sender::new(None),
            told: Mutex::default(),
        })
    }

    fn ledgers(&self) -> MutexGuard<'_, Ledgers> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ok while no contradiction was found.
    ///
    /// # Errors
    /// The contradiction, in words.
    pub fn holds(&self) -> Result<(), String> {
        self.found.borrow().clone().map_or(Ok(()), Err)
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

    /// Whether a leader's append or heartbeat may be taken in. `term` tells the term that binds this node.
    ///
    /// # Errors
    /// With [`Code::DataLoss`]: it contradicts what is applied here, or something did before.
    pub fn heed(
        &self,
        from: u64,
        term: impl Fn() -> u64,
        request: &proto::AppendRequest,
    ) -> Result<(), Status> {
        self.holds().map_err(Status::data_loss)?;
        let ids = request.entries.iter().filter_map(|entry| entry.position.as_ref());
        let of_the_log = request.previous.iter().chain(ids).map(from_position);
        let differs = of_the_log.chain(request.committed.as_ref().map(from_position)).find_map(|given| {
            let own = self.applied_at(given.index)?;
            (own != given).then_some((own, given))
        });
        // Looked at last: by then this node may have gone on to a term in which it applied something else.
        let led = request.vote.as_ref().is_some_and(|vote| vote.term >= term());
        match differs.filter(|_| led) {
            Some((own, given)) => {
                let what = format!("has entry {given} in its log where node {} has applied {own}", self.node);
                Err(Status::data_loss(self.contradiction(from, &what)))
            }
            None => Ok(()),
        }
    }

    /// The position of the entry at `index`, if it is applied here and still in the log.
    fn applied_at(&self, index: u64) -> Option<LogId> {
        if index >= *self.applied.borrow() {
            return None;
        }
        self.log.log_id_at(index)
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

    /// Looks at the ledger after the entry at `index` was applied.
    ///
    /// # Errors
    /// A leader's ledger was another one at this position.
    pub fn applied(&self, index: u64) -> Result<(), String> {
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
        Some(LedgerAt { at: ledger.applied()?, rules: ledger.rules(), digest: ledger.digest() })
    }

    /// What this node as leader says of its ledger: at the newest position that others will look at too.
    pub fn own(&self) -> Option<proto::LedgerAt> {
        let newest = *self.ledgers().own.back()?;
        Some(proto::LedgerAt {
            position: Some(position(newest.at)),
            rules: newest.rules,
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
        let given = LedgerAt { at, rules: given.rules, digest };
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
        // The rules follow from the records, but a binary may not know those of the other.
        if given == own || (given.at == own.at && given.rules != own.rules) {
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

    /// Ends the consensus when a contradiction was found and, once the leader was told, the replica.
    pub async fn watch(self: Arc<Self>, consensus: Consensus, life: Arc<Life>) {
        let mut found = self.found.subscribe();
        let Ok(why) = found.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default()) else {
            return;
        };
        tracing::error!(node = self.node, why, "this node's log contradicts that of the leader");
        consensus.shutdown().await;
        tokio::time::sleep(TELL).await;
        life.fail(&why);
    }
}
