//! The leader's part of a snapshot.
//!
//! The call lasts until the follower has installed it, and that is as long as its content takes to come: there
//! is no deadline. A follower that is gone is noticed by the connection's keepalive. Everything that the
//! snapshot refers to is pinned here until the answer, so that there is one peer that surely has it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{NetSnapshot, RPCOption};
use openraft::raft::SnapshotResponse;
use tonic::Status;

use super::{Network, convert, unreachable};
use crate::config::PART_BYTES;
use crate::identity::Check;
use crate::network::peers::Lane;
use crate::proto::{self, snapshot_part::Part};
use crate::snapshot::{Snap, SnapshotData};
use crate::terms;
use crate::types::{RaftVote, TypeConfig, raft_vote, vote as our_vote};

/// How long the follower may take to say that it is there.
const PROBE: Duration = Duration::from_secs(1);

/// Head and bytes of a ledger as parts.
pub fn parts(head: proto::SnapshotHead, ledger: Bytes) -> impl Stream<Item = proto::SnapshotPart> + Send {
    let head = std::iter::once(Part::Head(head));
    let data = (0..ledger.len())
        .step_by(PART_BYTES)
        .map(move |at| Part::Data(ledger.slice(at..ledger.len().min(at + PART_BYTES))));
    futures::stream::iter(head.chain(data).map(|part| proto::SnapshotPart { part: Some(part) }))
}

impl Network {
    /// Ok when the node answers at all.
    async fn probe(&self) -> Result<(), Status> {
        let mut client = self.peers.client(self.target, &self.address, Lane::Control, Check::Introduction)?;
        let answer = tokio::time::timeout(PROBE, client.hello(proto::HelloRequest {})).await;
        answer.map_err(|_| Status::deadline_exceeded("no answer"))?.map(drop)
    }
}

impl NetSnapshot<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snap,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let target = self.target;
        let failed = |why: &dyn std::fmt::Display| {
            StreamingError::Unreachable(Unreachable::from_string(format!("node {target}: {why}")))
        };
        let capture = snapshot.snapshot.capture().map_err(|why| failed(&why))?;
        let head = proto::SnapshotHead {
            vote: convert::put_vote(our_vote(&vote)),
            meta: Some(convert::put_snapshot_meta(&capture.meta).map_err(|why| failed(&why))?),
            bytes: capture.ledger.len() as u64,
        };
        let position = capture.meta.position;
        self.probe().await.map_err(|status| failed(&status.message()))?;
        let pin = snapshot.snapshot.pin().await.map_err(|why| failed(&why))?;
        let client = self.peers.client(target, &self.address, Lane::Transfer, Check::Full);
        let mut client = client.map_err(|status| failed(&status.message()))?;
        tracing::info!(target, %position, bytes = head.bytes, "a snapshot is sent: the entries that the node needs are purged here");
        let call = client.install_snapshot(parts(head, capture.ledger.clone()));
        let reply = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            reply = call => reply,
        };
        // Let go only now of what it refers to.
        drop(pin);
        match reply {
            Ok(reply) => {
                let vote = convert::take_vote(reply.get_ref().vote.as_ref()).map_err(|why| failed(&why))?;
                terms::in_reach(self.agreement.term(), [vote.term]).map_err(|why| failed(&why))?;
                Ok(SnapshotResponse::new(raft_vote(vote)))
            }
            Err(status) => {
                tracing::warn!(target, %position, why = status.message(), "a snapshot is not installed yet; it is sent again");
                Err(unreachable(target, &status).into())
            }
        }
    }
}
