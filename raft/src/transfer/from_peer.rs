//! Contents from one peer. What it sends wrong is thrown away, and it is asked to look at it anew.

use std::collections::{BTreeMap, HashMap};

use checkpoint::Digest;
use checkpoint::store::{Content, Incoming, IncomingError};
use tokio::sync::mpsc;

use super::answers::Said;
use super::ask::{self, Event, Items, Trouble};
use super::error::{TransferError, blocking};
use super::gather::Gather;
use super::writer::{AHEAD, Part, write};
use crate::proto::{self, BlobWanted};

/// What is asked of each peer: where each content was brought.
pub(super) type Asked = HashMap<Digest, u64>;

impl Gather {
    /// What `peer` did not bring.
    pub(super) async fn bring_from(
        &self,
        peer: u64,
        contents: Vec<Content>,
        asked: &Asked,
    ) -> Result<Vec<(Content, Said)>, TransferError> {
        let arriving = self.open(contents).await?;
        let (arrived, wanted) =
            arriving.into_iter().partition::<Vec<_>, _>(|one| one.have() == one.content().size);
        let (arrived, mut left) = match wanted.is_empty() {
            true => (arrived, Vec::new()),
            false => self.receive(peer, arrived, wanted, asked).await?,
        };
        let contents: Vec<Content> = arrived.iter().map(Incoming::content).collect();
        let store = self.store().clone();
        let shelved = blocking(move || store.shelve(arrived)).await?;
        for (content, result) in contents.into_iter().zip(shelved) {
            match result {
                Ok(()) => {}
                Err(IncomingError::Store(error)) => return Err(TransferError::of_disk(&error)),
                Err(error @ IncomingError::Corrupt { .. }) => {
                    tracing::warn!(peer, %error, "a peer sent content that does not verify; it is thrown away and asked for elsewhere");
                    self.progress.came_wrong(content.size);
                    self.doubted().insert((peer, content.digest));
                    left.push((content, Said::Trouble(error.to_string())));
                }
            }
        }
        Ok(left)
    }

    /// Places for these, with what came before.
    ///
    /// # Errors
    /// The disk refuses, or another transfer brings one of them: nothing is opened then.
    pub(super) async fn open(&self, contents: Vec<Content>) -> Result<Vec<Incoming>, TransferError> {
        let store = self.store().clone();
        let opened = blocking(move || {
            let open = |content: Content| {
                store.incoming(content).map_err(|error| TransferError::of_incoming(&content, &error))
            };
            contents.into_iter().map(open).collect::<Result<Vec<Incoming>, _>>()
        });
        opened.await?
    }

    /// Takes `wanted` from `peer`, behind what is there. Answers with what is whole, `arrived` included, and
    /// with what is not.
    async fn receive(
        &self,
        peer: u64,
        mut arrived: Vec<Incoming>,
        wanted: Vec<Incoming>,
        asked: &Asked,
    ) -> Result<(Vec<Incoming>, Vec<(Content, Said)>), TransferError> {
        let blobs = wanted.iter().map(|one| {
            let Content { digest, size, .. } = one.content();
            let brought = asked.get(&digest).copied().unwrap_or_default();
            self.wanted_of(peer, digest, size, one.have(), brought)
        });
        let request = proto::BlobsRequest { blobs: blobs.collect(), holes: true };
        let sizes: Vec<u64> = request.blobs.iter().map(|blob| blob.size - blob.offset).collect();
        let (parts, taken) = mpsc::channel(AHEAD);
        let room = self.room.clone();
        let writer = tokio::task::spawn_blocking(move || write(wanted, taken, &room));
        let mut why: BTreeMap<usize, Said> = BTreeMap::new();
        let trouble = match self.blobs(peer, request, sizes, parts, &mut why).await {
            Ok(()) => None,
            Err(Trouble::Stopped) => Some(None),
            Err(trouble) => {
                self.is_away(peer);
                let said = Said::of(trouble);
                tracing::debug!(peer, why = said.why(), "a peer brings no more");
                Some(Some(said))
            }
        };
        // Also when it ends early: what the thread has must not be opened again before it lets go.
        let (wanted, written) =
            writer.await.map_err(|_| TransferError::Here("a thread of this node panicked".into()))?;
        written?;
        if let Some(None) = trouble {
            return Err(TransferError::Stopped);
        }
        let trouble = trouble.flatten().unwrap_or_else(|| Said::Trouble("it sent too little".into()));
        let mut left = Vec::new();
        for (item, one) in wanted.into_iter().enumerate() {
            if one.have() == one.content().size {
                arrived.push(one);
            } else {
                let why = why.remove(&item).unwrap_or_else(|| trouble.clone());
                left.push((one.content(), why));
            }
        }
        Ok((arrived, left))
    }

    fn wanted_of(&self, peer: u64, digest: Digest, size: u64, offset: u64, brought: u64) -> BlobWanted {
        let anew = self.doubted().contains(&(peer, digest));
        BlobWanted { digest: digest.as_bytes().to_vec().into(), size, offset, brought, anew }
    }

    /// Whether `peer` has a good copy: it verifies all of it and sends the last byte.
    pub async fn has(&self, peer: u64, digest: Digest, size: u64) -> Result<bool, TransferError> {
        let blob = self.wanted_of(peer, digest, size, size - 1, 0);
        let request = proto::BlobsRequest { blobs: vec![blob], holes: true };
        let asked = async {
            let mut client = ask::client(&self.peers, peer)?;
            let answer = ask::opened(&self.stop, client.fetch_blobs(request)).await?;
            Items::exactly(answer, vec![1], &self.stop).collect().await
        };
        match asked.await {
            Ok(items) => Ok(items.iter().all(Result::is_ok)),
            Err(Trouble::Stopped) => Err(TransferError::Stopped),
            Err(Trouble::Away(_) | Trouble::Peer(_)) => Ok(false),
        }
    }

    async fn blobs(
        &self,
        peer: u64,
        request: proto::BlobsRequest,
        sizes: Vec<u64>,
        parts: mpsc::Sender<(usize, Part)>,
        why: &mut BTreeMap<usize, Said>,
    ) -> Result<(), Trouble> {
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_blobs(request)).await?;
        let mut items = Items::exactly(answer, sizes, &self.stop);
        while let Some(event) = items.next().await? {
            let part = match event {
                Event::Missed(item, missed) => {
                    why.insert(item, Said::missed(missed));
                    continue;
                }
                Event::Data(item, data) => {
                    self.progress.fetched(data.len() as u64);
                    (item, Part::Data(data))
                }
                Event::Zeros(item, len) => {
                    self.progress.spared(len);
                    (item, Part::Zeros(len))
                }
            };
            // The writer ends before only when the disk refuses, and says so itself.
            if parts.send(part).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
