//! An object whose bytes lie in files of this node: contents end to end. It is never written to a disk as a whole: its bytes are
//! read from the files, once to plan it, which compares every content with its digest, and once to send it, which
//! compares every leaf with the plan. So what arrives is what the log will say, whatever a disk gives back.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use checkpoint::Digest;
use checkpoint::digest::{self, DigestTree, FileHasher};
use checkpoint::disk::{Disk, Open};
use remote::limits::LEAF_BYTES;
use remote::{ObjectPlan, Source};

/// A content and where it lies.
#[derive(Debug, Clone)]
pub struct Content {
    /// The file that holds it, whole.
    pub path: PathBuf,
    /// Its length, bytes; not 0.
    pub len: u64,
    /// Its BLAKE3.
    pub digest: Digest,
    /// The entries of the plan that have it.
    pub files: Vec<u32>,
}

/// An object to be.
#[derive(Debug)]
pub struct Object {
    disk: Arc<dyn Disk>,
    /// Where each begins in the object.
    contents: Vec<(u64, Content)>,
    len: u64,
    /// Who counts the bytes that are read to be sent.
    sent: Vec<Arc<AtomicU64>>,
    /// Who counts those that are read to plan it.
    planned: Option<Arc<AtomicU64>>,
}

impl Object {
    /// Of these contents, at least one.
    pub fn new(disk: Arc<dyn Disk>, contents: Vec<Content>) -> Object {
        assert!(!contents.is_empty(), "an object has a byte at least");
        let mut len = 0;
        let placed = contents.into_iter().map(|content| {
            let at = len;
            len += content.len;
            (at, content)
        });
        let contents = placed.collect();
        Object { disk, contents, len, sent: Vec::new(), planned: None }
    }

    /// The same; bytes that are read to be sent are counted here, too.
    pub fn counted(mut self, sent: Arc<AtomicU64>) -> Object {
        self.sent.push(sent);
        self
    }

    /// The same; bytes that are read to plan it are counted here: a large object takes long, and is no silence.
    pub fn told(mut self, planned: Arc<AtomicU64>) -> Object {
        self.planned = Some(planned);
        self
    }

    /// Where each content begins, in bytes, and what it is.
    pub fn contents(&self) -> &[(u64, Content)] {
        &self.contents
    }

    /// Reads all of it once, and compares every content with its digest. Blocks.
    ///
    /// # Errors
    /// Those of the disk; `InvalidData` when a file does not hold what was written there.
    pub fn plan(&self) -> io::Result<ObjectPlan> {
        let mut tree = DigestTree::new(self.len, LEAF_BYTES as u32);
        let mut leaves = Vec::with_capacity(self.len.div_ceil(LEAF_BYTES) as usize);
        let (mut contents, mut hasher) = (self.contents.iter().peekable(), FileHasher::new());
        for offset in (0..self.len).step_by(LEAF_BYTES as usize) {
            let end = self.len.min(offset + LEAF_BYTES);
            let data = self.bytes(offset, end)?;
            if let Some(planned) = &self.planned {
                planned.fetch_add(end - offset, Ordering::Relaxed);
            }
            let leaf = digest::subtree(self.len, offset, &data);
            tree.insert(offset, end - offset, leaf).expect("leaves are subtrees, each once");
            leaves.push(leaf);
            // The digest of an object of one content is the content's.
            let mut at = if self.contents.len() > 1 { offset } else { end };
            while at < end {
                let (begin, content) = contents.peek().expect("an object ends with its last content");
                let upto = end.min(begin + content.len);
                hasher.data(&data[(at - offset) as usize..(upto - offset) as usize]);
                if upto == begin + content.len {
                    same(content, std::mem::take(&mut hasher).finish())?;
                    contents.next();
                }
                at = upto;
            }
        }
        let root = tree.finish().expect("all leaves are in");
        if let [(_, content)] = self.contents.as_slice() {
            same(content, root)?;
        }
        Ok(ObjectPlan::from_leaves(self.len, root, leaves).expect("the leaves make their own root"))
    }

    fn bytes(&self, from: u64, to: u64) -> io::Result<Bytes> {
        let mut data = BytesMut::zeroed((to - from) as usize);
        let first = self.contents.partition_point(|(begin, content)| begin + content.len <= from);
        for (begin, content) in self.contents[first..].iter().take_while(|(begin, _)| *begin < to) {
            let (start, end) = (from.max(*begin), to.min(begin + content.len));
            let file = self.disk.open(&content.path, Open::Read)?;
            file.read_exact_at(&mut data[(start - from) as usize..(end - from) as usize], start - begin)?;
        }
        Ok(data.freeze())
    }
}

fn same(content: &Content, found: Digest) -> io::Result<()> {
    if found == content.digest {
        return Ok(());
    }
    let why = format!(
        "{}: what was written there has digest {}, and now {}",
        content.path.display(),
        content.digest.short(),
        found.short()
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

impl Source for Object {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let data = self.bytes(offset, end.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        for sent in &self.sent {
            sent.fetch_add(len, Ordering::Relaxed);
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::RealDisk;
    use checkpoint::digest::content;

    fn data(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
    }

    fn object(dir: &std::path::Path, lens: &[usize]) -> Object {
        let write = |(seed, len): (usize, &usize)| {
            let (path, data) = (dir.join(format!("f{seed}")), data(seed, *len));
            std::fs::write(&path, &data).unwrap();
            Content { path, len: *len as u64, digest: content(&data), files: vec![seed as u32] }
        };
        Object::new(Arc::new(RealDisk), lens.iter().enumerate().map(write).collect())
    }

    #[test]
    fn an_object_is_its_contents_end_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = LEAF_BYTES as usize;
        for lens in [vec![1], vec![leaf], vec![leaf + 1], vec![5, leaf - 5, 7], vec![leaf - 1, 2, leaf, 3]] {
            let object = object(dir.path(), &lens);
            let whole: Vec<u8> = lens.iter().enumerate().flat_map(|(seed, len)| data(seed, *len)).collect();
            let plan = object.plan().unwrap();
            assert_eq!((plan.digest(), plan.len_bytes()), (content(&whole), whole.len() as u64), "{lens:?}");
            for (offset, len) in [(0, whole.len()), (whole.len() - 1, 1), (whole.len() / 2, 1)] {
                let read = object.read(offset as u64, len as u64).unwrap();
                assert_eq!(read, whole[offset..offset + len], "{lens:?} at {offset}");
            }
            assert!(object.read(1, whole.len() as u64).is_err());
        }
    }

    #[test]
    fn who_waits_for_a_plan_sees_it_move() {
        let dir = tempfile::tempdir().unwrap();
        let (read, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let len = LEAF_BYTES as usize + 5;
        let object =
            object(dir.path(), &[len]).counted(read.clone()).counted(sent.clone()).told(read.clone());
        object.plan().unwrap();
        let counts = || (read.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
        assert_eq!(counts(), (len as u64, 0), "what is planned is not sent");
        object.read(0, 7).unwrap();
        assert_eq!(counts(), (len as u64 + 7, 7));
    }

    #[test]
    fn a_file_that_holds_something_else_makes_no_object() {
        let dir = tempfile::tempdir().unwrap();
        for lens in [vec![3000], vec![10, 20, 30]] {
            let object = object(dir.path(), &lens);
            object.plan().unwrap();
            let last = dir.path().join(format!("f{}", lens.len() - 1));
            let mut bytes = std::fs::read(&last).unwrap();
            bytes[5] ^= 1;
            std::fs::write(&last, bytes).unwrap();
            assert_eq!(object.plan().unwrap_err().kind(), io::ErrorKind::InvalidData, "{lens:?}");
            std::fs::remove_file(&last).unwrap();
            assert_eq!(object.plan().unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
