//! The power goes after every operation of a catch-up, of the install and of the start after it.

use checkpoint::testing::{Crash, CrashDisk};
use nativelog::ledger::Ledger;
use nativelog::performer::Publication;
use nativelog::snapshot::Capture;

use crate::catch_up::{Source, apart, catch_up, finish, together};
use crate::directory::Directory;
use crate::house::{assert_baseline, second_cuts, start, try_start};
use crate::replica::{Replica, job};

struct Scene<'a> {
    source: Source<'a>,
    /// What the follower misses first, and what it is offered later, when another epoch has gone.
    captures: [Capture; 2],
    attempt: u64,
    /// The follower's disk is full: what has expired makes room first.
    full: bool,
}

impl Scene<'_> {
    fn catch_up(&self, follower: &mut Replica, which: usize) -> Option<()> {
        if self.full {
            let coming = Ledger::decode(&self.captures[which].ledger).unwrap();
            follower.machine.give_way(&coming).ok()?;
        }
        catch_up(&self.source, follower, &self.captures[which]).map(drop)
    }

    /// After whatever happened: it follows again, to the later snapshot, ends identical, and leaves nothing.
    fn check(&self, disk: &CrashDisk, context: &str) {
        let mut follower = start(disk);
        follower.wait_performed();
        if !self.full {
            follower.assert_all_published(context);
        }
        self.catch_up(&mut follower, 1).unwrap_or_else(|| panic!("{context}: the catch-up fails"));
        follower.assert_all_published(context);
        let theirs = &self.source.replica.machine;
        assert_eq!(follower.machine.ledger().digest(), theirs.ledger().digest(), "{context}");
        finish(&mut follower, self.attempt);
        follower.assert_all_published(context);
        follower.empty();
        follower.stop();
        assert_baseline(disk, context);
    }
}

fn stopped_anywhere(full: bool) {
    let (leader_disk, before) = (CrashDisk::new(), CrashDisk::new());
    let (mut leader, mut follower) = (start(&leader_disk), start(&before));
    let attempt = together(&mut leader).unwrap();
    assert_eq!(together(&mut follower), Some(attempt));
    follower.stop();
    apart(&mut leader, attempt);
    let first = leader.machine.read_snapshot().unwrap().unwrap();
    // What the first catch-up brings for epoch 3 is garbage for the second one. The source still has its directory.
    let kept = leader_disk.crash(Crash::Mixed(0));
    leader.try_expire(vec![3]).unwrap();
    leader.try_whole(6, &Directory::parse("last:70=9")).unwrap_or_default();
    leader.wait_performed();
    leader.keep().unwrap();
    let second = leader.machine.read_snapshot().unwrap().unwrap();
    let old = start(&kept);
    old.wait_performed();
    let captures = [first, second];
    let early =
        Scene { source: Source { replica: &old, disk: &kept }, captures: captures.clone(), attempt, full };
    let late = Scene { source: Source { replica: &leader, disk: &leader_disk }, captures, attempt, full };

    let run = |disk: &CrashDisk| -> Option<()> {
        let mut follower = try_start(disk)?;
        let result = early.catch_up(&mut follower, 0);
        let result = result.and_then(|()| follower.try_wait_performed());
        follower.stop();
        result
    };
    let whole = before.crash(Crash::Strict);
    run(&whole).unwrap();
    let ops = whole.op_count();
    assert!(ops > 60, "the catch-up is long enough: {ops}");
    late.check(&whole, "an undisturbed catch-up");
    for at in 0..=ops {
        let disk = before.crash(Crash::Strict);
        disk.crash_after(at);
        let _ = run(&disk);
        for how in [Crash::Strict, Crash::Mixed(at)] {
            let left = disk.crash(how);
            late.check(&left.crash(how), &format!("power cut after operation {at}, {how:?}"));
            for again in second_cuts(at) {
                let second = left.crash(how);
                second.crash_after(again);
                let _ = run(&second);
                let context = format!("power cut after operation {at}, {how:?}, and {again} of the next");
                late.check(&second.crash(Crash::Strict), &context);
                if !second.crashed() {
                    break;
                }
            }
        }
    }
    assert!(leader.store.epochs(&job()).unwrap().contains(&2));
    old.stop();
    leader.stop();
}

#[test]
fn a_catch_up_can_be_stopped_anywhere() {
    stopped_anywhere(false);
}

#[test]
fn a_catch_up_on_a_full_disk_can_be_stopped_anywhere() {
    stopped_anywhere(true);
}

#[test]
fn what_has_expired_makes_room_for_a_catch_up_and_nothing_else_does() {
    let (leader_disk, disk) = (CrashDisk::new(), CrashDisk::new());
    let (mut leader, mut follower) = (start(&leader_disk), start(&disk));
    let attempt = together(&mut leader).unwrap();
    assert_eq!(together(&mut follower), Some(attempt));
    let own = follower.machine.ledger().clone();
    assert_eq!(follower.machine.give_way(&own).unwrap().files, 0, "its own ledger brings no news");
    apart(&mut leader, attempt);
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    let coming = Ledger::decode(&capture.ledger).unwrap();
    let pin = follower.machine.pin();
    assert_eq!(follower.machine.give_way(&coming).unwrap().files, 0, "somebody reads");
    drop(pin);
    follower.assert_all_published("before");
    assert_eq!(follower.machine.give_way(&coming).unwrap().files, 1, "`old` of the first epoch");
    assert_eq!(follower.store.published(&job(), 1).unwrap(), None);
    assert!(matches!(follower.publication(1), Some(Publication::Unpublished(_))));
    assert_eq!(follower.publication(2), Some(Publication::Published));
    assert!(follower.store.verify(&job(), 2).unwrap().is_good(), "what they share stays");
    follower.stop();
    leader.stop();
}
