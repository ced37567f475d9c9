//! The secret that all nodes of a cluster share, and proofs of it.
//!
//! A proof is a MAC: BLAKE3's keyed hash under a key that is derived from the text of the secret. It is compared in
//! constant time, by the library. `docs/decisions/peers.md` says why it is not HMAC.
//!
//! **Never** shown: neither the secret nor its key is in any log line, error or `Debug`.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the key is derived for: another use of the same text has another key.
const CONTEXT: &str = "epochlog 2026-11-30 peers prove the secret of their cluster";
/// A text shorter than this could be guessed, in characters.
const TEXT_CHARS_MIN: usize = 32;
/// A longer file is no secret, in bytes.
const FILE_BYTES_MAX: u64 = 4096;
/// The number of the user who may read everything anyway.
const ROOT: u32 = 0;
/// Rights of people who are neither the owner nor of its group.
const OTHERS: u32 = 0o007;

/// What all nodes of a cluster know and nobody else.
#[derive(Clone)]
pub struct Secret {
    key: [u8; blake3::KEY_LEN],
}

/// That somebody knows the secret: a MAC over what it was asked and says. Comparing two takes the same time wherever
/// they differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof(blake3::Hash);

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is a folder, a fifo or something else that keeps nothing.
    #[error("{path} is no regular file, and only such a one can keep a secret")]
    NoFile {
        /// What it is called.
        path: PathBuf,
    },
    /// Somebody else can read and change it.
    #[error(
        "{path} belongs to user {owner}, who can read and change it, and this process runs as user {user}"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
        /// The number of the user that this process runs as.
        user: u32,
    },
    /// Everybody on the machine may read it.
    #[error("{path} may be read or written by every user of this machine")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// What it holds is no secret.
    #[error("{path} holds no secret: {why}")]
    Text {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl Secret {
    /// Reads the secret in the file at `path`. White space around it does not count.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(path: &Path) -> Result<Secret, SecretError> {
        let io = |error| SecretError::Io { path: path.to_owned(), error };
        // A fifo that nobody writes would never open otherwise. Files do not heed it.
        let file: File =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
        // Of the file that is open: the name may mean another one by now.
        let user = rustix::process::geteuid().as_raw();
        keeps_a_secret(path, &file.metadata().map_err(io)?, user)?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
        Secret::of(&text).map_err(|why| SecretError::Text { path: path.to_owned(), why })
    }

    /// The secret that `text` is.
    ///
    /// # Errors
    /// In words: a text that could be guessed, or that is too long.
    pub fn of(text: &str) -> Result<Secret, String> {
        let text = text.trim();
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
        }
        let chars = text.chars().count();
        if chars < TEXT_CHARS_MIN {
            return Err(format!("it has {chars} characters, at least {TEXT_CHARS_MIN} are needed"));
        }
        Ok(Secret { key: blake3::derive_key(CONTEXT, text.as_bytes()) })
    }

    /// One that nobody else knows: of a node that has no peers.
    pub fn of_nobody() -> Secret {
        Secret { key: rand::random() }
    }

    /// The text of a new secret: 32 random bytes in hex.
    pub fn new_text() -> String {
        blake3::Hash::from_bytes(rand::random()).to_hex().to_string()
    }

    /// The proof over `said`.
    pub(crate) fn prove(&self, said: &[u8]) -> Proof {
        Proof(blake3::keyed_hash(&self.key, said))
    }
}

/// Whether the file at `path`, which is like this, can keep a secret of `user`. Root reads what it is told to: it reads for
/// others, as with `serve --check`, or in a container whose files are of somebody outside.
fn keeps_a_secret(path: &Path, like: &Metadata, user: u32) -> Result<(), SecretError> {
    let path = || path.to_owned();
    if !like.is_file() {
        return Err(SecretError::NoFile { path: path() });
    }
    let owner = like.uid();
    if ![ROOT, user].contains(&owner) && user != ROOT {
        return Err(SecretError::Foreign { path: path(), owner, user });
    }
    match like.mode() & OTHERS {
        0 => Ok(()),
        _ => Err(SecretError::Open { path: path() }),
    }
}

impl Proof {
    /// Bytes of a proof.
    pub const BYTES: usize = blake3::OUT_LEN;

    /// A proof as it came.
    pub fn of(bytes: [u8; Proof::BYTES]) -> Proof {
        Proof(bytes.into())
    }

    /// As it is sent.
    pub fn bytes(&self) -> &[u8; Proof::BYTES] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(********)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_read_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let text = Secret::new_text();
        assert_eq!(text.len(), 64);
        assert_ne!(text, Secret::new_text());
        std::fs::write(&path, format!("{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let read = Secret::read(&path).unwrap();
        assert!(read.prove(b"said") == Secret::of(&text).unwrap().prove(b"said"));
        assert!(read.prove(b"said") != read.prove(b"other"));
        assert!(read.prove(b"said") != Secret::of_nobody().prove(b"said"));
        assert_eq!(format!("{read:?}"), "Secret(********)");
    }

    #[test]
    fn what_is_no_file_of_ones_own_keeps_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, Secret::new_text()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut like = std::fs::metadata(&path).unwrap();
        if like.uid() == ROOT {
            // What is root's is anybody's who may read it.
            assert!(keeps_a_secret(&path, &like, 7).is_ok());
            std::os::unix::fs::chown(&path, Some(7), None).unwrap();
            like = std::fs::metadata(&path).unwrap();
        }
        let owner = like.uid();
        assert!(keeps_a_secret(&path, &like, owner).is_ok());
        assert!(keeps_a_secret(&path, &like, ROOT).is_ok(), "root reads for others");
        let other = keeps_a_secret(&path, &like, owner + 1);
        assert!(matches!(other, Err(SecretError::Foreign { .. })), "{other:?}");
        assert!(matches!(Secret::read(dir.path()), Err(SecretError::NoFile { .. })));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        // On a thread of its own: one that waits for a writer would wait for ever.
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(Secret::read(&fifo).map(drop)));
        let read = told.recv_timeout(std::time::Duration::from_secs(30)).expect("it does not wait");
        assert!(matches!(read, Err(SecretError::NoFile { .. })), "{read:?}");
    }

    #[test]
    fn what_everybody_may_read_or_guess_is_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(matches!(Secret::read(&path), Err(SecretError::Io { .. })));
        std::fs::write(&path, Secret::new_text()).unwrap();
        for (mode, fine) in [(0o644, false), (0o602, false), (0o640, true), (0o400, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Secret::read(&path).is_ok(), fine, "{mode:o}");
        }
        for (text, why) in [("", "0 characters"), ("short", "5 characters"), (&"x".repeat(5000), "longer")] {
            assert!(Secret::of(text).unwrap_err().contains(why), "{why}");
        }
    }
}
