//! `ls --open`: attempts that were begun and have not ended.

use std::time::Duration;

use client::{Client, Failure, pb};
use serde_json::json;

use super::global::Format;
use super::output::Output;
use super::screen;
use crate::units;

/// Lists the open attempts of a job, or of all.
pub async fn run(job: String, stale: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    let reply = client.attempts(pb::AttemptsRequest { job, stale }).await?;
    if reply.cut {
        output.note("there are more open attempts than one answer holds: name a job");
    }
    if output.is_json() {
        reply.attempts.iter().for_each(|attempt| output.json(&attempt_json(attempt)));
        if output.format == Format::Jsonl {
            output.outcome(json!({ "type": "summary", "attempts": reply.attempts.len() }));
        }
        return Ok(());
    }
    if reply.attempts.is_empty() {
        output.note("no attempt is open: nothing is being written, and no room is kept for anything");
        return Ok(());
    }
    let columns = ["JOB", "EPOCH", "SINCE", "BROUGHT", "OF", "HEARD", "KEPT", "ATTEMPT", "COMMIT"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    rows.extend(reply.attempts.iter().map(row));
    output.line(screen::table(&rows));
    Ok(())
}

fn row(open: &pb::OpenAttempt) -> Vec<String> {
    let ago = |ms| units::age(Duration::from_millis(ms));
    vec![
        open.job.clone(),
        open.epoch.to_string(),
        ago(open.age_ms),
        units::size(open.brought_bytes),
        units::size(open.declared_bytes),
        ago(open.silent_ms),
        units::size(open.spoken_for_bytes),
        open.attempt.to_string(),
        units::hex(&open.commit_id),
    ]
}

fn attempt_json(open: &pb::OpenAttempt) -> serde_json::Value {
    json!({
        "type": "attempt",
        "job": open.job,
        "epoch": open.epoch,
        "attempt": open.attempt,
        "commit_id": units::hex(&open.commit_id),
        "age_ms": open.age_ms,
        "silent_ms": open.silent_ms,
        "declared_bytes": open.declared_bytes,
        "brought_bytes": open.brought_bytes,
        "spoken_for_bytes": open.spoken_for_bytes,
        "entries": open.entries,
        "store": (!open.store.is_empty()).then_some(&open.store),
    })
}
