//! Nobody speaks for another node. Candidates and leaders are named by the vote that they bring; it has to name the node that
//! brings it, which proved its connection. So a node that is heard here can make this one follow itself, and nobody else.

use tonic::Status;

use crate::proto;

/// Whether `from` brings a vote of its own.
///
/// # Errors
/// `InvalidArgument`: there is none, or it is of another node.
pub fn is_of(from: u64, vote: Option<&proto::Vote>) -> Result<(), Status> {
    match vote {
        Some(vote) if vote.node == from => Ok(()),
        Some(vote) => Err(Status::invalid_argument(format!(
            "node {from} brings a vote of node {}: it may bring none but its own",
            vote.node
        ))),
        None => Err(Status::invalid_argument("a message without a vote")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_of_who_brings_it() {
        let vote = proto::Vote { term: 7, node: 2, committed: true };
        assert!(is_of(2, Some(&vote)).is_ok());
        assert!(is_of(1, Some(&vote)).unwrap_err().message().contains("vote of node 2"));
        assert!(is_of(2, None).is_err());
    }
}
