//! The judges' front door: reads a record against the ledger and answers with a change or a rejection.
//! Nothing here changes the ledger; the same code serves the real step and the leader's dry run.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::limits::CHUNK_BYTES_MAX;
use checkpoint::plan::PlanChecker;
use checkpoint::{CommitId, Digest, Envelope, JobName, Manifest, PlanEntry, RelPath, store::Source};

use super::attempt::{Attempt, Terms};
use super::job::{Ending, Job, Outcome};
use super::verdict::{Accepted, Reason, Rejected, SealedEpoch};
use super::{Ledger, TICK_MS_MAX};
use crate::record::{Kind, LogId, Record, header_and_payload_bytes, proto};

/// Jobs that a cluster keeps at most.
pub(super) const JOBS_MAX: usize = 1_000_000;
/// Nodes that a cluster ever had, at most.
pub(super) const MEMBERS_MAX: usize = 1024;

/// A record that was judged good, with everything worked out that applying it needs.
pub(super) enum Change {
    /// The record repeats what holds already; when it names an open attempt, its bytes count there.
    Repeat {
        accepted: Accepted,
        attempt: Option<u64>,
    },
    Genesis {
        cluster: [u8; 16],
        members: Vec<(u64, [u8; 16])>,
    },
    Join {
        node: u64,
        incarnation: [u8; 16],
    },
    Activate {
        version: u32,
    },
    Tick {
        elapsed_ms: u64,
    },
    OpenWriter {
        job: JobName,
        commit: CommitId,
    },
    Begin {
        terms: Terms,
    },
    /// The attempt was open already; this commit id leads to it from now on.
    Resume {
        attempt: u64,
        epoch: u64,
        token: u64,
        commit: CommitId,
    },
    Page {
        attempt: u64,
        entries: Vec<PlanEntry>,
        checker: Box<PlanChecker>,
    },
    Range {
        attempt: u64,
        file: u32,
        offset: u64,
        len: u64,
        digest: Digest,
    },
    Pack {
        attempt: u64,
        files: Vec<PackedEntry>,
    },
    /// File, its digest, id of the content.
    Reuse {
        attempt: u64,
        files: Vec<(u32, Digest, u32)>,
    },
    Seal(Box<Sealing>),
    Abort {
        attempt: u64,
    },
    Pin {
        job: JobName,
        epoch: u64,
        owner: String,
        reason: String,
        until_ms: Option<u64>,
    },
    Unpin {
        job: JobName,
        epoch: u64,
        owner: String,
    },
    Expire {
        job: JobName,
        epochs: Vec<u64>,
    },
    Quarantine {
        content: u32,
        found: BTreeMap<u64, String>,
    },
    Healed {
        content: u32,
    },
}

/// A file of a pack that is new to its attempt.
pub(super) struct PackedEntry {
    pub file: u32,
    pub digest: Digest,
    pub path: RelPath,
    pub mode: u32,
    pub offset: u32,
    pub len: u32,
}

/// An epoch that may be sealed.
pub(super) struct Sealing {
    /// The open attempt, or `None` when the record is the whole epoch and its own attempt.
    pub attempt: Option<u64>,
    pub terms: Terms,
    pub manifest: Arc<Manifest>,
    pub sources: Arc<Vec<Source>>,
    /// Distinct content of the epoch and its length in bytes, ascending.
    pub content: Vec<(Digest, u64)>,
    /// What a whole epoch unpacks.
    pub unpack: Vec<PackedEntry>,
    /// The answer, with the position left open.
    pub sealed: SealedEpoch,
    pub sealed_log_ms: u64,
}

impl Change {
    /// What the record is answered with when it stands at `id`.
    pub fn accepted(&self, id: LogId) -> Accepted {
        match self {
            Change::Repeat { accepted, .. } => accepted.clone(),
            Change::OpenWriter { .. } => Accepted::Opened { token: id.index },
            Change::Begin { terms } => {
                Accepted::Begun { attempt: id.index, epoch: terms.epoch, resumed: false, token: terms.token }
            }
            Change::Resume { attempt, epoch, token, .. } => {
                Accepted::Begun { attempt: *attempt, epoch: *epoch, resumed: true, token: *token }
            }
            Change::Seal(sealing) => Accepted::Sealed(sealing.answer(id)),
            _ => Accepted::Done,
        }
    }
}

impl Sealing {
    pub fn answer(&self, id: LogId) -> SealedEpoch {
        let attempt = self.attempt.unwrap_or(id.index);
        SealedEpoch { position: id, attempt, ..self.sealed.clone() }
    }

    pub fn envelope(&self, sealed: &SealedEpoch) -> Envelope {
        Envelope {
            job: sealed.job.clone(),
            epoch: sealed.epoch,
            attempt: sealed.attempt,
            position: checkpoint::Position {
                term: sealed.position.term,
                node: sealed.position.node,
                index: sealed.position.index,
            },
            root: sealed.root,
            labels: self.terms.labels.clone(),
            depends_on: self.terms.depends_on.clone(),
            base: self.terms.base,
            sealed_log_ms: self.sealed_log_ms,
        }
    }
}

impl Ledger {
    /// Judges one record. Never changes anything.
    pub(super) fn judge(&self, header: &Record) -> Result<Change, Rejected> {
        let payload_bytes = header.payload_bytes;
        if payload_bytes > u64::from(CHUNK_BYTES_MAX) {
            return Err(malformed("a payload has at most 4 MiB"));
        }
        let bytes = header_and_payload_bytes(header);
        let kind = header.kind.as_ref().ok_or_else(|| malformed("a record of no known kind"))?;
        if payload_bytes > 0 && !matches!(kind, Kind::Chunk(_) | Kind::Pack(_) | Kind::Whole(_)) {
            return Err(malformed("this kind of record carries no payload"));
        }
        match kind {
            Kind::Genesis(genesis) => self.judge_genesis(genesis),
            Kind::Join(join) => self.judge_join(join),
            Kind::Activate(activate) => Ok(if activate.version > self.rules {
                Change::Activate { version: activate.version }
            } else {
                repeat(Accepted::Done)
            }),
            Kind::Tick(tick) => Ok(Change::Tick { elapsed_ms: tick.elapsed_ms.min(TICK_MS_MAX) }),
            Kind::OpenWriter(open) => self.judge_open_writer(open),
            Kind::Begin(begin) => self.judge_begin(begin),
            Kind::Part(part) => self.judge_part(part),
            Kind::Chunk(chunk) => self.judge_chunk(chunk, payload_bytes),
            Kind::Pack(pack) => self.judge_pack(pack, payload_bytes),
            Kind::Zero(zero) => self.judge_zero(zero),
            Kind::Reuse(reuse) => self.judge_reuse(reuse),
            Kind::Link(_) if self.rules < 2 => {
                Err(Rejected::new(Reason::NotActive, "linked files need the rules of version 2"))
            }
            Kind::Link(_) => Err(Rejected::new(Reason::NotActive, "hybrid epochs are not in this version")),
            Kind::Seal(seal) => self.judge_seal(seal, bytes),
            Kind::Whole(whole) => self.judge_whole(whole, payload_bytes, bytes),
            Kind::Abort(abort) => self.judge_abort(abort),
            Kind::Pin(pin) => self.judge_pin(pin),
            Kind::Unpin(unpin) => self.judge_unpin(unpin),
            Kind::Expire(expire) => self.judge_expire(expire),
            Kind::Quarantine(quarantine) => self.judge_quarantine(quarantine),
            Kind::Healed(healed) => self.judge_healed(healed),
        }
    }

    fn judge_genesis(&self, genesis: &proto::Genesis) -> Result<Change, Rejected> {
        let cluster = sixteen(&genesis.cluster, "a cluster uuid is 16 bytes")?;
        if genesis.members.is_empty() || genesis.members.len() > MEMBERS_MAX {
            return Err(malformed("a cluster has 1 to 1024 first members"));
        }
        let mut members = std::collections::BTreeMap::new();
        for member in &genesis.members {
            let incarnation = sixteen(&member.incarnation, "an incarnation is 16 bytes")?;
            if members.insert(member.node, incarnation).is_some() {
                return Err(malformed("a node is named twice"));
            }
        }
        match self.cluster {
            None => Ok(Change::Genesis { cluster, members: members.into_iter().collect() }),
            Some(there) if there != cluster => {
                Err(Rejected::new(Reason::Identity, "the log belongs to another cluster"))
            }
            Some(_) if members.iter().any(|(node, inc)| self.members.get(node) != Some(inc)) => {
                Err(Rejected::new(Reason::Identity, "the first members had other incarnations"))
            }
            Some(_) => Ok(repeat(Accepted::Done)),
        }
    }

    fn judge_join(&self, join: &proto::Join) -> Result<Change, Rejected> {
        let member = join.member.as_ref().ok_or_else(|| malformed("a join without a member"))?;
        let incarnation = sixteen(&member.incarnation, "an incarnation is 16 bytes")?;
        if self.cluster.is_none() {
            return Err(Rejected::new(Reason::Identity, "the cluster has no identity yet"));
        }
        match self.members.get(&member.node) {
            Some(there) if *there == incarnation => Ok(repeat(Accepted::Done)),
            Some(_) => {
                let detail = format!("node {} is known with another data folder than this one", member.node);
                Err(Rejected::new(Reason::Identity, detail).current(member.node))
            }
            None if self.members.len() >= MEMBERS_MAX => {
                Err(Rejected::new(Reason::Quota, "the cluster has had 1024 nodes"))
            }
            None => Ok(Change::Join { node: member.node, incarnation }),
        }
    }

    fn judge_open_writer(&self, open: &proto::OpenWriter) -> Result<Change, Rejected> {
        let job = job_name(&open.job)?;
        let commit = commit_id(&open.commit_id)?;
        match self.jobs.get(&job) {
            None => self.judge_new_job()?,
            Some(known) => match known.commits.get(&commit) {
                Some(Outcome::Writer { token }) => return Ok(repeat(Accepted::Opened { token })),
                Some(Outcome::Attempt { id }) => {
                    let detail = "this commit id belongs to an attempt";
                    return Err(Rejected::new(Reason::Conflict, detail).current(id));
                }
                None => {}
            },
        }
        Ok(Change::OpenWriter { job, commit })
    }

    pub(super) fn judge_new_job(&self) -> Result<(), Rejected> {
        if self.jobs.len() >= JOBS_MAX {
            return Err(Rejected::new(Reason::Quota, "the cluster has 1,000,000 jobs"));
        }
        Ok(())
    }

    /// The open attempt that a record names.
    pub(super) fn open_attempt(&self, id: u64) -> Result<&Attempt, Rejected> {
        if let Some(attempt) = self.open.get(&id) {
            assert_eq!(
                attempt.terms.token,
                self.known_job(&attempt.terms.job).token,
                "a newer writer ends attempts"
            );
            return Ok(attempt);
        }
        let Some(ended) = self.ended.get(&id) else {
            return Err(Rejected::new(Reason::NotFound, format!("no attempt {id}")));
        };
        let job = self.known_job(&ended.job);
        Err(match &ended.how {
            Ending::Sealed { sealed, .. } => Rejected::new(Reason::Ended, "the attempt is sealed")
                .root(sealed.root)
                .position(sealed.position),
            Ending::Aborted => Rejected::new(Reason::Ended, "the attempt was aborted"),
            Ending::Subsumed { by } => {
                Rejected::new(Reason::Subsumed, format!("epoch {by} of the job was sealed first"))
                    .current(job.mark.unwrap_or(0))
            }
            Ending::Fenced => fenced(job.token),
        })
    }

    /// The job of an attempt or epoch that the ledger knows.
    pub(super) fn known_job(&self, name: &JobName) -> &Job {
        self.jobs.get(name).expect("attempts and epochs belong to jobs that are there")
    }
}

pub(super) fn repeat(accepted: Accepted) -> Change {
    Change::Repeat { accepted, attempt: None }
}

pub(super) fn malformed(detail: impl Into<String>) -> Rejected {
    Rejected::new(Reason::Malformed, detail)
}

pub(super) fn fenced(current: u64) -> Rejected {
    Rejected::new(Reason::Fenced, "a newer writer holds the job").current(current)
}

pub(super) fn job_name(name: &str) -> Result<JobName, Rejected> {
    JobName::try_from(name).map_err(|error| malformed(error.to_string()))
}

pub(super) fn commit_id(bytes: &[u8]) -> Result<CommitId, Rejected> {
    CommitId::from_slice(bytes).ok_or_else(|| malformed("a commit id is 16 bytes"))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, Rejected> {
    Digest::from_slice(bytes).ok_or_else(|| malformed("a digest is 32 bytes"))
}

fn sixteen(bytes: &[u8], why: &str) -> Result<[u8; 16], Rejected> {
    bytes.try_into().map_err(|_| malformed(why))
}
