//! Single records, proposed until there is an answer or the time without progress is over.

use std::time::{Duration, Instant};

use client::Failure;
use nativelog::ledger::{Accepted, SealedEpoch, Verdict};
use nativelog::record::{LogId, LogRecord};
use raft::ProposeError;

use super::driver::Driver;
use super::ground::Ground;

/// Pause before a proposal is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl<G: Ground> Driver<'_, G> {
    /// Proposes a record that may be repeated, until there is an answer.
    pub(super) async fn propose(&mut self, record: LogRecord) -> Result<(LogId, Verdict), Failure> {
        loop {
            let patience = self.order.patience.saturating_sub(self.moved.elapsed()).max(RETRY_PAUSE);
            let error = match tokio::time::timeout(patience, self.ground.propose(record.clone())).await {
                Ok(Ok(answer)) => {
                    self.moved = Instant::now();
                    return Ok(answer);
                }
                Ok(Err(error)) => error,
                Err(_) => ProposeError::Unknown { why: "a quorum has not acknowledged it in time".into() },
            };
            self.retry_or_give_up(&error).await?;
        }
    }

    /// The same for a record that seals: from its first unknown outcome on, so is the commit's.
    pub(super) async fn propose_seal(&mut self, record: LogRecord) -> Result<(LogId, Verdict), Failure> {
        loop {
            let patience = self.order.patience.saturating_sub(self.moved.elapsed()).max(RETRY_PAUSE);
            let error = match tokio::time::timeout(patience, self.ground.propose(record.clone())).await {
                Ok(Ok((position, Verdict::Accepted(Accepted::Sealed(sealed))))) => {
                    // Our own lost seal was the one that did it.
                    let already = sealed.already && !self.maybe;
                    return Ok((
                        position,
                        Verdict::Accepted(Accepted::Sealed(SealedEpoch { already, ..sealed })),
                    ));
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => ProposeError::Unknown { why: "a quorum has not acknowledged it in time".into() },
            };
            self.maybe |= !matches!(error, ProposeError::Unavailable { .. });
            self.retry_or_give_up(&error).await?;
        }
    }

    /// Waits until everything committed so far is applied here.
    pub(super) async fn barrier(&mut self) -> Result<(), Failure> {
        loop {
            match self.ground.read_barrier().await {
                Ok(_) => return Ok(()),
                Err(error) => self.retry_or_give_up(&error).await?,
            }
        }
    }

    pub(super) async fn retry_or_give_up(&mut self, error: &ProposeError) -> Result<(), Failure> {
        self.last_error = match error {
            ProposeError::Unavailable { why } | ProposeError::Unknown { why } => why.clone(),
            ProposeError::Fault { why } => {
                self.last_error = format!("node {} has a fault: {why}", self.ground.node());
                return Err(self.gave_up());
            }
        };
        // Another node may do better, and is asked at once.
        if let Some(cut_off) = self.ground.cut_off() {
            self.last_error = cut_off.why;
            return Err(self.gave_up());
        }
        if self.moved.elapsed() + RETRY_PAUSE >= self.order.patience {
            return Err(self.gave_up());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }
}
