//! The disk, with a clock: every sync is timed and every written byte counted. Changes nothing else.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use checkpoint::disk::{Disk, DiskDir, DiskFile, Open};
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

impl checkpoint::disk::DiskLayer for MeteredDisk {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path, how)?))
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open_direct(path, how)?))
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        Ok(Box::new(MeteredDir { dir: self.disk.open_dir(path)?, meters: self.meters.clone() }))
    }
    fn write_new(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.disk.write_new(path, data, mode)?;
        self.meters.written.inc_by(data.len() as u64);
        Ok(())
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

impl checkpoint::disk::FileLayer for MeteredFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
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
