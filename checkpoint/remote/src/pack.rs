//! Which objects the contents of an epoch become, and where each content lies in them.
//!
//! A request costs the same for a byte and for a MiB, so small contents lie end to end in packs, and packs are several
//! and of equal length, so that they travel at once. A pack is never written to a disk: its bytes are read from its
//! contents while it is uploaded ([`Packed::source`]). A larger content is an object of its own (several, past
//! [`OBJECT_BYTES_MAX`]), so that another epoch with the same content uses it whole.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::content::{ObjectPlan, Source};
use crate::limits::{OBJECT_BYTES_MAX, PACK_BYTES_MAX, PACKED_BYTES_MAX};
use crate::name::ObjectName;

/// A run of one content and where it lies in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which content: its place in the list that was packed.
    pub content: usize,
    /// Where the run begins in the content, bytes.
    pub content_offset: u64,
    /// Where it begins in the object, bytes.
    pub offset: u64,
    /// Length, bytes; never 0.
    pub len: u64,
}

/// A run of a content and the object that it lies in. The homes of a content, in order, are its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The object.
    pub object: ObjectName,
    /// Where the run begins in the object, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
}

/// A piece of a content, cut out of a verified range of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which content.
    pub content: usize,
    /// Where the piece begins in it, bytes.
    pub content_offset: u64,
    /// Its bytes.
    pub data: Bytes,
}

/// An object that is to be written: contents end to end.
#[derive(Clone)]
pub struct Packed {
    extents: Arc<[Extent]>,
    sources: Arc<[Arc<dyn Source>]>,
}

/// The objects for `contents`, in the order in which these are named, each of which is named once; an empty one needs no
/// object. Reads nothing.
pub fn pack(contents: &[Arc<dyn Source>]) -> Vec<Packed> {
    let sources: Arc<[Arc<dyn Source>]> = contents.into();
    let small = |len: u64| len > 0 && len < PACKED_BYTES_MAX;
    let lens: Vec<u64> = contents.iter().map(|content| content.len_bytes()).collect();
    let small_bytes: u64 = lens.iter().copied().filter(|len| small(*len)).sum();
    // As few packs as may be, all of about one length: between half of the bound and the bound, when there are several.
    let pack_bytes = small_bytes.div_ceil(small_bytes.div_ceil(PACK_BYTES_MAX).max(1));
    let (mut objects, mut open, mut at) = (Vec::new(), Vec::new(), 0);
    for (content, len) in lens.into_iter().enumerate() {
        if small(len) {
            if at > 0 && (at >= pack_bytes || at + len > PACK_BYTES_MAX) {
                objects.push(std::mem::take(&mut open));
                at = 0;
            }
            open.push(Extent { content, content_offset: 0, offset: at, len });
            at += len;
            continue;
        }
        for content_offset in (0..len).step_by(OBJECT_BYTES_MAX as usize) {
            let len = OBJECT_BYTES_MAX.min(len - content_offset);
            objects.push(vec![Extent { content, content_offset, offset: 0, len }]);
        }
    }
    if !open.is_empty() {
        objects.push(open);
    }
    let packed = |extents: Vec<Extent>| Packed { extents: extents.into(), sources: Arc::clone(&sources) };
    objects.into_iter().map(packed).collect()
}

impl Packed {
    /// What it holds, in order of the offsets, without gaps.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Its bytes, read from its contents when they are asked for.
    pub fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    /// Reads it once. Blocks.
    ///
    /// # Errors
    /// Those of its contents.
    pub fn plan(&self) -> io::Result<ObjectPlan> {
        ObjectPlan::of(self)
    }
}

impl Source for Packed {
    fn len_bytes(&self) -> u64 {
        self.extents.last().map_or(0, |last| last.offset + last.len)
    }

    fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len_bytes());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut runs = within(&self.extents, offset, end).map(|(extent, from, to)| {
            let content_offset = extent.content_offset + (from - extent.offset);
            self.sources[extent.content].read(content_offset, to - from)
        });
        let Some(first) = runs.next().transpose()? else { return Ok(Bytes::new()) };
        if first.len() as u64 == len {
            return Ok(first);
        }
        let mut data = BytesMut::with_capacity(len as usize);
        data.extend_from_slice(&first);
        for run in runs {
            data.extend_from_slice(&run?);
        }
        Ok(data.freeze())
    }
}

/// Cuts a verified range of an object, which begins at `offset` of it, into pieces of contents. `extents` are those of
/// the object that are wanted, in order of their offsets; what lies between them is left out. Nothing is copied.
pub fn pieces<'a>(extents: &'a [Extent], offset: u64, data: &'a Bytes) -> impl Iterator<Item = Piece> + 'a {
    within(extents, offset, offset + data.len() as u64).map(move |(extent, from, to)| Piece {
        content: extent.content,
        content_offset: extent.content_offset + (from - extent.offset),
        data: data.slice((from - offset) as usize..(to - offset) as usize),
    })
}

/// Where each of `contents` contents lies once the objects have their keys.
pub fn homes(objects: &[(Packed, ObjectName)], contents: usize) -> Vec<Vec<Home>> {
    let mut homes = vec![Vec::new(); contents];
    // A content that is split is named by its objects in the order of its runs.
    for (packed, object) in objects {
        for extent in packed.extents() {
            homes[extent.content].push(Home { object: *object, offset: extent.offset, len: extent.len });
        }
    }
    homes
}

// The extents that have bytes in `[offset, end)`, and which.
fn within(extents: &[Extent], offset: u64, end: u64) -> impl Iterator<Item = (&Extent, u64, u64)> {
    let first = extents.partition_point(|extent| extent.offset + extent.len <= offset);
    let runs = extents[first..].iter().take_while(move |extent| extent.offset < end);
    runs.map(move |extent| (extent, extent.offset.max(offset), (extent.offset + extent.len).min(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Content of a length without bytes: what only asks for lengths must not read.
    struct Unread(u64);

    impl Source for Unread {
        fn len_bytes(&self) -> u64 {
            self.0
        }

        fn read(&self, _: u64, _: u64) -> io::Result<Bytes> {
            panic!("nobody asked for bytes")
        }
    }

    fn unread(lens: impl IntoIterator<Item = u64>) -> Vec<Arc<dyn Source>> {
        lens.into_iter().map(|len| Arc::new(Unread(len)) as Arc<dyn Source>).collect()
    }

    fn bytes(lens: &[usize]) -> Vec<Arc<dyn Source>> {
        let content = |(seed, len): (usize, &usize)| {
            let data: Vec<u8> = (0..*len).map(|i| (i * 7 + seed * 13 + i / 253) as u8).collect();
            Arc::new(Bytes::from(data)) as Arc<dyn Source>
        };
        lens.iter().enumerate().map(content).collect()
    }

    #[test]
    fn many_small_contents_lie_in_few_packs_of_one_length() {
        // 20,000 files of 1 to 8 KiB: 88 MiB.
        let contents = unread((0..20_000u64).map(|i| 1024 + (i * 2_654_435_761) % 7168));
        let objects = pack(&contents);
        let lens: Vec<u64> = objects.iter().map(Source::len_bytes).collect();
        assert_eq!(lens.len(), 3, "{lens:?}");
        assert!(lens.iter().all(|len| (16 << 20..=32 << 20).contains(len)), "{lens:?}");
        // Begin, parts, complete: what all of it costs.
        let writes: u64 = lens.iter().map(|len| 2 + len.div_ceil(crate::limits::LEAF_BYTES)).sum();
        assert!(writes < 20, "{writes}");
        let mut next = 0;
        for object in &objects {
            for extent in object.extents() {
                assert_eq!(extent.content, next, "each once, in order");
                next += 1;
            }
        }
        assert_eq!(next, contents.len());
    }

    #[test]
    fn a_large_content_is_an_object_and_a_larger_one_several() {
        let contents = unread([0, 5, 256 << 10, 64 << 20, OBJECT_BYTES_MAX + 7, (256 << 10) - 1]);
        let objects = pack(&contents);
        let held: Vec<Vec<(usize, u64, u64)>> = objects
            .iter()
            .map(|o| o.extents().iter().map(|e| (e.content, e.content_offset, e.len)).collect())
            .collect();
        assert_eq!(
            held,
            [
                vec![(2, 0, 256 << 10)],
                vec![(3, 0, 64 << 20)],
                vec![(4, 0, OBJECT_BYTES_MAX)],
                vec![(4, OBJECT_BYTES_MAX, 7)],
                vec![(1, 0, 5), (5, 0, (256 << 10) - 1)],
            ]
        );
        assert!(pack(&unread([0, 0])).is_empty() && pack(&[]).is_empty());
    }

    #[test]
    fn no_pack_is_longer_than_the_bound() {
        for count in [1u64, 127, 128, 129, 255, 256, 257, 1000] {
            let objects = pack(&unread((0..count).map(|_| (256 << 10) - 1)));
            assert!(objects.iter().all(|object| object.len_bytes() <= PACK_BYTES_MAX), "{count}");
            let held: usize = objects.iter().map(|object| object.extents().len()).sum();
            assert_eq!(held as u64, count);
        }
    }

    #[test]
    fn a_pack_reads_as_its_contents_end_to_end_and_is_cut_into_them_again() {
        let contents = bytes(&[10, 0, 1, 5000, 3, 2000]);
        let objects = pack(&contents);
        assert_eq!(objects.len(), 1);
        let mut whole = Vec::new();
        for content in &contents {
            whole.extend_from_slice(&content.read(0, content.len_bytes()).unwrap());
        }
        let object = &objects[0];
        assert_eq!(object.len_bytes(), whole.len() as u64);
        for (offset, len) in
            [(0, whole.len()), (0, 10), (9, 2), (10, 1), (11, 5000), (4000, 1500), (7013, 1), (7014, 0)]
        {
            let read = object.read(offset as u64, len as u64).unwrap();
            assert_eq!(read, whole[offset..offset + len], "{offset}+{len}");
            let mut joined = Vec::new();
            for piece in pieces(object.extents(), offset as u64, &read) {
                let of = contents[piece.content].read(piece.content_offset, piece.data.len() as u64).unwrap();
                assert_eq!(piece.data, of);
                joined.extend_from_slice(&piece.data);
            }
            assert_eq!(joined, read);
        }
        assert_eq!(object.read(7000, 15).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(object.plan().unwrap().digest(), checkpoint::digest::content(&whole));
    }

    #[test]
    fn the_homes_of_a_content_are_its_bytes_in_order() {
        let contents = unread([4, OBJECT_BYTES_MAX + 9, 6, 0]);
        let name = |nonce| ObjectName {
            cluster: uuid::Uuid::nil(),
            digest: checkpoint::digest::content(&[]),
            attempt: 1,
            nonce,
        };
        let objects: Vec<_> = pack(&contents).into_iter().zip((0..).map(name)).collect();
        let homes = homes(&objects, contents.len());
        let home = |nonce, offset, len| Home { object: name(nonce), offset, len };
        assert_eq!(homes[0], [home(2, 0, 4)]);
        assert_eq!(homes[1], [home(0, 0, OBJECT_BYTES_MAX), home(1, 0, 9)]);
        assert_eq!(homes[2], [home(2, 4, 6)]);
        assert!(homes[3].is_empty());
    }
}
