//! Payloads of log entries that do not verify while somebody waits to read them, refetched from peers; and entries that
//! nobody can have, gone around.
//!
//! **Never.** A payload waits for no epoch that is being mended: whoever needs it is a follower that gets nothing more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nativelog::record::{Body, Header};
use nativelog::shape::check_shape;
use nativelog::store::LogStore;
use tokio::sync::watch;

use super::later::Later;
use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::keeper::Keeper;
use crate::life::Life;
use crate::transfer::{TransferError, Transfers, blocking};

/// Pause between looks when nothing happened.
const LOOK: Duration = Duration::from_secs(2);

/// Mends payloads of one replica; made of the rooms that it needs.
pub(crate) struct Payloads {
    pub node: u64,
    pub log: LogStore,
    pub transfers: Arc<Transfers>,
    pub consensus: Consensus,
    pub intake: Arc<Intake>,
    pub life: Arc<Life>,
    pub keeper: Arc<Keeper>,
}

impl Payloads {
    /// Mends until this node stops.
    pub async fn run(&self) {
        tokio::join!(self.mend(), self.doubt());
    }

    async fn mend(&self) {
        let mut rotten = self.log.rotten();
        let mut later = Later::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = rotten.changed() => if changed.is_err() { return },
            }
            let bad: Vec<u64> = rotten.borrow_and_update().iter().copied().collect();
            if self.life.is_closing() {
                return;
            }
            later.keep_only(|index| bad.contains(index));
            for index in bad {
                self.one(&mut later, index).await;
            }
        }
    }

    /// Looks at own entries that others refuse, at once: nothing is committed meanwhile.
    async fn doubt(&self) {
        while !self.life.is_closing() {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.intake.heard().refusal() => {}
            }
            self.doubt_own_entry().await;
        }
    }

    /// Refetches the payload of a log entry.
    async fn one(&self, later: &mut Later<u64>, index: u64) {
        if !later.is_due(&index) {
            return;
        }
        let node = self.node;
        let why = match payload(self, index).await {
            Ok(()) => {
                tracing::info!(node, index, "the payload of a log entry was refetched and put in place");
                return;
            }
            Err(why) => why,
        };
        tracing::error!(
            node,
            index,
            why = why.to_string(),
            "the payload of a log entry does not verify and cannot be refetched yet; it is tried again"
        );
        later.failed(&index);
        // Whoever needs the entry would wait for ever: a snapshot goes around it, in which the content is owed.
        if let Unmended::Nowhere(_) = why {
            self.log.give_up(index);
            if let Err(error) = self.keeper.reclaim_now().await {
                tracing::warn!(node, index, %error, "the entry cannot be purged yet");
            }
        }
    }

    /// A majority refuses an entry of this node's for what it is. When it does not pass here either, it has changed in
    /// this node's memory or on its disk since it was checked: a log that says something else than what was proposed
    /// can promise nothing, and whoever leads next goes on without that entry. When it passes, this node hands over: not
    /// before, lest the entry is gone by the time that it is looked at.
    async fn doubt_own_entry(&self) {
        let Some((index, why)) = self.intake.heard().refused_by_majority(&self.consensus.view().voters)
        else {
            return;
        };
        let log = self.log.clone();
        let own = match blocking(move || look(&log, index)).await {
            Ok(own) => own,
            Err(error) => return tracing::warn!(index, %error, "a refused entry is not looked at yet"),
        };
        match own {
            // It was cut off: somebody else leads.
            Ok(Own::Gone) => {}
            Ok(Own::Right) => {
                if self.intake.heard().clear(index) {
                    return;
                }
                tracing::error!(
                    node = self.node,
                    index,
                    why,
                    "a majority refuses an entry that is right here"
                )
            }
            Ok(Own::Wrong(own)) => {
                self.life.fail(&format!("entry {index} of this node's log is not what was proposed: {own}"))
            }
            Err(error) => {
                if self.intake.heard().clear(index) {
                    return;
                }
                tracing::error!(node = self.node, index, why, %error, "a majority refuses an entry that cannot be read here")
            }
        }
    }
}

/// What an entry of the own log is.
enum Own {
    /// Not there.
    Gone,
    /// What its digests say.
    Right,
    /// Not that, and why.
    Wrong(String),
}

/// Looks at an entry as others get it: the bytes of its header, which are not the memory that it was made in.
fn look(log: &LogStore, index: u64) -> io::Result<Own> {
    let Some(entry) = log.headers(index..index + 1)?.pop() else { return Ok(Own::Gone) };
    let Body::Record(record) = entry.body else { return Ok(Own::Right) };
    let payload = match log.payload(index) {
        Ok(payload) => payload,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Own::Wrong(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    Ok(match Header::decode(record.header.wire()) {
        Err(error) => Own::Wrong(error.to_string()),
        Ok(sent) => match check_shape(&sent, Some(&payload))
            .and_then(|()| check_shape(&record.header, Some(&payload)))
        {
            Ok(()) => Own::Right,
            Err(error) => Own::Wrong(error.to_string()),
        },
    })
}

/// Why a payload is not mended.
#[derive(Debug, thiserror::Error)]
enum Unmended {
    /// Every live peer says that it has no good copy.
    #[error("{0}")]
    Nowhere(TransferError),
    /// Anything else.
    #[error("{0}")]
    NotYet(String),
}

fn not_yet(why: impl std::fmt::Display) -> Unmended {
    Unmended::NotYet(why.to_string())
}

async fn payload(payloads: &Payloads, index: u64) -> Result<(), Unmended> {
    let header = payloads.log.headers(index..index + 1).map_err(not_yet)?.pop();
    let entry = header.ok_or_else(|| not_yet("the entry is gone from the log"))?;
    let Body::Record(record) = &entry.body else { return Err(not_yet("the entry carries no payload")) };
    let (stop, stopped) = watch::channel(false);
    let gather = payloads.transfers.gather(stopped);
    let payload = match gather.payload(entry.id, record.header.payload_bytes).await {
        Ok(payload) => payload,
        Err(error @ TransferError::Nowhere { .. }) => return Err(Unmended::Nowhere(error)),
        Err(error) => return Err(not_yet(error)),
    };
    drop(stop);
    let log = payloads.log.clone();
    let repaired = tokio::task::spawn_blocking(move || log.repair(index, &payload)).await;
    repaired.map_err(not_yet)?.map_err(not_yet)
}
