//! A copy that has rotted on the node that is asked: what comes of it is another node's.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::trio::Trio;
use client::pb;
use client::pb::epochlog_client::EpochlogClient;
use pb::fetch_reply::Kind;

/// A byte of it, its time put back: only who reads it sees that.
fn rot(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let made = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1_000_000).unwrap();
    file.set_modified(made).unwrap();
}

/// What a node sends of the file `large` when it is asked alone; else the code of its failure.
async fn content(endpoint: &str, request: pb::FetchRequest) -> Result<Vec<u8>, String> {
    let mut stub = EpochlogClient::connect(format!("http://{endpoint}")).await.unwrap();
    let mut replies = stub.fetch(request).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        match reply.kind.unwrap() {
            Kind::Chunk(chunk) => {
                assert_eq!(chunk.digest, checkpoint::digest::content(&chunk.payload).as_bytes()[..]);
                bytes.extend_from_slice(&chunk.payload);
            }
            Kind::Failed(failed) => return Err(failed.code),
            _ => {}
        }
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_one_node_alone_gets_another_ones_copy_in_place_of_a_rotten_one() {
    let dir = tempfile::tempdir().unwrap();
    let trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    let asked = (leader + 1) % 3;
    let files = dir.path().join(format!("n{}/epochs/job/1/files", asked + 1));
    let large = files.join("large");
    let good = std::fs::read(&large).unwrap();
    rot(&large);
    let rotten = std::fs::read(&large).unwrap();
    assert!(rotten != good && rotten.len() == good.len());

    // "dangling", "large": by name behind the root.
    let which = Some(pb::Which { kind: Some(pb::which::Kind::Exactly(1)) });
    let files = vec![pb::IdRange { from: 2, to: 3 }];
    let request = pb::FetchRequest { job: "job".into(), which, content: true, files, ..Default::default() };
    let elsewhere = pb::FetchRequest { elsewhere: true, ..request.clone() };
    let endpoint = &trio.endpoints[asked];
    assert!(content(endpoint, elsewhere).await.unwrap() == good, "another copy than the good one was sent");
    assert!(std::fs::read(&large).unwrap() == rotten, "I12: its own copy is as it was");

    let root = |of: &Path| {
        let told = trio.ask(asked, &["digest", of.to_str().unwrap()]);
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        String::from_utf8(told.stdout).unwrap()
    };
    let sealed = root(&dir.path().join("source"));
    // The replica of this machine is read first, then the node is asked, and no other one.
    let target = dir.path().join("restored");
    let restored = trio.ask(asked, &["restore", "job@1", "--to", target.to_str().unwrap()]);
    assert_eq!(restored.status.code(), Some(0), "{restored:?}");
    assert_eq!(root(&target), sealed);
    // Its own bytes it never sends: not either when it may ask nobody.
    let alone = content(endpoint, pb::FetchRequest { direct: true, ..request }).await;
    match alone {
        Ok(bytes) => assert!(bytes == good, "rotten bytes were sent"),
        Err(code) => assert_eq!(code, "Corrupt"),
    }
}
