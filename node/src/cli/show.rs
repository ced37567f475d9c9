//! `show JOB[@EPOCH]`: one epoch, with its files when asked.

use std::time::Duration;

use checkpoint::RelPath;
use client::{Client, Failure, pb};
use serde_json::json;

use super::ls::{epoch_json, stored};
use super::output::Output;
use super::screen;
use super::target::Target;
use crate::units;

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// JOB, JOB@EPOCH, JOB@latest or JOB@-1
    target: Target,
    /// List the files
    #[arg(long)]
    files: bool,
    /// List everything as a tree
    #[arg(long)]
    tree: bool,
    /// Answer from the node's own knowledge, without the leader
    #[arg(long)]
    stale: bool,
}

/// Runs the command.
pub async fn run(args: &ShowArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let request = pb::ShowRequest {
        job: args.target.job.to_string(),
        which: Some(args.target.to_pb()),
        entries: args.files || args.tree,
        stale: args.stale,
        ..Default::default()
    };
    let mut reply = client.show(request).await?;
    let epoch = reply.epoch.take().unwrap_or_default();
    if output.is_json() {
        output.json(&epoch_json(&epoch, &reply.silent));
        for entry in &reply.entries {
            output.json(&entry_json(entry));
        }
        return Ok(());
    }
    output.line(screen::table(&facts(&epoch, &reply)));
    if args.tree {
        output.line("");
        reply.entries.iter().for_each(|entry| output.line(tree_line(entry)));
    } else if args.files {
        output.line("");
        let rows: Vec<_> =
            reply.entries.iter().filter(|entry| entry.kind() == pb::EntryKind::File).map(row).collect();
        output.line(screen::table(&rows));
    }
    if reply.cut {
        output.note(
            "there are more entries than one answer holds; the manifest beside the published files has all",
        );
    }
    Ok(())
}

fn facts(epoch: &pb::Epoch, reply: &pb::ShowReply) -> Vec<Vec<String>> {
    let position = epoch.position.unwrap_or_default();
    let names = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let silent = match reply.silent.is_empty() {
        true => String::new(),
        false => format!("; ? on {}", names(&reply.silent)),
    };
    let published = &epoch.published_on;
    let mut rows = vec![
        ("epoch", format!("{}@{}", epoch.job, epoch.epoch)),
        ("root", units::hex(&epoch.root)),
        ("position", format!("term {}, index {}", position.term, position.index)),
        ("size", format!("{}, {} files", units::size(epoch.bytes), epoch.files)),
        ("new", format!("{}, {} files", units::size(epoch.new_bytes), epoch.new_files)),
        ("in the log", units::size(epoch.log_bytes)),
        ("stored", stored_words(epoch)),
        ("committed", committed(epoch)),
        ("published on", format!("{} of {}: {}{silent}", published.len(), reply.voters, names(published))),
    ];
    if !epoch.flags.is_empty() {
        rows.push(("flags", epoch.flags.join(", ")));
    }
    for content in &epoch.quarantined {
        let found = content.found.iter().map(|found| format!("node {}: {}", found.node, found.what));
        let digest: String = units::hex(&content.digest).chars().take(8).collect();
        rows.push(("quarantined", format!("{digest}: {}", found.collect::<Vec<_>>().join("; "))));
    }
    rows.extend(epoch.labels.iter().map(|label| ("label", format!("{}={}", label.key, label.value))));
    rows.extend(epoch.depends_on.iter().map(|name| ("depends on", name.clone())));
    rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
}

/// Where its content lies.
fn stored_words(epoch: &pb::Epoch) -> String {
    match epoch.store.is_empty() {
        true => stored(epoch).to_owned(),
        false => format!("{}, in the store {}", stored(epoch), epoch.store),
    }
}

/// When it was sealed, and how long ago.
fn committed(epoch: &pb::Epoch) -> String {
    let age = units::age(Duration::from_millis(epoch.age_ms));
    let at = i64::try_from(epoch.sealed_wall_ms).ok().filter(|ms| *ms > 0);
    match at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
        Some(at) => format!("{} ({age} ago)", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
        None => format!("{age} ago"),
    }
}

fn path_of(entry: &pb::ManifestEntry) -> String {
    RelPath::parse(&entry.path).map_or_else(|_| "?".into(), |path| path.to_string())
}

fn row(entry: &pb::ManifestEntry) -> Vec<String> {
    let digest = units::hex(&entry.digest);
    vec![
        format!("{:04o}", entry.mode),
        units::size(entry.size),
        digest[..digest.len().min(8)].to_owned(),
        path_of(entry),
    ]
}

fn tree_line(entry: &pb::ManifestEntry) -> String {
    let path = path_of(entry);
    let depth =
        if entry.path.is_empty() { 0 } else { 1 + entry.path.iter().filter(|byte| **byte == b'/').count() };
    let name = path.rsplit('/').next().unwrap_or_default();
    let indent = "  ".repeat(depth);
    match entry.kind() {
        pb::EntryKind::Directory => format!("{indent}{name}/"),
        pb::EntryKind::Symlink => format!("{indent}{name} -> {}", checkpoint::epoch::escape(&entry.target)),
        _ => format!("{indent}{name}  {}", units::size(entry.size)),
    }
}

/// Bytes as JSON carries them, where it can; of the root and of what is no text, what people are shown.
fn text_of(bytes: &[u8], shown: &str) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() => text.to_owned(),
        _ => shown.to_owned(),
    }
}

fn entry_json(entry: &pb::ManifestEntry) -> serde_json::Value {
    let kind = match entry.kind() {
        pb::EntryKind::Directory => "directory",
        pb::EntryKind::Symlink => "symlink",
        _ => "file",
    };
    let mut value = json!({
        "type": "entry",
        "path": text_of(&entry.path, &path_of(entry)),
        "kind": kind,
        "mode": format!("{:04o}", entry.mode),
        "size": entry.size,
    });
    if entry.kind() == pb::EntryKind::File {
        value["digest"] = units::hex(&entry.digest).into();
    }
    if entry.kind() == pb::EntryKind::Symlink {
        value["target"] = text_of(&entry.target, &checkpoint::epoch::escape(&entry.target)).into();
    }
    // JSON has no bytes: what is no text is escaped, and stands beside it as it is.
    for (name, bytes) in [("path_hex", &entry.path), ("target_hex", &entry.target)] {
        if std::str::from_utf8(bytes).is_err() {
            value[name] = units::hex(bytes).into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_a_path_as_it_is_and_what_is_no_text_beside_it() {
        let of =
            |path: &'static [u8]| entry_json(&pb::ManifestEntry { path: path.into(), ..Default::default() });
        assert_eq!(of(b"a\nb\\c")["path"], "a\nb\\c");
        assert!(of(b"a").get("path_hex").is_none());
        let odd = of(b"a\xff");
        assert_eq!((&odd["path"], &odd["path_hex"]), (&"a\\xff".into(), &"61ff".into()));
        assert_eq!(of(b"")["path"], ".");
    }
}
