//! How much room contents take that are to be brought: not what they are long, but what they hold.
//!
//! A holder says so of each, by where its file has data. Its word decides only whether the transfer is begun: what is
//! written is checked against the room part by part, so that a wrong word fills no disk. Of what nobody says anything
//! (a peer that does not know the question among them), the length counts.

use checkpoint::store::Content;

use super::answers::Said;
use super::ask::{self, Trouble};
use super::error::TransferError;
use super::gather::{CONTENTS_AT_ONCE, Gather};
use crate::config::ITEMS_MAX;
use crate::proto::{BlobNamed, StoredRequest};

/// Contents at least so large are asked about in any case, lest their holes pass for room that is spoken for: a call
/// costs little beside them.
const ALWAYS_BYTES_MIN: u64 = 64 << 20;
/// Contents at least so large are asked about when not all fits by its length.
const SHORT_BYTES_MIN: u64 = 1 << 20;

/// What contents take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Takes {
    /// Without their holes, as far as these are known.
    pub stored: u64,
    /// The holes.
    pub holes: u64,
}

impl Gather {
    /// What `contents` take on this disk, if that fits.
    ///
    /// # Errors
    /// [`TransferError::Full`], or the transfer has to end.
    pub async fn fits_as_stored(&self, contents: &[Content]) -> Result<Takes, TransferError> {
        let bytes: u64 = contents.iter().map(|content| content.size).sum();
        // Where nothing fits at all nobody is asked.
        self.check()?;
        let least = if self.fits(bytes).is_ok() { ALWAYS_BYTES_MIN } else { SHORT_BYTES_MIN };
        let mut holes = 0;
        for some in contents.chunks(CONTENTS_AT_ONCE) {
            let large: Vec<Content> = some.iter().filter(|content| content.size >= least).copied().collect();
            for asked in large.chunks(ITEMS_MAX) {
                holes += self.holes_of(asked.to_vec()).await?;
            }
        }
        let stored = bytes.saturating_sub(holes);
        self.fits(stored)?;
        Ok(Takes { stored, holes })
    }

    /// Bytes of holes in these, as the first peer says that has each.
    async fn holes_of(&self, mut unknown: Vec<Content>) -> Result<u64, TransferError> {
        let mut holes = 0;
        for peer in self.order() {
            if unknown.is_empty() {
                break;
            }
            match self.stored_at(peer, &unknown).await {
                Ok(stored) => {
                    let mut told = stored.into_iter();
                    unknown.retain(|content| match told.next().flatten() {
                        Some(stored) => {
                            holes += content.size.saturating_sub(stored);
                            false
                        }
                        None => true,
                    });
                }
                Err(Trouble::Stopped) => return Err(TransferError::Stopped),
                Err(trouble) => {
                    if let Trouble::Away(_) = &trouble {
                        self.is_away(peer);
                    }
                    let said = Said::of(trouble);
                    tracing::debug!(
                        peer,
                        why = said.why(),
                        "a peer does not say how much room contents take"
                    );
                }
            }
        }
        Ok(holes)
    }

    /// What each of these takes at `peer`, where it has it.
    async fn stored_at(&self, peer: u64, contents: &[Content]) -> Result<Vec<Option<u64>>, Trouble> {
        let blobs = contents.iter().map(|content| BlobNamed {
            digest: content.digest.as_bytes().to_vec().into(),
            size: content.size,
        });
        let request = StoredRequest { blobs: blobs.collect() };
        let mut client = ask::client(&self.peers, peer)?;
        let reply = ask::opened(&self.stop, client.stored_bytes(request)).await?;
        if reply.blobs.len() != contents.len() {
            return Err(Trouble::Peer("not as many answers as questions".into()));
        }
        Ok(reply.blobs.into_iter().map(|blob| blob.bytes).collect())
    }
}
