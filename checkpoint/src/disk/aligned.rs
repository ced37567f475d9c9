//! Memory that a disk takes as it is: payloads that lie on a block's boundary go past the page cache without another
//! copy ([`RealDisk`](super::RealDisk) copies the others through a buffer of its own).

use bytes::Bytes;

/// Memory, offset and length of a direct write are multiples of this; it suits every block device with sectors of up
/// to 4 KiB.
pub(super) const DIRECT_ALIGN: usize = 4096;

/// What `fill` adds to a vector, on a block's boundary as long as that is at most `len` bytes.
///
/// # Errors
/// Those of `fill`.
pub(crate) fn aligned<E>(len: usize, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    let mut room: Vec<u8> = Vec::with_capacity(len + DIRECT_ALIGN - 1);
    let skip = room.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN - 1);
    room.resize(skip, 0);
    fill(&mut room)?;
    Ok(Bytes::from(room).slice(skip..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_lies_on_a_boundary() {
        let filled = |len, data: &[u8]| {
            aligned(len, |room| {
                room.extend_from_slice(data);
                Ok::<_, ()>(())
            })
        };
        for len in [0, 1, DIRECT_ALIGN, 1 << 20] {
            let data = vec![7; len];
            let filled = filled(len, &data).unwrap();
            assert_eq!(filled, data);
            assert_eq!(filled.as_ptr().align_offset(DIRECT_ALIGN), 0, "{len} bytes");
        }
        assert_eq!(filled(1, &[1; 1 << 20]).unwrap().len(), 1 << 20, "more than was said is not lost");
        assert_eq!(aligned(1, |_| Err("no")), Err("no"));
    }
}
