//! The disk, with a clock: every sync is timed and every written byte counted. Changes nothing else.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use checkpoint::disk::{Disk, DiskDir, DiskFile, FileKind, Open, Space, Stat};
use prometheus::{Histogram, IntCounter};

use super::Metrics;

/// What the disk counts.
#[derive(Clone)]
struct Meters {
    file: Histogram,
    dir: Histogram,
    fs: Histogram,
    written: IntCounter,
}

impl Meters {
    fn time(&self, histogram: &Histogram, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let started = Instant::now();
        sync()?;
        histogram.observe(started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A disk whose syncs and writes are counted.
pub struct MeteredDisk {
    disk: Arc<dyn Disk>,
    meters: Arc<Meters>,
}

impl fmt::Debug for MeteredDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl MeteredDisk {
    /// Counts what `disk` does into `metrics`.
    pub fn over(disk: Arc<dyn Disk>, metrics: &Metrics) -> MeteredDisk {
        let sync = |kind| metrics.fsync_seconds.with_label_values(&[kind]);
        let meters = Meters {
            file: sync("file"),
            dir: sync("dir"),
            fs: sync("fs"),
            written: metrics.commit_bytes.with_label_values(&["disk"]),
        };
        MeteredDisk { disk, meters: Arc::new(meters) }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(MeteredFile { file, meters: self.meters.clone() })
    }
}

impl Disk for MeteredDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path, how)?))
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open_direct(path, how)?))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileKind)>> {
        self.disk.read_dir(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.disk.stat(path)
    }
    fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read_link(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()> {
        self.disk.symlink(target, at)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_tree(path)
    }
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.disk.set_mode(path, mode)
    }
    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.clone_file(from, to)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        Ok(Box::new(MeteredDir { dir: self.disk.open_dir(path)?, meters: self.meters.clone() }))
    }
    fn free(&self, path: &Path) -> io::Result<Space> {
        self.disk.free(path)
    }
    fn write_new(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.disk.write_new(path, data, mode)?;
        self.meters.written.inc_by(data.len() as u64);
        Ok(())
    }
    fn read_file(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        self.disk.read_file(path, bytes_max)
    }
}

#[derive(Debug)]
struct MeteredDir {
    dir: Box<dyn DiskDir>,
    meters: Arc<Meters>,
}

impl DiskDir for MeteredDir {
    fn sync(&self) -> io::Result<()> {
        self.meters.time(&self.meters.dir, || self.dir.sync())
    }
    fn sync_fs(&self) -> io::Result<()> {
        self.meters.time(&self.meters.fs, || self.dir.sync_fs())
    }
}

#[derive(Debug)]
struct MeteredFile {
    file: Box<dyn DiskFile>,
    meters: Arc<Meters>,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meters")
    }
}

impl DiskFile for MeteredFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)?;
        self.meters.written.inc_by(data.len() as u64);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.meters.time(&self.meters.file, || self.file.sync_data())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.meters.time(&self.meters.file, || self.file.sync_all())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_mode(mode)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn clear(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.clear(offset, len)
    }
    fn next_data(&self, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        self.file.next_data(at, end)
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::RealDisk;

    #[test]
    fn syncs_and_bytes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        let disk = MeteredDisk::over(Arc::new(RealDisk), &metrics);
        let file = disk.open(&dir.path().join("a"), Open::CreateNew).unwrap();
        file.write_at(b"12345", 0).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        disk.sync_dir(dir.path()).unwrap();
        disk.write_new(&dir.path().join("b"), b"123", 0o600).unwrap();
        let syncs = |kind| metrics.fsync_seconds.with_label_values(&[kind]).get_sample_count();
        assert_eq!((syncs("file"), syncs("dir"), syncs("fs")), (2, 1, 0));
        assert_eq!(metrics.commit_bytes.with_label_values(&["disk"]).get(), 8);
    }
}
