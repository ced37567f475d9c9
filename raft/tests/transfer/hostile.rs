//! What peers may ask for and send on the transfer connection is bounded, and what is out of bounds changes
//! nothing. On a disk that is nearly full, records that free space still pass.

use crate::cluster::{Cluster, Commit, accepted, by_hand, caller, commit_epoch, directory, within};
use bytes::Bytes;
use nativelog::compose;
use nativelog::ledger::{Accepted, Verdict};
use raft::ProposeError;
use raft::proto::{self, snapshot_part::Part};
use tonic::Code;

fn digest() -> Bytes {
    Bytes::from(vec![1; 32])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_out_of_bounds_are_refused() {
    let cluster = Cluster::start_keeping("bounds", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 1 << 20).await;
    cluster.agree().await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    let mut client = caller("bounds", leader, (target.id, &target.address));

    let blob = |size, offset| proto::BlobWanted { digest: digest(), size, offset, ..Default::default() };
    let short = proto::BlobWanted { digest: Bytes::from_static(b"short"), size: 5, ..Default::default() };
    for blobs in [vec![], vec![blob(5, 0); 513], vec![blob(5, 5)], vec![short]] {
        let refused = client.fetch_blobs(proto::BlobsRequest { blobs, holes: false }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let named = |digest| proto::BlobNamed { digest, size: 5 };
    for blobs in [vec![], vec![named(digest()); 513], vec![named(Bytes::from_static(b"short"))]] {
        let refused = client.stored_bytes(proto::StoredRequest { blobs }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let range =
        |offset, len| proto::RangeWanted { file: 1, file_bytes: 1 << 30, offset, len, digest: digest() };
    let lists = [
        vec![],
        vec![range(0, 0)],
        vec![range(0, 8 << 20)],
        vec![range(77, 1024)],
        vec![range(0, 4 << 20); 9],
    ];
    for ranges in lists {
        let request = proto::RangesRequest { attempt: 1, at: 1, ranges, holes: false };
        let refused = client.fetch_ranges(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let files = vec![proto::PackedWanted { file: 1, size: 1 << 20, digest: digest() }];
    let refused = client.fetch_packed(proto::PackedRequest { attempt: 1, at: 1, files }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let page = |bytes| proto::PageWanted { page: 0, first: 0, entries: 1, index: 1, bytes, digest: digest() };
    for pages in [vec![], vec![page(0)], vec![page(4 << 20); 9]] {
        let refused = client.fetch_pages(proto::PagesRequest { attempt: 1, pages }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let request =
        proto::ManifestRequest { job: "../job".into(), epoch: 1, root: digest(), at: 1, attempt: 1 };
    assert_eq!(client.fetch_manifest(request).await.unwrap_err().code(), Code::InvalidArgument);

    // In bounds and not there: a miss, not an error. Of what it has not carried out it does not say that it has none.
    within("it has carried out something", async || (target.machine.marks().performed > 0).then_some(()))
        .await;
    for (index, miss) in [(0, proto::Miss::NotFound), (u64::MAX, proto::Miss::NotYet)] {
        let pages = vec![proto::PageWanted { index, first: u32::MAX, ..page(77) }];
        let request = proto::PagesRequest { attempt: u64::MAX, pages };
        let mut answer = client.fetch_pages(request).await.unwrap().into_inner();
        assert_eq!(answer.message().await.unwrap().unwrap().miss(), miss);
    }
    let blobs = vec![blob(5, 0)];
    let mut answer =
        client.fetch_blobs(proto::BlobsRequest { blobs, holes: false }).await.unwrap().into_inner();
    let part = answer.message().await.unwrap().unwrap();
    assert_eq!(part.miss(), proto::Miss::NotFound);
    assert!(answer.message().await.unwrap().is_none());
    let request = proto::ManifestRequest { job: "job".into(), epoch: 9, root: digest(), at: 0, attempt: 1 };
    let mut answer = client.fetch_manifest(request).await.unwrap().into_inner();
    assert_eq!(answer.message().await.unwrap().unwrap().miss(), proto::Miss::Ended);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_an_attempt_without_an_epoch_is_said_to_have_ended() {
    let cluster = Cluster::start_keeping("ended", 3, by_hand()).await;
    let sealed = commit_epoch(&cluster, "job", 1, 4 << 20).await.attempt;
    let leader = cluster.leader().await;
    let source = directory(4 << 20);
    let commit = Commit::of(source.path(), "other", 2);
    let stream = cluster.nodes[&leader].replica.stream().await.unwrap();
    let (aborted, open) = (commit.begin(&stream).await, Commit::of(source.path(), "open", 3));
    accepted(&stream, compose::abort(aborted, "test")).await;
    let open = open.begin(&stream).await;
    cluster.agree().await;
    let target = cluster.follower().await;
    let at = target.machine.ledger().applied().unwrap().index;
    let mut client = caller("ended", leader, (target.id, &target.address));
    let mut misses = Vec::new();
    // Nobody has such bytes. Those of a sealed attempt are needed, whoever has lost them.
    for attempt in [sealed, aborted, open, at + 7] {
        let range =
            proto::RangeWanted { file: 1, file_bytes: 2 << 20, offset: 0, len: 1 << 20, digest: digest() };
        let request = proto::RangesRequest { attempt, at, ranges: vec![range], holes: false };
        let mut answer = client.fetch_ranges(request).await.unwrap().into_inner();
        let ranges = answer.message().await.unwrap().unwrap().miss();
        let files = vec![proto::PackedWanted { file: 1, size: 5, digest: digest() }];
        let request = proto::PackedRequest { attempt, at, files };
        let mut answer = client.fetch_packed(request).await.unwrap().into_inner();
        misses.push((ranges, answer.message().await.unwrap().unwrap().miss()));
    }
    use proto::Miss::{Ended, NotFound};
    assert_ne!(misses[0].0, Ended);
    assert_ne!(misses[0].1, Ended);
    assert_eq!(misses[1..], [(Ended, Ended), (NotFound, NotFound), (NotFound, NotFound)]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn snapshots_that_are_none_change_nothing() {
    let cluster = Cluster::start_keeping("forged", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 1 << 20).await;
    let before = cluster.agree().await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    let mut client = caller("forged", leader, (target.id, &target.address));
    let last = target.log.log_state().1.unwrap();
    let head = |term, bytes| {
        let position = proto::Position { term: last.term, node: last.node, index: last.index + 1000 };
        let meta = proto::SnapshotMeta { position: Some(position), membership_at: None, membership: None };
        let vote = proto::Vote { term, node: leader, committed: true };
        Part::Head(proto::SnapshotHead { vote: Some(vote), meta: Some(meta), bytes })
    };
    let data = |bytes: &'static [u8]| Part::Data(Bytes::from_static(bytes));
    let forged = [
        vec![],
        vec![data(b"no head")],
        vec![head(last.term, u64::MAX)],
        vec![head(last.term, 3), data(b"more than three")],
        vec![head(last.term, 30), data(b"less")],
        vec![head(last.term, 12), data(b"not a ledger")],
        vec![head(last.term, 0)],
    ];
    for parts in forged {
        let parts = parts.into_iter().map(|part| proto::SnapshotPart { part: Some(part) });
        let refused =
            client.install_snapshot(tokio_stream::iter(parts.collect::<Vec<_>>())).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    // Somebody who does not lead any more is told so before anything is read.
    let stale = vec![proto::SnapshotPart { part: Some(head(0, 1 << 20)) }];
    let told = client.install_snapshot(tokio_stream::iter(stale)).await.unwrap().into_inner();
    assert_eq!(told.vote.unwrap().term, last.term);
    assert_eq!(cluster.agree().await, before);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn full_followers_take_what_frees_space_and_refuse_what_takes_it() {
    let cluster = Cluster::start_keeping("full", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 1 << 20).await;
    cluster.agree().await;
    let leader = cluster.leader().await;
    let replica = &cluster.nodes[&leader].replica;
    for node in cluster.nodes.values().filter(|node| node.id != leader) {
        node.replica.refuse_appends(Some("no space".into()));
    }
    crate::cluster::remove_epochs(&cluster, "job", vec![1]).await;
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    let source = directory(1 << 20);
    let commit = Commit::of(source.path(), "job", 2);
    // It was proposed before anybody had refused: it is let in a moment later, and so is what stands behind it.
    let (_, begun) = replica.propose(compose::begin(&commit.opening, &commit.pages)).await.unwrap();
    let Verdict::Accepted(Accepted::Begun { attempt, .. }) = begun else { panic!("{begun}") };
    assert!(replica.propose(compose::tick(2)).await.unwrap().1.is_accepted());
    // The leader has heard, and proposes no more of it.
    let (pieces, _) = commit.pieces(source.path(), attempt);
    let stream = replica.stream().await.unwrap();
    let outcome = stream.send(pieces[0].clone()).await.unwrap().await;
    drop(stream);
    assert!(matches!(outcome, Err(ProposeError::Unavailable { .. })), "{outcome:?}");
    for node in cluster.nodes.values() {
        node.replica.refuse_appends(None);
    }
    within("content is taken again", || async {
        let part = commit.pages.parts(attempt, 0).next().expect("a plan has a page");
        let outcome = replica.propose(part).await;
        outcome.ok().filter(|(_, verdict)| verdict.is_accepted())
    })
    .await;
    cluster.agree().await;
    cluster.shutdown().await;
}
