//! Bytes in pieces: what is large is taken over as it is, what is small is collected.

use std::collections::VecDeque;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Pieces from this size on are not copied. (Each costs more to pass on, and may keep a larger buffer in memory.)
const PIECE_BYTES_MIN: usize = 16 << 10;

/// A queue of bytes in pieces, none of them empty.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    pieces: VecDeque<Bytes>,
    /// Of all pieces.
    len: usize,
    /// What was written since the last piece.
    open: BytesMut,
}

impl Rope {
    /// Adds bytes: a large piece as it is.
    pub fn add(&mut self, piece: Bytes) {
        if piece.len() < PIECE_BYTES_MIN {
            self.open.put_slice(&piece);
        } else {
            self.close();
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Takes the first piece; what was written is one too.
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close();
        }
        let piece = self.pieces.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }

    /// Bytes in it, those just written included.
    pub fn len(&self) -> usize {
        self.len + self.open.len()
    }

    /// What was written becomes a piece, to be read.
    pub fn close(&mut self) {
        if !self.open.is_empty() {
            let piece = self.open.split().freeze();
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

#[allow(unsafe_code, reason = "the trait is unsafe; all is left to BytesMut")]
// SAFETY: `chunk_mut` and `advance_mut` are those of `BytesMut`, on the same buffer.
unsafe impl BufMut for Rope {
    fn remaining_mut(&self) -> usize {
        usize::MAX - self.len()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller has written so many bytes of `chunk_mut`, which was that of `open`.
        unsafe { self.open.advance_mut(count) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.open.chunk_mut()
    }

    fn put_slice(&mut self, slice: &[u8]) {
        self.open.put_slice(slice);
    }

    /// [`Bytes`] are taken over, not copied.
    fn put<T: Buf>(&mut self, mut from: T) {
        while from.has_remaining() {
            let len = from.chunk().len();
            if len < PIECE_BYTES_MIN {
                self.open.put_slice(from.chunk());
                from.advance(len);
            } else {
                let piece = from.copy_to_bytes(len);
                self.add(piece);
            }
        }
    }
}

/// Reads the pieces; what was written and is no piece yet is not seen.
impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "an advance past the end");
        self.len -= count;
        while count > 0 {
            let piece = self.pieces.front_mut().expect("the length is the sum of the pieces");
            let step = count.min(piece.len());
            piece.advance(step);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            count -= step;
        }
    }

    /// A slice, where one piece has them all.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len, "a read past the end");
        match self.pieces.front_mut() {
            Some(piece) if piece.len() > len => {
                self.len -= len;
                piece.split_to(len)
            }
            Some(piece) if piece.len() == len => {
                self.len -= len;
                self.pieces.pop_front().expect("it is there")
            }
            _ => {
                let mut copy = BytesMut::with_capacity(len);
                copy.put(self.take(len));
                copy.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_taken_over_and_small_ones_collected() {
        let large = Bytes::from(vec![7; PIECE_BYTES_MIN]);
        let mut rope = Rope::default();
        rope.put_u8(1);
        rope.put(Bytes::from_static(b"small"));
        rope.put(large.clone());
        rope.put_slice(b"end");
        assert_eq!(rope.len(), 1 + 5 + PIECE_BYTES_MIN + 3);
        assert_eq!(rope.pop().as_deref(), Some(&b"\x01small"[..]));
        let taken = rope.pop().unwrap();
        assert_eq!(taken.as_ptr(), large.as_ptr(), "not a copy");
        assert_eq!(rope.pop().as_deref(), Some(&b"end"[..]));
        assert_eq!((rope.pop(), rope.len()), (None, 0));
    }

    #[test]
    fn a_read_within_one_piece_is_a_slice_and_across_pieces_a_copy() {
        let first: Bytes = (0..=255).cycle().take(PIECE_BYTES_MIN).collect::<Vec<u8>>().into();
        let mut rope = Rope::default();
        rope.add(first.clone());
        rope.add(Bytes::new());
        rope.add(Bytes::from_static(b"gh"));
        rope.add(Bytes::from_static(b"i"));
        assert_eq!((rope.len(), rope.remaining()), (PIECE_BYTES_MIN + 3, PIECE_BYTES_MIN));
        rope.close();
        assert_eq!((rope.remaining(), rope.chunk()), (PIECE_BYTES_MIN + 3, &first[..]));
        rope.advance(1);
        let slice = rope.copy_to_bytes(PIECE_BYTES_MIN - 3);
        assert_eq!((slice.len(), slice.as_ptr()), (PIECE_BYTES_MIN - 3, first[1..].as_ptr()));
        assert_eq!(&rope.copy_to_bytes(3)[..], b"\xfe\xffg");
        assert_eq!(&rope.copy_to_bytes(2)[..], b"hi");
        assert!(!rope.has_remaining() && rope.copy_to_bytes(0).is_empty());
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn a_read_past_the_end_is_a_bug() {
        Rope::default().copy_to_bytes(1);
    }
}
