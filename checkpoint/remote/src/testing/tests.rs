mod answers;
mod checking;
mod folders;
mod hostile;
mod kinds;
mod leftovers;
mod packing;
mod reading;
mod secrets;
mod sharing;
mod uploading;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use checkpoint::Disk;
use checkpoint::testing::{Crash, CrashDisk};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::*;
use crate::tap::Verb;
use crate::{Deleted, Journal, Marker, ObjectName, ObjectPlan, Proof, Stored, Trouble};

const CLUSTER: Uuid = Uuid::from_u128(0xc1);

struct Bench {
    s3: ScriptedS3,
    faults: Faults,
    store: Store,
    disk: CrashDisk,
    journal: Arc<Journal>,
}

fn journal(disk: &CrashDisk) -> Arc<Journal> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Arc::new(Journal::open(disk, Path::new("/"), Path::new("/uploads")).unwrap())
}

fn bench(traits: Traits) -> Bench {
    let (s3, faults, disk) = (ScriptedS3::new(traits), Faults::new(), CrashDisk::new());
    let store = open(&ScriptedS3::config("p/q"), Limits::default(), &s3, &faults).unwrap();
    let journal = journal(&disk);
    Bench { s3, faults, store, disk, journal }
}

fn folder_store(dir: &Path) -> Store {
    let text = format!("path = \"{}\"", dir.display());
    let config =
        StoreConfig::from_disk("shared", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    Store::open(&config, Limits::default()).unwrap()
}

// Everything that may become of a request.
fn faults() -> Vec<Fault> {
    vec![
        Fault::Cut,
        Fault::Stall,
        Fault::Answer(500, "InternalError", None),
        Fault::Answer(503, "SlowDown", None),
        Fault::Answer(429, "TooManyRequests", Some(3)),
        Fault::Answer(409, "OperationAborted", None),
        Fault::Answer(400, "RequestTimeout", None),
    ]
}

fn data(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 + i / 251 + i / 65_521) as u8).collect::<Vec<u8>>().into()
}

fn plan(data: &Bytes) -> ObjectPlan {
    ObjectPlan::by_leaves_of(data, 1024).unwrap()
}

impl Bench {
    async fn upload(&self, attempt: u64, data: &Bytes) -> Result<Stored, StoreError> {
        self.store.upload(&self.journal, CLUSTER, attempt, &plan(data), Arc::new(data.clone())).await
    }

    fn object(&self, name: &ObjectName) -> Option<Bytes> {
        self.s3.object(&format!("p/q/{name}"))
    }
}
