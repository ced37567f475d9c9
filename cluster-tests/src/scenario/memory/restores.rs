//! Many restores of one epoch at once: what is asked for is taken and dropped, so that the node alone is measured.

use client::pb;
use client::pb::epochlog_client::EpochlogClient;
use client::pb::fetch_reply::Kind;

use crate::cluster::{Cluster, Options};
use crate::counters::{peak_rss, reset_peak_rss, rss};
use crate::seed::Rng;
use crate::wait::wait_until;

/// Parameters of [`many_restores`].
#[derive(Debug, Clone, Copy)]
pub struct ManyRestores {
    /// Empty files of the epoch.
    pub files: u32,
    /// Bytes of the name of each.
    pub name_bytes: usize,
    /// Restores at once.
    pub calls: u32,
    /// So much memory a node may take for them, bytes.
    pub grown_max: u64,
}

/// Restores an epoch of many entries many times at once. It is its manifest that costs.
///
/// # Panics
/// When the node takes more than it may for it.
pub fn many_restores(name: &str, size: ManyRestores, _rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let cluster = Cluster::start(name, Options { nodes: 1, ..Options::default() });
    let source = cluster.source("names");
    std::fs::create_dir_all(&source).expect("the scratch folder can be written");
    for number in 0..size.files {
        let file = source.join(format!("{number:0width$}", width = size.name_bytes));
        std::fs::File::create(file).expect("our own folder takes it");
    }
    cluster.commit(&[1], &source, "names", 1, &["--timeout", "120s"]).ok();
    cluster.wait_published("names", 1);
    let node = cluster.node(1);
    // What the commit took is given back.
    let mut before = rss(node);
    wait_until(crate::cluster::PATIENCE, "the node to come to rest", || {
        std::thread::sleep(std::time::Duration::from_secs(1)); // the span over which rest is judged
        let now = rss(node);
        let rests = now + (1 << 20) >= before;
        before = now;
        if rests { Ok(()) } else { Err(now) }
    });
    reset_peak_rss(node);
    let manifest_bytes = at_once(&node.address(), "names", 1, size.calls);
    let grown = peak_rss(node).saturating_sub(before);
    progress(format!(
        "{} restores at once of a manifest of {} MiB: {} MiB more than the {} MiB before",
        size.calls,
        manifest_bytes >> 20,
        grown >> 20,
        before >> 20
    ));
    assert!(grown <= size.grown_max, "{} MiB, at most {} may be", grown >> 20, size.grown_max >> 20);
    assert!(
        u64::from(size.calls) * manifest_bytes > size.grown_max,
        "all of them together are more than what is allowed: else nothing is shown"
    );
}

/// Takes manifest and content of an epoch so many times at once; the bytes of the manifest.
///
/// # Panics
/// When one of them fails.
pub(super) fn at_once(endpoint: &str, job: &str, epoch: u64, calls: u32) -> u64 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let calls: Vec<_> = (0..calls)
            .map(|_| tokio::spawn(restored(format!("http://{endpoint}"), job.to_owned(), epoch)))
            .collect();
        let mut bytes = 0;
        for call in calls {
            bytes = call.await.expect("it does not panic");
        }
        bytes
    })
}

/// One restore over a connection of its own.
async fn restored(endpoint: String, job: String, epoch: u64) -> u64 {
    let mut stub = EpochlogClient::connect(endpoint).await.expect("the node takes connections");
    let which = Some(pb::Which { kind: Some(pb::which::Kind::Exactly(epoch)) });
    let request = pb::FetchRequest { job, which, stale: true, ..pb::FetchRequest::default() };
    let mut manifest = (0, 0);
    for content_too in [false, true] {
        let request = pb::FetchRequest { content: content_too, ..request.clone() };
        let mut replies = stub.fetch(request).await.expect("the call is opened").into_inner();
        while let Some(reply) = replies.message().await.expect("the node answers") {
            match reply.kind {
                Some(Kind::Head(head)) => manifest.0 = head.manifest_bytes,
                Some(Kind::Manifest(part)) => manifest.1 += part.len() as u64,
                Some(Kind::Failed(failed)) => panic!("{failed:?}"),
                Some(Kind::Chunk(_) | Kind::Working(_)) | None => {}
            }
        }
        assert!(manifest.0 > 0 && manifest.0 == manifest.1, "{manifest:?}: the manifest came in part");
    }
    manifest.0
}
