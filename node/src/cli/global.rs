//! Flags that every command has.

use std::time::Duration;

use clap::Args;

use crate::units;

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Nodes to talk to; any node will do, more are tried in turn
    #[arg(
        short = 'e',
        long,
        global = true,
        env = "EPOCHLOG_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        value_parser = parse_endpoint,
        default_value = "127.0.0.1:7411",
        help_heading = GLOBAL
    )]
    pub endpoints: Vec<String>,
    /// Form of the output
    #[arg(
        short,
        long,
        global = true,
        env = "EPOCHLOG_OUTPUT",
        value_enum,
        default_value = "table",
        help_heading = GLOBAL
    )]
    pub output: Format,
    /// Only data and errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// More detail in `status` and in the log of `serve` and `repair`; -vv for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub verbose: u8,
    /// No progress bars
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub no_progress: bool,
    /// Give up when nothing has moved for this long
    #[arg(
        long,
        global = true,
        env = "EPOCHLOG_TIMEOUT",
        value_parser = parse_timeout,
        default_value = "30s",
        help_heading = GLOBAL
    )]
    pub timeout: Duration,
}

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// Where a node answers clients; empty when nothing is named.
fn parse_endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if plain.contains("://") {
        return Err("there is no TLS in this version: write HOST:PORT".into());
    }
    let parsed = plain.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    match parsed {
        // An IPv6 address has colons of its own, and stands in brackets.
        Some((host, Ok(port)))
            if port > 0 && !host.is_empty() && (!host.contains(':') || host.ends_with(']')) =>
        {
            Ok(plain.to_owned())
        }
        _ => Err("write HOST:PORT; a node answers clients on port 7411 unless it was told otherwise".into()),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        Duration::ZERO => Err("no time at all is too short for any answer".into()),
        time => Ok(time),
    }
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people
    Table,
    /// One JSON object a line
    Json,
    /// The same, with progress, and a last `summary` or `error` line
    Jsonl,
}
