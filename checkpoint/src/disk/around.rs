//! Zeros that are not written: what a file never had reads as zeros, and takes no room.

use std::io;

use crate::digest::is_zero;
use crate::limits::HOLE_BYTES_MIN;

/// Gives `write` what of `data` must be written at `offset` so that the file holds it there: all but aligned runs of
/// [`HOLE_BYTES_MIN`] zeros. In the place of these the file must hold nothing yet, and its length is the caller's to set.
///
/// # Errors
/// Those of `write`.
pub(crate) fn write_around<E>(
    data: &[u8],
    offset: u64,
    mut write: impl FnMut(&[u8], u64) -> Result<(), E>,
) -> Result<(), E> {
    let step = HOLE_BYTES_MIN as u64;
    let (mut at, mut pending) = (0, 0);
    let mut written = |from: usize, to: usize| {
        if from < to { write(&data[from..to], offset + from as u64) } else { Ok(()) }
    };
    while at < data.len() {
        let place = offset + at as u64;
        let len = ((step - place % step) as usize).min(data.len() - at);
        if len == HOLE_BYTES_MIN && is_zero(&data[at..at + len]) {
            written(pending, at)?;
            pending = at + len;
        }
        at += len;
    }
    written(pending, data.len())
}

/// Bytes that a file of `len` takes on a replica: its data, in the units in which runs of zeros stay holes. `next_data`
/// answers with the first range at or after a place that may hold anything but zeros, `None` when there is none.
///
/// # Errors
/// Those of `next_data`.
pub fn data_bytes(
    len: u64,
    mut next_data: impl FnMut(u64) -> io::Result<Option<(u64, u64)>>,
) -> io::Result<u64> {
    let unit = HOLE_BYTES_MIN as u64;
    let (mut at, mut stored) = (0, 0);
    while at < len
        && let Some((start, end)) = next_data(at)?
    {
        // Two extents in one unit take it once.
        let first = (start / unit * unit).max(at);
        at = end.next_multiple_of(unit).min(len).max(end);
        stored += at - first;
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aligned_runs_of_zeros_are_left_out() {
        const UNIT: usize = HOLE_BYTES_MIN;
        let ranges = |data: &[u8], offset: usize| {
            let mut ranges = Vec::new();
            write_around(data, offset as u64, |part, at| {
                ranges.push((at as usize, part.len()));
                Ok::<_, ()>(())
            })
            .unwrap();
            ranges
        };
        let mut data = vec![0; 4 * UNIT];
        assert!(ranges(&data, 0).is_empty());
        assert_eq!(ranges(&data, 1), [(1, UNIT - 1), (4 * UNIT, 1)], "the ends of others' runs are written");
        data[UNIT] = 1;
        assert_eq!(ranges(&data, 0), [(UNIT, UNIT)]);
        data[3 * UNIT + 9] = 1;
        assert_eq!(ranges(&data, UNIT), [(2 * UNIT, UNIT), (4 * UNIT, UNIT)]);
        assert_eq!(ranges(&data[..3 * UNIT - 1], 0), [(UNIT, 2 * UNIT - 1)], "a short end is written");
        assert!(ranges(&[], 7).is_empty());
    }
}
