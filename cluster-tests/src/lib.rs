//! Whole clusters of real processes, and the judges of what they do.
//!
//! - [`cluster`], [`cli`], [`binary`]: nodes and clients as child processes;
//! - [`inputs`], [`trees`]: the directories that are committed;
//! - [`walk`]: an independent comparison of directories, which never uses the product's digest;
//! - [`oracle`], [`observe`], [`invariants`]: what happened, what is seen, what must be true;
//! - [`scenario`]: the stories, each scalable: short in `tests/process`, long in the program `trial`;
//! - [`usage`], [`counters`], [`metrics`], [`wal`]: what a node takes, what the kernel counted, what it says of itself,
//!   what its log is as bytes;
//! - [`disks`], [`netns`]: file systems that can fill, wires that can be cut;
//! - [`commits`], [`load`]: a loop of commits with its history, and one in the background;
//! - [`control_group`]: processes that may have only so much memory;
//! - [`probe`]: small commits in a fixed rhythm, and how long each took;
//! - [`needs`], a crate of its own: what a test needs of the machine, and the one way to leave it out for want of it;
//! - [`seed`], [`wait`], [`scratch`], [`trace`]: one seed, conditions with deadlines, folders that go away, strace.
//!
//! `bench` measures with the same clusters, in a home of its own below; see `scripts/bench`.

pub mod binary;
pub mod cli;
pub mod cluster;
pub mod commits;
pub mod control_group;
pub mod counters;
pub mod disks;
pub mod inputs;
pub mod invariants;
pub mod load;
pub mod metrics;
pub mod netns;
pub mod observe;
pub mod oracle;
pub mod probe;
pub mod scenario;
pub mod scratch;
pub mod seed;
pub mod trace;
pub mod trees;
pub mod usage;
pub mod wait;
pub mod wal;
pub mod walk;

pub use needs;
