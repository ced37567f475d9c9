//! A log that is only looked at says what a start would find, and stays as it is.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::{Disk, Open};
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::store::{Identity, LogStore, OpenError, Vote};
use nativelog::{Body, Entry};

use crate::scene::{OWNER, answered, blank, id, layout, open, pack, segments, wait_append, wait_purge};

fn look(disk: &CrashDisk) -> Result<Option<nativelog::store::Seen>, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    LogStore::look(&disk, &layout(), OWNER)
}

#[test]
fn looking_tells_the_membership_and_changes_nothing() {
    let disk = CrashDisk::new();
    disk.create_dir(std::path::Path::new("/data")).unwrap();
    assert_eq!(look(&disk).unwrap(), None, "there is no log");
    let (log, _) = open(&disk).unwrap();
    let members = |index, text: &'static [u8]| Entry {
        id: id(1, index),
        body: Body::Membership(Bytes::from_static(text)),
    };
    wait_append(&log, vec![members(0, b"one"), blank(1, 1), members(2, b"three")]).unwrap();
    wait_append(&log, vec![pack(1, 3, &[3; 3000]), blank(1, 4)]).unwrap();
    log.shutdown();
    // Torn, as a power cut leaves it: opening would cut it.
    let last = segments(&disk).pop().unwrap();
    let len = disk.stat(&last).unwrap().len;
    disk.open(&last, Open::Write).unwrap().write_at(&[7; 20], len).unwrap();

    disk.clear_ops();
    let seen = look(&disk).unwrap().unwrap();
    assert_eq!(seen.membership, Some((id(1, 2), Bytes::from_static(b"three"))));
    assert_eq!((seen.purged, seen.last), (None, Some(id(1, 4))));
    let syncs = [OpKind::SyncData, OpKind::SyncAll, OpKind::SyncDir];
    let changed: Vec<_> = disk.ops().into_iter().filter(|op| !syncs.contains(&op.kind)).collect();
    assert!(changed.is_empty(), "{changed:?}");

    let (log, recovered) = open(&disk).unwrap();
    assert!(recovered.cut_bytes > 0, "it was not looked at in vain");
    let vote = Vote { term: 2, node: 1, committed: true };
    answered(|done| log.save_vote(vote, done)).unwrap();
    assert!(wait_purge(&log, id(1, 4)));
    log.shutdown();
    let seen = look(&disk).unwrap().unwrap();
    assert_eq!((seen.membership, seen.purged), (None, Some(id(1, 4))), "a snapshot has it");
}

#[test]
fn what_opening_would_refuse_looking_refuses() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    log.shutdown();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let other = Identity { node: 2, ..OWNER };
    assert!(matches!(LogStore::look(&shared, &layout(), other), Err(OpenError::Owner { .. })));
    // A bit below the mark, which the shutdown has written.
    let first = segments(&disk).remove(0);
    disk.open(&first, Open::Write).unwrap().write_at(&[0xff], 60).unwrap();
    assert!(matches!(look(&disk), Err(OpenError::Damaged { .. })));
}
