//! The judges' front door: reads a record against the ledger and answers with a change or a rejection.
//! Nothing here changes the ledger; the same code serves the real step and the leader's dry run.
//!
//! It judges who belongs to the cluster, and hands all else to the files that do: `judge_writer.rs`, `judge_begin.rs`,
//! `judge_pieces.rs`, `judge_link.rs`, `judge_seal.rs`, `judge_retention.rs`, `judge_quarantine.rs`, `judge_stores.rs`. None of them comes back here.

use super::change::{Change, repeat};
use super::fields::{malformed, sixteen};
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::{Header, Kind, proto};

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
            Kind::Link(link) => self.judge_link(link, header.version),
            Kind::Seal(seal) => self.judge_seal(seal, header.version, bytes),
            Kind::Whole(whole) => self.judge_whole(whole, header, bytes),
            Kind::Abort(abort) => self.judge_abort(abort),
            Kind::Pin(pin) => self.judge_pin(pin),
            Kind::Unpin(unpin) => self.judge_unpin(unpin),
            Kind::Expire(expire) => self.judge_expire(expire),
            Kind::Quarantine(quarantine) => self.judge_quarantine(quarantine, header.version),
            Kind::Healed(healed) => self.judge_healed(healed),
            Kind::RemoveJob(remove) => self.judge_remove_job(remove),
            Kind::Store(store) => self.judge_store(store, header.version),
            Kind::DeleteBatch(batch) => self.judge_delete_batch(batch, header.version),
            Kind::Deleted(deleted) => self.judge_deleted(deleted, header.version),
            Kind::Rehome(rehome) => self.judge_rehome(rehome, header.version),
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
}
