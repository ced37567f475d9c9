//! The state of an entry of the source as its inode tells it, and what a later look says about it.
//!
//! Links come and go while a directory is read: databases link and unlink their files all the time. That moves the
//! ctime of the file, and the times of the directory that has the name. So these alone prove no change. They prove
//! no stillness either: who writes in place and puts the mtime back moves nothing else. Such an entry is looked at
//! once more (`split/last_look.rs`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;

/// Two writes that are closer together than this may leave the same times: file systems take them from a clock that
/// ticks every 10 ms at worst (kernels before 6.13), and once more as long for the rounding.
const TICK: Duration = Duration::from_millis(20);
/// The same where a time has no fraction of a second: file systems that keep none (ext3, ext4 with small inodes, HFS+)
/// or only every other second (vfat).
const COARSE_TICK: Duration = Duration::from_millis(2020);
/// A write that began before a file was scanned, and is under way still, has moved its ctime less long ago than this.
const RECENT: Duration = Duration::from_secs(60);

/// What identifies the state of an entry of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) len: u64,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, i64),
    // None where the caller promises that content never changes in place.
    pub(crate) ctime: Option<(i64, i64)>,
}

impl Stamp {
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Stamp {
        Stamp {
            dev: stat.st_dev,
            ino: stat.st_ino,
            len: stat.st_size as u64,
            mode: stat.st_mode,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: Some((stat.st_ctime, stat.st_ctime_nsec as i64)),
        }
    }

    /// Whether `now` is the very state that was planned.
    pub(crate) fn is_still(&self, now: &Stamp) -> bool {
        let now = Stamp { ctime: self.ctime.and(now.ctime), ..*now };
        *self == now
    }

    /// What is certainly another state than the planned one. `None`: the same, or nothing moved but what links move.
    pub(crate) fn change(&self, now: &Stamp) -> Option<String> {
        let is_file = FileType::from_raw_mode(self.mode) == FileType::RegularFile;
        if (self.dev, self.ino) != (now.dev, now.ino) {
            Some("another file took its place".to_owned())
        } else if is_file && now.len > self.len {
            Some(format!("it grew from {} to {} bytes", self.len, now.len))
        } else if is_file && now.len < self.len {
            Some(format!("it shrank from {} to {} bytes", self.len, now.len))
        } else if self.mode != now.mode {
            Some(format!("its mode went from {:o} to {:o}", self.mode & 0o7777, now.mode & 0o7777))
        } else if is_file && self.mtime != now.mtime {
            Some("it was modified".to_owned())
        } else {
            None
        }
    }

    /// How long from now a change may still leave this very stamp; `None` once that time is over.
    pub(crate) fn is_fresh_for(&self, now: SystemTime) -> Option<Duration> {
        let left = self.ripe()?.duration_since(now).ok()?;
        // A time that lies far ahead is no matter of ticks: a clock was set back.
        (!left.is_zero() && left <= 2 * self.tick()).then_some(left)
    }

    /// Whether a change at `moment` or later may have left this very stamp, which was taken before `now`.
    pub(crate) fn is_fresh_at(&self, moment: SystemTime, now: SystemTime) -> bool {
        // As above: what lies far ahead of now was made by a clock that was set back since.
        self.ripe().is_some_and(|ripe| ripe > moment && ripe <= now + 2 * self.tick())
    }

    /// Whether a write that had begun before `moment` may have been under way then.
    pub(crate) fn is_recent_at(&self, moment: SystemTime) -> bool {
        self.moved().and_then(|moved| moved.checked_add(RECENT)).is_some_and(|over| over > moment)
    }

    // From here on every change has another ctime.
    fn ripe(&self) -> Option<SystemTime> {
        self.moved()?.checked_add(self.tick())
    }

    fn moved(&self) -> Option<SystemTime> {
        let (seconds, nanos) = self.ctime?;
        UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
    }

    fn tick(&self) -> Duration {
        if self.ctime.is_some_and(|(_, nanos)| nanos == 0) { COARSE_TICK } else { TICK }
    }

    /// The same inode with the same content, as far as length and mtime tell.
    pub(crate) fn same_content(&self, other: &Stamp) -> bool {
        (self.dev, self.ino, self.len, self.mtime) == (other.dev, other.ino, other.len, other.mtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Stamp =
        Stamp { dev: 1, ino: 2, len: 3, mode: 0o100_644, mtime: (100, 0), ctime: Some((100, MS)) };
    const MS: i64 = 1_000_000;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn links_change_nothing_and_content_mode_and_place_do() {
        let linked = Stamp { ctime: Some((100, 7)), ..FILE };
        assert!(FILE.change(&linked).is_none() && !FILE.is_still(&linked) && FILE.is_still(&FILE));
        for changed in [
            Stamp { ino: 9, ..FILE },
            Stamp { len: 4, ..FILE },
            Stamp { len: 2, ..FILE },
            Stamp { mode: 0o100_600, ..FILE },
            Stamp { mtime: (100, 1), ..FILE },
        ] {
            assert!(FILE.change(&changed).is_some(), "{changed:?}");
        }
        let folder = Stamp { mode: 0o040_755, ..FILE };
        let named = Stamp { len: 4096, mtime: (101, 0), ctime: Some((101, 0)), ..folder };
        assert!(folder.change(&named).is_none() && !folder.is_still(&named), "it is listed again");
        assert!(folder.change(&Stamp { mode: 0o040_700, ..folder }).is_some());
        // Whoever has promised that nothing changes in place is taken at their word.
        let promised = Stamp { ctime: None, ..FILE };
        assert!(promised.is_still(&linked) && promised.change(&Stamp { mtime: (101, 0), ..FILE }).is_some());
    }

    #[test]
    fn a_stamp_is_fresh_for_two_ticks() {
        assert_eq!(FILE.is_fresh_for(at(100_001)), Some(TICK));
        assert_eq!(FILE.is_fresh_for(at(100_016)), Some(Duration::from_millis(5)));
        assert_eq!(FILE.is_fresh_for(at(100_021)), None);
        assert_eq!(FILE.is_fresh_for(at(90_000)), None, "the clock was set back");
        assert_eq!(Stamp { ctime: None, ..FILE }.is_fresh_for(at(100_000)), None);
        // A scan that takes long comes to some directories when they have just changed.
        let now = at(100_030);
        assert!(FILE.is_fresh_at(at(90_000), now) && FILE.is_fresh_at(at(100_020), now));
        assert!(!FILE.is_fresh_at(at(100_021), now));
        assert!(!FILE.is_fresh_at(at(90_000), at(90_100)), "the clock was set back");
    }

    #[test]
    fn where_times_have_no_fraction_a_tick_is_two_seconds() {
        for mode in [0o100_644, 0o040_755] {
            let coarse = Stamp { mode, ctime: Some((100, 0)), ..FILE };
            assert_eq!(coarse.is_fresh_for(at(100_000)), Some(COARSE_TICK));
            assert_eq!(coarse.is_fresh_for(at(101_990)), Some(Duration::from_millis(30)));
            assert_eq!(coarse.is_fresh_for(at(102_020)), None);
            // Of a server whose clock is a little ahead.
            assert_eq!(coarse.is_fresh_for(at(99_000)), Some(Duration::from_millis(3020)));
            assert_eq!(coarse.is_fresh_for(at(90_000)), None, "the clock was set back");
            assert!(coarse.is_fresh_at(at(101_999), at(102_000)));
            assert!(!coarse.is_fresh_at(at(102_020), at(102_100)));
        }
    }

    #[test]
    fn a_stamp_is_recent_for_a_minute() {
        assert!(FILE.is_recent_at(at(100_000)) && FILE.is_recent_at(at(160_000)));
        assert!(!FILE.is_recent_at(at(160_001)));
        assert!(!Stamp { ctime: None, ..FILE }.is_recent_at(at(100_000)), "nobody writes in place");
    }
}
