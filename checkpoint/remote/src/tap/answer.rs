//! Reads an answer on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpResponse, HttpResponseBody};
use tokio::time::Instant;

use super::counts::Counts;
use super::seen::{Answering, DeleteFailure, Seen};
use super::verb::Verb;
use crate::limits::ERROR_BODY_BYTES_MAX;
use crate::xml::{element, elements, unescape};

// Longest answer about 1,000 keys, of a KiB each.
const BATCH_BODY_BYTES_MAX: usize = 4 << 20;

/// Notes what the answer says, and hands it on.
pub(super) async fn note(
    verb: Verb,
    answer: HttpResponse,
    seen: Option<Arc<Seen>>,
    counts: Arc<Counts>,
) -> Result<HttpResponse, HttpError> {
    let (parts, body) = answer.into_parts();
    counts.answered(verb, parts.status.is_success());
    if let Some(seen) = &seen {
        let mut facts = seen.facts();
        facts.status = Some(parts.status.as_u16());
        facts.broken = None;
        facts.credentials = None;
        facts.retry_after = retry_after(&parts.headers);
        facts.crc64 = whole_crc64(&parts.headers);
        facts.crc32c = goog_crc32c(&parts.headers);
        facts.moved = Instant::now();
        facts.answer = Some(Answering { begun: facts.moved, bytes: 0, at_leisure: verb == Verb::Complete });
    }
    let body = Moving { body, seen: seen.clone(), counts };
    let failed = !parts.status.is_success();
    // A success of these may hold errors, or too little.
    let inspect = failed || matches!(verb, Verb::DeleteBatch | Verb::Complete | Verb::List);
    if !inspect || verb == Verb::Head {
        return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
    }
    let bytes_max = if failed { ERROR_BODY_BYTES_MAX } else { BATCH_BODY_BYTES_MAX };
    let data = Bytes::from(take(body, bytes_max).await?);
    if let Some(seen) = &seen {
        let text = String::from_utf8_lossy(&data);
        let mut facts = seen.facts();
        match verb {
            Verb::DeleteBatch if !failed && is_multipart(&parts.headers) => {
                facts.statuses = statuses(&text);
            }
            Verb::DeleteBatch if !failed => {
                facts.not_deleted = not_deleted(&text);
                facts.deleted = Some(deleted(&text));
            }
            Verb::List if !failed => {
                facts.breaks_off = element(&text, "IsTruncated") == Some("true")
                    && element(&text, "NextContinuationToken").is_none_or(str::is_empty);
            }
            _ if failed || text.contains("<Error>") => {
                facts.code = element(&text, "Code").map(unescape);
                facts.message = element(&text, "Message").map(unescape);
            }
            _ => {}
        }
    }
    Ok(HttpResponse::from_parts(parts, data.into()))
}

async fn take(mut body: Moving, bytes_max: usize) -> Result<Vec<u8>, HttpError> {
    let mut data = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(bytes) = frame?.into_data() {
            let room = bytes_max - data.len();
            data.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if bytes.len() >= room {
                break;
            }
        }
    }
    Ok(data)
}

// A number of seconds; the other form is a date, which would need our clock to agree with the store's.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

// Of a whole object only: a composite value is one of the parts' checksums and ends in their number.
fn whole_crc64(headers: &HeaderMap) -> Option<u64> {
    if headers.get("x-amz-checksum-type").is_some_and(|kind| kind != "FULL_OBJECT") {
        return None;
    }
    let value = headers.get("x-amz-checksum-crc64nvme")?.to_str().ok()?;
    Some(u64::from_be_bytes(BASE64_STANDARD.decode(value).ok()?.try_into().ok()?))
}

// `x-goog-hash: crc32c=...,md5=...`, or one header for each.
fn goog_crc32c(headers: &HeaderMap) -> Option<u32> {
    let hashes = headers.get_all("x-goog-hash").into_iter().filter_map(|value| value.to_str().ok());
    let value =
        hashes.flat_map(|text| text.split(',')).find_map(|hash| hash.trim().strip_prefix("crc32c="))?;
    Some(u32::from_be_bytes(BASE64_STANDARD.decode(value).ok()?.try_into().ok()?))
}

// Azure's: an answer of its own for each key, by number.
fn is_multipart(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("multipart/"))
}

fn statuses(text: &str) -> BTreeMap<usize, u16> {
    let (mut statuses, mut id) = (BTreeMap::new(), None);
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.eq_ignore_ascii_case("content-id") {
            id = value.trim().parse().ok();
        } else if line.starts_with("HTTP/1.1 ")
            && let Some(status) = line.split(' ').nth(1).and_then(|status| status.parse().ok())
            && let Some(id) = id.take()
        {
            statuses.insert(id, status);
        }
    }
    statuses
}

fn deleted(text: &str) -> BTreeSet<String> {
    elements(text, "Deleted").into_iter().filter_map(|one| element(one, "Key").map(unescape)).collect()
}

fn not_deleted(text: &str) -> Vec<DeleteFailure> {
    let errors = elements(text, "Error").into_iter();
    errors
        .map(|error| DeleteFailure {
            key: element(error, "Key").map(unescape).unwrap_or_default(),
            code: element(error, "Code").map(unescape).unwrap_or_default(),
        })
        .collect()
}

// A body that says when it moves.
struct Moving {
    body: HttpResponseBody,
    seen: Option<Arc<Seen>>,
    counts: Arc<Counts>,
}

impl Body for Moving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let len = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.counts.received(len);
            if let Some(seen) = &self.seen {
                seen.moved(len);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn what_stores_report_of_a_whole_object_is_read() {
        // Both of "123456789", from the catalogue of CRC algorithms.
        let crc64 = headers(&[("x-amz-checksum-crc64nvme", "rosUhgp5mIg=")]);
        assert_eq!(whole_crc64(&crc64), Some(0xae8b_1486_0a79_9888));
        let composite =
            headers(&[("x-amz-checksum-crc64nvme", "rosUhgp5mIg="), ("x-amz-checksum-type", "COMPOSITE")]);
        assert_eq!(whole_crc64(&composite), None);
        assert_eq!(whole_crc64(&headers(&[("x-amz-checksum-crc64nvme", "rosUhgp5mIg=-3")])), None);
        let goog = headers(&[("x-goog-hash", "md5=AAAA, crc32c=4waSgw==")]);
        assert_eq!(goog_crc32c(&goog), Some(0xe306_9283));
        assert_eq!(retry_after(&headers(&[("retry-after", "5")])), Some(Duration::from_secs(5)));
        assert_eq!(retry_after(&headers(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")])), None);
    }

    #[test]
    fn the_keys_of_a_batch_that_stayed_are_read() {
        let text = "<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>p&amp;q</Key><Code>AccessDenied</Code>\
            <Message>no</Message></Error><Error><Key>c</Key><Code>InternalError</Code></Error></DeleteResult>";
        let failure = |key: &str, code: &str| DeleteFailure { key: key.into(), code: code.into() };
        assert_eq!(not_deleted(text), [failure("p&q", "AccessDenied"), failure("c", "InternalError")]);
        assert!(not_deleted("<DeleteResult><Deleted><Key>a</Key></Deleted></DeleteResult>").is_empty());
        assert_eq!(deleted(text), BTreeSet::from(["a".to_string()]));
    }

    #[test]
    fn the_answers_of_a_batch_in_parts_are_read() {
        let text = "--batch\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 202 Accepted\r\n\
            x-ms-version: 1\r\n\r\n--batch\r\ncontent-id: 2\r\n\r\nHTTP/1.1 403 no: not you\r\n\r\n--batch--\r\n";
        assert_eq!(statuses(text), BTreeMap::from([(0, 202), (2, 403)]));
    }
}
