//! Fetching many ranges of many objects at once, each verified as it arrives.

use std::ops::Range;

use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::Store;
use crate::content::ObjectPlan;
use crate::error::StoreError;
use crate::name::ObjectName;
use crate::runtime::apart;

/// What is wanted of one object.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The object.
    pub name: ObjectName,
    /// What it must be.
    pub plan: ObjectPlan,
    /// The bytes that are wanted, in any order; they may touch or overlap, and lie within the plan.
    pub ranges: Vec<Range<u64>>,
}

/// A leaf of an object that was wanted: a range of it, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which object: its place in the list that was wanted.
    pub wanted: usize,
    /// Where the leaf begins in the object, bytes.
    pub offset: u64,
    /// The leaf's bytes: also those around what was wanted.
    pub data: Bytes,
}

impl Wanted {
    /// All of an object.
    pub fn whole(name: ObjectName, plan: ObjectPlan) -> Wanted {
        let all = 0..plan.len_bytes();
        Wanted { name, plan, ranges: vec![all] }
    }

    // The leaves that hold a byte that is wanted, each once.
    fn leaves(&self) -> Vec<usize> {
        let mut leaves: Vec<usize> = self
            .ranges
            .iter()
            .filter(|range| !range.is_empty())
            .flat_map(|range| self.plan.leaf_at(range.start)..=self.plan.leaf_at(range.end - 1))
            .collect();
        leaves.sort_unstable();
        leaves.dedup();
        leaves
    }
}

impl Store {
    /// The leaves that hold what is wanted, as they arrive, in no order, each once; as many at once as the store's bound
    /// of requests allows. One that fails (see [`Store::get_leaf`]) comes as its error, with its object's place in the
    /// list, and keeps no other: who reads goes on, or drops the stream. What is under way goes on while nobody asks
    /// for the next: a reader that pauses holds as many leaves in memory, and keeps nobody from the store.
    ///
    /// # Panics
    /// When a range is not within its plan.
    pub fn fetch<'a>(
        &'a self,
        wanted: &'a [Wanted],
    ) -> impl Stream<Item = Result<Fetched, (usize, StoreError)>> + Send + 'a {
        let leaves = wanted.iter().enumerate().flat_map(|(at, object)| {
            let inside =
                |range: &Range<u64>| range.start <= range.end && range.end <= object.plan.len_bytes();
            assert!(object.ranges.iter().all(inside), "the ranges are within the object");
            object.leaves().into_iter().map(move |leaf| (at, leaf))
        });
        let fetch = move |(at, leaf): (usize, usize)| async move {
            let (store, name, plan) = (self.clone(), wanted[at].name, wanted[at].plan.clone());
            let offset = plan.leaf_range(leaf).0;
            let data = apart(async move { store.get_leaf(&name, &plan, leaf).await }).await;
            Ok(Fetched { wanted: at, offset, data: data.map_err(|error| (at, error))? })
        };
        futures::stream::iter(leaves.collect::<Vec<_>>())
            .map(fetch)
            .buffer_unordered(self.line().limits.requests.max(1))
    }
}
