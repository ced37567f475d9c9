//! One u64 seed makes everything random in a run: contents, moments, choices.
//!
//! `EPOCHLOG_SEED` sets it, else it is drawn. A test that fails prints it with
//! the command that replays it. Nothing else in this crate may draw numbers.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The seed of this run: `EPOCHLOG_SEED` (decimal or `0x` hexadecimal) or a fresh one.
///
/// # Panics
/// When `EPOCHLOG_SEED` is not a number.
pub fn run_seed() -> u64 {
    match std::env::var("EPOCHLOG_SEED") {
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("EPOCHLOG_SEED={text} is not a 64-bit number")),
        Err(_) => RandomState::new().build_hasher().finish(),
    }
}

/// Reads a seed as people write it; `None` when it is none.
pub fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Prints the seed and the replay command when its scope ends in a panic.
#[derive(Debug)]
pub struct Replay {
    seed: u64,
    command: String,
}

impl Replay {
    /// Guards the scope of one test of the binary `process`.
    pub fn of_test(name: &str, seed: u64) -> Replay {
        Replay { seed, command: format!("cargo test -p cluster-tests --test process -- {name}") }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}; replay with: EPOCHLOG_SEED={} {}", self.seed, self.seed, self.command);
        }
    }
}

/// A small deterministic generator (SplitMix64): good enough to fill files with
/// bytes that nothing can deduplicate, and to pick moments.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The generator of one purpose: equal (seed, purpose) give equal numbers.
    pub fn new(seed: u64, purpose: &str) -> Rng {
        let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in purpose.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        Rng { state }
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number in `low..high`.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low < high, "empty range {low}..{high}");
        low + self.draw() % (high - low)
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.draw() & 1 == 0
    }

    /// A duration in `0..upper`, in microseconds' steps.
    pub fn moment(&mut self, upper: Duration) -> Duration {
        let upper_us = u64::try_from(upper.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.range(0, upper_us))
    }

    /// Fills `buffer` with bytes that do not compress.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for eight in buffer.chunks_mut(8) {
            let bytes = self.draw().to_le_bytes();
            eight.copy_from_slice(&bytes[..eight.len()]);
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_and_purposes_give_equal_numbers_and_others_do_not() {
        let draw = |seed, purpose| {
            let mut rng = Rng::new(seed, purpose);
            [rng.draw(), rng.draw(), rng.range(0, 10)]
        };
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn seeds_are_read_as_decimal_and_hexadecimal() {
        assert_eq!(parse("17"), Some(17));
        assert_eq!(parse("0x1f"), Some(31));
        assert_eq!(parse("many"), None);
    }
}
