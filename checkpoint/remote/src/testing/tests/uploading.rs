use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_written_is_read_again_for_every_size_around_a_part() {
    let bench = bench(Traits::default());
    for (attempt, len) in [0, 1, 1023, 1024, 1025, 2048, 3 * 1024, 3 * 1024 + 1].into_iter().enumerate() {
        let data = data(len);
        let stored = bench.upload(attempt as u64, &data).await.unwrap();
        assert_eq!(bench.object(&stored.name), Some(data.clone()), "{len}");
        assert_eq!(stored.proof, Proof::Checksum);
        assert_eq!(bench.store.head(&stored.name).await.unwrap().unwrap().len, len as u64);
        let plan = plan(&data);
        for (offset, take) in [(0, len), (len / 2, len - len / 2), (len.min(1000), 0), (0, len.min(1))] {
            let got = bench.store.get(&stored.name, &plan, offset as u64, take as u64).await.unwrap();
            assert_eq!(got, data.slice(offset..offset + take), "{len} {offset}+{take}");
        }
    }
    assert_eq!(bench.s3.uploads(), []);
    assert_eq!(bench.store.counts().requests(Verb::List), 0);
}

#[tokio::test(start_paused = true)]
async fn a_small_object_costs_one_request_and_one_of_three_parts_six() {
    let bench = bench(Traits::default());
    bench.upload(1, &data(1000)).await.unwrap();
    assert_eq!(bench.s3.requests().len(), 1);
    bench.upload(2, &data(3000)).await.unwrap();
    assert_eq!(bench.store.counts().writes(), 1 + 5);
    assert_eq!(bench.store.counts().requests(Verb::Head), 1);
    // Again, done already: nothing is sent but the question.
    bench.upload(2, &data(3000)).await.unwrap();
    assert_eq!(bench.store.counts().writes(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_another_call_still_holds_is_waited_for() {
    let bench = bench(Traits::default());
    let subject =
        crate::journal::Subject { cluster: CLUSTER, digest: plan(&data(10)).digest(), attempt: 1, len: 10 };
    let held = bench.journal.begin(subject).unwrap();
    let begun = Instant::now();
    assert_eq!(bench.upload(1, &data(10)).await.unwrap_err().trouble(), Trouble::Away);
    assert!((5..6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let ends = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(held);
    };
    let (uploaded, ()) = tokio::join!(async { bench.upload(1, &data(10)).await }, ends);
    uploaded.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bytes_that_change_on_the_way_are_sent_again() {
    for verb in [Verb::Put, Verb::Part] {
        let len = if verb == Verb::Put { 1000 } else { 3000 };
        // Refused by a store that checks.
        let bench = bench(Traits::default());
        bench.faults.next(verb, When::Before, Fault::Flip);
        let stored = bench.upload(1, &data(len)).await.unwrap();
        assert_eq!(bench.object(&stored.name), Some(data(len)));
        assert!(bench.s3.requests().iter().any(|request| request.status == 400));
        assert_eq!(bench.s3.written_twice(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_checks_nothing_is_found_out_and_the_key_given_up() {
    for reports in [true, false] {
        for verb in [Verb::Put, Verb::Part] {
            let bench = bench(Traits { checks: false, reports, ..Traits::default() });
            let len = if verb == Verb::Put { 1000 } else { 3000 };
            bench.faults.next(verb, When::Before, Fault::Flip);
            let stored = bench.upload(1, &data(len)).await.unwrap();
            assert_eq!(bench.object(&stored.name), Some(data(len)), "{verb:?}");
            assert_eq!(stored.proof, if reports { Proof::Checksum } else { Proof::ReadBack });
            // The spoiled key stays in the traces, for who cleans up.
            let traces = bench.journal.traces().unwrap();
            assert_eq!(traces.iter().map(|trace| trace.done).collect::<Vec<_>>(), [false, true]);
            assert_eq!(bench.s3.written_twice(), Vec::<String>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_that_stays_is_an_error_not_a_loop() {
    let bench = bench(Traits::default());
    bench.faults.add(Rule {
        verb: Some(Verb::Put),
        skip: 0,
        times: 100,
        when: When::Before,
        fault: Fault::Flip,
    });
    let error = bench.upload(1, &data(1000)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Damaged, "{error}");
    assert!(bench.faults.hits() <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_loses_tails_is_found_out_for_every_key() {
    for reports in [true, false] {
        let bench = bench(Traits { loses_tails: true, reports, ..Traits::default() });
        let error = bench.upload(1, &data(3000)).await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Damaged);
        assert!(error.to_string().contains("2999 bytes of 3000"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_store_forgot_begins_anew_under_another_key() {
    let bench = bench(Traits::default());
    // Stopped before the last part.
    bench.faults.add(Rule {
        verb: Some(Verb::Complete),
        skip: 0,
        times: 9,
        when: When::Before,
        fault: Fault::Stall,
    });
    assert!(timeout(Duration::from_secs(1), bench.upload(1, &data(5000))).await.is_err());
    bench.faults.clear();
    bench.s3.lose_uploads();
    let stored = bench.upload(1, &data(5000)).await.unwrap();
    assert_eq!(bench.object(&stored.name), Some(data(5000)));
    assert_eq!(bench.journal.traces().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_upload_sends_only_what_is_missing() {
    let bench = bench(Traits::default());
    bench.faults.add(Rule {
        verb: Some(Verb::Complete),
        skip: 0,
        times: 9,
        when: When::Before,
        fault: Fault::Stall,
    });
    assert!(timeout(Duration::from_secs(1), bench.upload(1, &data(5000))).await.is_err());
    bench.faults.clear();
    bench.upload(1, &data(5000)).await.unwrap();
    assert_eq!(bench.store.counts().requests(Verb::Part), 5);
    assert_eq!(bench.journal.traces().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_done_and_deleted_is_not_written_again() {
    let bench = bench(Traits::default());
    let first = bench.upload(1, &data(100)).await.unwrap().name;
    assert!(matches!(bench.store.delete(&[first]).await[0].1, Deleted::Gone));
    let second = bench.upload(1, &data(100)).await.unwrap().name;
    assert_ne!(first, second);
    assert_eq!(bench.s3.written_twice(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_is_not_uploaded() {
    let bench = bench(Traits::default());
    let planned = plan(&data(3000));
    let mut other = data(3000).to_vec();
    other[2999] ^= 1;
    let error = bench
        .store
        .upload(&bench.journal, CLUSTER, 1, &planned, Arc::new(Bytes::from(other)))
        .await
        .unwrap_err();
    assert_eq!(error.trouble(), Trouble::Changed);
    assert!(error.to_string().contains("changed since"), "{error}");
    assert_eq!(bench.s3.keys(), Vec::<String>::new());
}
