//! Small file systems that can fill: tmpfs, and ext4 or XFS in a loop-mounted image. They need root, and a kernel that
//! lets it mount; whoever asks is told when it does not work. Mounted below the scratch folder, unmounted on drop.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::needs::is_root;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory, with a limit.
    Tmpfs,
    /// A file as a block device.
    LoopExt4,
    /// The same, of 300 MiB at least. Files can share blocks (reflinks).
    LoopXfs,
}

/// Where a block device is given its limit: in the group that every process is in.
const WRITE_LIMITS: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";
/// An image of more has only the blocks that are written.
const WRITTEN_BYTES_MAX: u64 = 8 << 30;
/// Less than this is not worth filling.
const LAST_BYTES: u64 = 16 << 10;

/// A mounted file system.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts a new empty file system of `bytes` at `at`, which is made.
    ///
    /// # Errors
    /// Why it does not work here, for people.
    pub fn mount(kind: Kind, at: &Path, bytes: u64) -> Result<SmallDisk, String> {
        if !is_root() {
            return Err("mounting needs root".into());
        }
        fs::create_dir_all(at).map_err(|error| format!("{}: {error}", at.display()))?;
        match kind {
            Kind::Tmpfs => {
                let size = format!("size={bytes},mode=0755");
                run(
                    "mount",
                    &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "tmpfs".as_ref(), at],
                )?;
            }
            Kind::LoopExt4 => {
                // Nothing of it is left to the kernel for later, where it would be measured.
                let lazy = "lazy_itable_init=0,lazy_journal_init=0";
                let make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-i", "8192", "-E", lazy];
                let image = at.with_extension("ext4");
                write_zeros(&image, bytes).map_err(|error| format!("{}: {error}", image.display()))?;
                mount_image(&make, &image, at)?;
                // A data folder is empty when it is new.
                fs::remove_dir(at.join("lost+found")).map_err(|error| error.to_string())?;
            }
            Kind::LoopXfs => {
                // Nobody measures it.
                let image = at.with_extension("xfs");
                let made = File::create(&image).and_then(|file| file.set_len(bytes));
                made.map_err(|error| format!("{}: {error}", image.display()))?;
                mount_image(&["mkfs.xfs", "-q", "-m", "reflink=1"], &image, at)?;
            }
        }
        Ok(SmallDisk { at: at.to_owned() })
    }

    /// Bytes that are free for anybody.
    pub fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.at).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
    }

    /// Lets the device of this file system write so many bytes a second from now on, `None` as many as it can. With 1
    /// it stands still until that is changed.
    ///
    /// # Errors
    /// Why it does not work here, for people. Only a loop device has a limit of its own.
    pub fn limit_writes(&self, bytes_per_s: Option<u64>) -> Result<(), String> {
        let device = fs::metadata(&self.at).map_err(|error| error.to_string())?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let line = format!("{major}:{minor} {}", bytes_per_s.unwrap_or(0));
        fs::write(WRITE_LIMITS, line).map_err(|error| format!("{WRITE_LIMITS}: {error}"))
    }

    /// Makes a file of somebody else that takes all that is free now, at once: a node has no time to give up room that
    /// it would take as well.
    ///
    /// # Panics
    /// When it cannot be made for any other reason than want of space.
    pub fn fill(&self) -> Foreign {
        let path = self.at.join("somebody-elses-file");
        let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut end = 0;
        let mut want = self.free();
        while want >= LAST_BYTES {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), end, want) {
                Ok(()) => return Foreign { path },
                // Somebody else was faster, or the file system needs some for itself.
                Err(Errno::NOSPC) => {
                    end = file.metadata().map_or(end, |meta| meta.len());
                    want = want.min(self.free()) / 16 * 15;
                }
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        Foreign { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The next one on this device starts without a limit; only where there can be one.
        if Path::new(WRITE_LIMITS).exists() {
            let _none = self.limit_writes(None);
        }
        if let Err(why) = run("umount", &["-l".as_ref(), &self.at]) {
            eprintln!("{} stays mounted: {why}", self.at.display());
        }
    }
}

/// A mounted overlay, as the root of a container is.
#[derive(Debug)]
pub struct Overlay {
    at: PathBuf,
}

impl Overlay {
    /// Mounts one at `at`, which is made, over the folder `lower`; `upper` and `work` are made, on one file system.
    ///
    /// # Errors
    /// Why it does not work here, for people.
    pub fn mount(lower: &Path, upper: &Path, work: &Path, at: &Path) -> Result<Overlay, String> {
        for dir in [upper, work, at] {
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let [lower, upper, work] = [lower, upper, work].map(Path::display);
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run(
            "mount",
            &["-t".as_ref(), "overlay".as_ref(), "-o".as_ref(), layers.as_ref(), "overlay".as_ref(), at],
        )?;
        Ok(Overlay { at: at.to_owned() })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(why) = run("umount", &["-l".as_ref(), &self.at]) {
            eprintln!("{} stays mounted: {why}", self.at.display());
        }
    }
}

/// A file on a small disk that is none of the node's.
#[derive(Debug)]
pub struct Foreign {
    path: PathBuf,
}

impl Foreign {
    /// Gives its space back.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn remove(self) {
        fs::remove_file(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

/// Makes a file system in the file `image` by the command `make`, and mounts it.
fn mount_image(make: &[&str], image: &Path, at: &Path) -> Result<(), String> {
    let args: Vec<&Path> = make[1..].iter().map(Path::new).chain([image]).collect();
    run(make[0], &args)?;
    // Past the page cache below, as a disk is.
    let args = ["--find", "--show", "--direct-io=on"].map(Path::new);
    let device = run("losetup", &args.into_iter().chain([image]).collect::<Vec<_>>())?;
    let mounted = run("mount", &[Path::new(device.trim()), at]);
    // It goes with the mount.
    run("losetup", &["-d".as_ref(), device.trim().as_ref()])?;
    mounted.map(drop)
}

/// All blocks are the file's own before anybody measures: giving them out costs a write of its journal each. Not of a disk
/// that is so large that nobody fills it, and the machine might not hold it.
fn write_zeros(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    if bytes > WRITTEN_BYTES_MAX {
        return file.set_len(bytes);
    }
    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// What it says on stdout.
fn run(program: &str, args: &[&Path]) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::needs::{Need, skip};
    use crate::scratch::Scratch;
    use crate::wait::wait_until;

    #[test]
    fn a_loop_device_takes_as_much_as_it_is_let() {
        let scratch = Scratch::new("limited");
        let mounted = SmallDisk::mount(Kind::LoopExt4, &scratch.join("disk"), 64 << 20);
        let disk = match mounted {
            Ok(disk) => disk,
            Err(why) => return skip(Need::Mounts, "a limited disk", &why),
        };
        if let Err(why) = disk.limit_writes(Some(4 << 20)) {
            return skip(Need::Throttle, "a limited disk", &why);
        }
        let write = |name: &str| {
            let begun = Instant::now();
            let file = File::create(scratch.join("disk").join(name)).unwrap();
            std::io::Write::write_all(&mut &file, &vec![7; 4 << 20]).and_then(|()| file.sync_data()).unwrap();
            begun.elapsed()
        };
        let took = write("limited");
        assert!(took > Duration::from_millis(700), "4 MiB at 4 MiB/s took {took:?}");
        disk.limit_writes(None).unwrap();
        // Others may keep the disk below busy.
        wait_until(Duration::from_secs(30), "a write without a limit", || match write("unlimited") {
            took if took < Duration::from_millis(700) => Ok(()),
            took => Err(format!("{took:?}")),
        });
    }
}
