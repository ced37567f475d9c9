//! Requests about many keys: listings, and deletes of a batch.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;

use super::{Answer, World, etag, xml};

impl World {
    pub(super) fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let prefix = query.get("prefix").map(String::as_str).unwrap_or_default();
        let after = query.get("continuation-token").or(query.get("start-after")).cloned().unwrap_or_default();
        let late = self.last.as_ref().filter(|_| self.traits.lists_late);
        let mut keys = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && **key > after && Some(*key) != late);
        let mut text = "<ListBucketResult>".to_string();
        let mut last = None;
        for (key, data) in keys.by_ref().take(self.traits.page) {
            let tag = etag(data).replace('"', "&quot;");
            let _ = write!(
                text,
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>1970-01-01T00:00:00Z</LastModified>\
                 <ETag>{tag}</ETag></Contents>",
                data.len()
            );
            last = Some(key);
        }
        if let (Some(last), Some(_)) = (last, keys.next()) {
            let _ = match (self.traits.breaks_off, self.traits.turns_round) {
                (true, _) => write!(text, "<IsTruncated>true</IsTruncated>"),
                (_, true) => write!(text, "<NextContinuationToken>!</NextContinuationToken>"),
                _ => write!(text, "<NextContinuationToken>{last}</NextContinuationToken>"),
            };
        }
        text.push_str("</ListBucketResult>");
        xml(text)
    }

    pub(super) fn list_uploads(&self, query: &BTreeMap<String, String>) -> Answer {
        let of = |name: &str| query.get(name).cloned().unwrap_or_default();
        let (prefix, after) = (of("prefix"), (of("key-marker"), of("upload-id-marker")));
        let mut open: Vec<(String, String)> =
            self.uploads.iter().map(|(id, upload)| (upload.key.clone(), id.clone())).collect();
        open.retain(|upload| upload.0.starts_with(&prefix) && *upload > after);
        open.sort();
        let more = open.len() > self.traits.page;
        open.truncate(self.traits.page);
        let mut text = format!("<ListMultipartUploadsResult><IsTruncated>{more}</IsTruncated>");
        if let Some((key, id)) = open.last().filter(|_| !self.traits.breaks_off) {
            let (key, id) = if self.traits.turns_round { ("!", "!") } else { (key.as_str(), id.as_str()) };
            let _ = write!(
                text,
                "<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>"
            );
        }
        for (key, id) in open {
            let _ = write!(text, "<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>");
        }
        text.push_str("</ListMultipartUploadsResult>");
        xml(text)
    }

    pub(super) fn delete(&mut self, body: &Bytes) -> Answer {
        if self.traits.ignores_deletes {
            return xml("<DeleteResult><Deleted><Key>another</Key></Deleted></DeleteResult>".into());
        }
        let asked = String::from_utf8_lossy(body).into_owned();
        let mut text = "<DeleteResult>".to_string();
        for key in asked.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            let slow = self.slow.get_mut(key).filter(|times| **times > 0);
            let code = match (self.locked.contains(key), slow) {
                (true, _) => Some("AccessDenied"),
                (false, Some(times)) => {
                    *times -= 1;
                    Some("ServerBusy")
                }
                (false, None) => None,
            };
            let _ = match code {
                Some(code) => write!(
                    text,
                    "<Error><Key>{key}</Key><Code>{code}</Code><Message>said in memory</Message></Error>"
                ),
                None => {
                    self.objects.remove(key);
                    write!(text, "<Deleted><Key>{key}</Key></Deleted>")
                }
            };
        }
        text.push_str("</DeleteResult>");
        xml(text)
    }
}
