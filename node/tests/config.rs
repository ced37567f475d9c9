//! What a configuration may say, and what is refused, with words that help.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use node::config::{Config, Overrides, Reserve};

const MINIMAL: &str = "[node]\nid = 1\ndata_dir = \"/tmp/x\"\n";

fn parse(more: &str) -> Result<Config, String> {
    Config::parse(&format!("{MINIMAL}{more}"), &Overrides::default()).map_err(|error| error.0)
}

fn refusal(more: &str) -> String {
    parse(more).unwrap_err()
}

#[test]
fn a_minimal_configuration_has_the_documented_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.grpc.to_string(), "127.0.0.1:7411");
    assert_eq!(config.http.to_string(), "127.0.0.1:7421");
    assert_eq!(config.peers.to_string(), "127.0.0.1:7431");
    assert_eq!(config.members, [(1, "127.0.0.1:7431".to_owned())]);
    assert_eq!(config.secret_file, None);
    assert_eq!(config.heartbeat, Duration::from_millis(500));
    assert_eq!(config.election_timeout, (Duration::from_millis(3900), Duration::from_millis(4400)));
    assert_eq!(config.chunk_bytes, 1 << 20);
    assert_eq!(config.reserve, Reserve::Percent(5.0));
    assert_eq!(config.attempt_ttl, Duration::from_secs(3600));
    assert!(config.source_roots.is_empty());
}

#[test]
fn all_documented_sections_are_understood() {
    let config = parse(
        r#"
        cluster = "prod"
        advertise = "127.0.0.1:9999"
        source_roots = ["/tmp"]
        [listen]
        grpc = "127.0.0.1:7511"
        peers = "127.0.0.1:7531"
        http = "127.0.0.1:7521"
        [cluster]
        initial_members = ["1=127.0.0.1:7531", "2=127.0.0.1:7532", "3=127.0.0.1:7533"]
        join = []
        secret_file = "/etc/epochlog/secret"
        [raft]
        heartbeat = "100ms"
        election_timeout = ["400ms", "800ms"]
        [storage]
        chunk_size = "4 MiB"
        reserve_free = "10 GiB"
        [limits]
        max_epoch_size = "1 GiB"
        max_files = 1_000
        attempt_ttl = "10 mins"
        [tls]
        cert = ""
        key = ""
        ca = ""
        [auth]
        token_file = ""
        [log]
        format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(config.cluster, "prod");
    assert_eq!(config.members.len(), 3);
    assert_eq!(config.peers.port(), 7531);
    assert_eq!(config.secret_file.as_deref(), Some("/etc/epochlog/secret".as_ref()));
    assert_eq!(config.chunk_bytes, 4 << 20);
    assert_eq!(config.reserve, Reserve::Bytes(10 << 30));
    assert_eq!(config.limits.files_max, 1000);
    assert_eq!(config.limits.bytes_max, 1 << 30);
    assert_eq!(config.attempt_ttl, Duration::from_secs(600));
}

#[test]
fn limits_go_no_higher_than_the_log_takes() {
    for over in ["max_files = 1_000_001", "max_epoch_size = \"2 TiB\""] {
        let why = refusal(&format!("[limits]\n{over}"));
        assert!(why.contains("at most 1 TiB") && why.contains("1_000_000"), "{why}");
    }
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    assert_eq!(
        refusal("[raft]\nheartbeet = \"1s\""),
        "unknown key \"raft.heartbeet\": the nearest known key is \"raft.heartbeat\""
    );
    assert!(refusal("dta_dir = 1").contains("\"node.data_dir\""));
    assert!(refusal("[storag]\nchunk_size = 1").contains("\"storage\""));
}

#[test]
fn sections_of_later_versions_are_refused_not_ignored() {
    for section in ["retention", "scheduler", "worker", "disk.main", "job.default", "scheduler.checkpoint"] {
        let why = refusal(&format!("[{section}]\nenabled = true"));
        assert!(why.contains("not in this version"), "{section}: {why}");
    }
    for key in ["[tls]\ncert = \"a.pem\"", "[auth]\ntoken_file = \"t\"", "[cluster]\njoin = [\"1.2.3.4:1\"]"]
    {
        let why = refusal(key);
        assert!(why.contains("not in this version"), "{key}: {why}");
    }
}

#[test]
fn without_tls_a_node_listens_on_loopback_unless_told() {
    let open = "[listen]\ngrpc = \"0.0.0.0:7411\"";
    assert!(refusal(open).contains("--insecure"));
    let insecure =
        Overrides { insecure: true, advertise: Some("10.0.0.1:7411".into()), ..Overrides::default() };
    let config = Config::parse(&format!("{MINIMAL}{open}"), &insecure).unwrap();
    assert_eq!(config.advertise, "10.0.0.1:7411");
    let silent = Overrides { insecure: true, ..Overrides::default() };
    let why = Config::parse(&format!("{MINIMAL}{open}"), &silent).unwrap_err().0;
    assert!(why.contains("node.advertise"), "{why}");
}

#[test]
fn flags_go_over_the_file() {
    let flags = Overrides { id: Some(2), peers: vec!["2=127.0.0.1:1".into()], ..Overrides::default() };
    let config = Config::parse(MINIMAL, &flags).unwrap();
    assert_eq!(config.id, 2);
    assert_eq!(config.members, [(2, "127.0.0.1:1".to_owned())]);
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    for (text, names) in [
        ("[storage]\nchunk_size = \"3 MiB\"", "storage.chunk_size"),
        ("[storage]\nreserve_free = \"200%\"", "storage.reserve_free"),
        ("[raft]\nheartbeat = \"soon\"", "raft.heartbeat"),
        ("[raft]\nelection_timeout = [\"600ms\", \"700ms\"]", "raft.election_timeout"),
        ("[raft]\nelection_timeout = [\"1s\", \"2s\"]", "to at least six times as much"),
        ("[cluster]\ninitial_members = [\"2=127.0.0.1:1\"]", "node 1 is not among the initial members"),
        ("[cluster]\ninitial_members = [\"127.0.0.1:1\"]", "not a member"),
        ("[cluster]\ninitial_members = [\"1=127.0.0.1:1\", \"1=127.0.0.1:2\"]", "stand once"),
        (
            "[cluster]\ninitial_members = [\"1=127.0.0.1:1\", \"2=127.0.0.1:2\"]",
            "make a secret with `epochlog secret new FILE`",
        ),
        ("[cluster]\ninitial_members = [\"1=127.0.0.1:7411\"]", "port 7431 here"),
        ("[listen]\npeers = \"127.0.0.1:7411\"", "an address of their own"),
        ("[listen]\ngrpc = \"127.0.0.1:65530\"", "listen.peers is missing"),
        ("[listen]\npeers = \"10.0.0.1:7431\"", "listen.peers"),
        ("[log]\nformat = \"xml\"", "log.format"),
        ("[listen]\ngrpc = \"nowhere\"", "listen.grpc"),
        ("source_roots = [\"/no/such/root\"]", "source root"),
    ] {
        let why = refusal(text);
        assert!(why.contains(names), "{text}: {why}");
    }
    let none = Config::parse("", &Overrides::default()).unwrap_err().0;
    assert!(none.contains("node.id"), "{none}");
}
