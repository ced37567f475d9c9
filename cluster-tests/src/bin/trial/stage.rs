//! What a story gets to be told.

use std::path::PathBuf;

use cluster_tests::seed::Rng;

/// What a story may use.
pub struct Stage {
    /// Archives of real inputs.
    pub archives: PathBuf,
    /// A binary to compare with.
    pub before: Option<PathBuf>,
    /// Its own, by its name.
    pub rng: Rng,
}

/// A story.
pub type Tell = fn(&mut Stage);

/// A line about how it goes.
pub fn say(line: String) {
    println!("  {line}");
}
