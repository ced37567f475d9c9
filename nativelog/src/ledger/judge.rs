//! The judges' front door: reads a record against the ledger and answers with a change or a rejection.
//! Nothing here changes the ledger; the same code serves the real step and the leader's dry run.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::{CommitId, Digest, Envelope, JobName};

use super::attempt::{Attempt, Checking, NewPage, Terms};
use super::found::Found;
use super::job::Job;
use super::outcomes::Ending;
use super::tables::Ledger;
use super::tree::Tree;
use super::verdict::{Accepted, Reason, Rejected, SealedEpoch};
use crate::record::{Header, Kind, LogId, proto};

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
    /// `replaces` is an open attempt at the same epoch whose writer has fallen silent: it ends. So do those that
    /// give way.
    Begin {
        terms: Terms,
        replaces: Option<u64>,
        gives_way: Vec<u64>,
    },
    /// With what the plan comes to so far, but for the last.
    Page {
        attempt: u64,
        page: NewPage,
        checking: Option<Box<Checking>>,
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
        digest: Digest,
        found: BTreeMap<u64, String>,
    },
    Healed {
        content: u32,
    },
    RemoveJob {
        job: JobName,
    },
}

/// A file of a pack that is new to its attempt.
pub(super) struct PackedEntry {
    pub file: u32,
    pub digest: Digest,
    pub offset: u32,
    pub len: u32,
}

/// An epoch that may be sealed.
pub(super) struct Sealing {
    /// The open attempt, or `None` when the record is the whole epoch and its own attempt.
    pub attempt: Option<u64>,
    pub terms: Terms,
    pub tree: Arc<Tree>,
    /// What a whole epoch unpacks.
    pub unpack: Vec<PackedEntry>,
    /// The answer, with the position left open.
    pub sealed: SealedEpoch,
    pub sealed_log_ms: u64,
    /// The time for people, as the epoch will have it.
    pub sealed_wall_ms: u64,
}

impl Change {
    /// What the record is answered with when it stands at `id`.
    pub fn accepted(&self, id: LogId) -> Accepted {
        match self {
            Change::Repeat { accepted, .. } => accepted.clone(),
            Change::OpenWriter { .. } => Accepted::Opened { token: id.index },
            Change::Begin { terms, .. } => {
                Accepted::Begun { attempt: id.index, epoch: terms.epoch, resumed: false, token: terms.token }
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
    pub(super) fn judge(&self, header: &Header) -> Result<Change, Rejected> {
        let payload_bytes = header.payload_bytes;
        if payload_bytes > u64::from(self.limits().chunk_bytes_max) {
            return Err(malformed("a payload has at most 4 MiB"));
        }
        let bytes = header.record_bytes();
        let kind = header.kind.as_ref().expect("a kind that is not known is a fault, found before");
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
            Kind::Tick(tick) => {
                Ok(Change::Tick { elapsed_ms: tick.elapsed_ms.min(self.limits().tick_ms_max) })
            }
            Kind::OpenWriter(open) => self.judge_open_writer(open),
            Kind::Begin(begin) => self.judge_begin(begin, header.version),
            Kind::Part(part) => self.judge_part(part),
            Kind::Chunk(chunk) => self.judge_chunk(chunk, payload_bytes),
            Kind::Pack(pack) => self.judge_pack(pack, payload_bytes),
            Kind::Zero(zero) => self.judge_zero(zero),
            Kind::Reuse(reuse) => self.judge_reuse(reuse),
            Kind::Link(_) => Err(Rejected::new(Reason::NotActive, "hybrid epochs are not in this version")),
            Kind::Seal(seal) => self.judge_seal(seal, bytes),
            Kind::Whole(whole) => self.judge_whole(whole, header, bytes),
            Kind::Abort(abort) => self.judge_abort(abort),
            Kind::Pin(pin) => self.judge_pin(pin),
            Kind::Unpin(unpin) => self.judge_unpin(unpin),
            Kind::Expire(expire) => self.judge_expire(expire),
            Kind::Quarantine(quarantine) => self.judge_quarantine(quarantine),
            Kind::Healed(healed) => self.judge_healed(healed),
            Kind::RemoveJob(remove) => self.judge_remove_job(remove),
        }
    }

    fn judge_genesis(&self, genesis: &proto::Genesis) -> Result<Change, Rejected> {
        let cluster = sixteen(&genesis.cluster, "a cluster uuid is 16 bytes")?;
        if genesis.members.is_empty() || genesis.members.len() > self.limits().members_max {
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
            None if self.members.len() >= self.limits().members_max => {
                Err(Rejected::new(Reason::Quota, "the cluster has had 1024 nodes"))
            }
            None => Ok(Change::Join { node: member.node, incarnation }),
        }
    }

    fn judge_open_writer(&self, open: &proto::OpenWriter) -> Result<Change, Rejected> {
        let job = job_name(&open.job)?;
        let commit = commit_id(&open.commit_id)?;
        match self.found(&job, &commit, open.born)? {
            Some(Found::Writer { token }) => return Ok(repeat(Accepted::Opened { token })),
            Some(Found::JobRemoved) => return Err(job_removed()),
            Some(Found::Open(..) | Found::Sealed { .. } | Found::Lapsed) => {
                return Err(Rejected::new(Reason::Conflict, "this commit id belongs to an attempt"));
            }
            None => {}
        }
        if !self.jobs.contains_key(&job) {
            self.judge_new_job()?;
        }
        Ok(Change::OpenWriter { job, commit })
    }

    pub(super) fn judge_new_job(&self) -> Result<(), Rejected> {
        if self.jobs.len() >= self.limits().jobs_max {
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
        let Some(outcome) = self.outcomes.of_attempt(id) else {
            return Err(self.no_attempt(id));
        };
        let job = self.names.get(&outcome.job).map(|name| self.known_job(name));
        Err(match outcome.how {
            Ending::Sealed { root, .. } => {
                Rejected::new(Reason::Ended, "the attempt is sealed").root(root).position(outcome.end)
            }
            Ending::Aborted => Rejected::new(Reason::Ended, "the attempt was aborted"),
            Ending::Subsumed { by } => {
                Rejected::new(Reason::Subsumed, format!("epoch {by} of the job was sealed first"))
                    .current(job.and_then(|job| job.mark).unwrap_or(by))
            }
            Ending::Fenced | Ending::Writer => fenced(job.map_or(outcome.end.index, |job| job.token)),
            Ending::Replaced => {
                let detail = "the attempt was silent, and another commit began the epoch anew";
                Rejected::new(Reason::Ended, detail)
            }
            Ending::GaveWay => {
                let detail = "the attempt was silent for minutes, and another one needed its room";
                Rejected::new(Reason::Ended, detail)
            }
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

pub(super) fn job_removed() -> Rejected {
    Rejected::new(Reason::Ended, "the job was removed since this commit was first tried")
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
