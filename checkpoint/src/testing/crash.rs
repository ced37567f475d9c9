//! What a power cut leaves of what was not synced.

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Everything that was not synced is lost.
    Strict,
    /// Each unsynced write and name is kept or lost by this seed, the last kept ones torn.
    Mixed(u64),
}
