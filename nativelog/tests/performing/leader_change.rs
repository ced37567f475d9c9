//! What an uncommitted entry left on disk must never be seen in an epoch.

use std::sync::Arc;

use checkpoint::disk::RealDisk;
use nativelog::{Body, compose};

use crate::directory::{CHUNK, Directory};
use crate::replica::{Replica, job};

#[test]
fn a_truncated_chunk_does_not_show_through_zeros() {
    let temp = tempfile::tempdir().unwrap();
    let mut replica = Replica::start(Arc::new(RealDisk), temp.path(), &temp.path().join("catalog"));
    let before = Directory::parse("f:192k=1");
    // The application has cleared the middle of its file since.
    let mut sealed = before.clone();
    sealed.bytes[1][CHUNK as usize..2 * CHUNK as usize].fill(0);
    let attempt = replica.begin(1, &sealed);
    replica.append(vec![Body::Record(compose::piece(attempt, before.chunk(1, CHUNK)))]);
    replica.lose_uncommitted();
    replica.commit(compose::piece(attempt, sealed.chunk(1, 0)));
    replica.commit(compose::piece(attempt, sealed.zero(1, CHUNK, CHUNK)));
    replica.commit(compose::piece(attempt, sealed.chunk(1, 2 * CHUNK)));
    replica.seal(attempt, &sealed);
    replica.wait_performed();
    replica.assert_published(1);
    let published = std::fs::read(replica.store.layout().files_dir(&job(), 1).join("f")).unwrap();
    assert!(published == sealed.bytes[1]);
    replica.stop();
}
