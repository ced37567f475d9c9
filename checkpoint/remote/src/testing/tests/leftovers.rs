use super::*;

#[tokio::test(start_paused = true)]
async fn an_upload_whose_id_never_arrived_is_found_by_listing_and_ended() {
    let bench = bench(Traits { page: 1, ..Traits::default() });
    let mut lost = Vec::new();
    for attempt in 1..4 {
        bench.faults.next(Verb::CreateUpload, When::After, Fault::Cut);
        lost.push(bench.upload(attempt, &data(3000)).await.unwrap().name);
    }
    // Of another cluster, of another prefix, of somebody else.
    let other = Uuid::from_u128(0xc2);
    bench.faults.next(Verb::CreateUpload, When::After, Fault::Cut);
    let source = Arc::new(data(2000));
    bench.store.upload(&bench.journal, other, 9, &plan(&data(2000)), source).await.unwrap();
    bench.s3.begin_upload("p/q2/somebody");
    bench.s3.begin_upload("p/q/notes.bin");
    assert_eq!(bench.s3.uploads().len(), 6);

    let mut open = bench.store.open_uploads(Some(CLUSTER)).await.unwrap();
    open.sort_by_key(|upload| upload.name.map(|name| name.attempt));
    assert_eq!(open.iter().map(|upload| upload.name.unwrap()).collect::<Vec<_>>(), lost);
    let all = bench.store.open_uploads(None).await.unwrap();
    assert_eq!(all.len(), 5);
    let foreign: Vec<_> = all.iter().filter(|upload| upload.name.is_none()).collect();
    assert_eq!(foreign.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), ["notes.bin"]);

    for upload in &open {
        bench.store.abort_upload(&upload.name.unwrap(), &upload.id).await.unwrap();
        // Again: gone is gone.
        bench.store.abort_upload(&upload.name.unwrap(), &upload.id).await.unwrap();
    }
    assert_eq!(bench.store.open_uploads(Some(CLUSTER)).await.unwrap(), []);
    assert_eq!(bench.s3.uploads().len(), 3);
    assert_eq!(bench.s3.keys().len(), 4, "what was put together is untouched");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_list_uploads_says_so() {
    let bench = bench(Traits { lists_uploads: false, ..Traits::default() });
    let error = bench.store.open_uploads(Some(CLUSTER)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Refused);
    assert!(error.to_string().contains("listing open uploads"), "{error}");
    assert!(!error.to_string().contains("X-Amz"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn listing_and_ending_an_upload_whose_answer_is_lost_are_right() {
    for verb in [Verb::ListUploads, Verb::AbortUpload] {
        for when in [When::Before, When::After] {
            for fault in faults() {
                let bench = bench(Traits::default());
                let case = format!("{verb:?} {when:?} {fault:?}");
                bench.faults.next(Verb::CreateUpload, When::After, Fault::Cut);
                bench.upload(1, &data(3000)).await.unwrap();
                bench.faults.next(verb, when, fault);
                let open = bench.store.open_uploads(Some(CLUSTER)).await.expect(&case);
                assert_eq!(open.len(), 1, "{case}");
                bench.store.abort_upload(&open[0].name.unwrap(), &open[0].id).await.expect(&case);
                assert_eq!(bench.s3.uploads(), [], "{case}");
                assert_eq!(bench.faults.hits(), 2, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_kill_left_in_a_folder_is_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = folder_store(dir.path());
    let journal = journal(&CrashDisk::new());
    assert_eq!(store.open_uploads(Some(CLUSTER)).await.unwrap(), []);
    let source = Arc::new(data(1000));
    let stored = store.upload(&journal, CLUSTER, 4, &plan(&data(1000)), source).await.unwrap();
    let at = dir.path().join(stored.name.to_string());
    let beside = |end: &str| std::path::PathBuf::from(format!("{}{end}", at.display()));
    std::fs::write(beside("#1"), "half").unwrap();
    std::fs::write(beside("#22"), "half").unwrap();
    std::fs::write(beside("#x"), "somebody's").unwrap();
    let open = store.open_uploads(Some(CLUSTER)).await.unwrap();
    assert_eq!(open.iter().map(|upload| upload.id.as_str()).collect::<Vec<_>>(), ["1", "22"]);
    assert_eq!(store.open_uploads(None).await.unwrap(), open);
    assert_eq!(store.open_uploads(Some(Uuid::from_u128(3))).await.unwrap(), []);
    // What is no number names no file.
    store.abort_upload(&stored.name, "x").await.unwrap();
    store.abort_upload(&stored.name, "1/../../x").await.unwrap();
    for upload in &open {
        assert_eq!(upload.name, Some(stored.name));
        store.abort_upload(&stored.name, &upload.id).await.unwrap();
    }
    assert_eq!(store.open_uploads(Some(CLUSTER)).await.unwrap(), []);
    assert!(at.exists() && beside("#x").exists());
}
