//! Where everything lies in a node's data folder. Only names: touches no disk.
//!
//! ```text
//! DATA/
//!   identity
//!   groups/main/
//!     log/  catalog/  snapshots/
//!     staging/<attempt>/f<file>          chunks at their final offsets
//!     staging/<attempt>/aside/<index>    payloads that lost their range
//!     staging/<attempt>/plan/<page>      pages of its plan, once the log may forget them
//!     staging/<attempt>/packs/<index>    packs that the log need not hold any more
//!     staging/<attempt>/sealed           its tree, once it is an epoch that could not be published
//!     staging/<attempt>/epoch/           manifest + files/, becomes epochs/<job>/<epoch>
//!     blobs/<ab>/<digest>.<mode>[.n]
//!     waiting/                           trees of sealed epochs whose turn has not come: emptied at every start
//!     incoming/<digest>                  content that is being brought, survives restarts
//!     trash/                             on its way out: emptied at every start
//!     ballast                            given up when the disk is full
//!     spare                              blocks for the next ledger snapshot
//!   capture/
//!   epochs/<job>/<epoch>/{manifest,files/}
//!   epochs/<job>/latest                  symlink
//!   epochs/<job>/<epoch>.aside[.n], epochs/.<job>.aside[.n]   what stood there and was no folder, or did not say which
//!                                        epoch it was; the same of `latest` and `manifest`
//!   epochs/<job>/<epoch>.found[.n]   what was found in the epoch's tree and was not of it
//! ```

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::epoch::JobName;

/// The names of a node's data folder and of one Raft group in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    data: PathBuf,
    group: PathBuf,
}

impl Layout {
    /// The group `main` of this data folder.
    pub fn new(data_dir: &Path) -> Layout {
        Layout::of_group(data_dir, "main")
    }

    /// Another group of this data folder.
    pub fn of_group(data_dir: &Path, group: &str) -> Layout {
        Layout { data: data_dir.to_path_buf(), group: data_dir.join("groups").join(group) }
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }
    /// Whose folder it is: node id, incarnation, name and uuid of the cluster.
    pub fn identity(&self) -> PathBuf {
        self.data.join("identity")
    }
    /// The group's folder.
    pub fn group_dir(&self) -> &Path {
        &self.group
    }
    /// WAL segments.
    pub fn log_dir(&self) -> PathBuf {
        self.group.join("log")
    }
    /// The projection of the ledger.
    pub fn catalog_dir(&self) -> PathBuf {
        self.group.join("catalog")
    }
    /// Ledger snapshots.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.group.join("snapshots")
    }
    /// Trees of epochs that wait to be published.
    pub fn waiting_dir(&self) -> PathBuf {
        self.group.join("waiting")
    }
    /// Folders of attempts.
    pub fn staging_dir(&self) -> PathBuf {
        self.group.join("staging")
    }
    /// The folder of one attempt.
    pub fn attempt_dir(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}"))
    }
    /// The staged bytes of one file (entry `file` of the plan).
    pub fn staged_file(&self, attempt: u64, file: u32) -> PathBuf {
        self.group.join(format!("staging/{attempt}/f{file}"))
    }
    /// Folder of payloads whose range another record holds.
    pub fn aside_dir(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/aside"))
    }
    /// The payload of the record at `index`, whose range another record holds.
    pub fn aside_file(&self, attempt: u64, index: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/aside/{index}"))
    }
    /// Folder of the pages of an attempt's plan.
    pub fn plan_dir(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/plan"))
    }
    /// A page of an attempt's plan.
    pub fn page_file(&self, attempt: u64, page: u32) -> PathBuf {
        self.group.join(format!("staging/{attempt}/plan/{page}"))
    }
    /// Folder of packs that the log need not hold any more.
    pub fn packs_dir(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/packs"))
    }
    /// The pack of the record at `index`.
    pub fn pack_file(&self, attempt: u64, index: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/packs/{index}"))
    }
    /// The tree of an attempt that is sealed and could not be published here.
    pub fn sealed_file(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/sealed"))
    }
    /// What becomes `epochs/<job>/<epoch>` by one rename.
    pub fn building_dir(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/epoch"))
    }
    /// The tree of an attempt while it is built.
    pub fn tree_dir(&self, attempt: u64) -> PathBuf {
        self.group.join(format!("staging/{attempt}/epoch/files"))
    }
    /// Sealed content.
    pub fn blobs_dir(&self) -> PathBuf {
        self.group.join("blobs")
    }
    /// The folder of blobs whose digest starts with this byte.
    pub fn blob_shelf(&self, first: u8) -> PathBuf {
        self.group.join(format!("blobs/{first:02x}"))
    }
    /// The `n`-th inode of a content with a mode.
    pub fn blob(&self, digest: Digest, mode: u32, n: u32) -> PathBuf {
        let first = digest.as_bytes()[0];
        if n == 0 {
            self.group.join(format!("blobs/{first:02x}/{digest}.{mode:o}"))
        } else {
            self.group.join(format!("blobs/{first:02x}/{digest}.{mode:o}.{n}"))
        }
    }
    /// What is renamed here is on its way out.
    pub fn trash_dir(&self) -> PathBuf {
        self.group.join("trash")
    }
    /// Content that is being brought from elsewhere.
    pub fn incoming_dir(&self) -> PathBuf {
        self.group.join("incoming")
    }
    /// The bytes of one content that is being brought.
    pub fn incoming_file(&self, digest: Digest) -> PathBuf {
        self.group.join(format!("incoming/{digest}"))
    }
    /// Allocated, so that it can be given up when the disk is full.
    pub fn ballast(&self) -> PathBuf {
        self.group.join("ballast")
    }
    /// Allocated, so that a ledger snapshot can be written on a disk that is full.
    pub fn spare_snapshot(&self) -> PathBuf {
        self.group.join("spare")
    }
    /// Sources while they are read.
    pub fn capture_dir(&self) -> PathBuf {
        self.data.join("capture")
    }
    /// Published epochs of all jobs.
    pub fn epochs_dir(&self) -> PathBuf {
        self.data.join("epochs")
    }
    /// Published epochs of one job.
    pub fn job_dir(&self, job: &JobName) -> PathBuf {
        self.data.join("epochs").join(job.as_str())
    }
    /// One published epoch.
    pub fn epoch_dir(&self, job: &JobName, epoch: u64) -> PathBuf {
        self.data.join(format!("epochs/{job}/{epoch}"))
    }
    /// The user's tree of a published epoch.
    pub fn files_dir(&self, job: &JobName, epoch: u64) -> PathBuf {
        self.data.join(format!("epochs/{job}/{epoch}/files"))
    }
    /// The manifest of a published epoch.
    pub fn manifest_file(&self, job: &JobName, epoch: u64) -> PathBuf {
        self.data.join(format!("epochs/{job}/{epoch}/manifest"))
    }
    /// The symlink to the newest published epoch of a job.
    pub fn latest_link(&self, job: &JobName) -> PathBuf {
        self.data.join(format!("epochs/{job}/latest"))
    }
}
