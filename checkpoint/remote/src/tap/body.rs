//! Bodies as bytes.

use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;
use object_store::client::HttpError;

/// All of a body.
pub(crate) async fn whole<B>(mut body: B) -> Result<Bytes, HttpError>
where
    B: Body<Data = Bytes, Error = HttpError> + Unpin,
{
    let mut data = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(bytes) = frame?.into_data() {
            data.extend_from_slice(&bytes);
        }
    }
    Ok(data.into())
}

/// The same with one bit changed, in the last byte.
pub(crate) fn flipped(data: Bytes) -> Bytes {
    let mut data = data.to_vec();
    if let Some(byte) = data.last_mut() {
        *byte ^= 0x10;
    }
    data.into()
}
