//! What calls have in common: a stream of answers, a job by its name, a ledger that is current.

use std::pin::Pin;

use checkpoint::JobName;
use client::{Code, Failure};
use futures::Stream;
use tonic::Status;

use crate::node::Node;

/// The answers of a call that has several.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The job of this name.
pub fn job_name(name: &str) -> Result<JobName, Failure> {
    name.parse::<JobName>().map_err(|error| {
        Failure::new(Code::Usage, "the job's name cannot be used")
            .why(error.to_string())
            .fix("correct the name")
    })
}

/// Makes this node's ledger current, unless the caller is content with less.
pub async fn current(node: &Node, stale: bool, what: &str) -> Result<(), Failure> {
    if stale {
        return Ok(());
    }
    node.replica.read_barrier().await.map(drop).map_err(|error| {
        let (code, sentence) = node.no_way();
        Failure::new(code, format!("{sentence}, nothing could be read"))
            .what(what)
            .why(error.to_string())
            .fix("see `epochlog status`, start what is down; or read this node's own knowledge with --stale")
    })
}
