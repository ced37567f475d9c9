//! A damaged log gives way to an empty one, and its vote is never forgotten.

use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk};
use nativelog::LogId;
use nativelog::store::{Identity, LogStore, OpenError, Vote};

use crate::scene::{
    OWNER, answered, blank, copy, id, layout, life, life_with_purges, open, run, segments, wait_append,
    written,
};

const POSITION: LogId = LogId { term: 7, node: 3, index: 400 };
const VOTE: Vote = Vote { term: 8, node: 3, committed: true };
/// That of [`life`] and of [`life_with_purges`].
const BOUND: Vote = Vote { term: 2, node: 2, committed: false };

fn on(disk: &CrashDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn certain_vote(disk: &CrashDisk) -> Result<Option<Vote>, OpenError> {
    LogStore::certain_vote(&on(disk), &layout(), OWNER)
}

fn replace(disk: &CrashDisk) -> Result<(), OpenError> {
    LogStore::replace_damaged(&on(disk), &layout(), OWNER, POSITION, VOTE)
}

fn flip_slot(disk: &CrashDisk, slot: u64) {
    assert!(disk.flip(&layout().log_dir().join("mark"), (slot * 4096 + 40) * 8).unwrap());
}

/// A log with a flipped bit in the middle.
fn damaged() -> CrashDisk {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    run(&log, &life());
    log.shutdown();
    let disk = copy(&disk);
    assert!(disk.flip(&segments(&disk)[0], 8 * 300).unwrap());
    assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })));
    disk
}

#[test]
fn the_vote_is_certain_with_both_slots_and_with_one_when_the_wal_is_whole() {
    for steps in [life(), life_with_purges()] {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk).unwrap();
        run(&log, &steps);
        log.shutdown();
        for slot in [None, Some(0), Some(1)] {
            let bad = copy(&disk);
            slot.into_iter().for_each(|slot| flip_slot(&bad, slot));
            assert_eq!(certain_vote(&bad).unwrap(), Some(BOUND), "slot {slot:?} damaged, WAL whole");
            for segment in segments(&bad) {
                let worse = copy(&bad);
                assert!(worse.flip(&segment, 8 * 20).unwrap());
                match (slot, certain_vote(&worse)) {
                    (None, vote) => assert_eq!(vote.unwrap(), Some(BOUND)),
                    (Some(_), Err(OpenError::VoteLost { .. })) => {}
                    (Some(slot), other) => panic!("slot {slot} and {segment:?} damaged: {other:?}"),
                }
            }
        }
        let worse = copy(&disk);
        flip_slot(&worse, 0);
        flip_slot(&worse, 1);
        assert!(matches!(certain_vote(&worse), Err(OpenError::VoteLost { .. })));
        let gone = copy(&disk);
        gone.rename(&layout().log_dir(), &layout().group_dir().join("elsewhere")).unwrap();
        assert!(matches!(certain_vote(&gone), Err(OpenError::VoteLost { .. })), "nothing is made up");
        let other = Identity { node: 1, incarnation: [8; 16] };
        let theirs = LogStore::certain_vote(&on(&disk), &layout(), other);
        assert!(matches!(theirs, Err(OpenError::Owner { .. })));
    }
}

#[test]
fn a_torn_tail_and_a_bad_slot_together_are_not_certain() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    run(&log, &life());
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    let vote = Vote { term: 5, node: 2, committed: false };
    answered(|done| log.save_vote(vote, done)).unwrap();
    wait_append(&log, vec![blank(5, 9)]).unwrap();
    let left = copy(&disk);
    log.shutdown();
    let last = segments(&left).pop().unwrap();
    left.truncate_file(&last, written(&left, &last) - 8).unwrap();
    for slot in 0..2 {
        let bad = copy(&left);
        flip_slot(&bad, slot);
        assert!(matches!(certain_vote(&bad), Err(OpenError::VoteLost { .. })), "slot {slot}");
    }
    assert_eq!(certain_vote(&left).unwrap(), Some(vote));
}

#[test]
fn an_answered_vote_is_certain_after_any_power_cut() {
    let votes = [1, 2, 3].map(|term| Vote { term, node: 2, committed: false });
    for at in 0..60 {
        let disk = CrashDisk::new();
        disk.crash_after(at);
        let mut answered_vote = None;
        if let Ok((log, _)) = open(&disk) {
            for vote in votes {
                if answered(|done| log.save_vote(vote, done)).is_ok() {
                    answered_vote = Some(vote);
                }
            }
            log.shutdown();
        }
        for how in [Crash::Strict, Crash::Mixed(at), Crash::Mixed(at + 100)] {
            let after = disk.crash(how);
            match certain_vote(&after) {
                Ok(vote) => assert!(vote >= answered_vote, "cut after {at}, {how:?}: {vote:?}"),
                Err(error) => assert!(answered_vote.is_none(), "cut after {at}, {how:?}: {error}"),
            }
        }
    }
}

fn assert_replaced(disk: &CrashDisk, context: &str) {
    let (log, report) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(log.vote(), Some(VOTE), "{context}");
    assert_eq!(log.log_state(), (Some(POSITION), Some(POSITION)), "{context}");
    assert_eq!((*log.purged().borrow(), *log.flushed().borrow()), (401, 401), "{context}");
    assert_eq!((report.entries, report.created), (0, false), "{context}");
    wait_append(&log, vec![blank(8, 401)]).unwrap();
    log.shutdown();
    let (log, _) = open(disk).unwrap();
    assert_eq!(log.log_state(), (Some(POSITION), Some(id(8, 401))), "{context}");
    log.shutdown();
    assert_eq!(certain_vote(disk).unwrap(), Some(VOTE), "{context}");
}

#[test]
fn a_replaced_log_starts_after_the_snapshot_and_the_damaged_one_is_kept() {
    let disk = damaged();
    replace(&disk).unwrap();
    assert_replaced(&disk, "at once");
    let kept = layout().group_dir().join("log.damaged.1");
    assert!(disk.stat(&kept.join("mark")).is_ok());
    replace(&disk).unwrap();
    assert_replaced(&disk, "again");
    assert!(disk.stat(&layout().group_dir().join("log.damaged.2/mark")).is_ok());
}

#[test]
fn a_replacement_never_forgets_a_vote() {
    let disk = damaged();
    let lower = Vote { term: 1, node: 3, committed: true };
    let refused = LogStore::replace_damaged(&on(&disk), &layout(), OWNER, POSITION, lower);
    assert!(refused.is_err_and(|error| error.to_string().contains("bound to")));
    flip_slot(&disk, 0);
    assert!(matches!(replace(&disk), Err(OpenError::VoteLost { .. })));
    assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })), "nothing was changed");
}

#[test]
fn one_of_the_two_logs_is_found_at_any_operation() {
    let base = damaged();
    let whole = copy(&base);
    let from = whole.op_count();
    replace(&whole).unwrap();
    let ops = whole.op_count() - from;
    for at in 0..=ops {
        let disk = copy(&base);
        disk.crash_after(at);
        let replaced = replace(&disk).is_ok();
        assert_eq!(replaced, at == ops);
        for how in [Crash::Strict, Crash::Mixed(at), Crash::Mixed(at + 100), Crash::Mixed(at + 200)] {
            for again in 0..20 {
                let after = disk.crash(how);
                after.crash_after(again);
                if let Ok((log, _)) = open(&after) {
                    log.shutdown();
                }
                let over = !after.crashed();
                let after = after.crash(Crash::Mixed(again));
                let context = format!("cut after {at}, {how:?}, again after {again}");
                match open(&after) {
                    Ok((log, _)) => log.shutdown(),
                    Err(OpenError::Damaged { .. }) => {
                        assert!(!replaced, "{context}");
                        assert_eq!(certain_vote(&after).unwrap(), Some(BOUND), "{context}");
                        replace(&after).unwrap();
                    }
                    Err(other) => panic!("{context}: {other}"),
                }
                assert_replaced(&after, &context);
                if over {
                    break;
                }
            }
        }
    }
}

#[test]
fn an_interrupted_replacement_is_found_by_whoever_looks_first() {
    let base = damaged();
    // Decided, and nothing moved yet.
    let decided = layout().group_dir().join("log.replacement");
    let made = copy(&base);
    replace(&made).unwrap();
    made.rename(&layout().log_dir(), &decided).unwrap();
    made.rename(&layout().group_dir().join("log.damaged.1"), &layout().log_dir()).unwrap();
    for looks in 0..3 {
        let disk = copy(&made);
        match looks {
            0 => assert_eq!(LogStore::owner_of(&on(&disk), &layout()).unwrap(), Some(OWNER)),
            1 => assert_eq!(certain_vote(&disk).unwrap(), Some(VOTE)),
            _ => replace(&disk).unwrap(),
        }
        assert!(disk.stat(&decided).is_err());
        assert_replaced(&disk, &format!("looked by {looks}"));
    }
}
