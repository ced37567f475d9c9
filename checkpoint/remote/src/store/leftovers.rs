//! What a kill leaves beside the files of a folder: `name#1`, `name#2`, ..., which no listing of the crate shows.

use object_store::path::Path;

use super::Store;
use crate::line::{Kind, Patience};

/// Removes what was left beside the file of `path`. Nobody may be writing it.
pub(super) async fn sweep(store: &Store, path: &Path, patience: &Patience) {
    let Some(at) = store.file_of(path) else { return };
    let swept = store.on_files(0, patience, move || {
        let (Some(folder), Some(name)) = (at.parent(), at.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        for other in std::fs::read_dir(folder)? {
            let other = other?;
            if other.file_name().to_str().and_then(staged).is_some_and(|(of, _)| of == name) {
                std::fs::remove_file(other.path())?;
            }
        }
        Ok(())
    });
    match swept.await {
        Err(failure) if failure.kind != Kind::Missing => {
            tracing::warn!(store = store.name(), %path, why = failure.why, "leftovers of an upload stay");
        }
        _ => {}
    }
}

/// `name#7` as the name and the number.
pub(super) fn staged(file: &str) -> Option<(&str, &str)> {
    let (name, number) = file.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some((name, number))
}
