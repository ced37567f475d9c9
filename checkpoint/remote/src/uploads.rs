//! Listing the uploads that are open, which the crate below does not do: an address that it signs is asked for through
//! the same tap.

use std::sync::Arc;
use std::time::Duration;

use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};

use crate::xml::{element, elements, unescape};

/// How long a signed address is good for: one request, and some difference of the clocks.
const GOOD_FOR: Duration = Duration::from_secs(300);

/// Who lists.
pub(crate) struct UploadList {
    pub signer: Arc<dyn Signer>,
    pub client: HttpClient,
}

/// A page of open uploads: whole keys and ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UploadPage {
    pub uploads: Vec<(String, String)>,
    pub next: Option<Marker>,
    /// There are more, and it is not said how to ask for them.
    pub breaks_off: bool,
}

/// After which upload the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    key: String,
    id: String,
}

impl UploadList {
    /// The uploads whose keys begin with `prefix`.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        after: Option<&Marker>,
    ) -> object_store::Result<UploadPage> {
        let mut query = vec![("uploads", String::new())];
        if !prefix.is_empty() {
            query.push(("prefix", prefix.to_string()));
        }
        if let Some(Marker { key, id }) = after {
            query.push(("key-marker", key.clone()));
            query.push(("upload-id-marker", id.clone()));
        }
        let options = SignedUrlOptions::default().with_query(query);
        let url =
            self.signer.signed_url_opts(http::Method::GET, &Path::default(), GOOD_FOR, &options).await?;
        let request = http::Request::builder().uri(url.as_str()).body(HttpRequestBody::empty());
        let request = request.map_err(failed)?;
        let answer = self.client.execute(request).await.map_err(failed)?;
        let status = answer.status();
        let text = answer.into_body().bytes().await.map_err(failed)?;
        if !status.is_success() {
            return Err(failed(format!("the store answered {status}")));
        }
        Ok(read(&String::from_utf8_lossy(&text)))
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "list of uploads", source: source.into() }
}

fn read(text: &str) -> UploadPage {
    let of = |text: &str, name: &str| element(text, name).map(unescape);
    let uploads =
        elements(text, "Upload").into_iter().filter_map(|one| Some((of(one, "Key")?, of(one, "UploadId")?)));
    let more = of(text, "IsTruncated").is_some_and(|truncated| truncated == "true");
    let next = || {
        let key = of(text, "NextKeyMarker").filter(|key| !key.is_empty())?;
        Some(Marker { key, id: of(text, "NextUploadIdMarker").unwrap_or_default() })
    };
    let next = more.then(next).flatten();
    UploadPage { uploads: uploads.collect(), breaks_off: more && next.is_none(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_uploads_is_read() {
        let text = "<ListMultipartUploadsResult><NextKeyMarker>p/b&amp;</NextKeyMarker>\
            <NextUploadIdMarker>2</NextUploadIdMarker><IsTruncated>true</IsTruncated>\
            <Upload><Key>p/a</Key><UploadId>1</UploadId><Initiator><ID>me</ID></Initiator></Upload>\
            <Upload><Key>p/b&amp;</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
        let page = read(text);
        assert_eq!(page.uploads, [("p/a".into(), "1".into()), ("p/b&".into(), "2".into())]);
        assert_eq!(page.next, Some(Marker { key: "p/b&".into(), id: "2".into() }));
        // Some stores name a next one after the last page.
        assert_eq!(read(&text.replace("true", "false")).next, None);
        assert_eq!(read("<ListMultipartUploadsResult/>"), UploadPage::default());
        assert!(
            !page.breaks_off
                && read(&text.replace("p/b&amp;</NextKeyMarker>", "</NextKeyMarker>")).breaks_off
        );
    }
}
