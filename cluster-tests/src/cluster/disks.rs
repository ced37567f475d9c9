//! Nodes with disks of their own, as machines have them: none waits for what another one writes, and none meets what
//! was on the disk before. (Creating files is slow for everybody on an ext4 where very many were just removed.)

use super::{Cluster, Options};
use crate::disks::{Kind, SmallDisk};

impl Cluster {
    /// As [`Cluster::start`], with a new file system of `bytes` for the data of each node and one for the sources.
    ///
    /// # Errors
    /// Why nothing can be mounted here, for people.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_on_disks(name: &str, options: Options, bytes: u64) -> Result<Cluster, String> {
        let mut cluster = Cluster::prepare(name, options);
        let nodes = cluster.nodes.iter().map(|node| node.data.clone());
        for at in nodes.chain([cluster.folder.join("sources")]).collect::<Vec<_>>() {
            cluster.disks.push(SmallDisk::mount(Kind::LoopExt4, &at, bytes)?);
        }
        Ok(cluster.started())
    }

    /// The disk of a node that has its own.
    ///
    /// # Panics
    /// When it has none.
    pub fn disk(&self, id: u64) -> &SmallDisk {
        assert!(id <= self.options.nodes, "node {id} is none of the cluster");
        &self.disks[super::index(id)]
    }

    /// Takes all limits away: a process that waits for its disk cannot be ended.
    pub(super) fn free_disks(&self) {
        for disk in &self.disks {
            let _whole = disk.limit_writes(None);
        }
    }
}
