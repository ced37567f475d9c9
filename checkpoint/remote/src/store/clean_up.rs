//! Removing what an attempt left in the store and nobody names: keys that were given up, uploads that are open.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Store;
use super::delete::Deleted;
use crate::error::StoreError;
use crate::journal::Journal;
use crate::name::ObjectName;
use crate::runtime::blocking;

impl Store {
    /// Ends the uploads and deletes the objects that this node's journal knows of `attempt`, all but the `named` (those
    /// that the Seal names; none of an attempt that was closed otherwise), and forgets the attempt when nothing else is
    /// left. Only of an attempt that is over, after [`Store::check_marker`], and, where anything is not named, behind
    /// [`Store::begin_deletes`]. May be repeated, and is to be when it
    /// fails.
    ///
    /// # Errors
    /// Those of the first that stays; `Away` also while this process is writing an object of the attempt; `Disk` when
    /// the journal cannot be read or written. Nothing is forgotten then.
    pub async fn clean_up(
        &self,
        journal: &Arc<Journal>,
        attempt: u64,
        named: &BTreeSet<ObjectName>,
    ) -> Result<(), StoreError> {
        let what = format!("store {:?}: removing what attempt {attempt} left", self.name());
        let fail = |e: std::io::Error| StoreError::journal(what.clone(), &e);
        let held = Arc::clone(journal);
        let held = blocking(move || held.hold(attempt)).await.map_err(fail)?;
        let left: Vec<_> = held.traces.iter().filter(|trace| !named.contains(&trace.name)).collect();
        // First the uploads: one that is ended after its object was deleted may have been completed in between.
        for trace in &left {
            if let Some(id) = &trace.upload {
                self.abort_upload(&trace.name, id).await?;
            }
        }
        let names: Vec<ObjectName> = left.iter().map(|trace| trace.name).collect();
        for (_, answer) in self.delete(&names).await {
            if let Deleted::Stays(error) = answer {
                return Err(error);
            }
        }
        blocking(move || held.forget()).await.map_err(fail)
    }
}
