//! Finding out what a store really keeps, within half a minute (a folder: 75 s). Documents and brands say little: some
//! stores ignore conditions, some serve the whole object for a range, some report nothing.
//!
//! All of it happens below `<prefix>/epochlog-check/<nonce>/`, which no listing takes for ours, and is removed at the
//! end.

mod probes;
mod report;
mod scratch;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::limits::Limits;
use crate::store::Store;
use scratch::{Answer, Scratch};

pub use report::{Finding, Probe, Report, Verdict};

/// How long the probes may take, without those of a folder.
const TIME: Duration = Duration::from_secs(26);
/// How long those of a folder may take.
const FOLDER_TIME: Duration = Duration::from_secs(71);
/// How long removing what was written may take besides.
const CLEANING_TIME: Duration = Duration::from_secs(3);
/// Creates of one key at once.
const RACERS: usize = 16;

/// Finds out what the store of this configuration keeps. Takes at most 30 s, of a folder 75 s. Writes some 80 MiB there
/// and removes it.
///
/// # Errors
/// `Configuration`. All else is a finding.
pub async fn check(config: &StoreConfig) -> Result<Report, StoreError> {
    let store = Store::open(config, limits())?;
    Ok(check_store(&store, format!("store {:?} at {}", config.name(), config.place())).await)
}

// Shorter than for work: what does not answer soon is a finding.
pub(crate) fn limits() -> Limits {
    Limits {
        quiet: Duration::from_secs(5),
        unanswered: Duration::from_secs(6),
        busy: Duration::from_secs(6),
        retry_after_max: Duration::from_secs(3),
        requests: RACERS,
        ..Limits::default()
    }
}

pub(crate) async fn check_store(store: &Store, name: String) -> Report {
    let begun = Instant::now();
    let folder = store.is_folder();
    let deadline = begun + if folder { FOLDER_TIME } else { TIME };
    let scratch = Scratch::new(store);
    let mut findings = Vec::new();
    let (mut write_bytes_per_second, mut read_bytes_per_second) = (None, None);

    let access = match store.is_for_reading() {
        true => within(deadline, probes::reads(&scratch)).await,
        false => within(deadline, probes::access(&scratch)).await,
    };
    let go_on = access.0 == Verdict::Holds && !store.is_for_reading();
    let kept = match go_on && folder {
        true => probes::keep(&scratch).await.ok(),
        false => None,
    };
    for probe in Probe::ALL {
        let (verdict, detail) = match probe {
            Probe::Access => access.clone(),
            _ if store.is_for_reading() => (Verdict::NotAsked, "plain HTTP is for reading".into()),
            _ if !go_on => (Verdict::Unknown, "not asked: what was written cannot be read".into()),
            Probe::Create => within(deadline, probes::create(&scratch)).await,
            Probe::CreateRaced => within(deadline, probes::create_raced(&scratch, RACERS)).await,
            Probe::Ranges => within(deadline, probes::ranges(&scratch)).await,
            Probe::Lists => within(deadline, probes::lists(&scratch)).await,
            Probe::Clock => within(deadline, probes::clock(&scratch)).await,
            Probe::Writes => within(deadline, probes::writes(&scratch, &mut write_bytes_per_second)).await,
            Probe::Reads => within(deadline, probes::reads_back(&scratch, &mut read_bytes_per_second)).await,
            Probe::Keeps if folder => within(deadline, probes::keeps(&scratch, kept.as_ref())).await,
            Probe::Keeps => (Verdict::NotAsked, "of a folder".into()),
            _ if folder => (Verdict::NotAsked, "of a bucket".into()),
            Probe::Refuses => within(deadline, probes::refuses(&scratch)).await,
            Probe::Reports => within(deadline, probes::reports(&scratch)).await,
            Probe::Parts => within(deadline, probes::parts(&scratch)).await,
            Probe::LateComplete => within(deadline, probes::late_complete(&scratch)).await,
            Probe::ReportsWhole => within(deadline, probes::reports_whole(&scratch)).await,
            Probe::Uploads => within(deadline, probes::uploads(&scratch)).await,
            Probe::DeletesMany => within(deadline, probes::deletes_many(&scratch)).await,
        };
        findings.push(Finding { probe, verdict, detail });
    }
    let cleaned = timeout_at(Instant::now() + CLEANING_TIME, scratch.clean()).await;
    let left =
        (!matches!(cleaned, Ok(true)) && !store.is_for_reading()).then(|| scratch.folder().to_string());
    Report {
        store: name,
        findings,
        write_bytes_per_second,
        read_bytes_per_second,
        left,
        took: begun.elapsed(),
    }
}

async fn within(deadline: Instant, probe: impl Future<Output = Answer>) -> (Verdict, String) {
    match timeout_at(deadline, probe).await {
        Ok(Ok(found)) => found,
        Ok(Err(failure)) => (Verdict::Unknown, failure.why),
        Err(_) => (Verdict::Unknown, "no time was left".into()),
    }
}
