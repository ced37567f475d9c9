//! Small file systems that can fill: tmpfs, and ext4 in a loop-mounted image. They need root, and a kernel that
//! lets it mount; whoever asks is told when it does not work. Mounted below the scratch folder, unmounted on drop.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::scenario::is_root;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory, with a limit.
    Tmpfs,
    /// A file as a block device.
    LoopExt4,
}

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
                let image = at.with_extension("ext4");
                let made = File::create(&image).and_then(|file| file.set_len(bytes));
                made.map_err(|error| format!("{}: {error}", image.display()))?;
                run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), &image])?;
                run("mount", &["-o".as_ref(), "loop".as_ref(), &image, at])?;
                // A data folder is empty when it is new.
                fs::remove_dir(at.join("lost+found")).map_err(|error| error.to_string())?;
            }
        }
        Ok(SmallDisk { at: at.to_owned() })
    }

    /// Bytes that are free for anybody.
    pub fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.at).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
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

fn run(program: &str, args: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
