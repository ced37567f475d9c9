//! Operations that are to fail.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::op::OpKind;

/// Those that were planned and have not come yet, and those that come every time.
#[derive(Debug, Default)]
pub(super) struct Failures {
    planned: Vec<Failure>,
    // By path: of which kind, and the error number.
    refused: BTreeMap<PathBuf, (OpKind, i32)>,
}

#[derive(Debug)]
struct Failure {
    kind: OpKind,
    path_contains: String,
    // So many go well before.
    passes: u64,
    errno: i32,
}

impl Failures {
    pub(super) fn plan(&mut self, passes: u64, kind: OpKind, path_contains: &str, errno: i32) {
        self.planned.push(Failure { kind, path_contains: path_contains.to_owned(), passes, errno });
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    pub(super) fn refuse(&mut self, kind: OpKind, path: &Path, errno: i32) {
        self.refused.insert(path.to_path_buf(), (kind, errno));
    }

    pub(super) fn allow(&mut self, path: &Path) {
        self.refused.remove(path);
    }

    /// What a power cut leaves of them.
    pub(super) fn lasting(&self) -> Failures {
        Failures { planned: Vec::new(), refused: self.refused.clone() }
    }

    /// Of the next operation, whether it fails.
    pub(super) fn next(&mut self, kind: OpKind, path: &Path) -> io::Result<()> {
        if let Some((_, errno)) = self.refused.get(path).filter(|(refused, _)| *refused == kind) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let text = path.to_string_lossy();
        let fits = |planned: &Failure| planned.kind == kind && text.contains(planned.path_contains.as_str());
        let Some(at) = self.planned.iter().position(fits) else { return Ok(()) };
        if self.planned[at].passes > 0 {
            self.planned[at].passes -= 1;
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(self.planned.remove(at).errno))
    }
}
