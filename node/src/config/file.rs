//! The file as it is written: its sections, and what is refused in it.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, fail};

/// Every key this version knows, as `section.key`.
pub const KNOWN: [&str; 21] = [
    "node.id",
    "node.cluster",
    "node.data_dir",
    "node.advertise",
    "node.source_roots",
    "listen.grpc",
    "listen.http",
    "cluster.initial_members",
    "cluster.join",
    "raft.heartbeat",
    "raft.election_timeout",
    "storage.chunk_size",
    "storage.reserve_free",
    "limits.max_epoch_size",
    "limits.max_files",
    "limits.attempt_ttl",
    "tls.cert",
    "tls.key",
    "tls.ca",
    "auth.token_file",
    "log.format",
];
/// Sections of features that later versions have.
const LATER: [&str; 5] = ["retention", "scheduler", "worker", "disk", "job"];

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
    pub http: Option<String>,
}
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterSection {
    pub initial_members: Vec<String>,
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

/// Refuses keys that nobody knows and keys that only later versions know.
pub fn check_keys(table: &toml::Table) -> Result<(), ConfigError> {
    for (section, value) in table {
        if LATER.contains(&section.as_str()) {
            return Err(fail(format!("[{section}] is not in this version: remove the section")));
        }
        let known_section = KNOWN.iter().any(|known| known.split('.').next() == Some(section));
        if !known_section {
            return Err(fail(format!("unknown key {section:?}{}", nearest(section, sections()))));
        }
        let Some(keys) = value.as_table() else {
            return Err(fail(format!("{section:?} must be a section: write [{section}]")));
        };
        for (key, value) in keys {
            let path = format!("{section}.{key}");
            if !KNOWN.contains(&path.as_str()) {
                let near = nearest(&path, KNOWN.into_iter());
                return Err(fail(format!("unknown key {path:?}{near}")));
            }
            let later = matches!(section.as_str(), "tls" | "auth") || path == "cluster.join";
            if later && !is_empty(value) {
                return Err(fail(format!("{path:?} is not in this version: leave it empty or remove it")));
            }
        }
    }
    Ok(())
}

fn is_empty(value: &toml::Value) -> bool {
    value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn sections() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter_map(|known| known.split('.').next()).chain(LATER)
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    match known.max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b))) {
        Some(best) => format!(": the nearest known key is {best:?}"),
        None => String::new(),
    }
}
