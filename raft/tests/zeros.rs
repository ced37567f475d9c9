//! A hundred bytes of a client's that take long to check: runs of zeros are hashed beside the threads of the
//! runtime, on which consensus runs. Nothing else is tested in this process: it would be heard in the ticks.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use std::time::{Duration, Instant};

use checkpoint::limits::ZERO_BYTES_MAX;
use checkpoint::{Digest, Piece, digest};
use cluster::Cluster;
use nativelog::compose;
use nativelog::ledger::{Reason, Verdict};
use nativelog::record::LogRecord;
use nativelog::shape::check_zeros;
use tokio::sync::oneshot;

/// Records that come at once.
const RECORDS: u32 = 128;
/// A thread of the runtime looks at its timers after 61 tasks. Where each of them hashes, it is away for as
/// many hashes; it may be for a third of that.
const FEW: u32 = 20;
const FILE_BYTES: u64 = 1 << 40;

/// The longest run of zeros, for an attempt that nobody has begun: it is hashed before that is found out.
fn run(digest: Digest) -> LogRecord {
    let (len, file_bytes) = (ZERO_BYTES_MAX, FILE_BYTES);
    compose::piece(7, Piece::Zero { file: 1, offset: 0, len, digest, file_bytes })
}

/// All that the replica does is done by one thread, and this test waits on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn zeros_are_hashed_beside_the_thread_that_leads() {
    let cluster = Cluster::start("zeros", 1).await;
    cluster.leader().await;
    let replica = &cluster.nodes[&1].replica;
    let record = run(digest::zeros(FILE_BYTES, 0, ZERO_BYTES_MAX));
    let hash = |_| {
        let began = Instant::now();
        check_zeros(&record).unwrap();
        began.elapsed()
    };
    let took = (0..5).map(hash).min().unwrap();

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
    let proposals: Vec<_> = (0..RECORDS)
        .map(|_| {
            let (replica, record) = (replica.clone(), record.clone());
            tokio::spawn(async move { replica.propose(record).await })
        })
        .collect();
    for proposal in proposals {
        let (_, verdict) = proposal.await.unwrap().unwrap();
        assert!(matches!(&verdict, Verdict::Rejected(why) if why.reason == Reason::NotFound), "{verdict}");
    }
    answered.send(()).unwrap();
    let longest = ticks.await.unwrap();
    assert!(longest < took * FEW, "no tick for {longest:?}, and one hash takes {took:?}");
    // And they were hashed.
    let (_, verdict) = replica.propose(run(Digest::NONE)).await.unwrap();
    assert!(matches!(&verdict, Verdict::Rejected(why) if why.reason == Reason::Malformed), "{verdict}");
    cluster.shutdown().await;
}
