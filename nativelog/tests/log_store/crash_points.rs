//! The power goes after every single operation, once and again while the log recovers.

use checkpoint::testing::{Crash, CrashDisk};

use crate::scene::{State, blank, id, life, open, run, shown, states, wait_append};

fn check(disk: &CrashDisk, states: &[State], reached: usize, context: &str) {
    let (log, _) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let shown =
        shown(&log, states).unwrap_or_else(|| panic!("{context}: the log shows no state that ever was"));
    assert!(shown >= reached, "{context}: state {reached} was acknowledged, {shown} is left");
    if let Some(committed) = log.committed() {
        let held = log.log_id_at(committed.index);
        assert_eq!(held, Some(committed), "{context}: committed, and not in the log");
    }
    let next = states[shown].entries.len() as u64;
    wait_append(&log, vec![blank(9, next)]).unwrap_or_else(|error| panic!("{context}: {error}"));
    log.shutdown();
    let (log, _) = open(disk).unwrap_or_else(|error| panic!("{context}, opened again: {error}"));
    assert_eq!(log.log_state().1, Some(id(9, next)), "{context}");
    log.shutdown();
}

fn ways() -> Vec<Crash> {
    let mut ways = vec![Crash::Strict];
    ways.extend((0..6).map(Crash::Mixed));
    ways
}

#[test]
fn nothing_acknowledged_is_lost_at_any_operation() {
    let steps = life();
    let states = states(&steps);
    let whole = CrashDisk::new();
    let (log, _) = open(&whole).unwrap();
    assert_eq!(run(&log, &steps), states.len() - 1);
    log.shutdown();
    let ops = whole.op_count();
    assert!(ops > 60, "the life is long enough: {ops}");
    for at in 0..=ops {
        let disk = CrashDisk::new();
        disk.crash_after(at);
        let reached = match open(&disk) {
            Ok((log, _)) => {
                let reached = run(&log, &steps);
                log.shutdown();
                reached
            }
            Err(_) => 0,
        };
        for how in ways() {
            check(&disk.crash(how), &states, reached, &format!("power cut after operation {at}, {how:?}"));
        }
    }
}

#[test]
fn a_second_power_cut_during_recovery_loses_nothing() {
    let steps = life();
    let states = states(&steps);
    let whole = CrashDisk::new();
    let (log, _) = open(&whole).unwrap();
    run(&log, &steps);
    log.shutdown();
    for at in (0..=whole.op_count()).step_by(3) {
        let disk = CrashDisk::new();
        disk.crash_after(at);
        let reached = match open(&disk) {
            Ok((log, _)) => {
                let reached = run(&log, &steps);
                log.shutdown();
                reached
            }
            Err(_) => 0,
        };
        for again in 0..24 {
            let second = disk.crash(Crash::Mixed(at));
            second.crash_after(again);
            if let Ok((log, _)) = open(&second) {
                log.shutdown();
            }
            let over = !second.crashed();
            check(
                &second.crash(Crash::Strict),
                &states,
                reached,
                &format!("cut after {at}, again after {again}"),
            );
            if over {
                break;
            }
        }
    }
}
