//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Rows against which every other is put as a ratio, within its own round.
const YARDSTICKS: [&str; 2] = ["direct x3", "rsync"];

/// The seconds of every row in one round.
type Round = BTreeMap<String, f64>;

/// Everything that a run measured.
pub struct Report {
    machine: Value,
    notes: Vec<String>,
    /// Section, bytes, and the seconds of each row round by round.
    rounds: Vec<(String, u64, Vec<Round>)>,
    values: Vec<(String, String, Vec<f64>, String)>,
    compared: Vec<Compared>,
}

/// A row of this build beside another.
struct Compared {
    section: String,
    row: String,
    /// Round by round.
    now: Vec<f64>,
    before: Vec<f64>,
    /// Of now to before, and the ends of its 95 % interval.
    ratio: [f64; 3],
}

impl Report {
    /// An empty report of this machine.
    pub fn new(dir: &Path, seed: u64, quick: bool) -> Report {
        let line = |path: &str, key: &str| -> String {
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            found.split_once(':').map_or(found, |(_, rest)| rest).trim().to_owned()
        };
        let system = rustix::system::uname();
        let machine = json!({
            "cpu": line("/proc/cpuinfo", "model name"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memory": line("/proc/meminfo", "MemTotal"),
            "kernel": system.release().to_string_lossy(),
            "file_system": file_system(dir),
            "seed": seed,
            "quick": quick,
        });
        Report { machine, notes: Vec::new(), rounds: Vec::new(), values: Vec::new(), compared: Vec::new() }
    }

    /// Something a reader must know.
    pub fn note(&mut self, text: &str) {
        eprintln!("note: {text}");
        self.notes.push(text.to_owned());
    }

    /// The seconds of all contenders in one round.
    pub fn round(&mut self, section: &str, bytes: u64, seconds: Round) {
        let words: Vec<_> = seconds.iter().map(|(name, seconds)| format!("{name} {seconds:.3}")).collect();
        eprintln!("  {}", words.join("; "));
        match self.rounds.iter_mut().find(|(name, _, _)| name == section) {
            Some((_, _, rounds)) => rounds.push(seconds),
            None => self.rounds.push((section.to_owned(), bytes, vec![seconds])),
        }
    }

    /// Something that is not a time of a round.
    pub fn value(&mut self, section: &str, name: &str, values: &[f64], unit: &str) {
        eprintln!("  {name}: {values:.3?} {unit}");
        self.values.push((section.to_owned(), name.to_owned(), values.to_owned(), unit.to_owned()));
    }

    /// A row of this build beside another: the values of each round, and the ratio with its 95 % interval.
    pub fn compared(&mut self, section: &str, row: &str, rounds: [Vec<f64>; 2], ratio: [f64; 3]) {
        let [now, before] = rounds;
        self.compared.push(Compared { section: section.to_owned(), row: row.to_owned(), now, before, ratio });
    }

    /// The tables.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line =
            |text: String| writeln!(out, "{}", text.trim_end()).expect("a string takes all that is written");
        let machine = |key: &str| {
            self.machine[key].as_str().map_or_else(|| self.machine[key].to_string(), str::to_owned)
        };
        line(format!(
            "{}, {} cores, {}, Linux {}, {}; three nodes on this machine, one disk",
            machine("cpu"),
            machine("cores"),
            machine("memory"),
            machine("kernel"),
            machine("file_system")
        ));
        self.notes.iter().for_each(|note| line(format!("note: {note}")));
        for (section, bytes, rounds) in &self.rounds {
            line(format!(
                "\n{section} ({:.1} MiB, {} rounds)",
                *bytes as f64 / f64::from(1 << 20),
                rounds.len()
            ));
            line(format!(
                "  {:<22}{:>9}{:>9}{:>9}{:>9}{:>11}{:>10}",
                "", "median s", "min", "max", "MiB/s", "x direct", "x rsync"
            ));
            for name in names(rounds) {
                let seconds = column(rounds, |round| round.get(&name).copied());
                let rate = *bytes as f64 / f64::from(1 << 20) / median(&seconds);
                let [direct, rsync] = YARDSTICKS.map(|yard| match ratios(rounds, yard, &name) {
                    found if found.is_empty() => "-".to_owned(),
                    found => format!("{:.2}", median(&found)),
                });
                let (low, high) = (
                    seconds.iter().copied().fold(f64::INFINITY, f64::min),
                    seconds.iter().copied().fold(0.0, f64::max),
                );
                line(format!(
                    "  {name:<22}{:>9.3}{low:>9.3}{high:>9.3}{rate:>9.0}{direct:>11}{rsync:>10}",
                    median(&seconds)
                ));
            }
            self.values
                .iter()
                .filter(|(of, _, _, _)| of == section)
                .for_each(|value| line(value_line(value)));
        }
        let mut section = "";
        for value in
            self.values.iter().filter(|(of, _, _, _)| !self.rounds.iter().any(|(name, _, _)| name == of))
        {
            if value.0 != section {
                section = &value.0;
                line(format!("\n{section}"));
            }
            line(value_line(value));
        }
        let mut section = "";
        for Compared { section: of, row, now, before, ratio: [ratio, low, high] } in &self.compared {
            if of != section {
                section = of;
                line(format!("\n{section}, {} paired rounds", now.len()));
                line(format!("  {:<24}{:>10}{:>10}{:>8}   95 %", "", "now", "before", "ratio"));
            }
            let (now, before) = (median(now), median(before));
            line(format!("  {row:<24}{now:>10.3}{before:>10.3}{ratio:>8.3}   {low:.3} to {high:.3}"));
        }
        if !self.compared.is_empty() {
            line("\nmedians; the ratio is that of now to before, below 1 where now is better: mean over the rounds".into());
            return out;
        }
        line(
            "\nx direct, x rsync: speed as a multiple of that row's, median of the ratios of each round"
                .into(),
        );
        out
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let sections: Vec<_> = self
            .rounds
            .iter()
            .map(|(section, bytes, rounds)| {
                let rows: BTreeMap<_, _> = names(rounds)
                    .into_iter()
                    .map(|name| {
                        let seconds = column(rounds, |round| round.get(&name).copied());
                        let speed: BTreeMap<_, _> = YARDSTICKS
                            .iter()
                            .map(|yard| (yard.to_string(), ratios(rounds, yard, &name)))
                            .collect();
                        let row =
                            json!({"median_s": median(&seconds), "rounds_s": seconds, "speed_over": speed});
                        (name, row)
                    })
                    .collect();
                json!({"section": section, "bytes": bytes, "rows": rows})
            })
            .collect();
        let values: Vec<_> = self
            .values
            .iter()
            .map(|(section, name, values, unit)| json!({"section": section, "name": name, "values": values, "unit": unit}))
            .collect();
        let compared: Vec<_> = self
            .compared
            .iter()
            .map(|Compared { section, row, now, before, ratio: [ratio, low, high] }| {
                json!({"section": section, "row": row, "now": now, "before": before,
                    "ratio": ratio, "low": low, "high": high})
            })
            .collect();
        json!({
            "machine": self.machine,
            "notes": self.notes,
            "sections": sections,
            "values": values,
            "compared": compared,
        })
    }
}

fn value_line((_, name, values, unit): &(String, String, Vec<f64>, String)) -> String {
    let numbers: Vec<_> = values.iter().map(|value| format!("{value:.2}")).collect();
    format!("  {name}: {} {unit}", numbers.join(" / "))
}

fn names(rounds: &[Round]) -> Vec<String> {
    let mut names: Vec<String> = rounds.iter().flat_map(|round| round.keys().cloned()).collect();
    names.sort();
    names.dedup();
    names
}

fn column(rounds: &[Round], value: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
    rounds.iter().filter_map(value).collect()
}

/// How many times faster `name` was than `yardstick`, round by round.
fn ratios(rounds: &[Round], yardstick: &str, name: &str) -> Vec<f64> {
    column(rounds, |round| Some(round.get(yardstick)? / round.get(name)?))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// Type of the file system that holds `dir`, by the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    mounts
        .filter(|(at, _)| dir.starts_with(at))
        .max_by_key(|(at, _)| at.len())
        .map_or("unknown".into(), |(_, kind)| kind)
}
