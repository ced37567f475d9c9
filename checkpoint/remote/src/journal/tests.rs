use super::*;
use crate::content::Sums;
use checkpoint::testing::{Crash, CrashDisk};
use uuid::Uuid;

fn subject() -> Subject {
    Subject { cluster: Uuid::from_u128(7), digest: checkpoint::digest::content(b"abc"), attempt: 9, len: 3 }
}

fn open(disk: &CrashDisk) -> Journal {
    Journal::open(Arc::new(disk.clone()), Path::new("/"), Path::new("/data/uploads")).unwrap()
}

fn part(id: &str) -> PartDone {
    PartDone { id: id.into(), sums: Sums { crc64: 1, crc32c: 2 } }
}

#[test]
fn what_was_begun_is_known_after_a_power_cut() {
    let disk = CrashDisk::new();
    let journal = open(&disk);
    let mut entry = journal.begin(subject()).unwrap();
    let first = entry.rename(1).unwrap();
    entry.upload("up-1".into()).unwrap();
    entry.part(0, part("etag-0")).unwrap();
    let second = entry.rename(2).unwrap();
    entry.upload("up-2".into()).unwrap();
    entry.part(1, part("etag-1")).unwrap();

    // Without power the last part is lost; keys and uploads are not.
    let after = open(&disk.crash(Crash::Strict));
    let traces = after.traces().unwrap();
    let trace = |name, upload: &str, done| Trace { name, upload: Some(upload.into()), done };
    assert_eq!(traces, [trace(first, "up-1", false), trace(second, "up-2", false)]);
    let again = after.begin(subject()).unwrap();
    assert_eq!(again.name(), Some(second));
    assert_eq!(again.tried[1].parts, BTreeMap::new());

    // After a kill, all of it is there.
    drop(entry);
    let mut entry = open(&disk).begin(subject()).unwrap();
    assert_eq!(entry.tried[1].parts, BTreeMap::from([(1, part("etag-1"))]));
    entry.finish().unwrap();
    let after = open(&disk.crash(Crash::Strict));
    assert_eq!(after.traces().unwrap()[1], trace(second, "up-2", true));
    after.forget(9, subject().digest).unwrap();
    assert_eq!(open(&disk).traces().unwrap().len(), 2, "another disk");
    assert_eq!(after.traces().unwrap(), []);
}

#[test]
fn a_power_cut_at_any_write_leaves_a_journal_that_reads() {
    for seed in 0..40 {
        for ops in 0..14 {
            let disk = CrashDisk::new();
            let mut told = None;
            let journal = open(&disk);
            disk.crash_after(ops);
            let _ = journal.begin(subject()).and_then(|mut entry| {
                entry.rename(1)?;
                told = Some(1);
                entry.part(0, part("a part id that is longer than the frame before it"))?;
                entry.part(1, part("b"))?;
                entry.rename(2)?;
                told = Some(2);
                entry.upload("u".into())
            });
            let disk = disk.crash(Crash::Mixed(seed));
            let journal = open(&disk);
            let mut entry = journal.begin(subject()).unwrap();
            let nonces: Vec<u64> = entry.tried.iter().map(|tried| tried.nonce).collect();
            assert!(told.is_none_or(|nonce| nonces.contains(&nonce)), "seed {seed} ops {ops}");
            // What is written now stands where the torn frames stood, and nothing of those comes back.
            entry.rename(3).unwrap();
            entry.part(7, part("")).unwrap();
            drop(entry);
            let entry = journal.begin(subject()).unwrap();
            assert_eq!(entry.tried.last().unwrap().parts.len(), 1, "seed {seed} ops {ops}");
            assert_eq!(entry.name(), Some(subject().name(3)));
        }
    }
}

#[test]
fn a_key_that_is_read_is_durable_before_it_is_used() {
    let disk = CrashDisk::new();
    let mut entry = open(&disk).begin(subject()).unwrap();
    // Killed between the write and the sync: the next process sees it, the disk need not.
    entry.append(&Frame::Nonce(5)).unwrap();
    drop(entry);
    let entry = open(&disk).begin(subject()).unwrap();
    assert_eq!(entry.name(), Some(subject().name(5)));
    let traces = open(&disk.crash(Crash::Strict)).traces().unwrap();
    assert_eq!(traces.iter().map(|trace| trace.name).collect::<Vec<_>>(), [subject().name(5)]);
}

#[test]
fn what_is_being_written_is_not_forgotten() {
    let journal = Arc::new(open(&CrashDisk::new()));
    let mut entry = journal.begin(subject()).unwrap();
    entry.rename(1).unwrap();
    let busy = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    busy(journal.forget(9, subject().digest));
    busy(journal.hold(9).map(|_| ()));
    drop(entry);
    let held = journal.hold(9).unwrap();
    assert_eq!(held.traces.len(), 1);
    busy(journal.begin(subject()).map(|_| ()));
    held.forget().unwrap();
    assert_eq!(journal.traces().unwrap(), []);
    journal.begin(subject()).unwrap();
}

#[test]
fn two_writers_of_one_object_are_one_too_many() {
    let journal = open(&CrashDisk::new());
    let entry = journal.begin(subject()).unwrap();
    assert_eq!(journal.begin(subject()).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    journal.begin(Subject { attempt: 10, ..subject() }).unwrap();
    drop(entry);
    journal.begin(subject()).unwrap();
    let other = Subject { len: 4, ..subject() };
    assert_eq!(journal.begin(other).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn the_bytes_of_a_journal_are_these() {
    let frames = [
        Frame::Subject(subject()),
        Frame::Nonce(0x0102),
        Frame::Upload("up".into()),
        Frame::Part(3, part("e")),
        Frame::Done,
    ];
    let hex = |data: &[u8]| data.iter().map(|b| format!("{b:02x}")).collect::<String>();
    // Without the checksums, which `checkpoint::digest` tests.
    let golden = [
        "4100000000010000000000000000000000000000000764\
         37b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85\
         09000000000000000300000000000000",
        "08000000010201000000000000",
        "02000000027570",
        "11000000030300000001000000000000000200000065",
        "0000000004",
    ];
    for (frame, golden) in frames.iter().zip(golden) {
        let data = frame.encode();
        assert_eq!(hex(&data[..data.len() - 16]), golden);
    }
}

#[test]
fn a_whole_frame_of_an_unknown_kind_is_no_torn_one() {
    let disk = CrashDisk::new();
    let journal = open(&disk);
    let mut entry = journal.begin(subject()).unwrap();
    let payload = b"later";
    let mut data = 5u32.to_le_bytes().to_vec();
    data.push(9);
    data.extend_from_slice(payload);
    data.extend_from_slice(&checkpoint::digest::checksum(&[&[9], payload]));
    entry.file.write_at(&data, entry.end).unwrap();
    entry.end += data.len() as u64;
    drop(entry);
    assert_eq!(journal.begin(subject()).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
