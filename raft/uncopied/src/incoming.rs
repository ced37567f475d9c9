//! From a body to messages.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Buf;
use http_body::Body as _;
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Request, Status, Streaming};

use crate::PREFIX_BYTES;
use crate::rope::Rope;
use crate::slot::Slot;

/// Makes a message of all that the buffer has.
pub type Decode<M> = fn(&mut dyn Buf) -> Result<M, Status>;

/// Decodes without a bound on what a message costs in memory: for messages of those who are trusted.
///
/// # Errors
/// `Internal`.
pub fn decode<M: Message + Default>(source: &mut dyn Buf) -> Result<M, Status> {
    M::decode(source).map_err(|error| Status::internal(format!("no message of this call: {error}")))
}

/// The messages of a request, as they come.
///
/// A large `bytes` field is a slice of what came where that is in one piece, and keeps it in memory: at most two
/// HTTP/2 frames.
#[derive(Debug)]
pub struct Incoming<M> {
    body: Body,
    /// At most one message and one frame.
    rope: Rope,
    /// Of the message whose prefix was read.
    len: Option<usize>,
    len_max: usize,
    decode: Decode<M>,
}

impl<M> Incoming<M> {
    /// Takes the body that an [`Inlet`](crate::Inlet) has put aside. Messages have at most `len_max` bytes.
    ///
    /// # Errors
    /// `Internal`: there is none; the service is not in an inlet, or not this path.
    pub fn take(
        request: &mut Request<Streaming<M>>,
        len_max: usize,
        decode: Decode<M>,
    ) -> Result<Incoming<M>, Status> {
        let body = request.extensions_mut().remove::<Slot>().and_then(|slot| slot.take());
        let body = body.ok_or_else(|| Status::internal("the body of this call was not put aside"))?;
        Ok(Incoming::new(body, len_max, decode))
    }

    /// The messages in `body`, each of at most `len_max` bytes.
    pub fn new(body: Body, len_max: usize, decode: Decode<M>) -> Incoming<M> {
        Incoming { body, rope: Rope::default(), len: None, len_max, decode }
    }

    /// The next message; `None` at the end, also when the caller gave up the call.
    ///
    /// May be dropped and called again.
    ///
    /// # Errors
    /// The connection is lost, or what came is no message: the stream is of no use then.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.decoded()? {
                return Ok(Some(message));
            }
            let body = &mut self.body;
            match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
                Some(Ok(frame)) => {
                    // Trailers of a request say nothing.
                    if let Ok(data) = frame.into_data() {
                        self.rope.add(data);
                    }
                }
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.len.is_none() && self.rope.len() == 0 => return Ok(None),
                None => return Err(Status::internal("the stream ended within a message")),
            }
        }
    }

    /// The message that has come completely, if one has.
    fn decoded(&mut self) -> Result<Option<M>, Status> {
        let len = match self.len {
            Some(len) => len,
            None if self.rope.len() < PREFIX_BYTES => return Ok(None),
            None => {
                self.rope.close();
                if self.rope.get_u8() != 0 {
                    return Err(Status::internal("a compressed message; nothing is compressed here"));
                }
                let len = self.rope.get_u32() as usize;
                if len > self.len_max {
                    let max = self.len_max;
                    return Err(Status::out_of_range(format!("a message of {len} bytes; {max} may be")));
                }
                *self.len.insert(len)
            }
        };
        if self.rope.len() < len {
            return Ok(None);
        }
        self.len = None;
        self.rope.close();
        (self.decode)(&mut (&mut self.rope).take(len)).map(Some)
    }
}
