use super::*;

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
