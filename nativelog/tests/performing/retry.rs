//! Epochs that are committed and could not be published here at once.

use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::compose;
use nativelog::performer::Publication;

use crate::directory::Directory;
use crate::replica::{Replica, job};

const ENOSPC: i32 = 28;

#[test]
fn an_epoch_that_expires_unpublished_leaves_its_content_to_the_next_one() {
    let temp = tempfile::tempdir().unwrap();
    let disk = CrashDisk::new();
    disk.create_dir(Path::new("/data")).unwrap();
    let mut replica = Replica::start(Arc::new(disk.clone()), Path::new("/data"), temp.path());
    let directory = Directory::parse("f:64k=1");
    disk.fail_next(OpKind::Link, "blobs", ENOSPC);
    for (epoch, piece) in [(1, directory.chunk(1, 0)), (2, directory.reuse(&[1]))] {
        let attempt = replica.begin(epoch, &directory);
        replica.commit(compose::piece(attempt, piece));
        replica.seal(attempt, &directory);
        replica.wait_performed();
        let publication = replica.publication(epoch);
        assert!(matches!(publication, Some(Publication::Unpublished(_))), "epoch {epoch}: {publication:?}");
    }
    replica.commit(compose::expire(&job(), vec![1], false, "old", Vec::new()));
    replica.wait_performed();
    replica.wait_published(2);
    replica.assert_published(2);
    assert_eq!(replica.store.epochs(&job()).unwrap(), [2], "the first has expired");
    replica.stop();
}
