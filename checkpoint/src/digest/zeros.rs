//! Values of runs of zeros. BLAKE3 mixes into every leaf where it lies, so that the value of a run depends on its offset
//! and on nothing else: one table serves all files of all clusters.
//!
//! `zeros.bin` has the values of the aligned 64 MiB runs of the first TiB, which no epoch is longer than: longer runs are
//! merged from them, at 100 ns each. What is shorter lies at an edge of data. Of those, runs from 1 MiB on are hashed once
//! and remembered: an edge costs at most 64 MiB of hashing in a process, some 15 ms.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use blake3::hazmat::{self, HasherExt, Mode};

use super::{Digest, content, is_subtree};

/// The runs of the table, bytes.
const RUN_BYTES: u64 = 64 << 20;
/// Their values, 32 bytes each, in order. Made by the test `the_table_is_made` below.
static TABLE: &[u8; TABLE_RUNS * 32] = include_bytes!("zeros.bin");
const TABLE_RUNS: usize = 1 << 14;
/// Runs below this are hashed each time, which takes 0.2 ms.
const REMEMBERED_BYTES_MIN: u64 = 1 << 20;
/// Runs that are remembered, at most: the edges of 256 places, some 3 MiB.
const REMEMBERED_MAX: usize = 1 << 15;

type Value = [u8; 32];

static REMEMBERED: Mutex<Option<HashMap<(u64, u64), Value>>> = Mutex::new(None);
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// [`subtree`](super::subtree) of `len` zero bytes: however many, next to nothing is hashed.
///
/// # Panics
/// When the range is no subtree (see [`is_subtree`]).
pub fn zeros(file_len: u64, offset: u64, len: u64) -> Digest {
    assert!(is_subtree(file_len, offset, len), "{offset}+{len} of {file_len} is no subtree");
    if offset > 0 || len < file_len {
        return Digest(value(offset, len));
    }
    if len <= ZEROS.len() as u64 {
        return content(&ZEROS[..len as usize]);
    }
    let left = len.next_power_of_two() / 2;
    let (left, right) = (value(0, left), value(left, len - left));
    Digest(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

/// The value of a subtree that is not the whole file.
pub(super) fn value(offset: u64, len: u64) -> Value {
    if len < REMEMBERED_BYTES_MIN {
        return hashed(offset, len);
    }
    if len == RUN_BYTES
        && let Some(known) = in_table(offset / RUN_BYTES)
    {
        return known;
    }
    if len > RUN_BYTES {
        return merged(offset, len);
    }
    if let Some(known) = remembered(|all| all.get(&(offset, len)).copied()) {
        return known;
    }
    let made = if len == REMEMBERED_BYTES_MIN { hashed(offset, len) } else { merged(offset, len) };
    // What ends a file has any length, and is rarely seen again.
    if len.is_power_of_two() {
        remembered(|all| {
            if all.len() >= REMEMBERED_MAX {
                all.clear();
            }
            all.insert((offset, len), made);
        });
    }
    made
}

fn in_table(run: u64) -> Option<Value> {
    let at = usize::try_from(run).ok()?.checked_mul(32)?;
    TABLE.get(at..at.checked_add(32)?)?.try_into().ok()
}

fn merged(offset: u64, len: u64) -> Value {
    let left = len.next_power_of_two() / 2;
    hazmat::merge_subtrees_non_root(&value(offset, left), &value(offset + left, len - left), Mode::Hash)
}

fn hashed(offset: u64, len: u64) -> Value {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    update(&mut hasher, len);
    hasher.finalize_non_root()
}

/// Takes `len` zero bytes, one by one.
pub(super) fn update(hasher: &mut blake3::Hasher, mut len: u64) {
    while len > 0 {
        let take = len.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..take as usize]);
        len -= take;
    }
}

fn remembered<T>(with: impl FnOnce(&mut HashMap<(u64, u64), Value>) -> T) -> T {
    // Who panics in here has changed nothing that another would take for something else.
    with(REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn the_table_says_what_hashing_says() {
        let seed = RandomState::new();
        let random = (0..8u64).map(|n| seed.hash_one(n) % TABLE_RUNS as u64);
        for run in [0, 1, TABLE_RUNS as u64 - 1].into_iter().chain(random) {
            assert_eq!(in_table(run), Some(hashed(run * RUN_BYTES, RUN_BYTES)), "run {run}");
        }
        assert_eq!(in_table(TABLE_RUNS as u64), None);
    }

    /// Made anew with `UPDATE=1`; takes five minutes of two cores.
    #[test]
    #[ignore = "hashes 1 TiB"]
    fn the_table_is_made() {
        let next = AtomicUsize::new(0);
        let made = Mutex::new(vec![[0; 32]; TABLE_RUNS]);
        let make = || {
            loop {
                let run = next.fetch_add(1, Ordering::Relaxed);
                if run >= TABLE_RUNS {
                    break;
                }
                let value = hashed(run as u64 * RUN_BYTES, RUN_BYTES);
                made.lock().unwrap()[run] = value;
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(make);
            make();
        });
        let made = made.into_inner().unwrap().concat();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/digest/zeros.bin"), &made).unwrap();
        } else {
            assert!(made == TABLE);
        }
    }

    #[test]
    fn runs_of_every_kind_have_the_value_of_their_zeros() {
        const MIB: u64 = 1 << 20;
        let flat = |file_len, offset, len| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(offset);
            update(&mut hasher, len);
            let whole = offset == 0 && len == file_len;
            Digest(if whole { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() })
        };
        for (file_len, offset, len) in [
            (100, 0, 100),
            (64 << 10, 0, 64 << 10),
            ((64 << 10) + 1, 0, (64 << 10) + 1),
            (MIB, 0, MIB),
            (3 * MIB + 5, 0, 3 * MIB + 5),
            (128 * MIB, 0, 128 * MIB),
            (200 * MIB + 1, 0, 200 * MIB + 1),
            (1 << 40, 0, 128 * MIB),
            (1 << 40, 32 * MIB, 32 * MIB),
            (1 << 40, 32 * MIB, 32 * MIB),
            ((1 << 36) + 70 * MIB + 3, 1 << 36, 70 * MIB + 3),
            // Behind the table.
            (1 << 45, 1 << 41, 128 * MIB),
            (1 << 45, (1 << 41) + MIB, 4096),
        ] {
            assert_eq!(
                zeros(file_len, offset, len),
                flat(file_len, offset, len),
                "{offset}+{len} of {file_len}"
            );
        }
    }

    #[test]
    fn a_tib_of_zeros_takes_no_time() {
        let began = Instant::now();
        let _ = zeros(1 << 40, 0, 1 << 40);
        let half = zeros((1 << 40) - 5, 1 << 39, (1 << 39) - 5);
        assert_eq!(half, zeros((1 << 40) - 5, 1 << 39, (1 << 39) - 5));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
