//! A store of the `object_store` crate made from a configuration. Nothing of that crate is seen outside this one.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::config::{Options, Place, StoreConfig};
use crate::credentials::{FileCredentials, Reload};
use crate::error::{StoreError, Trouble};
use crate::secret::Mask;
use crate::tap::{Counts, Home, TapConnector};
use crate::uploads::UploadList;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Backend {
    pub objects: Arc<dyn ObjectStore>,
    pub kind: BackendKind,
    /// Whether a PUT can be made to fail when the object is there.
    pub conditional: bool,
    /// Keys that one request deletes; 1 where each takes one of its own, so that what the tap saw is of that key.
    pub delete_batch: usize,
    pub reload: Option<Arc<dyn Reload>>,
    /// None: open uploads cannot be listed.
    pub uploads: Option<UploadList>,
    /// What was not put together goes by itself.
    pub uploads_vanish: bool,
}

pub(crate) enum BackendKind {
    /// A cloud: uploads have ids, listings pages.
    Cloud { parts: Arc<dyn MultipartStore>, pages: Arc<dyn PaginatedListStore> },
    /// A folder: a file appears by a rename.
    Folder { root: PathBuf },
    /// For reading.
    ReadOnly,
}

impl std::fmt::Debug for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendKind::Cloud { .. } => "Cloud",
            BackendKind::Folder { .. } => "Folder",
            BackendKind::ReadOnly => "ReadOnly",
        })
    }
}

/// One try for each call: repeating is the line's business.
fn one_try() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// The crate's time for a whole request is switched off: a slow line that moves is none to give up.
fn client_options(plain_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(plain_http)
}

/// TLS with ring, for all of the process; whoever chose before us keeps its choice.
fn choose_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Backend {
    pub(crate) fn open(
        config: &StoreConfig,
        transport: Arc<dyn HttpConnector>,
        counts: Arc<Counts>,
        mask: &Mask,
    ) -> Result<Backend, StoreError> {
        choose_tls();
        let fail = |error: object_store::Error| {
            StoreError::configuration(
                format!("store {:?} at {}", config.name(), config.place()),
                mask.show(&error.to_string(), 300),
                "correct its section of the configuration",
            )
        };
        let tap = |bucket: &str, host: Option<&str>| TapConnector {
            inner: transport,
            counts,
            home: Home { bucket: bucket.to_string(), host: host.map(str::to_string) },
        };
        match &config.place {
            Place::S3 { .. } => open_s3(config, mask, tap, fail),
            Place::Gcs { bucket, .. } => {
                let mut options = client_options(config.options.is_plain_http());
                let mut builder = GoogleCloudStorageBuilder::new()
                    .with_bucket_name(bucket)
                    .with_client_options(options.clone())
                    .with_retry(one_try());
                if let Options::Gcs(pairs) = &config.options {
                    for (key, value) in pairs {
                        builder = builder.with_config(*key, value.expose());
                        if let GoogleConfigKey::Client(key) = key {
                            options = options.with_config(*key, value.expose());
                        }
                    }
                }
                let tap = tap(bucket, None);
                let client = tap.connect(&options).map_err(&fail)?;
                let store = Arc::new(builder.with_http_connector(tap).build().map_err(fail)?);
                let uploads = UploadList { signer: Arc::clone(&store) as Arc<dyn Signer>, client };
                Ok(Backend { uploads: Some(uploads), ..Backend::cloud(store, 1) })
            }
            Place::Azure { container, account, .. } => {
                let service = azure_service(&config.options);
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_container_name(container)
                    .with_client_options(client_options(config.options.is_plain_http()))
                    .with_retry(one_try())
                    .with_http_connector(tap(container, service.as_deref()));
                if let Options::Azure(pairs) = &config.options {
                    for (key, value) in pairs {
                        builder = builder.with_config(*key, value.expose());
                    }
                }
                if let Some(account) = account {
                    builder = builder.with_config(AzureConfigKey::AccountName, account);
                }
                let store = Arc::new(builder.build().map_err(fail)?);
                Ok(Backend { uploads_vanish: true, ..Backend::cloud(store, 256) })
            }
            Place::Folder { path } => {
                let root = fs::canonicalize(path).map_err(|e| {
                    StoreError::new(
                        Trouble::Away,
                        format!("store {:?} at {}", config.name(), path.display()),
                        e.to_string(),
                        "make the folder, or mount the shared file system, on every node",
                    )
                })?;
                let files = LocalFileSystem::new_with_prefix(&root).map_err(fail)?.with_fsync(true);
                Ok(Backend {
                    objects: Arc::new(files),
                    kind: BackendKind::Folder { root },
                    conditional: true,
                    delete_batch: 1,
                    reload: None,
                    uploads: None,
                    uploads_vanish: true,
                })
            }
            Place::Http { url } => {
                let mut builder = HttpBuilder::new()
                    .with_url(url.as_str())
                    .with_client_options(client_options(url.scheme() == "http"))
                    .with_retry(one_try())
                    .with_http_connector(tap("", url.host_str()));
                if let Options::Http(pairs) = &config.options {
                    for (key, value) in pairs {
                        builder = builder.with_config(*key, value.expose());
                    }
                }
                Ok(Backend {
                    objects: Arc::new(builder.build().map_err(fail)?),
                    kind: BackendKind::ReadOnly,
                    conditional: false,
                    delete_batch: 1,
                    reload: None,
                    uploads: None,
                    uploads_vanish: true,
                })
            }
        }
    }

    fn cloud<S>(store: Arc<S>, delete_batch: usize) -> Backend
    where
        S: ObjectStore + MultipartStore + PaginatedListStore,
    {
        let (parts, pages) = (Arc::clone(&store), Arc::clone(&store));
        Backend {
            objects: store,
            kind: BackendKind::Cloud { parts, pages },
            conditional: true,
            delete_batch,
            reload: None,
            uploads: None,
            uploads_vanish: false,
        }
    }
}

// What the crate takes for true.
fn is_on(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

// The host of an endpoint of one's own, in whose paths the container does not come first.
fn azure_service(options: &Options) -> Option<String> {
    let Options::Azure(pairs) = options else { return None };
    pairs.iter().find_map(|(key, value)| match key {
        AzureConfigKey::Endpoint => url::Url::parse(value.expose()).ok()?.host_str().map(str::to_string),
        AzureConfigKey::UseEmulator if is_on(value.expose()) => Some("127.0.0.1".to_string()),
        _ => None,
    })
}

fn open_s3(
    config: &StoreConfig,
    mask: &Mask,
    tap: impl FnOnce(&str, Option<&str>) -> TapConnector,
    fail: impl Fn(object_store::Error) -> StoreError,
) -> Result<Backend, StoreError> {
    let (Place::S3 { endpoint, bucket, region, virtual_hosted, .. }, Options::S3(pairs)) =
        (&config.place, &config.options)
    else {
        unreachable!("an S3 place has S3 options");
    };
    let said = |wanted: AmazonS3ConfigKey| {
        pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.expose())
    };
    let service = endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_string());
    let service = service.or_else(|| said(AmazonS3ConfigKey::S3Endpoint).map(str::to_string));
    let service = service.or_else(|| said(AmazonS3ConfigKey::Endpoint).map(str::to_string));
    let plain_http = service.as_ref().is_some_and(|service| service.starts_with("http://"));
    let host = service.as_ref().and_then(|service| url::Url::parse(service).ok());
    let host = host.as_ref().and_then(|url| url.host_str());

    // Answers then carry the checksum of the whole object, where the store has one.
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-amz-checksum-mode"), HeaderValue::from_static("ENABLED"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_client_options(client_options(plain_http).with_default_headers(headers))
        .with_retry(one_try())
        // The store compares what it got with the CRC, which costs a tenth of SHA-256 in the signature. One that does
        // not compare reports no checksum, and is read back.
        .with_config(AmazonS3ConfigKey::UnsignedPayload, "true");
    if said(AmazonS3ConfigKey::Checksum).is_none() {
        builder = builder.with_config(AmazonS3ConfigKey::Checksum, "crc64nvme");
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    for (key, value) in pairs {
        // Empty: none at all.
        if !(*key == AmazonS3ConfigKey::Checksum && value.expose().is_empty()) {
            builder = builder.with_config(*key, value.expose());
        }
    }
    if let Some(service) = &service {
        // Both: one from the environment must not win over the configuration.
        builder = builder
            .with_config(AmazonS3ConfigKey::Endpoint, service)
            .with_config(AmazonS3ConfigKey::S3Endpoint, service);
    }
    if *virtual_hosted {
        builder = builder.with_virtual_hosted_style_request(true);
    }
    let mut reload: Option<Arc<dyn Reload>> = None;
    if let Some((file, profile)) = &config.credentials {
        let file = FileCredentials::open(file, profile, mask)?;
        reload = Some(Arc::clone(&file) as Arc<dyn Reload>);
        builder = builder.with_credentials(file);
    }
    let tap = tap(bucket, host);
    // An address that is signed holds for no other header than those that it names.
    let mut options = client_options(plain_http);
    for (key, value) in pairs {
        if let AmazonS3ConfigKey::Client(key) = key {
            options = options.with_config(*key, value.expose());
        }
    }
    let client = tap.connect(&options).map_err(&fail)?;
    let store = Arc::new(builder.with_http_connector(tap).build().map_err(fail)?);
    // Without a signature the crate signs no address.
    let uploads = (!said(AmazonS3ConfigKey::SkipSignature).is_some_and(is_on))
        .then(|| UploadList { signer: Arc::clone(&store) as Arc<dyn Signer>, client });
    let bulk = !said(AmazonS3ConfigKey::DisableBulkDelete).is_some_and(is_on);
    let conditional = said(AmazonS3ConfigKey::ConditionalPut).map(str::trim) != Some("disabled");
    Ok(Backend { conditional, reload, uploads, ..Backend::cloud(store, if bulk { 1000 } else { 1 }) })
}

/// The crate's path of `name` below `prefix`.
pub(crate) fn path_of(prefix: &str, name: &str) -> Path {
    match prefix {
        "" => Path::from(name),
        _ => Path::from(format!("{prefix}/{name}")),
    }
}
