//! The power goes after every single operation of two epochs' lives, from Begin to the published directory, and again
//! while the replica starts: what was sealed is published whole, what was not is nowhere to be seen.

use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk};
use nativelog::compose;

use crate::directory::{CHUNK, Directory};
use crate::replica::{Replica, job};

fn start(disk: &CrashDisk) -> Option<Replica> {
    let data = Path::new("/data");
    // The node has made its folder before.
    let _ = disk.create_dir(data);
    let _ = disk.sync_dir(Path::new("/"));
    Replica::try_start(Arc::new(disk.clone()), data, Path::new("/dev/null/no-catalog"))
}

/// Two epochs: one in pieces of every kind, one that reuses its content. The number that was sealed for certain.
fn live(replica: &mut Replica) -> Option<u64> {
    let first = Directory::parse("big:100k=1 dir/ dir/a:300=2 dir/b:300=2 empty:0 hole:128k=0 link->big");
    let file = |directory: &Directory, path: &str| {
        directory.entries.iter().position(|entry| entry.path.as_bytes() == path.as_bytes()).unwrap() as u32
    };
    let mut sealed = 0;
    let mut run = || -> Option<()> {
        let attempt = replica.try_begin(1, &first)?;
        let big = file(&first, "big");
        replica.try_commit(compose::piece(attempt, first.chunk(big, 0)))?;
        replica.try_commit(compose::piece(attempt, first.chunk(big, CHUNK)))?;
        let pack = first.pack(&[file(&first, "dir/a"), file(&first, "dir/b")]);
        replica.try_commit(compose::piece(attempt, pack))?;
        replica.try_commit(compose::piece(attempt, first.zero(file(&first, "hole"), 0, 2 * CHUNK)))?;
        replica.try_commit(compose::seal(attempt, first.root()))?;
        sealed = 1;
        let second = Directory::parse("big:100k=1 new:70k=9");
        let attempt = replica.try_begin(2, &second)?;
        let (big, new) = (file(&second, "big"), file(&second, "new"));
        replica.try_commit(compose::piece(attempt, second.reuse(&[big])))?;
        replica.try_commit(compose::piece(attempt, second.chunk(new, 0)))?;
        replica.try_commit(compose::piece(attempt, second.chunk(new, CHUNK)))?;
        replica.try_commit(compose::seal(attempt, second.root()))?;
        sealed = 2;
        replica.try_wait_performed()
    };
    let whole = run().is_some();
    (whole || sealed > 0).then_some(sealed)
}

fn check(disk: &CrashDisk, sealed: u64, context: &str) {
    let replica = start(disk).unwrap_or_else(|| panic!("{context}: the replica does not start"));
    replica.wait_performed();
    for epoch in 1..=2 {
        match replica.publication(epoch) {
            Some(_) => replica.assert_published(epoch),
            None => {
                assert!(epoch > sealed, "{context}: epoch {epoch} was sealed and is lost");
                let there = replica.store.published(&job(), epoch).unwrap();
                assert!(there.is_none(), "{context}: epoch {epoch} is published, but not sealed");
            }
        }
    }
    replica.stop();
}

#[test]
fn a_sealed_epoch_is_published_whole_and_an_unsealed_one_is_invisible_at_any_operation() {
    let whole = CrashDisk::new();
    let mut replica = start(&whole).unwrap();
    assert_eq!(live(&mut replica), Some(2));
    replica.stop();
    let ops = whole.op_count();
    assert!(ops > 100, "the life is long enough: {ops}");
    for at in 0..=ops {
        let disk = CrashDisk::new();
        disk.crash_after(at);
        let sealed = start(&disk).map_or(0, |mut replica| {
            let sealed = live(&mut replica).unwrap_or(0);
            replica.stop();
            sealed
        });
        for how in [Crash::Strict, Crash::Mixed(at), Crash::Mixed(at + 1000)] {
            let left = disk.crash(how);
            check(&left.crash(how), sealed, &format!("power cut after operation {at}, {how:?}"));
            if at % 5 == 0 {
                for again in (0..120).step_by(9) {
                    let second = left.crash(how);
                    second.crash_after(again);
                    if let Some(replica) = start(&second) {
                        let _ = replica.try_wait_performed();
                        replica.stop();
                    }
                    let context =
                        format!("power cut after operation {at}, {how:?}, and {again} of the next start");
                    check(&second.crash(Crash::Strict), sealed, &context);
                }
            }
        }
    }
}
