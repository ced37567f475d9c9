//! The power goes after every single operation, once and again while the log recovers.

use checkpoint::testing::{Crash, CrashDisk};

use crate::scene::{
    State, Step, assert_wal_bytes, blank, id, life, life_with_purges, open, run, segments, shown, states,
    wait_append,
};

fn check(disk: &CrashDisk, states: &[State], reached: usize, context: &str) {
    let (log, _) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let shown =
        shown(&log, states).unwrap_or_else(|| panic!("{context}: the log shows no state that ever was"));
    assert!(shown >= reached, "{context}: state {reached} was acknowledged, {shown} is left");
    if let Some(committed) = log.committed() {
        let held = log.log_id_at(committed.index);
        assert_eq!(held, Some(committed), "{context}: committed, and not in the log");
    }
    assert_wal_bytes(&log, disk, context);
    assert_eq!(
        *log.purged().borrow(),
        states[shown].purged.map_or(0, |purged| purged.index + 1),
        "{context}"
    );
    let kept = segments(disk);
    let next = log.log_state().1.map_or(0, |last| last.index + 1);
    wait_append(&log, vec![blank(9, next)]).unwrap_or_else(|error| panic!("{context}: {error}"));
    log.shutdown();
    let (log, _) = open(disk).unwrap_or_else(|error| panic!("{context}, opened again: {error}"));
    assert_eq!(log.log_state().1, Some(id(9, next)), "{context}");
    assert!(
        kept.iter().all(|segment| segments(disk).contains(segment)),
        "{context}: a deletion was left over"
    );
    log.shutdown();
}

fn ways() -> Vec<Crash> {
    let mut ways = vec![Crash::Strict];
    ways.extend((0..6).map(Crash::Mixed));
    ways
}

fn nothing_is_lost_at_any_operation_of(steps: &[Step]) {
    let states = states(steps);
    let whole = CrashDisk::new();
    let (log, _) = open(&whole).unwrap();
    assert_eq!(run(&log, steps), states.len() - 1);
    assert_eq!(shown(&log, &states), Some(states.len() - 1));
    log.shutdown();
    let ops = whole.op_count();
    assert!(ops > 60, "the life is long enough: {ops}");
    for at in 0..=ops {
        let (disk, reached) = run_until(at, steps);
        for how in ways() {
            check(&disk.crash(how), &states, reached, &format!("power cut after operation {at}, {how:?}"));
        }
    }
}

/// A disk whose power went after `at` operations of these steps, and the number of states that were reached.
fn run_until(at: u64, steps: &[Step]) -> (CrashDisk, usize) {
    let disk = CrashDisk::new();
    disk.crash_after(at);
    let reached = open(&disk).map_or(0, |(log, _)| {
        let reached = run(&log, steps);
        log.shutdown();
        reached
    });
    (disk, reached)
}

fn nothing_is_lost_by_a_second_cut_in(steps: &[Step]) {
    let states = states(steps);
    let whole = CrashDisk::new();
    let (log, _) = open(&whole).unwrap();
    run(&log, steps);
    log.shutdown();
    for at in (0..=whole.op_count()).step_by(3) {
        let (disk, reached) = run_until(at, steps);
        for again in 0..24 {
            let second = disk.crash(Crash::Mixed(at));
            second.crash_after(again);
            if let Ok((log, _)) = open(&second) {
                log.shutdown();
            }
            let over = !second.crashed();
            for how in [Crash::Strict, Crash::Mixed(again)] {
                let context = format!("cut after {at}, again after {again}, {how:?}");
                check(&second.crash(how), &states, reached, &context);
            }
            if over {
                break;
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_at_any_operation() {
    nothing_is_lost_at_any_operation_of(&life());
}

#[test]
fn a_second_power_cut_during_recovery_loses_nothing() {
    nothing_is_lost_by_a_second_cut_in(&life());
}

#[test]
fn purges_lose_nothing_and_leave_nothing_at_any_operation() {
    nothing_is_lost_at_any_operation_of(&life_with_purges());
}

#[test]
fn a_second_power_cut_during_the_recovery_of_a_purge_loses_nothing() {
    nothing_is_lost_by_a_second_cut_in(&life_with_purges());
}
