//! What a configuration may say, and what is refused, with words that help.

use std::time::Duration;

use node::config::{Config, Overrides, Reserve};

const MINIMAL: &str = "[node]\nid = 1\ndata_dir = \"/tmp/x\"\n";

/// Of a cluster of one, unless the text names members.
fn parse(more: &str) -> Result<Config, String> {
    let over = Overrides { single: !more.contains("initial_members"), ..Overrides::default() };
    Config::parse(&format!("{MINIMAL}{more}"), &over).map_err(|error| error.0)
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
    // The section is forgotten as easily as a letter.
    let at_the_top = |line: &str| Config::parse(line, &Overrides::default()).unwrap_err().0;
    assert!(at_the_top("data_dir = \"/d\"").ends_with("the nearest known key is \"node.data_dir\""));
    assert!(refusal("[node.tls]\ncert = \"x\"").ends_with("the nearest known key is \"tls\""));
    // What is like nothing is not likened to anything.
    assert_eq!(at_the_top("quorum = 2"), "unknown key \"quorum\"");
    assert_eq!(refusal("[storage]\nqqq = 2"), "unknown key \"storage.qqq\"");
}

#[test]
fn a_value_of_another_form_names_its_key_and_the_form_that_it_wants() {
    for (text, wants) in [
        ("[node]\nid = \"one\"", "line 2: node.id wants a whole number from 1 on"),
        ("[node]\nid = 1\nsource_roots = \"/d\"", "line 3: node.source_roots wants a list of folders"),
        (
            "[raft]\nelection_timeout = [\n\"1s\",\n3]",
            "line 2: raft.election_timeout wants two durations, least and most",
        ),
        ("[listen]\ninsecure = \"yes\"", "line 2: listen.insecure wants true or false"),
        (
            "[storage]\nchunk_size = [1]",
            "line 2: storage.chunk_size wants a size: a power of two from 64 KiB to 4 MiB",
        ),
    ] {
        assert_eq!(Config::parse(text, &Overrides::default()).unwrap_err().0, wants);
    }
}

#[test]
fn one_node_alone_has_to_be_wanted() {
    let alone = |text: &str| Config::parse(text, &Overrides::default()).map_err(|error| error.0);
    for forgotten in
        [MINIMAL.to_owned(), format!("{MINIMAL}[cluster]\ninitial_members = [\"1=10.0.0.1:7411\"]")]
    {
        let why = alone(&forgotten).unwrap_err();
        assert!(why.contains("--peers") && why.contains("--single"), "{why}");
    }
    let wanted = alone(&format!("{MINIMAL}[cluster]\nsingle = true")).unwrap();
    assert_eq!(wanted.members, [(1, "127.0.0.1:7431".to_owned())]);
    let three = "[cluster]\ninitial_members = [\"1=a:1\", \"2=b:1\"]\nsingle = true";
    let why = alone(&format!("{MINIMAL}{three}")).unwrap_err();
    assert!(why.contains("cluster.single") && why.contains("1=a:1, 2=b:1"), "{why}");
}

#[test]
fn all_that_is_missing_is_said_at_once() {
    let none = Config::parse("", &Overrides::default()).unwrap_err().0;
    for flag in ["--id", "--data-dir", "--peers", "--single"] {
        assert!(none.contains(flag), "{flag}: {none}");
    }
}

#[test]
fn sections_of_later_versions_are_refused_not_ignored() {
    for section in ["retention", "scheduler", "worker", "scheduler.checkpoint"] {
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
    let insecure = Overrides {
        insecure: true,
        single: true,
        advertise: Some("10.0.0.1:7411".into()),
        ..Overrides::default()
    };
    let config = Config::parse(&format!("{MINIMAL}{open}"), &insecure).unwrap();
    assert_eq!(config.advertise, "10.0.0.1:7411");
    // What a flag says, a file can say.
    let written = format!("{MINIMAL}[cluster]\nsingle = true\n{open}\ninsecure = true");
    let roof = Overrides { advertise: Some("10.0.0.1:7411".into()), ..Overrides::default() };
    assert!(Config::parse(&written, &roof).unwrap().insecure);
    let silent = Overrides { insecure: true, single: true, ..Overrides::default() };
    let why = Config::parse(&format!("{MINIMAL}{open}"), &silent).unwrap_err().0;
    assert!(why.contains("node.advertise"), "{why}");
}

#[test]
fn flags_go_over_the_file() {
    let peers = vec!["2=127.0.0.1:1".into(), "3=127.0.0.1:2".into()];
    let flags = Overrides { id: Some(2), peers, secret_file: Some("/s".into()), ..Overrides::default() };
    let config = Config::parse(MINIMAL, &flags).unwrap();
    assert_eq!(config.id, 2);
    assert_eq!(config.members, [(2, "127.0.0.1:1".to_owned()), (3, "127.0.0.1:2".to_owned())]);
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    for (text, names) in [
        ("[storage]\nchunk_size = \"3 MiB\"", "storage.chunk_size"),
        ("[storage]\nreserve_free = \"200%\"", "storage.reserve_free"),
        ("[storage]\nreserve_free = \"5\"", "write a share like \"5%\""),
        ("[storage]\nreserve_free = \"5x\"", "neither a share like \"5%\" nor a size"),
        ("[raft]\nheartbeat = \"soon\"", "raft.heartbeat"),
        ("[raft]\nelection_timeout = [\"600ms\", \"700ms\"]", "raft.election_timeout"),
        ("[raft]\nelection_timeout = [\"1s\", \"2s\"]", "to at least six times as much"),
        ("[cluster]\ninitial_members = [\"2=127.0.0.1:1\"]", "node 1 is not among the initial members"),
        ("[cluster]\ninitial_members = [\"127.0.0.1:1\"]", "not a member"),
        (
            "[cluster]\ninitial_members = [\"1=127.0.0.1:1\", \"1=127.0.0.1:2\"]",
            "given twice: 127.0.0.1:1 and",
        ),
        ("[cluster]\ninitial_members = [\"0=127.0.0.1:1\", \"1=127.0.0.1:2\"]", "at least 1"),
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
