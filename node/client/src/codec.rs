//! The codec of the public API: protobuf, with a bound on how many tags and lengths one message may have. The requests
//! of Commit, which carry payloads, are read by [`uncopied`] with the same [`decode`].
//!
//! An empty sub-message takes two bytes on the wire and many times that in memory, so a limit on bytes alone
//! does not bound what decoding costs. Every message that either side makes stays far below this bound.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

use crate::pb;

/// Reads of a tag, a length or a number in one request, at most. A page of a plan takes about 80,000, and so
/// does a question about 10,000 epochs; a pack half of that.
const REQUEST_READS_MAX: usize = 1 << 17;

/// How much decoding a message may cost.
pub trait Cost {
    /// Reads of a tag, a length or a number, at most.
    const READS_MAX: usize;
}

macro_rules! costs {
    ($reads:expr => $($message:ident),+) => {
        $(impl Cost for pb::$message {
            const READS_MAX: usize = $reads;
        })+
    };
}

costs!(REQUEST_READS_MAX => CommitRequest, OpenWriterRequest, ReachedRequest, ListRequest, ShowRequest, ExpireRequest, AttemptsRequest, AbortRequest, RemoveJobRequest, FetchRequest,
    StatusRequest, VerifyRequest, GcRequest, VerifyObjectsRequest, PublishedOnRequest);
// A client trusts the nodes that it asks with more: a listing is long, and it is the only one to decode it.
costs!(1 << 23 => CommitReply, OpenWriterReply, ReachedReply, ListReply, ShowReply, ExpireReply, AttemptsReply, AbortReply, RemoveJobReply, FetchReply, StatusReply,
    VerifyReply, GcReply, VerifyObjectsReply, PublishedOnReply);

/// [`ProstCodec`] with a bound.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Cost + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Decodes messages within the bound.
#[derive(Debug)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default + Cost> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        decode(source).map(Some)
    }
}

/// Decodes a message within the bound.
///
/// # Errors
/// `InvalidArgument`.
pub fn decode<U: Message + Default + Cost>(source: &mut dyn Buf) -> Result<U, Status> {
    let mut bounded = Bounded { source, left: U::READS_MAX };
    U::decode(&mut bounded).map_err(|error| match bounded.left {
        0 => Status::invalid_argument("the message has too many fields"),
        _ => Status::invalid_argument(format!("the message cannot be decoded: {error}")),
    })
}

/// What is no varint.
const NO_VARINT: [u8; 16] = [0xff; 16];

/// A buffer that holds no varint any more after so many reads: the next tag or length ends the decoding.
struct Bounded<B> {
    source: B,
    left: usize,
}

impl<B: Buf> Buf for Bounded<B> {
    fn remaining(&self) -> usize {
        self.source.remaining()
    }

    fn chunk(&self) -> &[u8] {
        match self.left {
            0 => &NO_VARINT[..NO_VARINT.len().min(self.source.remaining())],
            _ => self.source.chunk(),
        }
    }

    fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(1);
        self.source.advance(count);
    }

    // A payload is shared, not copied, and costs nothing.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.source.copy_to_bytes(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: pb::commit_request::Kind) -> Vec<u8> {
        pb::CommitRequest { kind: Some(kind) }.encode_to_vec()
    }

    #[test]
    fn honest_messages_fit() {
        use checkpoint::limits::{PACK_FILES_MAX, PART_BYTES_MAX};
        let entry =
            pb::PlanEntry { path: "p".into(), kind: 1, mode: 0o644, size: u64::MAX, ..Default::default() };
        let page = pb::PlanPage { page: 9, entries: vec![entry; PART_BYTES_MAX / 41] };
        let bytes = request(pb::commit_request::Kind::Page(page));
        assert_eq!(decode::<pb::CommitRequest>(&mut &bytes[..]).unwrap().encode_to_vec(), bytes);
        let file = pb::PackedFile { file: 9, offset: 9, len: 9, digest: vec![1; 32].into() };
        let pack = pb::Pack { files: vec![file; PACK_FILES_MAX], payload: vec![0xff; 1 << 20].into() };
        let piece = pb::Piece { kind: Some(pb::piece::Kind::Pack(pack)) };
        let bytes = request(pb::commit_request::Kind::Piece(piece));
        assert_eq!(decode::<pb::CommitRequest>(&mut &bytes[..]).unwrap().encode_to_vec(), bytes);
        let wanted = pb::published_on_request::Wanted {
            job: "j".repeat(128),
            epoch: u64::MAX,
            root: vec![1; 32].into(),
        };
        let asked = pb::PublishedOnRequest { wanted: vec![wanted; 10_000], wait_ms: 1 };
        assert!(decode::<pb::PublishedOnRequest>(&mut &asked.encode_to_vec()[..]).is_ok());
    }

    #[test]
    fn a_message_of_empty_messages_is_refused() {
        for empty in [1_000_000, REQUEST_READS_MAX / 2] {
            let page = pb::PlanPage { page: 0, entries: vec![pb::PlanEntry::default(); empty] };
            let bytes = request(pb::commit_request::Kind::Page(page));
            let why = decode::<pb::CommitRequest>(&mut &bytes[..]).unwrap_err();
            assert!(why.message().contains("too many fields"), "{why}");
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_a_message_and_never_a_panic() {
        let start = pb::Start { job: "job".into(), plan_entries: 1 << 30, ..Default::default() };
        let bytes = request(pb::commit_request::Kind::Start(start));
        for len in 0..=bytes.len() {
            for left in 0..12 {
                let mut bounded = Bounded { source: &bytes[..len], left };
                let whole = pb::CommitRequest::decode(&mut bounded).is_ok();
                assert!(!whole || len == 0 || (len == bytes.len() && bounded.left <= 12), "{len} {left}");
            }
        }
    }
}
