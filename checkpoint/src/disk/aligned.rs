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
pub fn aligned<E>(len: usize, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    let mut room: Vec<u8> = Vec::with_capacity(len + DIRECT_ALIGN - 1);
    let skip = room.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN - 1);
    room.resize(skip, 0);
    fill(&mut room)?;
    Ok(Bytes::from(room).slice(skip..))
}

/// A copy of `data` on a block's boundary.
pub fn aligned_copy(data: &[u8]) -> Bytes {
    let copied = aligned(data.len(), |room| {
        room.extend_from_slice(data);
        Ok::<_, std::convert::Infallible>(())
    });
    match copied {
        Ok(copy) => copy,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_lies_on_a_boundary() {
        for len in [0, 1, DIRECT_ALIGN, 1 << 20] {
            let data = vec![7; len];
            let copy = aligned_copy(&data);
            assert_eq!(copy, data);
            assert_eq!(copy.as_ptr().align_offset(DIRECT_ALIGN), 0, "{len} bytes");
        }
        assert_eq!(aligned(1, |_| Err("no")), Err("no"));
        let more = aligned(1, |room| Ok::<_, ()>(room.extend_from_slice(&[1; 1 << 20]))).unwrap();
        assert_eq!(more.len(), 1 << 20);
    }
}
