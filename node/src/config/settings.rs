//! Every key of the configuration, in one table: what it means, in which unit, and what holds when nobody says it.
//!
//! What a file may say, what `config show` and `config reference` print, and the defaults themselves are all read
//! here: a key that is not in the table does not exist.

use super::overrides::Overrides;

/// What holds for a key that nobody gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// This value, as a file writes it.
    Value(&'static str),
    /// What other keys say, in words.
    Follows(&'static str),
    /// Nothing: the node does not start without it.
    Missing,
    /// The key is of a later version: it is refused unless it is empty.
    Later,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// Id of the flag in [`Overrides`] that says the same; empty when only a file can say it.
    pub flag: &'static str,
    /// Form and unit of the value.
    pub unit: &'static str,
    /// What holds otherwise.
    pub otherwise: Otherwise,
    /// What it means, in one or two sentences.
    pub words: &'static str,
}

use Otherwise::{Follows, Later, Missing, Value};

const fn row(
    key: &'static str,
    flag: &'static str,
    unit: &'static str,
    otherwise: Otherwise,
    words: &'static str,
) -> Setting {
    Setting { key, flag, unit, otherwise, words }
}

/// All keys, a section's together, in the order in which people meet them.
pub const SETTINGS: &[Setting] = &[
    row(
        "node.id",
        "id",
        "a whole number from 1 on",
        Missing,
        "Which node of the cluster this is. A number belongs to one data folder for ever.",
    ),
    row(
        "node.cluster",
        "cluster",
        "text",
        Value("\"epochlog\""),
        "Name of the cluster, the same on all its nodes. Nodes of another name are refused.",
    ),
    row(
        "node.data_dir",
        "data_dir",
        "a folder",
        Missing,
        "Where the node keeps all it has. Nothing else may lie in it.",
    ),
    row(
        "node.advertise",
        "advertise",
        "HOST:PORT",
        Follows("what the node listens on"),
        "Where clients reach this node, when that is another address than the one it listens on. It tells the others.",
    ),
    row(
        "node.source_roots",
        "source_roots",
        "a list of folders",
        Value("[]"),
        "What lies below these folders the node reads by itself when a client of the same machine and user commits it. \
         All else is streamed by the client.",
    ),
    row("listen.grpc", "listen", "HOST:PORT", Value("\"127.0.0.1:7411\""), "Where the node answers clients."),
    row(
        "listen.peers",
        "listen_peers",
        "HOST:PORT",
        Follows("listen.grpc, its port + 20"),
        "Where the node answers the other nodes, which prove the secret of the cluster first. A node alone has no such port.",
    ),
    row(
        "listen.http",
        "http",
        "HOST:PORT",
        Value("\"127.0.0.1:7421\""),
        "Where it answers /metrics, /healthz and /readyz.",
    ),
    row(
        "listen.insecure",
        "insecure",
        "true or false",
        Value("false"),
        "Listen beyond loopback, without TLS: whoever reaches the clients' port can read, write and remove everything.",
    ),
    row(
        "cluster.initial_members",
        "peers",
        "a list of ID=HOST:PORT",
        Follows("must be given, but for cluster.single"),
        "All nodes of the cluster, this one among them, by their addresses for other nodes (listen.peers), the same text on \
         all of them. It goes into the log with the first start and cannot be changed later.",
    ),
    row(
        "cluster.single",
        "single",
        "true or false",
        Value("false"),
        "This node is the whole cluster, on purpose: there is no second copy of anything.",
    ),
    row(
        "cluster.secret_file",
        "secret_file",
        "a file of the node's user or of root that others may not read",
        Follows("must be given, but for cluster.single"),
        "The secret that the nodes of the cluster prove to each other, the same on all of them. `epochlog secret new FILE` \
         makes one.",
    ),
    row("cluster.join", "", "a list of HOST:PORT", Later, "Nodes that an empty node asks to be taken in."),
    row(
        "raft.heartbeat",
        "",
        "a duration",
        Value("\"500ms\""),
        "How often the leader shows that it is there.",
    ),
    row(
        "raft.election_timeout",
        "",
        "two durations, least and most",
        Value("[\"3900ms\", \"4400ms\"]"),
        "After how long without a leader another one stands: the whole time. From at least twice to at least six times \
         raft.heartbeat.",
    ),
    row(
        "storage.chunk_size",
        "",
        "a size: a power of two from 64 KiB to 4 MiB",
        Value("\"1 MiB\""),
        "Into pieces of this size the log cuts large files, for commits that do not ask for another size.",
    ),
    row(
        "storage.reserve_free",
        "",
        "a share of the file system, or a size",
        Value("\"5%\""),
        "So much of the disk stays free: no commit is begun that would need it.",
    ),
    row(
        "storage.hydrate",
        "",
        "peers or store",
        Value("\"peers\""),
        "Where a node looks first for content that lies in an object store and not on its disk: on the other nodes, so that \
         one of them reads the store for all, or in the store.",
    ),
    row(
        "limits.max_epoch_size",
        "",
        "a size, at most 1 TiB",
        Value("\"1 TiB\""),
        "An epoch with more bytes is refused.",
    ),
    row(
        "limits.max_files",
        "",
        "a number, at most 1_000_000",
        Value("1000000"),
        "An epoch with more entries (files, directories and links) is refused.",
    ),
    row(
        "limits.attempt_ttl",
        "",
        "a duration, in time that the cluster is up",
        Value("\"1h\""),
        "A commit that was begun and that nobody goes on with ends after so long, and its space comes back.",
    ),
    row("tls.cert", "", "a file", Later, "Certificate of this node."),
    row("tls.key", "", "a file", Later, "Key of this node."),
    row("tls.ca", "", "a file", Later, "Certificates that are trusted."),
    row("auth.token_file", "", "a file", Later, "Who may do what."),
    row(
        "log.format",
        "",
        "auto, text or json",
        Value("\"auto\""),
        "How the node's log lines look: text on a terminal and JSON elsewhere, or always the one that is named. They go to \
         stderr.",
    ),
];

/// Sections of features that later versions have.
pub const LATER: [&str; 2] = ["retention", "scheduler"];

/// Sections whose keys are not all known here.
pub const OPEN: [&str; 3] = ["disk", "worker", "job"];

/// The setting of a key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The sections, each once.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    SETTINGS.iter().filter_map(move |setting| {
        let section = setting.key.split('.').next().unwrap_or_default();
        (section != std::mem::replace(&mut last, section)).then_some(section)
    })
}

/// The default of a key, without the quotes of text. For keys that have one.
pub fn default_of(key: &str) -> &'static str {
    match find(key).map(|setting| setting.otherwise) {
        Some(Value(text)) => text.trim_matches('"'),
        other => unreachable!("{key} has no default: {other:?}"),
    }
}

/// All keys as a file that may be used as it is: every line that says a default is a comment.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every key of the configuration: what it means, its form or unit, and what holds without it.\n\
         # Sizes are written like \"64 KiB\" or \"10 GiB\", durations like \"500ms\", \"10 mins\" or \"PT10M\".\n\
         # A flag goes over an environment variable, and that over the file.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (of, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if of != section {
            section = of;
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push_str(&wrapped(setting.words));
        text.push_str(&format!("# Form: {}.", setting.unit));
        if let Some((flag, variable)) = flag(setting) {
            text.push_str(&format!(" Flag: --{flag}, environment: {variable}."));
        }
        text.push('\n');
        match setting.otherwise {
            Value(value) => text.push_str(&format!("# {name} = {value}\n")),
            Follows(words) => text.push_str(&format!("# {name} =         # {words}\n")),
            Missing => text.push_str(&format!("# {name} =         # must be given\n")),
            Later => text.push_str(&format!("# {name} =         # not in this version: leave it out\n")),
        }
    }
    text.push_str(super::stores::REFERENCE);
    text.push_str(super::modes::REFERENCE);
    text.push_str("\n# Not in this version, and refused: ");
    text.push_str(&LATER.map(|section| format!("[{section}]")).join(", "));
    text
}

/// The long name of the flag that says the same as a key, and its environment variable.
pub fn flag(setting: &Setting) -> Option<(String, String)> {
    let flags = <Overrides as clap::Args>::augment_args(clap::Command::new("flags"));
    let flag = flags.get_arguments().find(|flag| flag.get_id() == setting.flag)?;
    Some((flag.get_long()?.to_owned(), flag.get_env()?.to_string_lossy().into_owned()))
}

/// As comments of at most 100 columns.
fn wrapped(words: &str) -> String {
    let (mut text, mut line) = (String::new(), String::from("#"));
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > 100 {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, shown};
    use clap::{Args, FromArgMatches};

    #[test]
    fn no_key_is_left_out_of_the_reference_nor_of_what_is_shown() {
        let reference = reference();
        for setting in SETTINGS {
            let (section, name) = setting.key.split_once('.').unwrap();
            let rest =
                reference.split(&format!("\n[{section}]\n")).nth(1).expect("each section is there once");
            assert!(rest.contains(&format!("\n# {name} =")), "{} is missing:\n{reference}", setting.key);
            assert!(setting.words.ends_with('.') && !setting.unit.is_empty(), "{setting:?}");
        }
        let command = Overrides::augment_args(clap::Command::new("x").no_binary_name(true));
        let matches = command.try_get_matches_from(["--id=1", "--data-dir=/d", "--single"]).unwrap();
        let over = Overrides::from_arg_matches(&matches).unwrap();
        let (config, missing) = Config::draft("", &over).unwrap();
        let shown = shown::shown(&config, &missing, None, "", &matches);
        let keys: Vec<_> = shown.iter().map(|shown| &*shown.key).collect();
        let wanted = SETTINGS.iter().filter(|setting| setting.otherwise != Later);
        assert_eq!(keys, wanted.map(|setting| setting.key).collect::<Vec<_>>());
    }

    #[test]
    fn every_flag_of_a_node_is_a_key_and_says_so() {
        let flags = Overrides::augment_args(clap::Command::new("x"));
        for flag in flags.get_arguments() {
            let id = flag.get_id().as_str();
            let setting = SETTINGS.iter().find(|setting| setting.flag == id);
            let setting = setting.unwrap_or_else(|| panic!("--{id} is no key"));
            let (long, variable) = super::flag(setting).unwrap();
            assert_eq!(Some(long.as_str()), flag.get_long());
            assert!(variable.starts_with("EPOCHLOG_"), "{variable}");
        }
        for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
            assert!(super::flag(setting).is_some(), "{setting:?}");
        }
    }

    /// The defaults that the table tells are those that hold.
    #[test]
    fn a_file_that_says_every_default_changes_nothing() {
        let over = Overrides {
            id: Some(1),
            data_dir: Some("/d".into()),
            peers: vec!["1=a:1".into(), "2=b:1".into()],
            secret_file: Some("/s".into()),
            ..Overrides::default()
        };
        let bare = Config::parse("", &over).unwrap();
        let mut text = String::new();
        for section in sections() {
            text.push_str(&format!("[{section}]\n"));
            for setting in SETTINGS {
                let (of, name) = setting.key.split_once('.').unwrap();
                if let (true, Value(value)) = (of == section, setting.otherwise) {
                    text.push_str(&format!("{name} = {value}\n"));
                }
            }
        }
        let said = Config::parse(&text, &over).unwrap();
        assert_eq!(format!("{said:?}"), format!("{bare:?}"), "{text}");
        // And the reference itself is a file that may be used.
        let copied = Config::parse(&reference(), &over).unwrap();
        assert_eq!(format!("{copied:?}"), format!("{bare:?}"));
    }
}
