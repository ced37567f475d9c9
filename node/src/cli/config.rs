//! `config show`: the configuration that `serve` would go by, and where each value comes from.

use clap::ArgMatches;
use client::Failure;
use serde_json::json;

use super::output::Output;
use super::serve::NodeArgs;
use crate::config::shown;

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Show the configuration that `serve` with these flags would go by
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Say where each value comes from: default, file and line, environment or flag
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs the command; `matches` are those of `config`.
pub fn run(args: &ConfigArgs, matches: &ArgMatches, output: &Output) -> Result<(), Failure> {
    let ConfigCommand::Show(args) = &args.command;
    let matches = matches.subcommand_matches("show").expect("show is the only command of config");
    let config = args.node.load("config show")?;
    let text = args.node.text("config show")?;
    let shown = shown::shown(&config, args.node.config.as_deref(), &text, matches);
    if !output.is_json() {
        output.line(shown::to_toml(&shown, args.origin));
        return Ok(());
    }
    let all: serde_json::Map<_, _> = shown
        .into_iter()
        .map(|value| {
            let mut json = json!({ "value": value.value });
            if args.origin {
                json["origin"] = value.origin.to_string().into();
            }
            (value.key.to_owned(), json)
        })
        .collect();
    output.outcome(all.into());
    Ok(())
}
