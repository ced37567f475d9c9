//! `config show`: the configuration that `serve` would go by, and where each value comes from. `config reference`:
//! what there is to say.

use clap::ArgMatches;
use client::Failure;
use serde_json::json;

use super::output::Output;
use super::serve::NodeArgs;
use crate::config::settings::{self, Otherwise, SETTINGS};
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
    Show(Box<ShowArgs>),
    /// Explain every key: what it means, its form or unit, its default. Redirected to a file, it is one to start from
    Reference,
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
    match &args.command {
        ConfigCommand::Show(args) => {
            show(args, matches.subcommand_matches("show").expect("it is the command"), output)
        }
        ConfigCommand::Reference => {
            reference(output);
            Ok(())
        }
    }
}

fn show(args: &ShowArgs, matches: &ArgMatches, output: &Output) -> Result<(), Failure> {
    let (config, missing) = args.node.draft("config show")?;
    let text = args.node.text("config show")?;
    let shown = shown::shown(&config, &missing, args.node.config.as_deref(), &text, matches);
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
            (value.key.into_owned(), json)
        })
        .collect();
    output.outcome(all.into());
    Ok(())
}

fn reference(output: &Output) {
    if !output.is_json() {
        return output.line(settings::reference());
    }
    for setting in SETTINGS {
        let (default, note) = match setting.otherwise {
            Otherwise::Value(value) => (Some(value), None),
            Otherwise::Follows(words) => (None, Some(words)),
            Otherwise::Missing => (None, Some("must be given")),
            Otherwise::Later => (None, Some("not in this version")),
        };
        let flag = settings::flag(setting);
        output.json(&json!({
            "type": "setting",
            "key": setting.key,
            "words": setting.words,
            "form": setting.unit,
            "default": default,
            "otherwise": note,
            "flag": flag.as_ref().map(|(flag, _)| format!("--{flag}")),
            "environment": flag.as_ref().map(|(_, variable)| variable),
        }));
    }
}
