//! Why the writer did not do what it was asked, and who is told.

use std::io;

/// Why something was not done.
pub enum Failed {
    /// The disk refused, or it cannot be done. Nothing is lost: the log goes on.
    Refused(io::Error),
    /// An fsync failed, or the log could not be written.
    Final(io::Error),
}

impl Failed {
    /// The error, for who makes no difference.
    pub fn error(self) -> io::Error {
        match self {
            Failed::Refused(error) | Failed::Final(error) => error,
        }
    }
}

/// Answers; an error comes back when the log must stop.
pub fn answer<T>(result: Result<T, Failed>, done: impl FnOnce(io::Result<T>)) -> io::Result<()> {
    match result {
        Ok(value) => done(Ok(value)),
        Err(Failed::Refused(error)) => done(Err(error)),
        Err(Failed::Final(error)) => {
            done(Err(same(&error)));
            return Err(error);
        }
    }
    Ok(())
}

/// The error once more, for somebody else.
pub fn same(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
