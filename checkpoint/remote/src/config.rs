//! What a configuration says about a store.
//!
//! Two spellings, both of others and taken verbatim: a table `[disk.NAME]` (Timeplus and ClickHouse: `type`,
//! `endpoint`, `access_key_id`, ...) and `checkpoint_location.s3|gcs|abs|shared_filesystem` (Polars), each with any key
//! that the `object_store` crate knows for that kind of store. Addresses are taken apart here, because the crate would
//! take `http://host/bucket/prefix` for a WebDAV server; and nothing is ever ignored.

mod options;
mod place;
mod section;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::{Table, Value};

use crate::error::StoreError;
use crate::secret::Secret;

pub(crate) use options::Options;
pub use place::Place;
use section::Section;

/// The store that a configuration names.
#[derive(Clone)]
pub struct StoreConfig {
    name: String,
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) credentials: Option<(PathBuf, String)>,
    skip_access_check: bool,
    warnings: Vec<String>,
}

/// Variables that stand in for what a configuration leaves out: credentials, regions, addresses of services.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, Secret>);

impl Environment {
    /// Those of this process that begin with `AWS_`, `GOOGLE_` or `AZURE_`.
    pub fn of_process() -> Environment {
        // A variable that is no text cannot be one of those.
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        variables.collect()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Environment {
        let ours = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|start| name.starts_with(start));
        let variables = variables.into_iter().filter(|(name, _)| ours(name));
        Environment(variables.map(|(name, value)| (name.to_ascii_lowercase(), Secret::new(value))).collect())
    }
}

// The keys of a disk that are ours or Timeplus's; all others are the crate's.
const DISK_KEYS: [&str; 8] = [
    "type",
    "endpoint",
    "url",
    "path",
    "metadata_type",
    "skip_access_check",
    "credentials_file",
    "credentials_profile",
];

// The same of a place below `checkpoint_location`.
const LOCATION_KEYS: [&str; 3] = ["url", "credentials_file", "credentials_profile"];

impl StoreConfig {
    /// Of a table `[disk.NAME]`.
    ///
    /// # Errors
    /// `Configuration`, with what to write instead.
    pub fn from_disk(name: &str, table: &Table, env: &Environment) -> Result<StoreConfig, StoreError> {
        let section = Section { name: format!("disk.{name}"), own_keys: &DISK_KEYS, table };
        let place = place::of_disk(&section)?;
        if let Some(metadata) = section.text("metadata_type")?
            && metadata != "plain"
        {
            return Err(section.error(
                "metadata_type",
                format!("{metadata:?} is not done here"),
                "write metadata_type = \"plain\" or leave it out",
            ));
        }
        let skip = section.flag("skip_access_check")?.unwrap_or(false);
        StoreConfig::finish(name, place, &section, skip, env)
    }

    /// Of a table `checkpoint_location`; the store is called `checkpoint_location`.
    ///
    /// # Errors
    /// `Configuration`, with what to write instead.
    pub fn from_checkpoint_location(table: &Table, env: &Environment) -> Result<StoreConfig, StoreError> {
        const NAME: &str = "checkpoint_location";
        let whole = Section { name: NAME.into(), own_keys: &place::LOCATIONS, table };
        whole.only_own_keys()?;
        let mut places = table.iter();
        let (Some((kind, value)), None) = (places.next(), places.next()) else {
            return Err(StoreError::configuration(
                NAME,
                format!("{} places are named", table.len()),
                "name exactly one of s3, gcs, abs, shared_filesystem",
            ));
        };
        let Value::Table(table) = value else {
            return Err(whole.error(
                kind,
                "a place has keys of its own",
                format!("write {NAME}.{kind}.url = \"...\""),
            ));
        };
        let own_keys: &[&str] = if kind == "shared_filesystem" { &["path"] } else { &LOCATION_KEYS };
        let section = Section { name: format!("{NAME}.{kind}"), own_keys, table };
        let place = place::of_location(kind, &section)?;
        StoreConfig::finish(NAME, place, &section, false, env)
    }

    fn finish(
        name: &str,
        place: Place,
        section: &Section,
        skip_access_check: bool,
        env: &Environment,
    ) -> Result<StoreConfig, StoreError> {
        let options = Options::read(&place, section, &env.0)?;
        let credentials = match (section.text("credentials_file")?, section.text("credentials_profile")?) {
            (Some(_), _) if !matches!(place, Place::S3 { .. }) => {
                return Err(section.error(
                    "credentials_file",
                    "only stores that speak S3 take one",
                    "for Google write google_service_account_path, for Azure azure_federated_token_file",
                ));
            }
            (Some(file), profile) => Some((PathBuf::from(file), profile.unwrap_or("default").to_string())),
            (None, Some(_)) => {
                return Err(section.error(
                    "credentials_profile",
                    "names a section of a file, and there is none",
                    "write credentials_file, too",
                ));
            }
            (None, None) => None,
        };
        let mut warnings = Vec::new();
        if place.is_plain_http() || options.is_plain_http() {
            warnings.push(format!(
                "{}: http:// is not encrypted: who reads this network reads the bytes; use https:// where others share it",
                section.name
            ));
        }
        Ok(StoreConfig { name: name.to_string(), place, options, credentials, skip_access_check, warnings })
    }

    /// What the store is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether a start does not ask the store whether it may read and write there.
    pub fn skip_access_check(&self) -> bool {
        self.skip_access_check
    }

    /// What people should know about it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every option as people may see it: secrets are masked.
    pub fn shown(&self) -> Vec<(String, String)> {
        let mut shown = vec![("location".to_string(), self.place.to_string())];
        shown.extend(self.options.shown());
        if let Some((file, profile)) = &self.credentials {
            shown.push(("credentials_file".into(), file.display().to_string()));
            shown.push(("credentials_profile".into(), profile.clone()));
        }
        shown
    }

    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.options.secrets()
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig").field("name", &self.name).field("shown", &self.shown()).finish()
    }
}

#[cfg(test)]
mod tests;
