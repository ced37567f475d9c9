//! Damage of what must never be guessed: the log, the vote, the identity.

use std::fs::{self, File};
use std::io::Write;

use super::site::{Site, cut, flip, len};
use super::{Expect, Row};
use crate::seed::Rng;
use crate::wal::{Frame, Mark, Segment, segments};

/// The rows of log, vote and identity.
pub const LOG: [Row; 13] = [
    Row { name: "log torn at its end: zeros", plant: torn_zeros, expect: Expect::Heals },
    Row { name: "log torn at its end: noise", plant: torn_noise, expect: Expect::Heals },
    Row { name: "log torn at its end: half a frame", plant: torn_frame, expect: Expect::Heals },
    Row { name: "log flipped in the middle", plant: flipped_middle, expect: Expect::Repair("damaged") },
    Row { name: "log flipped in the tail", plant: flipped_tail, expect: Expect::Repair("damaged") },
    Row { name: "log shorter than what was durable", plant: shortened, expect: Expect::Repair("damaged") },
    Row { name: "first segment missing", plant: first_segment_missing, expect: Expect::Repair("damaged") },
    Row { name: "last segment missing", plant: last_segment_missing, expect: Expect::Repair("damaged") },
    Row { name: "newest vote slot damaged", plant: newest_slot, expect: Expect::Heals },
    Row { name: "older vote slot damaged", plant: older_slot, expect: Expect::Heals },
    Row { name: "both vote slots damaged", plant: both_slots, expect: Expect::PutBack("mark") },
    Row { name: "identity missing", plant: identity_missing, expect: Expect::PutBack("identity") },
    Row { name: "identity damaged", plant: identity_damaged, expect: Expect::PutBack("identity") },
];

fn last_segment(site: &Site) -> Segment {
    segments(site.node()).pop().expect("a log has a segment")
}

/// Ends the node and adds what an append leaves behind that was never acknowledged.
fn append(site: &mut Site, torn: &[u8]) {
    site.kill();
    let path = last_segment(site).path;
    let file = File::options().append(true).open(&path);
    file.and_then(|mut file| file.write_all(torn))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn torn_zeros(site: &mut Site, rng: &mut Rng) {
    let zeros = vec![0; usize::try_from(rng.range(1, 9000)).expect("small")];
    append(site, &zeros);
}

fn torn_noise(site: &mut Site, rng: &mut Rng) {
    let mut noise = vec![0; usize::try_from(rng.range(1, 9000)).expect("small")];
    rng.fill(&mut noise);
    append(site, &noise);
}

/// The first bytes of a frame that would belong there, had the rest come.
fn torn_frame(site: &mut Site, rng: &mut Rng) {
    site.kill();
    let segment = last_segment(site);
    let bytes = fs::read(&segment.path).expect("our own file is read");
    let last = *segment.frames.last().expect("a segment starts with a frame");
    let at = usize::try_from(last.at).expect("small");
    let mut torn = bytes[at..at + 48].to_vec();
    torn[16..24].copy_from_slice(&(segment.base + last.at + last.len).to_le_bytes());
    torn[8..12].copy_from_slice(&5000u32.to_le_bytes());
    torn.resize(usize::try_from(rng.range(1, 5000)).expect("small"), 0xa5);
    append(site, &torn);
}

/// Frames of the last segment that are durable for certain, the segment's own start left out.
fn durable_frames(site: &Site) -> (Segment, Vec<Frame>) {
    let segment = last_segment(site);
    let durable = Mark::of(site.node()).expect("a log has a mark").durable;
    let certain =
        segment.frames.iter().skip(1).filter(|frame| segment.base + frame.at + frame.len <= durable);
    let frames: Vec<Frame> = certain.copied().collect();
    assert!(frames.len() >= 3, "I12: only {} frames are durable for certain", frames.len());
    (segment, frames)
}

fn flipped_middle(site: &mut Site, rng: &mut Rng) {
    // The mark follows once a second while something is written.
    (0..3).for_each(|_| site.commit(rng));
    site.end_gently();
    let (segment, frames) = durable_frames(site);
    let middle = frames[frames.len() / 2];
    // The checksum covers its header and its body, not the padding.
    flip(&segment.path, middle.at..middle.at + 48, 1, rng);
}

fn flipped_tail(site: &mut Site, rng: &mut Rng) {
    (0..3).for_each(|_| site.commit(rng));
    site.end_gently();
    let (segment, frames) = durable_frames(site);
    let last = frames[frames.len() - 1];
    flip(&segment.path, last.at..last.at + 48, 1, rng);
}

fn shortened(site: &mut Site, rng: &mut Rng) {
    (0..3).for_each(|_| site.commit(rng));
    site.end_gently();
    let (segment, frames) = durable_frames(site);
    let last = frames[frames.len() - 1];
    cut(&segment.path, rng.range(last.at, last.at + last.len));
}

fn first_segment_missing(site: &mut Site, rng: &mut Rng) {
    site.commit(rng);
    site.kill();
    let first = segments(site.node()).into_iter().next().expect("a log has a segment");
    fs::remove_file(first.path).expect("our own file goes");
}

fn last_segment_missing(site: &mut Site, rng: &mut Rng) {
    site.commit(rng);
    site.kill();
    fs::remove_file(last_segment(site).path).expect("our own file goes");
}

fn slots(site: &mut Site, newest: bool, older: bool, rng: &mut Rng) {
    site.end_gently();
    let path = Mark::path(site.node());
    assert_eq!(len(&path), 2 * 4096, "two slots");
    site.copy_aside(&path);
    let at = Mark::of(site.node()).expect("a log has a mark").slot();
    if newest {
        flip(&path, at..at + 100, 1, rng);
    }
    if older {
        flip(&path, 4096 - at..4096 - at + 100, 1, rng);
    }
}

fn newest_slot(site: &mut Site, rng: &mut Rng) {
    slots(site, true, false, rng);
}

fn older_slot(site: &mut Site, rng: &mut Rng) {
    slots(site, false, true, rng);
}

fn both_slots(site: &mut Site, rng: &mut Rng) {
    slots(site, true, true, rng);
}

fn identity_missing(site: &mut Site, _: &mut Rng) {
    site.kill();
    let path = site.node().data.join("identity");
    site.copy_aside(&path);
    fs::remove_file(path).expect("our own file goes");
}

fn identity_damaged(site: &mut Site, rng: &mut Rng) {
    site.kill();
    let path = site.node().data.join("identity");
    site.copy_aside(&path);
    cut(&path, rng.range(0, len(&path) / 2));
}
