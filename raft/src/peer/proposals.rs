//! Proposals from elsewhere to this leader.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use uncopied::Incoming;

use super::owned::Owned;
use crate::leader::Leadership;
use crate::propose::{self, Answer, Proposal, Proposer};
use crate::proto;

/// Feeds proposals from elsewhere to this leadership. Ends with it.
pub fn replies(
    proposer: Arc<Proposer>,
    leadership: Arc<Leadership>,
    mut requests: Incoming<proto::ProposeRequest>,
) -> impl Stream<Item = Result<proto::ProposeReply, Status>> + Send {
    let (sender, proposals) = mpsc::channel(1);
    let (answers, answered) = mpsc::unbounded_channel();
    let intake = proposer.intake.clone();
    tokio::spawn(proposer.run(leadership, proposals));
    let reader = Owned(tokio::spawn(async move {
        loop {
            // The replies end when this ends, so it must not wait for a request that never comes.
            let request = tokio::select! {
                request = requests.message() => request,
                () = sender.closed() => break,
            };
            let Ok(Some(request)) = request else { break };
            let seq = request.seq;
            let answers = answers.clone();
            let record = match propose::decode_request(request) {
                Ok(record) => record,
                Err(why) => {
                    let outcome = Ok((Default::default(), propose::malformed(why)));
                    drop(answers.send(Ok(propose::encode_reply(seq, outcome))));
                    continue;
                }
            };
            let permit = tokio::select! {
                permit = intake.permit(&record) => permit,
                () = sender.closed() => break,
            };
            let permit = match permit {
                Ok(permit) => permit,
                Err(error) => {
                    drop(answers.send(Ok(propose::encode_reply(seq, Err(error)))));
                    continue;
                }
            };
            let answer: Answer =
                Box::new(move |outcome| drop(answers.send(Ok(propose::encode_reply(seq, outcome)))));
            if sender.send(Proposal { record, permit, answer }).await.is_err() {
                break;
            }
        }
    }));
    async_stream::stream! {
        let _reader = reader;
        let mut answered = UnboundedReceiverStream::new(answered);
        while let Some(answer) = answered.next().await {
            yield answer;
        }
    }
}
