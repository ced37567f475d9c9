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
async fn a_wrong_byte_refetches_one_part_and_a_rotten_one_is_named() {
    let bench = bench(Traits::default());
    let data = data(5000);
    let name = bench.upload(1, &data).await.unwrap().name;
    bench.faults.add(Rule {
        verb: Some(Verb::Get),
        skip: 2,
        times: 1,
        when: When::After,
        fault: Fault::Flip,
    });
    assert_eq!(bench.store.get(&name, &plan(&data), 0, 5000).await.unwrap(), data);
    assert_eq!(bench.store.counts().requests(Verb::Get), 5 + 1);

    let mut rotten = data.to_vec();
    rotten[2000] ^= 1;
    bench.s3.plant(&format!("p/q/{name}"), rotten);
    assert_eq!(bench.store.get_leaf(&name, &plan(&data), 0).await.unwrap(), data.slice(..1024));
    let error = bench.store.get(&name, &plan(&data), 0, 5000).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Damaged);
    assert!(
        error.to_string().contains("1024-2048") && error.to_string().contains(&name.to_string()),
        "{error}"
    );

    bench.s3.plant(&format!("p/q/{name}"), data.slice(..3000));
    for at in [2500, 4500] {
        assert_eq!(
            bench.store.get(&name, &plan(&data), at, 500).await.unwrap_err().trouble(),
            Trouble::Damaged
        );
    }
    bench.s3.lose(&format!("p/q/{name}"));
    assert_eq!(bench.store.get_leaf(&name, &plan(&data), 0).await.unwrap_err().trouble(), Trouble::Missing);
    assert_eq!(bench.store.head(&name).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_without_ranges_is_refused_at_once() {
    let bench = bench(Traits { ranges: false, ..Traits::default() });
    let data = data(3000);
    let name = bench.upload(1, &data).await.unwrap().name;
    let error = bench.store.get(&name, &plan(&data), 1024, 10).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Refused);
    assert!(error.to_string().contains("range"), "{error}");
}

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
    // Eight parts are refused together: one finds the new keys, the others find them found.
    write("newer");
    bench.s3.admit_only(&["new", "newer"]);
    let fault = Fault::Answer(400, "ExpiredToken", None);
    bench.faults.add(Rule { verb: Some(Verb::Part), skip: 0, times: 8, when: When::Before, fault });
    upload(3).await.unwrap();
    assert_eq!(bench.faults.hits(), 8);
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
    assert_eq!(error.trouble(), Trouble::Damaged);
    assert!(error.to_string().contains("changed since"), "{error}");
    assert_eq!(bench.s3.keys(), Vec::<String>::new());
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
