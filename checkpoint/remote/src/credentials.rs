//! Credentials in a file that somebody renews: read when the store is opened, and again when the store says that they
//! are not, or no longer, good.
//!
//! The file has the form of `~/.aws/credentials`: sections `[profile]`, lines `key = value`, of which
//! `aws_access_key_id`, `aws_secret_access_key` and `aws_session_token` are read.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::error::{StoreError, Trouble};
use crate::secret::{Mask, Secret};

// Longer files hold something else.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Something that can look for newer credentials.
pub(crate) trait Reload: Debug + Send + Sync {
    /// Counts the changes so far.
    fn generation(&self) -> u64;
    /// Whether there are others than those of this generation. Of several requests that were refused together, one
    /// finds the new ones and the others find them found.
    fn reload(&self, since: u64) -> bool;
}

/// The file.
pub(crate) struct FileCredentials {
    path: PathBuf,
    profile: String,
    current: Mutex<(u64, Arc<AwsCredential>)>,
    // What stands in the file is as secret as what stands in the configuration.
    mask: Mask,
}

impl FileCredentials {
    pub(crate) fn open(path: &Path, profile: &str, mask: &Mask) -> Result<Arc<FileCredentials>, StoreError> {
        let credential = read(path, profile).map_err(|why| {
            // One that is not there may come, with a mount or from who renews it.
            let is_there = std::fs::metadata(path).is_ok();
            StoreError::new(
                if is_there { Trouble::Configuration } else { Trouble::Away },
                format!("credentials_file {}", path.display()),
                why,
                "the file has a section [default] (or the one that `credentials_profile` names) with \
                 aws_access_key_id and aws_secret_access_key",
            )
        })?;
        mask.learn(secrets(&credential));
        Ok(Arc::new(FileCredentials {
            mask: mask.clone(),
            path: path.to_path_buf(),
            profile: profile.to_string(),
            current: Mutex::new((0, Arc::new(credential))),
        }))
    }
}

impl FileCredentials {
    fn current(&self) -> MutexGuard<'_, (u64, Arc<AwsCredential>)> {
        self.current.lock().expect("no thread panics while it swaps credentials")
    }
}

impl Debug for FileCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileCredentials({}, {})", self.path.display(), self.profile)
    }
}

impl Reload for FileCredentials {
    fn generation(&self) -> u64 {
        self.current().0
    }

    fn reload(&self, since: u64) -> bool {
        match read(&self.path, &self.profile) {
            Ok(credential) => {
                let mut current = self.current();
                if *current.1 != credential {
                    self.mask.learn(secrets(&credential));
                    *current = (current.0 + 1, Arc::new(credential));
                }
                current.0 > since
            }
            Err(why) => {
                // What was good a moment ago may still be: a file is sometimes half written.
                tracing::warn!(file = %self.path.display(), why, "credentials cannot be read again");
                false
            }
        }
    }
}

#[async_trait]
impl CredentialProvider for FileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        Ok(Arc::clone(&self.current().1))
    }
}

fn secrets(credential: &AwsCredential) -> impl Iterator<Item = Secret> + '_ {
    let AwsCredential { key_id, secret_key, token } = credential;
    [Some(key_id), Some(secret_key), token.as_ref()].into_iter().flatten().map(Secret::new)
}

fn read(path: &Path, profile: &str) -> Result<AwsCredential, String> {
    let len = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if len > FILE_BYTES_MAX {
        return Err(format!("{len} bytes are too many for a file of credentials"));
    }
    parse(&std::fs::read_to_string(path).map_err(|e| e.to_string())?, profile)
}

// No line of the file stands in an error: it would be a secret.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let (mut section, mut key_id, mut secret_key, mut token) = ("default", None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim();
        } else if section == profile
            && let Some((key, value)) = line.split_once('=')
        {
            let value = Some(value.trim().to_string());
            match key.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        (None, _) => Err(format!("no aws_access_key_id in section [{profile}]")),
        (_, None) => Err(format!("no aws_secret_access_key in section [{profile}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let write = |key: &str| {
            let text = format!(
                "# rotated\n[other]\naws_access_key_id=x\n\n[default]\naws_access_key_id = {key}\n\
                 aws_secret_access_key=a=b\nregion = r\n"
            );
            std::fs::write(&path, text).unwrap();
        };
        write("one");
        let mask = Mask::default();
        let file = FileCredentials::open(&path, "default", &mask).unwrap();
        let key = || file.current().1.key_id.clone();
        assert_eq!(file.current().1.secret_key, "a=b");
        assert_eq!(key(), "one");
        assert!(!file.reload(0));
        write("two");
        assert!(file.reload(0));
        // Another request, refused with the same old ones.
        assert!(file.reload(0) && !file.reload(file.generation()));
        assert_eq!(key(), "two");
        std::fs::write(&path, "[default]\naws_access_key_id = canary-7").unwrap();
        assert!(!file.reload(1));
        assert_eq!(key(), "two");
        let error = FileCredentials::open(&path, "default", &mask).unwrap_err().to_string();
        assert!(error.contains("no aws_secret_access_key") && !error.contains("canary"), "{error}");
        assert!(!format!("{file:?}").contains("two"));
    }
}
