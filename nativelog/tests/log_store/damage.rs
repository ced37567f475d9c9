//! Torn is told from rotten.

use checkpoint::disk::Disk;
use checkpoint::testing::CrashDisk;
use nativelog::store::OpenError;

use crate::scene::{
    Step, blank, chunk, copy, id, layout, life, life_with_purges, open, run, segments, shown, states,
    wait_append, wait_purge, written,
};

/// A log whose mark lies below its last frames, as when the power goes within a second; its first segment is gone when
/// it is purged.
fn unmarked_tail(purged: bool) -> (CrashDisk, u64) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    run(&log, &life());
    if purged {
        assert!(wait_purge(&log, id(2, 7)));
    }
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    let closed: u64 = segments(&disk).iter().rev().skip(1).map(|path| disk.stat(path).unwrap().len).sum();
    let marked = log.wal_bytes() - closed;
    for index in 9..12 {
        wait_append(&log, vec![blank(2, index)]).unwrap();
    }
    // The store is left without a word: no last mark is written.
    let left = copy(&disk);
    log.shutdown();
    assert_eq!(!segments(&left)[0].ends_with("0000000000000000.wal"), purged);
    (left, marked)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_above_the_mark_and_refused_below() {
    for purged in [false, true] {
        let (disk, marked) = unmarked_tail(purged);
        let last = segments(&disk).pop().unwrap();
        let len = written(&disk, &last);
        assert!(len > marked + 3 * 48);
        for cut in (marked.saturating_sub(40)..len).rev() {
            let torn = copy(&disk);
            torn.truncate_file(&last, cut).unwrap();
            match open(&torn) {
                Ok((log, report)) => {
                    assert!(cut >= marked, "cut at {cut}, durable up to {marked}");
                    let next = log.log_state().1.unwrap().index + 1;
                    assert!((9..12).contains(&next), "cut at {cut}: {next}");
                    assert_eq!(report.entries, if purged { next - 8 } else { next });
                    log.shutdown();
                }
                Err(OpenError::Damaged { .. }) => assert!(cut < marked, "cut at {cut} is a torn tail"),
                Err(other) => panic!("cut at {cut}: {other}"),
            }
        }
    }
}

/// A disk after these steps, and the states they lead to.
fn lived(steps: &[Step]) -> (CrashDisk, Vec<crate::scene::State>) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    run(&log, steps);
    log.shutdown();
    (disk, states(steps))
}

#[test]
fn a_flipped_bit_in_the_wal_is_never_taken_for_the_truth() {
    for steps in [life(), life_with_purges()] {
        let (disk, states) = lived(&steps);
        for segment in segments(&disk) {
            let len = disk.stat(&segment).unwrap().len;
            for byte in 0..len {
                let bad = copy(&disk);
                assert!(bad.flip(&segment, byte * 8 + byte % 8).unwrap());
                match open(&bad) {
                    // Padding between frames carries nothing.
                    Ok((log, _)) => {
                        assert_eq!(
                            shown(&log, &states),
                            Some(states.len() - 1),
                            "byte {byte} of {segment:?}"
                        );
                        log.shutdown();
                    }
                    Err(OpenError::Damaged { .. } | OpenError::Owner { .. }) => {}
                    Err(other) => panic!("byte {byte}: {other}"),
                }
            }
        }
    }
}

#[test]
fn rot_above_the_mark_with_a_whole_frame_after_it_is_refused() {
    for purged in [false, true] {
        let (disk, marked) = unmarked_tail(purged);
        let last = segments(&disk).pop().unwrap();
        assert!(disk.flip(&last, (marked + 20) * 8).unwrap());
        let error = open(&disk).err().expect("refused");
        assert!(error.to_string().contains("a whole frame follows"), "{error}");
        assert!(error.to_string().contains("`epochlog repair`"), "it says what to do: {error}");
    }
}

#[test]
fn a_missing_segment_is_refused() {
    for purged in [false, true] {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk).unwrap();
        run(&log, &life());
        if purged {
            assert!(wait_purge(&log, id(2, 8)));
        }
        for index in 9..14 {
            wait_append(&log, vec![crate::scene::pack(2, index, &[7; 2000])]).unwrap();
        }
        if purged {
            assert!(wait_purge(&log, id(2, 10)));
        }
        log.shutdown();
        let all = segments(&disk);
        assert!(all.len() >= 3, "{all:?}");
        for gone in all {
            let bad = copy(&disk);
            bad.unlink(&gone).unwrap();
            assert!(matches!(open(&bad), Err(OpenError::Damaged { .. })), "without {gone:?}");
        }
    }
}

#[test]
fn one_bad_slot_of_the_mark_serves_and_two_refuse() {
    let mark = layout().log_dir().join("mark");
    for steps in [life(), life_with_purges()] {
        let (disk, states) = lived(&steps);
        for slot in 0..2 {
            let bad = copy(&disk);
            bad.flip(&mark, (slot * 4096 + 40) * 8).unwrap();
            let (log, _) = open(&bad).unwrap();
            assert_eq!(shown(&log, &states), Some(states.len() - 1), "the WAL holds vote and purge too");
            log.shutdown();
            let (log, _) = open(&bad).unwrap();
            assert_eq!(shown(&log, &states), Some(states.len() - 1), "the slot is good again");
            log.shutdown();
        }
        disk.flip(&mark, 40 * 8).unwrap();
        disk.flip(&mark, (4096 + 40) * 8).unwrap();
        let error = open(&disk).err().expect("refused");
        assert!(matches!(error, OpenError::VoteLost { .. }));
        assert!(error.to_string().contains("both slots"), "{error}");
        assert!(!error.to_string().contains("repair"), "no repair can help: {error}");
        let gone = lived(&steps).0;
        gone.unlink(&mark).unwrap();
        assert!(matches!(open(&gone), Err(OpenError::VoteLost { .. })));
    }
}

#[test]
fn a_payload_above_the_mark_that_does_not_verify_is_refused() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 4)]).unwrap();
    let left = copy(&disk);
    log.shutdown();
    let (log, report) = open(&copy(&left)).unwrap();
    assert_eq!(report.verified_payloads, 1);
    log.shutdown();
    left.flip(&layout().staged_file(2, 1), 12_345).unwrap();
    assert!(matches!(open(&left), Err(OpenError::Damaged { .. })));
}

#[test]
fn another_owner_is_refused() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    log.shutdown();
    let mine: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk.clone());
    let other = nativelog::store::Identity { node: 1, incarnation: [8; 16] };
    let result = nativelog::store::LogStore::open(mine, &layout(), other, crate::scene::options());
    assert!(matches!(result, Err(OpenError::Owner { .. })));
}

#[test]
fn a_rotten_payload_is_not_served() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 4)]).unwrap();
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    assert!(log.payload(1).is_ok());
    disk.flip(&layout().staged_file(2, 1), 99).unwrap();
    let error = log.payload(1).expect_err("not served");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(log.headers(0..2).unwrap().len(), 2, "headers still are");
    assert_eq!(log.log_id_at(1), Some(id(1, 1)));
    log.shutdown();
}
