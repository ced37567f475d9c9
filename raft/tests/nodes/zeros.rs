//! A hundred bytes of a client's that take long to check: runs of zeros are hashed beside the threads of the
//! runtime, on which consensus runs. Nothing else is tested in this process: it would be heard in the ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Commit, accepted, within};
use checkpoint::limits::ZERO_BYTES_MAX;
use checkpoint::{Digest, EntryKind, Piece, PlanEntry, RelPath, digest};
use nativelog::compose::{self, Pages};
use nativelog::ledger::{Accepted, Reason, Verdict};
use nativelog::record::LogRecord;
use nativelog::shape::check_zeros;
use raft::Replica;
use tokio::sync::oneshot;

/// Records that come at once.
const RECORDS: u32 = 128;
/// A thread of the runtime looks at its timers after 61 tasks. Where each of them hashes, it is away for as
/// many hashes; it may be for a third of that.
const FEW: u32 = 20;
/// Nobody has begun this one.
const NO_ATTEMPT: u64 = 1 << 40;

/// Where the last run of file `n` begins, and how long it is: the longest that no table has, a byte short, each at a place of
/// its own.
fn place(n: u32) -> (u64, u64) {
    (u64::from(n) * ZERO_BYTES_MAX, ZERO_BYTES_MAX - 1)
}

fn run(attempt: u64, n: u32, digest: Digest) -> LogRecord {
    let (offset, len) = place(n);
    compose::piece(attempt, Piece::Zero { file: n + 1, offset, len, digest, file_bytes: offset + len })
}

/// An attempt of so many files, of which nothing is there.
async fn begun(replica: &Replica, files: u32) -> u64 {
    let entry = |path: &str, kind, size| PlanEntry {
        path: RelPath::parse(path.as_bytes()).unwrap(),
        kind,
        mode: 0o755,
        size,
        target: Vec::new(),
    };
    let size = |n| place(n).0 + place(n).1;
    let files = (0..files).map(|n| entry(&format!("f{n:04}"), EntryKind::File, size(n)));
    let entries: Vec<_> = std::iter::once(entry("", EntryKind::Directory, 0)).chain(files).collect();
    let dir = tempfile::tempdir().unwrap();
    let (opening, pages) = (Commit::of(dir.path(), "job", 1).opening, Pages::new(&entries));
    let stream = replica.stream().await.unwrap();
    let begun = accepted(&stream, compose::begin(&opening, &pages)).await;
    let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
    for part in pages.parts(attempt, 0) {
        accepted(&stream, part).await;
    }
    attempt
}

/// All that the replica does is done by one thread, and this test waits on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn zeros_are_hashed_beside_the_thread_that_leads_and_after_they_are_judged() {
    let cluster = Cluster::start("zeros", 1).await;
    cluster.leader().await;
    let replica = &cluster.nodes[&1].replica;
    let attempt = begun(replica, RECORDS + 6).await;
    let other = digest::content(b"no zeros");
    let hash = |n| {
        let began = Instant::now();
        check_zeros(&run(attempt, n, other)).unwrap_err();
        began.elapsed()
    };
    let took = (RECORDS..RECORDS + 5).map(hash).min().unwrap();

    let (answered, mut all) = oneshot::channel();
    let ticks = tokio::spawn(async move {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while all.try_recv() != Ok(()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    });
    let hashed = Arc::new(AtomicU32::new(0));
    let proposals: Vec<_> = (0..RECORDS)
        .map(|n| {
            let (replica, hashed) = (replica.clone(), hashed.clone());
            tokio::spawn(async move {
                let answered = replica.propose(run(attempt, n, other)).await;
                hashed.fetch_add(1, Ordering::Relaxed);
                answered
            })
        })
        .collect();
    within("the first is hashed", async || (hashed.load(Ordering::Relaxed) > 0).then_some(())).await;
    // What has no place in the log does not wait until they are.
    let (_, verdict) = replica.propose(run(NO_ATTEMPT, RECORDS + 5, other)).await.unwrap();
    let before = hashed.load(Ordering::Relaxed);
    assert_eq!(verdict.rejected().map(|no| no.reason), Some(Reason::NotFound), "{verdict}");
    assert!(before < RECORDS / 2, "it has waited for {before} hashes");
    for proposal in proposals {
        let (_, verdict) = proposal.await.unwrap().unwrap();
        // So they were hashed.
        assert!(matches!(&verdict, Verdict::Rejected(why) if why.reason == Reason::Malformed), "{verdict}");
    }
    answered.send(()).unwrap();
    let longest = ticks.await.unwrap();
    assert!(longest < took * FEW, "no tick for {longest:?}, and one hash takes {took:?}");
    let (offset, len) = place(RECORDS + 5);
    let zeros = run(attempt, RECORDS + 5, digest::zeros(offset + len, offset, len));
    let (_, verdict) = replica.propose(zeros).await.unwrap();
    assert!(verdict.is_accepted(), "{verdict}");
    cluster.shutdown().await;
}
