//! The pieces of a commit into a store, on their way into files: `staging/<attempt>/store/<file>`, and, once a file is whole, a
//! second name `staging/<attempt>/f<file>` under which publish looks for it.
//!
//! **Never** is anything written under that second name, nor into an inode that has it: the log may have bytes there, and an
//! epoch that was sealed meanwhile is published from it. Every run makes files of its own.
//!
//! Nothing is synced here but folders: what is published is synced then, and before that a power cut takes nothing that
//! anybody was told of. What is read back is compared.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::digest::DigestTree;
use checkpoint::disk::{Disk, DiskFile, Open};
use checkpoint::durable::{create_dir_all, ignore_missing};
use checkpoint::limits::CHUNK_BYTES_MIN;
use checkpoint::store::layout::Layout;
use checkpoint::{Digest, IoError, Piece};
use nativelog::compose;
use nativelog::shape::{check_record, check_zeros};

/// A file with at least so many zeros, bytes, of which at least half are zeros: its data goes into the log, and its zeros
/// nowhere. An object would hold them all.
const HOLES_MIN: u64 = 64 << 20;

/// A run of a file, as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub offset: u64,
    pub len: u64,
    pub digest: Digest,
    pub is_zero: bool,
}

/// A file whose content is here, all of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    pub file: u32,
    pub size: u64,
    pub digest: Digest,
    /// Where it lies; `None`: it is zeros, or went into the log piece by piece.
    pub path: Option<PathBuf>,
    /// To be sent through the log in these runs.
    pub runs: Vec<Run>,
}

/// Why a piece is not taken.
#[derive(Debug)]
pub enum Unstaged {
    /// Its client is wrong.
    Refused(String),
    Io(IoError),
}

/// A file of which some is here.
#[derive(Debug)]
struct Growing {
    size: u64,
    /// How much is here; pieces come in their order.
    at: u64,
    tree: DigestTree,
    zeros: u64,
    runs: Vec<Run>,
}

/// The files of one attempt.
#[derive(Debug)]
pub struct Staging {
    disk: Arc<dyn Disk>,
    layout: Layout,
    attempt: u64,
    dir: PathBuf,
    growing: BTreeMap<u32, Growing>,
    open: Option<(u32, Box<dyn DiskFile>)>,
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Unstaged + 'a {
    move |source| Unstaged::Io(IoError { path: path.to_owned(), what, source })
}

fn refused<T>(why: impl Into<String>) -> Result<T, Unstaged> {
    Err(Unstaged::Refused(why.into()))
}

impl Staging {
    /// Makes the folder. Blocks, as everything here.
    pub fn new(disk: Arc<dyn Disk>, layout: Layout, attempt: u64) -> Result<Staging, Unstaged> {
        let dir = layout.attempt_dir(attempt).join("store");
        create_dir_all(&*disk, &layout.staging_dir(), &dir).map_err(at("make the folder", &dir))?;
        Ok(Staging { disk, layout, attempt, dir, growing: BTreeMap::new(), open: None })
    }

    /// Takes a piece that has the size that the plan says; what is whole by it. `is_checked`: this process made its digests. With
    /// `in_log` its bytes go through the log, and only its digest is wanted.
    pub fn take(&mut self, piece: Piece, is_checked: bool, in_log: bool) -> Result<Vec<Filled>, Unstaged> {
        if !is_checked {
            let record = compose::piece(self.attempt, piece.clone());
            let checked = check_record(&record).and_then(|()| check_zeros(&record));
            checked.map_err(|error| Unstaged::Refused(error.to_string()))?;
        }
        match piece {
            Piece::Chunk { file, offset, digest, file_bytes, payload } => {
                let run = Run { offset, len: payload.len() as u64, digest, is_zero: false };
                self.grow(file, file_bytes, run)?;
                if !in_log {
                    self.write(file, &payload, offset)?;
                }
                self.filled(file, in_log)
            }
            Piece::Zero { file, offset, len, digest, file_bytes } => {
                self.grow(file, file_bytes, Run { offset, len, digest, is_zero: true })?;
                self.filled(file, in_log)
            }
            Piece::Pack { files, payload } => {
                let mut filled = Vec::with_capacity(files.len());
                for packed in files {
                    let (from, to) = (packed.offset as usize, packed.offset as usize + packed.len as usize);
                    let Some(data) = payload.get(from..to) else {
                        return refused("a file lies outside its pack");
                    };
                    let path = self.path(packed.file);
                    ignore_missing(self.disk.unlink(&path)).map_err(at("replace", &path))?;
                    self.disk.write_new(&path, data, 0o600).map_err(at("write", &path))?;
                    self.name(packed.file, &path)?;
                    let (file, size) = (packed.file, u64::from(packed.len));
                    let path = Some(path);
                    filled.push(Filled { file, size, digest: packed.digest, path, runs: Vec::new() });
                }
                Ok(filled)
            }
            Piece::Reuse { .. } => Ok(Vec::new()),
        }
    }

    fn path(&self, file: u32) -> PathBuf {
        self.dir.join(file.to_string())
    }

    fn grow(&mut self, file: u32, size: u64, run: Run) -> Result<(), Unstaged> {
        let growing = self.growing.entry(file).or_insert_with(|| Growing {
            size,
            at: 0,
            tree: DigestTree::new(size, CHUNK_BYTES_MIN),
            zeros: 0,
            runs: Vec::new(),
        });
        if (growing.at, growing.size) != (run.offset, size) {
            return refused(format!("the pieces of file {file} do not come in their order"));
        }
        if growing.tree.insert(run.offset, run.len, run.digest).is_err() {
            return refused(format!("a piece of file {file} is no aligned run"));
        }
        growing.at += run.len;
        growing.zeros += if run.is_zero { run.len } else { 0 };
        growing.runs.push(run);
        Ok(())
    }

    fn write(&mut self, file: u32, data: &[u8], offset: u64) -> Result<(), Unstaged> {
        let path = self.path(file);
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            let is_first = self.growing[&file].runs.iter().filter(|run| !run.is_zero).count() == 1;
            let how = if is_first { Open::CreateNew } else { Open::Write };
            if is_first {
                ignore_missing(self.disk.unlink(&path)).map_err(at("replace", &path))?;
            }
            self.open = Some((file, self.disk.open(&path, how).map_err(at("open", &path))?));
        }
        let (_, open) = self.open.as_ref().expect("it was opened just now");
        open.write_at(data, offset).map_err(at("write", &path))
    }

    fn filled(&mut self, file: u32, in_log: bool) -> Result<Vec<Filled>, Unstaged> {
        if self.growing.get(&file).is_none_or(|growing| growing.at < growing.size) {
            return Ok(Vec::new());
        }
        let growing = self.growing.remove(&file).expect("it is there");
        let Growing { size, tree, zeros, runs, .. } = growing;
        let Some(digest) = tree.finish() else {
            return refused(format!("the pieces of file {file} make no file"));
        };
        let path = self.path(file);
        let of = |path, runs| Ok(vec![Filled { file, size, digest, path, runs }]);
        if in_log {
            return of(None, Vec::new());
        }
        if zeros == size {
            return of(None, runs);
        }
        if let Some((_, open)) = self.open.take_if(|(open, _)| *open == file) {
            // It may end in zeros.
            open.set_len(size).map_err(at("extend", &path))?;
        } else {
            let open = self.disk.open(&path, Open::Write).map_err(at("open", &path))?;
            open.set_len(size).map_err(at("extend", &path))?;
        }
        if zeros >= HOLES_MIN && zeros >= size / 2 {
            return of(Some(path), runs);
        }
        self.name(file, &path)?;
        of(Some(path), Vec::new())
    }

    /// The name under which publish looks for it. One that an earlier run gave stays: it is whole, or found not to be.
    fn name(&self, file: u32, path: &Path) -> Result<(), Unstaged> {
        let staged = self.layout.staged_file(self.attempt, file);
        match self.disk.link(path, &staged) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(at("give a name to", &staged)),
        }
    }

    /// Removes all of it. What has a second name keeps that.
    pub fn remove(self) -> io::Result<()> {
        self.disk.remove_tree(&self.dir)
    }

    /// The bytes of a run of a file that lies here.
    pub fn read(&self, path: &Path, run: Run) -> Result<Vec<u8>, Unstaged> {
        let mut data = vec![0; usize::try_from(run.len).expect("a chunk has at most 4 MiB")];
        let open = self.disk.open(path, Open::Read).map_err(at("open", path))?;
        open.read_exact_at(&mut data, run.offset).map_err(at("read", path))?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use checkpoint::digest::{content, subtree, zeros};
    use checkpoint::{PackedFile, Store};

    const KIB64: usize = 64 << 10;

    fn staging(dir: &Path) -> (Staging, Layout) {
        let store = Store::open(Arc::new(checkpoint::RealDisk), dir).unwrap();
        let layout = store.layout().clone();
        (Staging::new(store.disk().clone(), layout.clone(), 9).unwrap(), layout)
    }

    fn chunk(file: u32, file_bytes: u64, offset: u64, data: &[u8]) -> Piece {
        let digest = subtree(file_bytes, offset, data);
        Piece::Chunk { file, offset, digest, file_bytes, payload: Bytes::copy_from_slice(data) }
    }

    fn zero(file: u32, file_bytes: u64, offset: u64, len: u64) -> Piece {
        Piece::Zero { file, offset, len, digest: zeros(file_bytes, offset, len), file_bytes }
    }

    #[test]
    fn a_file_is_whole_when_its_last_piece_has_come() {
        let dir = tempfile::tempdir().unwrap();
        let (mut staging, layout) = staging(dir.path());
        let data: Vec<u8> = (0..2 * KIB64 + 5).map(|at| (at % 251) as u8).collect();
        let size = data.len() as u64;
        assert!(staging.take(chunk(4, size, 0, &data[..KIB64]), false, false).unwrap().is_empty());
        // Another one in between.
        let files = vec![PackedFile { file: 5, offset: 1, len: 2, digest: content(b"bc") }];
        let small =
            staging.take(Piece::Pack { files, payload: Bytes::from_static(b"abcd") }, false, false).unwrap();
        assert_eq!(std::fs::read(small[0].path.as_ref().unwrap()).unwrap(), b"bc");
        assert!(
            staging
                .take(chunk(4, size, KIB64 as u64, &data[KIB64..2 * KIB64]), false, false)
                .unwrap()
                .is_empty()
        );
        let filled =
            staging.take(chunk(4, size, 2 * KIB64 as u64, &data[2 * KIB64..]), false, false).unwrap();
        assert_eq!((filled[0].digest, filled[0].size, filled[0].runs.len()), (content(&data), size, 0));
        for path in [filled[0].path.clone().unwrap(), layout.staged_file(9, 4)] {
            assert_eq!(std::fs::read(path).unwrap(), data);
        }
        assert_eq!(std::fs::read(layout.staged_file(9, 5)).unwrap(), b"bc");
    }

    #[test]
    fn what_has_the_name_that_publish_knows_is_never_written_to_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, layout) = staging(dir.path());
        first.take(chunk(4, 3, 0, b"abc"), false, false).unwrap();
        let mut again = Staging::new(first.disk.clone(), layout.clone(), 9).unwrap();
        again.take(chunk(4, 3, 0, b"xyz"), false, false).unwrap();
        assert_eq!(std::fs::read(layout.staged_file(9, 4)).unwrap(), b"abc");
        assert_eq!(std::fs::read(again.path(4)).unwrap(), b"xyz");
    }

    #[test]
    fn zeros_are_written_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (mut staging, layout) = staging(dir.path());
        let kib64 = KIB64 as u64;
        let filled = staging.take(zero(1, kib64, 0, kib64), false, false).unwrap();
        assert_eq!((filled[0].digest, &filled[0].path), (content(&[0; KIB64]), &None));
        assert_eq!(filled[0].runs.len(), 1);
        assert!(!staging.path(1).exists() && !layout.staged_file(9, 1).exists());
        // Data, then a hole to the end: an object, with its zeros.
        let mut whole = vec![7; KIB64];
        staging.take(chunk(2, 2 * kib64, 0, &whole), false, false).unwrap();
        let filled = staging.take(zero(2, 2 * kib64, kib64, kib64), false, false).unwrap();
        whole.resize(2 * KIB64, 0);
        assert_eq!((filled[0].digest, filled[0].runs.len()), (content(&whole), 0));
        assert_eq!(std::fs::read(layout.staged_file(9, 2)).unwrap(), whole);
        // Hardly any data: through the log, and publish finds nothing of ours there.
        let size = 2 * HOLES_MIN;
        staging.take(chunk(3, size, 0, &[7; KIB64]), false, false).unwrap();
        let mut at = kib64;
        let mut last = Vec::new();
        while at < size {
            let len = at & at.wrapping_neg();
            let len = len.min(64 << 20).min(size - at);
            last = staging.take(zero(3, size, at, len), false, false).unwrap();
            at += len;
        }
        let filled = last.pop().unwrap();
        assert!(filled.path.is_some() && filled.runs.len() > 2 && !layout.staged_file(9, 3).exists());
        assert_eq!(staging.read(filled.path.as_ref().unwrap(), filled.runs[0]).unwrap(), [7; KIB64]);
    }

    #[test]
    fn pieces_that_are_not_what_they_say_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut staging, _) = staging(dir.path());
        let refuses = |staging: &mut Staging, piece| match staging.take(piece, false, false) {
            Err(Unstaged::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        let Piece::Chunk { file, offset, file_bytes, payload, .. } = chunk(1, 3, 0, b"abc") else { panic!() };
        let digest = content(b"abd");
        refuses(&mut staging, Piece::Chunk { file, offset, digest, file_bytes, payload });
        let kib64 = KIB64 as u64;
        let late = chunk(2, 2 * kib64, kib64, &[1; KIB64]);
        assert!(refuses(&mut staging, late).contains("in their order"));
        let files = vec![PackedFile { file: 5, offset: 3, len: 2, digest: content(b"bc") }];
        refuses(&mut staging, Piece::Pack { files, payload: Bytes::from_static(b"abcd") });
        // A size that changes on the way.
        staging.take(chunk(3, 2 * kib64, 0, &[1; KIB64]), false, false).unwrap();
        assert!(refuses(&mut staging, chunk(3, kib64 + 1, kib64, &[1])).contains("in their order"));
    }
}
