//! Where a store is: addresses taken apart.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use super::section::{Section, nearest};
use crate::error::StoreError;

/// The kinds of stores, and where one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Amazon's S3 and what speaks its language.
    S3 {
        /// Address of the service (with a virtual host: of the bucket). None: Amazon's, by region.
        endpoint: Option<Url>,
        /// The bucket.
        bucket: String,
        /// The region that the address tells.
        region: Option<String>,
        /// Whether the bucket is part of the host's name.
        virtual_hosted: bool,
        /// Folder in the bucket, without slashes around it.
        prefix: String,
    },
    /// Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Folder in the bucket.
        prefix: String,
    },
    /// Azure Blob Storage.
    Azure {
        /// The container.
        container: String,
        /// The account that the address tells.
        account: Option<String>,
        /// Folder in the container.
        prefix: String,
    },
    /// A folder that all nodes share.
    Folder {
        /// The folder; absolute.
        path: PathBuf,
    },
    /// Plain HTTP, for reading.
    Http {
        /// The address of the folder.
        url: Url,
    },
}

impl Place {
    /// The folder in the bucket; empty where the place itself is the folder.
    pub fn prefix(&self) -> &str {
        match self {
            Place::S3 { prefix, .. } | Place::Gcs { prefix, .. } | Place::Azure { prefix, .. } => prefix,
            Place::Folder { .. } | Place::Http { .. } => "",
        }
    }

    pub(super) fn is_plain_http(&self) -> bool {
        match self {
            Place::S3 { endpoint: Some(url), .. } | Place::Http { url } => url.scheme() == "http",
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::S3 { endpoint: None, bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
            Place::S3 { endpoint: Some(url), bucket, prefix, .. } => {
                write!(f, "s3://{bucket}/{prefix} at {url}")
            }
            Place::Gcs { bucket, prefix } => write!(f, "gs://{bucket}/{prefix}"),
            Place::Azure { container, account: None, prefix } => write!(f, "az://{container}/{prefix}"),
            Place::Azure { container, account: Some(account), prefix } => {
                write!(f, "az://{container}/{prefix} of account {account}")
            }
            Place::Folder { path } => write!(f, "{}", path.display()),
            Place::Http { url } => write!(f, "{url}"),
        }
    }
}

/// The places of a `checkpoint_location`.
pub(super) const LOCATIONS: [&str; 4] = ["s3", "gcs", "abs", "shared_filesystem"];
const TYPES: [&str; 8] = ["s3_plain", "s3", "gcs", "abs", "azure", "shared_filesystem", "local", "http"];

/// Of a `[disk.NAME]`.
pub(super) fn of_disk(section: &Section) -> Result<Place, StoreError> {
    let (endpoint, url, path) = (section.text("endpoint")?, section.text("url")?, section.text("path")?);
    let kind = section.text("type")?;
    if let Some(kind) = kind
        && !TYPES.contains(&kind)
    {
        let near = nearest(kind, TYPES.into_iter());
        return Err(section.error(
            "type",
            format!("no store is of type {kind:?}"),
            format!("the nearest is {near:?}"),
        ));
    }
    let place = match (endpoint, url, path) {
        (Some(endpoint), None, None) if matches!(kind, None | Some("s3" | "s3_plain")) => {
            of_endpoint(section, endpoint)?
        }
        (Some(_), None, None) => {
            return Err(section.error(
                "endpoint",
                "is where S3 is",
                "write url = \"...\", and endpoint beside it",
            ));
        }
        // Beside an address, `endpoint` is the crate's key: where the service is.
        (service, Some(url), None) => {
            let place = of_url(section, "url", url)?;
            match service {
                Some(service) => at_service(section, place, service)?,
                None => place,
            }
        }
        (None, None, Some(path)) => folder(section, "path", path)?,
        (None, None, None) => {
            return Err(section.error(
                "endpoint",
                "it is not said where the store is",
                "write exactly one of endpoint (S3), url, path (a shared folder)",
            ));
        }
        _ => {
            return Err(section.error(
                "path",
                "more than one location is given",
                "write exactly one of endpoint (S3), url, path (a shared folder)",
            ));
        }
    };
    match kind {
        Some(kind) if !is_of(kind, &place) => Err(section.error(
            "type",
            format!("{place} is not of type {kind:?}"),
            "correct the one or the other, or leave the type out",
        )),
        _ => Ok(place),
    }
}

fn is_of(kind: &str, place: &Place) -> bool {
    match place {
        Place::S3 { .. } => matches!(kind, "s3" | "s3_plain"),
        Place::Gcs { .. } => kind == "gcs",
        Place::Azure { .. } => matches!(kind, "abs" | "azure"),
        Place::Folder { .. } => matches!(kind, "shared_filesystem" | "local"),
        Place::Http { .. } => kind == "http",
    }
}

/// Of `checkpoint_location.KIND`.
pub(super) fn of_location(kind: &str, section: &Section) -> Result<Place, StoreError> {
    let key = if kind == "shared_filesystem" { "path" } else { "url" };
    let text = section.text(key)?.ok_or_else(|| {
        section.error(
            key,
            "it is not said where the store is",
            format!("write {}.{key} = \"...\"", section.name),
        )
    })?;
    if kind == "shared_filesystem" {
        return folder(section, key, text);
    }
    let place = of_url(section, key, text)?;
    if !is_of(kind, &place) {
        return Err(section.error(
            key,
            format!("{place} is not in {kind}"),
            "name the kind of store that the address is of",
        ));
    }
    Ok(place)
}

/// `http://host:9000/bucket/prefix/`: the bucket is in the path; on Amazon's hosts it may be in the name.
fn of_endpoint(section: &Section, text: &str) -> Result<Place, StoreError> {
    let mut url = parse(section, "endpoint", text)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(section.error(
            "endpoint",
            format!("{:?} is not http or https", url.scheme()),
            "write the address of the service and the bucket, http://host:9000/bucket/prefix/",
        ));
    }
    let host = url.host_str().unwrap_or_default().to_string();
    let path = trimmed(section, "endpoint", &url)?;
    let amazon = host.strip_suffix(".amazonaws.com");
    // `s3.REGION`, or `BUCKET.s3.REGION`.
    if let Some((bucket, region)) = amazon.and_then(|name| name.split_once(".s3.")) {
        let (bucket, region) = (bucket.to_string(), Some(region.to_string()));
        url.set_path("");
        return Ok(Place::S3 { endpoint: Some(url), bucket, region, virtual_hosted: true, prefix: path });
    }
    let region = amazon.and_then(|name| name.strip_prefix("s3.")).map(str::to_string);
    let (bucket, prefix) = path.split_once('/').unwrap_or((&path, ""));
    if bucket.is_empty() {
        return Err(section.error(
            "endpoint",
            "names no bucket",
            format!("write the bucket behind it, {}/BUCKET/PREFIX/", text.trim_end_matches('/')),
        ));
    }
    url.set_path("");
    Ok(Place::S3 {
        endpoint: Some(url),
        bucket: bucket.to_string(),
        region,
        virtual_hosted: false,
        prefix: prefix.to_string(),
    })
}

// `url = "s3://bucket/prefix"` with the address of a service beside it.
pub(super) fn at_service(section: &Section, place: Place, service: &str) -> Result<Place, StoreError> {
    let url = parse(section, "endpoint", service)?;
    if !trimmed(section, "endpoint", &url)?.is_empty() {
        return Err(section.error(
            "endpoint",
            "has a path, and url says the bucket: two locations",
            "write the service alone, https://host:9000",
        ));
    }
    match place {
        Place::S3 { bucket, region, virtual_hosted, prefix, .. } => {
            Ok(Place::S3 { endpoint: Some(url), bucket, region, virtual_hosted, prefix })
        }
        _ => Err(section.error("endpoint", "only stores that speak S3 take one", "leave it out")),
    }
}

fn of_url(section: &Section, key: &str, text: &str) -> Result<Place, StoreError> {
    if text.starts_with('/') {
        return folder(section, key, text);
    }
    let url = parse(section, key, text)?;
    let prefix = trimmed(section, key, &url)?;
    let host = url.host_str().unwrap_or_default().to_string();
    let named = |what: &str| match host.is_empty() {
        true => Err(section.error(
            key,
            format!("names no {what}"),
            format!("write {}://{what}/prefix", url.scheme()),
        )),
        false => Ok(host.clone()),
    };
    match url.scheme() {
        "s3" | "s3a" => Ok(Place::S3 {
            endpoint: None,
            bucket: named("bucket")?,
            region: None,
            virtual_hosted: false,
            prefix,
        }),
        "gs" => Ok(Place::Gcs { bucket: named("bucket")?, prefix }),
        // abfss://container@account.dfs.core.windows.net/prefix
        "abfs" | "abfss" if !url.username().is_empty() => Ok(Place::Azure {
            container: url.username().to_string(),
            account: host.split('.').next().map(str::to_string),
            prefix,
        }),
        "az" | "adl" | "azure" | "abfs" | "abfss" => {
            Ok(Place::Azure { container: named("container")?, account: None, prefix })
        }
        "file" => match url.to_file_path() {
            Ok(path) => Ok(Place::Folder { path }),
            Err(()) => {
                Err(section.error(key, "is no path of this machine", "write file:///folder or /folder"))
            }
        },
        "http" | "https" => Ok(Place::Http { url }),
        "memory" => Err(section.error(key, "a store in memory keeps nothing", "name a store that does")),
        other => Err(section.error(
            key,
            format!("no store has addresses that begin with {other}://"),
            "known are s3, s3a, gs, az, abfs, abfss, adl, azure, file, http and https",
        )),
    }
}

fn folder(section: &Section, key: &str, text: &str) -> Result<Place, StoreError> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(section.error(key, "is not absolute", "write the same path on all nodes, from / on"));
    }
    Ok(Place::Folder { path })
}

fn parse(section: &Section, key: &str, text: &str) -> Result<Url, StoreError> {
    // The parser's words, never the address: a password may stand in it.
    let url = Url::parse(text).map_err(|e| {
        section.error(key, format!("is no address: {e}"), "write it in full, scheme and host included")
    })?;
    let container = matches!(url.scheme(), "abfs" | "abfss") && url.password().is_none();
    if !(url.username().is_empty() && url.password().is_none() || container) {
        return Err(section.error(
            key,
            "has user info in it",
            "write access_key_id and secret_access_key beside it",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(section.error(key, "has a query or a fragment", "write options as keys of their own"));
    }
    Ok(url)
}

/// The path without slashes around it.
fn trimmed(section: &Section, key: &str, url: &Url) -> Result<String, StoreError> {
    let path = url.path().trim_matches('/');
    if path.split('/').any(|part| part.is_empty()) && !path.is_empty() {
        return Err(section.error(key, "has an empty folder in its path", "write single slashes"));
    }
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/=".contains(&b)) {
        return Err(section.error(
            key,
            "has an unusual character in its path",
            "letters, digits and . _ - = are taken",
        ));
    }
    Ok(path.to_string())
}
