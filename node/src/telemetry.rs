//! Log lines: text on a terminal, JSON otherwise. They go to stderr; stdout is for data.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging for this process; a second call changes nothing.
pub fn start(format: LogFormat, verbose: u8) {
    let default = match verbose {
        0 => "info,openraft=error,h2=warn,tonic=warn,hyper=warn",
        // More of our own; of the libraries only what is unusual.
        1 => {
            "warn,node=debug,raft=debug,nativelog=debug,checkpoint=debug,client=debug,uncopied=debug,openraft=error"
        }
        _ => {
            "info,node=trace,raft=trace,nativelog=trace,checkpoint=trace,client=trace,uncopied=trace,openraft=debug"
        }
    };
    let filter = EnvFilter::try_from_env("EPOCHLOG_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A logger that is there already stays: tests start several nodes in one process.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
