use super::*;

#[tokio::test(start_paused = true)]
async fn an_upload_whose_answer_is_lost_is_right_in_every_case() {
    let mut cases = 0;
    for traits in [Traits::default(), Traits { reports: false, ..Traits::default() }] {
        for (len, verb) in [
            (1000, Verb::Put),
            (3000, Verb::CreateUpload),
            (3000, Verb::Part),
            (3000, Verb::Complete),
            (3000, Verb::Head),
        ] {
            for when in [When::Before, When::After] {
                for fault in faults() {
                    for skip in [0, u64::from(verb == Verb::Part)] {
                        let bench = bench(traits);
                        let case = format!("{verb:?} {when:?} {fault:?} {skip}");
                        bench.faults.add(Rule {
                            verb: Some(verb),
                            skip,
                            times: 1,
                            when,
                            fault: fault.clone(),
                        });
                        let data = data(len);
                        let stored = bench.upload(7, &data).await.expect(&case);
                        assert_eq!(bench.object(&stored.name), Some(data), "{case}");
                        assert_eq!(bench.faults.hits(), 1, "{case}");
                        assert_eq!(bench.s3.written_twice(), Vec::<String>::new(), "{case}");
                        assert_eq!(bench.s3.keys().len(), 1, "{case}: no key beside");
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 2 * 5 * 2 * 7 * 2);
}

#[tokio::test(start_paused = true)]
async fn a_read_a_listing_and_a_delete_whose_answer_is_lost_are_right() {
    for verb in [Verb::Get, Verb::List, Verb::DeleteBatch] {
        for when in [When::Before, When::After] {
            for fault in faults().into_iter().chain([Fault::CutBody(10)]) {
                if fault == Fault::CutBody(10) && when == When::Before {
                    continue;
                }
                let bench = bench(Traits { page: 1, ..Traits::default() });
                let case = format!("{verb:?} {when:?} {fault:?}");
                let data = data(1500);
                let one = bench.upload(1, &data).await.unwrap().name;
                let two = bench.upload(2, &data).await.unwrap().name;
                bench.faults.next(verb, when, fault);
                assert_eq!(bench.store.get(&one, &plan(&data), 0, 1500).await.expect(&case), data);
                let listed = bench.store.list_all(Some(CLUSTER)).await.expect(&case);
                assert_eq!(listed.iter().map(|o| o.name.unwrap()).collect::<Vec<_>>(), [one, two], "{case}");
                let answers = bench.store.delete(&[one, two]).await;
                assert!(
                    answers.iter().all(|(_, answer)| matches!(answer, Deleted::Gone)),
                    "{case} {answers:?}"
                );
                assert_eq!(bench.s3.keys(), Vec::<String>::new(), "{case}");
                assert_eq!(bench.faults.hits(), 1, "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_conditions_a_put_of_unknown_fate_is_followed_by_another_key() {
    for when in [When::Before, When::After] {
        let bench = bench(Traits { conditional: false, ..Traits::default() });
        let mut config =
            "endpoint = \"http://s3.test/bucket\"\naccess_key_id = \"a\"\nsecret_access_key = \"b\"\n"
                .to_string();
        config.push_str("conditional_put = \"disabled\"");
        let config =
            StoreConfig::from_disk("main", &config.parse().unwrap(), &crate::Environment::default()).unwrap();
        let store = open(&config, Limits::default(), &bench.s3, &bench.faults).unwrap();
        bench.faults.next(Verb::Put, when, Fault::Cut);
        let data = data(500);
        let source = Arc::new(data.clone());
        let stored = store.upload(&bench.journal, CLUSTER, 1, &plan(&data), source).await.unwrap();
        assert_eq!(bench.s3.object(&stored.name.to_string()), Some(data));
        assert_eq!(bench.s3.written_twice(), Vec::<String>::new());
        let keys = if when == When::Before { 2 } else { 1 };
        assert_eq!(bench.journal.traces().unwrap().len(), keys, "{when:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_uploader_that_is_killed_at_any_request_resumes_and_leaves_nothing_unknown() {
    for len in [900, 4000] {
        let data = data(len);
        let whole = bench(Traits::default());
        whole.upload(3, &data).await.unwrap();
        let requests = whole.faults.requests();
        for crash in [None, Some(Crash::Strict), Some(Crash::Mixed(5))] {
            for at in 0..requests {
                for when in [When::Before, When::After] {
                    let bench = bench(Traits::default());
                    bench.faults.add(Rule { verb: None, skip: at, times: 1000, when, fault: Fault::Stall });
                    // Killed while it waits: nothing of the process is left.
                    assert!(timeout(Duration::from_secs(5), bench.upload(3, &data)).await.is_err());
                    assert!(bench.faults.hits() > 0);
                    bench.faults.clear();
                    let disk = match crash {
                        Some(how) => bench.disk.crash(how),
                        None => bench.disk.clone(),
                    };
                    let journal = journal(&disk);
                    let store = open(&ScriptedS3::config("p/q"), Limits::default(), &bench.s3, &bench.faults)
                        .unwrap();
                    let plan = plan(&data);
                    let again = store.upload(&journal, CLUSTER, 3, &plan, Arc::new(data.clone())).await;
                    let case = format!("{len} bytes, request {at} {when:?} {crash:?}");
                    let stored = again.expect(&case);
                    assert_eq!(bench.object(&stored.name).as_ref(), Some(&data), "{case}");
                    assert_eq!(bench.s3.written_twice(), Vec::<String>::new(), "{case}");
                    let known: Vec<_> =
                        journal.traces().unwrap().iter().map(|t| format!("p/q/{}", t.name)).collect();
                    assert!(bench.s3.keys().iter().all(|key| known.contains(key)), "{case}");
                    assert!(bench.s3.uploads().iter().all(|(_, key)| known.contains(key)), "{case}");
                    // Only an upload whose id never arrived may stay open, and it has no parts.
                    let lost_id = at == 0 && when == When::After && len > 1024;
                    assert_eq!(bench.s3.uploads().len(), usize::from(lost_id), "{case}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_ends_an_upload_by_its_deadline() {
    let bench = bench(Traits::default());
    bench.faults.add(Rule { verb: None, skip: 0, times: 10_000, when: When::After, fault: Fault::Stall });
    let begun = Instant::now();
    let error = bench.upload(1, &data(1000)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Away);
    assert!((60..90).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(error.may_pass() && error.to_string().contains("nothing came"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_minute_of_busy_is_waited_for_slowly_and_ends_soon_after() {
    let bench = bench(Traits::default());
    bench.faults.add(Rule {
        verb: Some(Verb::Part),
        skip: 0,
        times: 10_000,
        when: When::Before,
        fault: Fault::Answer(503, "SlowDown", Some(5)),
    });
    let faults = bench.faults.clone();
    let over = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        faults.clear();
        faults.requests()
    });
    let begun = Instant::now();
    bench.upload(1, &data(20_000)).await.unwrap();
    assert!((60..70).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let sent = over.await.unwrap();
    assert!(sent < 40, "{sent} requests in a minute");
}

#[tokio::test(start_paused = true)]
async fn every_request_that_has_ended_is_counted_as_what_it_ended_as() {
    for fault in [Fault::Cut, Fault::Answer(503, "SlowDown", Some(1)), Fault::Stall] {
        let bench = bench(Traits::default());
        bench.faults.next(Verb::Put, When::Before, fault.clone());
        bench.upload(1, &data(10)).await.unwrap();
        let counts = bench.store.counts();
        let ended = (counts.successes(Verb::Put), counts.failures(Verb::Put));
        assert_eq!((counts.requests(Verb::Put), ended), (2, (1, 1)), "{fault:?}");
    }
    // One that is under way has not failed.
    let bench = bench(Traits::default());
    bench.faults.next(Verb::Put, When::Before, Fault::Stall);
    let upload = bench.upload(1, &data(10));
    tokio::pin!(upload);
    assert!(timeout(Duration::from_secs(1), &mut upload).await.is_err());
    assert_eq!((bench.store.counts().requests(Verb::Put), bench.store.counts().failures(Verb::Put)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_to_be_is_given_up_although_the_store_answers() {
    // The complete is never answered, and every question after it is.
    for fault in [Fault::Cut, Fault::Stall] {
        let bench = bench(Traits::default());
        let times = 1 << 20;
        bench.faults.add(Rule { verb: Some(Verb::Complete), skip: 0, times, when: When::Before, fault });
        let begun = Instant::now();
        let error = bench.upload(1, &data(3000)).await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Away, "{error}");
        assert!((600..660).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
    // A store that says that it keeps and does not.
    let bench = bench(Traits { swallows: true, reports: false, ..Traits::default() });
    let begun = Instant::now();
    assert_eq!(bench.upload(1, &data(100)).await.unwrap_err().trouble(), Trouble::Away);
    assert_eq!(bench.store.claim(CLUSTER).await.unwrap_err().trouble(), Trouble::Away);
    assert!(begun.elapsed().as_secs() < 2 * 660, "{:?}", begun.elapsed());
    assert!(bench.faults.requests() < 2000, "{}", bench.faults.requests());
}
