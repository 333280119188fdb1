//! Waiting with a deadline: the only place where a test may look at something again and again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a change may take to arrive before a test gives up. Generous: a miss is a failure, not a figure.
pub const ARRIVAL_DEADLINE: Duration = Duration::from_secs(20);

const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Looks until `check` returns `Ok(Some(value))`, at most for `deadline`.
///
/// # Errors
/// Past the deadline: `what` together with the last error or "not yet" of `check`.
pub fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::from("not yet"),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > deadline {
            bail!("not within {:.1} s: {what} (last look: {last})", deadline.as_secs_f64());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Looks until `check` returns `Ok(true)`, at most for [`ARRIVAL_DEADLINE`].
///
/// # Errors
/// Past the deadline, see [`eventually_within`].
pub fn eventually(what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually_within(ARRIVAL_DEADLINE, what, || Ok(check()?.then_some(())))
}
