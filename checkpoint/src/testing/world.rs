//! The state behind a crash disk: inodes with volatile and durable bytes, names
//! with a journal of changes that are not durable yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::Crash;
use super::bytes::Bytes;
use super::failures::Failures;
use super::op::{Op, OpKind};
use crate::disk::{FileKind, Space, Stat};

const ROOT: u64 = 1;
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub(super) enum Write {
    Data(Vec<u8>, u64),
    Len(u64),
    // Blocks up to here.
    Reserve(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    // `pending` turns `durable` into `live`, unless a failed sync has lost some of it.
    File { live: Bytes, durable: Bytes, pending: Vec<Write> },
    Dir { live: BTreeMap<OsString, u64>, durable: BTreeMap<OsString, u64> },
    Symlink(Vec<u8>),
}

impl Body {
    pub(super) fn file() -> Body {
        Body::File { live: Bytes::default(), durable: Bytes::default(), pending: Vec::new() }
    }
    pub(super) fn dir() -> Body {
        Body::Dir { live: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    mode: u32,
    durable_mode: u32,
    links: u64,
    mtime: u64,
}

// One name of one directory, before and after.
#[derive(Clone, Debug)]
pub(super) struct Change {
    dir: u64,
    name: OsString,
    old: Option<u64>,
    new: Option<u64>,
}

impl Change {
    pub(super) fn new(dir: u64, name: OsString, old: Option<u64>, new: Option<u64>) -> Change {
        Change { dir, name, old, new }
    }
}

#[derive(Debug)]
pub(super) struct World {
    inodes: HashMap<u64, Inode>,
    next_ino: u64,
    // Changes of names that are not durable, oldest first; each is kept or lost whole.
    journal: Vec<Vec<Change>>,
    pub(super) count: u64,
    pub(super) log: Vec<Op>,
    pub(super) stop_at: Option<u64>,
    pub(super) down: bool,
    pub(super) failures: Failures,
    pub(super) links_max: u64,
    pub(super) space: Space,
}

impl World {
    pub(super) fn new() -> World {
        let root = Inode { body: Body::dir(), mode: 0o755, durable_mode: 0o755, links: 1, mtime: 0 };
        World {
            inodes: HashMap::from([(ROOT, root)]),
            next_ino: ROOT + 1,
            journal: Vec::new(),
            count: 0,
            log: Vec::new(),
            stop_at: None,
            down: false,
            failures: Failures::default(),
            links_max: 65_000,
            space: Space { free_bytes: 1 << 40, total_bytes: 1 << 41, free_inodes: 1 << 30 },
        }
    }

    // Counts an operation, unless the power is gone or this one was told to fail.
    pub(super) fn step(&mut self, kind: OpKind, path: &Path, offset: u64, len: u64) -> io::Result<()> {
        if self.stop_at.is_some_and(|stop| self.count >= stop) {
            self.down = true;
        }
        self.planned_failure(kind, path)?;
        self.count += 1;
        self.log.push(Op { kind, path: path.to_path_buf(), offset, len });
        Ok(())
    }

    pub(super) fn reading(&mut self, path: &Path) -> io::Result<()> {
        self.planned_failure(OpKind::Read, path)
    }

    pub(super) fn opening(&mut self, path: &Path) -> io::Result<()> {
        self.planned_failure(OpKind::Open, path)
    }

    fn planned_failure(&mut self, kind: OpKind, path: &Path) -> io::Result<()> {
        if self.down {
            return Err(io::Error::other("the crash disk has lost its power"));
        }
        self.failures.next(kind, path)
    }

    fn inode(&self, ino: u64) -> &Inode {
        self.inodes.get(&ino).expect("an inode is never dropped while it has a name or a handle")
    }
    fn inode_mut(&mut self, ino: u64) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("an inode is never dropped while it has a name or a handle")
    }

    pub(super) fn make(&mut self, body: Body, mode: u32) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, Inode { body, mode, durable_mode: mode, links: 0, mtime: self.count });
        ino
    }

    // Names.

    fn dir_names(&self, ino: u64) -> io::Result<&BTreeMap<OsString, u64>> {
        match &self.inode(ino).body {
            Body::Dir { live, .. } => Ok(live),
            Body::Symlink(_) => Err(Errno::LOOP.into()),
            Body::File { .. } => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn at(&self, path: &Path) -> io::Result<u64> {
        let mut ino = ROOT;
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    ino = *self.dir_names(ino)?.get(name).ok_or(io::ErrorKind::NotFound)?;
                }
                _ => return Err(Errno::INVAL.into()),
            }
        }
        Ok(ino)
    }

    pub(super) fn slot(&self, path: &Path) -> io::Result<(u64, OsString)> {
        if self.down {
            return Err(io::Error::other("the crash disk has lost its power"));
        }
        let name = path.file_name().ok_or_else(|| io::Error::from(Errno::INVAL))?;
        let dir = self.at(path.parent().unwrap_or(Path::new("/")))?;
        self.dir_names(dir)?;
        Ok((dir, name.to_os_string()))
    }

    pub(super) fn entry(&self, dir: u64, name: &OsStr) -> Option<u64> {
        self.dir_names(dir).ok()?.get(name).copied()
    }

    pub(super) fn names(&self, dir: u64) -> Vec<(OsString, u64)> {
        let live = self.dir_names(dir).map(|names| names.iter().map(|(n, i)| (n.clone(), *i)).collect());
        live.unwrap_or_default()
    }

    pub(super) fn dir_at(&self, path: &Path) -> io::Result<u64> {
        let ino = self.at(path)?;
        self.dir_names(ino)?;
        Ok(ino)
    }

    pub(super) fn file_at(&self, path: &Path) -> io::Result<u64> {
        let ino = self.at(path)?;
        if self.kind(ino) == FileKind::File { Ok(ino) } else { Err(Errno::INVAL.into()) }
    }

    pub(super) fn change_names(&mut self, changes: Vec<Change>) {
        for change in &changes {
            if let Some(old) = change.old {
                self.inode_mut(old).links -= 1;
            }
            if let Some(new) = change.new {
                self.inode_mut(new).links += 1;
            }
            if let Body::Dir { live, .. } = &mut self.inode_mut(change.dir).body {
                match change.new {
                    Some(new) => live.insert(change.name.clone(), new),
                    None => live.remove(&change.name),
                };
            }
        }
        self.journal.push(changes);
    }

    fn settle(&mut self, changes: &[Change]) {
        for change in changes {
            if let Body::Dir { durable, .. } = &mut self.inode_mut(change.dir).body {
                match change.new {
                    Some(new) => durable.insert(change.name.clone(), new),
                    None => durable.remove(&change.name),
                };
            }
        }
    }

    // Makes the wanted changes durable, and before each what happened earlier to the same names.
    fn settle_where(&mut self, wanted: impl Fn(usize, &[Change]) -> bool) {
        let mut slots: BTreeSet<(u64, OsString)> = BTreeSet::new();
        let mut keep = vec![false; self.journal.len()];
        for (at, changes) in self.journal.iter().enumerate().rev() {
            let touched = changes.iter().any(|c| slots.contains(&(c.dir, c.name.clone())));
            if touched || wanted(at, changes) {
                keep[at] = true;
                slots.extend(changes.iter().map(|c| (c.dir, c.name.clone())));
            }
        }
        let journal = std::mem::take(&mut self.journal);
        for (at, changes) in journal.into_iter().enumerate() {
            if keep[at] {
                self.settle(&changes);
            } else {
                self.journal.push(changes);
            }
        }
    }

    pub(super) fn sync_dir(&mut self, dir: u64) {
        self.settle_where(|_, changes| changes.iter().any(|c| c.dir == dir));
        let inode = self.inode_mut(dir);
        inode.durable_mode = inode.mode;
    }

    pub(super) fn sync_fs(&mut self) {
        self.settle_where(|_, _| true);
        let all: Vec<u64> = self.inodes.keys().copied().collect();
        for ino in all {
            self.sync_file(ino, true);
        }
    }

    // Content.

    pub(super) fn kind(&self, ino: u64) -> FileKind {
        match self.inode(ino).body {
            Body::File { .. } => FileKind::File,
            Body::Dir { .. } => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
        }
    }

    pub(super) fn stat(&self, ino: u64) -> Stat {
        let inode = self.inode(ino);
        let (len, blocks) = match &inode.body {
            Body::File { live, .. } => (live.len(), live.blocks()),
            Body::Dir { live, .. } => (live.len() as u64, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
        };
        let mtime_ns = i128::from(inode.mtime);
        Stat { kind: self.kind(ino), mode: inode.mode, len, ino, links: inode.links, blocks, mtime_ns }
    }

    pub(super) fn target(&self, ino: u64) -> Option<Vec<u8>> {
        match &self.inode(ino).body {
            Body::Symlink(target) => Some(target.clone()),
            _ => None,
        }
    }

    pub(super) fn set_mode(&mut self, ino: u64, mode: u32) {
        self.inode_mut(ino).mode = mode;
    }

    pub(super) fn read(&self, ino: u64, buf: &mut [u8], offset: u64) -> usize {
        match &self.inode(ino).body {
            Body::File { live, .. } => live.read(buf, offset),
            _ => 0,
        }
    }

    pub(super) fn next_data(&self, ino: u64, at: u64, end: u64) -> Option<(u64, u64)> {
        let Body::File { live, .. } = &self.inode(ino).body else { return None };
        live.next_data(at, end)
    }

    pub(super) fn write(&mut self, ino: u64, data: &[u8], offset: u64) {
        let now = self.count;
        let inode = self.inode_mut(ino);
        inode.mtime = now;
        if let Body::File { live, pending, .. } = &mut inode.body {
            live.write(data, offset);
            pending.push(Write::Data(data.to_vec(), offset));
        }
    }

    pub(super) fn set_len(&mut self, ino: u64, len: u64) {
        let now = self.count;
        let inode = self.inode_mut(ino);
        inode.mtime = now;
        if let Body::File { live, pending, .. } = &mut inode.body {
            live.set_len(len);
            pending.push(Write::Len(len));
        }
    }

    pub(super) fn reserve(&mut self, ino: u64, end: u64) {
        if let Body::File { live, pending, .. } = &mut self.inode_mut(ino).body {
            live.reserve(end);
            pending.push(Write::Reserve(end));
        }
    }

    pub(super) fn clone_content(&mut self, from: u64, to: u64) {
        let Body::File { live, .. } = &self.inode(from).body else { return };
        let (source, mut at) = (live.clone(), 0);
        while let Some((start, end)) = source.next_data(at, source.len()) {
            let mut run = vec![0; (end - start) as usize];
            source.read(&mut run, start);
            self.write(to, &run, start);
            at = end;
        }
        self.set_len(to, source.len());
    }

    pub(super) fn sync_file(&mut self, ino: u64, mode_too: bool) {
        let inode = self.inode_mut(ino);
        if mode_too {
            inode.durable_mode = inode.mode;
        }
        if let Body::File { durable, pending, .. } = &mut inode.body {
            for write in pending.drain(..) {
                apply(durable, &write);
            }
        }
    }

    // A failed sync: the kernel calls the pages clean although they never reached the device.
    pub(super) fn lose(&mut self, ino: u64) {
        if !self.down
            && let Body::File { pending, .. } = &mut self.inode_mut(ino).body
        {
            pending.clear();
        }
    }

    pub(super) fn drop_cache(&mut self, ino: u64) {
        if let Body::File { live, durable, pending } = &mut self.inode_mut(ino).body {
            *live = durable.clone();
            for write in pending.iter() {
                apply(live, write);
            }
        }
    }

    pub(super) fn flip(&mut self, ino: u64, bit: u64) -> bool {
        match &mut self.inode_mut(ino).body {
            Body::File { live, durable, .. } => {
                durable.flip(bit);
                live.flip(bit)
            }
            _ => false,
        }
    }

    pub(super) fn damage_len(&mut self, ino: u64, len: u64) {
        if let Body::File { live, durable, pending } = &mut self.inode_mut(ino).body {
            pending.clear();
            live.set_len(len);
            *durable = live.clone();
        }
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let mut left = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, ino)) = left.pop() {
            for (name, inner) in self.names(ino) {
                paths.push(path.join(&name));
                left.push((path.join(name), inner));
            }
        }
        paths.sort();
        paths
    }

    // The crash.

    pub(super) fn after(&self, how: Crash) -> World {
        let mut rng = match how {
            Crash::Strict => None,
            Crash::Mixed(seed) => Some(Rng(seed.wrapping_mul(2).wrapping_add(1))),
        };
        let mut old = World { inodes: self.inodes.clone(), journal: self.journal.clone(), ..World::new() };
        if let Some(rng) = &mut rng {
            let luck: Vec<bool> = old.journal.iter().map(|_| rng.coin()).collect();
            old.settle_where(|at, _| luck[at]);
        }
        let mut new = World { next_ino: self.next_ino, links_max: self.links_max, ..World::new() };
        (new.space, new.failures) = (self.space, self.failures.lasting());
        let mut left = vec![ROOT];
        let mut links: HashMap<u64, u64> = HashMap::from([(ROOT, 1)]);
        new.inodes.clear();
        while let Some(ino) = left.pop() {
            if new.inodes.contains_key(&ino) {
                continue;
            }
            let inode = old.inode(ino);
            let keeps_mode = rng.as_mut().is_some_and(Rng::coin);
            let mode = if keeps_mode { inode.mode } else { inode.durable_mode };
            let body = match &inode.body {
                Body::Symlink(target) => Body::Symlink(target.clone()),
                Body::Dir { durable, .. } => {
                    for inner in durable.values() {
                        *links.entry(*inner).or_default() += 1;
                        left.push(*inner);
                    }
                    Body::Dir { live: durable.clone(), durable: durable.clone() }
                }
                Body::File { durable, pending, .. } => {
                    let mut bytes = durable.clone();
                    for write in pending {
                        if let Some(rng) = &mut rng
                            && let Some(write) = torn(write, rng)
                        {
                            apply(&mut bytes, &write);
                        }
                    }
                    Body::File { live: bytes.clone(), durable: bytes, pending: Vec::new() }
                }
            };
            new.inodes.insert(ino, Inode { body, mode, durable_mode: mode, links: 0, mtime: inode.mtime });
        }
        for (ino, count) in links {
            new.inode_mut(ino).links = count;
        }
        new
    }
}

fn apply(bytes: &mut Bytes, write: &Write) {
    match write {
        Write::Data(data, offset) => bytes.write(data, *offset),
        Write::Len(len) => bytes.set_len(*len),
        Write::Reserve(end) => bytes.reserve(*end),
    }
}

// All of a write, none of it, or its first sectors.
fn torn(write: &Write, rng: &mut Rng) -> Option<Write> {
    match (rng.below(4), write) {
        (0 | 1, _) => Some(write.clone()),
        (2, Write::Data(data, offset)) => {
            let to_boundary = (SECTOR - *offset as usize % SECTOR) % SECTOR;
            let sectors = data.len().saturating_sub(to_boundary).div_ceil(SECTOR) as u64 + 1;
            let keep = (to_boundary + SECTOR * rng.below(sectors) as usize).min(data.len());
            (keep > 0).then(|| Write::Data(data[..keep].to_vec(), *offset))
        }
        _ => None,
    }
}

// xorshift64*: the same seed, the same crash.
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
