//! Listing what is below the prefix. Only cleaning up and repairing list; no commit and no restore does.

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::list::PaginatedListOptions;
use object_store::path::Path;
use uuid::Uuid;

use super::Store;
use crate::backend::{BackendKind, path_of};
use crate::error::StoreError;
use crate::line::{Failure, Kind, Patience};
use crate::name::ObjectName;
use crate::tap;

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key below the prefix.
    pub key: String,
    /// The key as one of ours. None: foreign, or the marker; never to be touched.
    pub name: Option<ObjectName>,
    /// Length, bytes.
    pub len: u64,
}

/// A page of a listing. The order is the store's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// What to ask for the next page with; none after the last.
    pub next: Option<String>,
}

impl Store {
    /// A page of at most 1,000 objects (of a folder: all of them) of this cluster, or of everything below the prefix.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`.
    pub async fn list(&self, cluster: Option<Uuid>, from: Option<String>) -> Result<Page, StoreError> {
        let below = cluster.map(|cluster| cluster.as_hyphenated().to_string()).unwrap_or_default();
        let folder = path_of(&self.inner.prefix, &below);
        match self.list_below(&folder, from).await {
            Ok((objects, next)) => {
                Ok(Page { objects: objects.into_iter().filter_map(|meta| self.listed(meta)).collect(), next })
            }
            Err(failure) => Err(self.line().error("listing", failure)),
        }
    }

    /// A page of what is below a folder, and what to ask for the next one with.
    pub(crate) async fn list_below(
        &self,
        folder: &Path,
        from: Option<String>,
    ) -> Result<(Vec<ObjectMeta>, Option<String>), Failure> {
        let (line, patience) = (self.line(), Patience::new());
        let endless = |why: &str| {
            let advice = Some(
                "what is there cannot be told from such a listing; `store check` says what else it lacks",
            );
            Err(Failure { advice, ..Failure::new(Kind::Refused, why) })
        };
        let listed = match &self.backend().kind {
            BackendKind::Cloud { pages, .. } => {
                let prefix = (!folder.is_root()).then(|| format!("{folder}/"));
                let call = || {
                    let options = PaginatedListOptions { page_token: from.clone(), ..Default::default() };
                    pages.list_paginated(prefix.as_deref(), options)
                };
                match line.until_answered(0, &patience, call).await {
                    Ok((page, facts)) if page.page_token.is_none() && facts.breaks_off => {
                        return endless(
                            "its listing breaks off: there are more, it says, and not how to ask for them",
                        );
                    }
                    Ok((page, _)) if page.page_token.is_some() && page.page_token == from => {
                        return endless("its listing does not move on");
                    }
                    page => page.map(|(page, _)| (page.result.objects, page.page_token)),
                }
            }
            _ => {
                let call = || async {
                    let objects = self.backend().objects.list((!folder.is_root()).then_some(folder));
                    // A folder of a million files takes its time.
                    objects.inspect_ok(|_| tap::moved()).try_collect::<Vec<ObjectMeta>>().await
                };
                line.until_answered(0, &patience, call).await.map(|(objects, _)| (objects, None))
            }
        };
        match listed {
            // A folder that nothing was written to yet.
            Err(failure) if failure.kind == Kind::Missing && failure.status.is_none() => {
                Ok((Vec::new(), None))
            }
            listed => listed,
        }
    }

    /// All pages.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_all(&self, cluster: Option<Uuid>) -> Result<Vec<Listed>, StoreError> {
        let (mut objects, mut from) = (Vec::new(), None);
        loop {
            let page = self.list(cluster, from.take()).await?;
            objects.extend(page.objects);
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(objects),
            }
        }
    }

    fn listed(&self, meta: ObjectMeta) -> Option<Listed> {
        let whole = meta.location.to_string();
        let key = match self.inner.prefix.as_str() {
            "" => whole.as_str(),
            prefix => whole.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Some(Listed { key: key.to_string(), name: key.parse().ok(), len: meta.size })
    }
}
