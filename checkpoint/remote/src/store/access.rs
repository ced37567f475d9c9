//! Whether a store may be used at all, asked once at start.

use object_store::{PutOptions, PutPayload};

use super::Store;
use crate::error::{StoreError, Trouble};
use crate::limits::SMALL_BYTES_MAX;
use crate::line::{Failure, Patience};

impl Store {
    /// Asks the store whether this node may do there what it will have to: read the marker, list, and, where a store is
    /// not only for reading, write, read and delete a small object. A start does so unless the configuration skips it.
    /// Nor is anything built on conditions and checksums before it has seen that the store keeps to them: a node that
    /// skips this reads every object back. What it writes lies below `<prefix>/epochlog-check/` and is gone afterwards.
    ///
    /// # Errors
    /// `Denied`, with what is not allowed; `Away`, also where it could not be found out what it keeps to; `Refused`; `Damaged` when something else came than was written.
    pub async fn check_access(&self) -> Result<(), StoreError> {
        let fail = |what: &str| {
            let what = format!("checking the access: {what}");
            move |failure: Failure| self.line().error(what, failure)
        };
        let patience = Patience::new();
        // A store that does not allow to list says of what is not there that it is denied, too.
        let marker = self.small(&self.path_below("epochlog.json"), SMALL_BYTES_MAX, &patience).await;
        marker.map_err(fail("reading the marker of the prefix"))?;
        if self.is_for_reading() {
            return Ok(());
        }
        let below = format!("epochlog-check/{:016x}", rand::random::<u64>());
        let folder = self.path_below(&below);
        let [path, spoiled] = ["access", "spoiled"].map(|name| self.path_below(&format!("{below}/{name}")));
        let data = b"written by epochlog, to be deleted".as_slice();
        let objects = &self.backend().objects;
        let put = || objects.put_opts(&path, PutPayload::from_static(data), PutOptions::default());
        let put = self.line().until_answered(0, &patience, put).await;
        let (mut got, mut listed, mut learned) = (Ok(None), Ok((Vec::new(), None)), Ok(()));
        if put.is_ok() {
            got = self.small(&path, SMALL_BYTES_MAX, &patience).await;
            listed = self.list_below(&folder, None).await;
        }
        if got.is_ok() && listed.is_ok() && put.is_ok() {
            learned = self.learn(&path, &spoiled, &patience).await;
        }
        // Whatever came of that, nothing is to stay.
        let deleted = self.delete_paths(&[path, spoiled]).await.into_iter().flatten().next();
        self.remove_folders(&[folder]).await;
        put.map_err(fail("writing"))?;
        let got = got.map_err(fail("reading"))?.map(|(got, _)| got);
        let (listed, _) = listed.map_err(fail("listing"))?;
        if let Some(failure) = deleted {
            return Err(fail("deleting")(failure));
        }
        match learned {
            // Asked again, it may say. Without that every object is read back, for as long as the node runs.
            Err(failure) if failure.may_pass() => {
                return Err(fail("finding out what it keeps to")(failure));
            }
            Err(failure) => {
                tracing::warn!(
                    store = self.name(),
                    why = failure.why,
                    "it is not known what the store keeps to"
                );
            }
            Ok(()) => {}
        }
        if got.as_deref() != Some(data) || listed.len() != 1 {
            let why = match got {
                Some(got) if got == data => format!("a listing shows {} objects of 1", listed.len()),
                Some(_) => "something else came than was written".into(),
                None => "what was written is not there".into(),
            };
            return Err(StoreError::new(
                Trouble::Damaged,
                format!("store {:?}: checking the access", self.name()),
                why,
                "`store check` says more",
            ));
        }
        Ok(())
    }
}
