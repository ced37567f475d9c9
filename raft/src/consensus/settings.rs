//! What a replica's settings mean for openraft.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::config::{ReplicaConfig, Timers};

/// openraft's settings.
///
/// # Errors
/// Times that do not fit together, in words.
pub(crate) fn settings(config: &ReplicaConfig) -> Result<Config, String> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let timers = Timers::of(config.heartbeat, config.election_timeout).ok_or_else(|| {
        let (least, most) = config.election_timeout;
        format!(
            "an election timeout of {least:?} to {most:?} and a heartbeat every {:?}: the upper bound must be at \
             least six heartbeats",
            config.heartbeat
        )
    })?;
    let config = Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: ms(config.heartbeat),
        election_timeout_min: ms(timers.timer),
        election_timeout_max: ms(timers.lease),
        // A record may be 4 MiB: batches are bounded in bytes (1 MiB per request), these only
        // keep the number of entries per request and per append small.
        max_payload_entries: 64,
        max_append_entries: Some(16),
        api_channel_size: Some(1024),
        // openraft waits, with everything, while this is full: one step of the commit index is one message.
        state_machine_channel_size: Some(65_536),
        // The keeper takes snapshots and purges; openraft does neither on its own.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // In this version it only says whether `add_learner` has to wait; a snapshot goes to a follower when
        // entries that it needs are purged, and for no other reason.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 30_000,
        enable_pre_vote: Some(true),
        broadcast_submitted_on_append: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_never_purge() {
        let config = settings(&ReplicaConfig::new(1, [0; 16], "c", vec![])).unwrap();
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(config.max_in_snapshot_log_to_keep, u64::MAX);
        assert_eq!(config.enable_pre_vote, Some(true));
    }

    /// Each step of the commit index is a message, and a step is an fsync of a majority at least.
    #[test]
    fn a_ledger_may_be_busy_for_a_while_before_consensus_waits_for_it() {
        const STEPS_A_SECOND: u64 = 4000;
        const SECONDS: u64 = 16;
        let config = settings(&ReplicaConfig::new(1, [0; 16], "c", vec![])).unwrap();
        assert!(config.state_machine_channel_size >= Some(STEPS_A_SECOND * SECONDS));
    }

    #[test]
    fn an_election_faster_than_the_heartbeat_is_refused() {
        let mut config = ReplicaConfig::new(1, [0; 16], "c", vec![]);
        config.election_timeout = (Duration::from_millis(100), Duration::from_millis(200));
        assert!(settings(&config).is_err());
    }
}
