//! How this crate's bytes are put together and taken apart: numbers little-endian, short strings behind their length,
//! the head that entries of plans and of manifests have in common. Formats: `docs/format.md`.
//!
//! **Never** reads past the end, nor takes memory for what has not come.

use crate::epoch::{EntryKind, PathRef};

/// Kind, mode and path, as plans and manifests begin an entry.
pub(crate) fn put_head(bytes: &mut Vec<u8>, path: PathRef<'_>, kind: EntryKind, mode: u32) {
    bytes.push(match kind {
        EntryKind::File => b'f',
        EntryKind::Directory => b'd',
        EntryKind::Symlink => b'l',
    });
    // Bits that no mode has are not lost on the way to who refuses them.
    bytes.extend_from_slice(&u16::try_from(mode).unwrap_or(u16::MAX).to_le_bytes());
    put_short(bytes, path.as_bytes());
}

/// At most 65,535 bytes behind their length.
pub(crate) fn put_short(bytes: &mut Vec<u8>, data: &[u8]) {
    let len = u16::try_from(data.len()).expect("paths, targets and names are far below 64 KiB");
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(data);
}

/// The bytes are not what encoding makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Where, bytes from the start.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) why: &'static str,
}

/// What is wrong where there is less than should be.
pub(crate) const SHORT: &str = "it ends too early";

/// Takes numbers and short strings from the front of what is left.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the byte `at` on.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    /// The next byte, counted from the start.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// This is wrong with what was read last.
    pub(crate) fn wrong(&self, why: &'static str) -> Malformed {
        Malformed { at: self.at, why }
    }

    /// So many bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let rest = self.rest();
        if rest.len() < len {
            return Err(self.wrong(SHORT));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// What [`put_short`] has put.
    pub(crate) fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// The same, which must be UTF-8.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.short()?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong("a text is no UTF-8"))?;
        Ok(text.to_owned())
    }

    /// There is nothing more.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.wrong("there is more than there should be"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_and_nothing_shorter() {
        let mut bytes = 7_u32.to_le_bytes().to_vec();
        put_short(&mut bytes, b"text");
        let take = |bytes: &[u8]| {
            let mut read = Reader::new(bytes, 0);
            let taken = (read.u32()?, read.text()?);
            read.end().map(|()| taken)
        };
        assert_eq!(take(&bytes), Ok((7, "text".to_owned())));
        // The length of the text comes right behind the number.
        for (end, at) in [(0, 0), (3, 0), (4, 4), (5, 4), (6, 6), (9, 6)] {
            assert_eq!(take(&bytes[..end]), Err(Malformed { at, why: SHORT }), "{end}");
        }
        let end = bytes.len();
        bytes.push(0);
        assert_eq!(take(&bytes).map_err(|wrong| wrong.at), Err(end));
        bytes.truncate(end);
        bytes[end - 1] = 0xff;
        assert!(take(&bytes).is_err_and(|wrong| wrong.why.contains("UTF-8")));
    }
}
