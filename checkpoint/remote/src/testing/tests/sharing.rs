use super::*;

#[tokio::test(start_paused = true)]
async fn one_key_that_may_not_be_deleted_keeps_no_other_and_is_not_asked_again() {
    let bench = bench(Traits::default());
    let mut names = Vec::new();
    for attempt in 0..5 {
        names.push(bench.upload(attempt, &data(10)).await.unwrap().name);
    }
    bench.s3.lock(&format!("p/q/{}", names[2]));
    let answers = bench.store.delete(&names).await;
    for (at, (name, answer)) in answers.iter().enumerate() {
        assert_eq!(*name, names[at]);
        assert_eq!(answer.is_denied(), at == 2, "{answer:?}");
    }
    assert_eq!(bench.s3.keys(), [format!("p/q/{}", names[2])]);
    assert_eq!(bench.store.counts().requests(Verb::DeleteBatch), 1);
    // Those that are gone already are gone.
    let again = bench.store.delete(&names[..2]).await;
    assert!(again.iter().all(|(_, answer)| matches!(answer, Deleted::Gone)));
}

#[tokio::test(start_paused = true)]
async fn foreign_objects_are_listed_as_such() {
    let bench = bench(Traits::default());
    let name = bench.upload(1, &data(10)).await.unwrap().name;
    bench.s3.plant("p/q/notes.txt", "x");
    bench.s3.plant("p/q2/other", "x");
    bench.store.claim(CLUSTER).await.unwrap();
    let listed = bench.store.list_all(None).await.unwrap();
    let known: Vec<_> = listed.iter().map(|o| (o.key.clone(), o.name.is_some())).collect();
    assert_eq!(
        known,
        [(name.to_string(), true), ("epochlog.json".into(), false), ("notes.txt".into(), false)]
    );
    assert_eq!(listed[0].len, 10);
}

#[tokio::test(start_paused = true)]
async fn a_second_cluster_on_the_prefix_is_refused() {
    for fault in [None, Some(Fault::Cut), Some(Fault::Answer(409, "ConditionalRequestConflict", None))] {
        let bench = bench(Traits::default());
        if let Some(fault) = fault {
            bench.faults.next(Verb::Put, When::After, fault);
        }
        let marker = bench.store.claim(CLUSTER).await.unwrap();
        assert_eq!(bench.store.claim(CLUSTER).await.unwrap(), marker);
        bench.store.check_marker(&marker).await.unwrap();
        let error = bench.store.claim(Uuid::from_u128(2)).await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Foreign);
        assert!(error.to_string().contains(&CLUSTER.to_string()), "{error}");
        assert_eq!(bench.store.marker().await.unwrap(), Some(marker));
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_cluster_and_its_clone_the_second_to_delete_is_refused() {
    for (when, fault) in [(When::Before, Fault::Cut), (When::After, Fault::Cut), (When::After, Fault::Stall)]
    {
        let bench = bench(Traits::default());
        let marker = bench.store.claim(CLUSTER).await.unwrap();
        bench.faults.next(Verb::Put, when, fault);
        let next = bench.store.begin_deletes(&marker, 11).await.unwrap();
        assert_eq!(next, Marker { deletes: 11, ..marker });
        // The same batch again, after a crash between marker and record.
        assert_eq!(bench.store.begin_deletes(&marker, 11).await.unwrap(), next);
        let clone = bench.store.begin_deletes(&marker, 12).await.unwrap_err();
        assert_eq!(clone.trouble(), Trouble::Foreign);
        assert!(clone.to_string().contains("copy"), "{clone}");
        assert!(bench.store.check_marker(&marker).await.is_err());
        bench.store.check_marker(&next).await.unwrap();
        assert_eq!(bench.faults.hits(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_behind_the_same_address_with_another_uuid_is_refused() {
    let bench = bench(Traits::default());
    let marker = bench.store.claim(CLUSTER).await.unwrap();
    bench.s3.lose("p/q/epochlog.json");
    assert_eq!(bench.store.check_marker(&marker).await.unwrap_err().trouble(), Trouble::Foreign);
    let other = bench.store.claim(CLUSTER).await.unwrap();
    assert_ne!(other.store, marker.store);
    let error = bench.store.check_marker(&marker).await.unwrap_err();
    assert!(error.to_string().contains("another store"), "{error}");
    bench.s3.plant("p/q/epochlog.json", "{}");
    assert_eq!(bench.store.claim(CLUSTER).await.unwrap_err().trouble(), Trouble::Foreign);
}

#[tokio::test(start_paused = true)]
async fn a_marker_whose_answer_is_lost_is_right() {
    for verb in [Verb::Put, Verb::Get] {
        for skip in [0, 1] {
            for when in [When::Before, When::After] {
                for fault in faults() {
                    let bench = bench(Traits::default());
                    let case = format!("{verb:?} {skip} {when:?} {fault:?}");
                    bench.faults.add(Rule { verb: Some(verb), skip, times: 1, when, fault });
                    let marker = bench.store.claim(CLUSTER).await.expect(&case);
                    let next = bench.store.begin_deletes(&marker, 11).await.expect(&case);
                    bench.store.check_marker(&next).await.expect(&case);
                    assert_eq!(next, Marker { deletes: 11, ..marker }, "{case}");
                    assert_eq!(bench.faults.hits(), 1, "{case}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_delete_whose_answer_is_lost_is_right() {
    for when in [When::Before, When::After] {
        for fault in faults() {
            let bench = bench(Traits::default());
            let case = format!("{when:?} {fault:?}");
            let text = "endpoint = \"http://s3.test/bucket/p/q\"\naccess_key_id = \"a\"\nsecret_access_key = \"b\"\n\
                        disable_bulk_delete = true";
            let config =
                StoreConfig::from_disk("main", &text.parse().unwrap(), &crate::Environment::default())
                    .unwrap();
            let store = open(&config, Limits::default(), &bench.s3, &bench.faults).unwrap();
            let one = bench.upload(1, &data(10)).await.unwrap().name;
            let two = bench.upload(2, &data(10)).await.unwrap().name;
            bench.faults.next(Verb::Delete, when, fault);
            let answers = store.delete(&[one, two]).await;
            assert!(answers.iter().all(|(_, answer)| matches!(answer, Deleted::Gone)), "{case} {answers:?}");
            assert_eq!(bench.s3.keys(), Vec::<String>::new(), "{case}");
            assert_eq!(bench.faults.hits(), 1, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_arrives_late_hits_nothing_that_was_written_since() {
    let bench = bench(Traits::default());
    let old = bench.upload(1, &data(3000)).await.unwrap().name;
    // Held in a proxy; then the content comes back, in another attempt and in the same one.
    let olds = [old];
    let late = bench.store.delete(&olds);
    assert!(matches!(bench.store.delete(&[old]).await[0].1, Deleted::Gone));
    let again = bench.upload(1, &data(3000)).await.unwrap().name;
    let next = bench.upload(2, &data(3000)).await.unwrap().name;
    assert!(matches!(late.await[0].1, Deleted::Gone));
    for name in [again, next] {
        assert_eq!(bench.object(&name), Some(data(3000)), "{name}");
    }
    assert_eq!(bench.s3.written_twice(), Vec::<String>::new());
}
