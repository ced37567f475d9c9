//! Free space of one node. A verdict never depends on it.

use std::path::Path;

use client::pb;

use crate::config::Reserve;

/// One in so many inodes stays free, where they are counted.
const INODES_RESERVED: u64 = 50;

/// Free space of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes that are free for this user.
    pub free: u64,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that stay free.
    pub reserve: u64,
    /// There are bytes, but hardly any inodes.
    pub inodes_short: bool,
    /// Bytes that no epoch refers to any more: they come back by themselves.
    pub garbage: u64,
    /// Bytes that a catch-up still has to bring.
    pub lacking: u64,
}

impl Space {
    /// Space of the file system that holds `path`.
    pub fn of(path: &Path, reserve: Reserve) -> std::io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total,
            reserve: reserve.bytes(total),
            // Some file systems make inodes as they go and count none.
            inodes_short: stat.f_files > 0 && stat.f_favail < stat.f_files / INODES_RESERVED,
            garbage: 0,
            lacking: 0,
        })
    }

    /// Whether `needed` more bytes leave the reserve alone.
    pub fn has_room_for(&self, needed: u64) -> bool {
        !self.inodes_short && self.free >= self.reserve.saturating_add(needed)
    }

    /// Whether they will, once what is garbage was given back.
    pub fn will_have_room_for(&self, needed: u64) -> bool {
        let later = Space {
            free: self.free.saturating_add(self.garbage),
            inodes_short: self.inodes_short && self.garbage == 0,
            ..*self
        };
        later.has_room_for(needed)
    }

    /// As another node tells it; `None` when it could not tell.
    pub fn told(status: &pb::NodeStatus) -> Option<Space> {
        (status.disk_total > 0).then_some(Space {
            free: status.disk_free,
            total: status.disk_total,
            reserve: status.disk_reserve,
            inodes_short: status.disk_inodes_short,
            garbage: status.garbage_bytes,
            lacking: status.lacking_bytes,
        })
    }

    /// With what a catch-up still brings, and `more`.
    pub(crate) fn with(self, more: u64) -> Space {
        Space { free: self.free.saturating_sub(self.lacking).saturating_sub(more), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64, total: u64, reserve: u64) -> Space {
        Space { free, total, reserve, ..Space::default() }
    }

    #[test]
    fn the_reserve_is_never_spent() {
        let space = space(100, 1000, 50);
        assert!(space.has_room_for(50));
        assert!(!space.has_room_for(51));
        assert!(!space.has_room_for(u64::MAX));
        assert!(!Space { inodes_short: true, ..space }.has_room_for(1));
    }

    #[test]
    fn garbage_is_room_to_come_never_room() {
        let space = Space { garbage: 30, ..space(60, 1000, 50) };
        assert!(!space.has_room_for(20));
        assert!(space.will_have_room_for(40));
        assert!(!space.will_have_room_for(41));
        assert!(Space { inodes_short: true, ..space }.will_have_room_for(40));
        assert!(!Space { inodes_short: true, garbage: 0, ..space }.will_have_room_for(1));
    }
}
