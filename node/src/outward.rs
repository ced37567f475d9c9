//! What a node tells strangers holds none of its paths: where its data lies is nobody's business who only reaches its port.
//! An operator finds the paths in the node's own log lines.

use std::path::Path;

use client::Failure;

/// What stands for the data folder, as in README.
const DATA: &str = "DATA";

/// `text` with the data folder `dir` under another name. A relative folder is short and a common word: it goes only where
/// something follows it.
pub fn text(text: &str, dir: &Path) -> String {
    let dir = dir.display().to_string();
    match dir.trim_end_matches('/') {
        "" | "." => text.to_owned(),
        absolute if absolute.starts_with('/') => text.replace(absolute, DATA),
        relative => text.replace(&format!("{relative}/"), &format!("{DATA}/")),
    }
}

/// A failure for whoever asks a node with the data folder `dir`.
pub fn failure(failure: Failure, dir: &Path) -> Failure {
    Failure {
        sentence: text(&failure.sentence, dir),
        what: text(&failure.what, dir),
        why: text(&failure.why, dir),
        fix: text(&failure.fix, dir),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_goes_by_its_name() {
        let outward = |said: &str, dir: &str| text(said, Path::new(dir));
        let why = "/var/lib/epochlog/blobs/ab/x: no space (/var/lib/epochlog)";
        for dir in ["/var/lib/epochlog", "/var/lib/epochlog/"] {
            assert_eq!(outward(why, dir), "DATA/blobs/ab/x: no space (DATA)");
        }
        assert_eq!(outward("data/blobs/x: no data there", "data"), "DATA/blobs/x: no data there");
        assert_eq!(outward("./blobs/x: gone", "."), "./blobs/x: gone");
    }
}
