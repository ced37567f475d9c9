use super::*;
use crate::journal::Subject;

#[tokio::test]
async fn a_file_that_nobody_saw_become_durable_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, journal) = (folder_store(dir.path()), journal(&CrashDisk::new()));
    let data = data(3000);
    let planned = plan(&data);
    let subject = Subject { cluster: CLUSTER, digest: planned.digest(), attempt: 1, len: 3000 };
    let earlier = journal.begin(subject).unwrap().rename(7).unwrap();
    // Renamed, and killed before its folder was synced.
    let at = dir.path().join(earlier.to_string());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(&at, &data).unwrap();
    let stored = store.upload(&journal, CLUSTER, 1, &planned, Arc::new(data.clone())).await.unwrap();
    assert_ne!(stored.name, earlier);
    assert_eq!(store.get(&stored.name, &planned, 0, 3000).await.unwrap(), data);
    // One that was seen to be is not.
    let again = store.upload(&journal, CLUSTER, 1, &planned, Arc::new(data.clone())).await.unwrap();
    assert_eq!(again, stored);
    store.clean_up(&journal, 1, &[stored.name].into()).await.unwrap();
    assert!(!at.exists());
    assert_eq!(store.list_all(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_folder_is_heard_leaf_by_leaf() {
    let dir = tempfile::tempdir().unwrap();
    let (store, journal) = (folder_store(dir.path()), journal(&CrashDisk::new()));
    let data = data(9 * 1024);
    store.upload(&journal, CLUSTER, 1, &plan(&data), Arc::new(data.clone())).await.unwrap();
    // Nine leaves, the beginning, the end, and what is read back.
    assert!(store.counts().answers() > 11, "{}", store.counts().answers());
    assert!(Verb::ALL.into_iter().all(|verb| store.counts().requests(verb) == 0));
}

#[tokio::test]
async fn a_write_that_fails_is_no_damage_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, journal) = (folder_store(dir.path()), journal(&CrashDisk::new()));
    // Where the folder of the cluster is to be, something else is.
    std::fs::write(dir.path().join(CLUSTER.to_string()), "not a folder").unwrap();
    let error = store.upload(&journal, CLUSTER, 1, &plan(&data(10)), Arc::new(data(10))).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Refused, "{error}");
    std::fs::remove_file(dir.path().join(CLUSTER.to_string())).unwrap();
    store.upload(&journal, CLUSTER, 1, &plan(&data(10)), Arc::new(data(10))).await.unwrap();
    assert_eq!(store.open_uploads(None).await.unwrap(), []);
}

#[test]
fn a_folder_that_hangs_ends_in_time_and_takes_no_thread_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        quiet: Duration::from_millis(50),
        bytes_per_second_min: 1 << 30,
        unanswered: Duration::from_millis(500),
        ..Limits::default()
    };
    let text = format!("path = \"{}\"", dir.path().display());
    let config =
        StoreConfig::from_disk("shared", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    let store = Store::open(&config, limits).unwrap();
    let data = data(1000);
    let name = ObjectName { cluster: CLUSTER, digest: plan(&data).digest(), attempt: 1, nonce: 1 };
    let at = dir.path().join(name.to_string());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    // Whoever opens it waits for a writer, who never comes.
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();

    let runtime = crate::StoreRuntime::new(2, 1).unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let planned = plan(&data);
        let gets = (0..40).map(|_| store.get_leaf(&name, &planned, 0));
        for got in futures::future::join_all(gets).await {
            assert_eq!(got.unwrap_err().trouble(), Trouble::Away);
        }
        let bench = bench(Traits::default());
        bench.upload(1, &data).await.unwrap();
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(60)).expect("an upload to another store ends well");
}
