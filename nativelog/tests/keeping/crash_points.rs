//! The power goes after every single operation of a life with snapshots, purges and unlinks, and again while the
//! replica starts: nothing acknowledged is lost, and once everything has expired nothing is left behind.

use checkpoint::testing::{Crash, CrashDisk};
use nativelog::compose;

use crate::directory::{CHUNK, Directory};
use crate::house::{assert_baseline, file, second_cuts, start, try_start};
use crate::replica::Replica;

/// What was acknowledged.
#[derive(Debug, Clone, Default)]
struct Acknowledged {
    sealed: Vec<u64>,
    expired: Vec<u64>,
    /// A record that was never acknowledged may have been written all the same.
    asked_to_expire: Vec<u64>,
}

fn live(replica: &mut Replica, done: &mut Acknowledged) -> Option<()> {
    let first = Directory::parse("big:100k=1 dir/ dir/a:300=2 dir/b:300=2 empty:0 hole:128k=0 link->big");
    let attempt = replica.try_begin(1, &first)?;
    let big = file(&first, "big");
    replica.try_commit(compose::piece(attempt, first.chunk(big, 0)))?;
    replica.try_commit(compose::piece(attempt, first.chunk(big, CHUNK)))?;
    let small = [file(&first, "dir/a"), file(&first, "dir/b")];
    replica.try_commit(compose::piece(attempt, first.pack(&small)))?;
    replica.try_commit(compose::piece(attempt, first.zero(file(&first, "hole"), 0, 2 * CHUNK)))?;
    replica.try_commit(compose::seal(attempt, first.root()))?;
    done.sealed.push(1);
    replica.try_keep()?;

    let second = Directory::parse("big:100k=1 new:70k=9");
    let attempt = replica.try_begin(2, &second)?;
    let (big, new) = (file(&second, "big"), file(&second, "new"));
    replica.try_commit(compose::piece(attempt, second.reuse(&[big])))?;
    replica.try_commit(compose::piece(attempt, second.chunk(new, 0)))?;
    replica.try_commit(compose::piece(attempt, second.chunk(new, CHUNK)))?;
    replica.try_commit(compose::seal(attempt, second.root()))?;
    done.sealed.push(2);

    // Open over the snapshots and the purge.
    let third = Directory::parse("p/ p/q:500=5 p/r:600=6 staged:130k=7 z:64k=0");
    let open = replica.try_begin(3, &third)?;
    replica.try_commit(compose::piece(open, third.pack(&[file(&third, "p/q")])))?;
    replica.try_commit(compose::piece(open, third.chunk(file(&third, "staged"), CHUNK)))?;
    done.asked_to_expire.push(1);
    replica.try_expire(vec![1])?;
    done.expired.push(1);
    replica.try_clean_up()?;

    replica.try_commit(compose::piece(open, third.pack(&[file(&third, "p/r")])))?;
    let staged = file(&third, "staged");
    replica.try_commit(compose::piece(open, third.chunk(staged, 0)))?;
    replica.try_commit(compose::piece(open, third.chunk(staged, 2 * CHUNK)))?;
    replica.try_commit(compose::piece(open, third.zero(file(&third, "z"), 0, CHUNK)))?;
    replica.try_commit(compose::seal(open, third.root()))?;
    done.sealed.push(3);
    replica.try_whole(4, &Directory::parse("tiny:10 p/q:500=5 p/"))?;
    done.sealed.push(4);
    done.asked_to_expire.push(2);
    replica.try_expire(vec![2])?;
    done.expired.push(2);
    replica.try_clean_up()?;
    replica.try_wait_performed()
}

fn check(disk: &CrashDisk, done: &Acknowledged, context: &str) {
    let mut replica = start(disk);
    replica.wait_performed();
    replica.assert_all_published(context);
    for epoch in &done.sealed {
        let there = replica.publication(*epoch).is_some();
        assert!(
            there || done.asked_to_expire.contains(epoch),
            "{context}: epoch {epoch} was sealed and is lost"
        );
        assert!(!(there && done.expired.contains(epoch)), "{context}: epoch {epoch} is back");
    }
    replica.empty();
    replica.stop();
    assert_baseline(disk, context);
}

#[test]
fn nothing_is_lost_and_nothing_is_leaked_whenever_the_power_goes() {
    let whole = CrashDisk::new();
    let mut replica = start(&whole);
    let mut done = Acknowledged::default();
    live(&mut replica, &mut done).unwrap();
    replica.stop();
    let ops = whole.op_count();
    assert!(ops > 200, "the life is long enough: {ops}");
    check(&whole, &done, "an undisturbed life");
    for at in 0..=ops {
        let disk = CrashDisk::new();
        disk.crash_after(at);
        let mut done = Acknowledged::default();
        if let Some(mut replica) = try_start(&disk) {
            let _ = live(&mut replica, &mut done);
            replica.stop();
        }
        for how in [Crash::Strict, Crash::Mixed(at)] {
            let left = disk.crash(how);
            check(&left.crash(how), &done, &format!("power cut after operation {at}, {how:?}"));
            for again in second_cuts(at) {
                let second = left.crash(how);
                second.crash_after(again);
                if let Some(replica) = try_start(&second) {
                    let _ = replica.try_wait_performed();
                    let _ = replica.try_clean_up();
                    replica.stop();
                }
                let context =
                    format!("power cut after operation {at}, {how:?}, and {again} of the next start");
                check(&second.crash(Crash::Strict), &done, &context);
                if !second.crashed() {
                    break;
                }
            }
        }
    }
}
