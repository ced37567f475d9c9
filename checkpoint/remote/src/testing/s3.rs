//! An S3 in memory: as much of it as the crate's requests need, and the bad habits of real ones as switches.

mod many;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use http::{HeaderMap, StatusCode};
use object_store::client::HttpResponse;

use crate::tap::Verb;

/// What a store does otherwise than Amazon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// `If-None-Match` and `If-Match` hold.
    pub conditional: bool,
    /// A wrong checksum of a body is refused.
    pub checks: bool,
    /// The checksum of the whole object is reported.
    pub reports: bool,
    /// Ranges are served.
    pub ranges: bool,
    /// Keys on a page of a listing.
    pub page: usize,
    /// An object loses its last byte when it is put together from parts.
    pub loses_tails: bool,
    /// Whether a create may be is looked at when it arrives, and it is written later.
    pub races: bool,
    /// A complete that comes again after a delete brings the object back.
    pub revives: bool,
    /// What was written last is not listed yet.
    pub lists_late: bool,
    /// Open uploads are listed.
    pub lists_uploads: bool,
    /// A PUT is answered as if it were kept.
    pub swallows: bool,
    /// How far its clock is ahead, seconds.
    pub clock_ahead_s: i64,
    /// The checksum that it reports is the one that it was sent.
    pub echoes: bool,
    /// A delete of many keys is answered as one of another, and none is deleted.
    pub ignores_deletes: bool,
    /// The next page of any listing is the first.
    pub turns_round: bool,
    /// A page of any listing that is not the last does not say how to ask for the next.
    pub breaks_off: bool,
}

impl Default for Traits {
    fn default() -> Traits {
        Traits {
            conditional: true,
            checks: true,
            reports: true,
            ranges: true,
            page: 1000,
            loses_tails: false,
            races: false,
            revives: false,
            lists_late: false,
            lists_uploads: true,
            swallows: false,
            clock_ahead_s: 0,
            echoes: false,
            ignores_deletes: false,
            turns_round: false,
            breaks_off: false,
        }
    }
}

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asked for.
    pub verb: Verb,
    /// The key, or the bucket alone.
    pub key: String,
    /// The status that it was answered with.
    pub status: u16,
}

/// The store. Clones share it. Its bucket is called `bucket`, at `http://s3.test/bucket/`.
#[derive(Clone, Debug, Default)]
pub struct ScriptedS3(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    traits: Traits,
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, OpenUpload>,
    // Checksums as they were sent.
    sent: BTreeMap<String, String>,
    // What was put together, by the upload's id.
    completed: BTreeMap<String, (String, Bytes)>,
    last: Option<String>,
    made: u64,
    requests: Vec<Request>,
    // Contents that came to be under a key, in order, also after a delete.
    written: BTreeMap<String, Vec<Bytes>>,
    locked: BTreeSet<String>,
    slow: BTreeMap<String, u64>,
    keys: BTreeSet<String>,
}

#[derive(Debug)]
struct OpenUpload {
    key: String,
    parts: BTreeMap<u32, Bytes>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl ScriptedS3 {
    /// An empty store with these habits.
    pub fn new(traits: Traits) -> ScriptedS3 {
        ScriptedS3(Arc::new(Mutex::new(World { traits, ..World::default() })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics inside the store")
    }

    /// The configuration of a store whose prefix is `prefix`.
    pub fn config(prefix: &str) -> crate::StoreConfig {
        let text = format!(
            "type = \"s3_plain\"\nendpoint = \"http://s3.test/bucket/{prefix}/\"\n\
             access_key_id = \"canary-id-0815\"\nsecret_access_key = \"canary-secret-0815\"\n"
        );
        let table = text.parse().expect("a table");
        crate::StoreConfig::from_disk("main", &table, &crate::Environment::default())
            .expect("a good configuration")
    }

    /// Its habits.
    pub fn traits(&self) -> Traits {
        self.world().traits
    }

    /// The requests that arrived, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.world().requests.clone()
    }

    /// What is under a key.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.world().objects.get(key).cloned()
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.world().objects.keys().cloned().collect()
    }

    /// Ids and keys of uploads that are open.
    pub fn uploads(&self) -> Vec<(String, String)> {
        self.world().uploads.iter().map(|(id, upload)| (id.clone(), upload.key.clone())).collect()
    }

    /// Puts an object there, past all requests.
    pub fn plant(&self, key: &str, data: impl Into<Bytes>) {
        self.world().objects.insert(key.to_string(), data.into());
    }

    /// Begins an upload, past all requests.
    pub fn begin_upload(&self, key: &str) {
        let mut world = self.world();
        world.made += 1;
        let id = format!("upload-{}", world.made);
        world.uploads.insert(id, OpenUpload { key: key.into(), parts: BTreeMap::new() });
    }

    /// Removes an object, as a rule of the bucket does.
    pub fn lose(&self, key: &str) {
        self.world().objects.remove(key);
    }

    /// Ends all open uploads, as a rule of the bucket does.
    pub fn lose_uploads(&self) {
        self.world().uploads.clear();
    }

    /// From now on this key cannot be deleted.
    pub fn lock(&self, key: &str) {
        self.world().locked.insert(key.to_string());
    }

    /// So many deletes of this key are answered with *slow down*.
    pub fn slow_to_delete(&self, key: &str, times: u64) {
        self.world().slow.insert(key.to_string(), times);
    }

    /// From now on only requests that are signed with one of these key ids are answered.
    pub fn admit_only(&self, key_ids: &[&str]) {
        self.world().keys = key_ids.iter().map(|id| id.to_string()).collect();
    }

    /// Keys to which more than one thing was ever written, but for markers and what only asks what a store does.
    pub fn written_twice(&self) -> Vec<String> {
        let world = self.world();
        let once = |key: &str| !key.ends_with(".json") && !key.contains("epochlog-check/");
        let twice = world.written.iter().filter(|(key, contents)| contents.len() > 1 && once(key));
        twice.map(|(key, _)| key.clone()).collect()
    }

    /// Whether a create that arrives now will be written, whatever is there by then.
    pub(super) fn arrives(&self, uri: &http::Uri) -> bool {
        let world = self.world();
        world.traits.races && !world.objects.contains_key(key_of(uri))
    }

    pub(super) fn answer(&self, mut request: http::Request<Bytes>, unasked: bool) -> HttpResponse {
        if unasked {
            request.headers_mut().remove("if-none-match");
        }
        let verb = Verb::of(request.method(), request.uri());
        let path = request.uri().path().trim_start_matches('/');
        let key = key_of(request.uri()).to_string();
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect();
        let mut world = self.world();
        let answer = match path.split('/').next() {
            Some("bucket") => world.answer(verb, &key, &query, request.headers(), request.body()),
            _ => error(StatusCode::NOT_FOUND, "NoSuchBucket"),
        };
        world.requests.push(Request { verb, key, status: answer.status.as_u16() });
        let mut response = http::Response::new(answer.body.into());
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response
    }
}

impl World {
    fn answer(
        &mut self,
        verb: Verb,
        key: &str,
        query: &BTreeMap<String, String>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Answer {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let signed_by = header("authorization").and_then(|text| text.split_once("Credential="));
        let signed_by = signed_by.and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
        if !self.keys.is_empty() && !self.keys.contains(signed_by) {
            return error(StatusCode::BAD_REQUEST, "ExpiredToken");
        }
        if let Some(sent) = header("x-amz-checksum-crc64nvme")
            && self.traits.checks
            && sent != crc64(body)
        {
            return error(StatusCode::BAD_REQUEST, "BadDigest");
        }
        let upload = query.get("uploadId").map(String::as_str).unwrap_or_default();
        match verb {
            Verb::Put => {
                let sent = header("x-amz-checksum-crc64nvme");
                self.put(key, header("if-none-match"), header("if-match"), sent, body)
            }
            Verb::CreateUpload => {
                self.made += 1;
                let id = format!("upload-{}", self.made);
                self.uploads.insert(id.clone(), OpenUpload { key: key.into(), parts: BTreeMap::new() });
                xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            Verb::Part => match self.uploads.get_mut(upload) {
                Some(open) if open.key == key => {
                    let number = query["partNumber"].parse().expect("a number");
                    open.parts.insert(number, body.clone());
                    let mut answer = xml(String::new());
                    answer.headers.insert("etag", etag(body).parse().expect("a header"));
                    answer.headers.insert("x-amz-checksum-crc64nvme", crc64(body).parse().expect("a header"));
                    answer
                }
                _ => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
            },
            Verb::Complete => self.complete(key, upload, body),
            Verb::AbortUpload => match self.uploads.remove(upload) {
                Some(_) => Answer { status: StatusCode::NO_CONTENT, ..xml(String::new()) },
                None => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
            },
            Verb::Get | Verb::Head => self.get(verb, key, header("range"), header("x-amz-checksum-mode")),
            Verb::List => self.list(query),
            Verb::Delete => {
                self.objects.remove(key);
                Answer { status: StatusCode::NO_CONTENT, ..xml(String::new()) }
            }
            Verb::DeleteBatch => self.delete(body),
            Verb::ListUploads if self.traits.lists_uploads => self.list_uploads(query),
            Verb::ListUploads | Verb::Other => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn write(&mut self, key: &str, data: Bytes) {
        self.written.entry(key.to_string()).or_default().push(data.clone());
        self.objects.insert(key.to_string(), data);
        self.last = Some(key.to_string());
    }

    fn put(
        &mut self,
        key: &str,
        none_match: Option<&str>,
        only_match: Option<&str>,
        sent: Option<&str>,
        body: &Bytes,
    ) -> Answer {
        let there = self.objects.get(key).map(|data| etag(data));
        let refused = none_match.is_some() && there.is_some()
            || only_match.is_some_and(|wanted| there.as_deref() != Some(wanted));
        if refused && self.traits.conditional {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        if !self.traits.swallows {
            self.write(key, body.clone());
        }
        if let Some(sent) = sent.filter(|_| self.traits.echoes) {
            self.sent.insert(key.to_string(), sent.to_string());
        }
        let mut answer = xml(String::new());
        answer.headers.insert("etag", etag(body).parse().expect("a header"));
        if self.traits.reports {
            let crc = self.sent.get(key).cloned().unwrap_or_else(|| crc64(body));
            answer.headers.insert("x-amz-checksum-crc64nvme", crc.parse().expect("a header"));
        }
        answer
    }

    fn complete(&mut self, key: &str, upload: &str, body: &Bytes) -> Answer {
        let Some(open) = self.uploads.get(upload).filter(|open| open.key == key) else {
            return match self.completed.get(upload).filter(|_| self.traits.revives).cloned() {
                Some((key, data)) => {
                    let tag = etag(&data).replace('"', "&quot;");
                    self.objects.entry(key).or_insert(data);
                    completed(&tag)
                }
                None => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
            };
        };
        let text = String::from_utf8_lossy(body).into_owned();
        let mut data = Vec::new();
        for (at, part) in text.split("<Part>").skip(1).enumerate() {
            let number = at as u32 + 1;
            let known = open.parts.get(&number).filter(|data| part.contains(etag(data).trim_matches('"')));
            let Some(part) = known else { return error(StatusCode::BAD_REQUEST, "InvalidPart") };
            data.extend_from_slice(part);
        }
        if self.traits.loses_tails {
            data.pop();
        }
        self.uploads.remove(upload);
        let data = Bytes::from(data);
        let tag = etag(&data).replace('"', "&quot;");
        self.completed.insert(upload.to_string(), (key.to_string(), data.clone()));
        self.write(key, data);
        completed(&tag)
    }

    fn get(&self, verb: Verb, key: &str, range: Option<&str>, mode: Option<&str>) -> Answer {
        let Some(data) = self.objects.get(key) else { return error(StatusCode::NOT_FOUND, "NoSuchKey") };
        let mut answer = xml(String::new());
        let mut set = |name: &'static str, value: String| {
            answer.headers.insert(name, value.parse().expect("a header"));
        };
        set("etag", etag(data));
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(self.traits.clock_ahead_s);
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        set("last-modified", printer.timestamp_to_rfc9110_string(&now).expect("a time of our days"));
        if self.traits.reports && mode == Some("ENABLED") {
            set("x-amz-checksum-crc64nvme", self.sent.get(key).cloned().unwrap_or_else(|| crc64(data)));
            set("x-amz-checksum-type", "FULL_OBJECT".into());
        }
        let range = range
            .filter(|_| self.traits.ranges)
            .and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
        let body = match range {
            Some((start, end)) => {
                let start: usize = start.parse().expect("a number");
                let end = end.parse::<usize>().map_or(data.len(), |end| data.len().min(end + 1));
                if start >= data.len() {
                    return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
                }
                set("content-range", format!("bytes {start}-{}/{}", end - 1, data.len()));
                answer.status = StatusCode::PARTIAL_CONTENT;
                data.slice(start..end)
            }
            None => data.clone(),
        };
        answer.headers.insert("content-length", body.len().into());
        answer.body = if verb == Verb::Head { Bytes::new() } else { body };
        answer
    }
}

fn key_of(uri: &http::Uri) -> &str {
    let path = uri.path().trim_start_matches('/');
    path.strip_prefix("bucket").unwrap_or(path).trim_start_matches('/')
}

fn completed(tag: &str) -> Answer {
    xml(format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"))
}

fn crc64(data: &[u8]) -> String {
    BASE64_STANDARD.encode(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, data).to_be_bytes())
}

fn etag(data: &[u8]) -> String {
    format!("\"{}\"", checkpoint::digest::content(data).short())
}

fn xml(text: String) -> Answer {
    Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: text.into() }
}

fn error(status: StatusCode, code: &str) -> Answer {
    Answer { status, ..xml(format!("<Error><Code>{code}</Code><Message>said in memory</Message></Error>")) }
}
