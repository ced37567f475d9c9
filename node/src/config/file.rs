//! The file as it is written: its sections, and what is refused in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::{ConfigError, fail};
use super::nearest::LIKE_ENOUGH;
use super::settings::{self, LATER, OPEN, Otherwise, SETTINGS};

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct File {
    pub node: NodeSection,
    pub listen: ListenSection,
    pub cluster: ClusterSection,
    pub raft: RaftSection,
    pub storage: StorageSection,
    pub limits: LimitsSection,
    pub log: LogSection,
    pub disk: toml::Table,
    pub worker: toml::Table,
    pub job: toml::Table,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSection {
    pub id: Option<u64>,
    pub cluster: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub advertise: Option<String>,
    pub source_roots: Vec<PathBuf>,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListenSection {
    pub grpc: Option<String>,
    pub peers: Option<String>,
    pub http: Option<String>,
    pub insecure: bool,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterSection {
    pub initial_members: Vec<String>,
    pub single: bool,
    pub secret_file: Option<PathBuf>,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RaftSection {
    pub heartbeat: Option<String>,
    pub election_timeout: Option<(String, String)>,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StorageSection {
    pub chunk_size: Option<SizeText>,
    pub reserve_free: Option<SizeText>,
    pub hydrate: Option<String>,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LimitsSection {
    pub max_epoch_size: Option<SizeText>,
    pub max_files: Option<u64>,
    pub attempt_ttl: Option<String>,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogSection {
    pub format: Option<String>,
}
/// A size as text or as a number of bytes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum SizeText {
    Number(u64),
    Text(String),
}
impl SizeText {
    /// As text.
    pub fn text(&self) -> String {
        match self {
            SizeText::Number(number) => number.to_string(),
            SizeText::Text(text) => text.clone(),
        }
    }
}

/// Reads the file's text; whatever is no key of this version is refused by name.
pub fn parse(text: &str) -> Result<File, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| at_line(text, &error))?;
    check_keys(&table)?;
    toml::from_str(text).map_err(|error| at_line(text, &error))
}

/// The line of each key in the file; of a file that does not parse, none.
pub fn lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    let Ok(table) = toml::de::DeTable::parse(text) else { return lines };
    for (section, keys) in table.get_ref() {
        for (key, _) in keys.get_ref().as_table().into_iter().flatten() {
            let line = text[..key.span().start].matches('\n').count() + 1;
            lines.insert(format!("{}.{}", section.get_ref(), key.get_ref()), line);
        }
    }
    lines
}

/// What is wrong and where, with the key that it is about and the form that this wants.
fn at_line(text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
    // A value may go on for several lines, the key stands on the first.
    let keys = lines(text);
    let about = keys.iter().filter(|(_, at)| **at <= line).max_by_key(|(_, at)| **at);
    match about.and_then(|(key, at)| Some((settings::find(key)?, *at))) {
        Some((setting, at)) => fail(format!("line {at}: {} wants {}", setting.key, setting.unit)),
        None => fail(format!("line {line}: {}", error.message())),
    }
}

/// Refuses keys that nobody knows and keys that only later versions know.
fn check_keys(table: &toml::Table) -> Result<(), ConfigError> {
    for (section, value) in table {
        if OPEN.contains(&section.as_str()) {
            // Their keys are others'.
            match value.is_table() {
                true => continue,
                false => return Err(fail(format!("{section:?} must be a section: write [{section}]"))),
            }
        }
        if LATER.contains(&section.as_str()) {
            return Err(fail(format!("[{section}] is not in this version: remove the section")));
        }
        if !settings::sections().any(|known| known == section) {
            return Err(unknown(section));
        }
        let Some(keys) = value.as_table() else {
            return Err(fail(format!("{section:?} must be a section: write [{section}]")));
        };
        for (key, value) in keys {
            let path = format!("{section}.{key}");
            let Some(setting) = settings::find(&path) else { return Err(unknown(&path)) };
            if setting.otherwise == Otherwise::Later && !is_empty(value) {
                return Err(fail(format!("{path:?} is not in this version: leave it empty or remove it")));
            }
        }
    }
    Ok(())
}

fn is_empty(value: &toml::Value) -> bool {
    value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn unknown(path: &str) -> ConfigError {
    match nearest(path) {
        Some(near) => fail(format!("unknown key {path:?}: the nearest known key is {near:?}")),
        None => fail(format!("unknown key {path:?}")),
    }
}

/// The key or section that was meant, when one is near.
fn nearest(path: &str) -> Option<&'static str> {
    let known =
        SETTINGS.iter().map(|setting| setting.key).chain(settings::sections()).chain(LATER).chain(OPEN);
    let (likeness, best) =
        known.map(|known| (likeness(path, known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness >= LIKE_ENOUGH).then_some(best)
}

/// By the names alone, for the section is forgotten as easily; of two keys of one name, the one in the same section.
fn likeness(path: &str, known: &str) -> f64 {
    fn name(path: &str) -> &str {
        path.rsplit('.').next().unwrap_or(path)
    }
    strsim::jaro_winkler(name(path), name(known)) + strsim::jaro_winkler(path, known) / 1000.0
}
