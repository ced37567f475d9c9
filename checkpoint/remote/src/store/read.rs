//! Reading: ranges that are verified as they arrive.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange};

use super::Store;
use crate::content::{ObjectPlan, Sums};
use crate::error::{StoreError, Trouble};
use crate::line::{Failure, Kind, Patience, Tries};
use crate::name::ObjectName;
use crate::tap;

/// What a store knows of an object without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Length, bytes.
    pub len: u64,
    pub(crate) crc64: Option<u64>,
    pub(crate) crc32c: Option<u32>,
}

/// What a comparison of an object with its plan came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// The same, as the store's own checksum says.
    ByChecksum,
    /// The same, read back.
    ByReading,
    Missing,
    /// Not the same; in what.
    Different(String),
}

impl Head {
    /// Whether the store reports a checksum.
    pub(crate) fn reports(&self) -> bool {
        self.crc64.is_some() || self.crc32c.is_some()
    }

    /// Whether the checksum that the store reports, if any, is that of these bytes.
    pub(crate) fn agrees(&self, sums: &Sums) -> Option<bool> {
        agree(self.crc64, self.crc32c, sums)
    }
}

pub(super) fn agree(crc64: Option<u64>, crc32c: Option<u32>, sums: &Sums) -> Option<bool> {
    crc64.map(|crc| crc == sums.crc64).or(crc32c.map(|crc| crc == sums.crc32c))
}

impl Store {
    /// The bytes `[offset, offset + len)` of an object, verified. Whole leaves are fetched, one after another; who
    /// wants more at once asks for several ranges at once.
    ///
    /// # Errors
    /// `Missing`; `Damaged` when what came is, twice, not what the plan says (it names the object and the range);
    /// `Away`, `Denied`, `Refused`.
    ///
    /// # Panics
    /// When the range is not within the plan.
    pub async fn get(
        &self,
        name: &ObjectName,
        plan: &ObjectPlan,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, StoreError> {
        let end = offset.checked_add(len).filter(|end| *end <= plan.len_bytes());
        let end = end.expect("the range is within the object");
        if len == 0 {
            return Ok(Bytes::new());
        }
        let (first, last) = (plan.leaf_at(offset), plan.leaf_at(end - 1));
        let cut = |index: usize, leaf: Bytes| {
            let (at, leaf_len) = plan.leaf_range(index);
            leaf.slice((offset.max(at) - at) as usize..(end.min(at + leaf_len) - at) as usize)
        };
        if first == last {
            return Ok(cut(first, self.get_leaf(name, plan, first).await?));
        }
        let mut data = BytesMut::with_capacity(len as usize);
        for index in first..=last {
            data.extend_from_slice(&cut(index, self.get_leaf(name, plan, index).await?));
        }
        Ok(data.freeze())
    }

    /// The bytes `[offset, offset + len)` of an object, as they come: for who knows the digest of what lies there and has no
    /// plan of the object.
    ///
    /// # Errors
    /// `Missing`; `Damaged` when the object ends before; `Away`, `Denied`, `Refused`.
    pub async fn read_unverified(
        &self,
        name: &ObjectName,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, StoreError> {
        let range = offset..offset.saturating_add(len);
        let what = || format!("reading bytes {}-{} of {name}", range.start, range.end);
        let read = self.range(&self.path(name), range.clone(), &Patience::new()).await;
        let read = read.map_err(|failure| self.line().error(what(), failure))?;
        if read.len() as u64 == len {
            return Ok(read);
        }
        Err(StoreError::new(
            Trouble::Damaged,
            format!("store {:?}: {}", self.name(), what()),
            format!("{} bytes came", read.len()),
            "the object is not what was written",
        ))
    }

    /// Leaf `index` of an object, verified; see [`Store::get`].
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn get_leaf(
        &self,
        name: &ObjectName,
        plan: &ObjectPlan,
        index: usize,
    ) -> Result<Bytes, StoreError> {
        let (offset, len) = plan.leaf_range(index);
        let range = offset..offset + len;
        let what = || format!("reading bytes {}-{} of {name}", range.start, range.end);
        let patience = Patience::new();
        // Once more: the bytes may have been hurt on their way.
        for _ in 0..2 {
            let leaf = self.range(&self.path(name), range.clone(), &patience).await;
            let leaf = leaf.map_err(|failure| self.line().error(what(), failure))?;
            if plan.is_leaf(index, &leaf) {
                return Ok(leaf);
            }
            tracing::warn!(store = self.name(), %name, offset, len, got = leaf.len(), "a range does not verify");
        }
        Err(StoreError::new(
            Trouble::Damaged,
            format!("store {:?}: {}", self.name(), what()),
            "twice something else came than was written",
            "another copy has these bytes: a node that published the epoch can put the object back",
        ))
    }

    /// What the store says of an object; `None` when it is not there.
    ///
    /// # Errors
    /// `Away`, `Denied`, `Refused`.
    pub async fn head(&self, name: &ObjectName) -> Result<Option<Head>, StoreError> {
        let head = self.head_of(&self.path(name), &Patience::new()).await;
        head.map_err(|failure| self.line().error(format!("asking for {name}"), failure))
    }

    pub(crate) async fn head_of(&self, path: &Path, patience: &Patience) -> Result<Option<Head>, Failure> {
        if let Some(file) = self.file_of(path) {
            let len = self.file_len(file, patience).await?;
            return Ok(len.map(|len| Head { len, crc64: None, crc32c: None }));
        }
        let objects = &self.backend().objects;
        let call = || objects.get_opts(path, GetOptions { head: true, ..GetOptions::default() });
        match self.line().until_answered(0, patience, call).await {
            Ok((got, facts)) => {
                Ok(Some(Head { len: got.meta.size, crc64: facts.crc64, crc32c: facts.crc32c }))
            }
            Err(failure) if failure.kind == Kind::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// What came for a range, unverified; shorter when the object is.
    pub(crate) async fn range(
        &self,
        path: &Path,
        range: Range<u64>,
        patience: &Patience,
    ) -> Result<Bytes, Failure> {
        let len = (range.end - range.start) as usize;
        let mut tries = Tries::default();
        loop {
            let options =
                GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            let read = match self.file_of(path) {
                Some(file) => self.read_file(file, range.clone(), patience).await,
                None => {
                    let read = self.line().once(0, patience, self.collect(path, options, len)).await;
                    read.map(|(data, _)| data)
                }
            };
            match read {
                Ok(data) => return Ok(data),
                // The object ends before.
                Err(failure) if failure.status == Some(416) => return Ok(Bytes::new()),
                Err(failure) if failure.status == Some(200) => {
                    let why = "the store answers a range with the whole object";
                    let advice = Some(
                        "epochs cannot be read from such a store; `store check` says what else it lacks",
                    );
                    return Err(Failure { advice, ..Failure::new(Kind::Refused, why) });
                }
                // Without a condition a conflict is one of the store's own, and passes.
                Err(failure) if failure.kind == Kind::Exists => {
                    let failure = Failure { kind: Kind::Broken, ..failure };
                    self.line().again(failure, patience, &mut tries).await?;
                }
                Err(failure) => self.line().again(failure, patience, &mut tries).await?,
            }
        }
    }

    /// A small object, whole; `None` when it is not there.
    pub(crate) async fn small(
        &self,
        path: &Path,
        bytes_max: u64,
        patience: &Patience,
    ) -> Result<Option<(Bytes, object_store::UpdateVersion)>, Failure> {
        let too_long = || {
            let why = format!("it has more than {bytes_max} bytes: it is none of ours");
            Failure::new(Kind::Refused, why)
        };
        if self.is_folder() {
            let version = object_store::UpdateVersion { e_tag: None, version: None };
            // Opened once: another file may be renamed there at any time.
            return match self.range(path, 0..bytes_max + 1, patience).await {
                Ok(data) if data.len() as u64 > bytes_max => Err(too_long()),
                Ok(data) => Ok(Some((data, version))),
                Err(failure) if failure.kind == Kind::Missing => Ok(None),
                Err(failure) => Err(failure),
            };
        }
        let objects = &self.backend().objects;
        let call = || async {
            let got = objects.get_opts(path, GetOptions::default()).await?;
            let meta = got.meta.clone();
            let version = object_store::UpdateVersion { e_tag: meta.e_tag, version: meta.version };
            let data = match meta.size > bytes_max {
                true => None,
                false => Some(gather(got.into_stream(), bytes_max as usize).await?),
            };
            Ok((data, version))
        };
        match self.line().until_answered(0, patience, call).await {
            Ok(((Some(data), version), _)) => Ok(Some((data, version))),
            Ok(((None, _), _)) => Err(too_long()),
            Err(failure) if failure.kind == Kind::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn collect(
        &self,
        path: &Path,
        options: GetOptions,
        bytes_max: usize,
    ) -> object_store::Result<Bytes> {
        let got = self.backend().objects.get_opts(path, options).await?;
        gather(got.into_stream(), bytes_max).await
    }

    /// Reads all of an object and compares it, leaf by leaf.
    pub(super) async fn read_back(
        &self,
        path: &Path,
        plan: &ObjectPlan,
        patience: &Patience,
    ) -> Result<Compared, Failure> {
        let leaves = futures::stream::iter(0..plan.leaves().len()).map(|index| async move {
            let (offset, len) = plan.leaf_range(index);
            let leaf = self.range(path, offset..offset + len, patience).await?;
            Ok::<_, Failure>((!plan.is_leaf(index, &leaf)).then_some(offset))
        });
        let mut leaves = leaves.buffer_unordered(self.line().limits.requests.max(1));
        while let Some(result) = leaves.next().await {
            match result {
                Ok(None) => {}
                Ok(Some(offset)) => {
                    return Ok(Compared::Different(format!("read back, it differs in the part at {offset}")));
                }
                Err(failure) if failure.kind == Kind::Missing => return Ok(Compared::Missing),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Compared::ByReading)
    }
}

// At most `bytes_max`, and a byte more when there is one: who asked sees that it is too long.
async fn gather(
    mut stream: futures::stream::BoxStream<'static, object_store::Result<Bytes>>,
    bytes_max: usize,
) -> object_store::Result<Bytes> {
    let Some(first) = stream.next().await.transpose()? else { return Ok(Bytes::new()) };
    tap::moved();
    let Some(second) = stream.next().await.transpose()? else { return Ok(first) };
    let mut data = BytesMut::with_capacity(bytes_max);
    data.extend_from_slice(&first);
    data.extend_from_slice(&second);
    while let Some(chunk) = stream.next().await.transpose()? {
        data.extend_from_slice(&chunk);
        if data.len() > bytes_max {
            break;
        }
    }
    Ok(data.freeze())
}
