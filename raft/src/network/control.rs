//! The control connection: votes, pre-votes, heartbeats, transfer of leadership; pulses, too, which `quorum` asks for. Every call is small
//! and ends within the time that openraft gives it.

use std::future::Future;
use std::time::Duration;

use openraft::errors::RPCError;
use openraft::network::{NetTransferLeader, NetVote, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use tonic::{Response, Status};

use super::{Network, convert, unreachable};
use crate::identity::Check;
use crate::network::peers::{Client, Lane};
use crate::proto;
use crate::terms;
use crate::types::TypeConfig;

type Failed = RPCError<TypeConfig>;

impl Network {
    fn control(&self) -> Result<Client, Failed> {
        let client = self.peers.client(self.target, &self.address, Lane::Control, Check::Full);
        client.map_err(|status| unreachable(self.target, &status))
    }

    async fn within<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failed> {
        match tokio::time::timeout(time, call).await {
            Ok(Ok(reply)) => {
                self.peers.reach().answered(self.target);
                Ok(reply.into_inner())
            }
            Ok(Err(status)) => Err(unreachable(self.target, &status)),
            Err(_) => {
                Err(unreachable(self.target, &Status::deadline_exceeded(format!("no answer for {time:?}"))))
            }
        }
    }

    /// What the answer says, unless it names a term that is too far ahead of this node's.
    fn read<T>(&self, named: impl IntoIterator<Item = u64>, decoded: Result<T, String>) -> Result<T, Failed> {
        let decoded = terms::in_reach(self.agreement.term(), named).and(decoded);
        decoded.map_err(|why| unreachable(self.target, &Status::data_loss(why)))
    }

    fn read_voted(&self, reply: &proto::VoteReply) -> Result<VoteResponse<TypeConfig>, Failed> {
        self.read(terms::of_vote(reply.vote.as_ref()), convert::take_voted(reply))
    }
}

impl NetVote<TypeConfig> for Network {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        let mut client = self.control()?;
        let reply = self.within(option.soft_ttl(), client.vote(convert::put_vote_request(&rpc))).await?;
        self.read_voted(&reply)
    }

    /// openraft's default grants; a peer that cannot be reached is an error here and grants nothing.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        let mut client = self.control()?;
        let reply = self.within(option.soft_ttl(), client.pre_vote(convert::put_vote_request(&rpc))).await?;
        self.read_voted(&reply)
    }
}

impl NetTransferLeader<TypeConfig> for Network {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Failed> {
        let mut client = self.control()?;
        let reply =
            self.within(option.soft_ttl(), client.transfer_leader(convert::put_transfer(&req))).await?;
        // openraft only tells the votes in it, it takes none of them over.
        self.read([], convert::take_transferred(&reply))
    }
}

/// Why nothing is sent to the others.
pub fn quiet() -> Status {
    Status::aborted("this leader steps down")
}

/// One heartbeat: an append request without entries, as a call of its own on the control connection.
pub async fn heartbeat(
    network: &Network,
    request: AppendEntriesRequest<TypeConfig>,
    time: Duration,
) -> Result<StreamAppendResult<TypeConfig>, Failed> {
    if network.peers.is_hushed() {
        return Err(unreachable(network.target, &quiet()));
    }
    let mut client = network.control()?;
    let agreement = &network.agreement;
    let request = proto::AppendRequest { ledger: agreement.own(), ..convert::put_append(request) };
    let beat = async {
        let reply = client.heartbeat(request).await;
        agreement.heard(network.target, reply.as_ref().map(drop));
        reply
    };
    let reply = network.within(time, beat).await?;
    network.heard.is_behind(network.target, reply.behind);
    network.read(terms::of_appended(&reply), convert::take_appended(&reply))
}
