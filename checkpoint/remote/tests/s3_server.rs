//! Against a real S3 server in this process, over real sockets: s3s-fs, with a shim before it. The clock is the real one.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use checkpoint::testing::CrashDisk;
use futures::StreamExt;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Request, S3Response, S3Result, dto, s3_error};

use remote::check::{self, Probe, Verdict};
use remote::{
    Deleted, Environment, Journal, Limits, ObjectName, ObjectPlan, Source, Store, StoreConfig, StoreRuntime,
    Trouble, Wanted, pack,
};
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(0xc1);

fn journal() -> Arc<Journal> {
    Arc::new(Journal::open(Arc::new(CrashDisk::new()), Path::new("/"), Path::new("/uploads")).unwrap())
}

fn data(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 + i / 251 + i / 65_521) as u8).collect::<Vec<u8>>().into()
}

fn plan(data: &Bytes) -> ObjectPlan {
    ObjectPlan::of(data).unwrap()
}

// What stands before the server.
#[derive(Default)]
struct Shim {
    keys: Mutex<BTreeMap<String, String>>,
    silent: AtomicBool,
    busy: AtomicBool,
    requests: AtomicU64,
    parts: AtomicU64,
    // Bodies that were put under each key, for *written once*.
    puts: Mutex<BTreeMap<String, u64>>,
}

struct Server {
    shim: Arc<Shim>,
    address: std::net::SocketAddr,
    dir: tempfile::TempDir,
}

// The server keeps notes of an object in a file whose name holds the key: ours are too long for that. The last part of a
// long key is another in there.
struct Short {
    files: s3s_fs::FileSystem,
    keys: Mutex<BTreeMap<String, String>>,
}

impl Short {
    fn short(&self, key: &mut String) {
        if let Some((folder, name)) = key.rsplit_once('/')
            && name.len() > 64
        {
            let short = format!("{folder}/{}", checkpoint::digest::content(name.as_bytes()).short());
            let long = std::mem::replace(key, short.clone());
            self.keys.lock().unwrap().insert(short, long);
        }
    }

    fn long(&self, key: &mut Option<String>) {
        if let Some(short) = key
            && let Some(long) = self.keys.lock().unwrap().get(short.as_str())
        {
            *short = long.clone();
        }
    }
}

macro_rules! with_short_keys {
    ($($method:ident: $input:ty => $output:ty,)*) => {
        #[async_trait]
        impl S3 for Short {
            $(async fn $method(&self, mut request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.short(&mut request.input.key);
                self.files.$method(request).await
            })*

            async fn delete_objects(
                &self,
                mut request: S3Request<dto::DeleteObjectsInput>,
            ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
                request.input.delete.objects.iter_mut().for_each(|object| self.short(&mut object.key));
                let mut response = self.files.delete_objects(request).await?;
                response.output.deleted.iter_mut().flatten().for_each(|object| self.long(&mut object.key));
                Ok(response)
            }

            async fn list_objects_v2(
                &self,
                request: S3Request<dto::ListObjectsV2Input>,
            ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
                let mut response = self.files.list_objects_v2(request).await?;
                response.output.contents.iter_mut().flatten().for_each(|object| self.long(&mut object.key));
                Ok(response)
            }
        }
    };
}

with_short_keys! {
    put_object: dto::PutObjectInput => dto::PutObjectOutput,
    get_object: dto::GetObjectInput => dto::GetObjectOutput,
    head_object: dto::HeadObjectInput => dto::HeadObjectOutput,
    delete_object: dto::DeleteObjectInput => dto::DeleteObjectOutput,
    create_multipart_upload: dto::CreateMultipartUploadInput => dto::CreateMultipartUploadOutput,
    upload_part: dto::UploadPartInput => dto::UploadPartOutput,
    complete_multipart_upload: dto::CompleteMultipartUploadInput => dto::CompleteMultipartUploadOutput,
    abort_multipart_upload: dto::AbortMultipartUploadInput => dto::AbortMultipartUploadOutput,
}

struct Keys(Arc<Shim>);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.0.keys.lock().unwrap();
        keys.get(access_key).map(|secret| secret.as_str().into()).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

#[derive(Clone)]
struct Front {
    shim: Arc<Shim>,
    service: S3Service,
}

impl hyper::service::Service<http::Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = s3s::HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let (shim, service) = (Arc::clone(&self.shim), self.service.clone());
        Box::pin(async move {
            shim.requests.fetch_add(1, Ordering::Relaxed);
            if shim.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if shim.busy.load(Ordering::Relaxed) {
                let mut response =
                    Response::new(Body::from("<Error><Code>SlowDown</Code></Error>".to_string()));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert("retry-after", 1.into());
                return Ok(response);
            }
            let query = request.uri().query().unwrap_or_default();
            let part = query.contains("partNumber=");
            let complete = *request.method() == Method::POST && query.starts_with("uploadId=");
            if part {
                shim.parts.fetch_add(1, Ordering::Relaxed);
            }
            let key = request.uri().path().to_string();
            let put = *request.method() == Method::PUT && !part || complete;
            let response = service.call(request.map(Body::from)).await?;
            if put && response.status().is_success() {
                *shim.puts.lock().unwrap().entry(key).or_default() += 1;
            }
            Ok(response)
        })
    }
}

async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let shim = Arc::new(Shim::default());
    shim.keys.lock().unwrap().insert("canary-id-0815".into(), "canary-secret-0815".into());
    let files = s3s_fs::FileSystem::new(dir.path()).unwrap();
    let mut builder = S3ServiceBuilder::new(Short { files, keys: Mutex::default() });
    builder.set_auth(Keys(Arc::clone(&shim)));
    let front = Front { shim: Arc::clone(&shim), service: builder.build() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let front = front.clone();
            tokio::spawn(async move {
                // A client that goes away ends its connection with an error.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), front)
                    .await;
            });
        }
    });
    Server { shim, address, dir }
}

impl Server {
    fn config(&self, credentials: &str) -> StoreConfig {
        let text = format!("endpoint = \"http://{}/bucket/p/q\"\n{credentials}", self.address);
        StoreConfig::from_disk("main", &text.parse().unwrap(), &Environment::default()).unwrap()
    }

    fn static_config(&self) -> StoreConfig {
        self.config("access_key_id = \"canary-id-0815\"\nsecret_access_key = \"canary-secret-0815\"")
    }

    fn store(&self, limits: Limits) -> Store {
        Store::open(&self.static_config(), limits).unwrap()
    }

    fn written_twice(&self) -> Vec<String> {
        let puts = self.shim.puts.lock().unwrap();
        let twice = puts.iter().filter(|(key, count)| **count > 1 && !key.ends_with(".json"));
        twice.map(|(key, _)| key.clone()).collect()
    }
}

fn impatient() -> Limits {
    Limits {
        quiet: Duration::from_millis(300),
        bytes_per_second_min: 64 << 20,
        unanswered: Duration::from_secs(1),
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_keeps_packs_gives_them_back_and_deletes_them() {
    let server = server().await;
    let (store, journal) = (server.store(Limits::default()), journal());
    store.check_access().await.unwrap();
    let marker = store.claim(CLUSTER).await.unwrap();
    assert_eq!(store.claim(CLUSTER).await.unwrap(), marker);
    assert_eq!(store.claim(Uuid::from_u128(7)).await.unwrap_err().trouble(), Trouble::Foreign);

    let lens = [0, 1, 1000, 70_000, 9 << 20, 3];
    let contents: Vec<Arc<dyn Source>> =
        lens.iter().map(|len| Arc::new(data(*len)) as Arc<dyn Source>).collect();
    let objects = pack::pack(&contents);
    let written = store.upload_all(&journal, CLUSTER, 3, objects).await.unwrap();
    assert_eq!(written.len(), 2);
    let wanted: Vec<Wanted> =
        written.iter().map(|object| Wanted::whole(object.stored.name, object.plan.clone())).collect();
    let mut leaves = std::pin::pin!(store.fetch(&wanted));
    let mut bytes = 0;
    while let Some(leaf) = leaves.next().await {
        let leaf = leaf.unwrap();
        for piece in pack::pieces(written[leaf.wanted].packed.extents(), leaf.offset, &leaf.data) {
            let of = contents[piece.content].read(piece.content_offset, piece.data.len() as u64).unwrap();
            assert_eq!(piece.data, of);
            bytes += piece.data.len();
        }
    }
    assert_eq!(bytes, lens.iter().sum::<usize>());

    let names: Vec<ObjectName> = written.iter().map(|object| object.stored.name).collect();
    let listed = store.list_all(Some(CLUSTER)).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|object| names.contains(&object.name.unwrap())));
    let next = store.begin_deletes(&marker, 77).await.unwrap();
    store.check_marker(&next).await.unwrap();
    assert_eq!(store.begin_deletes(&marker, 78).await.unwrap_err().trouble(), Trouble::Foreign);
    let answers = store.delete(&names).await;
    assert!(answers.iter().all(|(_, answer)| matches!(answer, Deleted::Gone)), "{answers:?}");
    assert_eq!(store.list_all(Some(CLUSTER)).await.unwrap(), []);
    let missing = store.get(&names[0], &written[0].plan, 0, 1).await.unwrap_err();
    assert_eq!(missing.trouble(), Trouble::Missing, "{missing}");
    assert_eq!(server.written_twice(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_a_real_server_finds_what_it_lacks() {
    let server = server().await;
    let report = check::check(&server.static_config()).await.unwrap();
    assert!(report.is_fit(), "{report}");
    for probe in
        [Probe::Access, Probe::Create, Probe::Ranges, Probe::Lists, Probe::Parts, Probe::LateComplete]
    {
        assert_eq!(report.verdict(probe), Verdict::Holds, "{report}");
    }
    // It has no such request.
    assert_eq!(report.verdict(Probe::Uploads), Verdict::Lacks, "{report}");
    assert!(report.took <= Duration::from_secs(30), "{report}");
    assert_eq!(report.left, None, "{report}");
    assert!(!format!("{report} {report:?}").contains("canary"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_that_is_silent_ends_an_upload_in_time_and_the_next_try_ends_it_well() {
    let server = server().await;
    let (store, journal) = (server.store(impatient()), journal());
    let plan = plan(&data(9 << 20));
    server.shim.silent.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let error = store.upload(&journal, CLUSTER, 1, &plan, Arc::new(data(9 << 20))).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Away, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.shim.silent.store(false, Ordering::Relaxed);
    let store = server.store(Limits::default());
    let stored = store.upload(&journal, CLUSTER, 1, &plan, Arc::new(data(9 << 20))).await.unwrap();
    assert_eq!(store.get(&stored.name, &plan, 0, 9 << 20).await.unwrap(), data(9 << 20));
    assert_eq!(server.written_twice(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_that_is_busy_for_a_while_is_waited_for_slowly() {
    let server = server().await;
    let (store, journal) = (server.store(Limits::default()), journal());
    server.shim.busy.store(true, Ordering::Relaxed);
    let shim = Arc::clone(&server.shim);
    let over = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(4)).await;
        shim.busy.store(false, Ordering::Relaxed);
        shim.requests.load(Ordering::Relaxed)
    });
    let uploads = (0..8).map(|attempt| {
        let (store, journal) = (store.clone(), Arc::clone(&journal));
        async move { store.upload(&journal, CLUSTER, attempt, &plan(&data(900)), Arc::new(data(900))).await }
    });
    for stored in futures::future::join_all(uploads).await {
        stored.unwrap();
    }
    let sent = over.await.unwrap();
    // Eight were on their way when the first *busy* came.
    assert!(sent <= 8 + 12, "{sent} requests in four seconds");
}

#[test]
fn keys_that_rotate_in_the_middle_of_an_upload_to_a_real_server_are_read_again() {
    let runtime = StoreRuntime::new(2, 4).unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let server = server().await;
        let file = server.dir.path().join("credentials");
        // This server binds an upload to the key id that began it, so only the secret is another.
        let write = |secret: &str| {
            let text =
                format!("[default]\naws_access_key_id=main\naws_secret_access_key=canary-{secret}-0815\n");
            std::fs::write(&file, text).unwrap();
        };
        let admit = |shim: &Shim, secret: &str| {
            *shim.keys.lock().unwrap() = BTreeMap::from([("main".into(), format!("canary-{secret}-0815"))]);
        };
        write("first");
        admit(&server.shim, "first");
        let config = server.config(&format!("credentials_file = \"{}\"", file.display()));
        let store = Store::open(&config, Limits::default()).unwrap();
        let journal = journal();
        let data = data(40 << 20);
        let plan = plan(&data);
        let upload = store.upload(&journal, CLUSTER, 1, &plan, Arc::new(data.clone()));
        let rotate = async {
            while server.shim.parts.load(Ordering::Relaxed) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            write("second");
            admit(&server.shim, "second");
        };
        let (stored, ()) = tokio::join!(upload, rotate);
        let stored = stored.unwrap();
        assert_eq!(store.get(&stored.name, &plan, 0, data.len() as u64).await.unwrap(), data);
        assert_eq!(server.written_twice(), Vec::<String>::new());
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(120)).expect("the upload ended well");
}
