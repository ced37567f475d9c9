//! Log time: while attempts are open, the leader writes a Tick every few seconds with the
//! milliseconds of its *monotonic* clock since its previous one. Wall clocks decide nothing.
//!
//! A new leader starts counting when it begins to lead: the time between two leaders is not
//! counted, so log time never runs faster than real time.

use std::sync::Arc;
use std::time::Instant;

use nativelog::compose;
use nativelog::ledger::TICK_MS_MAX;

use crate::propose::Proposer;

/// Writes log time while this node leads.
pub(crate) async fn run(proposer: Arc<Proposer>) {
    let mut leaders = proposer.leading.watch();
    let mut counted: Option<(u64, Instant)> = None;
    loop {
        let leadership = leaders.borrow_and_update().clone();
        match leadership {
            None => counted = None,
            Some(leadership) => {
                let term = leadership.lead().term;
                let idle = proposer.machine.ledger().attempts().next().is_none();
                let since = counted.filter(|(of, _)| *of == term).map(|(_, at)| at);
                match since {
                    _ if idle => counted = None,
                    None => counted = Some((term, Instant::now())),
                    Some(at) => {
                        let read = Instant::now();
                        let elapsed = u64::try_from(read.duration_since(at).as_millis()).unwrap_or(u64::MAX);
                        let record = compose::tick(elapsed.min(TICK_MS_MAX));
                        match proposer.propose_tied(&leadership, &record).await {
                            Ok(_) => counted = Some((term, read)),
                            Err(why) => tracing::debug!(%why, "a tick did not get through"),
                        }
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(proposer.config.tick) => {}
            changed = leaders.changed() => if changed.is_err() { return },
        }
    }
}
