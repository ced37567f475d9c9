use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;

use super::*;
use crate::content::Source;
use crate::pack::{self, Packed};
use crate::{Fetched, Wanted, Written};

fn contents(lens: &[usize]) -> Vec<Arc<dyn Source>> {
    let content = |(seed, len): (usize, &usize)| {
        let data: Vec<u8> = (0..*len).map(|i| (i * 7 + seed * 31 + i / 253 + i / 65_519) as u8).collect();
        Arc::new(Bytes::from(data)) as Arc<dyn Source>
    };
    lens.iter().enumerate().map(content).collect()
}

fn wanted(written: &[Written]) -> Vec<Wanted> {
    written.iter().map(|object| Wanted::whole(object.stored.name, object.plan.clone())).collect()
}

// Everything that arrives, put where it belongs.
async fn assembled(
    store: &Store,
    written: &[Written],
    lens: &[usize],
) -> (Vec<Vec<u8>>, Vec<(usize, StoreError)>) {
    let mut files: Vec<Vec<u8>> = lens.iter().map(|len| vec![0; *len]).collect();
    let (wanted, mut errors) = (wanted(written), Vec::new());
    let mut leaves = std::pin::pin!(store.fetch(&wanted));
    while let Some(leaf) = leaves.next().await {
        match leaf {
            Ok(Fetched { wanted, offset, data }) => {
                for piece in pack::pieces(written[wanted].packed.extents(), offset, &data) {
                    let at = piece.content_offset as usize;
                    files[piece.content][at..at + piece.data.len()].copy_from_slice(&piece.data);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    (files, errors)
}

#[tokio::test(start_paused = true)]
async fn small_contents_travel_in_packs_and_come_back_as_they_were() {
    let bench = bench(Traits::default());
    let mut lens: Vec<usize> = (0..120).map(|i| 1000 + i * 1500).collect();
    lens[7] = 0;
    lens[50] = 9 << 20;
    let contents = contents(&lens);
    let objects = pack::pack(&contents);
    let written = bench.store.upload_all(&bench.journal, CLUSTER, 5, objects).await.unwrap();
    // A pack of 10 MiB and a content of 9: two parts each.
    assert_eq!(written.len(), 2);
    assert_eq!(bench.store.counts().writes(), 2 * (1 + 2 + 1));
    let whole: usize = lens.iter().sum();
    assert!(bench.store.counts().sent_bytes() < whole as u64 + 10_000);

    let (files, errors) = assembled(&bench.store, &written, &lens).await;
    assert!(errors.is_empty(), "{errors:?}");
    for (content, file) in contents.iter().zip(&files) {
        assert_eq!(content.read(0, content.len_bytes()).unwrap(), file.as_slice());
    }
    assert_eq!(bench.store.counts().requests(Verb::Get), 4);
    // Again: what is there is not sent once more.
    let sent = bench.store.counts().sent_bytes();
    bench.store.upload_all(&bench.journal, CLUSTER, 5, pack::pack(&contents)).await.unwrap();
    assert_eq!(bench.store.counts().sent_bytes(), sent);

    // One wrong byte on the way costs one leaf.
    bench.faults.next(Verb::Get, When::After, Fault::Flip);
    let (again, errors) = assembled(&bench.store, &written, &lens).await;
    assert!(errors.is_empty() && again == files);
    assert_eq!(bench.store.counts().requests(Verb::Get), 4 + 4 + 1);

    // An object that is gone keeps no other.
    let gone = written.iter().position(|object| object.packed.extents().len() == 1).unwrap();
    bench.s3.lose(&format!("p/q/{}", written[gone].stored.name));
    let (rest, errors) = assembled(&bench.store, &written, &lens).await;
    assert!(errors.iter().all(|(at, error)| *at == gone && error.trouble() == Trouble::Missing));
    assert_eq!(errors.len(), 2, "each of its leaves");
    assert!((0..lens.len()).filter(|at| *at != 50).all(|at| rest[at] == files[at]));
}

#[tokio::test(start_paused = true)]
async fn only_the_leaves_that_hold_what_is_wanted_are_fetched_each_once() {
    let bench = bench(Traits::default());
    let data = data(10_000);
    let name = bench.upload(1, &data).await.unwrap().name;
    let wanted = [Wanted { name, plan: plan(&data), ranges: vec![9_999..10_000, 5..5, 1023..1025, 0..10] }];
    let mut fetched: Vec<_> = bench.store.fetch(&wanted).map(Result::unwrap).collect().await;
    fetched.sort_by_key(|leaf| leaf.offset);
    assert_eq!(fetched.iter().map(|leaf| leaf.offset).collect::<Vec<_>>(), [0, 1024, 9216]);
    for leaf in fetched {
        assert_eq!(leaf.data, data.slice(leaf.offset as usize..leaf.offset as usize + leaf.data.len()));
    }
    assert_eq!(bench.store.counts().requests(Verb::Get), 3);
}

// Counts what is asked of it.
struct Counted(Bytes, Arc<AtomicUsize>);

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
async fn bytes_in_memory_are_bounded_for_all_objects_together() {
    let bench = bench(Traits::default());
    bench.faults.add(Rule {
        verb: Some(Verb::Part),
        skip: 0,
        times: 1000,
        when: When::Before,
        fault: Fault::Stall,
    });
    let reads = Arc::new(AtomicUsize::new(0));
    let uploads = (0..20).map(|attempt| {
        let (bench, reads) = (&bench, Arc::clone(&reads));
        async move {
            let data = data(5000);
            let source = Arc::new(Counted(data.clone(), reads));
            bench.store.upload(&bench.journal, CLUSTER, attempt, &plan(&data), source).await
        }
    });
    assert!(timeout(Duration::from_secs(5), futures::future::join_all(uploads)).await.is_err());
    assert_eq!(reads.load(Ordering::Relaxed), Limits::default().requests);
}

#[tokio::test(start_paused = true)]
async fn a_content_that_cannot_be_read_ends_the_uploads_with_an_error_of_this_disk() {
    struct Broken;
    impl Source for Broken {
        fn len_bytes(&self) -> u64 {
            1 << 20
        }

        fn read(&self, _: u64, _: u64) -> std::io::Result<Bytes> {
            Err(std::io::Error::other("sector 7"))
        }
    }
    let bench = bench(Traits::default());
    let objects: Vec<Packed> = pack::pack(&[Arc::new(data(300 << 10)), Arc::new(Broken)]);
    let error = bench.store.upload_all(&bench.journal, CLUSTER, 1, objects).await.err().unwrap();
    assert_eq!(error.trouble(), Trouble::Disk);
    assert!(error.to_string().contains("sector 7"), "{error}");
}
