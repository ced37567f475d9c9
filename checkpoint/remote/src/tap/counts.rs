//! How much was asked of a store.

use std::sync::atomic::{AtomicU64, Ordering};

use super::verb::Verb;

/// Requests sent, by verb, and bytes of bodies.
#[derive(Debug, Default)]
pub struct Counts {
    requests: [AtomicU64; Verb::ALL.len()],
    successes: [AtomicU64; Verb::ALL.len()],
    failures: [AtomicU64; Verb::ALL.len()],
    answers: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Counts {
    pub(super) fn sent(&self, verb: Verb, body_bytes: u64) {
        self.requests[verb as usize].fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(body_bytes, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, verb: Verb, is_success: bool) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.ended(verb, is_success);
    }

    /// A request has ended: with an answer, or because it was cut, or nobody waited any longer.
    pub(super) fn ended(&self, verb: Verb, is_success: bool) {
        let ended = if is_success { &self.successes } else { &self.failures };
        ended[verb as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// An answer of what is asked without requests: a folder.
    pub(crate) fn heard(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Requests of one verb.
    pub fn requests(&self, verb: Verb) -> u64 {
        self.requests[verb as usize].load(Ordering::Relaxed)
    }

    /// Requests of one verb that were answered with success.
    pub fn successes(&self, verb: Verb) -> u64 {
        self.successes[verb as usize].load(Ordering::Relaxed)
    }

    /// Requests of one verb that ended otherwise. Never falls: what is under way is in neither.
    pub fn failures(&self, verb: Verb) -> u64 {
        self.failures[verb as usize].load(Ordering::Relaxed)
    }

    /// Answers of any kind, those of a folder too: they grow as long as the store says anything.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Requests that change the store.
    pub fn writes(&self) -> u64 {
        Verb::ALL.into_iter().filter(|verb| verb.writes()).map(|verb| self.requests(verb)).sum()
    }

    /// Bytes of request bodies.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of response bodies.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}
