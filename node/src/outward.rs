//! What a node tells strangers holds none of its paths: where its data lies is nobody's business who only reaches its port.
//! An operator finds the paths in the node's own log lines.

use client::Failure;

use crate::node::Node;

/// What stands for the data folder, as in README.
const DATA: &str = "DATA";

/// `text` with the data folder `dir` under another name. A relative folder is short and a common word: it goes only where
/// something follows it.
fn outward(text: &str, dir: &str) -> String {
    let dir = dir.trim_end_matches('/');
    match dir {
        "" | "." => text.to_owned(),
        absolute if absolute.starts_with('/') => text.replace(absolute, DATA),
        relative => text.replace(&format!("{relative}/"), &format!("{DATA}/")),
    }
}

impl Node {
    /// A text for whoever asks.
    pub fn outward(&self, text: impl AsRef<str>) -> String {
        outward(text.as_ref(), &self.config.data_dir.display().to_string())
    }

    /// A failure for whoever asks.
    pub fn outward_failure(&self, failure: Failure) -> Failure {
        Failure {
            sentence: self.outward(&failure.sentence),
            what: self.outward(&failure.what),
            why: self.outward(&failure.why),
            fix: self.outward(&failure.fix),
            ..failure
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_goes_by_its_name() {
        let why = "/var/lib/epochlog/blobs/ab/x: no space (/var/lib/epochlog)";
        for dir in ["/var/lib/epochlog", "/var/lib/epochlog/"] {
            assert_eq!(outward(why, dir), "DATA/blobs/ab/x: no space (DATA)");
        }
        assert_eq!(outward("data/blobs/x: no data there", "data"), "DATA/blobs/x: no data there");
        assert_eq!(outward("./blobs/x: gone", "."), "./blobs/x: gone");
    }
}
