//! One thing from whoever has it: manifests, payloads of log entries, pages, ranges and packed files of open attempts.
//! Peer after peer, several rounds; checked here before anybody sees it.

use bytes::Bytes;
use checkpoint::manifest::FileCollector;
use checkpoint::{Digest, Envelope, Manifest, digest};
use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::{EpochInfo, Page};
use nativelog::machine::PackedFile;
use nativelog::record::LogId;

use super::answers::{Answers, Said};
use super::ask::{self, Event, Items, Missed, Trouble};
use super::error::TransferError;
use super::gather::{Gather, ROUNDS};
use super::source::{Range, agrees};
use crate::config::{ITEM_BYTES_MAX, ITEMS_MAX, MANIFEST_BYTES_MAX};
use crate::positions::position;
use crate::proto::{self, Miss};

/// Bytes of ranges that are in memory at once.
const RANGE_BATCH_BYTES: u64 = 8 << 20;

/// An epoch whose manifest is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the ledger says of it.
    pub info: EpochInfo,
    /// The position of that ledger.
    pub at: u64,
}

/// What peers had of something: it, or the news that a later record ended it.
#[derive(Debug)]
pub enum Found<T> {
    /// Here it is.
    Here(T),
    /// It is needed no more.
    Ended,
}

/// What one peer said.
type Asked<T> = Result<Result<T, Missed>, Trouble>;
impl Gather {
    /// Tries `ask` at one peer after the other, several rounds; one where whoever asks goes on to a store.
    async fn anywhere<'a, T>(
        &'a self,
        what: &str,
        ask: impl Fn(u64) -> BoxFuture<'a, Asked<T>> + Send,
    ) -> Result<Found<T>, TransferError> {
        let mut said = Answers::default();
        let rounds = if self.way.is_some() { 1 } else { ROUNDS };
        for round in 0..rounds {
            if round > 0 {
                self.pause(round).await?;
            }
            for peer in self.holder_first() {
                match ask(peer).await {
                    Ok(Ok(found)) => return Ok(Found::Here(found)),
                    Ok(Err(missed)) if missed.miss == Miss::Ended => return Ok(Found::Ended),
                    Ok(Err(missed)) => said.add(peer, Said::missed(missed)),
                    Err(Trouble::Stopped) => return Err(TransferError::Stopped),
                    Err(trouble) => {
                        self.is_away(peer);
                        said.add(peer, Said::of(trouble));
                    }
                }
            }
        }
        Err(said.error(what.to_owned(), self.holder()))
    }

    /// The manifest of a sealed epoch, which says what the ledger says.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn manifest(&self, wanted: &Wanted) -> Result<Found<(Envelope, Manifest)>, TransferError> {
        let what = format!("the manifest of {}@{}", wanted.info.sealed.job, wanted.info.sealed.epoch);
        self.anywhere(&what, |peer| self.manifest_from(peer, wanted.clone()).boxed()).await
    }

    async fn manifest_from(&self, peer: u64, wanted: Wanted) -> Asked<(Envelope, Manifest)> {
        let Wanted { info, at } = wanted;
        let sealed = &info.sealed;
        let request = proto::ManifestRequest {
            job: sealed.job.to_string(),
            epoch: sealed.epoch,
            root: sealed.root.as_bytes().to_vec().into(),
            at,
            attempt: sealed.attempt,
        };
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_manifest(request)).await?;
        let mut items = Items::at_most(answer, MANIFEST_BYTES_MAX, &self.stop);
        // Read as it comes: its bytes are never in memory beside its entries.
        let mut collector = FileCollector::default();
        let mut came = false;
        while let Some(event) = items.next().await? {
            let data = match event {
                Event::Missed(_, missed) => return Ok(Err(missed)),
                Event::Data(_, data) => data,
                Event::Zeros(..) => return Err(came_wrong("zeros where a manifest should be")),
            };
            came = true;
            let pushed = tokio::task::spawn_blocking(move || collector.push(&data).map(|()| collector));
            collector = pushed
                .await
                .map_err(|_| came_wrong("a manifest that cannot be read"))?
                .map_err(came_wrong)?;
        }
        if !came {
            return Err(Trouble::Peer("an empty answer".into()));
        }
        match collector.finish() {
            Ok((envelope, tree)) if agrees(&envelope, &info) => Ok(Ok((envelope, tree))),
            Ok(_) => Err(came_wrong("a manifest that says something else than the ledger")),
            Err(error) => Err(came_wrong(error)),
        }
    }

    /// The payload of a log entry; the caller checks it.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn payload(&self, id: LogId, bytes_max: u64) -> Result<Bytes, TransferError> {
        let what = format!("the payload of entry {id}");
        let found = self.anywhere(&what, |peer| self.payload_from(peer, id, bytes_max).boxed()).await?;
        match found {
            Found::Here(bytes) => Ok(bytes),
            Found::Ended => Err(TransferError::Lacking { what, why: "the entry is purged".into() }),
        }
    }

    async fn payload_from(&self, peer: u64, id: LogId, bytes_max: u64) -> Asked<Bytes> {
        let request = proto::PayloadRequest { position: Some(position(id)) };
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_payload(request)).await?;
        let items = Items::at_most(answer, bytes_max, &self.stop).collect().await?.pop();
        items.ok_or_else(|| Trouble::Peer("an empty answer".into()))
    }

    /// Covered ranges of an open attempt, checked. They are few enough for one request.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn ranges(
        &self,
        attempt: u64,
        at: u64,
        ranges: &[Range],
    ) -> Result<Found<Vec<Bytes>>, TransferError> {
        let what = match ranges {
            [one] => format!("bytes {}..{} of file {}", one.offset, one.offset + one.len, one.file),
            _ => format!("ranges of attempt {attempt}"),
        };
        let found = self.anywhere(&what, |peer| self.ranges_from(peer, attempt, at, ranges.to_vec()).boxed());
        match found.await {
            // One peer may have the one, another the other.
            Err(TransferError::Nowhere { .. }) if ranges.len() > 1 => {
                let mut all = Vec::with_capacity(ranges.len());
                for range in ranges {
                    match Box::pin(self.ranges(attempt, at, std::slice::from_ref(range))).await? {
                        Found::Here(came) => all.extend(came),
                        Found::Ended => return Ok(Found::Ended),
                    }
                }
                Ok(Found::Here(all))
            }
            found => found,
        }
    }

    async fn ranges_from(&self, peer: u64, attempt: u64, at: u64, ranges: Vec<Range>) -> Asked<Vec<Bytes>> {
        let wanted = ranges.iter().map(|range| proto::RangeWanted {
            file: range.file,
            file_bytes: range.file_bytes,
            offset: range.offset,
            len: range.len,
            digest: range.digest.as_bytes().to_vec().into(),
        });
        let request = proto::RangesRequest { attempt, at, ranges: wanted.collect(), holes: true };
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_ranges(request)).await?;
        let sizes = ranges.iter().map(|range| range.len).collect();
        let items = Items::exactly(answer, sizes, &self.stop).collect().await?;
        self.checked(items, |item, data: &Bytes| {
            let range = &ranges[item];
            digest::subtree(range.file_bytes, range.offset, data) == range.digest
        })
    }

    /// Packed files of an open attempt, checked. They are few enough for one request.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn packed(
        &self,
        attempt: u64,
        at: u64,
        files: &[PackedFile],
    ) -> Result<Found<Vec<Bytes>>, TransferError> {
        let what = match files {
            [one] => format!("file {} of attempt {attempt}", one.file),
            _ => format!("packed files of attempt {attempt}"),
        };
        let wanted: Vec<(u32, u64, Digest)> =
            files.iter().map(|file| (file.file, file.size, file.digest)).collect();
        let found = self.anywhere(&what, |peer| self.packed_from(peer, attempt, at, wanted.clone()).boxed());
        match found.await {
            Err(TransferError::Nowhere { .. }) if files.len() > 1 => {
                let mut all = Vec::with_capacity(files.len());
                for file in files {
                    match Box::pin(self.packed(attempt, at, std::slice::from_ref(file))).await? {
                        Found::Here(came) => all.extend(came),
                        Found::Ended => return Ok(Found::Ended),
                    }
                }
                Ok(Found::Here(all))
            }
            found => found,
        }
    }

    /// Pages of the plan of an open attempt, checked. They are few enough for one request. Nobody says of one that it has
    /// ended: what becomes of the attempt behind the snapshot is judged by its plan.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn pages(&self, pages: &[Page]) -> Result<Vec<Bytes>, TransferError> {
        let Some(one) = pages.first() else { return Ok(Vec::new()) };
        let what = format!("page {} of the plan of attempt {}", one.page, one.attempt);
        let found = self.anywhere(&what, |peer| self.pages_from(peer, pages.to_vec()).boxed());
        match found.await {
            Err(TransferError::Nowhere { .. }) if pages.len() > 1 => {
                let mut all = Vec::with_capacity(pages.len());
                for page in pages {
                    all.extend(Box::pin(self.pages(std::slice::from_ref(page))).await?);
                }
                Ok(all)
            }
            Ok(Found::Here(came)) => Ok(came),
            Ok(Found::Ended) => Err(TransferError::Lacking { what, why: "its attempt has ended".into() }),
            Err(error) => Err(error),
        }
    }

    async fn pages_from(&self, peer: u64, pages: Vec<Page>) -> Asked<Vec<Bytes>> {
        let wanted = pages.iter().map(|page| proto::PageWanted {
            page: page.page,
            first: page.first,
            entries: page.entries,
            index: page.index,
            bytes: page.bytes,
            digest: page.digest.as_bytes().to_vec().into(),
        });
        let attempt = pages.first().map_or(0, |page| page.attempt);
        let request = proto::PagesRequest { attempt, pages: wanted.collect() };
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_pages(request)).await?;
        let sizes = pages.iter().map(|page| u64::from(page.bytes)).collect();
        let items = Items::exactly(answer, sizes, &self.stop).collect().await?;
        self.checked(items, |item, data: &Bytes| pages[item].is(data))
    }

    async fn packed_from(
        &self,
        peer: u64,
        attempt: u64,
        at: u64,
        files: Vec<(u32, u64, Digest)>,
    ) -> Asked<Vec<Bytes>> {
        let wanted = files.iter().map(|(file, size, digest)| proto::PackedWanted {
            file: *file,
            size: *size,
            digest: digest.as_bytes().to_vec().into(),
        });
        let request = proto::PackedRequest { attempt, at, files: wanted.collect() };
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_packed(request)).await?;
        let sizes = files.iter().map(|(_, size, _)| *size).collect();
        let items = Items::exactly(answer, sizes, &self.stop).collect().await?;
        self.checked(items, |item, data: &Bytes| digest::content(data) == files[item].2)
    }

    /// All items, when `is_good` says so of each.
    fn checked(
        &self,
        items: Vec<Result<Bytes, Missed>>,
        is_good: impl Fn(usize, &Bytes) -> bool,
    ) -> Asked<Vec<Bytes>> {
        let mut good = Vec::with_capacity(items.len());
        for (item, came) in items.into_iter().enumerate() {
            let data = match came {
                Ok(data) => data,
                Err(missed) => return Ok(Err(missed)),
            };
            if !is_good(item, &data) {
                return Err(came_wrong("bytes that do not verify"));
            }
            match digest::is_zero(&data) {
                true => self.progress.spared(data.len() as u64),
                false => self.progress.fetched(data.len() as u64),
            }
            good.push(data);
        }
        Ok(Ok(good))
    }
}

/// It verified before it left: what is wrong with it here says nothing of what is there.
fn came_wrong(what: impl std::fmt::Display) -> Trouble {
    Trouble::Peer(format!("what came does not verify: {what}"))
}

/// Groups items so that one request holds few enough of them and few enough bytes.
pub fn grouped<T: Clone>(items: &[T], bytes_of: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    const { assert!(RANGE_BATCH_BYTES <= ITEM_BYTES_MAX) };
    let mut all: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0u64;
    for item in items {
        let more = bytes_of(item);
        match all.last_mut() {
            Some(group) if group.len() < ITEMS_MAX && bytes + more <= RANGE_BATCH_BYTES => {
                group.push(item.clone());
                bytes += more;
            }
            _ => {
                all.push(vec![item.clone()]);
                bytes = more;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bounded_in_items_and_bytes() {
        let items = vec![4u64 << 20; 5];
        assert_eq!(grouped(&items, |size| *size).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        let tiny = vec![1u64; ITEMS_MAX + 1];
        assert_eq!(grouped(&tiny, |size| *size).iter().map(Vec::len).collect::<Vec<_>>(), [ITEMS_MAX, 1]);
    }
}
