//! Every limit that decides a verdict or what the ledger keeps, by version of the rules.
//!
//! **Guarantees.** Replicas of one version judge by the same numbers, whatever else changed in their binaries.
//! A number changes only with a new version, which holds from its Activate on; `tests/scripts/` has the numbers of
//! each version, and the stories are told under each.
//!
//! **Never** does a judge look at a limit elsewhere. The few that are part of a type's very form (paths, names,
//! the unit of digest trees) are fixed below: whoever changes them finds that this file does not compile.

use checkpoint::{Limits, limits};

use crate::record;

/// The highest version of the rules that this binary knows.
pub const RULES_VERSION_MAX: u32 = 4;
/// The version that every ledger starts under. Those before it were never used by a cluster that lived.
pub const RULES_VERSION_FIRST: u32 = 3;
/// Most milliseconds that one tick adds to log time.
pub const TICK_MS_MAX: u64 = NEWEST.tick_ms_max;
/// Outcomes that a cluster remembers, at most.
pub const OUTCOMES_MAX: usize = NEWEST.outcomes_max;
/// Log time for which an outcome is remembered while there is room, in milliseconds.
pub const OUTCOME_KEPT_MS: u64 = NEWEST.outcome_kept_ms;

const NEWEST: &Rules = &V4;

/// The limits of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Jobs that a cluster keeps.
    pub jobs_max: usize,
    /// Nodes that a cluster ever had.
    pub members_max: usize,
    /// Milliseconds that one tick adds to log time.
    pub tick_ms_max: u64,
    /// Outcomes that one tick forgets, and pins that it drops.
    pub ended_per_tick_max: usize,
    /// Outcomes that a cluster remembers.
    pub outcomes_max: usize,
    /// Log time for which an outcome is remembered while there is room, in milliseconds.
    pub outcome_kept_ms: u64,
    /// Open attempts of one job.
    pub attempts_open_max: usize,
    /// Entries in the plans of one job's open attempts.
    pub planned_of_job_max: u64,
    /// Entries in the plans of all open attempts: each takes memory on every node.
    pub planned_max: u64,
    /// Log time without a record of an attempt after which it ends when another one needs its room, milliseconds.
    pub gives_way_ms: u64,
    /// Log time without a record of an attempt after which another commit may take its epoch, milliseconds.
    pub writer_silent_ms: u64,
    /// Chunks of an attempt: they are kept in memory until it ends.
    pub ranges_max: u64,
    /// Labels of an epoch.
    pub labels_max: usize,
    /// Bytes of a label's key, of its value, and of the name of a dependency.
    pub label_bytes_max: usize,
    /// Dependencies of an epoch.
    pub depends_on_max: usize,
    /// What a plan may hold: entries, bytes, depth.
    pub plan: Limits,
    /// Entries that a page of a plan has on the average, but for the last: every page takes memory on every node.
    pub page_entries_min: u32,
    /// Smallest chunk size of an attempt, bytes.
    pub chunk_bytes_min: u32,
    /// Largest chunk size of an attempt, and largest payload of any record, bytes.
    pub chunk_bytes_max: u32,
    /// Largest payload of a pack, bytes.
    pub pack_bytes_max: u64,
    /// Files of a pack.
    pub pack_files_max: usize,
    /// Longest run of zeros in one record, bytes.
    pub zero_bytes_max: u64,
    /// Files of one reuse.
    pub reuse_files_max: usize,
    /// Largest payload of an epoch in one record, bytes.
    pub whole_bytes_max: u64,
    /// Entries of an epoch in one record.
    pub whole_entries_max: usize,
    /// Longest reason of a record, bytes.
    pub reason_bytes_max: usize,
    /// Longest owner of a pin, bytes.
    pub owner_bytes_max: usize,
    /// Pins of one epoch that hold at the same time.
    pub pins_max: usize,
    /// Epochs that one record expires.
    pub expire_epochs_max: usize,
    /// Nodes that one expiry names.
    pub published_on_max: usize,
    /// Nodes that a quarantine, or the end of one, names.
    pub findings_max: usize,
    /// Longest finding of a node, bytes.
    pub finding_bytes_max: usize,
    /// Of object stores; versions before 4 take no record that knows of them.
    pub stores: Option<StoreRules>,
}

/// The limits of object stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRules {
    /// Stores that a cluster has had.
    pub stores_max: usize,
    /// Longest name of a store, bytes.
    pub store_name_bytes_max: usize,
    /// Files of one link.
    pub link_files_max: usize,
    /// Objects of one attempt: they are kept in memory for as long as they are referred to.
    pub objects_of_attempt_max: usize,
    /// Longest object, bytes.
    pub object_bytes_max: u64,
    /// Objects that one record says are deleted.
    pub deleted_per_record_max: usize,
    /// Objects of one store that are released and not said to be deleted, from which on no attempt begins there.
    pub released_max: usize,
    /// Objects of all stores, held or released, from which on no attempt begins in any: each has a row on every node. An
    /// attempt that is open may still name as many as it may.
    pub objects_max: usize,
}

/// The rules since which there are object stores.
pub const STORES_RULES: u32 = 4;

const V3: Rules = Rules {
    jobs_max: 1_000_000,
    members_max: 1024,
    tick_ms_max: 60_000,
    ended_per_tick_max: 4096,
    outcomes_max: 1 << 18,
    outcome_kept_ms: 24 * 3600 * 1000,
    attempts_open_max: 64,
    planned_of_job_max: 1_000_000,
    planned_max: 4_000_000,
    gives_way_ms: 300_000,
    writer_silent_ms: 30_000,
    ranges_max: 1 << 22,
    labels_max: 256,
    label_bytes_max: 4096,
    depends_on_max: 64,
    plan: Limits { files_max: 1_000_000, bytes_max: 1 << 40, depth_max: 512 },
    page_entries_min: 32,
    chunk_bytes_min: 64 << 10,
    chunk_bytes_max: 4 << 20,
    pack_bytes_max: 1 << 20,
    pack_files_max: 4096,
    zero_bytes_max: 64 << 20,
    reuse_files_max: 1024,
    whole_bytes_max: 64 << 10,
    whole_entries_max: 64,
    reason_bytes_max: 1024,
    owner_bytes_max: 128,
    pins_max: 64,
    expire_epochs_max: 4096,
    published_on_max: 1024,
    findings_max: 1024,
    finding_bytes_max: 256,
    stores: None,
};

const V4: Rules = Rules { stores: Some(V4_STORES), ..V3 };
const V4_STORES: StoreRules = StoreRules {
    stores_max: 64,
    store_name_bytes_max: 64,
    link_files_max: 1024,
    objects_of_attempt_max: 1 << 16,
    object_bytes_max: 5 << 40,
    deleted_per_record_max: 4096,
    released_max: 1_000_000,
    objects_max: 1 << 22,
};

/// Part of what a path, a name, an entry or a digest tree is: they judge records, and stand in types of `checkpoint`
/// that know no version. To change one takes a version under which the old value is still judged.
const _: () = {
    assert!(limits::PATH_BYTES_MAX == 3072);
    assert!(limits::COMPONENT_BYTES_MAX == 255);
    assert!(limits::DEPTH_MAX == 512);
    assert!(limits::TARGET_BYTES_MAX == 4095);
    assert!(limits::JOB_NAME_BYTES_MAX == 128);
    assert!(limits::MODE_MAX == 0o777);
    assert!(limits::FILE_BYTES_MAX == 1 << 50);
    assert!(limits::CHUNK_BYTES_MIN == 64 << 10);
};

/// What composes and checks records at the door knows the newest version only: it may be tighter, never looser.
const _: () = {
    // As long as an entry can be, with kind, mode and lengths.
    let entry_bytes = limits::PATH_BYTES_MAX + limits::TARGET_BYTES_MAX + 7;
    assert!(limits::PART_BYTES_MAX / entry_bytes > NEWEST.page_entries_min as usize);
    assert!(limits::CHUNK_BYTES_MAX <= NEWEST.chunk_bytes_max);
    assert!(limits::PACK_BYTES_MAX as u64 <= NEWEST.pack_bytes_max);
    assert!(limits::PACK_FILES_MAX <= NEWEST.pack_files_max);
    assert!(limits::ZERO_BYTES_MAX <= NEWEST.zero_bytes_max);
    assert!(limits::REUSE_FILES_MAX <= NEWEST.reuse_files_max);
    assert!(limits::WHOLE_BYTES_MAX <= NEWEST.whole_bytes_max);
    assert!(limits::WHOLE_ENTRIES_MAX <= NEWEST.whole_entries_max);
    assert!(record::STORE_NAME_BYTES_MAX <= V4_STORES.store_name_bytes_max);
    assert!(record::LINK_FILES_MAX <= V4_STORES.link_files_max);
    assert!(record::OBJECT_BYTES_MAX <= V4_STORES.object_bytes_max);
    assert!(record::DELETED_MAX <= V4_STORES.deleted_per_record_max);
};

impl Rules {
    /// The limits of a version; `None` of one that this binary does not know.
    pub const fn of(version: u32) -> Option<&'static Rules> {
        match version {
            3 => Some(&V3),
            4 => Some(&V4),
            _ => None,
        }
    }
}
