use super::*;
use crate::disk::Disk;

fn content(disk: &CrashDisk, path: &str) -> Option<Vec<u8>> {
    disk.read_file(Path::new(path), 1 << 20).ok()
}

#[test]
fn only_what_was_synced_survives_a_strict_crash() {
    let disk = CrashDisk::new();
    let file = disk.open(Path::new("/a"), Open::CreateNew).unwrap();
    file.write_at(b"one", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(content(&disk.crash(Crash::Strict), "/a"), None, "the name was not synced");
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(b"two", 0).unwrap();
    assert_eq!(content(&disk, "/a").unwrap(), b"two");
    assert_eq!(content(&disk.crash(Crash::Strict), "/a").unwrap(), b"one");
    disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
    assert_eq!(disk.crash(Crash::Strict).paths(), [PathBuf::from("/a")]);
    disk.sync_fs(Path::new("/")).unwrap();
    assert_eq!(content(&disk.crash(Crash::Strict), "/b").unwrap(), b"two");
    assert_eq!(disk.crash(Crash::Strict).paths(), [PathBuf::from("/b")]);
}

#[test]
fn a_rename_between_directories_is_kept_or_lost_whole() {
    for seed in 0..200 {
        let disk = CrashDisk::new();
        for dir in ["/x", "/y"] {
            disk.create_dir(Path::new(dir)).unwrap();
        }
        disk.sync_fs(Path::new("/")).unwrap();
        disk.write_new(Path::new("/x/f"), b"f", 0o600).unwrap();
        disk.rename(Path::new("/x/f"), Path::new("/y/f")).unwrap();
        if seed % 2 == 0 {
            disk.sync_dir(Path::new("/y")).unwrap();
        }
        disk.sync_dir(Path::new("/x")).unwrap();
        let after = disk.crash(Crash::Mixed(seed));
        assert_eq!(after.paths(), ["/x", "/y", "/y/f"].map(PathBuf::from));
        assert_eq!(after.stat(Path::new("/y/f")).unwrap().links, 1);
    }
}

#[test]
fn mixed_crashes_keep_any_part() {
    let disk = CrashDisk::new();
    let file = disk.open(Path::new("/a"), Open::CreateNew).unwrap();
    file.set_len(4096).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(&[1; 2048], 0).unwrap();
    file.write_at(&[2; 2048], 2048).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let bytes = content(&disk.crash(Crash::Mixed(seed)), "/a").unwrap();
        assert_eq!(bytes, content(&disk.crash(Crash::Mixed(seed)), "/a").unwrap());
        let sectors: Vec<u8> = bytes.chunks(512).map(|s| s[0]).collect();
        assert!(bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0])));
        seen.insert(sectors);
    }
    assert!(seen.contains(&vec![1, 1, 1, 1, 2, 2, 2, 2]) && seen.contains(&vec![0; 8]));
    assert!(seen.contains(&vec![0, 0, 0, 0, 2, 2, 2, 2]) && seen.iter().any(|s| s[0] == 1 && s[3] == 0));
}

#[test]
fn a_failed_sync_has_lost_its_data_for_good() {
    let disk = CrashDisk::new();
    let file = disk.open(Path::new("/a"), Open::CreateNew).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(b"gone", 0).unwrap();
    disk.fail_next(OpKind::SyncData, "/a", 5);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "/a").unwrap(), b"gone", "the cache still shows it");
    file.drop_cache().unwrap();
    assert_eq!(content(&disk, "/a").unwrap(), b"");
}

#[test]
fn what_is_refused_is_so_every_time_and_after_a_crash_until_it_is_allowed() {
    let disk = CrashDisk::new();
    disk.write_new(Path::new("/a"), b"a", 0o600).unwrap();
    disk.sync_fs(Path::new("/")).unwrap();
    disk.refuse(OpKind::Rename, Path::new("/b"), 16);
    disk.clear_failures();
    let rename = |disk: &CrashDisk, to: &str| {
        disk.rename(Path::new("/a"), Path::new(to)).err().and_then(|error| error.raw_os_error())
    };
    assert_eq!([rename(&disk, "/b"), rename(&disk, "/b")], [Some(16); 2]);
    let after = disk.crash(Crash::Strict);
    assert_eq!(rename(&after, "/b"), Some(16));
    after.write_new(Path::new("/b"), b"b", 0o600).unwrap();
    after.allow(Path::new("/b"));
    assert_eq!([rename(&after, "/b"), rename(&disk, "/bb")], [None; 2]);
}

#[test]
fn after_the_power_is_gone_nothing_works() {
    let disk = CrashDisk::new();
    disk.crash_after(2);
    disk.create_dir(Path::new("/a")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    assert!(disk.stat(Path::new("/a")).is_ok());
    assert!(disk.create_dir(Path::new("/b")).is_err());
    assert!(disk.crashed() && disk.stat(Path::new("/a")).is_err());
    assert_eq!(disk.op_count(), 2);
    assert_eq!(disk.crash(Crash::Strict).paths(), [PathBuf::from("/a")]);
}

#[test]
fn damage_reaches_the_device() {
    let disk = CrashDisk::new();
    disk.write_new(Path::new("/a"), b"ab", 0o600).unwrap();
    disk.sync_fs(Path::new("/")).unwrap();
    assert!(disk.flip(Path::new("/a"), 8).unwrap() && !disk.flip(Path::new("/a"), 16).unwrap());
    assert_eq!(content(&disk.crash(Crash::Strict), "/a").unwrap(), b"ac");
    disk.truncate_file(Path::new("/a"), 1).unwrap();
    assert_eq!(content(&disk, "/a").unwrap(), b"a");
}
