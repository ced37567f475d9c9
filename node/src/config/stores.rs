//! Object stores: `[disk.NAME]` (Timeplus's and ClickHouse's keys) and `[worker] checkpoint_location.*` (Polars'), both
//! handed as they are to the room that knows their keys.

use remote::{Environment, StoreConfig};
use toml::{Table, Value};

use super::error::{ConfigError, fail};
use super::nearest::nearest_of;

/// Longest name of a store, bytes; the log's bound.
const NAME_BYTES_MAX: usize = 64;
/// The key of `[worker]` that says where a store is.
const LOCATION: &str = "checkpoint_location";

/// All stores that a file names, by their names.
pub(super) fn stores(disk: &Table, worker: &Table) -> Result<Vec<StoreConfig>, ConfigError> {
    // What the configuration leaves out, credentials above all.
    let environment = Environment::of_process();
    let mut stores = Vec::new();
    for (name, value) in disk {
        let Value::Table(table) = value else {
            return Err(fail(format!("\"disk.{name}\" must be a section: write [disk.NAME]")));
        };
        if !is_name(name) || name == LOCATION {
            return Err(fail(format!(
                "[disk.{name}]: a store's name has 1 to {NAME_BYTES_MAX} letters, digits, hyphens, underscores and dots, and \
                 is not {LOCATION}"
            )));
        }
        let store = StoreConfig::from_disk(name, table, &environment);
        stores.push(store.map_err(|error| fail(error.to_string()))?);
    }
    for (key, value) in worker {
        match (key.as_str(), value) {
            (LOCATION, Value::Table(table)) => {
                let store = StoreConfig::from_checkpoint_location(table, &environment);
                stores.push(store.map_err(|error| fail(error.to_string()))?);
            }
            (LOCATION, _) => {
                return Err(fail(format!(
                    "\"worker.{LOCATION}\" has keys of its own: write {LOCATION}.s3.url = \"...\""
                )));
            }
            ("enabled", _) => {
                return Err(fail("\"worker.enabled\" is not in this version: remove the key"));
            }
            _ => {
                let near = nearest_of(key, [LOCATION].into_iter());
                let near = near.map(|near| format!(": the nearest known key is \"worker.{near}\""));
                return Err(fail(format!("unknown key \"worker.{key}\"{}", near.unwrap_or_default())));
            }
        }
    }
    Ok(stores)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

/// Every option of all stores as people may see it, secrets masked: `section.key` and value.
pub(super) fn shown(stores: &[StoreConfig]) -> impl Iterator<Item = (String, String)> {
    stores.iter().flat_map(|store| {
        let section = match store.name() {
            LOCATION => format!("worker.{LOCATION}"),
            name => format!("disk.{name}"),
        };
        let skip = store.skip_access_check().then(|| ("skip_access_check".to_owned(), "true".to_owned()));
        let options = store.shown().into_iter().chain(skip);
        options.map(move |(key, value)| (format!("{section}.{key}"), value))
    })
}

/// What `config reference` says of stores.
pub(super) const REFERENCE: &str = "
# [disk.NAME]
# An object store, or a folder that all nodes share, under a name; the same on all nodes. Exactly one of endpoint, url
# and path says where it is; any key that belongs to that kind of store may stand beside it (access_key_id,
# aws_region, google_service_account_path, azure_storage_account_name, ...). What is left out is taken from the
# environment (AWS_..., GOOGLE_..., AZURE_...) or from the role of the machine.
# type = \"s3_plain\"                                  # or s3, gcs, abs, azure, shared_filesystem, local, http; may be left out
# endpoint = \"http://localhost:9000/bucket/prefix/\"  # S3: service, bucket and prefix
# url = \"s3://bucket/prefix\"                         # or gs://, az://, abfss://, file:///, http://
# path = \"/mnt/shared\"                               # a folder, the same path on all nodes
# access_key_id =
# secret_access_key =                                # never shown
# credentials_file =                                 # S3: a file of credentials, read again when they expire
# credentials_profile =                              # its section
# metadata_type = \"plain\"                            # no other is known
# skip_access_check = false                          # true: a start does not ask whether the store can be used

# [worker]
# The same in the spelling of others: exactly one of s3, gcs, abs and shared_filesystem. The store is called
# checkpoint_location.
# checkpoint_location.s3.url = \"s3://bucket/path/to/key\"
# checkpoint_location.s3.aws_endpoint_url = \"http://minio:9000\"
# checkpoint_location.shared_filesystem.path = \"/mnt/shared\"
";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<StoreConfig>, String> {
        let table: Table = text.parse().expect("TOML");
        let part = |name: &str| table.get(name).and_then(Value::as_table).cloned().unwrap_or_default();
        stores(&part("disk"), &part("worker")).map_err(|error| error.0)
    }

    #[test]
    fn stores_are_named_in_the_words_of_others() {
        let found =
            of("[disk.main]\ntype = \"s3_plain\"\nendpoint = \"http://localhost:9000/disk/checkpoint/\"\n\
             access_key_id = \"me\"\nsecret_access_key = \"canary-0815\"\nskip_access_check = false\n\
             [worker]\ncheckpoint_location.shared_filesystem.path = \"/mnt/x\"\n")
            .unwrap();
        assert_eq!(found.iter().map(StoreConfig::name).collect::<Vec<_>>(), ["main", "checkpoint_location"]);
        let shown: Vec<_> = shown(&found).collect();
        assert!(
            shown.contains(&("worker.checkpoint_location.location".into(), "/mnt/x".into())),
            "{shown:?}"
        );
        let secret = shown.iter().find(|(key, _)| key.contains("secret_access_key")).unwrap();
        assert_eq!(secret.1, "***");
        assert!(!format!("{shown:?}{found:?}").contains("canary"));
    }

    #[test]
    fn what_nobody_knows_is_refused_with_what_was_meant() {
        for (text, says) in [
            ("[disk.main]\npath = \"/x\"\nendpont = \"http://h/b\"", "\"endpoint\""),
            ("[disk.main]\npath = \"x\"", "not absolute"),
            ("[disk]\nmain = 1", "write [disk.NAME]"),
            ("[disk.\"a b\"]\npath = \"/x\"", "a store's name has"),
            ("[disk.checkpoint_location]\npath = \"/x\"", "a store's name has"),
            ("[worker]\nenabled = true", "not in this version"),
            ("[worker]\ncheckpoint_locaton.s3.url = \"s3://b\"", "\"worker.checkpoint_location\""),
            ("[worker]\ncheckpoint_location = \"s3://b\"", "has keys of its own"),
            (
                "[worker]\ncheckpoint_location.s3.url = \"s3://b\"\ncheckpoint_location.gcs.url = \"gs://b\"",
                "exactly one",
            ),
        ] {
            let why = of(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    #[test]
    fn no_refusal_holds_a_secret() {
        for wrong in
            ["endpoint = \"http://me:canary-0815@h/b\"", "endpoint = \"http://h\"", "endpoint = \"h\""]
        {
            let why = of(&format!("[disk.main]\n{wrong}\nsecret_access_key = \"canary-0815\"")).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
