//! Signals for work that leaves nothing half done: Ctrl-C, SIGTERM and SIGHUP tell it to end, and it cleans up. A second
//! one ends the process at once.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use checkpoint::restore::Stop;
use client::{Code, Failure};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{self, Exit};

/// The one that came, 0 before.
static HEARD: AtomicI32 = AtomicI32::new(0);
/// Who waits for longer is told what for.
const PATIENCE: Duration = Duration::from_millis(900);
/// How often a wait looks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Those that end the work.
const ENDING: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// Sets `stop` when one comes. The task ends with the first; `busy` says then what is still to be done.
///
/// # Errors
/// The system takes no handlers.
pub fn listen(stop: &Stop, busy: &'static str) -> std::io::Result<tokio::task::JoinHandle<()>> {
    // Beyond `ulimit -f` a write shall be an error, not the end of the process.
    let mut too_large = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    tokio::spawn(async move { while too_large.recv().await.is_some() {} });
    let (came, mut comes) = tokio::sync::mpsc::unbounded_channel();
    for kind in ending() {
        let mut signals = signal(SignalKind::from_raw(kind.as_raw()))?;
        let came = came.clone();
        tokio::spawn(async move {
            // It fails once nobody listens any more.
            while signals.recv().await.is_some() && came.send(kind.as_raw()).is_ok() {}
        });
    }
    let stop = stop.clone();
    Ok(tokio::spawn(async move {
        let Some(first) = comes.recv().await else { return };
        HEARD.store(first, Ordering::Release);
        stop.set();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            eprintln!("{busy}; once more to leave it as it is");
        });
        tokio::spawn(async move {
            if let Some(second) = comes.recv().await {
                std::process::exit(exit::by_signal(second));
            }
        });
    }))
}

/// Comes with the first of them, for work that has nothing to clean up.
pub async fn comes() {
    let (came, mut comes) = tokio::sync::mpsc::unbounded_channel();
    for kind in ending() {
        // One that cannot be handled ends the process by itself.
        let Ok(mut signals) = signal(SignalKind::from_raw(kind.as_raw())) else { continue };
        let came = came.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                // Nobody listens any more once one has come.
                let _ = came.send(kind.as_raw());
            }
        });
    }
    drop(came);
    match comes.recv().await {
        Some(first) => HEARD.store(first, Ordering::Release),
        None => std::future::pending().await,
    }
}

/// Whoever was started by `nohup` shall outlive its terminal.
fn ending() -> impl Iterator<Item = Signal> {
    ENDING.into_iter().filter(|kind| *kind != Signal::HUP || !is_ignored(*kind))
}

fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// Comes once `stop` is set.
pub async fn is_set(stop: &Stop) {
    while !stop.is_set() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The exit code of a command that was interrupted, by the signal that did it.
pub fn exit_code() -> i32 {
    match HEARD.load(Ordering::Acquire) {
        0 => Exit::Interrupted.code(),
        heard => exit::by_signal(heard),
    }
}

/// The failure of work that a signal has ended.
pub fn interrupted(sentence: &str, what: &str) -> Failure {
    let why = match HEARD.load(Ordering::Acquire) {
        heard if heard == Signal::TERM.as_raw() => "SIGTERM came",
        heard if heard == Signal::HUP.as_raw() => "SIGHUP came",
        _ => "Ctrl-C was pressed",
    };
    Failure::new(Code::Interrupted, sentence).what(what).why(why).fix("repeat the command")
}
