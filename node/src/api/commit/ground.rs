//! A node as the ground of its commits.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{JobName, Limits, Store};
use client::Code;
use nativelog::ledger::{Ledger, STORES_RULES};
use nativelog::record::LogRecord;
use raft::{CutOff, Outcome, ProposalStream, ProposeError};

use crate::commit::Ground;
use crate::epochs;
use crate::known::Known;
use crate::node::Node;
use crate::pressure;

/// How long a commit waits for the epoch before it to be published here.
const PUBLISHING_PATIENCE: Duration = Duration::from_secs(5);

impl Ground for Node {
    type Stream = ProposalStream;

    fn node(&self) -> u64 {
        self.config.id
    }

    fn leads(&self) -> bool {
        self.replica.is_leader()
    }

    fn voters(&self) -> usize {
        Node::voters(self).len()
    }

    fn limits(&self) -> Limits {
        self.config.limits
    }

    fn propose(&self, record: LogRecord) -> impl Future<Output = Outcome> + Send + 'static {
        let replica = self.replica.clone();
        async move { replica.propose(record).await }
    }

    async fn stream(&self) -> Result<ProposalStream, ProposeError> {
        self.replica.stream().await
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.replica.read_barrier().await.map(drop)
    }

    fn ledger(&self) -> impl Deref<Target = Ledger> {
        self.replica.machine().ledger()
    }

    fn cut_off(&self) -> Option<CutOff> {
        self.replica.cut_off()
    }

    fn no_way(&self) -> (Code, &'static str) {
        Node::no_way(self)
    }

    /// One that is just being published is waited for, a little: sending its content again would take longer.
    async fn newest_files(&self, job: &JobName, store: Option<u64>) -> Known {
        let wanted = job.clone();
        let newest =
            epochs::elsewhere(self.replica.machine(), move |machine| epochs::newest(machine, &wanted));
        let Some(newest) = newest.await.map(|found| found.sealed) else { return Known::nothing() };
        let deadline = Instant::now() + PUBLISHING_PATIENCE;
        if let Err(why) = self.wait_published(job, newest.epoch, newest.root.as_bytes(), deadline).await {
            tracing::debug!(%job, epoch = newest.epoch, why, "an older epoch is taken for references");
        }
        Known::of(self.store.clone(), self.replica.machine().clone(), job.clone(), store).await
    }

    fn shelves(&self) -> Arc<Store> {
        self.store.clone()
    }

    fn has_room_for(&self, bytes: u64) -> Result<(), String> {
        // A disk that cannot be asked says so when it is written to.
        match self.space() {
            Ok(space) if !space.has_room_for(bytes) => Err(pressure::words(self.config.id, &space, None)),
            _ => Ok(()),
        }
    }

    fn too_old(&self) -> Option<String> {
        // One that has not said anything yet may know them.
        let told = self.replica.too_old_for(STORES_RULES).into_iter();
        let old: Vec<String> = told
            .filter_map(|(node, known)| known.map(|known| format!("node {node} knows rules up to {known}")))
            .collect();
        (!old.is_empty()).then(|| format!("{}, and {STORES_RULES} are needed", old.join(", ")))
    }

    fn stage(&self, stage: &'static str, took: Duration) {
        self.metrics.stage(stage, took);
    }
}
