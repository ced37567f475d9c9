//! gRPC by hand, below the library that would make it well-formed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use bytes::Bytes;

use crate::seed::Rng;

/// Bodies that are no message, with what is wrong about them. None decodes as any
/// protobuf message: a first byte 0x0f names a wire type that does not exist.
pub(super) fn bodies(rng: &mut Rng) -> Vec<(&'static str, Bytes)> {
    let mut noise = vec![0; 4096];
    rng.fill(&mut noise);
    noise[0] = 0x0f;
    vec![
        ("a frame of noise", framed(0, 4096, &noise)),
        ("a frame cut short", framed(0, 4096, &noise[..100])),
        ("half a frame header", Bytes::from_static(&[0, 0, 0])),
        ("a frame of 4 GiB", framed(0, u32::MAX, &noise)),
        ("a frame that says compressed", framed(1, 100, &noise[..100])),
        ("a field longer than its message", framed(0, 6, &[0x0a, 0xff, 0xff, 0xff, 0x7f, 0x01])),
        (
            "a length that never ends",
            framed(0, 12, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
    ]
}

fn framed(flag: u8, len: u32, body: &[u8]) -> Bytes {
    let mut frame = vec![flag];
    frame.extend(len.to_be_bytes());
    frame.extend(body);
    frame.into()
}

/// A header by which a peer of the test cluster could name itself, so that the
/// garbage behind it is looked at.
pub(super) fn peer_header(from: u64, to: u64) -> String {
    let mut message = vec![0x0a, 4];
    message.extend(b"main");
    message.extend([0x12, 4]);
    message.extend(b"test");
    message.extend([0x20, u8::try_from(from).expect("small"), 0x30, u8::try_from(to).expect("small")]);
    base64(&message)
}

fn base64(data: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in data.chunks(3) {
        let mut bits = 0u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(three.get(at).copied().unwrap_or(0));
        }
        for at in 0..=three.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}

/// How a call ended: its gRPC status and the first bytes of the answer's body.
pub(super) type Ended = (u32, Vec<u8>);

/// Posts a body and reads the answer to its end; `None` when the node closed the
/// call or the connection.
pub(super) async fn call(port: u16, path: &str, peer: Option<&str>, body: Bytes) -> Option<Ended> {
    let tcp = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let (sender, connection) = h2::client::handshake(tcp).await.ok()?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://127.0.0.1:{port}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(header) = peer {
        request = request.header("epochlog-peer-bin", header);
    }
    let status = async {
        let request = request.body(()).ok()?;
        let (response, mut stream) = sender.ready().await.ok()?.send_request(request, false).ok()?;
        stream.send_data(body, true).ok()?;
        let response = response.await.ok()?;
        let mut status = code(response.headers());
        let mut first = Vec::new();
        let mut body = response.into_body();
        while let Some(Ok(data)) = body.data().await {
            first.extend(data.iter().take(64));
            let _enough = body.flow_control().release_capacity(data.len());
        }
        if let Ok(Some(trailers)) = body.trailers().await {
            status = status.or(code(&trailers));
        }
        Some((status?, first))
    }
    .await;
    driver.abort();
    status
}

fn code(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Bytes that are not even HTTP, then a preface of HTTP/2 with noise behind it.
pub(super) fn noise(port: u16, rng: &mut Rng) {
    for preface in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ] {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
        let mut noise = vec![0; 10_000];
        rng.fill(&mut noise);
        let _refused = stream.set_read_timeout(Some(Duration::from_millis(300)));
        let _refused = stream.write_all(preface).and_then(|()| stream.write_all(&noise));
        let _answer = stream.read(&mut noise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_base64() {
        assert_eq!(base64(b"a"), "YQ");
        assert_eq!(base64(b"ab"), "YWI");
        assert_eq!(base64(b"abc\xff"), "YWJj/w");
    }
}
