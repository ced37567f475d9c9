//! Content for a restore, which is synchronous: the same as [`EpochContent`], waited for by a thread that may be blocked, and
//! left out where the node's own files can be read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::manifest::ManifestEntry;
use checkpoint::restore::{ContentSource, Sink, SourceError, Stop};

use super::Fetched;
use super::content::{EpochContent, length};
use crate::connect::Client;
use crate::pb;

/// How often a wait looks whether the restore shall end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Content of one epoch from the cluster, for [`checkpoint::restore::restore`], which is synchronous:
/// use it on a blocking thread of the runtime it was made on.
pub struct ReplicaContent {
    content: EpochContent,
    runtime: tokio::runtime::Handle,
    local: Option<PathBuf>,
    stop: Stop,
}

impl ReplicaContent {
    /// The content of what was fetched.
    pub fn new(client: Arc<Client>, fetched: &Fetched) -> ReplicaContent {
        ReplicaContent {
            content: EpochContent::new(client, fetched),
            runtime: tokio::runtime::Handle::current(),
            local: fetched.local_files(),
            stop: Stop::default(),
        }
    }

    /// Waits for no node any more once `stop` is set.
    pub fn end_with(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// Whether content is read from the node's own published files.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Fetches everything, even where the published files could be read.
    pub fn stream_only(&mut self) {
        self.local = None;
    }

    /// The next chunk, unless the restore shall end.
    fn next_chunk(&mut self, index: usize, offset: u64, size: u64) -> Result<pb::FileChunk, SourceError> {
        let (content, stop) = (&mut self.content, &self.stop);
        let chunk = self.runtime.block_on(async {
            tokio::select! {
                biased;
                chunk = content.read(index, offset, size) => Some(chunk),
                () = is_set(stop) => None,
            }
        });
        match chunk {
            Some(Ok(chunk)) => Ok(chunk),
            Some(Err(failure)) => Err(SourceError::Failed(Box::new(failure))),
            None => Err(SourceError::failed("it was stopped")),
        }
    }
}

async fn is_set(stop: &Stop) {
    while !stop.is_set() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl ContentSource for ReplicaContent {
    fn expect(&mut self, entries: &[Range<usize>]) {
        self.content.expect(entries);
    }

    fn fetch(&mut self, index: usize, entry: &ManifestEntry, sink: &mut dyn Sink) -> Result<(), SourceError> {
        let mut offset = 0;
        while offset < entry.size {
            let chunk = self.next_chunk(index, offset, entry.size)?;
            match chunk.payload.is_empty() {
                true => sink.zeros(chunk.zeros)?,
                false => sink.data(&chunk.payload)?,
            }
            offset += length(&chunk);
        }
        Ok(())
    }

    fn reject(&mut self, index: usize, why: &str) -> bool {
        self.content.reject(index, why)
    }

    fn local(&self, entry: &ManifestEntry) -> Option<PathBuf> {
        Some(self.local.as_ref()?.join(entry.path.as_os_str()))
    }
}
