//! Uploads that were begun and neither completed nor ended. Their parts cost room, and no listing of objects shows them.
//!
//! Whose they are, their keys say: the attempt stands in them. Only of an attempt that is closed may one be ended, and
//! never by age: an upload may be waiting for a store that is away.

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::Store;
use super::leftovers::staged;
use crate::backend::{BackendKind, path_of};
use crate::error::StoreError;
use crate::line::{Failure, Kind, Patience};
use crate::name::ObjectName;

/// An upload that is open. In a folder: a file beside a name, which a kill left or somebody is writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// Its key below the prefix.
    pub key: String,
    /// The key as one of ours. None: foreign, never to be ended.
    pub name: Option<ObjectName>,
    /// What [`Store::abort_upload`] wants to know.
    pub id: String,
}

impl Store {
    /// All uploads that are open below the prefix, of this cluster or of everybody. Azure has none that can be ended:
    /// what was not put together there vanishes by itself after seven days.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`: some stores cannot list them.
    pub async fn open_uploads(&self, cluster: Option<Uuid>) -> Result<Vec<OpenUpload>, StoreError> {
        let below = cluster.map(|cluster| format!("{}/", cluster.as_hyphenated())).unwrap_or_default();
        match &self.backend().kind {
            BackendKind::Folder { root, .. } => {
                let root = root.clone();
                let cluster = cluster.map(|cluster| cluster.as_hyphenated().to_string());
                let look = move || beside_files(&root, cluster.as_deref());
                let found = self.on_files_until_answered(&Patience::new(), look).await;
                let found =
                    found.map_err(|failure| self.line().error("looking for open uploads", failure))?;
                Ok(found
                    .into_iter()
                    .map(|(key, id)| OpenUpload { name: key.parse().ok(), key, id })
                    .collect())
            }
            BackendKind::Cloud { .. } => self.list_uploads(&below).await,
            BackendKind::ReadOnly => Ok(Vec::new()),
        }
    }

    async fn list_uploads(&self, below: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let fail = |failure| self.line().error("listing open uploads", failure);
        let refused = |why: &str| fail(Failure::new(Kind::Refused, why));
        let Some(list) = &self.backend().uploads else {
            return match self.backend().uploads_vanish {
                true => Ok(Vec::new()),
                false => Err(refused("requests that are not signed cannot ask for them")),
            };
        };
        // A folder of a bucket ends with its slash, so that `p` is not found in `p2`.
        let folder = match path_of(&self.inner.prefix, "") {
            root if root.is_root() => String::new(),
            prefix => format!("{prefix}/"),
        };
        let (prefix, patience) = (format!("{folder}{below}"), Patience::new());
        let (mut uploads, mut after) = (Vec::new(), None);
        loop {
            let page = self.line().until_answered(0, &patience, || list.page(&prefix, after.as_ref())).await;
            let (page, _) = page.map_err(fail)?;
            let ours = page.uploads.into_iter().filter_map(|(key, id)| {
                let key = key.strip_prefix(&folder)?.to_string();
                Some(OpenUpload { name: key.parse().ok(), key, id })
            });
            uploads.extend(ours);
            match page.next {
                // It would be listed for ever.
                Some(next) if after.as_ref() == Some(&next) => {
                    return Err(refused("its listing does not move on"));
                }
                Some(next) => after = Some(next),
                None if page.breaks_off => return Err(refused("its listing breaks off")),
                None => return Ok(uploads),
            }
        }
    }

    /// Ends an upload that is open under a key of ours, so that its parts cost nothing. None there is fine. Nobody may be
    /// writing it: of a closed attempt nobody does.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`.
    pub async fn abort_upload(&self, name: &ObjectName, id: &str) -> Result<(), StoreError> {
        let what = || format!("ending the upload of {name}");
        match &self.backend().kind {
            BackendKind::Cloud { parts, .. } => {
                let (path, id, patience) = (self.path(name), id.to_string(), Patience::new());
                match self.line().until_answered(0, &patience, || parts.abort_multipart(&path, &id)).await {
                    Ok(_) => Ok(()),
                    Err(failure) if failure.kind == Kind::Missing => Ok(()),
                    Err(failure) => Err(self.line().error(what(), failure)),
                }
            }
            BackendKind::Folder { root, .. } => {
                let file = format!("{name}#{id}");
                if staged(&file).is_none_or(|(of, number)| of != name.to_string() || number != id) {
                    return Ok(());
                }
                let at = root.join(file);
                let remove = move || checkpoint::durable::ignore_missing(std::fs::remove_file(&at));
                let removed = self.on_files_until_answered(&Patience::new(), remove).await;
                removed.map_err(|failure| self.line().error(what(), failure))
            }
            BackendKind::ReadOnly => Ok(()),
        }
    }
}

// `<cluster>/<ab>/<file>#<number>`, of one cluster or of all: keys and numbers.
fn beside_files(root: &Path, cluster: Option<&str>) -> io::Result<Vec<(String, String)>> {
    let clusters = match cluster {
        Some(cluster) => vec![cluster.to_string()],
        None => names(root)?,
    };
    let mut found = Vec::new();
    for cluster in clusters {
        for folder in names(&root.join(&cluster))? {
            for file in names(&root.join(&cluster).join(&folder))? {
                if let Some((name, number)) = staged(&file) {
                    found.push((format!("{cluster}/{folder}/{name}"), number.to_string()));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

// The names in a folder; none when it is not there, or no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    // A name that is no text is none of ours.
    entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}
