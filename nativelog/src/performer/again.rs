//! When what could not be done is tried again.
//!
//! **Guarantees.** An epoch that found no room is tried again every 10 s. One that failed for another reason (a name that
//! this file system does not take, say) waits twice as long each time, up to 10 minutes: many of them do not keep the
//! performer from its work. Who knows that something has changed asks for all of them at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use checkpoint::Unpublished;
use checkpoint::disk::lacks_room;

/// What could not be done is tried again after this long.
const AFTER: Duration = Duration::from_secs(10);
/// What does not get better by itself waits at most this long.
const AFTER_MAX: Duration = Duration::from_secs(600);

/// Whether what failed may be better a little later, whatever anybody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    Passes,
    Lasts,
    /// It lasts until somebody brings the bytes, and says so.
    Stored,
}

impl Outlook {
    /// Of what the shelves say.
    pub fn of(why: &Unpublished) -> Outlook {
        match why {
            Unpublished::Verifying { .. } => Outlook::Passes,
            Unpublished::Io(error) if lacks_room(&error.source) => Outlook::Passes,
            _ => Outlook::Lasts,
        }
    }
}

/// When, by attempt; and the folders that could not be removed, and what points to one of them, all together.
#[derive(Debug, Default)]
pub struct Again {
    epochs: BTreeMap<u64, Turn>,
    folders: Option<Instant>,
}

#[derive(Debug)]
struct Turn {
    at: Instant,
    after: Duration,
    outlook: Outlook,
}

impl Again {
    /// The epoch of this attempt was not published.
    pub fn failed(&mut self, attempt: u64, outlook: Outlook, now: Instant) {
        let before = self.epochs.get(&attempt).map(|turn| turn.after);
        let after = match (outlook, before) {
            (Outlook::Lasts | Outlook::Stored, Some(before)) => (2 * before).min(AFTER_MAX),
            _ => AFTER,
        };
        self.epochs.insert(attempt, Turn { at: now + after, after, outlook });
    }

    /// Whether the epoch of this attempt waits for bytes from a store.
    pub fn is_stored(&self, attempt: u64) -> bool {
        self.epochs.get(&attempt).is_some_and(|turn| turn.outlook == Outlook::Stored)
    }

    /// The epoch of this attempt is published. True when it had failed before: others may have waited for what it holds.
    pub fn done(&mut self, attempt: u64) -> bool {
        self.epochs.remove(&attempt).is_some()
    }

    /// A folder was not removed.
    pub fn folder_stays(&mut self, now: Instant) {
        self.folders = Some(now + AFTER);
    }

    /// A `latest` points elsewhere than it should.
    pub fn latest_stays(&mut self, now: Instant) {
        self.folders.get_or_insert(now + AFTER);
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.epochs.values().map(|turn| turn.at).chain(self.folders).min()
    }

    /// Folders are tried with whatever else is, and forgotten here until one fails again. Of the epochs that
    /// failed those that `are_owed` still stay.
    pub fn begin(&mut self, are_owed: impl Fn(u64) -> bool) {
        self.folders = None;
        self.epochs.retain(|attempt, _| are_owed(*attempt));
    }

    /// Whether the epoch of this attempt is to be tried now. One that nobody has tried yet is.
    pub fn is_due(&self, attempt: u64, now: Instant) -> bool {
        self.epochs.get(&attempt).is_none_or(|turn| turn.at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_tried_again_soon_and_what_lasts_more_and_more_seldom() {
        let mut now = Instant::now();
        let mut again = Again::default();
        assert!(again.is_due(1, now) && again.next().is_none());
        let mut waits = Vec::new();
        for _ in 0..9 {
            again.failed(1, Outlook::Lasts, now);
            again.failed(2, Outlook::Passes, now);
            assert_eq!(again.next(), Some(now + AFTER).min(Some(again.epochs[&1].at)));
            assert!(!again.is_due(1, now) && !again.is_due(2, now) && again.is_due(2, now + AFTER));
            waits.push(again.epochs[&1].after.as_secs());
            now = again.epochs[&1].at;
            assert!(again.is_due(1, now));
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        // It has found its way, and there is no room now.
        again.failed(1, Outlook::Passes, now);
        assert!(again.is_due(1, now + AFTER));
        assert!(again.done(1) && !again.done(1));
        again.failed(1, Outlook::Stored, now);
        assert!(again.is_stored(1) && !again.is_stored(2) && !again.is_stored(3));
    }

    #[test]
    fn what_is_owed_no_more_is_forgotten() {
        let now = Instant::now();
        let mut again = Again::default();
        again.failed(1, Outlook::Lasts, now);
        again.failed(2, Outlook::Lasts, now);
        again.folder_stays(now);
        assert_eq!(again.next(), Some(now + AFTER));
        again.begin(|attempt| attempt == 2);
        assert_eq!((again.epochs.len(), again.folders), (1, None));
        again.begin(|_| false);
        assert_eq!(again.next(), None);
    }
}
