//! What begins something needs room on a majority of the voters, this leader among them; so does a piece with which an
//! attempt outgrows what its Begin said. Whoever waits for room leaves its place in what is in flight to others.
//!
//! Asked here, where all that begins comes together and what is on its way is known, not at the node that a client has
//! contacted: of two commits through two nodes the second one is asked with what the first may bring. How much room there
//! is whoever builds the replica knows ([`RoomJudge`]); it is no verdict, and the log never says it.
//!
//! ```text
//!  admitted but for room ─▶ the voters are asked anew ─▶ judged again ─▶ none, and none to come: no
//!                                     ▲                     └─ it comes back in a moment ─┐
//!                                     └────────── a pause, for 10 s at most ──────────────┘
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::{Ask, Ledger, NoRoom, Reason, Rejected, Verdict};
use nativelog::record::{Kind, LogRecord};
use tokio::time::Instant;

/// How long a record waits for room that is about to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before it is looked for again.
const PAUSE: Duration = Duration::from_millis(200);

/// What one look at the disks says of whatever asks for room. It reads no disk and waits for nobody: the ledger is held
/// while it is asked.
pub type Sight = Box<dyn Fn(&Ledger, Ask) -> Result<(), NoRoom> + Send + Sync>;

/// Knows how much room the voters have.
pub trait Rooms: Send + Sync {
    /// What is known now of this node's disk and of those of the other voters.
    fn look(&self) -> Sight;
    /// Asks the other voters anew, and gives back here what can be.
    fn ask_anew(&self) -> BoxFuture<'_, ()>;
}

/// Whether what begins has room. Only a leader asks.
#[derive(Clone)]
pub struct RoomJudge(pub Arc<dyn Rooms>);

impl RoomJudge {
    /// There is always room.
    pub fn always() -> RoomJudge {
        RoomJudge(Arc::new(Always))
    }
}

impl fmt::Debug for RoomJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomJudge")
    }
}

struct Always;

impl Rooms for Always {
    fn look(&self) -> Sight {
        Box::new(|_, _| Ok(()))
    }

    fn ask_anew(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// Whether a record is one that begins something, and may ask for room. A piece asks where its attempt brings more than it
/// has spoken for.
pub fn may_ask(record: &LogRecord) -> bool {
    matches!(record.header.kind, Some(Kind::Begin(_) | Kind::Whole(_)))
}

/// The answer to a record for which there is no room.
pub fn no_room(no: NoRoom) -> Verdict {
    Verdict::Rejected(Rejected::new(Reason::NoSpace, no.why).current(no.attempt))
}

/// Records that wait for room in one leadership, in the order in which they began to. A commit may be among them more than
/// once: its client lost the answer to the first copy, which is still here. Then the answer to a later one waits for it: no
/// room now may be some for the first in a moment, and the client, who has been told that nothing is committed, had gone.
#[derive(Debug, Default)]
pub struct Askers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Job and commit id, by number.
    commits: BTreeMap<u64, (String, Bytes)>,
}

impl Askers {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This record waits from now on, until what this returns is dropped.
    pub fn begin(&self, record: &LogRecord) -> Asker<'_> {
        let begin = match &record.header.kind {
            Some(Kind::Begin(begin)) => Some(begin),
            Some(Kind::Whole(whole)) => whole.begin.as_ref(),
            _ => None,
        };
        let commit = begin.map(|begin| (begin.job.clone(), begin.commit_id.clone())).unwrap_or_default();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.commits.insert(number, commit);
        Asker { all: self, number }
    }
}

/// One of them.
#[derive(Debug)]
pub struct Asker<'a> {
    all: &'a Askers,
    number: u64,
}

impl Asker<'_> {
    /// Whether an earlier copy waits still.
    pub fn is_a_later_copy(&self) -> bool {
        let waiting = self.all.waiting();
        let own = waiting.commits.get(&self.number);
        waiting.commits.range(..self.number).any(|(_, commit)| Some(commit) == own)
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.all.waiting().commits.remove(&self.number);
    }
}

/// One record that asks.
#[derive(Debug, Default)]
pub struct Asking {
    since: Option<Instant>,
}

impl Asking {
    /// Returns when it may be judged again.
    ///
    /// # Errors
    /// There is no room, and none comes back in time.
    pub async fn again(&mut self, judge: &RoomJudge, no: NoRoom) -> Result<(), NoRoom> {
        match self.since {
            // What they told a while ago is not reason enough.
            None => self.since = Some(Instant::now()),
            Some(since) if no.soon && since.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Some(_) => return Err(no),
        }
        judge.0.ask_anew().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Rooms for Counting {
        fn look(&self) -> Sight {
            Box::new(|_, _| Ok(()))
        }

        fn ask_anew(&self) -> BoxFuture<'_, ()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            async {}.boxed()
        }
    }

    #[test]
    fn a_later_copy_of_a_commit_waits_for_what_becomes_of_the_first() {
        let record = |commit: u8| {
            let commit_id = vec![commit; 16].into();
            let begin =
                nativelog::record::proto::Begin { job: "job".into(), commit_id, ..Default::default() };
            LogRecord::new(Kind::Begin(begin), Bytes::new())
        };
        let askers = Askers::default();
        let first = askers.begin(&record(1));
        let (other, again) = (askers.begin(&record(2)), askers.begin(&record(1)));
        assert!(!first.is_a_later_copy() && !other.is_a_later_copy() && again.is_a_later_copy());
        drop(first);
        assert!(!again.is_a_later_copy());
    }

    #[tokio::test]
    async fn the_voters_are_asked_before_a_no_and_waited_for_while_room_comes_back() {
        let counting = Arc::new(Counting::default());
        let judge = RoomJudge(counting.clone());
        let asked = || counting.0.load(Ordering::Relaxed);
        let no = |soon| NoRoom { why: "full".into(), soon, attempt: 7 };
        let mut asking = Asking::default();
        assert_eq!(asking.again(&judge, no(false)).await, Ok(()));
        assert_eq!(asking.again(&judge, no(false)).await, Err(no(false)));
        assert_eq!(asked(), 1);
        // It waits for what comes back, and not for ever.
        assert_eq!(asking.again(&judge, no(true)).await, Ok(()));
        assert_eq!(asked(), 2);
        let mut long_ago = Asking { since: Instant::now().checked_sub(PATIENCE) };
        assert_eq!(long_ago.again(&judge, no(true)).await, Err(no(true)));
        assert_eq!(asked(), 2);
    }
}
