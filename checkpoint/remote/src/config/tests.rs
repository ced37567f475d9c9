use super::*;
use crate::error::Trouble;

fn disk(text: &str) -> Result<StoreConfig, StoreError> {
    StoreConfig::from_disk("main", &text.parse().unwrap(), &Environment::default())
}

fn location(text: &str) -> Result<StoreConfig, StoreError> {
    StoreConfig::from_checkpoint_location(&text.parse().unwrap(), &Environment::default())
}

fn place(text: &str) -> String {
    disk(text).unwrap().place().to_string()
}

#[test]
fn a_disk_of_timeplus_is_taken_verbatim() {
    let config = disk(
        "type = \"s3_plain\"\nendpoint = \"http://localhost:9000/disk/checkpoint/\"\naccess_key_id = \"minioadmin\"\n\
         secret_access_key = \"canary-0815\"\nskip_access_check = 0\nmetadata_type = \"plain\"\n",
    )
    .unwrap();
    assert_eq!(config.place().to_string(), "s3://disk/checkpoint at http://localhost:9000/");
    assert!(!config.skip_access_check());
    assert!(config.warnings()[0].contains("not encrypted"), "{:?}", config.warnings());
    assert!(!format!("{config:?}{:?}", config.shown()).contains("canary"));
    assert!(!format!("{config:?}").contains("minioadmin"));
}

#[test]
fn the_locations_of_polars_are_taken_verbatim() {
    let s3 = location(
        "s3.url = \"s3://bucket/path/to/key\"\ns3.aws_endpoint_url = \"http://minio:9000\"\n\
         s3.aws_access_key_id = \"a\"\ns3.aws_secret_access_key = \"b\"\ns3.aws_virtual_hosted_style_request = false",
    )
    .unwrap();
    assert_eq!(s3.place().to_string(), "s3://bucket/path/to/key");
    assert_eq!(s3.warnings().len(), 1);
    let of = |text: &str| location(text).unwrap().place().to_string();
    assert_eq!(of("gcs.url = \"gs://b/p\"\ngcs.google_service_account_path = \"/f\""), "gs://b/p");
    assert_eq!(
        of(
            "abs.url = \"az://c/p\"\nabs.azure_storage_account_name = \"n\"\nabs.azure_storage_account_key = \"k\""
        ),
        "az://c/p"
    );
    assert_eq!(of("shared_filesystem.path = \"/mnt/x\""), "/mnt/x");
}

#[test]
fn addresses_are_taken_apart_here() {
    let endpoint = |url: &str| place(&format!("endpoint = \"{url}\""));
    assert_eq!(
        endpoint("https://s3.eu-west-1.amazonaws.com/b/p/q"),
        "s3://b/p/q at https://s3.eu-west-1.amazonaws.com/"
    );
    let virtual_host = disk("endpoint = \"https://b.s3.eu-west-1.amazonaws.com/p/\"").unwrap();
    let Place::S3 { bucket, region, virtual_hosted, prefix, .. } = virtual_host.place() else { panic!() };
    assert_eq!(
        (bucket.as_str(), region.as_deref(), *virtual_hosted, prefix.as_str()),
        ("b", Some("eu-west-1"), true, "p")
    );
    let url = |url: &str| place(&format!("url = \"{url}\""));
    assert_eq!(url("s3a://b"), "s3://b/");
    assert_eq!(url("abfss://c@acc.dfs.core.windows.net/p"), "az://c/p of account acc");
    assert_eq!(url("file:///mnt/x"), "/mnt/x");
    assert_eq!(url("https://h/x/"), "https://h/x/");
    assert_eq!(place("url = \"s3://b/p\"\nendpoint = \"https://h:9000\""), "s3://b/p at https://h:9000/");
}

#[test]
fn what_is_wrong_is_said_with_what_to_write() {
    for (text, says) in [
        ("", "exactly one of endpoint"),
        ("endpoint = \"http://h/b\"\npath = \"/x\"", "more than one location"),
        ("url = \"s3://b\"\nendpoint = \"https://h/b\"", "two locations"),
        ("endpoint = \"http://h:9000\"", "names no bucket"),
        ("endpoint = \"http://me:canary-1@h/b\"", "user info"),
        ("endpoint = \"http://h/b?X-Amz-Signature=canary-1\"", "query"),
        ("endpoint = \"http://h/b//c\"", "empty folder"),
        ("endpoint = \"http://h/b\"\nacess_key_id = \"canary-1\"", "\"access_key_id\""),
        ("endpoint = \"http://h/b\"\nskip_acces_check = true", "\"skip_access_check\""),
        ("endpoint = \"http://h/b\"\nbucket = \"c\"", "the location says it"),
        ("endpoint = \"http://h/b\"\nregion = \"a\"\naws_region = \"b\"", "said twice"),
        ("endpoint = \"http://h/b\"\nregion = [1]", "neither text"),
        ("endpoint = \"http://h/b\"\nmetadata_type = \"web\"", "metadata_type"),
        ("type = \"s3_plane\"\nendpoint = \"http://h/b\"", "\"s3_plain\""),
        ("type = \"gcs\"\nurl = \"s3://b\"", "not of type"),
        ("path = \"relative\"", "not absolute"),
        ("url = \"memory:///\"", "keeps nothing"),
        ("url = \"ftp://h/x\"", "ftp"),
        ("endpoint = \"http://h/b\"\nskip_access_check = \"no\"", "neither true nor false"),
        ("path = \"/x\"\nregion = \"a\"", "no such key"),
        ("path = \"/x\"\ncredentials_file = \"/f\"", "speak S3"),
    ] {
        let error = disk(text).expect_err(text);
        assert_eq!(error.trouble(), Trouble::Configuration);
        let error = error.to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }
    for (text, says) in [
        ("", "exactly one"),
        ("s3.url = \"s3://b\"\ngcs.url = \"gs://b\"", "2 places"),
        ("s4.url = \"s3://b\"", "\"s3\""),
        ("s3.url = \"gs://b\"", "not in s3"),
        ("s3.aws_region = \"x\"", "checkpoint_location.s3.url"),
    ] {
        let error = location(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn the_environment_stands_in_and_never_wins() {
    let env: Environment = [
        ("AWS_REGION", "from-env"),
        ("AWS_DEFAULT_REGION", "eu-1"),
        ("AWS_BUCKET", "other"),
        ("AWS_PAGER", "less"),
        ("HOME", "/root"),
        ("AWS_SECRET_ACCESS_KEY", "canary-0815"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into_iter()
    .collect();
    let table = "endpoint = \"https://h/b\"\nregion = \"said\"\nconnect_timeout = \"7s\"".parse().unwrap();
    let shown = StoreConfig::from_disk("main", &table, &env).unwrap().shown();
    let of = |key: &str| {
        shown.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of("aws_region"), ["said"]);
    assert_eq!(of("aws_default_region"), ["eu-1"]);
    assert_eq!(of("aws_secret_access_key"), ["***"]);
    assert_eq!(of("connect_timeout"), ["7s"]);
    assert!(of("aws_bucket").is_empty());
}

#[test]
fn no_address_of_the_environment_shows_who_uses_it() {
    let env: Environment = [
        ("AWS_ENDPOINT_URL", "http://me:canary-1@h:9000"),
        ("AZURE_STORAGE_ENDPOINT", "https://h/c?sig=canary-2"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into_iter()
    .collect();
    for url in ["s3://b/p", "az://c/p"] {
        let table = format!("url = \"{url}\"").parse().unwrap();
        let config = StoreConfig::from_disk("main", &table, &env).unwrap();
        let shown = format!("{config:?} {:?} {:?}", config.shown(), config.warnings());
        assert!(shown.contains("***") && !shown.contains("canary"), "{shown}");
    }
}
