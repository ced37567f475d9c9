use super::*;

#[tokio::test(start_paused = true)]
async fn keys_that_rotate_in_the_file_during_an_upload_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |id: &str| {
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = canary-{id}\n");
        std::fs::write(&file, text).unwrap();
    };
    write("old");
    let bench = bench(Traits::default());
    let text = format!("endpoint = \"http://s3.test/bucket/p/q\"\ncredentials_file = \"{}\"", file.display());
    let config =
        StoreConfig::from_disk("main", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    let store = open(&config, Limits::default(), &bench.s3, &bench.faults).unwrap();
    let upload = |attempt| {
        let (store, journal) = (store.clone(), Arc::clone(&bench.journal));
        async move { store.upload(&journal, CLUSTER, attempt, &plan(&data(20_000)), Arc::new(data(20_000))).await }
    };
    bench.s3.admit_only(&["old"]);
    upload(1).await.unwrap();
    bench.s3.admit_only(&["new"]);
    let error = upload(2).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Denied);
    assert!(error.to_string().contains("expired") && !error.to_string().contains("canary"), "{error}");
    write("new");
    upload(2).await.unwrap();
    // In the middle, parts that are on their way are refused together: one finds the new keys, the others find them
    // found.
    let begun = bench.s3.uploads().len();
    let rotate = async {
        while bench.s3.uploads().len() == begun {
            tokio::task::yield_now().await;
        }
        write("newer");
        bench.s3.admit_only(&["newer"]);
    };
    let (stored, ()) = tokio::join!(upload(3), rotate);
    stored.unwrap();
    let refused = |request: &&Request| request.verb == Verb::Part && request.status == 400;
    let requests = bench.s3.requests();
    assert!((1..=8).contains(&requests.iter().filter(refused).count()), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn no_error_shows_a_secret() {
    let bench = bench(Traits::default());
    for fault in [
        Fault::Answer(403, "AccessDenied canary-secret-0815", None),
        Fault::Answer(301, "PermanentRedirect", None),
        Fault::Answer(400, "canary-id-0815", None),
    ] {
        bench.faults.next(Verb::Put, When::Before, fault);
        let error = bench.upload(1, &data(10)).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    assert!(!format!("{:?}", bench.store).contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn what_a_store_repeats_of_the_keys_in_a_file_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |name: &str| {
        let text = format!(
            "[default]\naws_access_key_id = canary-{name}-id\naws_secret_access_key = canary-{name}-key\n\
             aws_session_token = canary-{name}-token\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write("first");
    let bench = bench(Traits::default());
    let text = format!("endpoint = \"http://s3.test/bucket/p/q\"\ncredentials_file = \"{}\"", file.display());
    let config =
        StoreConfig::from_disk("main", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    let store = open(&config, Limits::default(), &bench.s3, &bench.faults).unwrap();
    let upload = || async {
        store.upload(&bench.journal, CLUSTER, 1, &plan(&data(10)), Arc::new(data(10))).await.unwrap_err()
    };
    let repeats = |code| Rule {
        verb: Some(Verb::Put),
        skip: 0,
        times: 2,
        when: When::Before,
        fault: Fault::Answer(403, code, None),
    };
    bench.faults.add(repeats("InvalidAccessKeyId canary-first-id canary-first-key canary-first-token"));
    let error = upload().await;
    assert!(!error.to_string().contains("canary"), "{error}");
    bench.faults.clear();
    // Renewed while it is denied.
    write("second");
    bench.faults.add(repeats("InvalidAccessKeyId canary-second-id canary-second-key canary-second-token"));
    let error = upload().await;
    assert!(!error.to_string().contains("canary"), "{error}");
}

// Lines of the log.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_canary_is_in_no_debug_no_error_no_log_no_journal_and_no_object() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _log = tracing::subscriber::set_default(subscriber);

    let mut said = String::new();
    let mut hits = 0;
    for verb in [
        Verb::Put,
        Verb::CreateUpload,
        Verb::Part,
        Verb::Complete,
        Verb::Head,
        Verb::Get,
        Verb::List,
        Verb::ListUploads,
        Verb::DeleteBatch,
    ] {
        for fault in [
            // A store that repeats what it was sent, as some proxies do.
            Fault::Answer(403, "SignatureDoesNotMatch canary-secret-0815 canary-id-0815", None),
            Fault::Answer(400, "canary-secret-0815", None),
            Fault::Answer(503, "canary-secret-0815", None),
            Fault::Cut,
            Fault::Stall,
            Fault::Flip,
        ] {
            let bench = bench(Traits { reports: false, ..Traits::default() });
            let when = if fault == Fault::Flip { When::After } else { When::Before };
            bench.faults.add(Rule { verb: Some(verb), skip: 0, times: 1 << 20, when, fault: fault.clone() });
            let upload = bench.upload(1, &data(3000)).await;
            let small = bench.upload(2, &data(300)).await;
            let name = small.as_ref().ok().map(|stored| stored.name);
            said += &format!("{upload:?} {small:?} {:?}", bench.store);
            for error in
                [upload.err(), small.err(), bench.store.claim(CLUSTER).await.err()].into_iter().flatten()
            {
                said += &format!("{error} {} {} {}", error.what(), error.why(), error.advice());
            }
            if let Some(name) = name {
                said += &format!("{:?}", bench.store.get(&name, &plan(&data(300)), 0, 300).await);
                said += &format!("{:?}", bench.store.delete(&[name]).await);
            }
            said += &format!("{:?}", bench.store.list_all(None).await);
            said += &format!("{:?}", bench.store.open_uploads(None).await);
            said += &format!("{:?}", bench.store.check_access().await);
            said += &format!("{:?}", bench.journal.traces().unwrap());
            if matches!(fault, Fault::Answer(403, ..)) {
                let report = crate::check::check_store(&bench.store, "store".into()).await;
                said += &format!("{report} {report:?}");
            }
            hits += bench.faults.hits();
            for key in bench.s3.keys() {
                said += &key;
                said += &String::from_utf8_lossy(&bench.s3.object(&key).unwrap());
            }
            for (name, _) in bench.disk.read_dir(Path::new("/uploads")).unwrap() {
                let file = bench
                    .disk
                    .open(&Path::new("/uploads").join(&name), checkpoint::disk::Open::Read)
                    .unwrap();
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                said += &String::from_utf8_lossy(&bytes);
            }
        }
    }
    let config = ScriptedS3::config("p");
    said += &format!("{config:?} {:?} {:?} {}", config.shown(), config.warnings(), config.place());
    said += &String::from_utf8_lossy(&log.0.lock().unwrap());
    assert!(hits > 9 * 6, "{hits}");
    assert!(said.len() > 10_000, "{}", said.len());
    if let Some(at) = said.find("canary") {
        panic!(
            "...{}...",
            &said[said.floor_char_boundary(at.saturating_sub(200))..said.floor_char_boundary(at + 200)]
        );
    }
}
