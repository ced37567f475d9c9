//! The configuration that a node goes by, key by key, and where each value comes from.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use toml::Value;

use super::settings::{self, Otherwise};
use super::{Config, Hydrate, LogFormat, Overrides, Reserve, file, stores};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(file, line) => write!(f, "{}:{line}", file.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// `section.key`.
    pub key: Cow<'static, str>,
    /// The value; secrets are masked. `None` when it must be given and nobody has.
    pub value: Option<Value>,
    /// Where it comes from.
    pub origin: Origin,
}

/// All values of `config`, which was made of this file and these flags and lacks what is `missing`. Keys of features
/// that this version does not have are left out.
pub fn shown(
    config: &Config,
    missing: &[&str],
    path: Option<&Path>,
    text: &str,
    matches: &ArgMatches,
) -> Vec<Shown> {
    let lines = file::lines(text);
    let flags = Overrides::augment_args(clap::Command::new("flags"));
    let from_line = |key: &str| Some(Origin::File(path?.to_owned(), *lines.get(key)?));
    let fixed = values(config).into_iter().map(|(key, value)| {
        let origin = from_flag(key, &flags, matches).or_else(|| from_line(key)).unwrap_or(Origin::Default);
        let value = (!missing.contains(&key)).then(|| masked(key, value));
        Shown { key: key.into(), value, origin }
    });
    // Their section stands somewhere in the file; what does not stand in it comes from the environment.
    let open = of_stores_and_jobs(config).map(|(key, value)| {
        let section = key.split('.').take(2).collect::<Vec<_>>().join(".");
        let origin = from_line(&section).unwrap_or(Origin::Default);
        Shown { value: Some(masked(&key, Value::String(value))), key: key.into(), origin }
    });
    fixed.chain(open).collect()
}

/// `disk.NAME.KEY`, `worker.checkpoint_location.KEY`, `job.NAME.KEY`, and their values.
fn of_stores_and_jobs(config: &Config) -> impl Iterator<Item = (String, String)> {
    let jobs = config.modes.written();
    let jobs = jobs.map(|(job, settings)| (format!("job.{job}.checkpoint_settings"), settings.to_owned()));
    stores::shown(&config.stores).chain(jobs)
}

fn from_flag(key: &str, flags: &clap::Command, matches: &ArgMatches) -> Option<Origin> {
    let id = settings::find(key)?.flag;
    let flag = flags.get_arguments().find(|flag| flag.get_id() == id)?;
    match matches.value_source(id)? {
        ValueSource::CommandLine => Some(Origin::Flag(flag.get_long()?.to_owned())),
        ValueSource::EnvVariable => Some(Origin::Environment(flag.get_env()?.to_string_lossy().into_owned())),
        _ => None,
    }
}

fn values(config: &Config) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let list = |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect());
    let members = config.members.iter().map(|(id, address)| format!("{id}={address}")).collect();
    let roots = config.source_roots.iter().map(|root| root.display().to_string()).collect();
    let secret_file = config.secret_file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    let reserve = match config.reserve {
        Reserve::Percent(percent) => format!("{percent}%"),
        Reserve::Bytes(bytes) => size(bytes),
    };
    let format = match config.log_format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let hydrate = match config.hydrate {
        Hydrate::Peers => "peers",
        Hydrate::Store => "store",
    };
    let (low, high) = config.election_timeout;
    vec![
        ("node.id", number(config.id)),
        ("node.cluster", text(&config.cluster)),
        ("node.data_dir", text(&config.data_dir.display().to_string())),
        ("node.advertise", text(&config.advertise)),
        ("node.source_roots", list(roots)),
        ("listen.grpc", text(&config.grpc.to_string())),
        ("listen.peers", text(&config.peers.to_string())),
        ("listen.http", text(&config.http.to_string())),
        ("listen.insecure", Value::Boolean(config.insecure)),
        ("cluster.initial_members", list(members)),
        ("cluster.single", Value::Boolean(config.single)),
        ("cluster.secret_file", text(&secret_file)),
        ("raft.heartbeat", text(&duration(config.heartbeat))),
        ("raft.election_timeout", list(vec![duration(low), duration(high)])),
        ("storage.chunk_size", text(&size(u64::from(config.chunk_bytes)))),
        ("storage.reserve_free", text(&reserve)),
        ("storage.hydrate", text(hydrate)),
        ("limits.max_epoch_size", text(&size(config.limits.bytes_max))),
        ("limits.max_files", number(config.limits.files_max)),
        ("limits.attempt_ttl", text(&duration(config.attempt_ttl))),
        ("log.format", text(format)),
    ]
}

/// A size that reads back as the same number of bytes.
fn size(bytes: u64) -> String {
    let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1u64 << 10)];
    match units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{} {name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A duration that reads back as the same.
fn duration(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |known| format!("{known:#}"))
}

/// Whatever names itself a secret is one, wherever it is shown; a path to a file with one is none.
fn masked(key: &str, value: Value) -> Value {
    let name = key.rsplit('.').next().unwrap_or(key);
    let secret = ["secret", "password", "token"].iter().any(|word| name.contains(word));
    match secret && !name.ends_with("_file") && value.as_str().is_none_or(|text| !text.is_empty()) {
        true => Value::String("********".into()),
        false => value,
    }
}

/// As TOML, with the origins as comments when they are wanted.
pub fn to_toml(shown: &[Shown], origins: bool) -> String {
    let mut text = String::new();
    let mut section = "";
    for Shown { key, value, origin } in shown {
        let comment = if origins { format!("  # {origin}") } else { String::new() };
        let Some((of, name)) = key.split_once('.') else { continue };
        if of != section {
            section = of;
            text.push_str(&format!("[{section}]\n"));
        }
        match value {
            Some(value) => text.push_str(&format!("{name} = {value}{comment}\n")),
            None => text.push_str(&format!("# {name} must be given{}\n", otherwise(key))),
        }
    }
    text.trim_end().to_owned()
}

/// How a key that must be given is given by a flag.
fn otherwise(key: &str) -> String {
    match settings::find(key).and_then(settings::flag) {
        Some((flag, _)) if settings::find(key).map(|known| known.otherwise) == Some(Otherwise::Missing) => {
            format!(": --{flag}")
        }
        Some((flag, _)) => format!(": --{flag}, or --single for a cluster of one"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    const FILE: &str = "[node]\nid = 7\n\n# where\ndata_dir = \"/d\"\n[raft]\nheartbeat = \"100ms\"\n\
                        election_timeout = [\"1s\", \"2s\"]\n[storage]\nreserve_free = \"3 GiB\"\n";

    fn shown_with(args: &[&str]) -> (Config, Vec<Shown>) {
        let command = Overrides::augment_args(clap::Command::new("x").no_binary_name(true));
        let matches = command.try_get_matches_from(args).unwrap();
        let over = Overrides::from_arg_matches(&matches).unwrap();
        let (config, missing) = Config::draft(FILE, &over).unwrap();
        let shown = shown(&config, &missing, Some(Path::new("n.toml")), FILE, &matches);
        (config, shown)
    }

    #[test]
    fn each_value_names_its_origin() {
        let (_, shown) = shown_with(&["--id", "8", "--peers", "8=127.0.0.1:7431,9=127.0.0.1:7432"]);
        let origin = |key: &str| shown.iter().find(|shown| shown.key == key).unwrap().origin.to_string();
        assert_eq!(origin("node.id"), "flag --id");
        assert_eq!(origin("node.data_dir"), "n.toml:5");
        assert_eq!(origin("raft.election_timeout"), "n.toml:8");
        assert_eq!(origin("log.format"), "default");
        assert_eq!(origin("cluster.initial_members"), "flag --peers");
        let secret = shown.iter().find(|shown| shown.key == "cluster.secret_file").unwrap();
        assert_eq!(secret.value, None, "there are others to prove it to");
        assert!(to_toml(&shown, false).contains("\n# secret_file must be given: --secret-file"));
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_configuration() {
        let (config, shown) = shown_with(&["--single", "--insecure"]);
        for origins in [false, true] {
            let text = to_toml(&shown, origins);
            let again = Config::parse(&text, &Overrides::default()).unwrap();
            assert_eq!(format!("{again:?}"), format!("{config:?}"), "{text}");
        }
    }

    #[test]
    fn what_must_be_given_is_said_and_all_else_is_shown() {
        let (_, shown) = shown_with(&[]);
        let text = to_toml(&shown, true);
        assert!(text.contains("\n# initial_members must be given: --peers, or --single"), "{text}");
        assert!(text.contains("\nhttp = \"127.0.0.1:7421\"  # default"), "{text}");
    }

    #[test]
    fn secrets_are_masked() {
        let text = |text: &str| Value::String(text.into());
        assert_eq!(masked("disk.main.secret_access_key", text("abc")), text("********"));
        assert_eq!(masked("auth.token_file", text("/etc/t")), text("/etc/t"));
        assert_eq!(masked("cluster.secret_file", text("/etc/s")), text("/etc/s"));
        assert_eq!(masked("node.id", text("1")), text("1"));
    }
}
