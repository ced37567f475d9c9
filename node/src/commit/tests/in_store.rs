//! Commits into an object store in memory: what is there, what the log says, and what is answered when the store or the
//! leader goes.

use nativelog::compose::{activate, genesis};
use nativelog::ledger::{STORES_RULES, StoreInfo};
use remote::testing::{Fault, Faults, Rule, ScriptedS3, Traits, When};
use remote::{StoreRuntime, Verb};

use super::*;
use crate::stores::{Kept, tidy};

/// A store in memory, and how a node keeps it.
struct Bucket {
    s3: ScriptedS3,
    faults: Faults,
    runtime: Arc<StoreRuntime>,
}

impl Bucket {
    fn new() -> Bucket {
        let runtime = Arc::new(StoreRuntime::new(2, 8).unwrap());
        Bucket { s3: ScriptedS3::new(Traits::default()), faults: Faults::new(), runtime }
    }

    /// One that keeps no conditions.
    fn unconditional() -> Bucket {
        let traits = Traits { conditional: false, ..Traits::default() };
        Bucket { s3: ScriptedS3::new(traits), ..Bucket::new() }
    }

    /// As a process of this node keeps it that has just started.
    fn kept(&self, ground: &Pretended, limits: remote::Limits) -> Arc<Kept> {
        let store = remote::testing::open(&ScriptedS3::config("p"), limits, &self.s3, &self.faults).unwrap();
        let (disk, dir) = (ground.0.shelves.disk().clone(), ground.0.dir.path());
        Arc::new(Kept::new(store, self.runtime.clone(), disk, dir).unwrap())
    }

    /// Ends so that a store that says nothing is soon given up.
    fn impatient() -> remote::Limits {
        remote::Limits {
            quiet: Duration::from_millis(200),
            unanswered: Duration::from_millis(400),
            ..crate::stores::LIMITS
        }
    }

    /// What a node does with this store once a minute; how many batches of deletes it has begun.
    async fn tidied(&self, ground: &Pretended, kept: &Arc<Kept>) -> usize {
        let (shown, log) = (ground.0.clone(), ground.0.clone());
        let look: tidy::Look =
            Arc::new(move |show: &mut dyn FnMut(&Ledger)| show(&shown.ledger.read().unwrap()));
        let (begun, store) = (Arc::new(AtomicUsize::new(0)), kept.store().clone());
        let counted = begun.clone();
        let begin = |known: StoreInfo| async move {
            let nonce = 1000 + counted.fetch_add(1, Ordering::Relaxed) as u64;
            log.append(&compose::delete_batch(known.id, nonce));
            let marker = store.marker().await.unwrap().unwrap();
            store.begin_deletes(&marker, nonce).await.map(drop).map_err(|error| error.to_string())
        };
        tidy::round(kept, look, begin).await.unwrap();
        begun.load(Ordering::Relaxed)
    }

    /// Keys of objects, without the marker.
    fn keys(&self) -> Vec<String> {
        self.s3.keys().into_iter().filter(|key| !key.ends_with("epochlog.json")).collect()
    }

    fn requests(&self, verb: Verb) -> usize {
        self.s3.requests().iter().filter(|request| request.verb == verb).count()
    }
}

/// A node whose log knows stores.
fn ground(fate: impl Fn(usize, &LogRecord) -> Fate + Send + Sync + 'static) -> Pretended {
    let ground = Pretended::new(fate);
    for record in [genesis([9; 16], [(1, [1; 16])]), activate(STORES_RULES)] {
        let (_, verdict) = ground.0.append(&record);
        assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
    }
    ground
}

fn into(kept: &Arc<Kept>) -> Order {
    Order { store: Some(kept.clone()), ..order() }
}

/// Two files that are objects of their own, one of them twice a leaf; small ones; one of zeros.
fn large_source() -> tempfile::TempDir {
    let dir = source();
    let data =
        |seed: usize, len: usize| (0..len).map(|at| (at * 31 + seed + at / 251) as u8).collect::<Vec<_>>();
    std::fs::write(dir.path().join("huge"), data(1, 17 << 20)).unwrap();
    std::fs::write(dir.path().join("large"), data(2, 3 << 20)).unwrap();
    std::fs::write(dir.path().join("zeros"), vec![0; 1 << 20]).unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    dir
}

fn root_of(dir: &Path) -> Digest {
    checkpoint::split::digest_dir(dir, &Limits::default()).unwrap().root()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_goes_into_the_store_and_the_log_says_where() {
    let (dir, bucket) = (large_source(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    let done = committed_as(&ground, dir.path(), into(&kept)).await.unwrap();
    let root = root_of(dir.path());
    assert_eq!(done.root[..], root.as_bytes()[..]);
    assert_eq!((done.mode.as_str(), done.store.as_str()), ("mixed", kept.name()), "zeros are in the log");
    // Two large files, a pack of the small ones, and the manifest.
    assert_eq!(bucket.keys().len(), 4, "{:?}", bucket.keys());
    let is_manifest = |key: &String| key.contains(&root.to_string());
    assert!(bucket.keys().iter().any(is_manifest), "the manifest is an object: {:?}", bucket.keys());
    assert!(done.log_bytes < 4 << 10, "{} bytes for 12 files", done.log_bytes);
    // Every content is where the log says.
    let manifest = checkpoint::split::digest_dir(dir.path(), &Limits::default()).unwrap();
    for entry in manifest.entries.iter().filter(|entry| entry.size > 0) {
        let homes = ground.ledger().homes(&entry.digest).unwrap();
        let Some(extent) = homes.extents.first() else {
            assert!(homes.log && entry.path.to_string() == "zeros", "{}", entry.path);
            continue;
        };
        let key = bucket
            .keys()
            .into_iter()
            .find(|key| key.contains(&extent.object.key.digest.to_string()))
            .unwrap();
        let object = bucket.s3.object(&key).unwrap();
        let from = extent.offset as usize;
        let data = &object[from..from + entry.size as usize];
        assert_eq!(checkpoint::digest::content(data), entry.digest, "{}", entry.path);
        // And this node has it under the name that publish looks for.
        let staged = manifest.entries.iter().position(|other| other.path == entry.path).unwrap();
        let staged = ground.0.shelves.layout().staged_file(done.attempt, wire::id(staged));
        assert_eq!(std::fs::read(staged).unwrap(), data);
    }
    assert_eq!((bucket.requests(Verb::List), bucket.requests(Verb::ListUploads)), (0, 0), "nobody lists");
    // The marker, two objects and the manifest whole, one in parts.
    let writes: u64 = [Verb::Put, Verb::CreateUpload, Verb::Part, Verb::Complete]
        .map(|verb| bucket.requests(verb) as u64)
        .iter()
        .sum();
    assert_eq!(writes, 1 + 3 + 1 + 3 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_at_any_step_takes_no_commit_into_a_store_with_it() {
    let (dir, root) = (large_source(), root_of(large_source().path()));
    let undisturbed = ground(|_, _| Fate::Answered);
    let bucket = Bucket::new();
    let kept = bucket.kept(&undisturbed, crate::stores::LIMITS);
    committed_as(&undisturbed, dir.path(), into(&kept)).await.unwrap();
    let steps = undisturbed.proposed();
    assert!(steps >= 8, "store, begin, plan, zeros, links, seal: {steps}");
    for fate in [Fate::Unanswered, Fate::Refused, Fate::Lost] {
        for step in 0..steps {
            let ground = ground(move |place, _| if place == step { fate } else { Fate::Answered });
            let bucket = Bucket::new();
            let kept = bucket.kept(&ground, crate::stores::LIMITS);
            let done = committed_as(&ground, dir.path(), into(&kept)).await;
            let done = done.unwrap_or_else(|failure| panic!("{fate:?} at step {step}: {failure:?}"));
            assert_eq!(
                (&done.root[..], done.already),
                (&root.as_bytes()[..], false),
                "{fate:?} at step {step}"
            );
            assert!(ground.proposed() > steps, "it was noticed");
            assert_eq!(ground.sealed_and_open(), (1, 0), "{fate:?} at step {step}");
            assert_eq!(bucket.keys().len(), 4, "{fate:?} at step {step}: nothing is sent twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_does_not_take_is_not_committed_and_goes_on_when_it_does() {
    let dir = large_source();
    let denied = Fault::Answer(403, "AccessDenied", None);
    for (fault, code, says) in
        [(denied, Code::Refused, "AccessDenied"), (Fault::Stall, Code::Unavailable, "nothing came")]
    {
        let (bucket, ground) = (Bucket::new(), ground(|_, _| Fate::Answered));
        let kept = bucket.kept(&ground, Bucket::impatient());
        let hit = Rule { verb: Some(Verb::Part), skip: 1, times: u64::MAX, when: When::Before, fault };
        bucket.faults.add(hit);
        let failure = committed_as(&ground, dir.path(), into(&kept)).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (code, Certainty::No), "{failure:?}");
        assert!(failure.why.contains(says), "{failure:?}");
        assert_eq!(ground.sealed_and_open(), (0, 1), "the attempt stays open");
        // It is mended; another process of this node goes on.
        bucket.faults.clear();
        let (parts, uploads) = (bucket.requests(Verb::Part), bucket.requests(Verb::CreateUpload));
        let kept = bucket.kept(&ground, crate::stores::LIMITS);
        let done = committed_as(&ground, dir.path(), into(&kept)).await.unwrap();
        assert_eq!(done.root[..], root_of(dir.path()).as_bytes()[..]);
        assert_eq!(bucket.requests(Verb::CreateUpload), uploads, "the upload that was open goes on");
        assert!(bucket.requests(Verb::Part) - parts < 3, "with the parts that it lacked");
        assert_eq!(bucket.keys().len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_accepts_and_never_answers_ends_the_commit_by_its_own_patience() {
    let (dir, bucket) = (large_source(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    // The store's own patience is longer.
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    let stall =
        Rule { verb: Some(Verb::Part), skip: 0, times: u64::MAX, when: When::Before, fault: Fault::Stall };
    bucket.faults.add(stall);
    let begun = Instant::now();
    let order = Order { patience: Duration::from_secs(2), ..into(&kept) };
    let failure = committed_as(&ground, dir.path(), order).await.unwrap_err();
    assert_eq!((failure.code, failure.committed), (Code::Unavailable, Certainty::No), "{failure:?}");
    assert!(failure.why.contains("epochlog store check"), "{failure:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_into_a_store_without_an_answer_is_unknown_and_a_repeat_sends_nothing_again() {
    let dir = large_source();
    for (fate, sealed) in [(Fate::Unanswered, 1), (Fate::Lost, 0)] {
        let down = Arc::new(AtomicBool::new(true));
        let (bucket, is_down) = (Bucket::new(), down.clone());
        let ground = ground(move |_, record| match record.header.kind {
            Some(Kind::Seal(_)) if is_down.load(Ordering::Relaxed) => fate,
            _ => Fate::Answered,
        });
        let kept = bucket.kept(&ground, crate::stores::LIMITS);
        let order = Order { patience: Duration::from_secs(3), ..into(&kept) };
        let failure = committed_as(&ground, dir.path(), order.clone()).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (Code::Timeout, Certainty::Unknown), "{failure:?}");
        assert_eq!(ground.sealed_and_open(), (sealed, 1 - sealed), "{fate:?}");
        down.store(false, Ordering::Relaxed);
        let (puts, parts) = (bucket.requests(Verb::Put), bucket.requests(Verb::Part));
        let done = committed_as(&ground, dir.path(), order).await.unwrap();
        assert_eq!(done.already, sealed == 1);
        assert_eq!((bucket.requests(Verb::Put), bucket.requests(Verb::Part)), (puts, parts), "{fate:?}");
        assert_eq!(bucket.keys().len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_on_a_prefix_writes_nothing() {
    let (dir, bucket) = (source(), Bucket::new());
    let first = ground(|_, _| Fate::Answered);
    committed_as(&first, dir.path(), into(&bucket.kept(&first, crate::stores::LIMITS))).await.unwrap();
    let there = bucket.s3.keys();
    let second = Pretended::new(|_, _| Fate::Answered);
    for record in [genesis([8; 16], [(1, [1; 16])]), activate(STORES_RULES)] {
        second.0.append(&record);
    }
    let kept = bucket.kept(&second, crate::stores::LIMITS);
    let failure = committed_as(&second, dir.path(), into(&kept)).await.unwrap_err();
    assert_eq!((failure.code, failure.committed), (Code::Refused, Certainty::No), "{failure:?}");
    assert!(failure.why.contains("belongs to cluster"), "{failure:?}");
    assert_eq!((bucket.s3.keys(), second.sealed_and_open()), (there, (0, 0)));
    // The log goes on.
    committed(&second, dir.path(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_was_emptied_is_another_store() {
    let (dir, bucket) = (source(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    committed_as(&ground, dir.path(), into(&bucket.kept(&ground, crate::stores::LIMITS))).await.unwrap();
    // Behind the same name and address there is a new, empty bucket.
    let emptied = Bucket::new();
    let kept = emptied.kept(&ground, crate::stores::LIMITS);
    let order = Order { epoch: Some(6), commit_id: CommitId::from_bytes([6; 16]), ..into(&kept) };
    let failure = committed_as(&ground, dir.path(), order).await.unwrap_err();
    assert_eq!((failure.code, failure.committed), (Code::Refused, Certainty::No), "{failure:?}");
    assert!(failure.why.contains("another prefix"), "{failure:?}");
    assert!(emptied.s3.keys().is_empty(), "not even a marker: it would lose the old one for good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_two_could_claim_is_claimed_by_the_leader() {
    let (dir, bucket) = (source(), Bucket::unconditional());
    let ground = ground(|_, _| Fate::Answered);
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    ground.0.leads.store(false, Ordering::Relaxed);
    let failure = committed_as(&ground, dir.path(), into(&kept)).await.unwrap_err();
    assert_eq!((failure.code, failure.committed), (Code::Unavailable, Certainty::No), "{failure:?}");
    assert!(failure.sentence.contains("through the leader") && bucket.s3.keys().is_empty(), "{failure:?}");
    ground.0.leads.store(true, Ordering::Relaxed);
    committed_as(&ground, dir.path(), into(&kept)).await.unwrap();
    // Once the log knows it, all may.
    ground.0.leads.store(false, Ordering::Relaxed);
    let order = Order { epoch: Some(6), commit_id: CommitId::from_bytes([6; 16]), ..into(&kept) };
    committed_as(&ground, dir.path(), order).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_busy_for_longer_than_anything_is_waited_for_is_not_silent() {
    let (dir, bucket) = (source(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    // Of the marker, which is the first that is asked for.
    let fault = Fault::Answer(503, "SlowDown", Some(1));
    bucket.faults.add(Rule { verb: Some(Verb::Get), skip: 0, times: 5, when: When::Before, fault });
    let order = Order { patience: Duration::from_secs(2), ..into(&kept) };
    let begun = Instant::now();
    committed_as(&ground, dir.path(), order).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_rules_know_stores_nothing_is_uploaded() {
    let (dir, bucket) = (source(), Bucket::new());
    let ground = Pretended::new(|_, _| Fate::Answered);
    ground.0.append(&genesis([9; 16], [(1, [1; 16])]));
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    let failure =
        committed_as(&ground, dir.path(), Order { patience: SHORT, ..into(&kept) }).await.unwrap_err();
    assert_eq!((failure.code, failure.committed), (Code::Unavailable, Certainty::No), "{failure:?}");
    assert!(failure.why.contains("rules 3"), "{failure:?}");
    assert!(bucket.s3.keys().is_empty(), "not even the marker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_next_to_nothing_but_zeros_uploads_no_zeros() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 100_000], 70 << 20).unwrap();
    sparse.set_len(300 << 20).unwrap();
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    let done = committed_as(&ground, dir.path(), into(&kept)).await.unwrap();
    assert_eq!(done.root[..], root_of(dir.path()).as_bytes()[..]);
    assert_eq!(bucket.keys().len(), 1, "the manifest alone");
    assert!(done.log_bytes < 3 << 20, "{}", done.log_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_large_files_are_sent_once_and_each_is_linked() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    let data: Vec<u8> = (0..1 << 20).map(|at: usize| (at * 31 + at / 251) as u8).collect();
    for name in ["a", "b", "c"] {
        std::fs::write(dir.path().join(name), &data).unwrap();
    }
    // The first is on its way while the others come: the marker goes before it.
    let fault = Fault::Answer(503, "SlowDown", Some(1));
    bucket.faults.add(Rule { verb: Some(Verb::Put), skip: 1, times: 1, when: When::Before, fault });
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    let done = committed_as(&ground, dir.path(), into(&kept)).await.unwrap();
    assert_eq!(done.root[..], root_of(dir.path()).as_bytes()[..]);
    assert_eq!((done.files, bucket.keys().len()), (3, 2), "{:?}", bucket.keys());
    // The marker, the object and the manifest: what is refused by the script, the store never sees.
    assert_eq!(bucket.requests(Verb::Put), 3, "{:?}", bucket.s3.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_left_goes_when_it_is_over_and_what_the_log_names_stays() {
    let (dir, bucket) = (large_source(), Bucket::new());
    let ground = ground(|_, _| Fate::Answered);
    let kept = bucket.kept(&ground, crate::stores::LIMITS);
    // The last part is denied: objects, an upload, and an attempt that stays open.
    let fault = Fault::Answer(403, "AccessDenied", None);
    bucket.faults.add(Rule { verb: Some(Verb::Part), skip: 1, times: u64::MAX, when: When::Before, fault });
    committed_as(&ground, dir.path(), into(&kept)).await.unwrap_err();
    bucket.faults.clear();
    let (there, uploads) = (bucket.keys(), bucket.s3.uploads().len());
    assert!(uploads > 0);
    assert_eq!(bucket.tidied(&ground, &kept).await, 0);
    assert_eq!((bucket.keys(), bucket.s3.uploads().len()), (there, uploads), "it is open");
    // What was on its way when the commit ended lets go of its journals.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = ground.ledger().attempts().next().unwrap().id;
    ground.0.append(&compose::abort(id, "nobody goes on with it".to_owned()));
    assert_eq!(bucket.tidied(&ground, &kept).await, 1);
    assert_eq!((bucket.keys(), bucket.s3.uploads()), (Vec::new(), Vec::new()));
    assert_eq!(bucket.tidied(&ground, &kept).await, 0, "and nobody remembers it");
    // Of one that was sealed everything has a name.
    let order = Order { epoch: Some(6), commit_id: CommitId::from_bytes([6; 16]), ..into(&kept) };
    committed_as(&ground, dir.path(), order).await.unwrap();
    let there = bucket.keys();
    assert_eq!(bucket.tidied(&ground, &kept).await, 0);
    assert_eq!((bucket.keys(), there.len()), (there, 4));
    let journals = ground.0.dir.path().join("uploads").join(kept.name());
    assert_eq!(std::fs::read_dir(journals).unwrap().count(), 0);
}
