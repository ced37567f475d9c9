//! Content that was read here and found good, has rotted at rest since, and was in quarantine while this node was away.

use checkpoint::testing::CrashDisk;
use nativelog::compose;

use crate::catch_up::{Source, catch_up};
use crate::directory::Directory;
use crate::house::{file, start};
use crate::replica::Replica;

/// What a node has read to publish the second epoch, which reuses the content of the first.
fn read_once(replica: &mut Replica) {
    replica.whole(1, &Directory::parse("a:100=1"));
    let second = Directory::parse("a:100=1 b:5");
    let attempt = replica.begin(2, &second);
    replica.commit(compose::piece(attempt, second.reuse(&[file(&second, "a")])));
    replica.commit(compose::piece(attempt, second.pack(&[file(&second, "b")])));
    replica.seal(attempt, &second);
    replica.wait_published(2);
}

/// The third brings the bytes anew.
fn third() -> Directory {
    Directory::parse("a:100=1 c:9")
}

/// One that is away with a rotten copy whose inode, length and times are as they were, and one that has put its content in
/// quarantine.
fn away_and_there(disk: &CrashDisk, other: &CrashDisk) -> (Replica, Replica) {
    let (mut away, mut there) = (start(disk), start(other));
    read_once(&mut away);
    read_once(&mut there);
    let digest = third().digest(file(&third(), "a"));
    let blob = away.store.blob_path(digest).unwrap();
    assert!(disk.flip(&blob, 77).unwrap());
    there.quarantine(digest);
    there.wait_performed();
    (away, there)
}

#[test]
fn bytes_that_come_anew_behind_an_install_take_the_place_of_a_rotten_copy() {
    let (disk, other) = (CrashDisk::new(), CrashDisk::new());
    let (mut away, there) = away_and_there(&disk, &other);
    let capture = there.machine.capture(None).unwrap();
    away.machine.install(&capture).unwrap();
    away.follow_install();
    away.whole(3, &third());
    away.assert_published(3);
    away.stop();
    there.stop();
}

#[test]
fn a_catch_up_over_a_whole_quarantine_takes_no_rotten_copy_for_good() {
    let (disk, other) = (CrashDisk::new(), CrashDisk::new());
    let (mut away, mut there) = away_and_there(&disk, &other);
    there.whole(3, &third());
    assert_eq!(there.machine.ledger().quarantine().count(), 0, "it is over");
    let capture = there.machine.capture(None).unwrap();
    catch_up(&Source { replica: &there, disk: &other }, &mut away, &capture).unwrap();
    away.assert_published(3);
    away.stop();
    there.stop();
}
