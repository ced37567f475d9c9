//! Where the epochs of a job lie: `[job.NAME] checkpoint_settings`, in the words of Timeplus.

use std::collections::BTreeMap;

use checkpoint::JobName;
use remote::StoreConfig;
use toml::{Table, Value};

use super::error::{ConfigError, fail};
use super::nearest::nearest_of;

/// The section whose settings hold for every job that has none of its own.
const DEFAULT: &str = "default";
const SETTINGS: &str = "checkpoint_settings";
const KEYS: [&str; 7] =
    ["type", "replication_type", "storage_type", "async", "incremental", "interval", "shared_disk"];

/// Where the content of a job's epochs goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mode {
    /// Into the log.
    #[default]
    Log,
    /// Into the store of this name; the log says where.
    Hybrid(String),
}

/// The modes of all jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes {
    default: Mode,
    jobs: BTreeMap<String, Mode>,
    /// As they were written, to be shown.
    written: BTreeMap<String, String>,
}

impl Modes {
    /// Of a job.
    pub fn of(&self, job: &JobName) -> &Mode {
        self.jobs.get(job.as_str()).unwrap_or(&self.default)
    }

    /// What was written: job and settings.
    pub(super) fn written(&self) -> impl Iterator<Item = (&str, &str)> {
        self.written.iter().map(|(job, settings)| (job.as_str(), settings.as_str()))
    }

    pub(super) fn read(jobs: &Table, stores: &[StoreConfig]) -> Result<Modes, ConfigError> {
        let mut modes = Modes::default();
        for (job, value) in jobs {
            let Value::Table(keys) = value else {
                return Err(fail(format!("\"job.{job}\" must be a section: write [job.NAME]")));
            };
            if job.parse::<JobName>().is_err() {
                return Err(fail(format!("[job.{job}]: {job:?} is not the name of a job")));
            }
            for (key, value) in keys {
                let text = match (key.as_str(), value) {
                    (SETTINGS, Value::String(text)) => text,
                    (SETTINGS, _) => {
                        return Err(fail(format!("job.{job}.{SETTINGS} wants text: KEY=VALUE;KEY=VALUE")));
                    }
                    ("retention", _) => {
                        return Err(fail(format!("[job.{job}.retention] is not in this version: remove it")));
                    }
                    _ => {
                        let near = nearest_of(key, [SETTINGS].into_iter());
                        let near =
                            near.map(|near| format!(": the nearest known key is \"job.{job}.{near}\""));
                        return Err(fail(format!(
                            "unknown key \"job.{job}.{key}\"{}",
                            near.unwrap_or_default()
                        )));
                    }
                };
                let mode = mode(text, stores).map_err(|why| fail(format!("job.{job}.{SETTINGS}: {why}")))?;
                modes.written.insert(job.clone(), text.clone());
                match job.as_str() {
                    DEFAULT => modes.default = mode,
                    _ => drop(modes.jobs.insert(job.clone(), mode)),
                }
            }
        }
        Ok(modes)
    }
}

/// What `KEY=VALUE;KEY=VALUE` means.
fn mode(text: &str, stores: &[StoreConfig]) -> Result<Mode, String> {
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
        let (key, value) = (key.trim(), value.trim());
        if !KEYS.contains(&key) {
            let near = nearest_of(key, KEYS.into_iter());
            let near = near.map(|near| format!(": the nearest known one is {near:?}")).unwrap_or_default();
            return Err(format!("unknown key {key:?}{near}"));
        }
        if said.insert(key, value).is_some() {
            return Err(format!("{key} is said twice"));
        }
    }
    let one_of = |key: &str, known: &[&str], later: &[&str]| match said.get(key) {
        None => Ok(()),
        Some(value) if known.contains(value) => Ok(()),
        Some(value) if later.contains(value) => Err(format!("{key}={value} is not in this version")),
        Some(value) => Err(format!("{key}={value}: known are {}", [known, later].concat().join(", "))),
    };
    // To a directory it is all the same how an engine made it.
    one_of("type", &["auto", "file", "rocks"], &[])?;
    let replications = ["auto", "nativelog"];
    one_of("replication_type", &replications, &["local_file_system", "shared"])?;
    one_of("storage_type", &replications, &["local_file_system", "shared"])?;
    if let (Some(new), Some(old)) = (said.get("replication_type"), said.get("storage_type"))
        && new != old
    {
        return Err(format!(
            "replication_type={new} and its old name storage_type={old} contradict each other"
        ));
    }
    one_of("async", &["true", "1"], &["false", "0"])?;
    one_of("incremental", &["true", "1"], &["false", "0"])?;
    if said.contains_key("interval") {
        return Err("interval is not in this version: commit when an epoch is complete".into());
    }
    let Some(name) = said.get("shared_disk") else { return Ok(Mode::Log) };
    if stores.iter().any(|store| store.name() == *name) {
        return Ok(Mode::Hybrid((*name).to_owned()));
    }
    let names: Vec<&str> = stores.iter().map(StoreConfig::name).collect();
    Err(match nearest_of(name, names.iter().copied()) {
        Some(near) => format!("there is no [disk.{name}]: the nearest is {near:?}"),
        None => format!("there is no [disk.{name}]"),
    })
}

/// What `config reference` says of jobs.
pub(super) const REFERENCE: &str = "
# [job.NAME]
# Of the epochs of one job, or of all others ([job.default]); the same on all nodes. With shared_disk=NAME the content
# goes into the store of [disk.NAME] and the log says where (hybrid); else into the log.
# checkpoint_settings = \"replication_type=nativelog;shared_disk=NAME\"
";

#[cfg(test)]
mod tests {
    use super::*;
    use remote::Environment;

    fn of(text: &str) -> Result<Modes, String> {
        let disk: Table = "path = \"/x\"".parse().expect("TOML");
        let store = StoreConfig::from_disk("main", &disk, &Environment::default()).expect("a folder");
        Modes::read(&text.parse().expect("TOML"), &[store]).map_err(|error| error.0)
    }

    #[test]
    fn a_job_has_its_own_mode_or_that_of_all() {
        let modes = of("[default]\ncheckpoint_settings = \"replication_type=nativelog;shared_disk=main\"\n\
             [etl]\ncheckpoint_settings = \"type=rocks; replication_type=auto ;async=true;\"")
        .unwrap();
        let job = |name: &str| name.parse::<JobName>().unwrap();
        assert_eq!(modes.of(&job("any")), &Mode::Hybrid("main".into()));
        assert_eq!(modes.of(&job("etl")), &Mode::Log);
        assert_eq!(of("").unwrap().of(&job("any")), &Mode::Log);
        assert_eq!(modes.written().count(), 2);
    }

    #[test]
    fn settings_that_are_not_done_are_refused_and_not_ignored() {
        for (settings, says) in [
            ("shared_disk=mian", "the nearest is \"main\""),
            ("shared_disc=main", "\"shared_disk\""),
            ("replication_type=shared", "not in this version"),
            ("storage_type=local_file_system", "not in this version"),
            ("replication_type=nativelog;storage_type=auto", "contradict"),
            ("replication_type=log", "known are auto, nativelog"),
            ("async=false", "not in this version"),
            ("interval=900", "not in this version"),
            ("type=auto;type=file", "twice"),
            ("nativelog", "not KEY=VALUE"),
        ] {
            let why = of(&format!("[default]\ncheckpoint_settings = \"{settings}\"")).unwrap_err();
            assert!(
                why.contains(says) && why.starts_with("job.default.checkpoint_settings: "),
                "{settings}: {why}"
            );
        }
        assert!(of("[etl.retention]\nkeep_last = 3").unwrap_err().contains("not in this version"));
        assert!(
            of("[etl]\ncheckpoint_setting = \"\"").unwrap_err().contains("\"job.etl.checkpoint_settings\"")
        );
        assert!(of("[\".x\"]\n").unwrap_err().contains("not the name of a job"));
    }
}
