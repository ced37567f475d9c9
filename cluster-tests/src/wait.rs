//! Waiting for conditions with a deadline: no test sleeps and hopes.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Polls `look` until it gives `Ok`, at most for `limit`; the last `Err` says
/// what the state was when time ran out.
///
/// # Panics
/// When the condition does not hold in time; the message names it and the last state.
pub fn wait_until<T, E: Display>(limit: Duration, what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    match try_until(limit, look) {
        Ok(value) => value,
        Err(last) => panic!("waited {limit:?} for {what}; the last state was: {last}"),
    }
}

/// As [`wait_until`], handing back the last state instead of panicking.
///
/// # Errors
/// The last state, when time ran out.
pub fn try_until<T, E>(limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => return Err(last),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let seen = wait_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            if looks >= 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(seen, 3);
    }

    #[test]
    fn a_condition_that_never_holds_gives_its_last_state() {
        let got: Result<(), _> = try_until(Duration::from_millis(50), || Err("still red"));
        assert_eq!(got, Err("still red"));
    }
}
