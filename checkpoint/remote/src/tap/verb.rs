//! What a request asks for, read off its method and address.

use http::{Method, Uri};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Verb {
    Put,
    CreateUpload,
    Part,
    Complete,
    AbortUpload,
    Get,
    Head,
    List,
    ListUploads,
    Delete,
    DeleteBatch,
    /// Credentials and everything else.
    Other,
}

impl Verb {
    /// All of them, in the order of their numbers.
    pub const ALL: [Verb; 12] = [
        Verb::Put,
        Verb::CreateUpload,
        Verb::Part,
        Verb::Complete,
        Verb::AbortUpload,
        Verb::Get,
        Verb::Head,
        Verb::List,
        Verb::ListUploads,
        Verb::Delete,
        Verb::DeleteBatch,
        Verb::Other,
    ];

    /// Whether it changes what is in the store.
    pub fn writes(self) -> bool {
        !matches!(self, Verb::Get | Verb::Head | Verb::List | Verb::ListUploads | Verb::Other)
    }

    /// The name in metrics and errors.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Put => "put",
            Verb::CreateUpload => "create_upload",
            Verb::Part => "part",
            Verb::Complete => "complete",
            Verb::AbortUpload => "abort_upload",
            Verb::Get => "get",
            Verb::Head => "head",
            Verb::List => "list",
            Verb::ListUploads => "list_uploads",
            Verb::Delete => "delete",
            Verb::DeleteBatch => "delete_batch",
            Verb::Other => "other",
        }
    }

    /// Of S3 and Google's XML interface (`uploads`, `uploadId`, `partNumber`, `list-type`, `delete`) and of Azure
    /// (`comp`): the parameters do not overlap.
    pub(crate) fn of(method: &Method, uri: &Uri) -> Verb {
        if is_credentials(uri.host().unwrap_or_default()) {
            return Verb::Other;
        }
        let query = uri.query().unwrap_or_default();
        let value = |name: &str| {
            let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let has = |name| value(name).is_some();
        match *method {
            Method::PUT if has("partNumber") || value("comp") == Some("block") => Verb::Part,
            Method::PUT if value("comp") == Some("blocklist") => Verb::Complete,
            Method::PUT => Verb::Put,
            Method::POST if has("uploads") => Verb::CreateUpload,
            Method::POST if has("uploadId") => Verb::Complete,
            Method::POST if has("delete") || value("comp") == Some("batch") => Verb::DeleteBatch,
            Method::DELETE if has("uploadId") => Verb::AbortUpload,
            Method::DELETE => Verb::Delete,
            Method::GET if has("uploads") => Verb::ListUploads,
            Method::GET if has("list-type") || value("comp") == Some("list") => Verb::List,
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            _ => Verb::Other,
        }
    }
}

// Where the clients of the three clouds ask for credentials, if a path there looks like one of the store. No store has
// such an address: its *not found* would be taken for one of credentials.
fn is_credentials(host: &str) -> bool {
    host.starts_with("169.254.")
        || ["metadata.google.internal", "oauth2.googleapis.com", "login.microsoftonline.com"].contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_the_three_clouds_has_a_verb() {
        for (method, uri, verb) in [
            ("PUT", "http://h/b/k", Verb::Put),
            ("PUT", "http://h/b/k?partNumber=1&uploadId=7", Verb::Part),
            ("POST", "http://h/b/k?uploads=", Verb::CreateUpload),
            ("POST", "http://h/b/k?uploads", Verb::CreateUpload),
            ("POST", "http://h/b/k?uploadId=7", Verb::Complete),
            ("POST", "http://h/b?delete", Verb::DeleteBatch),
            ("DELETE", "http://h/b/k", Verb::Delete),
            ("DELETE", "http://h/b/k?uploadId=7", Verb::AbortUpload),
            ("GET", "http://h/b?list-type=2&prefix=uploads", Verb::List),
            ("GET", "http://h/b?uploads&prefix=x", Verb::ListUploads),
            ("GET", "http://h/b/k", Verb::Get),
            ("HEAD", "http://h/b/k", Verb::Head),
            ("PUT", "https://a.blob.core.windows.net/c/k?comp=block&blockid=1", Verb::Part),
            ("PUT", "https://a.blob.core.windows.net/c/k?comp=blocklist", Verb::Complete),
            ("POST", "https://a.blob.core.windows.net/c?restype=container&comp=batch", Verb::DeleteBatch),
            ("GET", "https://a.blob.core.windows.net/c?restype=container&comp=list", Verb::List),
            ("PUT", "https://sts.blob.core.windows.net/c/k", Verb::Put),
            ("POST", "https://sts.amazonaws.com/", Verb::Other),
            ("GET", "http://169.254.169.254/latest/meta-data", Verb::Other),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(Verb::of(&method.parse().unwrap(), &uri), verb, "{method} {uri}");
        }
        for (number, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, number);
        }
    }
}
