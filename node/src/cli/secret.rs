//! `secret new`: what all nodes of a cluster share, and prove to each other.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use checkpoint::IoError;
use client::{Code, Failure};
use raft::Secret;
use serde_json::json;

use super::output::Output;

/// Arguments of `secret`.
#[derive(Debug, clap::Args)]
pub struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SecretCommand {
    /// Make a new secret. Copy the file to every node, readable for the node's user alone
    New(NewArgs),
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Where to write it, with rights for its owner alone; never over a file that is there [default: standard output]
    file: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &SecretArgs, output: &Output) -> Result<(), Failure> {
    let SecretCommand::New(args) = &args.command;
    let Some(file) = &args.file else {
        let text = Secret::new_text();
        output.outcome(json!({ "type": "secret", "secret": text }));
        if !output.is_json() {
            output.line(text);
        }
        return Ok(());
    };
    make(file).map_err(|error| refused(file, error))?;
    output.outcome(json!({ "type": "secret", "file": file.display().to_string() }));
    output.note(format!(
        "{} holds a new secret: copy it to every node, and start each with --secret-file",
        file.display()
    ));
    Ok(())
}

/// Writes a new secret to a new file. Where that fails there is no file.
///
/// # Errors
/// It is there already, or cannot be written.
pub fn make(file: &Path) -> io::Result<()> {
    make_with(file, |made| {
        made.write_all(format!("{}\n", Secret::new_text()).as_bytes())?;
        made.sync_all()
    })
}

fn make_with(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    write(&mut made).inspect_err(|_| {
        // Only what was made here: somebody may have put another file in its place meanwhile.
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if let (Ok(made), Ok(there)) = (made.metadata(), fs::symlink_metadata(file))
            && same(&made, &there)
        {
            // What went wrong is told; that a part of it stayed, the next try tells.
            drop(fs::remove_file(file));
        }
    })
}

fn refused(file: &Path, source: io::Error) -> Failure {
    let failure = match source.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(Code::Usage, "")
            .why(format!("{} is there already: nodes may know the secret in it", file.display()))
            .fix("use that file, or name another one"),
        _ => Failure::from_io(&IoError { path: file.to_owned(), what: "make", source }),
    };
    failure.sentence("no secret was made").what("secret new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_could_not_be_written_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let full = |made: &mut File| -> io::Result<()> {
            made.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert_eq!(make_with(&file, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        make(&file).unwrap();
        Secret::read(&file).unwrap();
        // What is not of this try stays.
        let moved = dir.path().join("moved");
        let other = |_: &mut File| -> io::Result<()> {
            fs::rename(&moved, dir.path().join("elsewhere"))?;
            fs::write(&moved, "another")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert!(make_with(&moved, other).is_err());
        assert_eq!(fs::read_to_string(&moved).unwrap(), "another");
    }

    #[test]
    fn a_secret_is_for_its_owner_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        make(&file).unwrap();
        Secret::read(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let again = make(&file).unwrap_err();
        let failure = refused(&file, again);
        assert!(failure.why.contains("is there already") && !failure.fix.is_empty(), "{failure:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        let nowhere = dir.path().join("no/such/folder");
        let failure = refused(&nowhere, make(&nowhere).unwrap_err());
        assert!(failure.code == Code::Usage && !failure.fix.is_empty(), "{failure:?}");
    }
}
