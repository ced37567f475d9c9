//! A limit on everything, each with its unit. What must bind all replicas
//! alike travels in records; these are the bounds no record may exceed.

/// Longest relative path, bytes.
pub const PATH_BYTES_MAX: usize = 3072;
/// Longest path component, bytes.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Most components of a path.
pub const DEPTH_MAX: usize = 512;
/// Longest symlink target, bytes (Linux takes 4095).
pub const TARGET_BYTES_MAX: usize = 4095;
/// Smallest chunk size of an attempt, bytes.
pub const CHUNK_BYTES_MIN: u32 = 64 << 10;
/// Largest chunk size of an attempt, bytes.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// Chunk size unless told otherwise, bytes.
pub const CHUNK_BYTES_DEFAULT: u32 = 1 << 20;
/// Files smaller than this are packed with others, bytes.
pub const PACK_FILE_BYTES_MAX: u64 = 64 << 10;
/// Largest payload of a pack, bytes.
pub const PACK_BYTES_MAX: usize = 1 << 20;
/// Most files of a pack.
pub const PACK_FILES_MAX: usize = 4096;
/// Most files of one reuse piece.
pub const REUSE_FILES_MAX: usize = 1024;
/// Largest encoded page of a plan, bytes.
pub const PART_BYTES_MAX: usize = 256 << 10;
/// Largest payload of an epoch that travels as one record, bytes.
pub const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// Most entries of an epoch that travels as one record.
pub const WHOLE_ENTRIES_MAX: usize = 64;
/// Longest run of zeros in one piece, bytes.
pub const ZERO_BYTES_MAX: u64 = 64 << 20;
/// Most entries of a plan unless told otherwise.
pub const FILES_MAX_DEFAULT: u64 = 1_000_000;
/// Most bytes of an epoch unless told otherwise.
pub const EPOCH_BYTES_MAX_DEFAULT: u64 = 1 << 40;
/// Largest file, bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 50;
/// Longest job name, bytes.
pub const JOB_NAME_BYTES_MAX: usize = 128;
/// Highest number of an epoch: readers of JSON round larger ones.
pub const EPOCH_MAX: u64 = 1 << 53;
/// Most labels of an epoch.
pub const LABELS_MAX: usize = 256;
/// Longest label key or value, bytes.
pub const LABEL_BYTES_MAX: usize = 4096;
/// Permission bits of an entry.
pub const MODE_MAX: u32 = 0o777;
/// Runs of zeros from this length on stay holes on disk, bytes.
pub const HOLE_BYTES_MIN: usize = 64 << 10;

/// What a plan may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all kinds, the root directory included.
    pub files_max: u64,
    /// Sum of file sizes, bytes.
    pub bytes_max: u64,
    /// Components of a path, at most [`DEPTH_MAX`].
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { files_max: FILES_MAX_DEFAULT, bytes_max: EPOCH_BYTES_MAX_DEFAULT, depth_max: DEPTH_MAX }
    }
}
