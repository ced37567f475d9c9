//! The stories, in their short form, against real processes; see `cluster_tests::scenario` for what they assert, and
//! the program `trial` for their long forms.
//!
//! `EPOCHLOG_SEED=N` replays; `EPOCHLOG_KEEP=1` keeps the folders.

mod bars;
mod damage;
mod durability;
mod forgetting;
mod full_disk;
mod identical;
mod kills;
mod readme;
mod refusals;

use cluster_tests::scenario::{alone, among_others};
use cluster_tests::seed::{Replay, Rng, run_seed};

/// Runs one story, with its seed.
fn story(name: &str, tell: impl FnOnce(&mut Rng)) {
    let _machine = among_others();
    told(name, tell);
}

/// Runs one story that measures, alone.
fn measured_story(name: &str, tell: impl FnOnce(&mut Rng)) {
    let _machine = alone();
    told(name, tell);
}

fn told(name: &str, tell: impl FnOnce(&mut Rng)) {
    let seed = run_seed();
    let _replay = Replay::of_test(name, seed);
    let begun = std::time::Instant::now();
    tell(&mut Rng::new(seed, name));
    eprintln!("{name}: {:.1?}", begun.elapsed());
}

/// Progress of a story goes where the test harness keeps output.
fn say(line: String) {
    eprintln!("{line}");
}
