//! `digest DIR`: the root of any directory, without a cluster.

use std::path::PathBuf;

use checkpoint::split::DigestDirError;
use checkpoint::{Choice, Pattern};
use client::{Certainty, Failure, wire};
use serde_json::json;

use super::output::Output;
use super::restore::parse_pattern;
use crate::units;

/// Arguments of `digest`.
#[derive(Debug, clap::Args)]
pub struct DigestArgs {
    /// The directory
    dir: PathBuf,
    /// Only entries that match, as in `commit`; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = parse_pattern)]
    include: Vec<Pattern>,
    /// No entry that matches, as in `commit`; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = parse_pattern)]
    exclude: Vec<Pattern>,
}

/// Runs the command.
pub async fn run(args: &DigestArgs, output: &Output) -> Result<(), Failure> {
    let choice = Choice { include: args.include.clone(), exclude: args.exclude.clone() };
    let manifest = of_chosen(args.dir.clone(), choice).await?;
    let root = manifest.root();
    let files = manifest.entries.iter().filter(|entry| entry.kind == checkpoint::EntryKind::File).count();
    let bytes: u64 = manifest.entries.iter().map(|entry| entry.size).sum();
    if output.is_json() {
        output.outcome(json!({
            "type": "summary", "root": root.to_string(), "files": files, "bytes": bytes,
            "entries": manifest.entries.len(),
        }));
    } else {
        output.line(format!("{root}  {}, {files} files", units::size(bytes)));
    }
    Ok(())
}

/// The manifest of a directory as it is on disk now.
pub async fn of_directory(dir: PathBuf) -> Result<checkpoint::Manifest, Failure> {
    of_chosen(dir, Choice::default()).await
}

async fn of_chosen(dir: PathBuf, choice: Choice) -> Result<checkpoint::Manifest, Failure> {
    let shown = dir.display().to_string();
    let walked = tokio::task::spawn_blocking(move || {
        checkpoint::split::digest_chosen(&dir, &checkpoint::Limits::default(), &choice)
    })
    .await;
    walked.expect("a walk does not panic").map_err(|error| {
        let what = format!("digest {shown}");
        // The same causes, codes and advice as of a commit, which would read it in the same way.
        let failure = match &error {
            DigestDirError::Plan(error) => wire::plan_failure(&what, error),
            DigestDirError::Split(error) => wire::split_failure(&what, error),
        };
        failure.sentence("the directory has no digest").committed(Certainty::None)
    })
}
