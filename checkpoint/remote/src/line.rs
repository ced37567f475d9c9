//! The line to a store: one request after another until one is answered, or patience ends.
//!
//! The crate below retries nothing (its own loop gives up after three seconds of 503, knows no `Retry-After` and takes
//! its own success for a conflict). Here a try ends when nothing moves, requests pass the [`Gate`], and an error says
//! whether the store may have done what was asked.

mod failure;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep, sleep_until};

use crate::credentials::Reload;
use crate::error::{StoreError, Trouble};
use crate::gate::Gate;
use crate::limits::Limits;
use crate::secret::Mask;
use crate::tap::{Answering, Facts, Seen, watch};

pub(crate) use failure::{Failure, Kind};

/// First pause after a broken answer.
const BROKEN_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause after broken answers.
const BROKEN_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often *not what I got* is believed to be an accident on the way.
const GARBLED_TRIES: u32 = 3;

/// What all operations on one store share.
#[derive(Debug)]
pub(crate) struct Line {
    /// What the store is called in errors.
    pub name: String,
    pub limits: Limits,
    pub gate: Arc<Gate>,
    pub mask: Mask,
    pub reload: Option<Arc<dyn Reload>>,
}

/// How long one operation, of whatever many requests, has been waiting for a sign of life.
#[derive(Debug)]
pub(crate) struct Patience(Mutex<Signs>);

#[derive(Clone, Copy, Debug)]
struct Signs {
    // The store answered anything.
    answer: Instant,
    // The store did something, or bytes moved.
    progress: Instant,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        let now = Instant::now();
        Patience(Mutex::new(Signs { answer: now, progress: now }))
    }

    fn signs(&self) -> Signs {
        *self.0.lock().expect("no thread panics while it holds two instants")
    }

    fn note(&self, answered: bool, progressed: bool) {
        let now = Instant::now();
        let mut signs = self.0.lock().expect("no thread panics while it holds two instants");
        if answered {
            signs.answer = now;
        }
        if progressed {
            signs.progress = now;
        }
    }
}

impl Line {
    /// Sends one request. `out_bytes` is the length of its body.
    pub(crate) async fn once<T>(
        &self,
        out_bytes: u64,
        patience: &Patience,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<(T, Facts), Failure> {
        let pass = self.gate.enter().await;
        let sent = Instant::now();
        let credentials = self.reload.as_ref().map_or(0, |reload| reload.generation());
        let (call, seen) = watch(call);
        let result = self.until_quiet(out_bytes, &seen, call).await;
        let facts = seen.read();
        let mut failure = match result {
            Some(Ok(value)) => {
                patience.note(true, true);
                pass.went_well();
                return Ok((value, facts));
            }
            Some(Err(error)) => Failure::judge(&error, &facts, &self.mask),
            None => Failure::quiet(&facts),
        };
        failure.credentials = credentials;
        failure.sent = sent;
        patience.note(failure.answered, !failure.may_pass());
        match failure.kind {
            Kind::Busy => {
                let pause = facts.retry_after.map(|pause| pause.min(self.limits.retry_after_max));
                pass.was_busy(pause);
            }
            Kind::Broken => pass.broke(),
            _ => pass.went_well(),
        }
        Err(failure)
    }

    // `None` when nothing moved for too long.
    async fn until_quiet<F: Future>(&self, out_bytes: u64, seen: &Arc<Seen>, call: F) -> Option<F::Output> {
        tokio::pin!(call);
        let taking = |bytes: u64| {
            Duration::from_secs_f64(bytes as f64 / self.limits.bytes_per_second_min.max(1) as f64)
        };
        let quiet = self.limits.quiet;
        loop {
            let pulse = seen.pulse();
            let until = match pulse.answer {
                None => pulse.moved + quiet + taking(out_bytes),
                // An answer that drips moves, and is none.
                Some(Answering { begun, bytes, at_leisure: false }) => {
                    (pulse.moved + quiet).min(begun + quiet + taking(bytes))
                }
                Some(Answering { begun, at_leisure: true, .. }) => {
                    (pulse.moved + quiet).min(begun + self.limits.busy)
                }
            };
            if until <= Instant::now() {
                return None;
            }
            tokio::select! {
                biased;
                result = &mut call => return Some(result),
                () = sleep_until(until) => {}
            }
        }
    }

    /// Sends a request, which may be repeated, until it is answered: with what was asked for, or with something that
    /// repeating will not change.
    pub(crate) async fn until_answered<T, C, F>(
        &self,
        out_bytes: u64,
        patience: &Patience,
        mut call: C,
    ) -> Result<(T, Facts), Failure>
    where
        C: FnMut() -> F,
        F: Future<Output = object_store::Result<T>>,
    {
        let mut tries = Tries::default();
        loop {
            match self.once(out_bytes, patience, call()).await {
                Ok(done) => return Ok(done),
                Err(mut failure) => {
                    // These requests have no condition: a conflict is one of the store's own, and passes.
                    if failure.kind == Kind::Exists {
                        failure.kind = Kind::Broken;
                    }
                    self.again(failure, patience, &mut tries).await?;
                }
            }
        }
    }

    /// Waits until it makes sense to try once more.
    ///
    /// # Errors
    /// The failure itself when it makes none; then it is final, or patience has ended.
    pub(crate) async fn again(
        &self,
        failure: Failure,
        patience: &Patience,
        tries: &mut Tries,
    ) -> Result<(), Failure> {
        match failure.kind {
            Kind::Busy | Kind::Broken => {}
            Kind::Denied if self.may_be_let_in(&failure, tries) => return Ok(()),
            Kind::Garbled if tries.garbled + 1 < GARBLED_TRIES => {
                tries.garbled += 1;
                return Ok(());
            }
            _ => return Err(failure),
        }
        let signs = patience.signs();
        let limits = &self.limits;
        let failing = *tries.since.get_or_insert(failure.sent);
        // Only while something is asked can it be left without an answer: not while the source is read, nor in the
        // pause that the store asked for.
        let asked = match failure.answered {
            true => {
                tries.unanswered_since = None;
                Instant::now()
            }
            false => *tries.unanswered_since.get_or_insert(failure.sent),
        };
        let silence = signs.answer.max(asked);
        let silent = silence.elapsed() >= limits.unanswered;
        // Answers to other requests of the operation are progress of it, but not for ever.
        let progress = signs.progress.min(failing);
        if silent || progress.elapsed() >= limits.busy {
            let waited = if silent { silence } else { progress }.elapsed();
            return Err(failure.gave_up(waited));
        }
        // Busy: the gate keeps the pause.
        if failure.kind == Kind::Broken {
            tries.broken += 1;
            let pause = BROKEN_PAUSE_MIN.saturating_mul(1 << tries.broken.min(8)).min(BROKEN_PAUSE_MAX);
            let share = rand::rng().random_range(0.5..1.0);
            sleep(pause.mul_f64(share)).await;
        }
        Ok(())
    }

    /// Whether a request that was denied is to be sent once more, which is so once: with other credentials, or because
    /// it was not said what it was refused for.
    pub(crate) fn may_be_let_in(&self, failure: &Failure, tries: &mut Tries) -> bool {
        if std::mem::replace(&mut tries.reloaded, true) {
            return false;
        }
        let reloaded = self.reload.as_ref().is_some_and(|reload| reload.reload(failure.credentials));
        reloaded || failure.status == Some(400) && failure.code.is_none()
    }

    /// The error for who called.
    pub(crate) fn error(&self, what: impl AsRef<str>, failure: Failure) -> StoreError {
        let what = format!("store {:?}: {}", self.name, what.as_ref());
        let (trouble, advice) = match failure.kind {
            Kind::Missing => (
                Trouble::Missing,
                "nobody of this cluster deletes what is referenced: look for lifecycle rules of the bucket; \
                 a node that has the bytes can put them back",
            ),
            Kind::Denied => {
                (Trouble::Denied, failure.advice.unwrap_or("check the credentials and what they may do"))
            }
            Kind::Busy | Kind::Broken => (
                Trouble::Away,
                "check that the store is reachable from this machine, then repeat: repeating is safe",
            ),
            Kind::Garbled => (
                Trouble::Damaged,
                "something between this machine and the store changes bytes, or one of the two has bad memory",
            ),
            Kind::Exists => (
                Trouble::Foreign,
                "somebody else wrote there: is another cluster, or a copy of this one, using the same prefix?",
            ),
            Kind::Refused => (
                Trouble::Refused,
                failure.advice.unwrap_or("check the store's configuration; repeating will not help"),
            ),
        };
        StoreError::new(trouble, what, failure.why, advice)
    }
}

/// What one request has been through.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    // When it failed first.
    since: Option<Instant>,
    // When that was sent since which nothing was answered.
    unanswered_since: Option<Instant>,
    broken: u32,
    garbled: u32,
    reloaded: bool,
}
