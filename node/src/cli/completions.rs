//! `completions SHELL`: the script that completes `epochlog` on the command line.

use client::Failure;

use super::output::Output;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// For which shell; e.g. `epochlog completions bash > /etc/bash_completion.d/epochlog`
    shell: clap_complete::Shell,
}

/// Prints the script for `command`, which is all of `epochlog`.
pub fn run(args: &CompletionsArgs, mut command: clap::Command, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "epochlog", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
