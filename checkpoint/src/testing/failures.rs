//! Operations that are to fail.

use std::io;
use std::path::Path;

use super::op::OpKind;

/// Those that were planned and have not come yet.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<Failure>);

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
        self.0.push(Failure { kind, path_contains: path_contains.to_owned(), passes, errno });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Of the next operation, whether it fails.
    pub(super) fn next(&mut self, kind: OpKind, path: &Path) -> io::Result<()> {
        let text = path.to_string_lossy();
        let fits = |planned: &Failure| planned.kind == kind && text.contains(planned.path_contains.as_str());
        let Some(at) = self.0.iter().position(fits) else { return Ok(()) };
        if self.0[at].passes > 0 {
            self.0[at].passes -= 1;
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(self.0.remove(at).errno))
    }
}
