//! `store check NAME`: what an object store really keeps.

use client::{Code, Failure};
use remote::check::{Report, Verdict, check};
use serde_json::json;

use super::output::Output;
use super::serve::NodeArgs;
use crate::stores::failure;

/// Arguments of `store`.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Find out within half a minute (of a shared folder: 75 s) whether epochs can be kept there, from this machine
    ///
    /// It writes some 80 MiB below PREFIX/epochlog-check/, reads them and removes them: whether a key is created once only, ranges are
    /// served, listings are up to date, checksums are reported, parts are put together once, the clocks agree, and how
    /// fast it is.
    Check(Box<CheckArgs>),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The store, as [disk.NAME] of the configuration calls it
    name: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs the command.
pub async fn run(args: &StoreArgs, output: &Output) -> Result<(), Failure> {
    let StoreCommand::Check(args) = &args.command;
    let what = format!("store check {}", args.name);
    args.node.text(&what)?;
    // What a node lacks to be started is no matter here.
    let (config, _) = args.node.draft(&what)?;
    let Some(store) = config.stores.iter().find(|store| store.name() == args.name) else {
        let names: Vec<&str> = config.stores.iter().map(|store| store.name()).collect();
        let there = match names.as_slice() {
            [] => "the configuration names no store".to_owned(),
            names => format!("the configuration names {}", names.join(", ")),
        };
        return Err(Failure::new(Code::Usage, "there is no such store")
            .what(what)
            .why(format!("no [disk.{}]: {there}", args.name))
            .fix("give the node's configuration with --config FILE; `epochlog config reference` explains every key"));
    };
    store.warnings().iter().for_each(|warning| output.note(warning));
    let report = check(store).await.map_err(|error| failure(&what, &error))?;
    output.outcome(report_json(&report));
    if !output.is_json() {
        output.line(report.to_string().trim_end());
    }
    match report.is_fit() {
        true => Ok(()),
        false => Err(Failure::new(Code::Refused, "the store is not fit for epochs")
            .what(what)
            .why(unfit(&report))
            .fix(
                "see the table; correct the configuration or the rules of the bucket, or take another store",
            )),
    }
}

fn unfit(report: &Report) -> String {
    let needed = report.findings.iter().filter(|found| found.probe.is_needed());
    let lacking = needed.filter(|found| matches!(found.verdict, Verdict::Lacks | Verdict::Unknown));
    lacking.map(|found| format!("{}: {}", found.probe.name(), found.detail)).collect::<Vec<_>>().join("; ")
}

fn report_json(report: &Report) -> serde_json::Value {
    let word = |verdict| match verdict {
        Verdict::Holds => "yes",
        Verdict::Lacks => "no",
        Verdict::Unknown => "unknown",
        Verdict::NotAsked => "not asked",
    };
    let findings = report.findings.iter().map(|found| {
        json!({
            "probe": found.probe.name(),
            "needed": found.probe.is_needed(),
            "verdict": word(found.verdict),
            "detail": found.detail,
        })
    });
    json!({
        "type": "summary",
        "store": report.store,
        "fit": report.is_fit(),
        "fit_for_shared_mode": report.is_fit_for_shared_mode(),
        "findings": findings.collect::<Vec<_>>(),
        "write_bytes_per_second": report.write_bytes_per_second,
        "read_bytes_per_second": report.read_bytes_per_second,
        "left": report.left,
        "took_ms": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    })
}
