//! A disk that fills up: what this node does about it, step by step, and how it comes back by itself.
//!
//! ```text
//!   free                              |0        R/2        3/4 R        R        R + 2 ballasts
//!   proposes content, leads           |--- no -----------------><- as before -><------- yes ------->
//!   takes content from a leader       |--- no ---><- as before ---------------><------- yes ------->
//!   ballast                           |- given up ><------ as before ------------------><-- made -->
//!   gives back what is garbage        |--- at once ---------------------------><-- when it suits -->
//! ```
//!
//! R is the reserve. The two edges of each step are apart, so that nothing flaps. A leader stops before its followers
//! do: what it has in its log it can still bring to them, and so nothing stands before the record that makes room.
//! The ballast is a file that takes space for nothing; given up, it leaves room for what is on its way to the log,
//! which is in its order, and behind that for what makes more room: the records that expire epochs, a snapshot,
//! a purge. So what is on its way is never more than a part of the ballast, of this node's and, while it leads, of each
//! other voter's, which they tell ([`crate::space`]). Votes, deletions and reads go on at any time. A foreign program
//! that goes on writing takes that room too: then all waits until there is some.

use crate::space::Space;
use crate::units;

/// The ballast is at most so large, bytes.
const BALLAST_BYTES_MAX: u64 = 128 << 20;
/// One part in so many of the ballast may be on its way to the log: a pack lies in the log and is unpacked beside it,
/// a leader has proposals and a node that just led entries of the next leader.
const IN_FLIGHT_SHARE: u64 = 4;
const SHORT: &str = "is short of space";

/// What a node that is short of space says when it refuses content. `stalled` is why its log waits, if it does: that is
/// the cause where the file system tells of room, as it may below a quota or on a thin volume.
pub fn words(node: u64, space: &Space, stalled: Option<&str>) -> String {
    if let Some(why) = stalled.filter(|_| !takes_no_content(space, 0)) {
        return format!(
            "node {node} {SHORT}: its log waits although {} are free: {why}",
            units::size(space.free)
        );
    }
    let inodes = if space.inodes_short { ", hardly any inodes" } else { "" };
    let (free, reserve) = (units::size(space.free), units::size(space.reserve));
    format!("node {node} {SHORT}: {free} free{inodes}, {reserve} stay reserved")
}

/// What a node says that has removed what expired, and still lacks what it made room for.
pub fn gives_way(node: u64) -> String {
    format!("node {node} {SHORT}: it has made room for what it lacks, and that is still to come")
}

/// Whether a refusal, perhaps of another node, is for want of space: it comes as words alone.
pub fn is_short(why: &str) -> bool {
    why.contains(SHORT)
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps {
    /// No content is proposed here, and somebody else shall lead.
    pub tight: bool,
    /// Nor is it taken from a leader.
    pub short: bool,
    /// The ballast shall have so many bytes, if it has not.
    pub ballast: Option<u64>,
    /// What is garbage shall be given back now.
    pub reclaim: bool,
}

/// The ballast of a node with this space, bytes.
pub fn ballast_bytes(space: &Space) -> u64 {
    BALLAST_BYTES_MAX.min(space.reserve / 4)
}

/// What may be on its way to the log of a node with this space, bytes. Without a reserve there is no ballast that it
/// would have to fit in.
pub fn in_flight_bytes(space: &Space) -> u64 {
    if space.reserve == 0 { u64::MAX } else { ballast_bytes(space) / IN_FLIGHT_SHARE }
}

/// Whether so many bytes of content would take what is kept for what makes room, at this moment; [`steps`] says how long
/// that holds.
pub fn takes_no_content(space: &Space, bytes: u64) -> bool {
    space.inodes_short || space.free < (space.reserve / 2).saturating_add(bytes)
}

/// What to do, where `before` is what was done before. A log that has stalled for want of space is short
/// whatever the file system tells.
pub fn steps(space: &Space, before: Steps, stalled: bool) -> Steps {
    let forced = stalled || space.inodes_short;
    let below = |was: bool, limit: u64| forced || space.free < if was { space.reserve } else { limit };
    let short = stalled || takes_no_content(space, 0) || before.short && space.free < space.reserve;
    let tight = short || below(before.tight, space.reserve - space.reserve / 4);
    let wanted = ballast_bytes(space);
    let plenty = space.reserve.saturating_add(2 * wanted);
    let ballast = match short {
        true => Some(0),
        false => (space.free >= plenty && !tight).then_some(wanted),
    };
    Steps { tight, short, ballast, reclaim: tight || !space.has_room_for(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(free: u64) -> Space {
        Space { free: free * MIB, total: 1000 * MIB, reserve: 100 * MIB, ..Space::default() }
    }

    #[test]
    fn a_disk_fills_and_empties_without_flapping() {
        let none = Steps::default();
        let at = |free, before| steps(&space(free), before, false);
        assert_eq!(at(500, none), Steps { ballast: Some(25 * MIB), ..none });
        assert_eq!(at(120, none), none);
        assert_eq!(at(99, none), Steps { reclaim: true, ..none });
        let tight = at(74, none);
        assert_eq!(tight, Steps { tight: true, reclaim: true, ..none });
        assert_eq!(at(99, tight), tight);
        let short = at(49, tight);
        assert_eq!(short, Steps { tight: true, short: true, ballast: Some(0), reclaim: true });
        // The ballast alone does not end it.
        assert_eq!(at(49 + 25, short), short);
        assert_eq!(at(100, short), none);
        assert!(at(150, none).ballast.is_some());
        // The ballast that is made there does not bring the reserve in reach again.
        assert!(!at(150 - 25, none).reclaim);
    }

    #[test]
    fn a_stalled_log_or_no_inodes_are_short_too() {
        assert!(steps(&space(500), Steps::default(), true).short);
        let no_inodes = Space { inodes_short: true, ..space(500) };
        let steps = steps(&no_inodes, Steps::default(), false);
        assert!(steps.short && steps.tight && steps.ballast == Some(0));
    }

    #[test]
    fn words_for_want_of_space_are_known_again() {
        let log = Some("cannot write DATA/wal: No space left on device");
        let why = words(3, &space(40), None);
        assert_eq!(why, "node 3 is short of space: 40.0 MiB free, 100.0 MiB stay reserved");
        assert_eq!(words(3, &space(40), log), why, "its bytes tell enough");
        let waits = words(3, &space(500), log);
        assert_eq!(
            waits,
            "node 3 is short of space: its log waits although 500.0 MiB are free: cannot write DATA/wal: No space left on device"
        );
        for why in [why, waits] {
            assert!(is_short(&format!("unavailable: {why}")));
        }
        assert!(!is_short("not the leader"));
    }

    #[test]
    fn the_ballast_is_small() {
        assert_eq!(ballast_bytes(&Space { reserve: u64::MAX, ..Space::default() }), 128 * MIB);
        assert_eq!(ballast_bytes(&Space { reserve: 40, ..Space::default() }), 10);
        assert_eq!(in_flight_bytes(&Space { reserve: 1 << 40, ..Space::default() }), 32 * MIB);
        assert_eq!(in_flight_bytes(&Space::default()), u64::MAX);
        // Nothing overflows.
        assert!(steps(&Space { reserve: u64::MAX, ..space(500) }, Steps::default(), false).short);
    }
}
