//! A bound on the memory of processes, page cache included, as the kernel enforces it. Needs root.

use std::fs;
use std::path::{Path, PathBuf};

/// A control group of our own. It goes when this is dropped, if nobody is in it any more.
#[derive(Debug)]
pub struct MemoryGroup {
    at: PathBuf,
    /// Where the kernel counts its kills.
    kills: &'static str,
}

impl MemoryGroup {
    /// A group whose processes may have so many bytes together.
    ///
    /// # Errors
    /// Why it does not work here, for people.
    pub fn new(name: &str, bytes: u64) -> Result<MemoryGroup, String> {
        let own = format!("epochlog-{name}-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (at, limit, kills) = match first.is_dir() {
            true => (first.join(own), "memory.limit_in_bytes", "memory.oom_control"),
            false => (Path::new("/sys/fs/cgroup").join(own), "memory.max", "memory.events"),
        };
        fs::create_dir(&at).map_err(|error| format!("{}: {error}", at.display()))?;
        let group = MemoryGroup { at, kills };
        let limit = group.at.join(limit);
        fs::write(&limit, bytes.to_string()).map_err(|error| format!("{}: {error}", limit.display()))?;
        // Else the rest goes to swap, where there is any.
        let _swap = fs::write(group.at.join("memory.swap.max"), "0");
        let _swap = fs::write(group.at.join("memory.swappiness"), "0");
        Ok(group)
    }

    /// Takes a process in; what it has already counts where it got it.
    ///
    /// # Panics
    /// When the kernel does not.
    pub fn take(&self, pid: u32) {
        fs::write(self.at.join("cgroup.procs"), pid.to_string()).expect("our own child can be moved");
    }

    /// How many processes were killed for want of memory.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.at.join(self.kills)).expect("the kernel counts its kills");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).expect("the kernel counts its kills")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Whoever is still in it keeps it: a later start of the machine forgets it.
        let _gone = fs::remove_dir(&self.at);
    }
}
