use super::*;

#[tokio::test]
async fn a_shared_folder_keeps_objects_and_leaves_nothing_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("path = \"{}\"", dir.path().display());
    let config =
        StoreConfig::from_disk("shared", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    let store = Store::open(&config, Limits::default()).unwrap();
    let (disk, marker) = (CrashDisk::new(), store.claim(CLUSTER).await.unwrap());
    let journal = journal(&disk);
    let mut names = Vec::new();
    for (attempt, len) in [0, 1000, 5000].into_iter().enumerate() {
        let data = data(len);
        let source = Arc::new(data.clone());
        let stored = store.upload(&journal, CLUSTER, attempt as u64, &plan(&data), source).await.unwrap();
        assert_eq!(stored.proof, Proof::ReadBack);
        assert_eq!(store.get(&stored.name, &plan(&data), 0, len as u64).await.unwrap(), data);
        names.push(stored.name);
    }
    // What a kill left beside a name goes when the upload is resumed.
    let entry_of = |len: usize| plan(&data(len)).digest();
    journal.forget(2, entry_of(5000)).unwrap();
    let at = dir.path().join(names[1].to_string());
    let left = std::path::PathBuf::from(format!("{}#1", at.display()));
    std::fs::write(&left, "half").unwrap();
    store.upload(&journal, CLUSTER, 1, &plan(&data(1000)), Arc::new(data(1000))).await.unwrap();
    assert!(!left.exists());

    std::fs::write(&at, &data(1000)[..300]).unwrap();
    let short = store.get(&names[1], &plan(&data(1000)), 0, 1000).await.unwrap_err();
    assert_eq!(short.trouble(), Trouble::Damaged);
    assert_eq!(store.list_all(Some(CLUSTER)).await.unwrap().len(), 3);
    assert_eq!(store.list_all(Some(Uuid::from_u128(9))).await.unwrap(), []);
    let answers = store.delete(&names).await;
    assert!(answers.iter().all(|(_, answer)| matches!(answer, Deleted::Gone)), "{answers:?}");
    assert_eq!(store.head(&names[0]).await.unwrap(), None);
    let next = store.begin_deletes(&marker, 5).await.unwrap();
    store.check_marker(&next).await.unwrap();
}

#[tokio::test]
async fn plain_http_is_for_reading() {
    let table = "url = \"http://h.test/x\"".parse().unwrap();
    let config = StoreConfig::from_disk("web", &table, &crate::Environment::default()).unwrap();
    let store = open(&config, Limits::default(), &ScriptedS3::default(), &Faults::new()).unwrap();
    let journal = journal(&CrashDisk::new());
    let error = store.upload(&journal, CLUSTER, 1, &plan(&data(1)), Arc::new(data(1))).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Refused);
    assert!(error.to_string().contains("for reading"), "{error}");
}

#[tokio::test]
async fn every_kind_of_store_opens_with_the_keys_of_its_kind() {
    for text in [
        "endpoint = \"https://s3.eu-west-1.amazonaws.com/b/p\"\naccess_key_id = \"a\"\nsecret_access_key = \"b\"",
        "url = \"gs://b/p\"\ngoogle_skip_signature = true",
        "url = \"az://c/p\"\nazure_storage_account_name = \"n\"\nazure_storage_account_key = \"a2V5\"",
        "url = \"s3://b\"\naws_endpoint_url = \"http://h:9000\"\naws_checksum_algorithm = \"\"\nskip_signature = true",
    ] {
        let config =
            StoreConfig::from_disk("x", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
        open(&config, Limits::default(), &ScriptedS3::default(), &Faults::new()).expect(text);
    }
    let table = "url = \"s3://b\"\naccess_key_id = \"canary-0815\"".parse().unwrap();
    let config = StoreConfig::from_disk("x", &table, &crate::Environment::default()).unwrap();
    let error = open(&config, Limits::default(), &ScriptedS3::default(), &Faults::new()).unwrap_err();
    assert_eq!(error.trouble(), Trouble::Configuration);
    assert!(!error.to_string().contains("canary"), "{error}");
}
