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

/// The longest run of zeros that no table has: the last of a file, a byte short, each at a place of its own. For an attempt
/// that nobody has begun: it is hashed before that is found out.
fn run(n: u64, digest: Option<Digest>) -> LogRecord {
    let (offset, len) = (n * ZERO_BYTES_MAX, ZERO_BYTES_MAX - 1);
    let file_bytes = offset + len;
    let digest = digest.unwrap_or_else(|| digest::zeros(file_bytes, offset, len));
    compose::piece(7, Piece::Zero { file: 1, offset, len, digest, file_bytes })
}

/// All that the replica does is done by one thread, and this test waits on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn zeros_are_hashed_beside_the_thread_that_leads() {
    let cluster = Cluster::start("zeros", 1).await;
    cluster.leader().await;
    let replica = &cluster.nodes[&1].replica;
    let other = digest::content(b"no zeros");
    let hash = |n| {
        let began = Instant::now();
        check_zeros(&run(u64::from(n), Some(other))).unwrap_err();
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
    let proposals: Vec<_> = (0..RECORDS)
        .map(|n| {
            let replica = replica.clone();
            tokio::spawn(async move { replica.propose(run(u64::from(n), Some(other))).await })
        })
        .collect();
    for proposal in proposals {
        let (_, verdict) = proposal.await.unwrap().unwrap();
        // So they were hashed.
        assert!(matches!(&verdict, Verdict::Rejected(why) if why.reason == Reason::Malformed), "{verdict}");
    }
    answered.send(()).unwrap();
    let longest = ticks.await.unwrap();
    assert!(longest < took * FEW, "no tick for {longest:?}, and one hash takes {took:?}");
    let (_, verdict) = replica.propose(run(0, None)).await.unwrap();
    assert!(matches!(&verdict, Verdict::Rejected(why) if why.reason == Reason::NotFound), "{verdict}");
    cluster.shutdown().await;
}
