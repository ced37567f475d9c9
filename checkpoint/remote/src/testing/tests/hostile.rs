//! Stores that answer what is not so, or for ever.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{FutureExt, StreamExt};

use super::*;
use crate::content::Source;
use crate::pack;
use crate::{Fetched, Wanted};

fn unasked(bench: &Bench) -> Store {
    open_unasked(&ScriptedS3::config("p/q"), Limits::default(), &bench.s3, &bench.faults).unwrap()
}

async fn upload(store: &Store, bench: &Bench, attempt: u64, data: &Bytes) -> Result<Stored, StoreError> {
    store.upload(&bench.journal, CLUSTER, attempt, &plan(data), Arc::new(data.clone())).await
}

#[tokio::test(start_paused = true)]
async fn a_checksum_that_a_store_only_gives_back_proves_nothing() {
    for asked in [true, false] {
        let bench = bench(Traits { checks: false, echoes: true, ..Traits::default() });
        let store = unasked(&bench);
        if asked {
            store.check_access().await.unwrap();
        }
        bench.faults.next(Verb::Put, When::Before, Fault::Flip);
        let stored = upload(&store, &bench, 1, &data(1000)).await.unwrap();
        assert_eq!(bench.object(&stored.name), Some(data(1000)), "asked: {asked}");
        assert_eq!(stored.proof, Proof::ReadBack);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_makes_its_checksums_itself_is_believed_once_it_was_seen() {
    for checks in [true, false] {
        let bench = bench(Traits { checks, ..Traits::default() });
        let store = unasked(&bench);
        assert_eq!(upload(&store, &bench, 1, &data(1000)).await.unwrap().proof, Proof::ReadBack);
        store.check_access().await.unwrap();
        assert_eq!(upload(&store, &bench, 2, &data(1000)).await.unwrap().proof, Proof::Checksum);
        assert_eq!(upload(&store, &bench, 3, &data(3000)).await.unwrap().proof, Proof::Checksum);
        assert!(bench.s3.keys().iter().all(|key| !key.contains("epochlog-check")), "{:?}", bench.s3.keys());
    }
}

#[tokio::test(start_paused = true)]
async fn no_key_is_written_twice_where_conditions_are_ignored() {
    for asked in [true, false] {
        for when in [When::Before, When::After] {
            let bench = bench(Traits { conditional: false, ..Traits::default() });
            let store = unasked(&bench);
            if asked {
                store.check_access().await.unwrap();
            }
            // The store did it, and what is asked then is not answered either: as good as nothing was heard.
            bench.faults.next(Verb::Put, when, Fault::Cut);
            bench.faults.next(Verb::Head, When::Before, Fault::Answer(404, "", None));
            let stored = upload(&store, &bench, 1, &data(500)).await.unwrap();
            assert_eq!(bench.object(&stored.name), Some(data(500)));
            assert_eq!(bench.s3.written_twice(), Vec::<String>::new(), "{asked} {when:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_put_cannot_be_repeated_a_minute_of_busy_is_waited_for_all_the_same() {
    let bench = bench(Traits { conditional: false, ..Traits::default() });
    let fault = Fault::Answer(503, "SlowDown", Some(5));
    let busy = Rule { verb: Some(Verb::Put), skip: 0, times: 1 << 20, when: When::Before, fault };
    bench.faults.add(busy.clone());
    let faults = bench.faults.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        faults.clear();
    });
    let stored = bench.upload(1, &data(1000)).await.unwrap();
    assert_eq!(bench.object(&stored.name), Some(data(1000)));
    // One that never ends is given up, and not called damaged.
    bench.faults.add(busy);
    let begun = Instant::now();
    let error = bench.upload(2, &data(1000)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Away, "{error}");
    assert!((600..660).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_gone_because_many_cannot_be_deleted_at_once() {
    for count in [1, 3] {
        let bench = bench(Traits::default());
        let mut names = Vec::new();
        for attempt in 0..count {
            names.push(bench.upload(attempt, &data(10)).await.unwrap().name);
        }
        // A gateway that does not know the request.
        bench.faults.next(Verb::DeleteBatch, When::Before, Fault::Answer(404, "NotFound", None));
        for (name, answer) in bench.store.delete(&names).await {
            let Deleted::Stays(error) = answer else { panic!("{name} is there") };
            assert_eq!(error.trouble(), Trouble::Refused);
            assert!(error.advice().contains("disable_bulk_delete"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_names_no_key_is_not_believed() {
    let bench = bench(Traits { ignores_deletes: true, ..Traits::default() });
    let one = bench.upload(1, &data(10)).await.unwrap().name;
    let two = bench.upload(2, &data(10)).await.unwrap().name;
    bench.s3.lose(&format!("p/q/{two}"));
    let answers = bench.store.delete(&[one, two]).await;
    assert!(matches!(answers[0].1, Deleted::Stays(_)), "{answers:?}");
    assert!(matches!(answers[1].1, Deleted::Gone), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_comes_for_a_delete_is_not_believed() {
    let bench = bench(Traits::default());
    let text = "endpoint = \"http://s3.test/bucket/p/q\"\naccess_key_id = \"a\"\nsecret_access_key = \"b\"\n\
                disable_bulk_delete = true";
    let config =
        StoreConfig::from_disk("main", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    let store = open(&config, Limits::default(), &bench.s3, &bench.faults).unwrap();
    let name = bench.upload(1, &data(10)).await.unwrap().name;
    bench.faults.next(Verb::Delete, When::Before, Fault::Answer(200, "welcome", None));
    let answers = store.delete(&[name]).await;
    assert!(matches!(answers[0].1, Deleted::Stays(_)), "{answers:?}");
    assert!(matches!(store.delete(&[name]).await[0].1, Deleted::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_may_not_be_deleted_ends_no_tries_for_the_others() {
    let bench = bench(Traits::default());
    let mut names = Vec::new();
    for attempt in 0..3 {
        names.push(bench.upload(attempt, &data(10)).await.unwrap().name);
    }
    bench.s3.lock(&format!("p/q/{}", names[0]));
    bench.s3.slow_to_delete(&format!("p/q/{}", names[1]), 2);
    let answers = bench.store.delete(&names).await;
    assert!(answers[0].1.is_denied(), "{answers:?}");
    assert!(answers[1..].iter().all(|(_, answer)| matches!(answer, Deleted::Gone)), "{answers:?}");
    assert_eq!(bench.store.counts().requests(Verb::DeleteBatch), 3);
}

#[tokio::test(start_paused = true)]
async fn each_key_is_deleted_alone_however_that_is_written() {
    for flag in ["true", "1", "\"on\""] {
        let bench = bench(Traits::default());
        let text = format!(
            "endpoint = \"http://s3.test/bucket/p/q\"\naccess_key_id = \"a\"\nsecret_access_key = \"b\"\n\
             disable_bulk_delete = {flag}"
        );
        let config =
            StoreConfig::from_disk("main", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
        let store = open(&config, Limits::default(), &bench.s3, &bench.faults).unwrap();
        let one = bench.upload(1, &data(10)).await.unwrap().name;
        let two = bench.upload(2, &data(10)).await.unwrap().name;
        bench.faults.next(Verb::Delete, When::Before, Fault::Answer(503, "SlowDown", None));
        let answers = store.delete(&[one, two]).await;
        assert!(answers.iter().all(|(_, answer)| matches!(answer, Deleted::Gone)), "{flag} {answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_does_not_move_on_or_breaks_off_is_an_error() {
    for traits in [
        Traits { page: 1, turns_round: true, ..Traits::default() },
        Traits { page: 1, breaks_off: true, ..Traits::default() },
    ] {
        let bench = bench(traits);
        for attempt in 0..3 {
            bench.faults.next(Verb::CreateUpload, When::After, Fault::Cut);
            bench.upload(attempt, &data(2000)).await.unwrap();
        }
        let listed = timeout(Duration::from_secs(3600), bench.store.list_all(Some(CLUSTER))).await;
        assert_eq!(listed.expect("it ends").unwrap_err().trouble(), Trouble::Refused, "{traits:?}");
        let listed = timeout(Duration::from_secs(3600), bench.store.open_uploads(Some(CLUSTER))).await;
        assert_eq!(listed.expect("it ends").unwrap_err().trouble(), Trouble::Refused, "{traits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_that_cannot_be_asked_for_are_not_said_to_be_none() {
    let text = "endpoint = \"http://s3.test/bucket/p/q\"\nskip_signature = 1";
    let config =
        StoreConfig::from_disk("main", &text.parse().unwrap(), &crate::Environment::default()).unwrap();
    let store = open(&config, Limits::default(), &ScriptedS3::default(), &Faults::new()).unwrap();
    assert_eq!(store.open_uploads(None).await.unwrap_err().trouble(), Trouble::Refused);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_drips_is_none() {
    let bench = bench(Traits::default());
    let data = data(1500);
    let name = bench.upload(1, &data).await.unwrap().name;
    let fault = Fault::Drip(Duration::from_secs(9));
    bench.faults.next(Verb::Get, When::After, fault.clone());
    let begun = Instant::now();
    assert_eq!(bench.store.get(&name, &plan(&data), 0, 1500).await.unwrap(), data);
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    bench.faults.add(Rule { verb: None, skip: 0, times: 1 << 20, when: When::After, fault });
    let begun = Instant::now();
    let error = bench.store.get(&name, &plan(&data), 0, 1).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Away, "{error}");
    let error = bench.store.list_all(None).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Away, "{error}");
    assert!(begun.elapsed().as_secs() < 1400, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_after_a_long_pause_is_no_silence() {
    let bench = bench(Traits::default());
    let rule = |skip, times, fault| Rule { verb: Some(Verb::Put), skip, times, when: When::Before, fault };
    bench.faults.add(rule(0, 1, Fault::Answer(503, "SlowDown", Some(60))));
    bench.faults.add(rule(1, 2, Fault::Cut));
    let (first, second) = (data(100), data(200));
    let waits = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        bench.upload(2, &second).await
    };
    let (one, two) = tokio::join!(bench.upload(1, &first), waits);
    one.unwrap();
    two.unwrap();
    assert_eq!(bench.faults.hits(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_keeps_nobody_from_the_store() {
    let bench = bench(Traits::default());
    let data = data(20 * 1024);
    let name = bench.upload(1, &data).await.unwrap().name;
    let wanted = [Wanted::whole(name, plan(&data))];
    let mut leaves = std::pin::pin!(bench.store.fetch(&wanted));
    // Asked for, and then something else is done.
    assert!(leaves.next().now_or_never().is_none());
    let head = timeout(Duration::from_secs(300), bench.store.head(&name)).await;
    assert!(head.expect("others are let in").unwrap().is_some());
    let mut bytes = 0;
    while let Some(leaf) = leaves.next().await {
        let Fetched { offset, data: leaf, .. } = leaf.unwrap();
        assert_eq!(leaf, data.slice(offset as usize..offset as usize + leaf.len()));
        bytes += leaf.len();
    }
    assert_eq!(bytes, data.len());
}

#[tokio::test(start_paused = true)]
async fn objects_that_hold_the_same_bytes_are_written_once() {
    let bench = bench(Traits::default());
    let same: Arc<dyn Source> = Arc::new(data(300 << 10));
    let contents = [Arc::clone(&same), Arc::new(data(400 << 10)), same];
    let written = bench
        .store
        .upload_all(&bench.journal, CLUSTER, 1, pack::pack(&contents))
        .await
        .expect("both are there");
    assert_eq!(
        written.iter().map(|object| object.packed.extents()[0].content).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(written[0].stored, written[2].stored);
    assert_eq!(bench.s3.keys().len(), 2);
}

// Counts what is read of it.
struct Counted(Bytes, AtomicUsize);

impl Source for Counted {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read(&self, offset: u64, len: u64) -> std::io::Result<Bytes> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(offset, len)
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_resumed_reads_its_source_once() {
    let bench = bench(Traits::default());
    let data = data(5000);
    let stalls = Rule { verb: Some(Verb::Part), skip: 0, times: 99, when: When::Before, fault: Fault::Stall };
    bench.faults.add(stalls);
    assert!(timeout(Duration::from_secs(1), bench.upload(1, &data)).await.is_err());
    bench.faults.clear();
    let source = Arc::new(Counted(data.clone(), AtomicUsize::new(0)));
    let counted = Arc::clone(&source) as Arc<dyn Source>;
    bench.store.upload(&bench.journal, CLUSTER, 1, &plan(&data), counted).await.unwrap();
    assert_eq!(source.1.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_gone_is_given_up_however_the_store_says_so() {
    let bench = bench(Traits::default());
    bench.faults.next(Verb::Complete, When::Before, Fault::Answer(200, "NoSuchUpload", None));
    let begun = Instant::now();
    let stored = bench.upload(1, &data(3000)).await.unwrap();
    assert_eq!(bench.object(&stored.name), Some(data(3000)));
    assert!(begun.elapsed().as_secs() < 60 && bench.journal.traces().unwrap().len() == 2);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_cannot_be_journaled_is_ended() {
    for ops in 0..12 {
        let bench = bench(Traits::default());
        bench.disk.crash_after(ops);
        let _ = bench.upload(1, &data(3000)).await;
        let known: Vec<_> = journal(&bench.disk.crash(Crash::Strict))
            .traces()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|trace| trace.upload)
            .collect();
        assert!(
            bench.s3.uploads().iter().all(|(id, _)| known.contains(id)),
            "{ops} {:?}",
            bench.s3.uploads()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_attempt_left_is_removed_but_for_what_is_named() {
    let bench = bench(Traits { checks: false, ..Traits::default() });
    // A key that holds something else, and an upload that is open.
    bench.faults.next(Verb::Put, When::Before, Fault::Flip);
    let named = bench.upload(1, &data(1000)).await.unwrap().name;
    bench.faults.add(Rule {
        verb: Some(Verb::Complete),
        skip: 0,
        times: 9,
        when: When::Before,
        fault: Fault::Stall,
    });
    assert!(timeout(Duration::from_secs(1), bench.upload(1, &data(3000))).await.is_err());
    bench.faults.clear();
    let other = bench.upload(2, &data(1000)).await.unwrap().name;
    assert_eq!((bench.s3.keys().len(), bench.s3.uploads().len()), (3, 1));

    // Nothing is forgotten while the store is not heard.
    let away = Rule { verb: None, skip: 0, times: 1 << 20, when: When::Before, fault: Fault::Cut };
    bench.faults.add(away);
    bench.store.clean_up(&bench.journal, 1, &[named].into()).await.unwrap_err();
    assert_eq!(bench.journal.traces().unwrap().len(), 4);
    bench.faults.clear();

    bench.store.clean_up(&bench.journal, 1, &[named].into()).await.unwrap();
    let mut left: Vec<_> = [named, other].map(|name| format!("p/q/{name}")).into();
    left.sort();
    assert_eq!(bench.s3.keys(), left);
    assert_eq!(bench.s3.uploads(), []);
    assert_eq!(bench.journal.traces().unwrap().iter().map(|t| t.name).collect::<Vec<_>>(), [other]);
    bench.store.clean_up(&bench.journal, 2, &std::collections::BTreeSet::new()).await.unwrap();
    assert_eq!(bench.s3.keys(), [format!("p/q/{named}")]);
}

#[tokio::test(start_paused = true)]
async fn a_complete_that_lands_while_an_attempt_is_removed_leaves_nothing() {
    let bench = bench(Traits::default());
    // It is done, and the answer lost; then the attempt is closed.
    let rule = |when, fault| Rule { verb: Some(Verb::Complete), skip: 0, times: 9, when, fault };
    bench.faults.add(rule(When::After, Fault::Stall));
    assert!(timeout(Duration::from_secs(1), bench.upload(1, &data(3000))).await.is_err());
    bench.faults.clear();
    assert_eq!(bench.s3.keys().len(), 1);
    bench.store.clean_up(&bench.journal, 1, &std::collections::BTreeSet::new()).await.unwrap();
    assert_eq!(bench.s3.keys(), Vec::<String>::new());
    let verbs: Vec<Verb> = bench.s3.requests().iter().rev().take(2).map(|request| request.verb).collect();
    assert_eq!(verbs, [Verb::DeleteBatch, Verb::AbortUpload], "first the upload, then the object");
}
