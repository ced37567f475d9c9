//! How many bytes of large records may be on their way: about a second's worth of what was answered lately, and a moment's
//! worth while small epochs are committed beside them.
//!
//! What is proposed enters the log in order, and a small record waits behind all that is proposed before it. Bounded in
//! bytes alone, that is a minute on a thin link; bounded by what came through lately, it is a second or two on any. Each
//! answer is a sample: what was answered altogether while its record was on its way, over the time that took. A link or
//! disk that does more than it is given shows in the next sample, so a burst soon has all it can use.
//!
//! But for one whose answers take long however little is out: a disk with slow syncs. With one chunk out it looks like a
//! thin link, and would stay at a chunk for each answer. So it is tried: now and then, when a chunk or a few are all that
//! may be out, some more are let out. Where the answers then take as much longer, it is the bytes, and all stays as it
//! was for a minute; where they do not, it is latency, and what comes through in that time may be out on top.
//!
//! **Never.** A trial begins where an answer takes longer than [`TRIAL`] for its bytes, as far as is known: small records
//! would wait twice as long. (What a small record takes with nothing before it is not for the bytes.)

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So much time's worth may be out.
const WORTH: Duration = Duration::from_secs(1);
/// The same while somebody waits behind it. Two of the records that are large because of their number, as pages of a plan
/// are, always may: one is worked on while the other travels.
const WORTH_BESIDE: Duration = Duration::from_millis(10);
/// A sample counts for so long.
const LATELY: Duration = Duration::from_secs(5);
/// At least so much may be out, in bytes: a chunk of the usual size.
const LEAST: u64 = (1 << 20) + (64 << 10);

/// Answers that take longer than this for their bytes are not tried to be had for more.
const TRIAL: Duration = Duration::from_millis(1250);
/// Only so few bytes: a step of one record is large for them. More grow by themselves.
const TRIAL_BYTES: u64 = 4 * LEAST;
/// Answers that make a trial, and those before it that it is compared with.
const ENOUGH: usize = 2;
/// Pause after a trial that found latency, or nothing.
const AGAIN: Duration = Duration::from_secs(10);
/// Pause after one that found a thin link.
const AGAIN_THIN: Duration = Duration::from_secs(60);

/// What was answered lately.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    answered: u64,
    /// When, and bytes a second. Only those that no later one outdoes: they fall.
    samples: VecDeque<(Instant, u64)>,
    /// The last answers, and when they came; none of a trial.
    answers: VecDeque<(Instant, Answer)>,
    /// What an answer takes however little is out, as far as it is known.
    latency: Duration,
    /// What the last small record took that had no large one before it.
    alone: Duration,
    trial: Option<Trial>,
    /// No trial before this.
    rest: Option<Instant>,
}

/// A record on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    at: Instant,
    answered: u64,
}

/// How long an answer took, and what was answered altogether in that time, in bytes.
#[derive(Debug, Clone, Copy)]
struct Answer {
    took: Duration,
    bytes: u64,
}

impl Answer {
    fn mean<'a>(answers: impl ExactSizeIterator<Item = &'a Answer>) -> Option<Answer> {
        let count = u32::try_from(answers.len()).ok().filter(|count| *count > 0)?;
        let (took, bytes) = answers
            .fold((Duration::ZERO, 0u64), |all, one| (all.0 + one.took, all.1.saturating_add(one.bytes)));
        Some(Answer { took: took / count, bytes: bytes / u64::from(count) })
    }
}

/// More is out than should be, to see what becomes of it.
#[derive(Debug)]
struct Trial {
    until: Instant,
    before: Answer,
    /// So much may be out.
    bound: u64,
    answers: Vec<Answer>,
}

impl Rate {
    /// A record leaves now.
    pub fn sent(&self, at: Instant) -> Sent {
        Sent { at, answered: self.answered }
    }

    /// A large record of `bytes` was answered.
    pub fn answered(&mut self, sent: Sent, bytes: u64, at: Instant) {
        self.answered = self.answered.saturating_add(bytes);
        let took = at.saturating_duration_since(sent.at).max(Duration::from_millis(1));
        let answer = Answer { took, bytes: self.answered - sent.answered };
        let rate = u64::try_from(u128::from(answer.bytes) * 1000 / took.as_millis()).unwrap_or(u64::MAX);
        while self.samples.back().is_some_and(|(_, lower)| *lower <= rate) {
            self.samples.pop_back();
        }
        self.samples.push_back((at, rate));
        self.latency = self.latency.min(took);
        match &mut self.trial {
            None => {
                self.answers.push_back((at, answer));
                if self.answers.len() > ENOUGH {
                    self.answers.pop_front();
                }
            }
            // One that left with no more before it than before says nothing.
            Some(trial) if answer.bytes / 5 < trial.before.bytes / 4 => {}
            Some(trial) => {
                trial.answers.push(answer);
                if let Some(found) = trial.found() {
                    let thin = found < trial.before.took / 2;
                    self.latency = found;
                    self.end_trial(at + if thin { AGAIN_THIN } else { AGAIN });
                }
            }
        }
    }

    /// A small record was answered that had no large one before it.
    pub fn answered_alone(&mut self, sent: Sent, at: Instant) {
        self.alone = at.saturating_duration_since(sent.at);
    }

    /// Whether so many bytes, those of a record that wants to leave included, may be out, with small epochs `beside` them.
    pub fn allows(&mut self, out: u64, record: u64, beside: bool, at: Instant) -> bool {
        let bound = match beside {
            true => self.worth(WORTH_BESIDE, at).max((2 * record).min(LEAST)),
            false => self.worth(WORTH, at).max(LEAST),
        };
        out <= bound || out <= self.tried(record, bound, at)
    }

    /// What is answered in so much time, in bytes.
    fn worth(&mut self, time: Duration, at: Instant) -> u64 {
        while self.samples.front().is_some_and(|(when, _)| at.saturating_duration_since(*when) >= LATELY) {
            self.samples.pop_front();
        }
        let rate = self.samples.front().map_or(0, |(_, rate)| *rate);
        let worth = u128::from(rate) * (time + self.latency).as_millis() / 1000;
        u64::try_from(worth).unwrap_or(u64::MAX)
    }

    /// Bytes that may be out in a trial. Begins one when it is time and a record of so many bytes wants to leave.
    fn tried(&mut self, record: u64, bound: u64, at: Instant) -> u64 {
        if self.trial.as_ref().is_some_and(|trial| at >= trial.until) {
            // Too little was proposed to tell.
            self.end_trial(at + AGAIN);
        }
        if self.trial.is_none() && self.rest.is_none_or(|rest| at >= rest) {
            // Those that take long come rarely.
            self.answers.retain(|(when, _)| at.saturating_duration_since(*when) < LATELY + self.alone);
            let before = Answer::mean(self.answers.iter().map(|(_, answer)| answer));
            self.trial = before.filter(|_| self.answers.len() == ENOUGH).and_then(|before| {
                let for_bytes = before.took.saturating_sub(self.alone.max(self.latency));
                let tried = for_bytes <= TRIAL && before.bytes <= TRIAL_BYTES;
                let bound = bound.max(before.bytes);
                let bound = bound.saturating_add(record.max(bound / 2));
                let until = at + LATELY + before.took * 4;
                tried.then_some(Trial { until, before, bound, answers: Vec::new() })
            });
        }
        self.trial.as_ref().map_or(0, |trial| trial.bound)
    }

    fn end_trial(&mut self, rest: Instant) {
        self.trial = None;
        self.answers.clear();
        self.rest = Some(rest);
    }
}

impl Trial {
    /// The latency, when there are answers enough: two points of a line, and what is left of it where nothing is out.
    fn found(&self) -> Option<Duration> {
        let after = Answer::mean(self.answers.iter()).filter(|_| self.answers.len() >= ENOUGH)?;
        let longer = after.took.saturating_sub(self.before.took);
        let more = after.bytes.saturating_sub(self.before.bytes).max(1);
        let for_bytes = longer.as_secs_f64() * (self.before.bytes as f64 / more as f64);
        let took = self.before.took;
        Some(took.saturating_sub(Duration::try_from_secs_f64(for_bytes).unwrap_or(took)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What came through, and the most that was out, in bytes; and for how much of the time more than a chunk was.
    struct Run {
        through: u64,
        most: u64,
        more_than_one: Duration,
    }

    /// Sends chunks as fast as the bound allows over a link of `rate` bytes a second with this delay, for `time`.
    fn run(rate: &mut Rate, begin: Instant, link: u64, delay: Duration, time: Duration) -> Run {
        let mut out: VecDeque<(Instant, Sent)> = VecDeque::new();
        let (mut now, mut free) = (begin, begin);
        let mut run = Run { through: 0, most: 0, more_than_one: Duration::ZERO };
        while now < begin + time {
            while out.is_empty() || rate.allows((out.len() as u64 + 1) * MIB, MIB, false, now) {
                free = free.max(now) + Duration::from_millis(MIB * 1000 / link);
                out.push_back((free + delay, rate.sent(now)));
            }
            run.most = run.most.max(out.len() as u64 * MIB);
            let more = out.len() > 1;
            let (at, sent) = out.pop_front().unwrap();
            run.more_than_one += if more { at.saturating_duration_since(now) } else { Duration::ZERO };
            now = now.max(at);
            rate.answered(sent, MIB, now);
            run.through += MIB;
        }
        run
    }

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    #[test]
    fn a_thin_link_has_a_chunk_on_its_way_and_is_full_all_the_same() {
        let minute = Duration::from_secs(60);
        let run = run(&mut Rate::default(), Instant::now(), 600_000, ms(20), minute);
        assert_eq!(run.most, MIB);
        assert!(run.through >= 60 * 550_000, "{}", run.through);
    }

    #[test]
    fn a_link_of_a_chunk_a_second_is_tried_once_in_a_while_and_found_thin() {
        let mut rate = Rate::default();
        let run = run(&mut rate, Instant::now(), 1_250_000, ms(20), Duration::from_secs(180));
        assert_eq!(run.most, 2 * MIB, "small records wait two seconds at the very most");
        assert!(run.more_than_one < Duration::from_secs(12), "{:?}", run.more_than_one);
        assert!(rate.latency < ms(100), "{:?}", rate.latency);
        assert!(run.through >= 180 * 1_150_000, "{}", run.through);
    }

    #[test]
    fn a_fast_link_is_used_within_a_moment() {
        let run = run(&mut Rate::default(), Instant::now(), 200 * MIB, ms(5), ms(1000));
        assert!(run.through >= 190 * MIB, "{}", run.through);
        assert!(run.most <= 210 * MIB, "{}", run.most);
    }

    #[test]
    fn a_disk_whose_answers_take_long_has_more_on_its_way() {
        for delay in [300, 500, 700, 1000, 1200] {
            let seconds = Duration::from_secs;
            let (mut rate, begin) = (Rate::default(), Instant::now());
            let first = run(&mut rate, begin, 100 * MIB, ms(delay), seconds(20));
            assert!(first.through >= 200 * MIB, "{delay} ms: {} MiB", first.through / MIB);
            // Latency of the disk, and a second for the bytes.
            assert!(first.most <= 250 * MIB, "{delay} ms: {} MiB", first.most / MIB);
            // Nor does a pause make it forget.
            let again = run(&mut rate, begin + seconds(40), 100 * MIB, ms(delay), seconds(20));
            assert!(again.through >= 200 * MIB, "{delay} ms, again: {} MiB", again.through / MIB);
        }
    }

    #[test]
    fn small_records_tell_that_it_is_not_the_bytes() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        rate.answered_alone(rate.sent(begin), begin + ms(2900));
        let slow = run(&mut rate, begin, 100 * MIB, ms(3000), Duration::from_secs(120));
        assert!(slow.through >= 600 * MIB, "{} MiB", slow.through / MIB);
    }

    #[test]
    fn a_link_that_becomes_thin_is_believed_in_seconds() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        run(&mut rate, begin, 100 * MIB, ms(5), Duration::from_secs(1));
        assert!(rate.allows(50 * MIB, MIB, false, begin + Duration::from_secs(1)));
        assert!(!rate.allows(2 * MIB, MIB, false, begin + Duration::from_secs(10)));
    }

    #[test]
    fn a_slow_disk_behind_a_link_that_becomes_thin_has_little_on_its_way_again() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        run(&mut rate, begin, 100 * MIB, ms(1000), Duration::from_secs(20));
        let seconds = Duration::from_secs;
        let thin = run(&mut rate, begin + seconds(30), 1_250_000, ms(20), seconds(30));
        assert!(thin.most <= 3 * MIB, "{} MiB", thin.most / MIB);
        let known = run(&mut rate, begin + seconds(60), 1_250_000, ms(20), seconds(30));
        assert_eq!(known.most, MIB, "it was tried again, and found thin");
    }
}
