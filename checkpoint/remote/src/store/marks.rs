//! Whose prefix it is: `<prefix>/epochlog.json` names the cluster and the store, and the last batch of deletes.
//!
//! Two clusters on one prefix would each take the other's objects for garbage. A second cluster has another uuid. A
//! clone of all of a cluster's folders has the same; so each batch of deletes changes a nonce in the marker, which the
//! ledger records, too: of the original and its clone, the second to delete finds a nonce that its ledger never wrote.

use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Store;
use crate::backend::{BackendKind, path_of};
use crate::error::{StoreError, Trouble};
use crate::limits::SMALL_BYTES_MAX;
use crate::line::{Failure, Kind, Patience, Tries};

const KEY: &str = "epochlog.json";
const FORMAT: u32 = 1;

/// The marker of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub(crate) format: u32,
    /// The store, whatever it is called and wherever it is reached.
    pub store: Uuid,
    /// The cluster that writes here.
    pub cluster: Uuid,
    /// The nonce of the last batch of deletes; 0 before the first.
    pub deletes: u64,
}

// What follows from the marker that is there.
enum Next {
    Done(Marker),
    Write(PutMode),
}

impl Store {
    /// The marker; `None` when nobody has claimed the prefix.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`; `Foreign` when the marker is none that this program can read.
    pub async fn marker(&self) -> Result<Option<Marker>, StoreError> {
        Ok(self.read_marker(&Patience::new()).await?.map(|(marker, _)| marker))
    }

    /// Claims the prefix for `cluster`: the marker, made when there is none. May be repeated, by several nodes at once.
    ///
    /// # Errors
    /// `Foreign` when it is another cluster's; `Away`, `Denied`, `Refused`.
    pub async fn claim(&self, cluster: Uuid) -> Result<Marker, StoreError> {
        const WHAT: &str = "claiming the prefix";
        self.writable(WHAT)?;
        let marker = Marker { format: FORMAT, store: Uuid::new_v4(), cluster, deletes: 0 };
        self.write_marker(WHAT, &marker, |there| match there {
            Some((marker, _)) if marker.cluster == cluster => Ok(Next::Done(marker)),
            Some((marker, _)) => Err(self.foreign(&marker, cluster)),
            None if self.backend().conditional => Ok(Next::Write(PutMode::Create)),
            None => Ok(Next::Write(PutMode::Overwrite)),
        })
        .await
    }

    /// Checks that the prefix is still what `expected` says: before an upload, a hydration, a batch of deletes.
    ///
    /// # Errors
    /// `Foreign` when it is not: another cluster's, another store behind the same address, a clone that deleted, or no
    /// marker at all; `Away`, `Denied`, `Refused`.
    pub async fn check_marker(&self, expected: &Marker) -> Result<(), StoreError> {
        match self.marker().await? {
            Some(marker) if marker == *expected => Ok(()),
            Some(marker) => Err(self.unexpected(&marker, expected)),
            None => Err(self.unmarked()),
        }
    }

    /// Writes the nonce of the next batch of deletes, which the ledger has recorded, over that of the last one. Only
    /// after this may the batch be deleted. May be repeated with the same nonce.
    ///
    /// # Errors
    /// As [`Store::check_marker`]. After any, nothing may be deleted.
    pub async fn begin_deletes(&self, expected: &Marker, nonce: u64) -> Result<Marker, StoreError> {
        const WHAT: &str = "marking a batch of deletes";
        self.writable(WHAT)?;
        let next = Marker { deletes: nonce, ..*expected };
        // Conditional on what was read, where the store can.
        let update = self.backend().conditional && matches!(self.backend().kind, BackendKind::Cloud { .. });
        self.write_marker(WHAT, &next, |there| match there {
            Some((marker, _)) if marker == next => Ok(Next::Done(next)),
            Some((marker, version)) if marker == *expected => {
                Ok(Next::Write(if update { PutMode::Update(version) } else { PutMode::Overwrite }))
            }
            Some((marker, _)) => Err(self.unexpected(&marker, expected)),
            None => Err(self.unmarked()),
        })
        .await
    }

    // Writes a marker until it is there. What is read decides, at first and after whatever was answered.
    async fn write_marker(
        &self,
        what: &str,
        marker: &Marker,
        judge: impl Fn(Option<(Marker, UpdateVersion)>) -> Result<Next, StoreError>,
    ) -> Result<Marker, StoreError> {
        let (patience, mut tries, mut written) = (Patience::new(), Tries::default(), false);
        loop {
            let mode = match judge(self.read_marker(&patience).await?)? {
                Next::Done(marker) => return Ok(marker),
                Next::Write(mode) => mode,
            };
            let failure = match self.put_marker(marker, mode, &patience).await {
                Ok(()) if !written => {
                    written = true;
                    continue;
                }
                Ok(()) => Failure::new(Kind::Broken, "it was written, the store said, and is not there"),
                Err(failure) if failure.kind == Kind::Exists => Failure { kind: Kind::Broken, ..failure },
                Err(failure) => failure,
            };
            let again = self.line().again(failure, &patience, &mut tries).await;
            again.map_err(|failure| self.line().error(what, failure))?;
        }
    }

    fn marker_path(&self) -> Path {
        path_of(&self.inner.prefix, KEY)
    }

    async fn read_marker(&self, patience: &Patience) -> Result<Option<(Marker, UpdateVersion)>, StoreError> {
        let read = self.small(&self.marker_path(), SMALL_BYTES_MAX, patience).await;
        let read = read.map_err(|failure| self.line().error("reading the marker of the prefix", failure))?;
        let Some((data, version)) = read else { return Ok(None) };
        match serde_json::from_slice::<Marker>(&data) {
            Ok(marker) if marker.format == FORMAT => Ok(Some((marker, version))),
            other => Err(StoreError::new(
                Trouble::Foreign,
                format!("store {:?}: reading {KEY}", self.name()),
                match other {
                    Ok(marker) => {
                        format!("it is of format {}, and this program knows {FORMAT}", marker.format)
                    }
                    Err(_) => "it is no marker".to_string(),
                },
                "take another prefix, or the version of epochlog that wrote it",
            )),
        }
    }

    async fn put_marker(&self, marker: &Marker, mode: PutMode, patience: &Patience) -> Result<(), Failure> {
        let data = serde_json::to_vec(marker).expect("a marker is plain data");
        let options = PutOptions { mode, ..PutOptions::default() };
        let path = self.marker_path();
        let put = self.backend().objects.put_opts(&path, PutPayload::from(data), options);
        self.line().once(0, patience, put).await.map(|_| ())
    }

    fn foreign(&self, marker: &Marker, cluster: Uuid) -> StoreError {
        StoreError::new(
            Trouble::Foreign,
            format!("store {:?}", self.name()),
            format!("its prefix belongs to cluster {}, and this is {cluster}", marker.cluster),
            "give each cluster a prefix of its own; nothing was written",
        )
    }

    fn unexpected(&self, marker: &Marker, expected: &Marker) -> StoreError {
        if marker.cluster != expected.cluster {
            return self.foreign(marker, expected.cluster);
        }
        let (why, advice) = match marker.store == expected.store {
            false => (
                "behind its address is another store than the one that this cluster wrote to",
                "bring the old one back, or give the new one another name; log mode goes on",
            ),
            true => (
                "somebody has deleted there whom this cluster's log does not know: a copy of all of its folders runs, too",
                "stop the copy, or the original; log mode goes on",
            ),
        };
        StoreError::new(Trouble::Foreign, format!("store {:?}", self.name()), why, advice)
    }

    fn unmarked(&self) -> StoreError {
        StoreError::new(
            Trouble::Foreign,
            format!("store {:?}", self.name()),
            "its marker is gone: the prefix was emptied, or another bucket is behind the address",
            "look what is there before anything is written; log mode goes on",
        )
    }
}
